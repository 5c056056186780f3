//! Command line, environment and configuration file of a program, in this order of precedence, and
//! then the defaults.
//!
//! A program declares its flags with clap. On top of what clap does, long flags work with one dash
//! (`-addr a`, `-addr=a`), and a flag declared as `config: Option<PathBuf>` names a TOML file whose
//! keys are the long flags: what neither command line nor environment say is taken from there.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, Parser};
use toml::{Table, Value};

/// Parses the arguments of this process. On an error, and for `--help` and `--version`, it says so
/// and exits: errors to stderr with 2, the others to stdout with 0.
#[must_use]
pub fn parse<T: Parser>() -> T {
    try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses these arguments, the first of which is the name of the program.
///
/// # Errors
/// Anything that should end the program: what is wrong with a flag, an environment variable or the
/// configuration file; or the text of `--help` and `--version`.
pub fn try_parse_from<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, Error> {
    let mut command = T::command();
    command.build();
    let line = Line::read(&command, args);
    // Without the file first: to learn where it is and what needs nothing from it, and so that a
    // mistake on the command line is not blamed on the file.
    let (given, incomplete) = match T::command().try_get_matches_from(&line.words) {
        Ok(matches) => (matches, false),
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            let lenient = T::command().ignore_errors(true);
            (lenient.try_get_matches_from(&line.words)?, true)
        }
        Err(error) => return Err(error),
    };
    let Some(path) = config_path(&given) else {
        return T::try_parse_from(line.words);
    };
    let blame = |kind: ErrorKind, what: &str| {
        Error::raw(kind, format!("--config {}: {}\n", path.display(), what.trim_end()))
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| blame(ErrorKind::Io, &format!("cannot read the file: {error}")))?;
    let table = text
        .parse::<Table>()
        .map_err(|error| blame(ErrorKind::InvalidValue, &format!("not TOML: {error}")))?;
    let words = line
        .with_file(&command, &given, table)
        .map_err(|what| blame(ErrorKind::InvalidValue, &what))?;
    T::try_parse_from(words).map_err(|error| {
        if incomplete && error.kind() == ErrorKind::MissingRequiredArgument {
            return error;
        }
        let text = error.render().to_string();
        blame(error.kind(), text.strip_prefix("error: ").unwrap_or(&text))
    })
}

fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    let here = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let below = || matches.subcommand().and_then(|(_, below)| config_path(below));
    here.cloned().or_else(below)
}

/// A command line whose long flags all have two dashes.
struct Line<'a> {
    words: Vec<OsString>,
    /// The command and the subcommands that the line names, outermost first.
    levels: Vec<Level<'a>>,
}

struct Level<'a> {
    command: &'a Command,
    /// Index of the first word that may be a flag of this command.
    flags_at: usize,
}

impl<'a> Line<'a> {
    fn read(command: &'a Command, args: impl IntoIterator<Item = OsString>) -> Self {
        let mut line = Line { words: Vec::new(), levels: vec![Level { command, flags_at: 1 }] };
        let mut args = args.into_iter();
        line.words.extend(args.next());
        // Words that belong to the flag before them, whatever they look like.
        let mut values = 0;
        for word in args.by_ref() {
            if word == "--" {
                line.words.push(word);
                break;
            }
            if values > 0 {
                values -= 1;
                line.words.push(word);
                continue;
            }
            let (word, wanted) = line.classify(word);
            values = wanted;
            line.words.push(word);
        }
        line.words.extend(args);
        line.levels[0].flags_at = line.words.len().min(1);
        line
    }

    /// The word as clap wants it, and how many words after it are its values.
    fn classify(&mut self, word: OsString) -> (OsString, usize) {
        let Some(text) = word.to_str() else {
            return (word, 0);
        };
        let Some(flag) = text.strip_prefix('-') else {
            let innermost = self.levels.last().map(|level| level.command);
            if let Some(command) = innermost.and_then(|command| command.find_subcommand(text)) {
                let flags_at = self.words.len() + 1;
                self.levels.push(Level { command, flags_at });
            }
            return (word, 0);
        };
        let long = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        // A single letter after one dash is always a short flag.
        let may_be_long = flag.starts_with('-') || name.chars().count() > 1;
        if may_be_long && let Some(arg) = self.find(|arg| longs(arg).any(|it| it == name)) {
            let wanted = if value.is_some() { 0 } else { values_of(arg) };
            return (format!("--{long}").into(), wanted);
        }
        let wanted = if flag.starts_with('-') { 0 } else { self.values_of_shorts(flag) };
        (word, wanted)
    }

