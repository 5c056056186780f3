//! What the clients of a run saw, judged by both checkers. They know nothing of servers, logs or the
//! ledger, so they also judge the simulator. Pure.
//!
//! A forced generation gives up what only the lost copies held, as its operator accepted: nothing
//! that spans it can be linearizable. So each generation is judged for itself. It begins with what
//! its ledger begins with; a call that was open at its beginning, or that is committed in it although
//! it ended before, may have any outcome in it.

use std::sync::Arc;

use bytes::Bytes;
use kvclient::ErrorKind;
use kvclient::attempts::Answer as Answered;
use kvclient::caller::Operation as Asked;
use kvproto::{
    Action, Change, Changed, Command, Entry, Generation, Outcome, Query, Record, Refusal, Timestamp,
};

use super::clients::Call as Made;
use super::ledger::value_of;
use super::visits::Path;
use super::world::World;
use crate::history::{Answer, Call, End, History, Operation, format, name};
use crate::linearizability::{self, Finding};
use crate::witness;

/// Steps that the search may take for one key. The histories of a run take some hundreds.
const STEPS_MAX: u64 = 300_000;

/// A generation and what it begins with.
#[derive(Debug, Default)]
pub struct Beginning {
    pub(super) generation: Generation,
    /// In microseconds.
    pub(super) at: u64,
    /// The op after which its own history begins.
    pub(super) base: u64,
    pub(super) records: Vec<(Bytes, Record)>,
}

impl World<'_> {
    /// Judges what the clients saw.
    pub(super) fn judge(&mut self) {
        let beginnings = std::mem::take(&mut self.ledgers.beginnings);
        let mut ends = beginnings.iter().skip(1).map(|next| next.at);
        for beginning in &beginnings {
            let end = ends.next().unwrap_or(u64::MAX);
            let history = self.history_of(beginning, end);
            if self.is_traced() {
                for call in &history.calls {
                    self.note(|| format!("history: {}", format::line(call)));
                }
            }
            self.judge_history(&history);
        }
    }

    fn judge_history(&mut self, history: &History) {
        let mistakes = history.calls.iter().find_map(|call| Some((call, call.mistake()?)));
        assert!(mistakes.is_none(), "the recorder of histories is wrong: {mistakes:?}");
        for (key, _, finding) in linearizability::check(history, STEPS_MAX).keys {
            match finding {
                Finding::Ok => {}
                Finding::Violation(account) => {
                    panic!("Linearizable: clients saw of key {}: {account}", name(&key))
                }
                Finding::NotDecided => self.visits.note(Path::NotDecided),
            }
        }
        if let Some(fault) = witness::check(history).first() {
            panic!("Linearizable: {fault}");
        }
    }

    fn history_of(&self, beginning: &Beginning, end: u64) -> History {
        let own = self.own_writes(beginning);
        let mut calls = Vec::new();
        for (key, record) in &beginning.records {
            let action = Action::Put(record.value.clone());
            let changed = Changed {
                version: record.version,
                existed: false,
                length: record.value.len() as u64,
            };
            calls.push(Call {
                process: u32::MAX,
                invoked: time(beginning.at),
                operation: Operation::Write(vec![Change { key: key.clone(), action }]),
                end: End::Done {
                    returned: time(beginning.at + 1),
                    answer: Answer::Changed(vec![changed]),
                    at: None,
                },
            });
        }
        for ((client, _), made) in &self.clients.calls {
            let Some(mut operation) = operation_of(&made.operation) else {
                continue;
            };
            let ended = made.end.as_ref().map_or(u64::MAX, |end| end.at);
            if made.invoked >= end {
                continue;
            }
            let before = made.invoked < beginning.at;
            if before {
                let Some((_, entry)) = own.iter().find(|(written, _)| made.is(written)) else {
                    continue;
                };
                // With the versions that it expects as they are called here.
                let command = Asked::Command(entry.command.clone());
                operation = operation_of(&command).unwrap_or(operation);
            }
            calls.push(Call {
                process: u32::try_from(*client).unwrap_or(u32::MAX),
                invoked: time(if before { beginning.at + 2 } else { made.invoked }),
                operation,
                end: if before || ended >= end { End::Unknown } else { end_of(made) },
            });
        }
        History { calls }
    }

    /// What was committed in this generation, by request, as its client knows it, or by value.
    fn own_writes(&self, beginning: &Beginning) -> Vec<(Written, &Arc<Entry>)> {
        let ledger = self.ledgers.of(beginning.generation);
        let entries = ledger.into_iter().flat_map(|ledger| ledger.after(beginning.base));
        entries
            .filter(|_| beginning.generation > Generation(1))
            .filter_map(|entry| match entry.id {
                Some(id) => {
                    let session = self.ledgers.first_name(id.session);
                    Some((Written::Request(session.0, id.number.0), entry))
                }
                None => {
                    let value = value_of(&entry.command).cloned();
                    value.map(|value| (Written::Value(value), entry))
                }
            })
            .collect()
    }
}

enum Written {
    Request(u64, u64),
    Value(Bytes),
}

impl Made {
    fn is(&self, written: &Written) -> bool {
        match (written, &self.operation) {
            (Written::Request(session, number), _) => {
                self.names.iter().any(|name| (name.0.0, name.1.0) == (*session, *number))
            }
            (Written::Value(value), Asked::Command(command)) => value_of(command) == Some(value),
            (Written::Value(_), _) => false,
        }
    }
}

fn operation_of(asked: &Asked) -> Option<Operation> {
    match asked {
        Asked::Query(Query::Get(keys)) => Some(Operation::Read(keys.clone())),
        Asked::Command(Command::Change(change)) => Some(Operation::Write(vec![change.clone()])),
        Asked::Command(Command::Batch(changes)) => Some(Operation::Write(changes.clone())),
        Asked::Command(_) | Asked::KeepAlive(_) => None,
    }
}

fn end_of(made: &Made) -> End {
    let Some(ended) = &made.end else {
        return End::Unknown;
    };
    let returned = time(ended.at);
    // A write that is answered from the table names a later op than the one that decided it.
    let at = ended.point.filter(|_| matches!(made.operation, Asked::Query(_)));
    let done = |answer| End::Done { returned, answer, at };
    match &ended.result {
        None => End::Unknown,
        Some(Ok(Answered::Records(records))) => done(Answer::Records(records.clone())),
        Some(Ok(Answered::Outcome(outcome))) => match outcome {
            Outcome::Changed(changed) => done(Answer::Changed(vec![*changed])),
            Outcome::BatchChanged(changed) => done(Answer::Changed(changed.clone())),
            Outcome::Refused(Refusal::ConditionFailed { record, change }) => {
                done(Answer::Refused { change: *change, record: record.clone() })
            }
            other => panic!("DoneIsDone: a write is answered with {other:?}"),
        },
        Some(Ok(Answered::KeptAlive(_))) => panic!("DoneIsDone: a lease for an answer"),
        Some(Err(error)) if *error.kind() == ErrorKind::OutcomeUnknown => End::Unknown,
        Some(Err(error)) => End::NotDone { returned, why: error.to_string() },
    }
}

fn time(micros: u64) -> Timestamp {
    Timestamp::from_nanos(micros * 1000)
}
