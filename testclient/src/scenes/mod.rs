//! Scenes: what happens to a cluster that is joined, filled, overloaded or abused while it serves.
//!
//! Each scene starts a cluster of its own, plays, prints what it measured and a verdict on every
//! requirement, and leaves nothing behind.
//!
//! In reading order:
//! - [`args`]: what can be asked for
//! - [`verdict`]: what a scene ends with (pure)
//! - [`stage`]: the cluster, filled, and what its processes take
//! - [`join`], [`memory`], [`keys`], [`overload`], [`neighbours`], [`durable`]: the scenes
//! - [`http2`], [`misbehaving`]: frames by hand (pure), and clients that nobody wants

pub mod args;
pub mod durable;
pub mod http2;
pub mod join;
pub mod keys;
pub mod memory;
pub mod misbehaving;
pub mod neighbours;
pub mod overload;
pub mod stage;
pub mod verdict;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::bench::machine;
use crate::report::{check_block, check_writable, say, write_block, write_json};
use args::Scene;
use verdict::Verdict;

/// Plays one scene and tells the verdict. Exit code 1 when a requirement is missed.
///
/// # Errors
/// As [`play`], and when the result cannot be written.
pub async fn run(scene: &Scene, stop: CancellationToken) -> Result<ExitCode> {
    let common = scene.common();
    check_writable(common.json.as_deref())?;
    if let Some(path) = &common.write {
        check_block(path, scene.name())?;
    }
    // A dropped scene drops its cluster, and with it the processes.
    let verdict = tokio::select! {
        verdict = play(scene) => verdict?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    if let Some(path) = &common.json {
        write_json(path, &verdict.as_json())?;
    }
    if let Some(path) = &common.write {
        let block = format!("{}\n\n{}", machine::where_and_when(), verdict.as_markdown());
        write_block(path, scene.name(), &block)?;
    }
    if common.json.as_deref() != Some(Path::new("-")) {
        say(verdict.as_text())?;
    }
    Ok(if verdict.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays one scene, from an empty cluster to none.
///
/// # Errors
/// When the cluster does not come up, or a process of it ends.
pub async fn play(scene: &Scene) -> Result<Verdict> {
    match scene {
        Scene::Join(options) => join::play(options).await,
        Scene::Memory(options) => memory::play(options).await,
        Scene::Keys(options) => keys::play(options).await,
        Scene::Overload(options) => overload::play(options).await,
        Scene::Neighbours(options) => neighbours::play(options).await,
        Scene::Durable(options) => durable::play(options).await,
    }
}
