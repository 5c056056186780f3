//! What full servers and operators ask of the view service, turned into a command or a refusal
//! that says what to do. Pure.

use std::time::Duration;

use kvproto::limits::SILENCE_BEFORE_FORCE;
use kvproto::registration::{NotMet, PROTOCOL_LEVEL, RefusedReason, Registration, Wish};
use kvproto::{Generation, Member, OpNumber, Rule, ServerName, Timestamp, ViewNumber, keeps};

use super::door::Door;
use super::law::{Command, Kind, Mode, NAME_SIZE_MAX, Shown, ViewId, ViewState};
use super::liveness::{Liveness, State};
use super::planner::{self, Remedy};
use super::proof;

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It begins a life under this command; its former life, if any, is over.
    Begins {
        /// The life that ended.
        former: Option<Member>,
        /// Registers the new one.
        command: Command,
    },
    /// It goes on with its present life.
    Resumes(Member),
    /// It must not attend.
    Refused(RefusedReason, String),
    /// It must not attend as long as this one lives, which has its name or its storage.
    InUse(Member, String),
    /// What it shows proves another past. It must not attend, and this is to be kept.
    Doubts(Box<Shown>),
}

/// VIEW-6: whether a server may attend. A new life is refused while the older one lives.
#[must_use]
pub fn register(
    state: &ViewState,
    liveness: &Liveness,
    door: &Door,
    asked: &Registration,
    now: Timestamp,
) -> Admission {
    let refused = |reason, message: String| Admission::Refused(reason, message);
    let name = &asked.name;
    if asked.protocol_level < PROTOCOL_LEVEL {
        return refused(
            RefusedReason::Incompatible,
            format!(
                "{name} speaks protocol level {}, this cluster needs {PROTOCOL_LEVEL}: upgrade the \
                 server",
                asked.protocol_level
            ),
        );
    }
    if !(1..=NAME_SIZE_MAX).contains(&name.as_str().len()) {
        return refused(
            RefusedReason::Incompatible,
            format!("a server name has 1 to {NAME_SIZE_MAX} bytes: change --advertise"),
        );
    }
    if let Some(admission) = proof::gate(state, door, asked, now) {
        return admission;
    }
    if let Some(other) = asked.cluster.filter(|id| *id != state.view().cluster) {
        return refused(
            RefusedReason::WrongCluster,
            format!(
                "{name} belongs to cluster {other}, this is {}: name the right view service with \
                 --vs; or, if the view service of {other} is lost for good, take the data along: \
                 `kvserver journal export`, then `kvctl snapshot restore` for a new cluster; or \
                 start with another --data-dir, empty",
                state.view().cluster
            ),
        );
    }
    if let Some(refusal) = refused_for_its_data(state, liveness, asked) {
        return refusal;
    }
    if state.kind() == Some(Kind::Plain) {
        return refused(
            RefusedReason::WrongKind,
            format!("the cluster is made of lab-style servers: {name} cannot join it"),
        );
    }
    let present = state.present(name);
    match (asked.incarnation, present) {
        // Without its number it is a process that never heard the answer to its registration.
        (claimed, Some(member))
            if state.life(&member) == Some(asked.life)
                && claimed.map_or(!asked.life.is_none(), |it| it == member.incarnation)
                && proof::may_resume(state, asked, &member) =>
        {
            Admission::Resumes(member)
        }
        (Some(life), _) => proof::not_resumed(state, asked, life),
        (None, Some(member)) if !gives_its_name(state, liveness, &member, asked) => {
            let message = in_use(state, liveness, &member, asked);
            Admission::InUse(member, message)
        }
        (None, former) => Admission::Begins {
            command: Command::Register {
                name: name.clone(),
                kind: Kind::Full,
                replaces: former.as_ref().map(|member| member.incarnation),
                life: asked.life,
                held: asked.held.clone(),
            },
            former,
        },
    }
}

