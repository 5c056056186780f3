//! Scenes run from an empty cluster to none and report what they promise. Whether a requirement is
//! met is a question of speed, which is not tested here.

use clap::Parser;
use serde_json::Value;
use testclient::args::{Args, Command};
use testclient::scenes;
use testclient::scenes::args::Scene;
use testclient::scenes::verdict::Verdict;

use crate::common;

fn scene(line: &str) -> Scene {
    let words = ["testclient", "scene"].into_iter().chain(line.split(' '));
    match Args::try_parse_from(words).expect(line).command {
        Some(Command::Scene(scene)) => scene,
        other => panic!("{line} asks for {other:?}"),
    }
}

async fn play(line: &str) -> Verdict {
    let _all_slots = common::alone().await;
    scenes::play(&scene(line)).await.unwrap_or_else(|error| panic!("{line}: {error:#}"))
}

/// Numbers at a path like `rounds.0.before.writes_per_second`, each above zero.
fn above_zero(figures: &Value, paths: &[&str]) {
    for path in paths {
        let pointer = format!("/{}", path.replace('.', "/"));
        let number = figures.pointer(&pointer).and_then(Value::as_f64);
        assert!(number > Some(0.0), "{path} of {figures:#}");
    }
}

#[tokio::test]
async fn a_newcomer_joins_while_clients_write() {
    let verdict = play("join --keys 2000 --writers 2 --rounds 2 --calm 200ms").await;
    for round in ["rounds.0", "rounds.1"] {
        let of = |figure: &str| format!("{round}.{figure}");
        let paths = [
            of("before.writes_per_second"),
            of("joining.writes_per_second"),
            of("after.writes_per_second"),
            of("redundant_after_ms"),
        ];
        above_zero(&verdict.figures, &paths.each_ref().map(String::as_str));
    }
    let text = verdict.as_text();
    assert!(text.contains("longest write") && text.contains("a second copy"), "{text}");
}

#[tokio::test]
async fn memory_is_told_for_each_key_of_both_copies() {
    let verdict = play("memory --keys 1000,2000").await;
    let looks = verdict.figures["looks"].as_array().expect("looks");
    assert_eq!(looks.len(), 4, "two copies, twice: {looks:?}");
    above_zero(&verdict.figures, &["empty_bytes", "looks.0.bytes", "looks.3.bytes"]);
}

#[tokio::test]
async fn clusters_with_few_and_many_keys_take_turns() {
    let verdict = play("keys --keys 100,1000 --callers 4 --rounds 2 --turn 100ms").await;
    for cluster in ["clusters.0", "clusters.1"] {
        let of = |figure: &str| format!("{cluster}.{figure}");
        let paths = [of("puts.per_second.0"), of("puts.per_second.1"), of("gets.per_second.1")];
        above_zero(&verdict.figures, &paths.each_ref().map(String::as_str));
    }
}

#[tokio::test]
async fn an_overload_is_weathered_and_told() {
    let line = "overload --callers 8 --times 4 --large 2 --large-size 65536 --keys 500 --lasts 1s \
                --calm 2s";
    let verdict = play(line).await;
    above_zero(
        &verdict.figures,
        &[
            "capacity_before",
            "phases.1.done_per_second",
            "phases.2.done_per_second",
            "per_second_after.0",
            "memory_bytes_before_and_peak.0.1",
            "memory_bytes_before_and_peak.1.1",
        ],
    );
}

#[tokio::test]
async fn neighbours_that_misbehave_do_not_stop_one_that_behaves() {
    let line = "neighbours --callers 4 --keys 500 --idle 50 --never-reading 1 --trickling 4 \
                --rounds 1 --turn 200ms";
    let verdict = play(line).await;
    let paths = [0, 1, 2].map(|number| format!("neighbours.{number}.calls_per_second.0"));
    above_zero(&verdict.figures, &paths.each_ref().map(String::as_str));
}

#[tokio::test]
async fn a_page_without_a_place_for_the_scene_is_refused_before_anything_is_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let page = dir.path().join("page.md");
    std::fs::write(&page, "# No place\n").expect("a page");
    let scene = scene(&format!("memory --write {}", page.display()));
    let error = scenes::run(&scene, Default::default()).await.expect_err("refused");
    let said = format!("{error:#}");
    assert!(said.contains("memory:begin") && said.contains("page.md"), "{said}");
}

#[tokio::test]
async fn data_on_disk_is_read_again_and_a_copy_that_comes_back_is_sent_what_it_missed() {
    let verdict = play("durable --keys 20000 --callers 4 --rounds 2 --turn 200ms").await;
    above_zero(
        &verdict.figures,
        &[
            "sync_p50_ms.0",
            "by_parts.1",
            "gained.1",
            "serving_after_ms",
            "missed_bytes",
            "sent_bytes",
        ],
    );
    assert_eq!(verdict.figures["sent_by_transfer"], false, "{:#}", verdict.figures);
}
