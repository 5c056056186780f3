//! Walks through a model: breadth first, so that the first violation found has the shortest trace,
//! or at random. Shell: it owns memory, threads and time; what happens is said elsewhere.
//!
//! With one thread everything runs on the caller's.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use viewservice::assignment::law::ViewState;

use super::action::Action;
use super::goals::{Goal, Goals};
use super::heal::{beginning, check_progress};
use super::model::Model;
use super::properties;
use super::shared::Shared;
use super::state::{Seen, Server, State, Stream};
use crate::random::Random;
use crate::report::caught;

/// How far an exploration goes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most states visited.
    pub states: usize,
    /// Most time spent.
    pub time: Option<Duration>,
    /// Threads; with one, everything runs on the caller's.
    pub threads: usize,
    /// Ends it early.
    pub stop: Option<CancellationToken>,
}

/// Why an exploration ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Every state was visited.
    Complete,
    /// A limit was reached first.
    Bounded,
    /// A property was broken.
    Violated,
}

/// A broken property and the way there.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which property, and how.
    pub what: String,
    /// What happened, from the beginning.
    pub actions: Vec<Action>,
    /// The same for people, a line each.
    pub trace: Vec<String>,
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of which model.
    pub model: &'static str,
    /// States visited.
    pub states: usize,
    /// Transitions tried.
    pub transitions: u64,
    /// Longest shortest way to a state.
    pub depth: usize,
    /// Why it ended.
    pub ending: Ending,
    /// How long it took.
    pub took: Duration,
    /// States that were shown not to be wedged.
    pub wedge_checks: u64,
    /// What was reached.
    pub goals: Goals,
    /// Goals of the model that were not.
    pub missing: Vec<Goal>,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "broken: {}", self.what)
    }
}

/// The hashes are hashes already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Plain>>;

/// Where a state was reached from, and how.
type Parents = ByHash<(u64, Action)>;

const SHARDS: usize = 64;

struct Visited(Vec<Mutex<Parents>>);

