//! Looks for an order of calls that a model accepts. Pure: the caller decides when to give up.
//!
//! The search of Wing and Gong (Testing and Verifying Concurrent Objects, 1993) in the form of Lowe
//! (Testing for Linearizability, 2017): the open calls are a linked list of invocations and returns;
//! a call that was placed is lifted out of it, and put back when the search returns to it; a pair of
//! (calls placed, state) is entered once.
//!
//! A call that only looks ([`Model::only_looks`]) and fits as the next one is placed at once and for
//! good: whatever order has it later has it as well here.
//!
//! Calls of unknown outcome may be placed at any time from their invocation on, or never. So the
//! search is done when all *answered* calls are placed, and it may restrict itself to orders with as
//! few unknown calls as can be, each as late as can be. Never part of one, and not tried, are:
//! - *idle*: an unknown call that changes nothing;
//! - *overwritten*: an unknown call followed by another one that leads to the same state without it;
//! - *unhelpful*: an unknown call that matters to nothing that may follow next, as far as
//!   [`Model::may_help`] can tell;
//! - *a twin*: an unknown call while an equal one that was invoked earlier is unused (which could
//!   stand in its place);
//! - *dominated*: the same answered calls placed and the same state as before, with at least the
//!   same unknown calls used up.
//!
//! No legal order is lost. Suppose that one exists and the search fails. Of all pairs that it entered
//! and that such a frugal order continues, take one with the most calls placed, and the frugal order
//! that continues it with its unknown calls latest. Its next call is not idle, overwritten or
//! unhelpful, since leaving that call out, or making it later, would be more frugal; twins may change
//! places. So it was tried, and was dominated: but by a pair with no fewer unknown calls, since that
//! would be more frugal too, hence by the very pair that it leads to, which has one more call placed.

use std::collections::BTreeMap;

/// What a correct object does, as a function.
pub trait Model {
    /// What the object holds.
    type State: Clone + Ord;
    /// What it is asked.
    type Operation: PartialEq;
    /// What it answers.
    type Answer;

    /// What it holds at first.
    fn initial(&self) -> Self::State;

    /// The state after an operation that was answered like this, or `None` when it cannot be
    /// answered like this in this state. Without an answer: the state after the operation took
    /// effect, `None` when it can have no effect.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;

    /// Whether an operation that was answered like this changes no state that it is possible in.
    fn only_looks(&self, operation: &Self::Operation, answer: &Self::Answer) -> bool;

    /// Whether an unknown call that leads from `before` to `after` may matter to an operation that
    /// follows, be it with the help of further unknown calls in between. `false` is a promise:
    /// if the operation is possible then, it is also possible, and leads to a state in which nothing
    /// less is possible, when that unknown call is left out or made after it. `true` is always right.
    fn may_help(
        &self,
        _before: &Self::State,
        _after: &Self::State,
        _operation: &Self::Operation,
        _answer: Option<&Self::Answer>,
    ) -> bool {
        true
    }
}

/// A call to be placed, with its closed interval.
pub struct Timed<'a, M: Model> {
    /// When it began.
    pub invoked: u64,
    /// What was asked.
    pub operation: &'a M::Operation,
    /// When it ended and how; `None`: it may take effect at any time from its invocation on, or
    /// never.
    pub answered: Option<(u64, &'a M::Answer)>,
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An order that the model accepts, as indices of calls.
    Linearizable(Vec<usize>),
    /// There is none.
    Violation(Stuck),
    /// The caller gave up before either was known.
    NotDecided,
}

/// How far an order goes, at most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// The longest order: all calls that returned before `blocked` did are in it.
    pub order: Vec<usize>,
    /// The first answered call that no such order explains in time.
    pub blocked: usize,
}

