//! The law of views: a deterministic `apply(command)` that refuses whatever is not allowed.
//! Pure: no clock, no I/O, no opinion about who lives. Every command names what it was based on (a
//! view, an incarnation), so a late, repeated or reordered one is refused or changes nothing.
//!
//! Its caller owes it one thing: the same commands in the same order wherever the state is kept.
//!
//! Keeps VIEW-1 to VIEW-8 (docs/protocol.md; VIEW-6 in `returning.rs`, VIEW-8 in `past.rs` and
//! `doubt.rs`), and asserts after every command:
//! - **OneRecordPerRevision**: a record changes only together with its revision, which rises by one.
//! - **NumbersRiseByOne**: the number rises by one, only when primary, backups or generation really
//!   change; the generation rises by at most one and never without the number. What ends a doubt rises
//!   above everything that was shown.
//! - **PrimaryIsComplete**: once a view was ever activated, a new primary is eligible.
//! - **ActivatedIsClosed**: in an activated view the primary is eligible, and every eligible server
//!   is a member, but for lives that are over and those that came back with their data.
//! - **EligibleIsEarned**: nobody becomes eligible but a backup declared synced, the primary of the
//!   first activation, and the server that a forced generation starts from. One that comes back with
//!   its data takes the place of its own former life.
//! - **EpochNamesOnePrimary**: epoch and primary incarnation change together.
//! - **NobodyTwice**: no server name stands twice in a view.
//! - **IncarnationsAreNew**: an incarnation is given once, to one name.
//! - **DoubtChangesNoRecord**: in doubt there is no new record.

use std::collections::{BTreeMap, BTreeSet};

use kvproto::registration::{Held, Process};
use kvproto::{
    ClusterId, Epoch, Generation, History, Incarnation, LifeId, Member, OpNumber, Position,
    Revision, Rule, ServerName, Settings, StorageId, View, ViewNumber, ViewStatus, keeps,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod doubt;
mod invariants;
mod past;
mod returning;
#[cfg(test)]
pub(super) mod tests;

pub use doubt::{Believed, Doubt, Shown};
pub use past::PAST_KEPT;
use past::Past;

/// Most servers registered at once. A view has at most 16; the rest are spares and servers that
/// are gone and not yet forgotten.
pub const SERVERS_MAX: usize = 1024;

/// Longest name of a server in bytes; a host name has at most 253, a port at most 5.
pub const NAME_SIZE_MAX: usize = 260;

/// How the servers of a cluster talk to the view service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Registers, attends and reports.
    Full,
    /// Sends the pings of the lab, nothing else.
    Plain,
}

/// Where the servers of a cluster keep what was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Synced to disk: a server that comes back with its data may be the member that it was.
    Durable,
    /// In memory only: a server that restarts is a new one.
    InMemory,
}

/// Names one view; what commands are conditional on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ViewId {
    /// Its generation.
    pub generation: Generation,
    /// Its number.
    pub number: ViewNumber,
}

impl ViewId {
    /// The id of this record's view.
    #[must_use]
    pub fn of(view: &View) -> ViewId {
        ViewId { generation: view.generation, number: view.number }
    }
}

