//! The tail that a forced generation keeps (VIEW-7, `docs/adr/0005-…`): its ops are ordered anew, and
//! what they say of each other is said by their new names. Pure: all of it follows from the tail, and
//! nothing of it is remembered afterwards.
//!
//! A version and a session are named by the op that made them. The ops of the tail get new positions,
//! since the old generation may have committed others under the old ones; so the names that they made
//! change with them, and an op behind that speaks of one must speak of it by its new name, or it is
//! refused although it may have been acknowledged elsewhere. Names from before the tail stay what they
//! are, and so do names that mean nothing in it.
//!
//! Nobody outside can use the old names any more: another op of the old generation may have made the
//! same ones. A client that holds such a session hears that it has expired, so nothing of it is done
//! twice; one that expects such a version hears that another is there. A request of a session from
//! before the tail is still recognised, by the names that its client used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvproto::command::{Command, Entry, RequestId};
use kvproto::ids::{Position, SessionId, Version};
use kvproto::rules::{Rule, keeps};
use kvproto::time::LogTime;

use crate::replica::copy::Copy;
use crate::replica::effect::Effect;

/// Takes what is to be ordered anew out of the log: in a forced generation all that its server does
/// not know to be committed, otherwise nothing. The caller appends it again in the same step.
pub(super) fn take(copy: &mut Copy, out: &mut Vec<Effect>) -> Vec<Arc<Entry>> {
    let present = copy.log.last().epoch.generation == copy.view.generation;
    if present || !keeps(Rule::ForcedTailIsNamedAnew) {
        return Vec::new();
    }
    let tail = copy.log.from(copy.committed.next(), usize::MAX);
    copy.drop_after(copy.committed, out);
    tail
}

/// The ops of a tail, in their order, after the barrier of the new generation.
///
/// What no client asked for is not ordered again. Above all no expiry: another primary may have kept
/// the session alive since, and every session has a full lease now. But what came after it in that
/// session was refused, its client may have heard so and have asked for the same in another one: that
/// is not ordered again either.
pub(super) fn ordered_anew(tail: &[Arc<Entry>], barrier: Position, at: LogTime) -> Vec<Arc<Entry>> {
    let mut names = Names::default();
    let mut ended = BTreeSet::new();
    let mut last = barrier;
    let mut ordered = Vec::new();
    for entry in tail {
        match entry.command {
            Command::Barrier => continue,
            Command::ExpireSession(session) => {
                ended.insert(session);
                continue;
            }
            _ => {}
        }
        let is_over = |id: &RequestId| ended.contains(&id.session);
        if entry.id.as_ref().is_some_and(is_over) && keeps(Rule::EndedInTheTail) {
            continue;
        }
        last.op = last.op.next();
        let (id, command) = names.applied_to(entry);
        names.add(entry, last);
        ordered.push(Arc::new(Entry { position: last, at, id, command }));
    }
    ordered
}

/// The names that ops of the tail made, and what they are called now.
#[derive(Default)]
struct Names {
    sessions: BTreeMap<SessionId, SessionId>,
    versions: BTreeMap<Version, Version>,
}

impl Names {
    /// An op got another position.
    fn add(&mut self, entry: &Entry, now: Position) {
        if !keeps(Rule::ForcedTailKeepsItsNames) {
            return;
        }
        let session = |at: Position| SessionId::allocated_at(at.epoch.generation, at.op);
        let version = |at: Position| Version::of_change_at(at.epoch.generation, at.op);
        if entry.command == Command::OpenSession {
            self.sessions.insert(session(entry.position), session(now));
        }
        if !entry.command.changes().is_empty() {
            self.versions.insert(version(entry.position), version(now));
        }
    }

    /// What an op asks for, by the names of now.
    fn applied_to(&self, entry: &Entry) -> (Option<RequestId>, Command) {
        let (mut id, mut command) = (entry.id, entry.command.clone());
        command.rename_versions(|version| self.versions.get(&version).copied());
        if let Command::CloseSession(session) = &mut command
            && let Some(now) = self.sessions.get(session)
        {
            // Asked for in another session, a repetition would not be taken for the same. It does no
            // harm, so nothing of it is recorded.
            id = id.filter(|id| id.session == *session);
            *session = *now;
        }
        if let Some(id) = &mut id
            && let Some(now) = self.sessions.get(&id.session)
        {
            id.session = *now;
        }
        (id, command)
    }
}

#[cfg(test)]
mod tests;
