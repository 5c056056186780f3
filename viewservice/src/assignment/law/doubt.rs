//! VIEW-8: a server shows a record that this state does not descend from. Then this state was put back
//! to an older one, or there are two pasts, and nobody but an operator can tell which of them holds
//! what was acknowledged. Pure; a part of the law.
//!
//! It owns the doubt: who showed what, and what the decision that ends it must lie above. While it
//! lasts the law refuses everything else, and no record changes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use kvproto::{
    Generation, History, Incarnation, LifeId, Member, Rule, ServerName, View, ViewNumber,
    ViewOrder, keeps,
};
use serde::{Deserialize, Serialize};

use super::{
    Applied, Kind, Mode, Refusal, Server, Storage, ViewId, ViewState, mode_fits, name_is_usable,
};

/// Names whose records are kept. The servers of one cluster are fewer; of more, the newest records stay.
const SHOWN_MAX: usize = 64;

/// Members and complete servers of a record that is kept; no record has more.
const MEMBERS_MAX: usize = 64;

/// Higher numbers are nobody's: a view a microsecond makes these in nine years.
const NUMBER_MAX: u64 = 1 << 48;
const GENERATION_MAX: u64 = (1 << 16) - 2;

/// What a server showed of its past.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Its address.
    pub name: ServerName,
    /// Its number, if a view service gave it one in this life.
    pub incarnation: Option<Incarnation>,
    /// Which process.
    pub life: LifeId,
    /// The order of the newest record that it has.
    pub order: ViewOrder,
    /// The history of that record.
    pub history: History,
    /// The record itself; a ping only names it.
    pub record: Option<Box<View>>,
}

/// Everything of a doubt that must not be forgotten.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Doubt {
    shown: BTreeMap<ServerName, Shown>,
    /// The highest of everything that was ever shown in it.
    highest: Highest,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
struct Highest {
    generation: Generation,
    number: ViewNumber,
    incarnation: Incarnation,
}

impl Doubt {
    /// What was shown, by name; of each the last.
    pub fn shown(&self) -> impl Iterator<Item = &Shown> + '_ {
        self.shown.values()
    }

    /// The newest record that was shown.
    #[must_use]
    pub fn newest(&self) -> Option<&View> {
        let records = self.shown.values().filter_map(|shown| shown.record.as_deref());
        records.max_by_key(|record| record.order())
    }

    /// Of more names than that only the newest records stay.
    fn take(&mut self, shown: Shown) {
        self.highest.raise(&shown);
        let shown = shown.bounded();
        if self.shown.len() >= SHOWN_MAX && !self.shown.contains_key(&shown.name) {
            let oldest = self.shown.values().min_by_key(|known| known.order);
            match oldest.map(|known| (known.order, known.name.clone())) {
                Some((order, name)) if order < shown.order => drop(self.shown.remove(&name)),
                _ => return,
            }
        }
        self.shown.insert(shown.name.clone(), shown);
    }
}

impl Highest {
    fn raise(&mut self, shown: &Shown) {
        let members =
            shown.record.iter().flat_map(|record| record.members().chain(&record.eligible));
        let incarnations = members.map(|member| member.incarnation).chain(shown.incarnation);
        self.generation = self.generation.max(shown.order.generation);
        self.number = self.number.max(shown.order.number);
        self.incarnation = incarnations.fold(self.incarnation, Incarnation::max);
    }
}