/// Something to be done, if the law allows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Command {
    /// A server begins a life. Whether its former life is over is for the proposer to know.
    Register {
        /// Its address.
        name: ServerName,
        /// How it talks.
        kind: Kind,
        /// The incarnation it had when this was proposed, so that a repetition ends nobody.
        replaces: Option<Incarnation>,
        /// Which process it is; all zero for a plain server. Without it two processes that are
        /// registered in the same place after a roll-back would make the same history.
        life: LifeId,
        /// What it has on disk; `None` in memory. Whether the life that left it is over is for the
        /// proposer to know.
        held: Option<Held>,
    },
    /// A registered server outside the view is struck off the list.
    Forget {
        /// Which life of it.
        server: Member,
    },
    /// A plain server has pinged with a number other than 0: from now on 0 means "restarted".
    Adopted {
        /// Which server.
        by: Member,
    },
    /// VIEW-3: another configuration.
    Propose {
        /// The view that it replaces.
        after: ViewId,
        /// Its primary.
        primary: Member,
        /// Its backups in order of appointment.
        backups: Vec<Member>,
    },
    /// VIEW-4: the primary of the view has reconciled its members.
    Activate {
        /// The sender.
        by: Member,
        /// Which view.
        view: ViewId,
        /// Backups that hold exactly the primary's log.
        reconciled: Vec<Member>,
    },
    /// VIEW-5: a joining backup holds everything.
    Synced {
        /// The sender.
        by: Member,
        /// In which view.
        view: ViewId,
        /// The backup.
        server: Member,
    },
    /// The primary of an activated view says how far it has committed.
    Heard {
        /// The sender.
        by: Member,
        /// In which view.
        view: ViewId,
        /// Committed through here.
        committed: OpNumber,
    },
    /// VIEW-7: the operator accepts the loss of what this server does not hold.
    Force {
        /// The view that it replaces.
        after: ViewId,
        /// The only server that the new generation starts from.
        server: Member,
    },
    /// VIEW-8: a server shows what this state does not descend from.
    Doubt {
        /// What it shows.
        shown: Shown,
    },
    /// VIEW-8: the operator ends the doubt, and accepts the loss of what this server does not hold.
    Believe {
        /// The view that it replaces.
        after: ViewId,
        /// The only server that the new generation starts from.
        whom: Believed,
    },
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The server has this identity from now on.
    Registered(Member),
    /// The state changed.
    Changed,
    /// It was so already.
    Unchanged,
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The command was based on something that is no longer so: look again.
    #[error("it is based on {based_on}, but the state has moved on")]
    Overtaken {
        /// What it was based on.
        based_on: String,
    },
    /// The member is not the present life of a registered server.
    #[error("{0} is not the present incarnation of a registered server")]
    NotPresent(Member),
    /// The member does not hold every committed op.
    #[error("{0} is not known to hold every committed op")]
    NotEligible(Member),
    /// Only the primary of the view may say this.
    #[error("{0} is not the primary of the view")]
    NotPrimary(Member),
    /// The view is not activated yet.
    #[error("the view is not activated")]
    NotActivated,
    /// The member is not a backup of the view.
    #[error("{0} is not a backup of the view")]
    NotBackup(Member),
    /// The configuration would be the same.
    #[error("the view would be the same")]
    SameView,
    /// A server would stand twice in the view.
    #[error("{0} would stand twice in the view")]
    Twice(ServerName),
    /// The other kind came first.
    #[error("the cluster is made of {0:?} servers; kinds do not mix")]
    WrongKind(Kind),
    /// The first server decided otherwise.
    #[error("the servers of this cluster are {0:?}; modes do not mix")]
    WrongMode(Mode),
    /// Not a usable address.
    #[error("a server name has 1 to {NAME_SIZE_MAX} bytes")]
    BadName,
    /// No room.
    #[error("{SERVERS_MAX} servers are registered, which is the limit")]
    TooManyServers,
    /// The server is in the view or holds data that is needed.
    #[error("{0} is still needed")]
    StillNeeded(Member),
    /// No view was ever activated, so there is nothing to lose and nothing to force.
    #[error("no view was ever activated: any server may still become the first primary")]
    NothingToForce,
    /// VIEW-8: only an operator goes on from here.
    #[error("in doubt nothing is decided")]
    InDoubt,
    /// What this server shows is of this past, or no past has it.
    #[error("what {0} shows proves no other past")]
    ProvesNothing(ServerName),
    /// There is nothing to end.
    #[error("there is no doubt")]
    NoDoubt,
}

/// One registered server.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
struct Server {
    incarnation: Incarnation,
    life: LifeId,
    /// A plain server that has pinged with a number other than 0 in this life.
    adopted: bool,
}

impl Server {
    fn begun(incarnation: Incarnation, life: LifeId) -> Server {
        Server { incarnation, life, adopted: false }
    }
}

