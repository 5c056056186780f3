//! What a replica wants done.
//!
//! The contract: effects are performed in the order in which they were emitted. What the journal has
//! done comes back as [`Event::Journal`](super::event::Event::Journal); nothing that depends on an
//! append being safe is emitted before that event. Sends of one stream keep their order or the stream breaks.

use std::time::Duration;

use kvproto::ids::{Member, OpNumber, Position, ServerName, StreamNumber};
use kvproto::message::Message;
use kvproto::registration::{Memory, Wish};
use kvproto::reply::{LogPoint, Reply};
use kvproto::time::Timestamp;
use kvproto::view::Role;

use super::event::Token;
use super::progress::Sent;
use crate::journal::Work;

/// Something to do.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Effect {
    /// Show this to those who read the table of the store without asking. The first effect of its
    /// step: a reply may be followed by a read that must see what it tells of, and a message or a wish
    /// may let another primary serve. From the beginning of the step until then nobody may read: the
    /// items are those of the new state already.
    Publish(Published),
    /// For the journal. What comes of it returns as
    /// [`Event::Journal`](super::event::Event::Journal).
    Journal(Work),
    /// Dial a copy for this stream. Messages of the stream that follow are queued until it stands;
    /// failure comes back as `StreamBroken`.
    OpenStream {
        /// Whom.
        to: Member,
        /// Which stream of this epoch.
        stream: StreamNumber,
    },
    /// Drop a stream; nothing more is heard of it.
    CloseStream {
        /// The other end.
        to: Member,
        /// Which stream.
        stream: StreamNumber,
    },
    /// Send on the stream that the message names, or outside any stream for `Released`.
    Send(Message),
    /// Answer a caller.
    Reply {
        /// Who waits.
        token: Token,
        /// What to say.
        reply: Reply,
        /// The reply holds only if the clock, read when it is performed, is before this moment;
        /// otherwise the caller is told that the primary is not ready.
        valid_until: Option<Timestamp>,
    },
    /// Ask the view service.
    Wish(Wish),
    /// Tell people.
    Notice(Notice),
    /// This server is out of every view: it may exit.
    Left,
}

/// What everybody may know of the state from now on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Published {
    /// The state that the items of the store are.
    pub at: LogPoint,
    /// Whether reads may be answered from it.
    pub serves: Serves,
}

/// Whether reads of committed state may be answered without asking anybody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Serves {
    /// No.
    No,
    /// If the clock, read after the values, is before this moment: no other primary serves sooner.
    Before(Timestamp),
    /// Yes: nobody else could be made primary.
    Always,
}

/// Something that people want to know.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Notice {
    /// A newer view was adopted.
    ViewChanged,
    /// This server plays another part.
    RoleChanged {
        /// Before.
        from: Role,
        /// Now.
        to: Role,
    },
    /// A stream to a copy begins with a full transfer.
    TransferStarted {
        /// Whom.
        to: Member,
        /// How many keys.
        keys: u64,
        /// At which op.
        at: OpNumber,
    },
    /// The log no longer has what another copy lacks, which is to be filled anew.
    Outrun {
        /// Which.
        copy: Member,
    },
    /// This copy holds a whole state received from the primary.
    TransferReceived {
        /// How many keys.
        keys: u64,
        /// At which op.
        at: OpNumber,
        /// How long it took.
        took: Duration,
    },
    /// A newcomer holds everything.
    CopySynced {
        /// Who.
        copy: Member,
        /// Through which op.
        through: OpNumber,
        /// What that took.
        sent: Sent,
    },
    /// An uncommitted tail of an older epoch was dropped on the new primary's word.
    TailDropped {
        /// First position dropped.
        first: Position,
        /// Last position dropped.
        last: Position,
    },
    /// The primary may serve.
    Serving {
        /// Time since this server was appointed.
        took: Duration,
    },
    /// A newer epoch ended this server's primaryship.
    Deposed {
        /// Requests whose outcome is now unknown to this server.
        open: usize,
    },
    /// Copies differ at an op.
    Diverged {
        /// The copy that differs.
        copy: Member,
        /// At which op.
        at: OpNumber,
    },
    /// Nobody could take over: stopping now would lose the data.
    OnlyCopy {
        /// Keys that would be lost.
        keys: u64,
    },
    /// The view service is asked for a view without this server.
    HandingOver,
    /// Writes that grow the data are refused from now on, with what it takes of the room for it.
    OutOfMemory(Memory),
    /// They find room again.
    RoomAgain(Memory),
    /// Whether this server's disk is nearly full, which stops writes.
    DiskFull(bool),
    /// Whether this server's disk has stood still for `stall-after` with something to do.
    DiskHangs(bool),
    /// The data directory is gone: nothing is acknowledged from now on.
    DirectoryGone {
        /// This server.
        me: ServerName,
    },
    /// A snapshot of the data at this op is on this server's disk, verified.
    SnapshotSaved {
        /// Which.
        at: OpNumber,
    },
    /// This server's disk has no room for a snapshot, or does not let it write one, which would let the
    /// log be shorter.
    SnapshotGivenUp,
    /// Of what this server's disk has of the log something cannot be read. A snapshot takes its place.
    LogUnreadable {
        /// The op from which on it was to be read.
        from: OpNumber,
        /// The place, and what is wrong there.
        what: String,
    },
    /// A peer's message was dropped because it made no sense.
    Nonsense {
        /// From whom.
        from: Member,
        /// What was wrong.
        what: &'static str,
    },
}
