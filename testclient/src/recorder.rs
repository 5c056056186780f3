//! Makes calls and writes them down, line by line, for `testclient check`.
//!
//! A call whose future is dropped is written down as unknown. Only what is in flight when the whole
//! program is killed is missing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use kvclient::{Client, Error, ErrorKind};
use kvproto::{Change, Changed, Record, Timestamp};

use crate::history::{Answer, Call, End, Operation, format};

/// A history on its way into a file.
pub struct Recorder {
    file: Mutex<BufWriter<File>>,
}

impl Recorder {
    /// Starts a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(path: &Path) -> Result<Recorder> {
        let context = || format!("write --history {}", path.display());
        let mut file = BufWriter::new(File::create(path).with_context(context)?);
        writeln!(file, "{}", format::header()).with_context(context)?;
        Ok(Recorder { file: Mutex::new(file) })
    }

    /// Makes a write, as one.
    ///
    /// # Errors
    /// As the client's `batch`.
    pub async fn write(
        &self,
        process: u32,
        client: &Client,
        changes: Vec<Change>,
    ) -> Result<Vec<Changed>, Error> {
        let open = self.open(process, Operation::Write(changes.clone()));
        let result = client.batch(changes).await;
        open.end(match &result {
            Ok(changed) => Ok(Answer::Changed(changed.clone())),
            Err(error) => match error.kind() {
                ErrorKind::ConditionFailed { change, record } => {
                    Ok(Answer::Refused { change: *change, record: record.clone() })
                }
                _ => Err(error),
            },
        });
        result
    }

    /// Reads keys, as of one moment.
    ///
    /// # Errors
    /// As the client's `get_many`.
    pub async fn read(
        &self,
        process: u32,
        client: &Client,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<Record>>, Error> {
        let open = self.open(process, Operation::Read(keys.clone()));
        let result = client.get_many(keys).await;
        open.end(result.as_ref().map(|records| Answer::Records(records.clone())));
        result
    }

    /// Writes out what is still in memory.
    ///
    /// # Errors
    /// When the file could not be written, now or before.
    pub fn finish(&self) -> Result<()> {
        self.lock().flush().context("write the history")
    }

    fn open(&self, process: u32, operation: Operation) -> Open<'_> {
        let call = Call { process, invoked: now(), operation, end: End::Unknown };
        Open { recorder: self, call }
    }

    fn note(&self, call: &Call) {
        // A full disk shows when the file is finished.
        let _ = writeln!(self.lock(), "{}", format::line(call));
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<File>> {
        // Whole lines: valid whatever happened to another holder.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight; written down when it is dropped, however that comes about.
struct Open<'a> {
    recorder: &'a Recorder,
    call: Call,
}

impl Open<'_> {
    fn end(mut self, result: Result<Answer, &Error>) {
        let returned = now();
        self.call.end = match result {
            Ok(answer) => End::Done { returned, answer, at: None },
            Err(error) if error.is_certainly_not_done() => {
                End::NotDone { returned, why: error.to_string() }
            }
            Err(_) => End::Unknown,
        };
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.recorder.note(&self.call);
    }
}

fn now() -> Timestamp {
    kvprocess::clock::now()
}
