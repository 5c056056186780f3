//! What the calls of a client do when servers redirect, hang, die and expire sessions; told by the
//! effects, in time that the tests make up.

use super::*;
use kvproto::command::SESSION_WINDOW;
use kvproto::{
    Action, Change, Changed, ClusterId, Generation, Incarnation, Member, OpNumber, Query,
    RequestId, Settings, Version, ViewNumber,
};

const A: &str = "a:1";
const B: &str = "b:1";

/// A caller whose effects the test performs.
#[derive(Default)]
struct Bench {
    caller: Caller,
    millis: u64,
    effects: Vec<Effect>,
    views: u64,
    op: u64,
}

impl Bench {
    fn with_primary(primary: &str) -> Self {
        let mut bench = Self::default();
        bench.appoint(primary);
        bench
    }

    /// With a session, and its keeper.
    fn with_session() -> (Self, SessionId) {
        let mut bench = Self::with_primary(A);
        let call = bench.write(10_000);
        let opening = bench.attempt();
        let session = bench.opened(&opening);
        let write = bench.attempt();
        assert_eq!(write.call, call);
        bench.done(&write);
        bench.finished(call).expect("done");
        bench.effects.clear();
        (bench, session)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.millis * 1_000_000)
    }

    fn appoint(&mut self, primary: &str) {
        self.views += 1;
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.number = ViewNumber(self.views);
        view.primary = Some(Member { name: primary.into(), incarnation: Incarnation(1) });
        self.caller.learn(self.now(), &Arc::new(view), &mut self.effects);
    }

    fn begin(&mut self, operation: Operation, repeat: Repeat, millis: u64) -> CallId {
        let deadline = self.now() + Duration::from_millis(millis);
        self.caller.begin(self.now(), operation, repeat, deadline, &mut self.effects)
    }

    fn write(&mut self, millis: u64) -> CallId {
        let change = Change { key: "a".into(), action: Action::Append("1".into()) };
        self.begin(Operation::Command(Command::Change(change)), Repeat::Named, millis)
    }

    fn read(&mut self, millis: u64) -> CallId {
        self.begin(Operation::Query(Query::Get(vec!["a".into()])), Repeat::Harmless, millis)
    }

    fn ends(&mut self, attempt: &Attempt, end: AttemptEnd) {
        let of = (attempt.call, attempt.number);
        self.caller.ended(self.now(), of, end, 1.0, &mut self.effects);
    }

    fn at(&mut self) -> LogPoint {
        self.op += 1;
        LogPoint { generation: Generation(1), op: OpNumber(self.op) }
    }

    fn outcome(&mut self, attempt: &Attempt, outcome: Outcome) {
        let at = self.at();
        self.ends(attempt, AttemptEnd::Reply(Reply::Done { at, outcome }));
    }

    fn done(&mut self, attempt: &Attempt) {
        let changed = Changed { version: Version(1), existed: false, length: 1 };
        self.outcome(attempt, Outcome::Changed(changed));
    }

    fn opened(&mut self, attempt: &Attempt) -> SessionId {
        assert_eq!(attempt.operation, Operation::Command(Command::OpenSession));
        let session = SessionId::allocated_at(Generation(1), OpNumber(self.op + 1));
        self.outcome(attempt, Outcome::SessionOpened(session));
        session
    }

    fn kept_alive(&mut self, attempt: &Attempt, lease: Duration) {
        let at = self.at();
        self.ends(attempt, AttemptEnd::Reply(Reply::KeptAlive { at, lease }));
    }

    fn refused(&mut self, attempt: &Attempt, refusal: Refusal) {
        self.outcome(attempt, Outcome::Refused(refusal));
    }

    /// Lets time pass, and wakes whoever wants it.
    fn pass(&mut self, millis: u64) {
        let end = self.millis + millis;
        while let Some((at, call)) = self.caller.first_wake() {
            let at = at.as_nanos().div_ceil(1_000_000);
            if at > end {
                break;
            }
            self.millis = self.millis.max(at);
            let abandoned = |effect: &Effect| matches!(effect, Effect::Abandon { .. });
            self.caller.woken(self.now(), call, &mut self.effects);
            if self.effects.iter().any(abandoned) {
                return;
            }
        }
        self.millis = end;
    }

    /// Takes the attempts to be made out of the effects.
    fn attempts(&mut self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Attempt(attempt) => {
                attempts.push(attempt.clone());
                false
            }
            _ => true,
        });
        attempts
    }

    fn attempt(&mut self) -> Attempt {
        let mut attempts = self.attempts();
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        attempts.remove(0)
    }

    fn finished(&mut self, of: CallId) -> Result<Answer> {
        let is = |effect: &Effect| matches!(effect, Effect::Finish { call, .. } if *call == of);
        let at = self.effects.iter().position(is);
        match self.effects.remove(at.expect("the call has ended")) {
            Effect::Finish { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn failed(&mut self, of: CallId) -> ErrorKind {
        self.finished(of).expect_err("the call has failed").kind().clone()
    }

    fn abandoned(&mut self, attempt: &Attempt) -> bool {
        let before = self.effects.len();
        self.effects.retain(|effect| {
            !matches!(effect, Effect::Abandon { call, number, .. }
                if (*call, *number) == (attempt.call, attempt.number))
        });
        self.effects.len() < before
    }

    fn asked_view_service(&mut self) -> usize {
        let before = self.effects.len();
        self.effects.retain(|effect| *effect != Effect::AskViewService);
        before - self.effects.len()
    }
}

fn lost() -> AttemptEnd {
    AttemptEnd::Lost("the connection broke".into())
}

fn not_sent() -> AttemptEnd {
    AttemptEnd::NotSent("it refuses connections".into())
}

fn not_primary(primary: &str, view: u64) -> AttemptEnd {
    AttemptEnd::Reply(Reply::NotDone(NotDone::NotPrimary {
        primary: Some(primary.into()),
        view: ViewNumber(view),
    }))
}

#[test]
fn without_a_primary_a_call_waits_for_a_view_and_has_the_view_service_asked_now_and_then() {
    let mut bench = Bench::default();
    bench.read(10_000);
    bench.pass(1000);
    assert_eq!(bench.asked_view_service(), 5, "at once, and four times in a second");
    assert!(bench.attempts().is_empty());
    bench.appoint(A);
    assert_eq!(bench.attempt().target, A.into());
}

#[test]
fn a_few_redirections_are_followed_at_once_and_then_with_a_pause() {
    let mut bench = Bench::with_primary("s0:1");
    bench.read(10_000);
    for hop in 1..=u64::from(HOPS_MAX) {
        let attempt = bench.attempt();
        bench.ends(&attempt, not_primary(&format!("s{hop}:1"), 1 + hop));
    }
    let attempt = bench.attempt();
    assert_eq!(attempt.target, "s3:1".into());
    bench.ends(&attempt, not_primary("s4:1", 9));
    assert!(bench.attempts().is_empty(), "now it waits");
    bench.pass(5);
    assert_eq!(bench.attempt().target, "s4:1".into());
    assert_eq!(bench.asked_view_service(), 0, "hints are enough");
}

#[test]
fn a_refusal_is_repeated_after_a_growing_pause() {
    let mut bench = Bench::with_primary(A);
    bench.read(10_000);
    for pause in [5, 10, 20] {
        let attempt = bench.attempt();
        bench.ends(&attempt, AttemptEnd::Reply(Reply::NotDone(NotDone::Overloaded)));
        bench.pass(pause - 1);
        assert!(bench.attempts().is_empty());
        bench.pass(1);
    }
    bench.attempt();
}

#[test]
fn once_the_retry_budget_is_spent_every_pause_is_the_longest() {
    let mut bench = Bench::with_primary(A);
    for _ in 0..100 {
        let call = bench.read(10_000);
        let attempt = bench.attempt();
        bench.ends(&attempt, not_sent());
        bench.caller.cancel(bench.now(), call, &mut bench.effects);
    }
    bench.read(10_000);
    let attempt = bench.attempt();
    bench.ends(&attempt, not_sent());
    bench.pass(249);
    assert!(bench.attempts().is_empty());
    bench.pass(1);
    bench.attempt();
}

#[test]
fn the_first_write_opens_one_session_for_all_that_wait_and_they_are_numbered_in_their_order() {
    let mut bench = Bench::with_primary(A);
    let calls: Vec<_> = (0..3).map(|_| bench.write(10_000)).collect();
    let opening = bench.attempt();
    let session = bench.opened(&opening);
    let attempts = bench.attempts();
    let ids: Vec<_> = attempts.iter().map(|attempt| (attempt.call, attempt.id)).collect();
    let first_open = RequestNumber(1);
    let id = |number| Some(RequestId { session, number: RequestNumber(number), first_open });
    assert_eq!(ids, [(calls[0], id(1)), (calls[1], id(2)), (calls[2], id(3))]);
}

#[test]
fn a_session_is_opened_for_as_long_as_anybody_wants_one() {
    let mut bench = Bench::default();
    let hasty = bench.write(100);
    bench.pass(50);
    let patient = bench.write(10_000);
    bench.pass(950);
    assert_eq!(bench.failed(hasty), ErrorKind::Unavailable);
    bench.appoint(A);
    let opening = bench.attempt();
    bench.opened(&opening);
    assert_eq!(bench.attempt().call, patient);
}

#[test]
fn if_no_session_can_be_had_all_writes_that_wait_for_one_are_certainly_not_done() {
    let mut bench = Bench::with_primary(A);
    let calls = [bench.write(10_000), bench.write(10_000)];
    let opening = bench.attempt();
    bench.refused(&opening, Refusal::TooManySessions { sessions_max: 7 });
    for call in calls {
        assert_eq!(bench.failed(call), ErrorKind::Refused);
    }
    bench.write(10_000);
    assert_eq!(bench.attempt().operation, Operation::Command(Command::OpenSession));
}

#[test]
fn a_write_beyond_the_window_waits_until_the_oldest_has_ended() {
    let (mut bench, _) = Bench::with_session();
    for _ in 0..SESSION_WINDOW {
        bench.write(10_000);
    }
    let window = bench.attempts();
    assert_eq!(window.len() as u64, SESSION_WINDOW);
    let late = bench.write(10_000);
    bench.done(&window[1]);
    assert!(bench.attempts().is_empty(), "the oldest still holds the window");
    bench.done(&window[0]);
    let attempt = bench.attempt();
    assert_eq!(attempt.call, late);
    let id = attempt.id.expect("named");
    assert_eq!(id.first_open.0, window[2].id.expect("named").number.0);
    assert!(id.number.0 - id.first_open.0 < SESSION_WINDOW);
}

#[test]
fn a_write_that_gets_no_number_before_its_deadline_is_certainly_not_done() {
    let (mut bench, _) = Bench::with_session();
    for _ in 0..SESSION_WINDOW {
        bench.write(10_000);
    }
    let late = bench.write(100);
    bench.pass(100);
    let error = bench.finished(late).expect_err("too late");
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("earlier writes"), "{error}");
}

#[test]
fn a_cancelled_write_gives_its_number_back_and_is_not_heard_of_again() {
    let (mut bench, _) = Bench::with_session();
    for _ in 0..SESSION_WINDOW {
        bench.write(10_000);
    }
    let window = bench.attempts();
    bench.write(10_000);
    bench.caller.cancel(bench.now(), window[0].call, &mut bench.effects);
    let attempt = bench.attempt();
    assert!(attempt.id.expect("named").first_open > window[0].id.expect("named").number);
    bench.done(&window[0]);
    assert!(!bench.effects.iter().any(|effect| matches!(effect, Effect::Finish { .. })));
}

#[test]
fn an_expired_session_is_replaced_while_no_attempt_is_open() {
    let (mut bench, expired) = Bench::with_session();
    let call = bench.write(10_000);
    let attempt = bench.attempt();
    bench.refused(&attempt, Refusal::SessionExpired);
    assert_eq!(bench.caller.session(), None);
    bench.pass(5);
    let opening = bench.attempt();
    let session = bench.opened(&opening);
    assert_ne!(session, expired);
    let attempt = bench.attempt();
    let first = RequestId { session, number: RequestNumber(1), first_open: RequestNumber(1) };
    assert_eq!((attempt.call, attempt.id), (call, Some(first)));
    bench.done(&attempt);
    bench.finished(call).expect("done");
}

#[test]
fn a_session_that_expires_while_an_answer_is_missing_leaves_the_outcome_unknown() {
    let (mut bench, _) = Bench::with_session();
    let call = bench.write(10_000);
    let attempt = bench.attempt();
    bench.ends(&attempt, lost());
    bench.pass(5);
    let attempt = bench.attempt();
    bench.refused(&attempt, Refusal::SessionExpired);
    assert_eq!(bench.failed(call), ErrorKind::OutcomeUnknown);
}

#[test]
fn writes_that_wait_for_a_number_of_an_expired_session_get_one_in_the_next() {
    let (mut bench, _) = Bench::with_session();
    for _ in 0..=SESSION_WINDOW {
        bench.write(10_000);
    }
    let window = bench.attempts();
    bench.refused(&window[0], Refusal::SessionExpired);
    let opening = bench.attempt();
    let session = bench.opened(&opening);
    let attempt = bench.attempt();
    assert_eq!(attempt.id.map(|id| id.session), Some(session));
    // The others go on under their old names, until they hear of it themselves.
    bench.ends(&window[1], not_sent());
    bench.pass(5);
    let repeated = bench.attempts();
    let names: Vec<_> = repeated.iter().map(|attempt| (attempt.call, attempt.id)).collect();
    let floor = window[1].id.map(|id| RequestId { first_open: id.number, ..id });
    assert!(names.contains(&(window[1].call, floor)), "{names:?}");
}

#[test]
fn an_attempt_is_given_up_when_another_server_becomes_primary_and_repeated_there_by_name() {
    let (mut bench, _) = Bench::with_session();
    let call = bench.write(10_000);
    let first = bench.attempt();
    bench.appoint(A);
    assert!(!bench.abandoned(&first), "the same primary in another view");
    bench.appoint(B);
    assert!(bench.abandoned(&first));
    bench.ends(&first, lost());
    let second = bench.attempt();
    assert_eq!((second.target.as_str(), second.id), (B, first.id));
    bench.done(&first);
    assert!(!bench.effects.iter().any(|effect| matches!(effect, Effect::Finish { .. })), "late");
    bench.done(&second);
    bench.finished(call).expect("done");
}

#[test]
fn a_redirection_does_not_make_others_give_up_what_may_still_be_answered() {
    let mut bench = Bench::with_primary(A);
    let (_, _) = (bench.read(10_000), bench.read(10_000));
    let attempts = bench.attempts();
    bench.ends(&attempts[0], not_primary(B, 2));
    assert!(!bench.abandoned(&attempts[1]));
}

#[test]
fn a_slow_answer_makes_the_client_ask_the_view_service_and_goes_on_waiting() {
    let mut bench = Bench::with_primary(A);
    let call = bench.read(10_000);
    let attempt = bench.attempt();
    bench.pass(999);
    assert_eq!(bench.asked_view_service(), 0);
    bench.pass(1);
    assert_eq!(bench.asked_view_service(), 1);
    bench.pass(2000);
    assert_eq!(bench.asked_view_service(), 2, "once per second");
    assert!(!bench.abandoned(&attempt));
    let at = bench.at();
    bench.ends(&attempt, AttemptEnd::Reply(Reply::Records { at, records: vec![None] }));
    assert_eq!(bench.finished(call), Ok(Answer::Records(vec![None])));
}

#[test]
fn at_its_deadline_a_call_is_unknown_if_it_may_have_been_done_and_else_unavailable() {
    for (end, kind) in [(lost(), ErrorKind::OutcomeUnknown), (not_sent(), ErrorKind::Unavailable)] {
        let (mut bench, _) = Bench::with_session();
        let call = bench.write(300);
        let attempt = bench.attempt();
        bench.pass(300);
        assert!(bench.abandoned(&attempt));
        bench.ends(&attempt, end);
        assert_eq!(bench.failed(call), kind);
    }
    let mut bench = Bench::with_primary(A);
    let call = bench.read(300);
    let attempt = bench.attempt();
    bench.pass(300);
    bench.ends(&attempt, lost());
    assert_eq!(bench.failed(call), ErrorKind::Unavailable, "a read changes nothing");
}

#[test]
fn an_answer_older_than_what_any_call_has_seen_is_not_taken() {
    let (mut bench, _) = Bench::with_session();
    bench.read(10_000);
    let attempt = bench.attempt();
    let at = LogPoint { generation: Generation(1), op: OpNumber(1) };
    bench.ends(&attempt, AttemptEnd::Reply(Reply::Records { at, records: vec![None] }));
    bench.pass(5);
    assert_eq!(bench.attempt().call, attempt.call);
}

#[test]
fn a_session_is_kept_alive_three_times_per_lease_as_the_store_grants_it() {
    let (mut bench, session) = Bench::with_session();
    let third = Settings::default().session_lease.as_millis() as u64 / 3;
    bench.pass(third - 1);
    assert!(bench.attempts().is_empty());
    bench.pass(1);
    let attempt = bench.attempt();
    assert_eq!(attempt.operation, Operation::KeepAlive(session));
    bench.kept_alive(&attempt, Duration::from_secs(3));
    bench.pass(1000);
    // Not heard: it tries for as long as it would have rested, then rests, and tries again.
    let attempt = bench.attempt();
    bench.pass(1000);
    assert!(bench.abandoned(&attempt));
    bench.ends(&attempt, lost());
    bench.pass(1000);
    bench.attempt();
}

#[test]
fn a_session_that_expires_while_idle_is_forgotten_and_the_next_write_opens_another() {
    let (mut bench, _) = Bench::with_session();
    bench.pass(10_000);
    let attempt = bench.attempt();
    bench.refused(&attempt, Refusal::SessionExpired);
    bench.finished(attempt.call).expect("answered");
    assert_eq!(bench.caller.first_wake(), None, "nothing is left to do");
    bench.write(10_000);
    assert_eq!(bench.attempt().operation, Operation::Command(Command::OpenSession));
}

#[test]
fn a_closed_session_is_kept_alive_no_longer() {
    let (mut bench, session) = Bench::with_session();
    let deadline = bench.now() + Duration::from_secs(1);
    let close = bench.caller.close(bench.now(), deadline, &mut bench.effects);
    let attempt = bench.attempt();
    assert_eq!(attempt.operation, Operation::Command(Command::CloseSession(session)));
    bench.outcome(&attempt, Outcome::SessionClosed { existed: true });
    bench.finished(close.expect("there was one")).expect("closed");
    bench.pass(60_000);
    assert!(bench.attempts().is_empty());
    assert_eq!(bench.caller.first_wake(), None, "nothing is left to do");
}

/// Whatever happens, every call ends exactly once, no name is given to two calls, and numbers stay
/// within the window.
#[test]
fn in_any_course_of_events_names_are_unique_and_every_call_ends_once() {
    for seed in 1..=200 {
        println!("seed {seed}");
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let mut bench = Bench::default();
    let mut open: BTreeSet<CallId> = BTreeSet::new();
    let mut names: BTreeMap<(SessionId, RequestNumber), CallId> = BTreeMap::new();
    let mut flying: Vec<Attempt> = Vec::new();
    for step in 0..600 {
        match random(if step < 500 { 12 } else { 9 }) {
            0 => bench.appoint([A, B][random(2)]),
            1..=3 => bench.pass(random(400) as u64),
            4 if !open.is_empty() => {
                let call = *open.iter().nth(random(open.len())).expect("one of them");
                bench.caller.cancel(bench.now(), call, &mut bench.effects);
                open.remove(&call);
            }
            9..=10 => drop(open.insert(bench.write(random(2000) as u64))),
            11 => drop(open.insert(bench.read(random(2000) as u64))),
            _ if flying.is_empty() => {}
            _ => {
                let attempt = flying.swap_remove(random(flying.len()));
                match (&attempt.operation, random(8)) {
                    (_, 0) => bench.ends(&attempt, lost()),
                    (_, 1) => bench.ends(&attempt, not_sent()),
                    (_, 2) => bench.ends(&attempt, not_primary([A, B][random(2)], 1_000)),
                    (Operation::Query(_), _) => {
                        let at = bench.at();
                        let records = vec![None];
                        bench.ends(&attempt, AttemptEnd::Reply(Reply::Records { at, records }));
                    }
                    (Operation::Command(Command::OpenSession), _) => {
                        bench.opened(&attempt);
                    }
                    (_, 3) => bench.refused(&attempt, Refusal::SessionExpired),
                    (Operation::KeepAlive(_), _) => {
                        bench.kept_alive(&attempt, Duration::from_secs(1));
                    }
                    _ => bench.done(&attempt),
                }
            }
        }
        perform(&mut bench, &mut flying, &mut open, &mut names);
    }
    bench.appoint(A);
    bench.pass(100_000);
    while !open.is_empty() {
        perform(&mut bench, &mut flying, &mut open, &mut names);
        assert!(bench.caller.first_wake().is_some() || open.is_empty(), "{open:?} hang");
        bench.pass(100_000);
    }
}

fn perform(
    bench: &mut Bench,
    flying: &mut Vec<Attempt>,
    open: &mut BTreeSet<CallId>,
    names: &mut BTreeMap<(SessionId, RequestNumber), CallId>,
) {
    while !bench.effects.is_empty() {
        match bench.effects.remove(0) {
            Effect::Attempt(attempt) => {
                if let Some(id) = attempt.id {
                    assert!(id.first_open <= id.number);
                    assert!(id.number.0 - id.first_open.0 < SESSION_WINDOW, "{id:?}");
                    let named = *names.entry((id.session, id.number)).or_insert(attempt.call);
                    assert_eq!(named, attempt.call, "{id:?} is given to two calls");
                }
                flying.push(attempt);
            }
            Effect::Abandon { call, number, .. } => {
                let at = flying
                    .iter()
                    .position(|attempt| (attempt.call, attempt.number) == (call, number));
                if let Some(at) = at {
                    let attempt = flying.swap_remove(at);
                    bench.ends(&attempt, lost());
                }
            }
            Effect::Finish { call, .. } => drop(open.remove(&call)),
            Effect::Run(_) | Effect::AskViewService => {}
        }
    }
}
