//! The window of one open session, shared by the calls that go through it: hands out numbers, lets
//! calls wait for one, and takes every number back however its call ends. Decides nothing; the
//! rules are in `session`.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvproto::command::SESSION_WINDOW;
use kvproto::{RequestId, RequestNumber, SessionId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::session::Session;

/// An open session.
pub(crate) struct Window {
    id: SessionId,
    // A std mutex: it is held for a few instructions and never across an await.
    numbers: Mutex<Session>,
    /// First come, first served, among the calls that wait for a number.
    seats: Arc<Semaphore>,
    ended: Notify,
    over: CancellationToken,
}

impl Window {
    pub(crate) fn new(id: SessionId) -> Arc<Self> {
        Arc::new(Self {
            id,
            numbers: Mutex::new(Session::new(id)),
            seats: Arc::new(Semaphore::new(SESSION_WINDOW as usize)),
            ended: Notify::new(),
            over: CancellationToken::new(),
        })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Cancelled when the session is closed, expired or replaced.
    pub(crate) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Waits for a number.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
        let seat = Arc::clone(&self.seats)
            .acquire_owned()
            .await
            .expect("the semaphore of a window is never closed");
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            let begun = self.numbers().begin();
            if let Some(number) = begun {
                return Slot { window: Arc::clone(self), number, _seat: seat };
            }
            ended.await;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Session> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of one call. Dropping it ends the call: the floor may pass the number, which is
/// then never sent again and refused by the servers should a late attempt of it still arrive.
pub(crate) struct Slot {
    window: Arc<Window>,
    number: RequestNumber,
    _seat: OwnedSemaphorePermit,
}

impl Slot {
    /// What the next attempt carries.
    pub(crate) fn request_id(&self) -> RequestId {
        self.window.numbers().request_id(self.number)
    }

    /// The session that the number belongs to.
    pub(crate) fn window(&self) -> &Arc<Window> {
        &self.window
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.window.numbers().end(self.number);
        self.window.ended.notify_waiters();
    }
}
