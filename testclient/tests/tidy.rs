//! The repository checks itself: pure files stay pure, arrows between crates point one way, links
//! in Markdown lead somewhere, and nothing is left lying about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files and folders that know no I/O, clock, thread, randomness or hash order. A file whose header
/// calls it "Pure" is held to it as well.
const PURE: &[&str] = &[
    "proto/src/",
    "viewservice/src/assignment",
    "kvserver/src/replica",
    "kvserver/src/store",
    "kvserver/src/journal",
    "kvclient/src/session",
    "kvclient/src/route",
    "kvclient/src/backoff",
    "kvclient/src/error",
    "kvclient/src/attempts",
    "kvclient/src/caller",
    "testclient/src/explore",
    "testclient/src/history",
    "testclient/src/ledger",
    "testclient/src/linearizability",
    "testclient/src/random",
    "testclient/src/sim",
    "testclient/src/torture/plan",
    "testclient/src/witness",
    "testclient/src/workload",
];

/// Of the pure folders, what touches the outside: the generated code, types of gRPC, the table that
/// doors share, and the driver of the explorer.
const NOT_PURE: &[&str] = &[
    "proto/src/lib.rs",
    "proto/src/convert",
    "proto/src/status",
    "proto/src/codec.rs",
    "kvserver/src/journal/files.rs",
    "kvserver/src/journal/writer.rs",
    "kvserver/src/store/items.rs",
    "testclient/src/explore/command",
    "testclient/src/explore/search",
];

const IMPURE_WORDS: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "tokio",
    "tonic",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "Instant::now",
    "clock::now",
    "SystemTime",
    "rand::",
    "HashMap",
    "HashSet",
    "DashMap",
];

/// Crates of ours that each crate may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("process", &["kvproto"]),
    ("viewservice", &["kvproto", "kvprocess"]),
    ("kvserver", &["kvproto", "kvprocess"]),
    ("kvclient", &["kvproto", "kvprocess"]),
    ("testclient", &["kvproto", "kvprocess", "viewservice", "kvserver", "kvclient"]),
];

const OURS: &[&str] =
    &["kvproto", "kvprocess", "viewservice", "kvserver", "kvclient", "testclient"];

const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the repository")
        .to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file that git knows or would add, with these endings.
fn files(endings: &[&str]) -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the repository");
    assert!(listed.status.success(), "git ls-files failed");
    let mut files: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|file| endings.iter().any(|ending| file.ends_with(ending)))
        .filter(|file| root().join(file).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    assert!(!files.is_empty(), "no file ends with {endings:?}");
    files
}

/// The lines of a Rust file, numbered, without comments and without what only its tests see.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut lines = (1..).zip(text.lines());
    let mut code = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            skip_item(&mut lines);
        } else {
            code.push((number, line.split("//").next().unwrap_or_default()));
        }
    }
    code
}

/// Skips one item, as rustfmt lays it out: to a line that ends it, or to the brace that closes it at
/// the indentation it began with.
fn skip_item<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let Some((_, first)) = lines.find(|(_, line)| !line.trim_start().starts_with(['#', '/']))
    else {
        return;
    };
    if first.trim_end().ends_with([';', '}']) {
        return;
    }
    for (_, line) in lines {
        let closes = line.trim_start().starts_with('}') || line.trim_end() == ";";
        if closes && indentation(line) == indentation(first) {
            return;
        }
    }
}

/// The `//!` header of a Rust file.
fn header(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}

/// Whether the header says of the file itself that it is pure: "Pure." or "Pure: …".
fn calls_itself_pure(text: &str) -> bool {
    header(text).split([' ', '\n']).any(|word| word == "Pure." || word == "Pure:")
}

fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn pure_files_stay_pure() {
    let is_in = |list: &[&str], file: &str| list.iter().any(|prefix| file.starts_with(prefix));
    let mut found = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for file in files(&[".rs"]) {
        if file.contains("tests") {
            continue;
        }
        let text = read(&file);
        let listed = is_in(PURE, &file) && !is_in(NOT_PURE, &file);
        if !listed && !calls_itself_pure(&text) {
            continue;
        }
        seen.extend(PURE.iter().copied().filter(|prefix| file.starts_with(prefix)));
        for (number, line) in code_lines(&text) {
            for word in IMPURE_WORDS.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{file}:{number}: {word}"));
            }
        }
    }
    none(
        &found,
        "pure files take values and give values; let a shell do this and pass the result in",
    );
    let gone: Vec<_> = PURE.iter().filter(|prefix| !seen.contains(*prefix)).collect();
    assert!(gone.is_empty(), "no pure file here any more: {gone:?}");
}

