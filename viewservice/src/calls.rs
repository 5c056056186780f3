//! Counts the calls handled, by method, so that "clients do not ask the view service for every
//! operation" can be tested.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Calls handled since the start.
#[derive(Debug, Default)]
pub struct Calls {
    /// A plain mutex: held for one increment, never across an await.
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Calls {
    /// One more call of this method (`/package.Service/Method`).
    pub fn count(&self, method: &'static str) {
        *self.lock().entry(method).or_default() += 1;
    }

    /// All methods called so far.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, u64> {
        let counts = self.lock();
        counts.iter().map(|(method, count)| ((*method).to_owned(), *count)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.counts.lock().expect("nothing panics while it holds a counter")
    }
}