/// Searches until there is a verdict, or until `go_on`, asked with the number of steps made so far
/// about every thousandth of them, says no.
pub fn search<M: Model>(
    model: &M,
    calls: &[Timed<'_, M>],
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Verdict {
    Search::new(model, calls).run(go_on)
}

/// The list of invocations and returns of answered calls. Node 0 is its head, the others lie in the
/// order of time; `next` of the last is 0.
struct Open {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Call and whether it is its return, per node.
    what: Vec<(usize, bool)>,
    /// Invocation and return node, per call; 0 for unknown calls.
    nodes: Vec<(usize, usize)>,
}

impl Open {
    fn new<M: Model>(calls: &[Timed<'_, M>]) -> Open {
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            if let Some((returned, _)) = call.answered {
                events.push((call.invoked, false, index));
                events.push((returned, true, index));
            }
        }
        // At one moment invocations come before returns: intervals are closed.
        events.sort_unstable();
        let count = events.len() + 1;
        let mut what = vec![(0, false)];
        let mut nodes = vec![(0, 0); calls.len()];
        for (node, (_, is_return, call)) in (1..).zip(events) {
            what.push((call, is_return));
            if is_return {
                nodes[call].1 = node;
            } else {
                nodes[call].0 = node;
            }
        }
        let next = (0..count).map(|node| (node + 1) % count).collect();
        let previous = (0..count).map(|node| (node + count - 1) % count).collect();
        Open { next, previous, what, nodes }
    }

    fn lift(&mut self, call: usize) {
        let (invocation, return_) = self.nodes[call];
        for node in [invocation, return_] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    fn unlift(&mut self, call: usize) {
        let (invocation, return_) = self.nodes[call];
        for node in [return_, invocation] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = node;
            self.previous[next] = node;
        }
    }

    /// The answered calls that may come next, and the one that must have come by then.
    fn frontier(&self) -> (Vec<usize>, usize) {
        let mut calls = Vec::new();
        let mut node = self.next[0];
        while let (call, false) = self.what[node] {
            calls.push(call);
            node = self.next[node];
        }
        (calls, self.what[node].0)
    }
}

/// A set of small numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Set(Vec<u64>);

impl Set {
    fn of_size(size: usize) -> Set {
        Set(vec![0; size.div_ceil(64)])
    }

    fn contains(&self, number: usize) -> bool {
        self.0[number / 64] & 1 << (number % 64) != 0
    }

    fn flip(&mut self, number: usize) {
        self.0[number / 64] ^= 1 << (number % 64);
    }

    fn is_within(&self, other: &Set) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, other)| mine & !other == 0)
    }

    /// The same set without the full words it begins with and the empty ones it ends with: short,
    /// since calls are placed about in the order of their numbers.
    fn packed(&self) -> Vec<u64> {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let empty = self.0[full..].iter().rev().take_while(|word| **word == 0).count();
        let mut packed = vec![full as u64];
        packed.extend_from_slice(&self.0[full..self.0.len() - empty]);
        packed
    }
}

/// Pairs entered before: answered calls placed and state, with the smallest sets of unknown calls.
#[derive(Default)]
struct Visited {
    pairs: BTreeMap<(Vec<u64>, usize), Vec<Set>>,
}

impl Visited {
    /// False when something at least as good was here before.
    fn enter(&mut self, answered: &Set, state: usize, unknown: &Set) -> bool {
        let sets = self.pairs.entry((answered.packed(), state)).or_default();
        if sets.iter().any(|set| set.is_within(unknown)) {
            return false;
        }
        sets.retain(|set| !unknown.is_within(set));
        sets.push(unknown.clone());
        true
    }
}

/// What is tried next: first what only looks, then the answered calls from a node of the list
/// on, then the unknown ones.
#[derive(Clone, Copy)]
enum Cursor {
    Looks,
    Answered(usize),
    Unknown(usize),
    Nothing,
}

