//! A view record and the rules that one record alone must obey.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Epoch, Generation, History, Member, Revision, ServerName, ViewNumber};
use crate::settings::Settings;

/// Whether the primary of a view has begun to act in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ViewStatus {
    /// Named by the view service; nobody commits in it yet.
    Proposed,
    /// Its primary has reconciled its members and asked for activation.
    Activated,
}

/// What the order of records compares: of two records the one with the larger order is newer.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct ViewOrder {
    /// The generation.
    pub generation: Generation,
    /// The view number.
    pub number: ViewNumber,
    /// The revision of the view service's state.
    pub revision: Revision,
}

/// A numbered configuration of the cluster, as the view service says it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Counts decisions to accept data loss.
    pub generation: Generation,
    /// Number of the view.
    pub number: ViewNumber,
    /// Counts changes of the view service's state, within a view too.
    pub revision: Revision,
    /// Proposed or activated.
    pub status: ViewStatus,
    /// View in which the present primary was appointed.
    pub primary_since: ViewNumber,
    /// The primary; `None` only in view 0.
    pub primary: Option<Member>,
    /// The backups in order of appointment, joining or not.
    pub backups: Vec<Member>,
    /// Servers known to hold every committed op: the only ones that may become primary.
    pub eligible: BTreeSet<Member>,
    /// Settings of the cluster.
    pub settings: Settings,
    /// What led to this record. Two records of one order are the same only with the same history.
    pub history: History,
}

/// Everything that decides what follows from the record. How it came about is left out, so that
/// states which differ in nothing else are one to whoever explores them.
impl Hash for View {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let View {
            cluster,
            generation,
            number,
            revision,
            status,
            primary_since,
            primary,
            backups,
            eligible,
            settings,
            history: _,
        } = self;
        (cluster, generation, number, revision, status, primary_since).hash(state);
        (primary, backups, eligible, settings).hash(state);
    }
}

/// Part that a server plays in a view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Orders and answers.
    Primary,
    /// Holds every committed op.
    Backup,
    /// In the view, still being brought up.
    Joining,
    /// Not in the view.
    Spare,
}

impl Role {
    /// Lower-case word for messages and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::Joining => "joining",
            Role::Spare => "spare",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl View {
    /// The record of a cluster that has no view yet.
    #[must_use]
    pub fn none(cluster: ClusterId, settings: Settings) -> View {
        View {
            cluster,
            generation: Generation(1),
            number: ViewNumber(0),
            revision: Revision(0),
            status: ViewStatus::Proposed,
            primary_since: ViewNumber(0),
            primary: None,
            backups: Vec::new(),
            eligible: BTreeSet::new(),
            settings,
            history: History::founding(cluster),
        }
    }

    /// What records are ordered by.
    #[must_use]
    pub fn order(&self) -> ViewOrder {
        ViewOrder { generation: self.generation, number: self.number, revision: self.revision }
    }

    /// The epoch of this view's primary.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { generation: self.generation, primary_since: self.primary_since }
    }

    /// Whether the view is activated.
    #[must_use]
    pub fn is_activated(&self) -> bool {
        self.status == ViewStatus::Activated
    }

    /// Whether this member is the primary.
    #[must_use]
    pub fn is_primary(&self, member: &Member) -> bool {
        self.primary.as_ref() == Some(member)
    }

    /// Primary and backups.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.primary.iter().chain(&self.backups)
    }

    /// Name of the primary, for hints.
    #[must_use]
    pub fn primary_name(&self) -> Option<&ServerName> {
        self.primary.as_ref().map(|primary| &primary.name)
    }

    /// The part that a member plays.
    #[must_use]
    pub fn role_of(&self, member: &Member) -> Role {
        if self.is_primary(member) {
            Role::Primary
        } else if !self.backups.contains(member) {
            Role::Spare
        } else if self.eligible.contains(member) {
            Role::Backup
        } else {
            Role::Joining
        }
    }
}
