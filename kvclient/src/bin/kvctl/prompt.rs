//! Many commands in one run: typed at a prompt, or piped in, one per line.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::CommandFactory;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::cli::LineCli;
use crate::commands::Session;
use crate::line::{self, Line};
use crate::output::{Failure, INTERRUPTED, USAGE};

/// A line may hold a value at its limit, quoted.
const LINE_MAX: u64 = 32 << 20;

/// Runs until the end of the input, and returns the exit code: for piped commands that of the last
/// one that failed.
pub(crate) async fn run(session: &mut Session) -> i32 {
    session.stdin_is_free = false;
    if std::io::stdin().is_terminal() { typed(session).await } else { piped(session).await }
}

async fn piped(session: &Session) -> i32 {
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut code = 0;
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut stdin).take(LINE_MAX);
        let read = tokio::select! {
            read = bounded.read_until(b'\n', &mut line) => read,
            _ = tokio::signal::ctrl_c() => return INTERRUPTED,
        };
        match read {
            Ok(0) => return code,
            Ok(length) if length as u64 == LINE_MAX => {
                return Failure::new(USAGE, "a line of stdin is too long").report();
            }
            Ok(_) => {}
            Err(error) => return Failure::failed(format!("read stdin: {error}")).report(),
        }
        match execute(session, &line).await {
            Next::Go(Ok(())) => {}
            Next::Go(Err(failure)) => {
                code = failure.report();
                if code == INTERRUPTED {
                    return code;
                }
            }
            Next::Exit => return code,
        }
    }
}

async fn typed(session: &Session) -> i32 {
    let mut editor = match editor() {
        Ok(editor) => editor,
        Err(error) => return Failure::failed(format!("open the terminal: {error}")).report(),
    };
    session.output.remark("Type help for the commands, exit or Ctrl-D to leave.");
    loop {
        // rustyline blocks, and the background tasks of the client must go on meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            let line = editor.readline("kvctl> ");
            (editor, line)
        });
        let line;
        (editor, line) = match read.await {
            Ok(read) => read,
            Err(error) => return Failure::failed(format!("read a line: {error}")).report(),
        };
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return 0,
            Err(error) => return Failure::failed(format!("read a line: {error}")).report(),
        };
        // A history that cannot be kept is no reason to stop.
        let _ = editor.add_history_entry(&line);
        if let Some(path) = history_file() {
            let _ = editor.append_history(&path);
        }
        match execute(session, line.as_bytes()).await {
            Next::Go(Ok(())) => {}
            Next::Go(Err(failure)) => {
                failure.report();
            }
            Next::Exit => return 0,
        }
    }
}

enum Next {
    Go(Result<(), Failure>),
    Exit,
}

async fn execute(session: &Session, line: &[u8]) -> Next {
    let words = match line::read(line) {
        Line::Nothing => return Next::Go(Ok(())),
        Line::Exit => return Next::Exit,
        Line::Unreadable(why) => return Next::Go(Err(Failure::new(USAGE, why))),
        Line::Words(words) => words,
    };
    let words = std::iter::once("".into()).chain(words);
    Next::Go(match kvprocess::args::try_parse_from::<LineCli>(words) {
        Ok(line) => session.run_until_interrupted(line.verb).await,
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            Err(Failure::new(USAGE, text.trim_end()))
        }
        Err(help) => help.print().map_err(Failure::from),
    })
}

fn editor() -> rustyline::Result<Editor<Verbs, FileHistory>> {
    let mut editor = Editor::new()?;
    let verbs = LineCli::command();
    let verbs = verbs.get_subcommands().map(|verb| verb.get_name().to_owned());
    let extra = ["set", "delete", "exit", "help"].map(str::to_owned);
    editor.set_helper(Some(Verbs { verbs: verbs.chain(extra).collect() }));
    if let Some(path) = history_file() {
        // There is none before the first run.
        let _ = editor.load_history(&path);
    }
    Ok(editor)
}

/// `kvctl/history` in the user's directory for state, by the XDG rules.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("kvctl");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// Completes the first word of a line.
struct Verbs {
    verbs: Vec<String>,
}

impl Helper for Verbs {}
impl Highlighter for Verbs {}
impl Validator for Verbs {}
impl Hinter for Verbs {
    type Hint = String;
}

impl Completer for Verbs {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        end: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let begun = &line[..end];
        if begun.contains(char::is_whitespace) {
            return Ok((end, Vec::new()));
        }
        let begun = begun.to_lowercase();
        let fits = self.verbs.iter().filter(|verb| verb.starts_with(&begun));
        let pairs =
            fits.map(|verb| Pair { display: verb.clone(), replacement: format!("{verb} ") });
        Ok((0, pairs.collect()))
    }
}
