//! What the log is made of.

use std::io::Cursor;

use kvproto::{ClusterId, Settings};
use openraft::BasicNode;
use serde::{Deserialize, Serialize};

use crate::assignment::law::{Command, ViewState};

/// Names a voter.
pub(super) type NodeId = u64;

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// The cluster begins. The first of these counts.
    Found {
        /// Its identity.
        cluster: ClusterId,
        /// What it is set to.
        settings: Settings,
    },
    /// These commands of the law, in this order.
    Apply(Vec<Command>),
}

impl Change {
    /// The state after it.
    pub(super) fn apply_to(self, state: &mut Option<ViewState>) {
        match (self, state) {
            (Change::Found { cluster, settings }, state @ None) => {
                *state = Some(ViewState::new(cluster, settings));
            }
            (Change::Apply(commands), Some(state)) => {
                for command in commands {
                    // What the law refuses changes nothing, here as at the proposer.
                    let _refused = state.apply(command);
                }
            }
            (Change::Found { .. }, Some(_)) | (Change::Apply(_), None) => {}
        }
    }
}

openraft::declare_raft_types!(
    /// The answer to a change is the state after it.
    pub(super) TypeConfig:
        D = Change,
        R = Option<ViewState>,
        NodeId = NodeId,
        Node = BasicNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Membership = openraft::StoredMembership<NodeId, BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;

pub(super) use openraft::{ErrorSubject, ErrorVerb, ToStorageResult};
