//! The bytes that calls may hold, of all connections together and of each alone.
//!
//! Every call has a [`Room`]. It grows while the request arrives and by the answer, and is given
//! back when its last clone is gone. Nothing here ever waits: who finds no room is refused at once,
//! since calls that wait for room while they hold some would wait for each other.
//!
//! A connection grows only while it leaves free twice as much as it then holds. So a few that are
//! greedy, say because they never take their answers, cannot lock the others out: each takes at most
//! a third of what was left. (Choudhury and Hahne, Dynamic queue length thresholds for shared-memory
//! packet switches, 1998.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use kvproto::{NotDone, status};
use thiserror::Error;
use tonic::Status;

use crate::connection::Connection;

/// What a call costs beside its bytes: its stream, its task, the buffer it is decoded from. Bounds
/// the number of calls too.
pub(crate) const CALL_COST: usize = 16 << 10;

/// A connection leaves free this many times what it holds.
const SPARE: usize = 2;

/// What the calls of a server may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallLimits {
    /// All of them together.
    pub bytes_max: usize,
    /// Those of one connection; at most a third of the whole.
    pub connection_bytes_max: usize,
    /// Paths that begin so are left to limits of their own: calls between our own programs that last
    /// as long as these, and which the load of clients must never hold up.
    pub exempt: &'static [&'static str],
}

/// No room for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoRoom {
    /// Others hold it.
    #[error("too many requests are waiting; try again later")]
    Now,
    /// The call alone is larger than everything that its connection may hold.
    #[error(
        "a call of more than {connection_bytes_max} bytes is over what this server gives to one \
         connection; send less at once, or give the server more with --max-memory"
    )]
    Ever {
        /// What one connection may hold.
        connection_bytes_max: usize,
    },
}

impl From<NoRoom> for Status {
    fn from(no_room: NoRoom) -> Status {
        status::not_done_status(&match no_room {
            NoRoom::Now => NotDone::Overloaded,
            NoRoom::Ever { .. } => NotDone::Invalid(no_room.to_string()),
        })
    }
}

/// The bytes of all calls of one server.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: CallLimits,
    used: AtomicUsize,
    /// A call has an answer for which the shares have no room.
    oversized: AtomicBool,
}

impl Budget {
    pub(crate) fn new(limits: CallLimits) -> Arc<Budget> {
        Arc::new(Budget { limits, used: AtomicUsize::new(0), oversized: AtomicBool::new(false) })
    }

    pub(crate) fn exempts(&self, path: &str) -> bool {
        self.limits.exempt.iter().any(|prefix| path.starts_with(prefix))
    }
}

/// What one call holds. Clones are the same room; whoever holds bytes of the call keeps one.
#[derive(Clone, Debug)]
pub struct Room(Arc<Held>);

#[derive(Debug)]
struct Held {
    budget: Arc<Budget>,
    connection: Arc<Connection>,
    bytes: AtomicUsize,
    /// The one of all calls that has an oversized answer.
    oversized: AtomicBool,
}

impl Room {
    /// A room for nothing yet; its connection has one call more that is open.
    pub(crate) fn open(budget: &Arc<Budget>, connection: &Arc<Connection>) -> Room {
        connection.call_begins();
        let (budget, connection) = (Arc::clone(budget), Arc::clone(connection));
        let (bytes, oversized) = (AtomicUsize::new(0), AtomicBool::new(false));
        Room(Arc::new(Held { budget, connection, bytes, oversized }))
    }

    /// Takes more bytes into account.
    ///
    /// # Errors
    /// When there is no room for them; then nothing has changed.
    pub fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        let Held { budget, connection, bytes: held, .. } = &*self.0;
        let CallLimits { bytes_max, connection_bytes_max, .. } = budget.limits;
        if held.load(Relaxed).saturating_add(bytes) > connection_bytes_max {
            return Err(NoRoom::Ever { connection_bytes_max });
        }
        if !take(&connection.held, bytes, connection_bytes_max) {
            return Err(NoRoom::Now);
        }
        let spare = connection.held.load(Relaxed).saturating_mul(SPARE);
        if !take(&budget.used, bytes, bytes_max.saturating_sub(spare)) {
            connection.held.fetch_sub(bytes, Relaxed);
            return Err(NoRoom::Now);
        }
        held.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Takes the bytes of an answer into account that cannot be made smaller. One call at a time may
    /// go beyond the shares, whatever they hold: what was stored can be read.
    ///
    /// # Errors
    /// When there is no room for them now; then nothing has changed.
    pub fn grow_by_answer(&self, bytes: usize) -> Result<(), NoRoom> {
        let Held { budget, oversized, .. } = &*self.0;
        if self.grow(bytes).is_ok() || oversized.load(Relaxed) {
            return Ok(());
        }
        if budget.oversized.swap(true, Relaxed) {
            return Err(NoRoom::Now);
        }
        oversized.store(true, Relaxed);
        Ok(())
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0.connection
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.connection.held.fetch_sub(bytes, Relaxed);
        self.budget.used.fetch_sub(bytes, Relaxed);
        if *self.oversized.get_mut() {
            self.budget.oversized.store(false, Relaxed);
        }
        self.connection.call_ends();
    }
}

