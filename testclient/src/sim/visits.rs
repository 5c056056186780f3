//! The rare paths of the protocol, and how often runs took them. Pure.
//!
//! A simulation proves something about a path only if it takes it. So each is counted, and the test
//! of the fixed seeds fails when one that must be taken never was.

use std::fmt;

use super::Kind;

macro_rules! paths {
    ($($path:ident $need:ident $meaning:literal)*) => {
        /// A path worth taking.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Path {
            $(#[doc = $meaning] $path,)*
        }

        /// Every path, who must take it (`must`: the fixed seeds of every kind of world; `disk`: those
        /// of worlds with disks; `memory`: those of worlds without; `may`: nobody), and what it means.
        /// A primary on disk reads from there what it has no longer in memory: no log outruns it.
        const PATHS: &[(Path, &str, &str)] =
            &[$((Path::$path, stringify!($need), $meaning),)*];
    };
}

paths! {
    Failover must "another server began to act as primary"
    PromotionWithTail must "a new primary held uncommitted entries of an older epoch"
    TailDropped must "a copy dropped entries, because others of the new primary took their place"
    Deposed must "a primary heard of a newer epoch and stopped"
    SupersededProposal must "a view was replaced before it was activated"
    FirstDiedEarly must "the first primary of all ended before it activated its view"
    SolePrimary must "a primary went on alone although more copies are wanted"
    HandOver must "a primary that wants to stop was replaced by its backup"
    NobodyToTakeOver must "a primary that wants to stop was told that nobody could take over"
    JoinByLog must "a copy was brought up from the log"
    JoinByTransfer must "a copy was brought up by a full transfer"
    TransferOutrun memory "a transfer was given up because the log went on faster"
    TransferCutShort must "a transfer ended with its stream, and another began"
    Evicted must "a backup was left out at its primary's wish"
    EvictedReturned must "a backup that was left out became complete again"
    LeaseFallback must "a read under leases fell back to a round of confirmations"
    ReadFromTable must "a read was answered from the table of the store without asking the replica"
    RoundJoined must "a read waited for a round together with others"
    LeaseRanOut must "a reply was withheld because the lease ended before it was performed"
    DuplicateAnswered must "a repeated request was answered from the table"
    DuplicateInTail must "a repeated request was found in the tail that a new primary took over"
    DuplicateOrdered must "a repeated request was ordered twice and recognised when applied"
    SessionExpired must "a session expired, and its client was told so"
    OutcomeUnknown must "a call ended without anybody knowing whether it was done"
    CertainlyNotDone must "a call ended as certainly not done"
    Forced must "an operator started a new generation from what one server held"
    ForcedTail must "a forced server held entries that it did not know to be committed"
    ForceRefused must "an operator was kept from forcing while a complete copy was heard"
    OldSessionRefused must "a session of a generation that was given up was told that it expired"
    ViewsRestarted must "the view service lost its soft state"
    ViewsLostAStep must "the view service ended after it had decided and before that was kept"
    ViewsKeptAStepUntold must "the view service ended after it had kept a decision and before it told anybody"
    ViewsRestartedProposed must "the view service restarted while its view was only proposed"
    NameInUse must "a second process at an address was refused while the first lived"
    NameTaken must "a second process took the place of one that was silent for too long"
    NotMet must "a server was not met at its address"
    MetByAPeer must "a server that the view service could not meet was met by another server"
    StaleLifeEnded must "a process heard that a newer one stands under its name, and ended"
    PauseInStep must "a process paused between deciding and acting"
    OldStream must "a message of a stream that was over arrived"
    DoubledMessage must "a message between servers arrived twice"
    HeldBack must "messages of one link were held back and arrived late, all at once"
    GroupsParted must "the network fell into two parts"
    AddedLate must "a server came for the first time long after the others"
    FalseRefusal must "the address of a living server refused a connection, so it was taken for dead at once"
    NeverBack must "a server went for good"
    SeveralInStep must "several requests became one batch"
    Oversized must "a write was refused because its value would be too large"
    FoundItsData disk "a process started with what its disk held"
    FoundDamage disk "a process found its disk damaged, and started empty"
    CameBackEligible disk "a server that was counted on came back with its data, and still is"
    SetAside disk "a server came back with data of a generation that was given up"
    PowerCutOfAll disk "the power went everywhere at once"
    DiskFailed disk "an operation of a disk failed, or the power went in the middle of it"
    DiskWasFull disk "a disk was nearly full, and writes were refused"
    Yielded disk "a primary whose disk hung asked that a copy with a better one leads"
    ReadFromDisk disk "a copy was sent what its primary had no longer in memory, but on disk"
    OwnSnapshot disk "a copy wrote a snapshot of itself"
    NotDecided may "the search for an order of what clients saw of a key was given up"
    Flapped must "a process stood still again and again"
    Arrived must "a primary heard that more bytes had arrived over a narrow link"
    Progress must "a new write was done after everything had healed"
    Redundant must "all copies were complete after everything had healed"
}

/// How often each path was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visits {
    counts: [u64; PATHS.len()],
}

impl Default for Visits {
    fn default() -> Visits {
        Visits { counts: [0; PATHS.len()] }
    }
}

impl Visits {
    /// Counts one visit.
    pub fn note(&mut self, path: Path) {
        self.counts[path as usize] += 1;
    }

    /// Counts several.
    pub fn note_times(&mut self, path: Path, times: u64) {
        self.counts[path as usize] += times;
    }

    /// How often a path was taken.
    #[must_use]
    pub fn count(&self, path: Path) -> u64 {
        self.counts[path as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Visits) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// What was never taken of what must be.
    #[must_use]
    pub fn missing(&self, kind: Kind) -> Vec<Path> {
        let must = |need: &str| match kind {
            Kind::InMemory => need == "must" || need == "memory",
            Kind::OnDisks => need == "must" || need == "disk",
        };
        let missing = PATHS.iter().filter(|(path, need, _)| must(need) && self.count(*path) == 0);
        missing.map(|(path, ..)| *path).collect()
    }
}

impl fmt::Display for Visits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, _, meaning) in PATHS {
            writeln!(f, "{:>9}  {:<22}  {meaning}", self.count(*path), format!("{path:?}"))?;
        }
        Ok(())
    }
}
