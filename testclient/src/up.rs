//! A cluster on this machine for people: starts it, says how to talk to it, ends it with Ctrl-C.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::args::Up;
use crate::cluster::{Cluster, Options};
use crate::report::say;

/// How often it is looked whether a server has ended and is to be started again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts the cluster, waits until it is ready, prints lines to copy and keeps it running until
/// `stop`. A process that ends, killed by the user perhaps, is started again after a while. Whatever
/// the end, no process is left.
///
/// # Errors
/// When a port is taken or the cluster does not come up.
pub async fn run(options: &Up, stop: CancellationToken) -> Result<ExitCode> {
    // Each server alone would take most of the machine for itself.
    let share = || format!("{}%", (70 / options.servers).max(1));
    let max_memory = options.max_memory.clone().unwrap_or_else(share);
    let starting = Options {
        servers: options.servers as usize,
        copies: options.copies,
        first_port: Some(options.first_port),
        server_flags: vec!["--max-memory".into(), max_memory],
        log_dir: Some(options.log_dir.clone()),
        durable: !options.in_memory,
        data_dir: (!options.in_memory).then(|| options.data_dir.clone()),
        ..Options::default()
    };
    eprintln!("starting a view service and {} servers", options.servers);
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&starting) => cluster?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let primary = cluster.layout().await?.primary.unwrap_or(0);
    introduce(&cluster, primary, options.in_memory)?;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for (label, what) in cluster.restart_ended()? {
            eprintln!("{what}\nstarted {label} again");
        }
    }
    if options.in_memory {
        say("stopping; the data of this in-memory cluster goes with it")?;
    } else {
        let data = options.data_dir.display();
        say(format!("stopping; the data stays in {data}, and the next start goes on with it"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn introduce(cluster: &Cluster, primary: usize, in_memory: bool) -> Result<()> {
    let vs = cluster.view_service_addr();
    let program = |name: &str| {
        crate::cluster::program(name).map(|path| {
            let here = std::env::current_dir().unwrap_or_default();
            path.strip_prefix(here).unwrap_or(&path).display().to_string()
        })
    };
    say(format!("ready: view service at {vs}"))?;
    for index in 0..cluster.servers() {
        let (number, name) = (index + 1, cluster.server_name(index));
        let id = cluster.server_id(index).unwrap_or_default();
        let role = if index == primary { ", primary" } else { "" };
        say(format!("       server s{number} at {name} (process {id}{role})"))?;
    }
    say(format!("       logs in {}", cluster.log_dir().display()))?;
    say("\nTo try, from another terminal:")?;
    let kvctl = program("kvctl")?;
    for verb in ["status", "put greeting hello", "get greeting"] {
        say(format!("  {kvctl} --vs {vs} {verb}"))?;
    }
    say(format!("  {} --vs {vs} bench", program("testclient")?))?;
    say(format!("  grpcurl -plaintext {vs} viewservice.ViewService/GetView"))?;
    say(format!(
        "  grpcurl -plaintext -d '{{\"key\":\"Z3JlZXRpbmc=\"}}' {} kvserver.KVServer/Get",
        cluster.server_name(primary)
    ))?;
    let pid_file = cluster.log_dir().join(format!("s{}.pid", primary + 1));
    say(format!("  kill -9 $(cat {})", pid_file.display()))?;
    let state = if in_memory { ", empty" } else { ", with its data" };
    say(format!(
        "\nWhat was killed is started again within two seconds{state}. Ctrl-C stops everything."
    ))
}