struct Placed<S> {
    call: usize,
    before: S,
    resume: Cursor,
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Timed<'a, M>],
    open: Open,
    /// Unknown calls by invocation.
    unknown: Vec<usize>,
    /// For each of them the last one before it with an equal operation.
    twins: Vec<Option<usize>>,
    /// Rank of each call among the answered ones by invocation, or among the unknown ones.
    rank: Vec<usize>,
    answered_placed: Set,
    unknown_placed: Set,
    left: usize,
    state: M::State,
    stack: Vec<Placed<M::State>>,
    states: BTreeMap<M::State, usize>,
    visited: Visited,
    /// The furthest return that could not be passed, as a node, and how far it went then.
    best: Option<(usize, Stuck)>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Timed<'a, M>]) -> Self {
        let by_invocation = |answered: bool| {
            let mut picked: Vec<usize> =
                (0..calls.len()).filter(|&i| calls[i].answered.is_some() == answered).collect();
            picked.sort_by_key(|&i| calls[i].invoked);
            picked
        };
        let (answered, unknown) = (by_invocation(true), by_invocation(false));
        let mut rank = vec![0; calls.len()];
        for group in [&answered, &unknown] {
            group.iter().enumerate().for_each(|(place, &call)| rank[call] = place);
        }
        let equal = |a: usize, b: usize| calls[unknown[a]].operation == calls[unknown[b]].operation;
        let twins = (0..unknown.len()).map(|b| (0..b).rev().find(|&a| equal(a, b))).collect();
        Search {
            model,
            calls,
            open: Open::new(calls),
            twins,
            rank,
            answered_placed: Set::of_size(answered.len()),
            unknown_placed: Set::of_size(unknown.len()),
            left: answered.len(),
            unknown,
            state: model.initial(),
            stack: Vec::new(),
            states: BTreeMap::new(),
            visited: Visited::default(),
            best: None,
        }
    }

    fn run(mut self, go_on: &mut dyn FnMut(u64) -> bool) -> Verdict {
        let mut cursor = Cursor::Looks;
        let mut steps = 0u64;
        while self.left > 0 {
            steps += 1;
            if steps.is_multiple_of(1024) && !go_on(steps) {
                return Verdict::NotDecided;
            }
            cursor = match cursor {
                Cursor::Looks if self.place_look() => Cursor::Looks,
                Cursor::Looks => Cursor::Answered(self.open.next[0]),
                Cursor::Answered(node) => {
                    let (call, is_return) = self.open.what[node];
                    if is_return {
                        self.note(call, node);
                        Cursor::Unknown(0)
                    } else if self.place_answered(call, node) {
                        Cursor::Looks
                    } else {
                        Cursor::Answered(self.open.next[node])
                    }
                }
                Cursor::Unknown(place) => match self.next_unknown(place) {
                    Some(place) if self.place_unknown(place) => Cursor::Looks,
                    Some(place) => Cursor::Unknown(place + 1),
                    None => Cursor::Nothing,
                },
                Cursor::Nothing => match self.take_back() {
                    Some(cursor) => cursor,
                    None => return self.violation(),
                },
            };
        }
        Verdict::Linearizable(self.stack.iter().map(|placed| placed.call).collect())
    }

    fn place_look(&mut self) -> bool {
        let (candidates, _) = self.open.frontier();
        let look = candidates.into_iter().find(|&call| {
            let Timed { operation, answered, .. } = &self.calls[call];
            answered.is_some_and(|(_, answer)| {
                self.model.only_looks(operation, answer)
                    && self.model.step(&self.state, operation, Some(answer)).is_some()
            })
        });
        let Some(call) = look else { return false };
        self.place(call, self.state.clone(), Cursor::Nothing);
        true
    }

    fn place_answered(&mut self, call: usize, node: usize) -> bool {
        let Timed { operation, answered, .. } = &self.calls[call];
        let answer = answered.map(|(_, answer)| answer);
        let Some(after) = self.model.step(&self.state, operation, answer) else { return false };
        self.answered_placed.flip(self.rank[call]);
        let entered = self.enter(&after);
        self.answered_placed.flip(self.rank[call]);
        if !entered {
            return false;
        }
        self.place(call, after, Cursor::Answered(self.open.next[node]));
        true
    }

    fn place(&mut self, call: usize, after: M::State, resume: Cursor) {
        self.answered_placed.flip(self.rank[call]);
        self.open.lift(call);
        self.left -= 1;
        self.push(call, after, resume);
    }

    /// The first unknown call from this place on that may come next.
    fn next_unknown(&self, from: usize) -> Option<usize> {
        let (_, first_to_return) = self.open.frontier();
        let (until, _) = self.calls[first_to_return].answered?;
        (from..self.unknown.len())
            .take_while(|&place| self.calls[self.unknown[place]].invoked <= until)
            .find(|&place| !self.unknown_placed.contains(place))
    }

    fn place_unknown(&mut self, place: usize) -> bool {
        let call = self.unknown[place];
        let operation = self.calls[call].operation;
        if self.twins[place].is_some_and(|twin| !self.unknown_placed.contains(twin)) {
            return false;
        }
        let Some(after) = self.model.step(&self.state, operation, None) else { return false };
        let idle = after == self.state;
        if idle || self.overwrites(operation, &after) || !self.helps(place, &after) {
            return false;
        }
        self.unknown_placed.flip(place);
        if !self.enter(&after) {
            self.unknown_placed.flip(place);
            return false;
        }
        self.push(call, after, Cursor::Unknown(place + 1));
        true
    }

    /// Whether the unknown call placed last could be left out before this one.
    fn overwrites(&self, operation: &M::Operation, after: &M::State) -> bool {
        self.stack.last().is_some_and(|last| {
            self.calls[last.call].answered.is_none()
                && self.model.step(&last.before, operation, None).as_ref() == Some(after)
        })
    }

    fn helps(&self, place: usize, after: &M::State) -> bool {
        let (answered, first_to_return) = self.open.frontier();
        let until = self.calls[first_to_return].answered.map_or(u64::MAX, |(until, _)| until);
        let unknown = (0..self.unknown.len())
            .filter(|&other| other != place && !self.unknown_placed.contains(other))
            .map(|other| self.unknown[other])
            .filter(|&other| self.calls[other].invoked <= until);
        answered.into_iter().chain(unknown).any(|call| {
            let Timed { operation, answered, .. } = &self.calls[call];
            let answer = answered.map(|(_, answer)| answer);
            self.model.may_help(&self.state, after, operation, answer)
        })
    }

    fn enter(&mut self, state: &M::State) -> bool {
        let number = match self.states.get(state) {
            Some(number) => *number,
            None => {
                let number = self.states.len();
                self.states.insert(state.clone(), number);
                number
            }
        };
        self.visited.enter(&self.answered_placed, number, &self.unknown_placed)
    }

    fn push(&mut self, call: usize, after: M::State, resume: Cursor) {
        let before = std::mem::replace(&mut self.state, after);
        self.stack.push(Placed { call, before, resume });
    }

    fn take_back(&mut self) -> Option<Cursor> {
        let Placed { call, before, resume } = self.stack.pop()?;
        self.state = before;
        if self.calls[call].answered.is_some() {
            self.open.unlift(call);
            self.answered_placed.flip(self.rank[call]);
            self.left += 1;
        } else {
            self.unknown_placed.flip(self.rank[call]);
        }
        Some(resume)
    }

    /// Remembers how far it went: `node` is the return that could not be passed.
    fn note(&mut self, blocked: usize, node: usize) {
        if self.best.as_ref().is_none_or(|(best, _)| node > *best) {
            let order = self.stack.iter().map(|placed| placed.call).collect();
            self.best = Some((node, Stuck { order, blocked }));
        }
    }

    fn violation(self) -> Verdict {
        let (_, stuck) = self.best.expect("a search fails only at a return that it could not pass");
        Verdict::Violation(stuck)
    }
}
