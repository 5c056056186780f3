//! What a full server and the view service say to each other. Meanings of the fields:
//! `viewservice.proto`.

use std::fmt;

use crate::ids::{
    ClusterId, EpochStart, Generation, History, Incarnation, LifeId, Member, OpNumber, Position,
    ServerName, StorageId, ViewNumber,
};
use crate::view::{Role, View, ViewOrder};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Level of the protocol between our own programs. It rises with every kind of message or op that
/// an older program would not understand.
pub const PROTOCOL_LEVEL: u32 = 1;

/// From a server to the view service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromServer {
    /// First message of a stream.
    Register(Registration),
    /// Sign of life.
    Ping(Progress),
    /// A wish that only the view service can grant.
    Wish(Wish),
    /// It met this very process at its address.
    Met(Process),
}

/// One process of a server: its address, and the id that it drew at its start.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Process {
    /// Its address in views.
    pub name: ServerName,
    /// Which process it is.
    pub life: LifeId,
}

/// Why a process was not met at its address. In words: "*address*, where …".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotMet {
    /// Nobody answers.
    Nobody(String),
    /// Another process answers, of this server or of another.
    Another,
    /// Something else than a server of this release answers.
    Stranger,
}

impl fmt::Display for NotMet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotMet::Nobody(what) => write!(f, "nobody answers ({what})"),
            NotMet::Another => f.write_str("another server answers"),
            NotMet::Stranger => f.write_str("something else than a kvserver answers"),
        }
    }
}

/// A server that wants to attend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Its address in views.
    pub name: ServerName,
    /// Which process it is.
    pub life: LifeId,
    /// `None` for a new life; otherwise the stream of this one is resumed.
    pub incarnation: Option<Incarnation>,
    /// The cluster that it belongs to, if any.
    pub cluster: Option<ClusterId>,
    /// Highest protocol level that it speaks.
    pub protocol_level: u32,
    /// What it found on its disk; `None` if it keeps its data in memory.
    pub held: Option<Held>,
    /// VIEW-8: the newest record that it knows, from this life or, on disk, from a former one.
    pub shown: Option<Box<View>>,
}

impl Registration {
    /// Which process asks.
    #[must_use]
    pub fn process(&self) -> Process {
        Process { name: self.name.clone(), life: self.life }
    }
}

/// What a server found in its data directory when it started. What is damaged counts as not there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Which directory.
    pub storage: StorageId,
    /// Position of the last op, the default if there is none.
    pub last: Position,
    /// The epochs of which it holds the beginning, oldest first.
    pub epochs: Vec<EpochStart>,
}

impl Held {
    /// A new directory.
    #[must_use]
    pub fn nothing(storage: StorageId) -> Held {
        Held { storage, last: Position::default(), epochs: Vec::new() }
    }
}

/// What a replica wants of the view service. Conditional on a view, so repeats do no harm.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wish {
    /// VIEW-4: this view's members are reconciled.
    Activate {
        /// Which view.
        generation: Generation,
        /// Which view.
        number: ViewNumber,
        /// Backups that hold exactly the primary's log, through its barrier.
        reconciled: Vec<Member>,
    },
    /// VIEW-5: this joining backup holds everything.
    Synced {
        /// In which view.
        generation: Generation,
        /// In which view.
        number: ViewNumber,
        /// The backup.
        server: Member,
    },
    /// A view without this backup, please.
    Evict {
        /// In which view.
        generation: Generation,
        /// In which view.
        number: ViewNumber,
        /// The backup.
        server: Member,
        /// It still makes progress now and then: another is to take its place first, if there is one.
        acknowledges: bool,
        /// What the primary saw, for people.
        reason: String,
    },
    /// A view without the sender, please: it wants to stop.
    Leave,
    /// A view with another primary and without the sender, please: its own disk hangs.
    Yield {
        /// In which view.
        generation: Generation,
        /// In which view.
        number: ViewNumber,
        /// Copies that hold what the sender's disk lacks.
        to: Vec<Member>,
        /// What the sender saw, for people.
        reason: String,
    },
}

/// Progress of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Newest view record adopted.
    pub view: ViewOrder,
    /// What led to that record.
    pub history: History,
    /// Appended in this copy.
    pub appended: OpNumber,
    /// Committed.
    pub committed: OpNumber,
    /// Applied.
    pub applied: OpNumber,
    /// Steps of the sequencer since its start.
    pub steps: u64,
    /// As the server sees itself.
    pub role: Role,
    /// Its memory.
    pub memory: Memory,
    /// Whether its disk is nearly full.
    pub disk_full: bool,
    /// How long what its disk was given has waited without anything of it being done; zero while
    /// nothing waits.
    pub disk_waits: Duration,
    /// Whether its data directory was deleted or replaced: it acknowledges nothing any more.
    pub directory_gone: bool,
}

/// What the data of a server takes of the memory that there is for it, in bytes. What is set aside
/// for everything else is in neither.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Memory {
    /// By keys, values, sessions and what they remember.
    pub used: u64,
    /// What `--max-memory` leaves for them; 0 while that is not known.
    pub max: u64,
}

/// From the view service to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToServer {
    /// Answer to Register.
    Registered {
        /// The number of this life.
        incarnation: Incarnation,
        /// The current record.
        view: Box<View>,
    },
    /// A record, pushed at every change.
    View(Box<View>),
    /// Registration is refused, or has ended.
    Refused {
        /// Why.
        reason: RefusedReason,
        /// What happened and what to do.
        message: String,
    },
    /// Answer to [`Wish::Leave`]: no other eligible server could take over.
    NobodyToTakeOver,
    /// Please meet this process at its address, where the view service gets no answer.
    Meet(Process),
    /// Nobody met this server at its address, so it has no part.
    NotMet {
        /// Why, and what to do.
        message: String,
    },
}

/// Why a registration is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedReason {
    /// The server belongs to another cluster.
    WrongCluster,
    /// Another live process attends under this name: try again when it is dead.
    NameInUse,
    /// A newer process has registered under this name: this one must stop.
    StaleIncarnation,
    /// The cluster is made of lab-style servers.
    WrongKind,
    /// The cluster keeps its data elsewhere: on disk, or in memory.
    WrongMode,
    /// VIEW-8: somebody showed what this view service does not know, so it decides nothing: try again.
    Doubt,
    /// A view service without any server listens first who knocks: try again.
    Listening,
    /// This life is of a past that is not that of the view service: it must not serve, and must not
    /// throw away what it holds either.
    OtherPast,
    /// The protocol level does not fit, or the message made no sense.
    Incompatible,
}