/// What is known of the data that a life began with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Storage {
    id: StorageId,
    /// Position of the last op in it; the default if it was empty.
    last: Position,
}

impl Storage {
    /// What a server found at its start.
    #[must_use]
    pub fn of(held: &Held) -> Storage {
        Storage { id: held.storage, last: held.last }
    }
}

/// Everything that must never be forgotten: the whole truth about views.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ViewState {
    /// The current record. Written by `renew` only.
    view: View,
    /// Whether any view was ever activated; until then there is no data.
    ever_activated: bool,
    /// Decided by the first server.
    kind: Option<Kind>,
    mode: Option<Mode>,
    servers: BTreeMap<ServerName, Server>,
    /// What is on the disks of present lives and of eligible ones.
    storages: BTreeMap<Incarnation, Storage>,
    /// Epoch of the last view that was activated; none before the first one of a generation.
    activated: Option<Epoch>,
    /// The last incarnation given, over all names.
    last_incarnation: Incarnation,
    /// Highest op that a primary of this generation said is committed.
    committed_heard: OpNumber,
    past: Past,
    /// VIEW-8: what was shown that does not lie in that past.
    doubt: Option<Doubt>,
}

impl ViewState {
    /// A cluster without servers.
    #[must_use]
    pub fn new(cluster: ClusterId, settings: Settings) -> ViewState {
        let view = View::none(cluster, settings);
        ViewState {
            past: Past::founding(view.history),
            view,
            ever_activated: false,
            kind: None,
            mode: None,
            servers: BTreeMap::new(),
            storages: BTreeMap::new(),
            activated: None,
            last_incarnation: Incarnation(0),
            committed_heard: OpNumber(0),
            doubt: None,
        }
    }

    /// The current record.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The id of the current view.
    #[must_use]
    pub fn view_id(&self) -> ViewId {
        ViewId::of(&self.view)
    }

    /// The kind that the first server decided.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// The mode that the first server decided.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Whether any view was ever activated. Until then nobody holds data.
    #[must_use]
    pub fn ever_activated(&self) -> bool {
        self.ever_activated
    }

    /// Highest op of this generation that a primary said is committed.
    #[must_use]
    pub fn committed_heard(&self) -> OpNumber {
        self.committed_heard
    }

    /// The present life of a registered server.
    #[must_use]
    pub fn present(&self, name: &ServerName) -> Option<Member> {
        self.servers
            .get(name)
            .map(|server| Member { name: name.clone(), incarnation: server.incarnation })
    }

    /// Whether this life is the present one of its server.
    #[must_use]
    pub fn is_present(&self, member: &Member) -> bool {
        self.servers
            .get(&member.name)
            .is_some_and(|server| server.incarnation == member.incarnation)
    }

    /// The process that a present life is.
    #[must_use]
    pub fn life(&self, member: &Member) -> Option<LifeId> {
        let server = self.servers.get(&member.name)?;
        (server.incarnation == member.incarnation).then_some(server.life)
    }

    /// The same, at its address.
    #[must_use]
    pub fn process(&self, member: &Member) -> Option<Process> {
        self.life(member).map(|life| Process { name: member.name.clone(), life })
    }

    /// Whether the view names this server or knows it to be complete, in whichever of its lives.
    #[must_use]
    pub fn is_needed(&self, name: &ServerName) -> bool {
        self.view.members().chain(&self.view.eligible).any(|member| member.name == *name)
    }

    /// VIEW-8: whether a record of this revision and history is one that this state went through.
    /// One older than [`PAST_KEPT`] revisions counts as such.
    #[must_use]
    pub fn went_through(&self, revision: Revision, history: History) -> bool {
        self.past.includes(revision, history)
    }

    /// Whether a plain server has pinged with a number other than 0 in its present life.
    #[must_use]
    pub fn has_adopted(&self, name: &ServerName) -> bool {
        self.servers.get(name).is_some_and(|server| server.adopted)
    }