impl Visited {
    fn new() -> Visited {
        Visited((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Parents> {
        lock(&self.0[(hash >> 58) as usize % SHARDS])
    }

    /// Whether the state is new.
    fn insert(&self, hash: u64, from: u64, action: Action) -> bool {
        let mut shard = self.shard(hash);
        let new = !shard.contains_key(&hash);
        if new {
            shard.insert(hash, (from, action));
        }
        new
    }

    /// The way from the beginning to a state.
    fn path(&self, beginning: u64, mut hash: u64) -> Vec<Action> {
        let mut path = Vec::new();
        while hash != beginning {
            let Some((from, action)) = self.shard(hash).get(&hash).copied() else {
                break;
            };
            path.push(action);
            hash = from;
        }
        path.reverse();
        path
    }
}

/// Equal parts of states, kept once: a few thousand servers make millions of states.
struct Pool<T>(Vec<Mutex<ByHash<Shared<T>>>>);

impl<T: std::hash::Hash> Pool<T> {
    fn new() -> Pool<T> {
        Pool((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// Takes the part that is kept, if there is one.
    fn merge(&self, part: &mut Shared<T>) {
        let hash = part.hash();
        let mut shard = lock(&self.0[(hash >> 58) as usize % SHARDS]);
        *part = shard.entry(hash).or_insert_with(|| Shared::clone(part)).clone();
    }
}

struct Pools {
    servers: Pool<Server>,
    streams: Pool<Stream>,
    laws: Pool<ViewState>,
}

impl Pools {
    fn merge(&self, state: &mut State) {
        state.servers.iter_mut().flatten().for_each(|server| self.servers.merge(server));
        state.streams.iter_mut().for_each(|stream| self.streams.merge(stream));
        self.laws.merge(&mut state.law);
    }
}

/// Locks what no panic can have left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of one exploration share.
struct Search<'a> {
    model: &'a Model,
    limits: Limits,
    began: Instant,
    visited: Visited,
    pools: Pools,
    states: AtomicUsize,
    transitions: AtomicU64,
    wedge_checks: AtomicU64,
    enough: AtomicBool,
    found: Mutex<Option<Found>>,
}

struct Found {
    from: u64,
    action: Action,
    what: String,
}

type Frontier = Vec<(u64, State)>;

/// Explores a model breadth first.
///
/// # Panics
/// When the model's beginning cannot be reached.
#[must_use]
pub fn explore(model: &Model, limits: Limits) -> Outcome {
    let first = beginning(model);
    let root = first.hash();
    let search = Search {
        model,
        limits,
        began: Instant::now(),
        visited: Visited::new(),
        pools: Pools { servers: Pool::new(), streams: Pool::new(), laws: Pool::new() },
        states: AtomicUsize::new(1),
        transitions: AtomicU64::new(0),
        wedge_checks: AtomicU64::new(0),
        enough: AtomicBool::new(false),
        found: Mutex::new(None),
    };
    search.visited.insert(root, root, Action::Pass(0));
    let mut goals = Goals::default();
    let mut frontier = vec![(root, first)];
    let mut depth = 0;
    while !frontier.is_empty() && !search.enough.load(Ordering::Relaxed) {
        let mut next = Vec::new();
        if search.limits.threads <= 1 {
            goals.add(search.expand(frontier, &mut next));
        } else {
            goals.add(search.expand_together(frontier, &mut next));
        }
        frontier = next;
        depth += usize::from(!frontier.is_empty());
    }
    let found = lock(&search.found).take();
    let violation = found.map(|found| {
        let mut actions = search.visited.path(root, found.from);
        actions.push(found.action);
        let trace = replay(model, &actions);
        Violation { what: found.what, actions, trace }
    });
    let ending = match &violation {
        Some(_) => Ending::Violated,
        None if search.enough.load(Ordering::Relaxed) => Ending::Bounded,
        None => Ending::Complete,
    };
    Outcome {
        model: model.name,
        states: search.states.into_inner(),
        transitions: search.transitions.into_inner(),
        depth,
        ending,
        took: search.began.elapsed(),
        wedge_checks: search.wedge_checks.into_inner(),
        goals,
        missing: model.goals.iter().copied().filter(|goal| !goals.has(*goal)).collect(),
        violation,
    }
}

impl Search<'_> {
    /// Each thread takes pieces of the frontier until nothing is left.
    fn expand_together(&self, frontier: Frontier, next: &mut Frontier) -> Goals {
        let piece = frontier.len().div_ceil(self.limits.threads * 8).max(16);
        let mut pieces = Vec::new();
        let mut rest = frontier;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().saturating_sub(piece));
            pieces.push(tail);
        }
        let pieces = Mutex::new(pieces);
        let take = || lock(&pieces).pop();
        let work = || {
            let (mut goals, mut next) = (Goals::default(), Vec::new());
            while let Some(piece) = take() {
                goals.add(self.expand(piece, &mut next));
            }
            (goals, next)
        };
        let mut goals = Goals::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.limits.threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                let (reached, mut found) =
                    thread.join().expect("panics are caught where they may come");
                goals.add(reached);
                next.append(&mut found);
            }
        });
        goals
    }

    fn expand(&self, frontier: Frontier, next: &mut Frontier) -> Goals {
        let mut goals = Goals::default();
        for (from, state) in frontier {
            if self.enough.load(Ordering::Relaxed) {
                break;
            }
            for action in state.actions(self.model) {
                let mut seen = Seen::default();
                match self.visit(from, &state, action, &mut seen) {
                    Ok(new) => next.extend(new),
                    Err(what) => {
                        self.enough.store(true, Ordering::Relaxed);
                        let mut found = lock(&self.found);
                        found.get_or_insert(Found { from, action, what });
                        return goals;
                    }
                }
                goals.add(seen.goals);
            }
            let stopped = self.limits.stop.as_ref().is_some_and(CancellationToken::is_cancelled);
            let over = self.limits.time.is_some_and(|time| self.began.elapsed() >= time);
            if stopped || over || self.states.load(Ordering::Relaxed) >= self.limits.states {
                self.enough.store(true, Ordering::Relaxed);
            }
        }
        goals
    }

    /// One transition; the state it leads to, if that is new.
    fn visit(
        &self,
        from: u64,
        state: &State,
        action: Action,
        seen: &mut Seen,
    ) -> Result<Option<(u64, State)>, String> {
        self.transitions.fetch_add(1, Ordering::Relaxed);
        let mut after = caught(|| state.after(self.model, action, seen))?;
        if let Some(broken) = seen.broken.take() {
            return Err(broken);
        }
        let hash = after.hash();
        if !self.visited.insert(hash, from, action) {
            return Ok(None);
        }
        self.states.fetch_add(1, Ordering::Relaxed);
        let wedge = hash.is_multiple_of(self.model.wedge_every);
        if wedge {
            self.wedge_checks.fetch_add(1, Ordering::Relaxed);
        }
        check(self.model, &after, wedge)?;
        self.pools.merge(&mut after);
        Ok(Some((hash, after)))
    }
}