/// Adds, unless the sum would exceed `max`.
fn take(used: &AtomicUsize, bytes: usize, max: usize) -> bool {
    let before = used.fetch_add(bytes, Relaxed);
    let fits = before.checked_add(bytes).is_some_and(|sum| sum <= max);
    if !fits {
        used.fetch_sub(bytes, Relaxed);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Places;

    fn budget(bytes_max: usize, connection_bytes_max: usize) -> Arc<Budget> {
        Budget::new(CallLimits { bytes_max, connection_bytes_max, exempt: &["/own."] })
    }

    #[test]
    fn one_connection_takes_no_more_than_its_share_and_all_no_more_than_there_is() {
        let places = Places::new(9);
        let [one, other, third] = [(); 3].map(|()| places.admit().expect("a place").0);
        let budget = budget(450, 100);
        let mut rooms = Vec::new();
        for connection in [&one, &other] {
            let room = Room::open(&budget, connection);
            assert_eq!(room.grow(60), Ok(()));
            assert_eq!(room.grow(40), Ok(()));
            assert_eq!(Room::open(&budget, connection).grow(1), Err(NoRoom::Now));
            rooms.push(room);
        }
        let room = Room::open(&budget, &third);
        assert_eq!(room.grow(84), Err(NoRoom::Now), "more than would be left of the whole");
        assert_eq!(room.grow(83), Ok(()), "a refusal takes nothing");
        drop(rooms);
        assert_eq!(room.grow(17), Ok(()), "what others gave back is there again");
        drop(room);
        assert_eq!(budget.used.load(Relaxed), 0);
    }

    /// Four connections that never took their answers held a quarter of the whole each, and
    /// everybody else was refused until they were cut.
    #[test]
    fn greedy_connections_leave_room_for_one_that_is_not() {
        let places = Places::new(9);
        let budget = budget(1000, 250);
        let mut held = Vec::new();
        for _ in 0..4 {
            let greedy = places.admit().expect("a place").0;
            loop {
                let room = Room::open(&budget, &greedy);
                if room.grow(10).is_err() {
                    break;
                }
                held.push(room);
            }
        }
        let modest = places.admit().expect("a place").0;
        assert_eq!(Room::open(&budget, &modest).grow(40), Ok(()));
        let used: usize = held.len() * 10;
        assert!((500..=900).contains(&used), "{used} of 1000 are held");
    }

    #[test]
    fn a_call_that_never_fits_is_told_so() {
        let (connection, _) = Places::new(1).admit().expect("a place");
        let room = Room::open(&budget(1000, 100), &connection);
        assert_eq!(room.grow(101), Err(NoRoom::Ever { connection_bytes_max: 100 }));
        assert_eq!(room.grow(100), Ok(()));
    }

    /// A server with little memory took values, by appends, that it could never give back.
    #[test]
    fn an_answer_of_any_size_has_room_whatever_is_held_but_one_at_a_time() {
        let places = Places::new(2);
        let [one, other] = [(); 2].map(|()| places.admit().expect("a place").0);
        let budget = budget(1000, 100);
        let room = Room::open(&budget, &one);
        assert_eq!(room.grow(10), Ok(()));
        let second = Room::open(&budget, &other);
        assert_eq!(second.grow(1), Ok(()));
        assert_eq!(room.grow_by_answer(5000), Ok(()));
        assert_eq!(second.grow_by_answer(5000), Err(NoRoom::Now));
        assert_eq!(second.grow(50), Ok(()), "the shares are as they were");
        drop(room);
        assert_eq!(second.grow_by_answer(5000), Ok(()));
        drop(second);
        assert_eq!((budget.used.load(Relaxed), one.held.load(Relaxed)), (0, 0));
    }

    #[test]
    fn room_is_given_back_with_the_last_clone() {
        let (connection, _) = Places::new(1).admit().expect("a place");
        let budget = budget(1000, 100);
        let room = Room::open(&budget, &connection);
        assert_eq!(room.grow(100), Ok(()));
        let clone = room.clone();
        drop(room);
        assert_eq!(Room::open(&budget, &connection).grow(1), Err(NoRoom::Now));
        drop(clone);
        assert_eq!(Room::open(&budget, &connection).grow(100), Ok(()));
    }
}
