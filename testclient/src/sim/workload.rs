//! What random clients want: writes of every kind with values that are written once, reads, calls
//! that nobody waits for, long pauses, closed sessions. Pure.

use std::time::Duration;

use bytes::Bytes;
use kvclient::attempts::Repeat;
use kvclient::caller::Operation;
use kvproto::{Action, Change, Command, Expect, Query, Version};
use kvserver::replica::{Replica, event};

use super::network::Node;
use super::world::{Happening, MS, World};

/// Values under these keys are replaced; those under [`LISTS`] only grow.
const REGISTERS: [&str; 3] = ["r0", "r1", "r2"];
const LISTS: [&str; 2] = ["a0", "a1"];

/// Calls that a client has open at once.
const OPEN_MAX: usize = 3;

/// A list does not grow beyond about this, or the checks of every value would take the time.
const LIST_LENGTH_MAX: usize = 4000;

/// How much the clients have written.
#[derive(Debug, Default)]
pub struct Workload {
    writes: Vec<u64>,
}

fn bytes(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

impl World<'_> {
    pub(super) fn on_client_acts(&mut self, client: usize) {
        let calm = self.healed_at.is_some();
        let at = self.random.between(2, if calm { 300 } else { 60 }) * MS;
        self.later(at, Happening::ClientActs(client));
        let open = self.clients.open_calls(client);
        if open.len() >= OPEN_MAX || self.clients.is_frozen(client, self.now) {
            return;
        }
        if !calm {
            match self.random.below(1000) {
                // Long enough for a short session to expire.
                0..=2 => {
                    let length = self.random.between(100, 6000) * MS;
                    return self.freeze(client, length);
                }
                3..=6 => {
                    let patience = self.patience();
                    self.close_session(client, patience);
                    return;
                }
                7..=20 => {
                    if let Some(call) = self.random.pick(&open) {
                        return self.cancel((client, call));
                    }
                }
                _ => {}
            }
        }
        if self.random.chance(150)
            && let Some(node) = self.someone_who_believes_to_act()
        {
            // Another client, which knows a primary of its own and hears of no other.
            self.on_stray(node);
        }
        let patience = self.patience();
        if self.random.chance(350) {
            let query = Operation::Query(self.query());
            self.begin(client, query, Repeat::Harmless, patience);
            return;
        }
        let command = self.command(client);
        let is_put = matches!(&command, Command::Change(Change { action: Action::Put(_), .. }));
        let plain = is_put && self.random.chance(60);
        let repeat = if plain { Repeat::Twice } else { Repeat::Named };
        self.begin(client, Operation::Command(command), repeat, patience);
    }

    fn query(&mut self) -> Query {
        let count = self.random.between(1, 3);
        let all: Vec<&str> = REGISTERS.into_iter().chain(LISTS).collect();
        Query::Get((0..count).filter_map(|_| self.random.pick(&all)).map(bytes).collect())
    }

    /// Asks a server whether or not it is primary, as a client does whose view is out of date.
    pub(super) fn on_stray(&mut self, to: Node) {
        let client = self.random.below(self.clients.count());
        let query = self.query();
        self.ask_directly(client, to, event::Operation::Query(query));
    }

    /// A server that takes itself for the primary, rather one that is it no longer.
    fn someone_who_believes_to_act(&mut self) -> Option<Node> {
        let present = self.primary_node();
        let believers: Vec<Node> = (0..self.machines.len())
            .filter(|node| self.replica(*node).is_some_and(Replica::is_acting))
            .collect();
        let former = believers.iter().find(|node| Some(**node) != present).copied();
        former.or_else(|| self.random.pick(&believers))
    }

    fn patience(&mut self) -> Duration {
        let short = self.random.chance(300);
        let most = if short { 1000 } else { 10_000 };
        Duration::from_millis(self.random.between(100, most))
    }

    fn command(&mut self, client: usize) -> Command {
        self.workload.writes.resize(self.clients.count(), 0);
        self.workload.writes[client] += 1;
        let mut value = format!("<{client}.{}>", self.workload.writes[client]);
        if self.random.chance(10) {
            // Larger than many a window and chunk.
            let padding = self.random.between(100, 3000) as usize;
            value = format!("<{client}.{}{}>", self.workload.writes[client], "x".repeat(padding));
        }
        let register = self.random.pick(&REGISTERS).unwrap_or("r0");
        let list = self.random.pick(&LISTS).unwrap_or("a0");
        let append = Change { key: bytes(list), action: Action::Append(bytes(&value)) };
        let full = self.ledgers.present().length_of(&bytes(list)) > LIST_LENGTH_MAX;
        let put = Change { key: bytes(register), action: Action::Put(bytes(&value)) };
        let action = match self.random.below(12) {
            0 => Action::Delete,
            1 | 2 => {
                let new_value = Some(bytes(&value));
                Action::CompareAndSet { expect: self.expectation(register), new_value }
            }
            3..=5 => return Command::Change(put),
            6 if !full => return Command::Batch(vec![put, append]),
            _ if full => {
                return Command::Change(Change { key: bytes(list), action: Action::Delete });
            }
            _ => return Command::Change(append),
        };
        Command::Change(Change { key: bytes(register), action })
    }

    /// Mostly what is there, sometimes what is not.
    fn expectation(&mut self, key: &str) -> Expect {
        let op = self.ledgers.point().op.0;
        let back = self.random.between(0, 3);
        let record = self.ledgers.present().value_at(&bytes(key), op.saturating_sub(back));
        match (record, self.random.below(3)) {
            (Some(record), 0) => Expect::Value(record.value.into()),
            (Some(record), _) => Expect::Version(record.version),
            (None, 0) => Expect::Version(Version(op)),
            (None, _) => Expect::Missing,
        }
    }
}