/// VIEW-6: whether this life is over for a newcomer under its name. That the newcomer answers at the
/// address ends a life whose stream is broken and whose storage it brings: nobody else can be there who
/// has it. Any other has to be dead, and is succeeded by another storage only where that is met.
fn gives_its_name(
    state: &ViewState,
    liveness: &Liveness,
    former: &Member,
    asked: &Registration,
) -> bool {
    let is_met = liveness.meetings.is_met(&asked.process());
    let storage = asked.held.as_ref().map(|held| held.storage);
    let brings_it = storage.is_some() && storage == state.storage(former)
        || !keeps(Rule::MeetingEndsItsOwnStorage);
    if is_met && brings_it && liveness.has_no_stream(former) {
        return true;
    }
    // Nobody misses a server that has no part, least of all where it never was.
    let has_no_part = !state.is_needed(&former.name) && !planner::was_met(state, liveness, former);
    let may_come = is_met || brings_it || !keeps(Rule::AnotherStorageIsMet);
    may_come && (is_over(state, liveness, former) || is_met && has_no_part)
}

/// Whether a life is dead, of an eligible one: by its silence, which an address that refuses does not
/// prove, since it may have moved.
fn is_over(state: &ViewState, liveness: &Liveness, life: &Member) -> bool {
    let is_silent = !state.view().eligible.contains(life)
        || liveness.is_silent(life)
        || !keeps(Rule::EligibleEndsBySilence);
    liveness.is_dead(life) && is_silent
}

/// What a newcomer waits for whose name is taken, in words for its operator.
fn in_use(state: &ViewState, liveness: &Liveness, former: &Member, asked: &Registration) -> String {
    let dead_after = state.view().settings.dead_after;
    let taken = if liveness.is_dead(former) {
        format!(
            "{former} has this name: another gets it when it was met there, and {former} silent \
                 for {dead_after:?}"
        )
    } else {
        format!(
            "{former} attends under this name and is not known to be dead: stop it, choose another \
             --advertise, or try again when it was silent for {dead_after:?}"
        )
    };
    match liveness.meetings.why_not(&asked.process()) {
        Some(why) => format!("{taken}; {}", not_met(&asked.name, why)),
        None => taken,
    }
}

/// Why a server has no part, in words for its operator.
#[must_use]
pub fn not_met(name: &ServerName, why: &NotMet) -> String {
    format!("this server announces {name}, where {why}: check --advertise")
}

/// What the server holds does not fit the cluster, or somebody who lives holds it.
fn refused_for_its_data(
    state: &ViewState,
    liveness: &Liveness,
    asked: &Registration,
) -> Option<Admission> {
    let name = &asked.name;
    let refused = |reason, message: String| Some(Admission::Refused(reason, message));
    match (state.mode(), &asked.held) {
        (Some(Mode::Durable), None) => {
            return refused(
                RefusedReason::WrongMode,
                format!(
                    "the servers of this cluster keep their data on disk: start {name} without \
                     --in-memory"
                ),
            );
        }
        (Some(Mode::InMemory), Some(_)) => {
            return refused(
                RefusedReason::WrongMode,
                format!(
                    "the servers of this cluster keep their data in memory, as its first server \
                     decided: start {name} with --in-memory (docs/backup.md, \"From memory to disk\", \
                     says how to change that)"
                ),
            );
        }
        _ => {}
    }
    let held = asked.held.as_ref().filter(|_| asked.incarnation.is_none())?;
    if state.ever_activated() && asked.cluster.is_none() && held.last.op > OpNumber(0) {
        return refused(
            RefusedReason::WrongCluster,
            format!(
                "{name} begins with restored data, but this cluster has data of its own: restore \
                 into a new cluster (a view service with an empty --data-dir, and this server \
                 first), or start {name} with another --data-dir"
            ),
        );
    }
    let others: Vec<_> = state.servers().filter(|other| other.name != *name).collect();
    if let Some(other) = others.iter().find(|other| state.began_with_data(other))
        && !state.ever_activated()
        && held.last.op > OpNumber(0)
    {
        // Their positions may be of another past, and of a newer generation than it begins with.
        return refused(
            RefusedReason::WrongCluster,
            format!(
                "{name} begins with restored data, but this cluster begins with that of {other}: \
                 start {name} with another --data-dir, empty"
            ),
        );
    }
    // Not only of one that could stand for it: two lives of one storage are told apart by nobody.
    let of_same_storage = |other: &Member| state.storage(other) == Some(held.storage);
    let holder =
        others.iter().find(|other| of_same_storage(other) && !is_over(state, liveness, other))?;
    let message = format!(
        "{holder} lives and has the same storage {}: a data directory must not be copied; stop \
         one of the two, or start {name} with another --data-dir",
        held.storage
    );
    Some(Admission::InUse(holder.clone(), message))
}

