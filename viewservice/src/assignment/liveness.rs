//! Who seems to live: soft state of the leader, from signs of life and the passing of time.
//! Pure: `now` comes from the caller. It may be late or wrong; the law makes that harmless.
//!
//! Its caller owes it a `tick` every 50 ms or so, and before every decision.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use kvproto::registration::Progress;
use kvproto::rules::{Rule, keeps};
use kvproto::{Member, OpNumber, ServerName, Settings, Timestamp, View};

use super::meetings::Meetings;

#[cfg(test)]
mod tests;

/// A gap between ticks longer than this means that the leader itself was paused: four ticks.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Deaths of one server within `FLAP_WINDOW` that are taken for ordinary restarts.
const DEATHS_FREE: usize = 3;
const FLAP_WINDOW: Duration = Duration::from_secs(60);
const BACK_OFF_FIRST: Duration = Duration::from_secs(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(600);
/// A server repeats its wish to stop every 100 ms. One that pings on without repeating it for this
/// long has given it up.
const LEAVING_FADES: Duration = Duration::from_secs(2);
/// A server that did not die for this long has a clean record again.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// How a server seems to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Heard, and moving.
    Alive,
    /// Its registration stream broke; not known to be dead.
    Suspected,
    /// It wants to stop.
    Leaving,
    /// Silent, stuck or gone.
    Dead,
}

impl State {
    /// Lower-case word for status screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Alive => "alive",
            State::Suspected => "suspected",
            State::Leaving => "leaving",
            State::Dead => "dead",
        }
    }
}

/// What makes a server count as dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Nothing was heard of it for `dead-after`.
    Silent,
    /// It pings, but its sequencer stood still for `dead-after`.
    Stuck,
    /// Its stream broke and its address refuses connections.
    Gone,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Death::Silent => "silent",
            Death::Stuck => "it pings, but stands still",
            Death::Gone => "its address refuses",
        })
    }
}

/// One life of a server, as far as it was heard.
#[derive(Clone, Debug)]
struct Life {
    heard: Timestamp,
    /// When its sequencer was seen to move; of a plain server, when it was heard.
    moved: Timestamp,
    progress: Option<Progress>,
    suspected: bool,
    /// A newer process asked for its name, or came with its storage, since it was last heard.
    succeeded: bool,
    /// When it last said that it wants to stop.
    leaving: Option<Timestamp>,
    /// Its primary had it evicted then; it is recruited again only after a later sign of life.
    evicted: Option<Timestamp>,
    dead: Option<(Death, Timestamp)>,
}

/// What is remembered of a server over its lives.
#[derive(Clone, Default, Debug)]
struct Record {
    /// The latest deaths and evictions, oldest first.
    deaths: VecDeque<Timestamp>,
    /// Back-offs served since the record was clean.
    strikes: u32,
    barred_until: Timestamp,
}

/// The failure detector.
#[derive(Clone, Debug)]
pub struct Liveness {
    dead_after: Duration,
    ping_interval: Duration,
    stall_after: Duration,
    lives: BTreeMap<Member, Life>,
    records: BTreeMap<ServerName, Record>,
    ticked: Timestamp,
    /// Until then silence proves nothing.
    grace_until: Timestamp,
    /// Many servers fell silent at once, and that was put down to this process.
    suspects_itself: bool,
    /// Who was met at its address. Ticked by the leader, which knows who attends.
    pub(super) meetings: Meetings,
}

impl Liveness {
    /// A new leader: everybody in `known` has a full `dead-after` to be heard.
    pub fn new(
        settings: &Settings,
        known: impl IntoIterator<Item = Member>,
        now: Timestamp,
    ) -> Liveness {
        let mut liveness = Liveness {
            dead_after: settings.dead_after,
            ping_interval: settings.ping_interval,
            stall_after: settings.stall_after,
            lives: BTreeMap::new(),
            records: BTreeMap::new(),
            ticked: now,
            grace_until: now,
            suspects_itself: false,
            meetings: Meetings::default(),
        };
        for member in known {
            liveness.observe(&member, None, now);
        }
        liveness
    }

    /// A registration stream of this life stands. What it did while it was not heard cannot be held
    /// against it, so it has a full `dead-after` again to be seen moving, unless it was already seen
    /// to stand still.
    pub fn attend(&mut self, member: &Member, now: Timestamp) {
        self.observe(member, None, now);
        let life = self.life(member, now);
        life.suspected = false;
        if life.dead.is_none() {
            life.moved = now;
        }
    }