    /// In a cluster of short flags the first that takes a value takes the rest of the word, or if
    /// there is none the words that follow.
    fn values_of_shorts(&self, cluster: &str) -> usize {
        let mut letters = cluster.chars();
        while let Some(letter) = letters.next() {
            let arg = self.find(|arg| arg.get_short() == Some(letter));
            let wanted = arg.map_or(0, values_of);
            if wanted > 0 {
                return if letters.as_str().is_empty() { wanted } else { 0 };
            }
        }
        0
    }

    fn find(&self, wanted: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
        let mut levels = self.levels.iter().rev();
        levels.find_map(|level| level.command.get_arguments().find(|arg| wanted(arg)))
    }

    /// The words, with flags from the file inserted where neither command line nor environment say
    /// anything.
    fn with_file(
        self,
        root: &Command,
        given: &ArgMatches,
        table: Table,
    ) -> Result<Vec<OsString>, String> {
        let mut matches = Some(given);
        let mut by_level: Vec<_> = self
            .levels
            .iter()
            .map(|level| {
                let here = matches;
                matches = here.and_then(|here| here.subcommand().map(|(_, below)| below));
                (level, here, Vec::new())
            })
            .collect();
        for (key, value) in table {
            let owner = by_level.iter_mut().find_map(|(level, given, flags)| {
                let arg = flag_of(level.command, &key)?;
                Some((arg, *given, flags))
            });
            let Some((arg, given, flags)) = owner else {
                if known_below(root, &key) {
                    continue; // The flag of a subcommand that is not used this time.
                }
                return Err(format!(
                    "unknown key '{key}'; keys are the long flags without dashes, see --help"
                ));
            };
            let source = given.and_then(|given| given.value_source(arg.get_id().as_str()));
            if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
                flags.extend(as_flags(arg, &key, value)?);
            }
        }
        let inserts: Vec<_> =
            by_level.into_iter().map(|(level, _, flags)| (level.flags_at, flags)).collect();
        let mut words = self.words;
        for (at, flags) in inserts.into_iter().rev() {
            words.splice(at..at, flags);
        }
        Ok(words)
    }
}

fn longs(arg: &Arg) -> impl Iterator<Item = &str> {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases)
}

/// How many words after the flag are certainly its values.
fn values_of(arg: &Arg) -> usize {
    if arg.get_action().takes_values() {
        arg.get_num_args().map_or(1, |range| range.min_values())
    } else {
        0
    }
}

/// The flag of this command that a key of the file may set.
fn flag_of<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        let settable = matches!(
            arg.get_action(),
            ArgAction::Set
                | ArgAction::Append
                | ArgAction::SetTrue
                | ArgAction::SetFalse
                | ArgAction::Count
        );
        settable && arg.get_id() != "config" && arg.get_long() == Some(key)
    })
}

fn known_below(command: &Command, key: &str) -> bool {
    flag_of(command, key).is_some()
        || command.get_subcommands().any(|below| known_below(below, key))
}

/// The words on the command line that would mean the same.
fn as_flags(arg: &Arg, key: &str, value: Value) -> Result<Vec<OsString>, String> {
    let flag = |value: &str| OsStr::new(&format!("--{key}={value}")).to_owned();
    let bare = || OsString::from(format!("--{key}"));
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(yes)) => Ok(yes.then(bare).into_iter().collect()),
        (ArgAction::SetFalse, Value::Boolean(yes)) => Ok((!yes).then(bare).into_iter().collect()),
        (ArgAction::SetTrue | ArgAction::SetFalse, other) => {
            Err(format!("invalid value {other} for '{key}': it must be true or false"))
        }
        (ArgAction::Count, Value::Integer(times @ 0..=255)) => {
            Ok((0..times).map(|_| bare()).collect())
        }
        (ArgAction::Count, other) => {
            Err(format!("invalid value {other} for '{key}': it must be a number from 0 to 255"))
        }
        (ArgAction::Append, Value::Array(items)) => {
            items.into_iter().map(|item| Ok(flag(&scalar(key, item)?))).collect()
        }
        (_, Value::Array(items)) => {
            let items: Result<Vec<_>, _> =
                items.into_iter().map(|item| scalar(key, item)).collect();
            Ok(vec![flag(&items?.join(","))])
        }
        (_, value) => Ok(vec![flag(&scalar(key, value)?)]),
    }
}

fn scalar(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Table(_) => Err(format!(
            "invalid value for '{key}': it must be a text, a number, true or false, or a list of \
             these"
        )),
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
