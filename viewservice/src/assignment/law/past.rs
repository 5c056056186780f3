//! What the state of the views went through: the hash of its history at each of its latest revisions.
//! Pure; a part of the law.
//!
//! It answers one question: whether a record that somebody shows is of this past (VIEW-8).

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use kvproto::{History, Revision};
use serde::{Deserialize, Serialize};

/// Revisions whose history is remembered. A cluster makes a few with each failure, so these are years;
/// they take 1.6 MB.
pub const PAST_KEPT: usize = 100_000;

/// One history for each of the latest revisions, without a gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Past {
    /// The revision of the first that is kept.
    first: Revision,
    histories: VecDeque<History>,
}

/// The last history stands in the record, and states with the same present go on alike.
impl Hash for Past {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

impl Past {
    /// Of a state at revision 0.
    pub(super) fn founding(history: History) -> Past {
        Past { first: Revision(0), histories: VecDeque::from([history]) }
    }

    /// One more revision.
    pub(super) fn push(&mut self, history: History) {
        if self.histories.len() == PAST_KEPT {
            self.histories.pop_front();
            self.first = self.first.next();
        }
        self.histories.push_back(history);
    }

    /// Whether a record of this revision and history lies in this past. One from before what is kept
    /// counts as such.
    pub(super) fn includes(&self, revision: Revision, history: History) -> bool {
        let Some(place) = revision.0.checked_sub(self.first.0) else {
            return true;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        self.histories.get(place) == Some(&history)
    }
}
