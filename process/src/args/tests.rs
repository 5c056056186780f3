//! Where a setting comes from, and what is said about one that makes no sense.

use std::io::Write;

use super::*;
use tempfile::NamedTempFile;

/// Stands for one of our servers.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "server", version)]
struct Server {
    #[arg(long, env = "KV_TEST_ARGS_ADDR", default_value = "localhost:8001")]
    addr: String,
    #[arg(long, value_delimiter = ',', default_value = "localhost:8000")]
    vs: Vec<String>,
    #[arg(long)]
    insecure: bool,
    #[arg(long, default_value_t = 2)]
    copies: u32,
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Stands for a program with subcommands.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "ctl")]
struct Ctl {
    #[arg(long, global = true, default_value = "localhost:8000")]
    vs: String,
    #[arg(long, short = 'o', global = true, default_value = "table")]
    output: String,
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug, PartialEq)]
enum Verb {
    Get {
        key: String,
    },
    Lock {
        #[arg(long)]
        timeout: String,
        #[arg(long, allow_hyphen_values = true, default_value = "")]
        content: String,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn parse<T: Parser>(line: &str) -> Result<T, Error> {
    try_parse_from(line.split_whitespace().map(OsString::from))
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn with_file<T: Parser>(line: &str, text: &str) -> Result<T, Error> {
    let file = file(text);
    parse(&format!("{line} --config {}", file.path().display()))
}

#[test]
fn long_flags_work_with_one_dash_and_with_two() {
    let expected: Server = parse("server --addr localhost:1 --vs a:1,b:1 --insecure").unwrap();
    assert_eq!(expected.vs, ["a:1", "b:1"]);
    for line in [
        "server -addr localhost:1 -vs a:1,b:1 -insecure",
        "server -addr=localhost:1 -vs=a:1,b:1 -insecure",
        "server -insecure -vs a:1 --vs=b:1 -addr localhost:1",
    ] {
        assert_eq!(parse::<Server>(line).unwrap(), expected, "{line}");
    }
    let help = parse::<Server>("server -help").unwrap_err();
    assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
}

#[test]
fn one_dash_works_before_and_after_a_subcommand() {
    let expected = Ctl {
        vs: "a:1".into(),
        output: "json".into(),
        config: None,
        verb: Verb::Get { key: "k".into() },
    };
    for line in
        ["ctl -vs a:1 -o json get k", "ctl get -vs=a:1 k -output json", "ctl get k -ojson -vs a:1"]
    {
        assert_eq!(parse::<Ctl>(line).unwrap(), expected, "{line}");
    }
}

#[test]
fn values_and_words_after_two_dashes_stay_as_they_are() {
    let ctl: Ctl = parse("ctl lock -timeout 5s -content -vs -- run -vs x").unwrap();
    let Verb::Lock { content, command, .. } = ctl.verb else {
        panic!("another verb");
    };
    assert_eq!(content, "-vs");
    assert_eq!(command, ["run", "-vs", "x"]);
}

#[test]
fn a_wrong_flag_or_value_is_named_and_exits_with_2() {
    let error = parse::<Server>("server -copies many").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.contains("--copies") && text.contains("many"), "{text}");
    let error = parse::<Server>("server --nonsense").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--nonsense"));
}

#[test]
fn the_file_gives_what_the_command_line_does_not() {
    let text = "addr = 'localhost:1'\nvs = ['a:1', 'b:1']\ninsecure = true\ncopies = 3\n";
    let server: Server = with_file("server -copies 5", text).unwrap();
    assert_eq!(server.addr, "localhost:1");
    assert_eq!(server.vs, ["a:1", "b:1"]);
    assert!(server.insecure);
    assert_eq!(server.copies, 5, "a flag goes before the file");
    let server: Server = with_file("server", "insecure = false").unwrap();
    assert_eq!(server.addr, "localhost:8001", "the default comes last");
    assert!(!server.insecure);
}

#[test]
fn the_environment_goes_before_the_file_and_after_a_flag() {
    const CHILD: &str = "KV_TEST_ARGS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let text = "addr = 'localhost:1'";
        let server: Server = with_file("server", text).unwrap();
        assert_eq!(server.addr, "localhost:2");
        let server: Server = with_file("server -addr localhost:3", text).unwrap();
        assert_eq!(server.addr, "localhost:3");
        return;
    }
    // An environment of its own, which the tests that run beside this one do not see.
    let name = "args::tests::the_environment_goes_before_the_file_and_after_a_flag";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHILD, "1")
        .env("KV_TEST_ARGS_ADDR", "localhost:2")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_file_and_key() {
    let keys = ["adr = 'x'", "config = 'x'", "help = true", "[addr]\nx = 1"];
    for text in keys {
        let error = with_file::<Server>("server", text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let key = text.trim_start_matches('[').split([' ', ']']).next().unwrap();
        let message = error.to_string();
        assert!(message.contains(&format!("'{key}'")), "{message}");
        assert!(message.contains("--config"), "{message}");
    }
}

#[test]
fn a_wrong_value_in_the_file_is_blamed_on_the_file() {
    for (text, named) in [
        ("copies = 'many'", "--copies"),
        ("insecure = 'very'", "'insecure'"),
        ("copies = ", "not TOML"),
    ] {
        let error = with_file::<Server>("server", text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.starts_with("error: --config "), "{message}");
        assert!(message.contains(named), "{message}");
    }
    let error = parse::<Server>("server --config /does/not/exist").unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"));
}

#[test]
fn a_mistake_on_the_command_line_is_not_blamed_on_the_file() {
    let error = with_file::<Server>("server -copies many", "copies = 3").unwrap_err();
    assert!(error.to_string().contains("many"));
    assert!(!error.to_string().contains("--config "), "{error}");
}

#[test]
fn the_file_may_give_a_required_flag_of_a_subcommand() {
    let text = "vs = 'a:1'\ntimeout = '5s'\n";
    let ctl: Ctl = with_file("ctl lock", text).unwrap();
    assert_eq!(ctl.vs, "a:1");
    assert!(matches!(ctl.verb, Verb::Lock { timeout, .. } if timeout == "5s"));
    let ctl: Ctl = with_file("ctl get k -vs b:1", text).unwrap();
    assert_eq!(ctl.vs, "b:1", "a flag after the subcommand counts too");
    let error = with_file::<Ctl>("ctl lock", "vs = 'a:1'").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
}