/// Some order, for whoever sorts commands: a record is what its history made it.
impl Ord for Shown {
    fn cmp(&self, other: &Shown) -> Ordering {
        let key = |it: &Shown| {
            (it.name.clone(), it.incarnation, it.life, it.order, it.history, it.record.is_some())
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Shown {
    fn partial_cmp(&self, other: &Shown) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Shown {
    /// What nobody ever shows would make the numbers of the state run out.
    fn is_possible(&self) -> bool {
        let order = self.order;
        let members =
            self.record.iter().flat_map(|record| record.members().chain(&record.eligible));
        let mut incarnations = members.map(|member| member.incarnation).chain(self.incarnation);
        order.generation.0 <= GENERATION_MAX
            && order.number.0.max(order.revision.0) <= NUMBER_MAX
            && incarnations.all(|incarnation| incarnation.0 <= NUMBER_MAX)
            && self.record.as_ref().is_none_or(|record| record.order() == order)
    }

    /// Without a record that is larger than any record is.
    fn bounded(mut self) -> Shown {
        self.record = self.record.filter(|record| {
            record.members().count() + record.eligible.len() <= MEMBERS_MAX
                && record
                    .members()
                    .chain(&record.eligible)
                    .all(|it| name_is_usable(&it.name).is_ok())
        });
        self
    }
}

/// A server that an operator believes, as it stands at the door.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Believed {
    /// Its address.
    pub name: ServerName,
    /// Its number, if a view service gave it one in this life; it keeps it.
    pub incarnation: Option<Incarnation>,
    /// Which process.
    pub life: LifeId,
    /// What it holds, if it keeps data on disk.
    pub storage: Option<Storage>,
}

impl ViewState {
    /// The doubt that this state is in, if it is.
    #[must_use]
    pub fn doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref()
    }

    /// Whether nobody ever came: there is no data, and no past.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.last_incarnation == Incarnation(0) && self.doubt.is_none()
    }

    /// Whether a record of this order and history proves another past than this state's. Those of
    /// older generations prove nothing: an operator has given them up.
    #[must_use]
    pub fn contradicts(&self, order: ViewOrder, history: History) -> bool {
        order.generation >= self.view.generation
            && (order > self.view.order() || !self.went_through(order.revision, history))
            && keeps(Rule::OtherPastIsDoubted)
    }

    /// Whether this life was ever given to somebody by this state, as far as its number says.
    #[must_use]
    pub fn has_given(&self, incarnation: Incarnation) -> bool {
        incarnation <= self.last_incarnation
    }

    /// A present life as it may be believed.
    #[must_use]
    pub fn as_believed(&self, member: &Member) -> Option<Believed> {
        let life = self.life(member)?;
        let storage = self.storages.get(&member.incarnation).copied();
        let incarnation = Some(member.incarnation);
        Some(Believed { name: member.name.clone(), incarnation, life, storage })
    }

    /// Somebody shows what lies outside of this state's history.
    pub(super) fn doubts(&mut self, shown: Shown) -> Result<Applied, Refusal> {
        name_is_usable(&shown.name)?;
        let given = shown.incarnation.is_none_or(|incarnation| self.has_given(incarnation));
        let of_another_cluster =
            shown.record.as_ref().is_some_and(|record| record.cluster != self.view.cluster);
        let proves = self.contradicts(shown.order, shown.history)
            || !given && shown.order.generation >= self.view.generation;
        if of_another_cluster || !shown.is_possible() || !proves {
            return Err(Refusal::ProvesNothing(shown.name));
        }
        let before = self.doubt.clone();
        self.doubt.get_or_insert_default().take(shown);
        Ok(if self.doubt == before { Applied::Unchanged } else { Applied::Changed })
    }

    /// The operator ends the doubt: this server's past is the one that goes on. All numbers lie above
    /// everything that was shown, so whatever comes from another past is older.
    pub(super) fn believe(&mut self, after: ViewId, whom: Believed) -> Result<Applied, Refusal> {
        self.must_be_current(after)?;
        let Some(doubt) = self.doubt.clone() else {
            return Err(Refusal::NoDoubt);
        };
        let Believed { name, incarnation, life, storage } = whom;
        let mode = if storage.is_some() { Mode::Durable } else { Mode::InMemory };
        name_is_usable(&name)?;
        mode_fits(self.mode, mode)?;
        if incarnation.is_some_and(|incarnation| incarnation.0 > NUMBER_MAX) {
            return Err(Refusal::ProvesNothing(name));
        }
        let mut highest = doubt.highest;
        if !keeps(Rule::DoubtEndsAboveAllShown) {
            highest = Highest::default();
        }
        self.last_incarnation = self.last_incarnation.max(highest.incarnation);
        self.last_incarnation = match incarnation {
            Some(own) => self.last_incarnation.max(own),
            None => self.last_incarnation.next(),
        };
        let member = Member { name, incarnation: incarnation.unwrap_or(self.last_incarnation) };
        // Whoever was given the same number in this past held nothing: all who did are silent.
        self.servers.retain(|_, server| server.incarnation != member.incarnation);
        self.storages.remove(&member.incarnation);
        self.servers.insert(member.name.clone(), Server::begun(member.incarnation, life));
        self.storages.extend(storage.map(|storage| (member.incarnation, storage)));
        self.kind = Some(Kind::Full);
        self.mode = Some(mode);
        self.ever_activated = true;
        self.doubt = None;
        self.view.generation = self.view.generation.max(highest.generation);
        self.view.number = self.view.number.max(highest.number);
        self.begin_generation_with(member);
        Ok(Applied::Changed)
    }

    /// Asserts what must hold of a doubt, and of what ends it.
    pub(super) fn check_doubt(&self, before: Option<&Doubt>, record_before: &View) {
        if let Some(doubt) = &self.doubt {
            assert!(doubt.shown.len() <= SHOWN_MAX, "DoubtIsBounded: {}", doubt.shown.len());
            assert!(
                !doubt.shown.is_empty() && self.view == *record_before,
                "DoubtChangesNoRecord: {record_before:?} {:?}",
                self.view
            );
        }
        if let (Some(doubt), None) = (before, &self.doubt) {
            let Highest { generation, number, incarnation } = doubt.highest;
            assert!(
                self.view.generation > generation
                    && self.view.number > number
                    && self.last_incarnation >= incarnation,
                "DoubtEndsAboveAllShown: {doubt:?} {:?}",
                self.view
            );
        }
    }
}
