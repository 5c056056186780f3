//! Who came and was not let in, and for how long an empty view service listens before it founds a
//! cluster. Soft state of whoever leads, bounded. Pure.
//!
//! It decides nothing about views. A knock is a sign of life of a process, whatever it wants: an
//! operator who ends a doubt relies on the silence of all the others.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::limits::SILENCE_BEFORE_FORCE;
use kvproto::registration::{RefusedReason, Registration};
use kvproto::{
    ClusterId, Incarnation, LifeId, Rule, ServerName, Settings, Timestamp, ViewOrder, keeps,
};

use super::law::{SERVERS_MAX, Storage};

/// Servers that are refused come again at least this often; three of these are missed before one
/// counts as gone.
const KNOCKS_EVERY: Duration = Duration::from_secs(1);

/// Who was refused is shown for this long; longer than any silence that is waited for.
const SHOWN_FOR: Duration = Duration::from_secs(60);
const _: () = assert!(SHOWN_FOR.as_secs() > 2 * SILENCE_BEFORE_FORCE.as_secs());

/// A server that was refused, as it came last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knock {
    /// Its number, if a view service gave it one in this life.
    pub incarnation: Option<Incarnation>,
    /// Which process.
    pub life: LifeId,
    /// Of which cluster it is, if any.
    pub cluster: Option<ClusterId>,
    /// What it holds, if it keeps data on disk.
    pub storage: Option<Storage>,
    /// The newest record that it has.
    pub shown: Option<ViewOrder>,
    /// Why it was refused.
    pub reason: RefusedReason,
    /// What it was told.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// The door of a view service.
#[derive(Clone, Debug)]
pub struct Door {
    /// Since when anybody could be heard.
    opened: Timestamp,
    /// Until then an empty view service admits nobody; `None` if it need not listen.
    listens_until: Option<Timestamp>,
    counts_for: Duration,
    knocks: BTreeMap<ServerName, Knock>,
}

impl Door {
    /// Opens now.
    #[must_use]
    pub fn new(settings: &Settings, now: Timestamp) -> Door {
        Door {
            opened: now,
            listens_until: None,
            counts_for: 3 * settings.dead_after.max(KNOCKS_EVERY),
            knocks: BTreeMap::new(),
        }
    }

    /// Nobody ever came: listen first.
    pub fn listen(&mut self, settings: &Settings, now: Timestamp) {
        self.listens_until = Some(now + settings.dead_after);
    }

    /// A server was refused.
    pub fn refused(
        &mut self,
        asked: &Registration,
        reason: RefusedReason,
        message: &str,
        now: Timestamp,
    ) {
        if self.knocks.len() >= SERVERS_MAX && !self.knocks.contains_key(&asked.name) {
            let longest_ago = self.knocks.iter().min_by_key(|(_, knock)| knock.at);
            if let Some(name) = longest_ago.map(|(name, _)| name.clone()) {
                self.knocks.remove(&name);
            }
        }
        let knock = Knock {
            incarnation: asked.incarnation,
            life: asked.life,
            cluster: asked.cluster,
            storage: asked.held.as_ref().map(Storage::of),
            shown: asked.shown.as_ref().map(|record| record.order()),
            reason,
            message: message.to_owned(),
            at: now,
        };
        self.knocks.insert(asked.name.clone(), knock);
    }

    /// A server was let in.
    pub fn admitted(&mut self, name: &ServerName) {
        self.knocks.remove(name);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Timestamp) {
        self.knocks.retain(|_, knock| now.since(knock.at) < SHOWN_FOR);
    }

    /// Everybody who was refused of late, by name.
    pub fn knocks(&self) -> impl Iterator<Item = (&ServerName, &Knock)> + '_ {
        self.knocks.iter()
    }

    /// The knock of a server that is there, as far as that can be told.
    #[must_use]
    pub fn knocking(&self, name: &ServerName, now: Timestamp) -> Option<&Knock> {
        self.knocks.get(name).filter(|knock| now.since(knock.at) < self.counts_for)
    }

    /// For how long nobody of this name has knocked, at most since the door is open.
    #[must_use]
    pub fn silent_for(&self, name: &ServerName, now: Timestamp) -> Duration {
        let heard = self.knocks.get(name).map_or(self.opened, |knock| knock.at);
        now.since(heard)
    }

    /// The servers of another cluster that come all the same.
    pub fn strangers(
        &self,
        cluster: ClusterId,
        now: Timestamp,
    ) -> impl Iterator<Item = (&ServerName, ClusterId)> + '_ {
        let of = move |knock: &Knock| knock.cluster.filter(|other| *other != cluster);
        let there = move |knock: &&Knock| now.since(knock.at) < self.counts_for;
        self.knocks
            .iter()
            .filter_map(move |(name, knock)| Some((name, of(Some(knock).filter(there)?)?)))
    }

    /// Whether the first who comes founds the cluster, whoever else may come.
    #[must_use]
    pub fn founds_at_once(&self) -> bool {
        self.listens_until.is_none()
    }

    /// VIEW-8: whether nobody may found the cluster yet, if it is not founded: it was not listened for
    /// long enough, or servers of another cluster come.
    #[must_use]
    pub fn listens(&self, cluster: ClusterId, now: Timestamp) -> bool {
        let strangers = || self.strangers(cluster, now).next().is_some();
        keeps(Rule::EmptyListensFirst)
            && self.listens_until.is_some_and(|until| now < until || strangers())
    }

    /// Whether a full server has come while nobody was let in: then a plain ping founds nothing.
    #[must_use]
    pub fn has_full(&self) -> bool {
        self.listens_until.is_some() && !self.knocks.is_empty() && keeps(Rule::FullFoundsFirst)
    }
}