/// Looks at one state.
fn check(model: &Model, state: &State, wedge: bool) -> Result<(), String> {
    let mut seen = Seen::default();
    properties::check(state, &mut seen);
    match seen.broken {
        Some(broken) => Err(broken),
        None if wedge => caught(|| check_progress(model, state))?,
        None => Ok(()),
    }
}

/// What a walk came to.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Steps made.
    pub steps: usize,
    /// What was reached.
    pub goals: Goals,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

/// Walks at random through a model, from a seed, for so many steps or until nothing can happen.
///
/// # Panics
/// When the model's beginning cannot be reached.
#[must_use]
pub fn walk(model: &Model, seed: u64, depth: usize) -> Walk {
    let mut random = Random::new(seed);
    let mut state = beginning(model);
    let mut actions = Vec::new();
    let mut goals = Goals::default();
    let mut violation = None;
    while actions.len() < depth && violation.is_none() {
        let Some(action) = draw(&mut random, &state.actions(model)) else {
            break;
        };
        actions.push(action);
        let mut seen = Seen::default();
        let wedge = actions.len().is_multiple_of(200);
        let after = caught(|| state.after(model, action, &mut seen)).and_then(|after| {
            seen.broken.take().map_or(Ok(()), Err)?;
            check(model, &after, wedge)?;
            Ok(after)
        });
        goals.add(seen.goals);
        match after {
            Ok(after) => state = after,
            Err(what) => {
                let trace = replay(model, &actions);
                violation = Some(Violation { what, actions: actions.clone(), trace });
            }
        }
    }
    Walk { steps: actions.len(), goals, violation }
}

/// One of these, by weight.
fn draw(random: &mut Random, possible: &[Action]) -> Option<Action> {
    let total = possible.iter().map(|action| weight(*action)).sum::<u64>();
    let mut left = random.between(1, total.max(1));
    possible.iter().copied().find(|action| {
        let drawn = left <= weight(*action);
        left = left.saturating_sub(weight(*action));
        drawn
    })
}

/// How often each kind of thing happens in a walk: what carries the protocol on, often; what
/// disturbs it, seldom, so that something has grown that it can disturb.
fn weight(action: Action) -> u64 {
    match action {
        Action::DeliverUp(_) | Action::DeliverDown(_) | Action::Finish(_) | Action::Tick(_) => 60,
        Action::Wish(_) | Action::Resume(_) => 30,
        Action::Hear(..) | Action::HearLate(..) | Action::Show(_) => 12,
        Action::Write(_) | Action::Again(_) | Action::Read(_) | Action::Pass(_) => 10,
        Action::DeliverLoose(_) | Action::Pause(_) | Action::Break(_) => 3,
        Action::Leave(_) | Action::Stay(_) | Action::Nobody(_) => 2,
        Action::Propose(..) | Action::Restart(_) | Action::PutBack(..) => 1,
    }
}

/// The trace of some actions for people.
fn replay(model: &Model, actions: &[Action]) -> Vec<String> {
    let mut state = beginning(model);
    let mut trace = vec![format!("model {}: {}", model.name, model.about)];
    for (number, action) in actions.iter().enumerate() {
        let mut seen = Seen { explain: true, ..Seen::default() };
        trace.push(format!("{:3}. {}", number + 1, state.describe(model, *action)));
        let after = caught(|| state.after(model, *action, &mut seen));
        trace.extend(seen.lines.iter().map(|line| format!("       {line}")));
        match after {
            Ok(after) => state = after,
            Err(what) => trace.push(format!("       panics: {what}")),
        }
    }
    trace
}
