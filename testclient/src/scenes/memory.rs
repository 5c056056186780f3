//! Memory that each key takes, in the primary that was filled and in a backup that joined.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::args::Memory;
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure};
use crate::bench::load::Generator;
use crate::cluster::Cluster;
use crate::report::too_small;
use crate::workload::{KEY_SIZE, Keys};

const BYTES_PER_KEY: f64 = 260.0;

/// With fewer, most of the memory is not theirs.
const KEYS_JUDGED: u64 = 1_000_000;

const PRIMARY: usize = 0;
const BACKUP: usize = 1;

/// Memory at one number of keys, in bytes.
struct Look {
    keys: u64,
    primary: u64,
    backup: u64,
}

/// Plays the scene.
///
/// # Errors
/// When the cluster fails.
pub async fn play(options: &Memory) -> Result<Verdict> {
    stage::check_rising(&options.keys, 1)?;
    let mut cluster = stage::primary_alone(Vec::new()).await?;
    let played = looks(&mut cluster, options).await;
    let (empty, looks) = stage::ended(&mut cluster, played)?;
    Ok(verdict(options, empty, &looks))
}

async fn looks(cluster: &mut Cluster, options: &Memory) -> Result<(u64, Vec<Look>)> {
    let generator = Generator::start()?;
    let keys = Arc::new(Keys::new(options.keys.last().copied().unwrap_or_default()));
    let empty = stage::settled_memory_of(cluster, PRIMARY).await?;
    let mut looks = Vec::new();
    let mut filled = 0;
    for &count in &options.keys {
        let value_size = options.common.value_size;
        stage::fill(&generator, cluster, &keys, filled..count, value_size).await?;
        if filled == 0 {
            cluster.start_server(BACKUP)?;
            cluster.wait_until_redundant().await?;
        }
        filled = count;
        looks.push(Look {
            keys: count,
            primary: stage::settled_memory_of(cluster, PRIMARY).await?,
            backup: stage::settled_memory_of(cluster, BACKUP).await?,
        });
        stage::tell(&format!("{count} keys"));
    }
    Ok((empty, looks))
}

fn verdict(options: &Memory, empty: u64, looks: &[Look]) -> Verdict {
    let per_key = |memory: u64, keys: u64| memory.saturating_sub(empty) as f64 / keys as f64;
    let header = vec!["keys", "server", "memory", "a key"];
    let mut rows = Vec::new();
    rows.push(vec!["0".to_owned(), "primary".to_owned(), figure(mib(empty), "MiB"), String::new()]);
    let mut figures = Vec::new();
    for look in looks {
        for (server, memory) in [("primary", look.primary), ("backup that joined", look.backup)] {
            let bytes = per_key(memory, look.keys);
            rows.push(vec![
                look.keys.to_string(),
                server.to_owned(),
                figure(mib(memory), "MiB"),
                figure(bytes, "bytes"),
            ]);
            figures.push(json!({
                "keys": look.keys, "server": server, "bytes": memory, "bytes_per_key": bytes,
            }));
        }
    }
    let at_first = looks.first().map_or([f64::NAN; 2], |look| {
        [look.primary, look.backup].map(|memory| per_key(memory, look.keys))
    });
    let first = options.keys.first().copied().unwrap_or_default();
    let too_small = too_small(&[(first, KEYS_JUDGED, "keys")]);
    let of = |server: &str, bytes| {
        let what = format!("memory of a {server} for each of the first keys");
        Requirement::at_most(&what, bytes, BYTES_PER_KEY, "bytes").unless(too_small.as_ref())
    };
    Verdict {
        title: format!(
            "Memory of keys of {KEY_SIZE} + {} bytes, above that of an empty server",
            options.common.value_size
        ),
        header,
        rows,
        remarks: Vec::new(),
        requirements: vec![of("primary", at_first[0]), of("backup", at_first[1])],
        figures: json!({ "empty_bytes": empty, "looks": figures }),
    }
}