    /// A sign of life; of full servers with progress, which is what counts.
    pub fn observe(&mut self, member: &Member, progress: Option<Progress>, now: Timestamp) {
        let life = self.life(member, now);
        life.heard = now;
        life.succeeded = false;
        if life.leaving.is_some_and(|wished| now.since(wished) >= LEAVING_FADES) {
            life.leaving = None;
        }
        let stands_still = match (&progress, &life.progress) {
            (Some(new), Some(old)) => new.steps == old.steps,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if !stands_still {
            life.moved = now;
        }
        life.progress = progress.or(life.progress);
        if !(stands_still && matches!(life.dead, Some((Death::Stuck, _)))) {
            life.dead = None;
        }
    }

    /// Its registration stream broke.
    pub fn suspect(&mut self, member: &Member) {
        if let Some(life) = self.lives.get_mut(member) {
            life.suspected = true;
        }
    }

    /// A newer process asks for its name, or comes with its storage. That proves no death, but explains
    /// a silence: this leader is not cut off from where the server was.
    pub fn succeeded(&mut self, member: &Member) {
        if let Some(life) = self.lives.get_mut(member) {
            life.succeeded = true;
        }
    }

    /// Its address refuses connections, which with a broken stream is proof of death. Returns
    /// whether it was.
    pub fn refused(&mut self, member: &Member, now: Timestamp) -> bool {
        let suspected = self.lives.get(member).is_some_and(|life| life.suspected);
        if suspected {
            self.die(member, Death::Gone, now);
        }
        suspected
    }

    /// A newer life of the server is registered, so this one is over.
    pub fn ended(&mut self, member: &Member, now: Timestamp) {
        self.die(member, Death::Gone, now);
        self.lives.remove(member);
    }

    /// It wants to stop.
    pub fn leaving(&mut self, member: &Member, now: Timestamp) {
        if let Some(life) = self.lives.get_mut(member) {
            life.leaving = Some(now);
        }
    }

    /// Its primary had it evicted.
    pub fn evicted(&mut self, member: &Member, now: Timestamp) {
        self.life(member, now).evicted = Some(now);
        self.record_death(&member.name, now);
    }

    /// The server was struck off the list.
    pub fn forget(&mut self, member: &Member) {
        self.lives.remove(member);
        self.records.remove(&member.name);
    }

    /// Time has passed. Returns who died of it.
    pub fn tick(&mut self, now: Timestamp) -> Vec<(Member, Death)> {
        if now.since(self.ticked) > PAUSE_MAX {
            self.grace_until = now + self.dead_after;
        }
        self.ticked = now;
        if self.is_more_likely_my_own_fault(now) {
            self.suspects_itself = true;
            self.grace_until = now + self.dead_after;
        }
        let dying: Vec<_> = self
            .lives
            .iter()
            .filter(|(_, life)| life.dead.is_none())
            .filter_map(|(member, life)| Some((member.clone(), self.overdue(life, now)?)))
            .collect();
        for (member, death) in &dying {
            self.die(member, *death, now);
        }
        dying
    }

    /// Whether more than half of the living (of at least three) went silent together and without an
    /// explanation, for the first time in this episode.
    fn is_more_likely_my_own_fault(&mut self, now: Timestamp) -> bool {
        let missed = self.dead_after.saturating_sub(self.ping_interval);
        let living = self.lives.values().filter(|life| life.dead.is_none());
        let (mut all, mut quiet, mut overdue) = (0, 0, false);
        for life in living {
            all += 1;
            quiet += usize::from(life.heard + missed <= now && !life.succeeded);
            overdue |= self.overdue(life, now) == Some(Death::Silent);
        }
        if quiet == 0 {
            self.suspects_itself = false;
        }
        overdue && !self.suspects_itself && all >= 3 && quiet * 2 > all
    }

    fn overdue(&self, life: &Life, now: Timestamp) -> Option<Death> {
        if self.is_over(life.heard, now) {
            Some(Death::Silent)
        } else if self.is_over(life.moved, now) {
            Some(Death::Stuck)
        } else {
            None
        }
    }

    fn is_over(&self, since: Timestamp, now: Timestamp) -> bool {
        (since + self.dead_after).max(self.grace_until) <= now
    }

    fn die(&mut self, member: &Member, death: Death, now: Timestamp) {
        let Some(life) = self.lives.get_mut(member) else {
            return;
        };
        match &mut life.dead {
            // What is proven replaces what was assumed; it is still one death.
            Some((known, _)) => *known = death,
            None => {
                life.dead = Some((death, now));
                // Who stopped in good order is not flapping.
                if life.leaving.is_none() {
                    self.record_death(&member.name, now);
                }
            }
        }
    }

    fn record_death(&mut self, name: &ServerName, now: Timestamp) {
        let record = self.records.entry(name.clone()).or_default();
        if record.deaths.back().is_some_and(|last| now.since(*last) > STABLE_AFTER) {
            *record = Record::default();
        }
        record.deaths.push_back(now);
        while record.deaths.len() > DEATHS_FREE + 1 {
            record.deaths.pop_front();
        }
        let recent = record.deaths.iter().filter(|death| now.since(**death) <= FLAP_WINDOW);
        if recent.count() > DEATHS_FREE || record.strikes > 0 {
            let pause = BACK_OFF_FIRST * 2_u32.pow(record.strikes.min(7));
            record.barred_until = now + pause.min(BACK_OFF_MAX);
            record.strikes += 1;
        }
    }

    fn life(&mut self, member: &Member, now: Timestamp) -> &mut Life {
        self.lives.entry(member.clone()).or_insert(Life {
            heard: now,
            moved: now,
            progress: None,
            suspected: false,
            succeeded: false,
            leaving: None,
            evicted: None,
            dead: None,
        })
    }

    /// How the server seems to be. One never heard of is dead.
    #[must_use]
    pub fn state(&self, member: &Member) -> State {
        match self.lives.get(member) {
            None => State::Dead,
            Some(life) if life.dead.is_some() => State::Dead,
            Some(life) if life.leaving.is_some() => State::Leaving,
            Some(life) if life.suspected => State::Suspected,
            Some(_) => State::Alive,
        }
    }

    /// Whether the server is dead as far as this leader can tell.
    #[must_use]
    pub fn is_dead(&self, member: &Member) -> bool {
        self.state(member) == State::Dead
    }

    /// Whether its registration stream is broken, or never stood.
    #[must_use]
    pub fn has_no_stream(&self, member: &Member) -> bool {
        self.lives.get(member).is_none_or(|life| life.suspected)
    }

    /// Whether the server was not heard for `dead-after`, whatever else is known of it.
    #[must_use]
    pub fn is_silent(&self, member: &Member) -> bool {
        self.lives.get(member).is_none_or(|life| self.is_over(life.heard, self.ticked))
    }

    /// `dead-after`, which is how long a server is given for anything that it should do soon.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.dead_after
    }

