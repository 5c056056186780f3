//! The view service: who is primary, who is backup, one truth.
//!
//! - [`assignment`]: every decision, pure
//! - [`raft`]: the log that keeps them; [`home`]: the data directory that it is in
//! - [`monitor`]: the one task that owns them and tells everybody
//! - [`api`]: the gRPC services; [`calls`] counts what they handle
//! - [`config`]: the command line, validated

pub mod api;
pub mod assignment;
pub mod calls;
pub mod config;
pub mod home;
pub mod monitor;
pub mod raft;

use std::sync::Arc;

use anyhow::Context;
use kvprocess::listen::Listeners;
use kvprocess::serve::CallLimits;
use kvprocess::{clock, machine, serve};
use kvproto::pb;
use kvproto::pb::legacy::view_service_server::ViewServiceServer as LegacyServer;
use kvproto::pb::viewservice::registration_server::RegistrationServer;
use kvproto::pb::viewservice::view_service_server::ViewServiceServer;
use tokio_util::sync::CancellationToken;
use tonic_reflection::server::Builder as Reflection;
use tracing::info;

use crate::api::Api;
use crate::calls::Calls;
use crate::home::Home;

/// What the calls of clients may hold: views and their settings are small. Registrations are streams
/// of our own servers, which last as long as a server lives.
const CALL_LIMITS: CallLimits = CallLimits {
    bytes_max: 128 << 20,
    connection_bytes_max: 16 << 20,
    exempt: &["/viewservice.Registration/"],
};

/// Messages to the view service are small: names, numbers, a short reason.
const MESSAGE_SIZE_MAX: usize = 1 << 20;

/// Serves the cluster of this directory on these listeners until the token is cancelled.
///
/// # Errors
/// When the server cannot run, or cannot keep what it decides.
pub async fn run(home: Home, listeners: Listeners, token: CancellationToken) -> anyhow::Result<()> {
    let Home { dir, log, state } = home;
    info!(
        "cluster {}, view {}, in {}",
        state.view().cluster,
        state.view().number,
        dir.path().display()
    );
    let stop = token.child_token();
    let monitor = monitor::start(log, state, clock::now(), stop.clone());
    let api = Api::new(monitor.handle, Arc::new(Calls::default()), stop.clone());

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ViewServiceServer<Api>>().await;
    let descriptors = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = serve::builder(CALL_LIMITS)
        .add_service(
            ViewServiceServer::new(api.clone()).max_decoding_message_size(MESSAGE_SIZE_MAX),
        )
        .add_service(LegacyServer::new(api.clone()).max_decoding_message_size(MESSAGE_SIZE_MAX))
        .add_service(RegistrationServer::new(api).max_decoding_message_size(MESSAGE_SIZE_MAX))
        .add_service(health_service)
        .add_service(descriptors().build_v1().context("build reflection v1")?)
        .add_service(descriptors().build_v1alpha().context("build reflection v1alpha")?);
    let places = machine::connections_max(serve::CONNECTIONS_MAX);
    let serving = serve::serve(router, listeners, places, None, stop.clone());
    let mut monitor = monitor.task;
    tokio::pin!(serving);
    let (ended, kept) = tokio::select! {
        ended = &mut serving => {
            stop.cancel();
            (ended, monitor.await)
        }
        // Without its monitor the service would answer with old views for ever.
        kept = &mut monitor => {
            stop.cancel();
            (serving.await, kept)
        }
    };
    let kept = kept.context("the monitor failed")?;
    if matches!(&kept, Err(failed) if failed.is_hanging_disk()) {
        // Nobody else has the directory before this process ends.
        std::mem::forget(dir);
    }
    kept?;
    ended.context("serve gRPC")
}
