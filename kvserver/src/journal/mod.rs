//! Where log entries are kept so that they survive what the mode of the cluster promises. Pure:
//! this file is the contract, [`memory`] keeps it for clusters without disks.
//!
//! The contract is *append, then completion*: a call only takes work on, and nothing that depends
//! on that work being safe may happen before [`Journal::poll_safe`] has named a position at or
//! after it.

pub mod memory;

use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::ids::{OpNumber, Position};

pub use memory::MemoryJournal;

/// Takes the journal effects of a replica in the order in which they were emitted, and says when
/// they are safe. Safe means what the mode asks: synced to disk, or in memory simply taken on.
pub trait Journal {
    /// Takes on entries, which follow everything taken on before.
    fn append(&mut self, entries: &[Arc<Entry>]);

    /// Forgets every entry after this op; the next append goes on from there. The caller drops only
    /// entries of older epochs.
    fn truncate(&mut self, after: OpNumber);

    /// Forgets everything: the log now begins after `base`, which is reported as safe once the
    /// state that reflects it is.
    fn reset(&mut self, base: Position);

    /// Entries through this op are no longer needed for other copies.
    fn trim(&mut self, through: OpNumber);

    /// The newest position that has become safe since the last call, to be handed to the replica as
    /// `Event::Appended`. Everything called before the append of that position is safe with it,
    /// truncations included; a position that was truncated away is never reported afterwards.
    fn poll_safe(&mut self) -> Option<Position>;
}