    /// The present lives of all registered servers, by name.
    pub fn servers(&self) -> impl Iterator<Item = Member> + '_ {
        self.servers
            .iter()
            .map(|(name, server)| Member { name: name.clone(), incarnation: server.incarnation })
    }

    /// Does what the command says, if that is allowed.
    ///
    /// # Errors
    /// The rule that forbids it; then nothing has changed.
    ///
    /// # Panics
    /// When an invariant of the module head is broken, which would be an error of this file.
    pub fn apply(&mut self, command: Command) -> Result<Applied, Refusal> {
        let before = self.view.clone();
        let was_activated = self.ever_activated;
        let doubted = self.doubt.clone();
        let change = encoded(&command);
        let settles = matches!(command, Command::Doubt { .. } | Command::Believe { .. });
        let outcome = match command {
            _ if doubted.is_some() && !settles && keeps(Rule::DoubtDecidesNothing) => {
                Err(Refusal::InDoubt)
            }
            Command::Register { name, kind, replaces, life, held } => {
                self.register(name, kind, replaces, life, held)
            }
            Command::Forget { server } => self.forget(&server),
            Command::Adopted { by } => self.adopted(&by),
            Command::Propose { after, primary, backups } => self.propose(after, primary, backups),
            Command::Activate { by, view, reconciled } => self.activate(&by, view, &reconciled),
            Command::Synced { by, view, server } => self.synced(&by, view, server),
            Command::Heard { by, view, committed } => self.heard(&by, view, committed),
            Command::Force { after, server } => self.force(after, server),
            Command::Doubt { shown } => self.doubts(shown),
            Command::Believe { after, whom } => self.believe(after, whom),
        };
        if self.view.revision != before.revision {
            self.view.history = before.history.after(&change);
            self.past.push(self.view.history);
        }
        self.check_invariants();
        let before = match &outcome {
            Ok(Applied::Registered(member)) => self.as_if_returned(before, member),
            _ => before,
        };
        self.check_step(&before, was_activated, doubted.as_ref());
        outcome
    }

    fn register(
        &mut self,
        name: ServerName,
        kind: Kind,
        replaces: Option<Incarnation>,
        life: LifeId,
        held: Option<Held>,
    ) -> Result<Applied, Refusal> {
        let present = self.servers.get(&name).map(|server| server.incarnation);
        let mode = if held.is_some() { Mode::Durable } else { Mode::InMemory };
        name_is_usable(&name)?;
        kind_fits(self.kind, kind)?;
        mode_fits(self.mode, mode)?;
        if present != replaces {
            return Err(Refusal::Overtaken {
                based_on: match replaces {
                    Some(incarnation) => format!("{name}#{incarnation}"),
                    None => format!("no server {name}"),
                },
            });
        }
        if present.is_none() && self.servers.len() >= SERVERS_MAX {
            return Err(Refusal::TooManyServers);
        }
        self.kind = Some(kind);
        self.mode = Some(mode);
        if let (Some(incarnation), false) = (present, keeps(Rule::RestartedIsNew)) {
            return Ok(Applied::Registered(Member { name, incarnation }));
        }
        self.last_incarnation = self.last_incarnation.next();
        let member = Member { name: name.clone(), incarnation: self.last_incarnation };
        self.servers.insert(name, Server::begun(self.last_incarnation, life));
        if let Some(held) = held {
            self.take_back(&member, &held);
        }
        self.renew();
        Ok(Applied::Registered(member))
    }

    fn forget(&mut self, server: &Member) -> Result<Applied, Refusal> {
        self.must_be_present(server)?;
        if self.is_needed(&server.name) {
            return Err(Refusal::StillNeeded(server.clone()));
        }
        self.servers.remove(&server.name);
        self.renew();
        Ok(Applied::Changed)
    }

    fn adopted(&mut self, by: &Member) -> Result<Applied, Refusal> {
        self.must_be_present(by)?;
        match self.servers.get_mut(&by.name) {
            Some(server) if !server.adopted => {
                server.adopted = true;
                self.renew();
                Ok(Applied::Changed)
            }
            _ => Ok(Applied::Unchanged),
        }
    }

    fn propose(
        &mut self,
        after: ViewId,
        primary: Member,
        backups: Vec<Member>,
    ) -> Result<Applied, Refusal> {
        self.must_be_current(after)?;
        nobody_twice(&primary, &backups)?;
        for member in backups.iter().chain([&primary]) {
            self.must_be_present(member)?;
        }
        self.may_become_primary(&primary)?;
        if same_configuration(&self.view, &primary, &backups) {
            return Err(Refusal::SameView);
        }
        let number = self.view.number.next();
        let same_epoch = self.view.is_primary(&primary)
            || self.view.number.0 > 0
                && !self.view.is_activated()
                && !keeps(Rule::EpochByTheRecordReplaced);
        if !same_epoch {
            self.view.primary_since = number;
        }
        if let Some(restored) = self.restored(&primary).filter(|_| !self.ever_activated) {
            // What was restored was acknowledged by another cluster, which may have gone on.
            self.view.generation = self.view.generation.max(restored.next());
        }
        self.view.number = number;
        self.view.status = ViewStatus::Proposed;
        self.view.primary = Some(primary);
        self.view.backups = backups;
        self.renew();
        Ok(Applied::Changed)
    }

    fn activate(
        &mut self,
        by: &Member,
        view: ViewId,
        reconciled: &[Member],
    ) -> Result<Applied, Refusal> {
        if keeps(Rule::ActivateNamesItsView) {
            self.must_be_current(view)?;
        }
        if keeps(Rule::ActivateByThePrimary) {
            self.must_be_primary(by)?;
        }
        if self.view.is_activated() {
            return Ok(Applied::Unchanged);
        }
        self.view.eligible = self.eligible_after(by, reconciled);
        self.view.status = ViewStatus::Activated;
        self.ever_activated = true;
        self.activated = Some(self.view.epoch());
        self.renew();
        Ok(Applied::Changed)
    }

    fn synced(&mut self, by: &Member, view: ViewId, server: Member) -> Result<Applied, Refusal> {
        if keeps(Rule::SyncedNamesItsView) {
            self.must_be_current(view)?;
        }
        self.must_be_primary(by)?;
        self.must_be_activated()?;
        if !self.view.backups.contains(&server) {
            return Err(Refusal::NotBackup(server));
        }
        if keeps(Rule::SyncedByIncarnation) {
            self.must_be_present(&server)?;
        }
        if !self.view.eligible.insert(server) {
            return Ok(Applied::Unchanged);
        }
        self.renew();
        Ok(Applied::Changed)
    }

    /// The one change without a revision: no record carries it, so no reader could be misled.
    fn heard(
        &mut self,
        by: &Member,
        view: ViewId,
        committed: OpNumber,
    ) -> Result<Applied, Refusal> {
        self.must_be_current(view)?;
        self.must_be_primary(by)?;
        self.must_be_activated()?;
        if committed <= self.committed_heard {
            return Ok(Applied::Unchanged);
        }
        self.committed_heard = committed;
        Ok(Applied::Changed)
    }

    fn force(&mut self, after: ViewId, server: Member) -> Result<Applied, Refusal> {
        self.must_be_current(after)?;
        self.must_be_present(&server)?;
        if !self.ever_activated {
            return Err(Refusal::NothingToForce);
        }
        self.begin_generation_with(server);
        Ok(Applied::Changed)
    }

    /// VIEW-7, VIEW-8: an operator's decision. Nobody but this server is complete from here on.
    fn begin_generation_with(&mut self, server: Member) {
        self.view.generation = self.view.generation.next();
        self.view.number = self.view.number.next();
        self.view.primary_since = self.view.number;
        self.view.status = ViewStatus::Proposed;
        self.view.eligible = BTreeSet::from([server.clone()]);
        self.view.primary = Some(server);
        self.view.backups = Vec::new();
        self.committed_heard = OpNumber(0);
        self.activated = None;
        self.renew();
    }

    /// VIEW-4, by incarnation: reconciling proves that a copy holds the primary's log, but only one
    /// that was eligible before may stay so; all others are joining.
    fn eligible_after(&self, primary: &Member, reconciled: &[Member]) -> BTreeSet<Member> {
        let view = &self.view;
        let was_eligible = |member: &&Member| {
            view.eligible.contains(*member) || !keeps(Rule::ReconciledWereEligible)
        };
        let is_backup = |member: &&Member| view.backups.contains(*member);
        let mut eligible: BTreeSet<_> =
            reconciled.iter().filter(was_eligible).filter(is_backup).cloned().collect();
        if !keeps(Rule::ReconciledByIncarnation) {
            eligible = eligible.iter().filter_map(|member| self.present(&member.name)).collect();
        }
        eligible.insert(primary.clone());
        eligible
    }

    fn renew(&mut self) {
        self.view.revision = self.view.revision.next();
        let present = self.servers.values().map(|server| server.incarnation);
        let eligible = self.view.eligible.iter().map(|member| member.incarnation);
        let needed: BTreeSet<_> = present.chain(eligible).collect();
        self.storages.retain(|incarnation, _| needed.contains(incarnation));
    }

    fn must_be_current(&self, view: ViewId) -> Result<(), Refusal> {
        if view == self.view_id() {
            return Ok(());
        }
        Err(Refusal::Overtaken {
            based_on: format!("view {} of generation {}", view.number, view.generation),
        })
    }

    fn must_be_present(&self, member: &Member) -> Result<(), Refusal> {
        if self.is_present(member) { Ok(()) } else { Err(Refusal::NotPresent(member.clone())) }
    }

    /// VIEW-4, VIEW-5, VIEW-6: the primary of the view, and still the present life of its server.
    fn must_be_primary(&self, by: &Member) -> Result<(), Refusal> {
        if !self.view.is_primary(by) {
            return Err(Refusal::NotPrimary(by.clone()));
        }
        self.must_be_present(by)
    }

    fn must_be_activated(&self) -> Result<(), Refusal> {
        if self.view.is_activated() { Ok(()) } else { Err(Refusal::NotActivated) }
    }

    /// VIEW-2. Before the first activation there is no data, so a first primary that dies early
    /// must not block the rest.
    fn may_become_primary(&self, primary: &Member) -> Result<(), Refusal> {
        let first = !self.ever_activated
            && (keeps(Rule::FirstViewIsFree) || self.view.number == ViewNumber(0));
        if first || self.view.eligible.contains(primary) || !keeps(Rule::PrimaryIsEligible) {
            Ok(())
        } else {
            Err(Refusal::NotEligible(primary.clone()))
        }
    }
}