    /// Everyone who was heard once and is dead.
    #[must_use]
    pub fn dead(&self) -> BTreeSet<Member> {
        let dead = self.lives.iter().filter(|(_, life)| life.dead.is_some());
        dead.map(|(member, _)| member.clone()).collect()
    }

    /// Whether its disk has stood still for `stall-after` with something to do, by its last ping.
    #[must_use]
    pub fn disk_hangs(&self, member: &Member) -> bool {
        self.progress(member).is_some_and(|progress| progress.disk_waits >= self.stall_after)
    }

    /// Whether its disk is known to move: adopting this view gave it something to do, and nothing is
    /// left of that. One that was given nothing of late may hang unnoticed.
    #[must_use]
    pub fn disk_moves_in(&self, member: &Member, view: &View) -> bool {
        self.progress(member).is_some_and(|progress| {
            let adopted = (progress.view.generation, progress.view.number);
            adopted >= (view.generation, view.number) && progress.disk_waits.is_zero()
        })
    }

    /// Whether the server may be taken into a view: alive beyond doubt, with a disk that does not hang,
    /// and heard since it was last evicted.
    #[must_use]
    pub fn is_recruitable(&self, member: &Member) -> bool {
        self.state(member) == State::Alive
            && !(self.disk_hangs(member) && keeps(Rule::HangingIsLeftOut))
            && self.lives.get(member).is_some_and(|life| {
                life.evicted.is_none_or(|evicted| life.heard > evicted && life.moved > evicted)
            })
    }

    /// Whether the server has died too often of late: others are taken before it.
    #[must_use]
    pub fn is_barred(&self, member: &Member, now: Timestamp) -> bool {
        let record = self.records.get(&member.name);
        record.is_some_and(|record| record.barred_until > now)
    }

    /// Deaths and evictions of the server that are not forgotten yet.
    #[must_use]
    pub fn deaths(&self, name: &ServerName) -> usize {
        self.records.get(name).map_or(0, |record| record.deaths.len())
    }

    /// Highest op that the server said it has appended.
    #[must_use]
    pub fn appended(&self, member: &Member) -> OpNumber {
        self.progress(member).map_or(OpNumber(0), |progress| progress.appended)
    }

    /// What the server said last about itself.
    #[must_use]
    pub fn progress(&self, member: &Member) -> Option<Progress> {
        self.lives.get(member)?.progress
    }

    /// Time since the last sign of life; `None` if there never was one.
    #[must_use]
    pub fn unheard_for(&self, member: &Member, now: Timestamp) -> Option<Duration> {
        Some(now.since(self.lives.get(member)?.heard))
    }

    /// Time since the server died; `None` while it lives or when it was never heard.
    #[must_use]
    pub fn dead_for(&self, member: &Member, now: Timestamp) -> Option<Duration> {
        let (_, at) = self.lives.get(member)?.dead?;
        Some(now.since(at))
    }

    /// Whether the process is proven to be gone, not merely unheard.
    #[must_use]
    pub fn is_gone(&self, member: &Member) -> bool {
        let life = self.lives.get(member);
        life.is_some_and(|life| matches!(life.dead, Some((Death::Gone, _))))
    }
}
