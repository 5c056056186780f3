//! The numbers of one session: which request gets which, which are still open, and from where on
//! the servers may forget. Pure: no I/O, clock, randomness or async.
//!
//! The caller begins a number per call, sends the same [`RequestId`] with every attempt of it, and
//! ends it exactly once, when the call has ended in whatever way. A number is never used twice: a
//! call that was given up moves the floor past its number, so that a late attempt of it is refused
//! by the servers.

use std::collections::BTreeSet;

use kvproto::command::SESSION_WINDOW;
use kvproto::{RequestId, RequestNumber, SessionId};

/// Numbers of the requests of one session.
///
/// Invariant: every open number is below `next`, and `next` is at most [`SESSION_WINDOW`] above the
/// smallest open one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    id: SessionId,
    next: RequestNumber,
    open: BTreeSet<RequestNumber>,
}

impl Session {
    /// A session that was just allocated; its first request gets number 1.
    #[must_use]
    pub fn new(id: SessionId) -> Self {
        Self { id, next: RequestNumber(1), open: BTreeSet::new() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The smallest number whose answer is still wanted: the floor that requests carry.
    #[must_use]
    pub fn first_open(&self) -> RequestNumber {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// Takes a number for a new call, or `None` while the oldest open call holds the window: then
    /// wait until a call ends.
    pub fn begin(&mut self) -> Option<RequestNumber> {
        if self.next.0 - self.first_open().0 >= SESSION_WINDOW {
            return None;
        }
        let number = self.next;
        self.next = number.next();
        self.open.insert(number);
        Some(number)
    }

    /// What an attempt of this call sends. The floor is the present one; it never passes an open
    /// number.
    #[must_use]
    pub fn request_id(&self, number: RequestNumber) -> RequestId {
        RequestId { session: self.id, number, first_open: self.first_open() }
    }

    /// Whether no call has a number in it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The call has ended: its number is never sent again.
    pub fn end(&mut self, number: RequestNumber) {
        self.open.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(SessionId(7))
    }

    #[test]
    fn numbers_start_at_one_and_are_never_used_twice() {
        let mut session = session();
        for expected in 1..=200 {
            let number = session.begin().expect("the window is open");
            assert_eq!(number, RequestNumber(expected));
            session.end(number);
        }
    }

    #[test]
    fn the_floor_is_the_smallest_open_number() {
        let mut session = session();
        let first = session.begin().expect("open");
        let second = session.begin().expect("open");
        session.end(second);
        assert_eq!(session.first_open(), first, "the first is still open");
        session.end(first);
        assert_eq!(session.first_open(), RequestNumber(3), "nothing is open");
    }

    #[test]
    fn the_window_counts_from_the_oldest_open_call_not_from_how_many_are_open() {
        let mut session = session();
        let oldest = session.begin().expect("open");
        for _ in 1..SESSION_WINDOW {
            let number = session.begin().expect("within the window");
            session.end(number);
        }
        assert_eq!(session.first_open(), oldest, "only the oldest is open");
        assert_eq!(session.begin(), None, "number 65 would be 64 above the floor");
        session.end(oldest);
        assert_eq!(session.begin(), Some(RequestNumber(SESSION_WINDOW + 1)));
    }

    #[test]
    fn every_attempt_of_a_call_carries_its_number_and_the_present_floor() {
        let mut session = session();
        let first = session.begin().expect("open");
        let second = session.begin().expect("open");
        let attempt = session.request_id(second);
        session.end(first);
        let retry = session.request_id(second);
        assert_eq!((attempt.number, attempt.first_open), (second, first));
        assert_eq!((retry.number, retry.first_open), (second, second));
    }

    #[test]
    fn ending_a_call_twice_changes_nothing() {
        let mut session = session();
        let number = session.begin().expect("open");
        session.end(number);
        let once = session.clone();
        session.end(number);
        assert_eq!(session, once);
    }
}