/// The bytes by which a change enters the history: those of the log.
fn encoded(command: &Command) -> Vec<u8> {
    serde_json::to_vec(command).expect("a command has an encoding: it is kept in the log")
}

fn name_is_usable(name: &ServerName) -> Result<(), Refusal> {
    if (1..=NAME_SIZE_MAX).contains(&name.as_str().len()) { Ok(()) } else { Err(Refusal::BadName) }
}

fn kind_fits(cluster: Option<Kind>, kind: Kind) -> Result<(), Refusal> {
    match cluster {
        Some(other) if other != kind => Err(Refusal::WrongKind(other)),
        _ => Ok(()),
    }
}

fn mode_fits(cluster: Option<Mode>, mode: Mode) -> Result<(), Refusal> {
    match cluster {
        Some(other) if other != mode => Err(Refusal::WrongMode(other)),
        _ => Ok(()),
    }
}

fn nobody_twice(primary: &Member, backups: &[Member]) -> Result<(), Refusal> {
    let mut names = BTreeSet::from([&primary.name]);
    match backups.iter().find(|backup| !names.insert(&backup.name)) {
        Some(backup) => Err(Refusal::Twice(backup.name.clone())),
        None => Ok(()),
    }
}

/// VIEW-1. The order of backups is a matter of seniority, not of configuration.
fn same_configuration(view: &View, primary: &Member, backups: &[Member]) -> bool {
    view.is_primary(primary)
        && view.backups.iter().collect::<BTreeSet<_>>() == backups.iter().collect()
}
