//! The program as an operator meets it: flags, the ready line, signals and exit codes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

fn kvserver(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("RUST_LOG");
    command
}

/// A program that does not outlive its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_bad_value_ends_it_with_2_and_names_flag_value_and_rule() {
    let output = kvserver(&["--addr", "nowhere"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--addr") && said.contains("nowhere") && said.contains("HOST:PORT"));
    assert!(output.stdout.is_empty(), "stdout is for data");
}

#[test]
fn a_wildcard_address_without_a_name_ends_it_with_2() {
    let output = kvserver(&["--addr", "0.0.0.0:0", "--insecure"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--advertise"), "{said}");
}

#[test]
fn a_taken_port_ends_it_with_1_and_names_the_flag() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("it is bound").to_string();
    let output = kvserver(&["--addr", &address]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--addr") && said.contains(&address), "{said}");
}

#[test]
fn a_directory_that_is_in_use_for_something_else_is_refused_and_left_as_it_is() {
    let backups = tempfile::tempdir().expect("a folder");
    std::fs::write(backups.path().join("nightly"), "a backup").expect("it can be written");
    let place = backups.path().to_str().expect("text");
    let args = ["--addr", "localhost:0", "--vs", "localhost:1", "--data-dir", place];
    let output = kvserver(&args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it is not empty (there is nightly)"), "{said}");
    assert_eq!(std::fs::read_dir(place).expect("a folder").count(), 1);
}

#[test]
fn it_says_where_it_listens_and_stops_at_the_first_signal() {
    let child = kvserver(&["-addr", "localhost:0", "-vs=localhost:1", "--in-memory"])
        .spawn()
        .expect("it runs");
    let mut server = Started(child);
    let stderr = server.0.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let ready = lines.find(|line| line.starts_with("kvserver ready on ")).expect("a ready line");
    let port = ready.rsplit(':').next().and_then(|port| port.parse().ok());
    let port: u16 = port.expect("the line ends with the name and its real port");
    assert_ne!(port, 0);
    assert!(std::net::TcpStream::connect(("localhost", port)).is_ok(), "it listens there");
    let killed = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(server.0.wait().expect("it ends").code(), Some(0));
    let mut said = String::new();
    server.0.stdout.take().expect("it is piped").read_to_string(&mut said).expect("text");
    assert!(said.is_empty(), "stdout is for data");
}

/// A log collector restarted, or somebody looked at the first lines with `head`: the server lost its
/// copy of the data to a panic about a log line.
#[test]
fn a_reader_of_its_log_that_goes_away_costs_the_lines_and_nothing_else() {
    let child = kvserver(&["-addr", "localhost:0", "-vs=localhost:1", "--in-memory"])
        .spawn()
        .expect("it runs");
    let mut server = Started(child);
    let stderr = server.0.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    lines.find(|line| line.starts_with("kvserver ready on ")).expect("a ready line");
    drop(lines);
    // Stopping has several things to say.
    let killed = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(server.0.wait().expect("it ends").code(), Some(0));
}
