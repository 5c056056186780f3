//! `testclient check`: what it says of a file, and by which exit code.

use std::process::Command;

const HEADER: &str = "{\"history\":\"kv\",\"level\":1}\n";
const PUT_OLD: &str = r#"{"process":0,"invoked_ns":0,"returned_ns":1,"write":[{"put":"old","key":"k"}],"changed":[{"existed":false,"length":3,"version":"0/1"}]}
"#;
const PUT_NEW: &str = r#"{"process":0,"invoked_ns":2,"returned_ns":3,"write":[{"put":"new","key":"k"}],"changed":[{"existed":true,"length":3,"version":"0/2"}]}
"#;
const GET_OLD: &str = r#"{"process":1,"invoked_ns":4,"returned_ns":5,"read":["k"],"records":[{"value":"old","version":"0/1"}]}
"#;

/// Exit code and everything said.
fn check(history: &[u8], flags: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.jsonl");
    std::fs::write(&path, history).expect("the file is written");
    let output = Command::new(env!("CARGO_BIN_EXE_testclient"))
        .arg("check")
        .arg(&path)
        .args(flags)
        .output()
        .expect("testclient runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_linearizable_history_ends_with_0() {
    let (code, said) = check([HEADER, PUT_OLD, GET_OLD].concat().as_bytes(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("verdict: linearizable"), "{said}");
}

#[test]
fn a_stale_read_ends_with_1_and_an_account_of_both_checkers() {
    let (code, said) = check([HEADER, PUT_OLD, PUT_NEW, GET_OLD].concat().as_bytes(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("key k: VIOLATION"), "{said}");
    assert!(said.contains("version 0/1 was still seen after version 0/2 was known"), "{said}");
    assert!(said.contains("line 4: process 1 get k -> \"old\" @0/1"), "{said}");
}

#[test]
fn without_time_nothing_is_decided_and_it_ends_with_2() {
    let history = [HEADER, PUT_OLD, GET_OLD].concat();
    let (code, said) = check(history.as_bytes(), &["--time-limit", "0s"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("key k: not decided"), "{said}");
}

#[test]
fn a_file_that_is_no_history_ends_with_2_and_names_the_line() {
    let cut = &GET_OLD[..40];
    let (code, said) = check([HEADER, PUT_OLD, cut].concat().as_bytes(), &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("line 3: not JSON"), "{said}");
    let (code, said) = check(b"\xff\xfe", &[]);
    assert_eq!(code, Some(2), "{said}");
}