#[test]
fn what_follows_the_tests_of_a_file_is_checked_too() {
    let text = "\
use a;
#[cfg(test)]
mod tests;
fn b() {} // said
struct C {
    #[cfg(test)]
    #[must_use]
    fn hidden(&self) -> bool {
        true
    }
    fn seen() {}
}
#[cfg(test)]
mod inline {
    fn hidden() {}
}
fn d() {}
";
    let code: Vec<_> = code_lines(text).into_iter().map(|(_, line)| line.trim()).collect();
    assert_eq!(code, ["use a;", "fn b() {}", "struct C {", "fn seen() {}", "}", "fn d() {}"]);
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let found: Vec<String> =
        files(&[".rs"]).into_iter().filter(|file| header(&read(file)).is_empty()).collect();
    none(&found, "begin it with a `//!` header: what it owns, or which behaviour its tests show");
}

#[test]
fn crates_depend_only_downwards() {
    let mut found = Vec::new();
    for (folder, allowed) in ARROWS {
        let manifest: toml::Table =
            read(&format!("{folder}/Cargo.toml")).parse().expect("Cargo.toml is TOML");
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if OURS.contains(&name.as_str()) && !allowed.contains(&name.as_str()) {
                found.push(format!("{folder} depends on {name}"));
            }
        }
    }
    none(&found, "arrows between crates point one way (ARCHITECTURE.md)");
}

#[test]
fn versions_of_dependencies_stand_in_one_place() {
    let mut found = Vec::new();
    for (folder, _) in ARROWS {
        let manifest: toml::Table =
            read(&format!("{folder}/Cargo.toml")).parse().expect("Cargo.toml is TOML");
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = manifest.get(kind).and_then(toml::Value::as_table);
            for (name, how) in dependencies.into_iter().flatten() {
                if how.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    found.push(format!("{folder}: {name}"));
                }
            }
        }
    }
    none(&found, "write `workspace = true`, and the version into the Cargo.toml at the top");
}

#[test]
fn every_dependency_is_accounted_for() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let dependencies =
        manifest["workspace"]["dependencies"].as_table().expect("the workspace has dependencies");
    let page = read("docs/dependencies.md");
    let missing: Vec<String> = dependencies
        .keys()
        .filter(|name| !OURS.contains(&name.as_str()))
        .filter(|name| !page.contains(&format!("`{name}`")))
        .cloned()
        .collect();
    none(&missing, "each needs a line in docs/dependencies.md that says what it is for");
}

#[test]
fn every_dependency_of_the_workspace_is_used() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let manifests: Vec<String> =
        ARROWS.iter().map(|(folder, _)| read(&format!("{folder}/Cargo.toml"))).collect();
    let unused: Vec<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("the workspace has dependencies")
        .keys()
        .filter(|name| !OURS.contains(&name.as_str()))
        .filter(|name| {
            let line = format!("\n{name}");
            !manifests.iter().any(|manifest| {
                manifest
                    .match_indices(&line)
                    .any(|(at, _)| manifest[at + line.len()..].starts_with(['.', ' ']))
            })
        })
        .cloned()
        .collect();
    none(&unused, "in Cargo.toml, but no crate uses it");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = files(&[".rs", ".sh"])
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, file)| format!("{file}: {lines} lines"))
        .collect();
    none(&long, &format!("over {LINES_MAX} lines: does it still answer one question?"));
}

#[test]
fn nothing_is_left_lying_about() {
    // Put together here, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
        concat!("#[", "allow("),
        concat!("#![", "allow("),
        concat!("pk", "ill"),
        concat!("kill", "all"),
    ];
    let mut found = Vec::new();
    for file in files(&[".rs", ".sh", ".proto", ".md", ".toml", "Makefile", ".ci/run"]) {
        for (number, line) in (1..).zip(read(&file).lines()) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{file}:{number}: {word}"));
            }
        }
    }
    none(&found, "finish it, or put it where it belongs");
}

