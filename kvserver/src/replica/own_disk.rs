//! Whether this copy's own disk moves: how long what it was given has waited without anything of it
//! being done. Decides nothing.
//!
//! A disk that hangs tells no error, so time is all there is to go by. Its caller says when the disk has
//! done something, and at the end of each step whether it still has something to do.

use std::time::Duration;

use kvproto::time::Timestamp;

/// The disk of this server, as its replica sees it.
#[derive(Clone, Hash, Default, Debug)]
pub struct OwnDisk {
    /// Since when what waits has waited, or since something else was done; `None` while nothing waits.
    waits_since: Option<Timestamp>,
    /// People were told that it hangs.
    told: bool,
}

impl OwnDisk {
    /// The disk has done something.
    pub fn note_done(&mut self, now: Timestamp) {
        self.waits_since = self.waits_since.map(|_| now);
    }

    /// Whether it has something to do.
    pub fn note_owes(&mut self, now: Timestamp, owes: bool) {
        match owes {
            true => drop(self.waits_since.get_or_insert(now)),
            false => self.waits_since = None,
        }
    }

    /// After a pause of this server itself, in which nobody could hear what the disk had done.
    pub fn forgive(&mut self, now: Timestamp) {
        self.note_done(now);
    }

    /// How long it has done nothing although it has something to do.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> Duration {
        self.waits_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Whether it hangs from now on, or no longer, if people do not know that.
    pub fn news(&mut self, hangs: bool) -> Option<bool> {
        let news = hangs != self.told;
        self.told = hangs;
        news.then_some(hangs)
    }
}
