//! The doors: every gRPC service that a server offers on its one port, and beside them
//! [`replication`]. Shell: forms, limits and deadlines; what a request does is the node's business.

mod deadline;
mod dumped;
mod grpc;
mod limited;
mod meeting;
pub mod replication;

use anyhow::Context;
use kvprocess::serve::{CallLimits, Metering};
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::pb::kvserver::kv_server_server::KvServerServer;
use kvproto::pb::legacy::kv_server_server::KvServerServer as LegacyKvServerServer;
use kvproto::pb::replication::meeting_server::MeetingServer;
use kvproto::{LifeId, pb};
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::node::NodeHandle;
use grpc::ClientDoor;
use limited::Limited;
use meeting::MeetingDoor;

/// The name under which health says whether this server is a primary that serves.
const PRIMARY_HEALTH: &str = "kvserver.KVServer";

/// All gRPC services of the server that is this life, and the reporter that [`keep_health`] needs.
///
/// # Errors
/// When the descriptors for reflection cannot be read, which only a broken build can cause.
pub fn services(
    node: &NodeHandle,
    life: LifeId,
    calls: CallLimits,
) -> anyhow::Result<(Router<Metering>, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let clients = ClientDoor::new(node.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = kvprocess::serve::builder(calls)
        .add_service(Limited::new(
            KvServerServer::new(clients.clone()).max_encoding_message_size(MESSAGE_SIZE_MAX),
            node.clone(),
            KvServerServer::max_decoding_message_size,
        ))
        .add_service(Limited::new(
            LegacyKvServerServer::new(clients).max_encoding_message_size(MESSAGE_SIZE_MAX),
            node.clone(),
            LegacyKvServerServer::max_decoding_message_size,
        ))
        .add_service(MeetingServer::new(MeetingDoor(life)))
        .add_service(health)
        .add_service(reflection().build_v1().context("build reflection")?)
        .add_service(reflection().build_v1alpha().context("build the older reflection")?);
    Ok((router, reporter))
}

/// Keeps the health of the primary's service in step with the node, for as long as that lives. The
/// server as a whole (the empty name) is healthy while it answers at all.
pub async fn keep_health(reporter: HealthReporter, node: NodeHandle) {
    let mut standing = node.watch();
    loop {
        let acting = standing.borrow_and_update().acting;
        let status = if acting { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(PRIMARY_HEALTH, status).await;
        if standing.changed().await.is_err() {
            return;
        }
    }
}