/// What becomes of a wish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Granted {
    /// The law decides.
    Propose(Command),
    /// The law decides; if it agrees, this server counts as evicted.
    Evict(Command, Member),
    /// This backup counts as slow; the planner goes on from there.
    Slow(Member),
    /// The sender counts as leaving; the planner goes on from there.
    Leaving,
    /// Nobody could take over from the sender.
    NobodyToTakeOver,
    /// It no longer fits the view.
    Nothing,
}

/// What becomes of the wish of an attending server.
#[must_use]
pub fn wish(
    state: &ViewState,
    liveness: &Liveness,
    by: &Member,
    wish: Wish,
    now: Timestamp,
) -> Granted {
    let id = |generation: Generation, number: ViewNumber| ViewId { generation, number };
    let speaks_for_the_view = |generation: Generation, number: ViewNumber| {
        state.view_id() == id(generation, number) && state.view().is_primary(by)
    };
    match wish {
        Wish::Activate { generation, number, reconciled } => Granted::Propose(Command::Activate {
            by: by.clone(),
            view: id(generation, number),
            reconciled,
        }),
        Wish::Synced { generation, number, server } => Granted::Propose(Command::Synced {
            by: by.clone(),
            view: id(generation, number),
            server,
        }),
        Wish::Evict { generation, number, server, acknowledges, .. } => {
            if !speaks_for_the_view(generation, number) {
                return Granted::Nothing;
            }
            let remedy = if acknowledges && state.view().backups.contains(&server) {
                planner::remedy(state, liveness, &server, now)
            } else {
                Remedy::LeaveOut
            };
            match (remedy, planner::without(state, liveness, &server, now)) {
                (Remedy::Replace, _) => Granted::Slow(server),
                (Remedy::LeaveOut, Some(command)) => Granted::Evict(command, server),
                _ => Granted::Nothing,
            }
        }
        Wish::Yield { generation, number, to, .. } => {
            if !speaks_for_the_view(generation, number) {
                return Granted::Nothing;
            }
            match planner::yielded(state, liveness, &to, now) {
                Some(command) => Granted::Evict(command, by.clone()),
                None => Granted::Nothing,
            }
        }
        Wish::Leave if state.doubt().is_some() && state.view().is_primary(by) => {
            Granted::NobodyToTakeOver
        }
        Wish::Leave if state.view().is_primary(by) => match planner::successor(state, liveness) {
            Some(other) if liveness.state(&other) == State::Alive => Granted::Leaving,
            _ => Granted::NobodyToTakeOver,
        },
        Wish::Leave => Granted::Leaving,
    }
}

/// VIEW-7, VIEW-8: whether the operator may start a new generation from this server's data.
///
/// # Errors
/// What to do first, in words for the operator.
pub fn force(
    state: &ViewState,
    liveness: &Liveness,
    door: &Door,
    server: &ServerName,
    now: Timestamp,
) -> Result<Command, String> {
    if state.doubt().is_some() {
        return proof::force(state, liveness, door, server, now);
    }
    let view = state.view();
    let Some(member) = state.present(server) else {
        return Err(format!("no server {server} is registered: start it first"));
    };
    if liveness.is_dead(&member) {
        return Err(format!("{server} is not alive: start it first"));
    }
    for old in &view.eligible {
        if !state.is_present(old) || liveness.is_gone(old) {
            continue;
        }
        if !liveness.is_dead(old) {
            return Err(format!(
                "{} is heard and holds every committed op: nothing needs to be lost",
                old.name
            ));
        }
        let unheard = liveness.unheard_for(old, now).unwrap_or(Duration::ZERO);
        if unheard < SILENCE_BEFORE_FORCE {
            return Err(format!(
                "{} was heard {:.1} s ago and may still be serving: stop it, then try again in \
                 {:.1} s",
                old.name,
                unheard.as_secs_f32(),
                (SILENCE_BEFORE_FORCE - unheard).as_secs_f32()
            ));
        }
    }
    Ok(Command::Force { after: state.view_id(), server: member })
}