#[test]
fn links_in_markdown_lead_somewhere() {
    let pages: BTreeMap<String, String> =
        files(&[".md"]).into_iter().map(|file| (file.clone(), read(&file))).collect();
    let mut found = Vec::new();
    for (file, text) in &pages {
        for target in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let page = if path.is_empty() {
                file.clone()
            } else {
                let folder = Path::new(file).parent().unwrap_or(Path::new(""));
                normal(&folder.join(path))
            };
            if !root().join(&page).exists() {
                found.push(format!("{file}: {target}: no such file"));
            } else if let Some(text) = pages.get(&page)
                && !anchor.is_empty()
                && !anchors(text).contains(anchor)
            {
                found.push(format!("{file}: {target}: no such heading"));
            }
        }
    }
    none(&found, "dead links");
}

/// Targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in outside_fences(text) {
        // Every other piece between backticks is code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        for piece in prose.join("code").split("](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                targets.push(target.split_whitespace().next().unwrap_or("").to_owned());
            }
        }
    }
    targets
}

fn outside_fences(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    outside_fences(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.components() {
        match part.as_os_str().to_str() {
            Some("..") => drop(parts.pop()),
            Some(".") | None => {}
            Some(part) => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn the_make_targets_that_the_pages_name_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', ' ', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, rest)| !rest.starts_with('='))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    let mut found = Vec::new();
    for file in files(&[".md"]) {
        for (number, line) in (1..).zip(read(&file).lines()) {
            // In code only: "`make run`", or a line of a fence that begins with it.
            let spans = line.split('`').skip(1).step_by(2);
            for command in spans.chain([line]) {
                let words = command.trim().strip_prefix("make ").unwrap_or("");
                let named = words
                    .split(['#', '|', '&', ';', '('])
                    .next()
                    .unwrap_or("")
                    .split_whitespace()
                    .filter(|word| !word.contains(['=', '<', '…', '.', ',']));
                // A sentence that happens to begin with "make" is not a command.
                if command == line && named.clone().count() > 1 {
                    continue;
                }
                for target in named.filter(|target| !targets.contains(target)) {
                    found.push(format!("{file}:{number}: make {target}"));
                }
            }
        }
    }
    none(&found, "no such target in the Makefile");
}

#[test]
fn only_tests_drop_rules() {
    let mut found = Vec::new();
    for file in files(&[".rs"]) {
        if file.contains("tests") || file == "proto/src/rules.rs" {
            continue;
        }
        let text = read(&file);
        let drops = |line: &str| line.contains("rules::") && line.contains("without");
        let lines = code_lines(&text).into_iter().filter(|(_, line)| drops(line));
        found.extend(lines.map(|(number, _)| format!("{file}:{number}")));
    }
    none(&found, "the programs keep every rule of the protocol");
}

#[test]
fn a_named_story_misses_each_rule() {
    const STORIES: &[&str] = &[
        "kvserver/src/replica/tests/mutants.rs",
        "kvserver/src/store/tests.rs",
        "testclient/tests/proofs/storage/mod.rs",
        "viewservice/src/assignment/tests/mutants.rs",
    ];
    let stories: String = STORIES.iter().map(|file| read(file)).collect();
    let words: BTreeSet<&str> = stories.split(|c: char| !c.is_alphanumeric()).collect();
    let untold: Vec<String> = kvproto::Rule::ALL
        .iter()
        .map(|rule| format!("{rule:?}"))
        .filter(|rule| !words.contains(rule.as_str()))
        .collect();
    none(&untold, &format!("name a story that fails without it in one of {STORIES:?}"));
}

#[test]
fn the_tests_that_the_page_on_testing_names_exist() {
    let sources: Vec<String> = files(&[".rs"]).iter().map(|file| read(file)).collect();
    let words: BTreeSet<&str> = sources
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    let page = read("docs/testing.md");
    let named = outside_fences(&page).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_name = |name: &&str| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let missing: Vec<String> =
        named.filter(is_name).filter(|name| !words.contains(name)).map(str::to_owned).collect();
    none(&missing, "docs/testing.md names what is not in any source file");
}

#[test]
fn the_page_on_testing_says_who_misses_each_rule() {
    let page = read("docs/testing.md");
    let untold: Vec<String> = kvproto::Rule::ALL
        .iter()
        .map(|rule| format!("{rule:?}"))
        .filter(|rule| !page.contains(&format!("| `{rule}` ")))
        .collect();
    none(&untold, "docs/testing.md has a row for every rule that a test can drop");
}
