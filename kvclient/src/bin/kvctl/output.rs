//! How results and failures leave the program: text or JSON on stdout, messages on stderr, one exit
//! code.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvclient::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::cli::Format;

/// Failed.
pub(crate) const FAILED: i32 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: i32 = 2;
/// Not found, or the condition is false.
pub(crate) const NOT_FOUND: i32 = 3;
/// No primary, or nobody reachable.
pub(crate) const UNAVAILABLE: i32 = 4;
/// The deadline has passed and the outcome is unknown.
pub(crate) const UNKNOWN: i32 = 5;
/// Interrupted by Ctrl-C.
pub(crate) const INTERRUPTED: i32 = 130;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    code: i32,
    /// For stderr; raw, because it may quote a value. Empty when nobody would read it.
    message: Vec<u8>,
}

impl Failure {
    pub(crate) fn new(code: i32, message: impl Into<Vec<u8>>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<Vec<u8>>) -> Self {
        Self::new(FAILED, message)
    }

    /// Says on stderr what happened, and returns the exit code.
    pub(crate) fn report(&self) -> i32 {
        if !self.message.is_empty() {
            let mut text = self.message.clone();
            text.push(b'\n');
            // Nothing can be done when even stderr is gone.
            let _ = io::stderr().write_all(&text);
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Refused => FAILED,
            ErrorKind::ConditionFailed { .. } => NOT_FOUND,
            ErrorKind::Unavailable => UNAVAILABLE,
            ErrorKind::OutcomeUnknown => UNKNOWN,
        };
        Self::new(code, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough, as in `kvctl dump | head`.
            return Self::failed("");
        }
        Self::failed(format!("write the result: {error}"))
    }
}

/// Where results go.
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints a result: lazily made text, or JSON in one line.
    pub(crate) fn print(
        &self,
        text: impl FnOnce() -> Vec<u8>,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        let mut line = match self.format {
            Format::Text => text(),
            Format::Json => json().to_string().into_bytes(),
        };
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        Ok(stdout.flush()?)
    }

    /// Text on stderr, for people who see the result on stdout.
    pub(crate) fn remark(&self, text: &str) {
        // A remark that nobody can read is not worth a failure.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Columns of the terminal that shows results; `None` when they go elsewhere.
pub(crate) fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let editor = rustyline::DefaultEditor::new().ok();
    let (columns, _) = editor.and_then(|mut editor| editor.dimensions())?;
    Some(usize::from(columns)).filter(|columns| *columns > 0)
}

/// Bytes as JSON: a string if they are UTF-8, else `{"b64": "…"}`.
pub(crate) fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "b64": STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_become_base64_in_json() {
        assert_eq!(bytes_json("é".as_bytes()), json!("é"));
        assert_eq!(bytes_json(&[0xff, 0x00]), json!({ "b64": "/wA=" }));
    }
}
