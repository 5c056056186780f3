//! Benchmarks run, count what they did and write what they promise. How fast anything is, is not
//! tested here.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{self, running};
use serde_json::Value;
use testclient::cluster::{Options, program};

async fn testclient(args: Vec<String>) -> Output {
    let run = move || Command::new(program("testclient").expect("it is built")).args(args).output();
    tokio::task::spawn_blocking(run).await.expect("no panic").expect("run it")
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_running_cluster_is_measured_through_every_door() {
    let cluster = running(Options::default(), 2).await;
    let dir = tempfile::tempdir().expect("a folder");
    let svg = path(dir.path(), "latency.svg");
    for (door, more, kinds) in [
        ("library", "--read-ratio 0.5", &["read", "write"][..]),
        ("grpc", "--read-ratio 0.5 --rate 200", &["read", "write"]),
        ("echo", "--connections 2", &["echo"]),
    ] {
        let vs = cluster.view_service_addr();
        let mut args = words(&format!("--vs {vs} bench --door {door} {more}"));
        args.extend(words("--clients 4 --seconds 1 --rounds 1 --warm-up 0s --keys 50 --json -"));
        args.extend(["--svg".to_owned(), svg.clone()]);
        let output = testclient(args).await;
        assert!(output.status.success(), "{door}: {}", said(&output));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
        for kind in kinds {
            let done = json["rounds"][0][kind]["operations"].as_u64();
            assert!(done > Some(0), "{door}: {json}");
        }
        let picture = std::fs::read_to_string(&svg).expect("it was drawn");
        assert!(picture.starts_with("<svg"), "{picture}");
    }
}

#[tokio::test]
async fn a_comparison_writes_its_table_into_a_page_and_draws_it() {
    let _all_slots = common::alone().await;
    let dir = tempfile::tempdir().expect("a folder");
    let [page, svg, json] = ["page.md", "page.svg", "page.json"].map(|name| path(dir.path(), name));
    std::fs::write(&page, "# Before\n<!-- bench:begin -->\n<!-- bench:end -->\nAfter\n")
        .expect("a page");
    let tiny = "--rounds 2 --length 60ms --warm-up 10ms --callers 1,4 --keys 200";
    let mut args = words(&format!("bench compare {tiny}"));
    for (flag, value) in [("--write", &page), ("--svg", &svg), ("--json", &json)] {
        args.extend([flag.to_owned(), value.clone()]);
    }
    let output = testclient(args).await;
    assert!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stdout);
    let written = std::fs::read_to_string(&page).expect("the page");
    for case in ["bare echo", "put, no backup", "put, two backups", "get, one backup"] {
        assert!(told.contains(case), "{case} in {told}");
        assert!(written.contains(&format!("| {case} | 4 |")), "{case} in {written}");
    }
    assert!(written.starts_with("# Before\n") && written.ends_with("\nAfter\n"), "{written}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&json).expect("JSON"))
        .expect("a JSON document");
    for case in json["cases"].as_array().expect("cases") {
        let rounds = case["rounds"].as_array().expect("rounds");
        assert_eq!(rounds.len(), 2, "{case}");
        assert!(rounds.iter().all(|round| round["operations"].as_u64() > Some(0)), "{case}");
    }
    assert!(std::fs::read_to_string(&svg).expect("a picture").contains("4 at once"));
}

#[tokio::test]
async fn a_page_without_a_place_for_the_table_is_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().expect("a folder");
    let page = path(dir.path(), "page.md");
    std::fs::write(&page, "# No place\n").expect("a page");
    let mut args = words("bench compare --write");
    args.push(page.clone());
    let output = testclient(args).await;
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("bench:begin") && said.contains(&page), "{said}");
    assert_eq!(std::fs::read_to_string(&page).expect("the page"), "# No place\n");
}
