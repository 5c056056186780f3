//! What a model bounds: how many servers, what may go wrong and how often, what must be reached.
//! Pure.

use std::time::Duration;

use kvproto::Settings;
use kvserver::replica::{Reads, ReplicaOptions, Tuning};

use super::goals::Goal;

/// How often something may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Budget {
    /// Proposals of the policy, right or wrong.
    pub proposals: u8,
    /// Servers that restart, empty or with their data.
    pub restarts: u8,
    /// Streams that break though both ends live.
    pub breaks: u8,
    /// Writes that clients begin.
    pub writes: u8,
    /// Writes that clients repeat, not knowing what became of them.
    pub repeats: u8,
    /// Reads that clients begin.
    pub reads: u8,
    /// Steps of time.
    pub passes: u8,
    /// Pauses of a server between deciding and acting.
    pub pauses: u8,
    /// Servers that are asked to stop.
    pub leaves: u8,
    /// The view service is put back to an older state, and a server that was counted on then shows it
    /// what it knows, before anybody else comes.
    pub put_backs: u8,
}

/// Where a model begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// All servers are registered, and there is no view yet.
    Fresh,
    /// S0 leads an activated view in which S1 is joining, and nothing has reached it yet.
    Joining,
    /// S0 leads an activated view in which this many backups, S1 first, are synced.
    Led {
        /// How many.
        backups: usize,
    },
}

/// One bounded world.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Servers that exist.
    pub servers: usize,
    /// Where it begins.
    pub start: Start,
    /// What may happen.
    pub budget: Budget,
    /// Each step of time has one of these lengths, in milliseconds.
    pub quanta: &'static [u64],
    /// How reads are proven.
    pub reads: Reads,
    /// Servers may sleep on while time passes, and be woken by something else than the time.
    pub sleepy: bool,
    /// The journal finishes as an event of its own, not at once.
    pub slow_journal: bool,
    /// Servers restart with what their disks hold: all that their journals finished.
    pub durable: bool,
    /// Nothing committed is kept in the log, so that only a full transfer brings a copy up; windows,
    /// batches and chunks are as small as can be.
    pub forgetful: bool,
    /// What has become void (old records, granted or refused wishes) is still tried.
    pub stale: bool,
    /// Clients write through a session, so that what they repeat is done once.
    pub sessions: bool,
    /// The wedge check is made in one of this many states.
    pub wedge_every: u64,
    /// What must be reached, or the model proves less than it seems to.
    pub goals: &'static [Goal],
    /// Too large to be visited: walked through at random. A server restarts only while another
    /// eligible one is alive, or a walk would soon end in waiting for the dead.
    pub walked: bool,
    /// Explored by the tests.
    pub in_ci: bool,
}

impl Model {
    /// A model of two servers in which nothing happens yet.
    #[must_use]
    pub const fn new(name: &'static str, about: &'static str) -> Model {
        Model {
            name,
            about,
            servers: 2,
            start: Start::Led { backups: 1 },
            budget: Budget {
                proposals: 0,
                restarts: 0,
                breaks: 0,
                writes: 0,
                repeats: 0,
                reads: 0,
                passes: 0,
                pauses: 0,
                leaves: 0,
                put_backs: 0,
            },
            quanta: &[],
            reads: Reads::Lease,
            sleepy: false,
            slow_journal: false,
            durable: false,
            forgetful: false,
            stale: false,
            sessions: false,
            wedge_every: 64,
            goals: &[],
            walked: false,
            in_ci: true,
        }
    }

    /// The settings of the cluster. A primary holds its lease for 78 ms, its backups promise 100.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            heartbeat_interval: Duration::from_millis(30),
            lease: Duration::from_millis(100),
            stall_after: Duration::from_millis(150),
            copies: u32::try_from(self.servers).unwrap_or(u32::MAX),
            ..Settings::default()
        }
    }

    /// The choices of each server.
    #[must_use]
    pub fn options(&self) -> ReplicaOptions {
        let mut tuning = Tuning::default();
        if self.forgetful {
            tuning = Tuning {
                retain_bytes: 0,
                window_appends: 1,
                batch_bytes: 1,
                chunk_bytes: 1,
                chunks_in_flight: 1,
                ..tuning
            };
        }
        ReplicaOptions { reads: self.reads, tuning, durable: self.durable }
    }
}
