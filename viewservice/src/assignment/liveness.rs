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
/// The second time that a server is left out it has to wait this long; then twice as long each time.
const LEFT_OUT_FIRST: Duration = Duration::from_secs(1);
/// A copy that was called slow is replaced, also if it has been quick again for as long as this.
const SLOW_FADES: Duration = Duration::from_secs(60);
/// A server looks for its directory four times a second, and says twice what it sees.
const GONE_SETTLES: Duration = Duration::from_secs(1);
/// Whoever starts servers again has done so by then.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(10);
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
    /// When it was first heard that its data directory is gone.
    directory_gone: Option<Timestamp>,
    /// Its primary had it evicted then; it is recruited again only after a later sign of life.
    evicted: Option<Timestamp>,
    /// Its primary last said then that it stands still again and again, and what it saw.
    slow: Option<(Timestamp, String)>,
    dead: Option<(Death, Timestamp)>,
}

/// What is remembered of a server over its lives.
#[derive(Clone, Default, Debug)]
struct Record {
    /// The latest deaths, oldest first.
    deaths: VecDeque<Timestamp>,
    /// Back-offs served since the record was clean.
    strikes: u32,
    barred_until: Timestamp,
    /// How it was left out, if it was.
    left_out: Option<LeftOut>,
}

/// That a primary had a server left out, again and again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// How often since the record was clean.
    pub times: u32,
    /// What the primary saw the last time.
    pub because: String,
    /// It is not tried again before.
    until: Timestamp,
}

impl LeftOut {
    /// How long it is not tried again.
    #[must_use]
    pub fn tried_again_in(&self, now: Timestamp) -> Duration {
        self.until.since(now)
    }
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
        if progress.is_some_and(|progress| progress.directory_gone) {
            life.directory_gone.get_or_insert(now);
        }
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

    /// Its primary had it left out. Each time costs the others something, so the next one is later and
    /// later; only the first is put down to chance.
    pub fn evicted(&mut self, member: &Member, because: String, now: Timestamp) {
        let life = self.life(member, now);
        life.evicted = Some(now);
        life.slow = None;
        let record = self.records.entry(member.name.clone()).or_default();
        let former = record.left_out.take().filter(|it| now.since(it.until) <= STABLE_AFTER);
        let times = former.map_or(0, |it| it.times) + 1;
        let pause = match times {
            1 => Duration::ZERO,
            _ => (LEFT_OUT_FIRST * 2_u32.pow((times - 2).min(10))).min(BACK_OFF_MAX),
        };
        record.left_out = Some(LeftOut { times, because, until: now + pause });
    }

    /// Its primary says that it stands still again and again.
    pub fn slow(&mut self, member: &Member, because: String, now: Timestamp) {
        self.life(member, now).slow = Some((now, because));
    }

    /// Whether another is to take its place.
    #[must_use]
    pub fn is_slow(&self, member: &Member, now: Timestamp) -> bool {
        self.slow_because(member, now).is_some()
    }

    /// What its primary saw, if another is to take its place.
    #[must_use]
    pub fn slow_because(&self, member: &Member, now: Timestamp) -> Option<String> {
        let (at, because) = self.lives.get(member)?.slow.as_ref()?;
        (now.since(*at) <= SLOW_FADES).then(|| because.clone())
    }

    /// How the server was left out, until that is forgotten.
    #[must_use]
    pub fn left_out(&self, name: &ServerName, now: Timestamp) -> Option<&LeftOut> {
        let left_out = self.records.get(name)?.left_out.as_ref()?;
        (now.since(left_out.until) <= STABLE_AFTER).then_some(left_out)
    }

    /// Whether the server is not tried again yet, whoever else there is.
    #[must_use]
    pub fn is_kept_out(&self, member: &Member, now: Timestamp) -> bool {
        let left_out = self.left_out(&member.name, now);
        left_out.is_some_and(|it| it.until > now) && keeps(Rule::LeftOutBacksOff)
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
            *record = Record { left_out: record.left_out.take(), ..Record::default() };
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
            directory_gone: None,
            evicted: None,
            slow: None,
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

    /// Whether the server has said that its data directory is gone: what it holds goes with its process.
    #[must_use]
    pub fn lacks_directory(&self, member: &Member) -> bool {
        self.lives.get(member).is_some_and(|life| life.directory_gone.is_some())
    }

    /// Whether it lives, or died so short a time ago that somebody may be starting it again.
    #[must_use]
    pub fn may_come_back(&self, member: &Member) -> bool {
        let life = self.lives.get(member);
        life.is_some_and(|life| {
            life.dead.is_none_or(|(_, at)| self.ticked.since(at) < COMES_BACK_WITHIN)
        })
    }

    /// Whether it has said so for so long that everybody else would have said it too by now: whatever
    /// deletes one directory may be deleting others.
    #[must_use]
    pub fn has_long_lacked_directory(&self, member: &Member, now: Timestamp) -> bool {
        let settles = GONE_SETTLES.max(self.ping_interval * 2);
        let since = self.lives.get(member).and_then(|life| life.directory_gone);
        since.is_some_and(|since| now.since(since) >= settles)
    }

    /// Whether the server may be taken into a view: alive beyond doubt, with a directory of its own if it
    /// needs one, on a disk that does not hang, and heard since it was last evicted.
    #[must_use]
    pub fn is_recruitable(&self, member: &Member) -> bool {
        self.state(member) == State::Alive
            && !self.lacks_directory(member)
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

    /// How often the server died, or was left out, as far as that is not forgotten yet.
    #[must_use]
    pub fn deaths(&self, name: &ServerName) -> usize {
        let left_out = |record: &Record| record.left_out.as_ref().map_or(0, |it| it.times as usize);
        self.records.get(name).map_or(0, |record| record.deaths.len() + left_out(record))
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
