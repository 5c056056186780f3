//! The power goes for a durable cluster: it comes back with everything that was acknowledged.

use clap::Parser;
use testclient::args::{Args, Command};
use testclient::torture;

use crate::common;

#[tokio::test]
async fn what_was_acknowledged_outlives_that_everything_is_killed() {
    let _all_slots = common::alone().await;
    let seed = std::process::id();
    let line = format!("testclient torture --power-cut --rounds 3 --seed {seed}");
    println!("{line}");
    let options = match Args::try_parse_from(line.split(' ')).expect("a command").command {
        Some(Command::Torture(options)) => options,
        other => panic!("{other:?}"),
    };
    let tortured = torture::play(&options, &Default::default()).await.expect("it comes back");
    assert!(tortured.is_sound(), "{line}: {tortured:#?}");
    assert!(tortured.acknowledged > 100, "{line}: {tortured:#?}");
}
