//! What the attempts of a call add up to: done, certainly not done, or nobody knows.

use super::*;
use kvproto::{Changed, Generation, NotReady, OpNumber, RequestNumber, Version, ViewNumber};

fn at(op: u64) -> LogPoint {
    LogPoint { generation: Generation(1), op: OpNumber(op) }
}

fn call(repeat: Repeat) -> Attempts {
    Attempts::new(repeat, at(10))
}

fn done(op: u64) -> AttemptEnd {
    outcome(op, Outcome::Changed(Changed { version: Version(op), existed: false, length: 1 }))
}

fn outcome(op: u64, outcome: Outcome) -> AttemptEnd {
    AttemptEnd::Reply(Reply::Done { at: at(op), outcome })
}

fn refusal(refusal: Refusal) -> AttemptEnd {
    outcome(20, Outcome::Refused(refusal))
}

fn not_primary() -> AttemptEnd {
    AttemptEnd::Reply(Reply::NotDone(NotDone::NotPrimary { primary: None, view: ViewNumber(1) }))
}

fn lost() -> AttemptEnd {
    AttemptEnd::Lost("the connection broke".into())
}

fn kind(step: Step) -> ErrorKind {
    match step {
        Step::Fail(error) => error.kind().clone(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// Everything that ends an attempt as certainly not done, and may be tried again.
fn certainly_not_done() -> Vec<AttemptEnd> {
    let mut ends: Vec<AttemptEnd> = [
        NotDone::NotReady(NotReady::TakingOver),
        NotDone::Overloaded,
        NotDone::TooFewCopies { synced: 1, min_copies: 2 },
        NotDone::Diverged { op: OpNumber(3) },
    ]
    .into_iter()
    .map(|why| AttemptEnd::Reply(Reply::NotDone(why)))
    .collect();
    ends.push(not_primary());
    ends.push(AttemptEnd::NotSent("connection refused".into()));
    ends.push(refusal(Refusal::WindowFull));
    ends
}

#[test]
fn a_call_whose_every_attempt_was_certainly_not_done_is_certainly_not_done() {
    for repeat in [Repeat::Harmless, Repeat::Named, Repeat::Twice] {
        for end in certainly_not_done() {
            let mut attempts = call(repeat);
            assert_eq!(attempts.judge(end.clone()), Step::Retry, "{end:?}");
            assert!(attempts.out_of_time().is_certainly_not_done(), "{end:?}");
        }
    }
}

#[test]
fn one_lost_attempt_keeps_the_outcome_open_whatever_other_attempts_were_refused() {
    for end in certainly_not_done() {
        for order in [[lost(), end.clone()], [end, lost()]] {
            let mut attempts = call(Repeat::Named);
            for end in order {
                assert_eq!(attempts.judge(end), Step::Retry);
            }
            assert_eq!(*attempts.out_of_time().kind(), ErrorKind::OutcomeUnknown);
        }
    }
}

#[test]
fn a_real_outcome_under_the_same_name_closes_a_lost_attempt() {
    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(lost()), Step::Retry);
    assert!(matches!(attempts.judge(done(11)), Step::Finish(_, _)));

    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(lost()), Step::Retry);
    let condition = refusal(Refusal::ConditionFailed { record: None, change: 0 });
    assert!(matches!(attempts.judge(condition), Step::Finish(_, _)));

    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(lost()), Step::Retry);
    let too_large = refusal(Refusal::TooLarge { size: 9, size_max: 8, change: 0 });
    assert_eq!(kind(attempts.judge(too_large)), ErrorKind::Invalid);
}

#[test]
fn a_server_that_no_longer_knows_is_a_lost_attempt() {
    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(AttemptEnd::Reply(Reply::Unknown)), Step::Retry);
    assert_eq!(*attempts.out_of_time().kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_write_outside_a_session_is_not_repeated_after_a_lost_attempt() {
    let mut attempts = call(Repeat::Twice);
    assert_eq!(attempts.judge(not_primary()), Step::Retry);
    assert_eq!(kind(attempts.judge(lost())), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_read_is_repeated_and_never_has_an_unknown_outcome() {
    let mut attempts = call(Repeat::Harmless);
    assert_eq!(attempts.judge(lost()), Step::Retry);
    assert_eq!(*attempts.out_of_time().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_expired_session_is_replaced_unless_an_attempt_is_open() {
    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(not_primary()), Step::Retry);
    assert_eq!(attempts.judge(refusal(Refusal::SessionExpired)), Step::NewSession);

    let mut attempts = call(Repeat::Named);
    assert_eq!(attempts.judge(lost()), Step::Retry);
    assert_eq!(kind(attempts.judge(refusal(Refusal::SessionExpired))), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_refusal_that_says_nothing_of_earlier_attempts_leaves_them_open() {
    for end in [
        refusal(Refusal::StaleRequest { floor: RequestNumber(9) }),
        refusal(Refusal::RequestReused),
        AttemptEnd::Reply(Reply::NotDone(NotDone::Invalid("no".into()))),
    ] {
        let first = kind(call(Repeat::Named).judge(end.clone()));
        assert!(matches!(first, ErrorKind::Refused | ErrorKind::Invalid));
        let mut attempts = call(Repeat::Named);
        assert_eq!(attempts.judge(lost()), Step::Retry);
        assert_eq!(kind(attempts.judge(end)), ErrorKind::OutcomeUnknown);
    }
}

#[test]
fn an_answer_older_than_what_was_seen_before_the_call_proves_nothing() {
    let mut read = call(Repeat::Harmless);
    let records = |op| AttemptEnd::Reply(Reply::Records { at: at(op), records: vec![None] });
    assert_eq!(read.judge(records(9)), Step::Retry);
    assert!(matches!(read.judge(records(10)), Step::Finish(_, _)));

    let mut write = call(Repeat::Named);
    assert_eq!(write.judge(done(9)), Step::Retry);
    assert_eq!(*write.out_of_time().kind(), ErrorKind::OutcomeUnknown);

    let mut plain = call(Repeat::Twice);
    assert_eq!(kind(plain.judge(done(9))), ErrorKind::OutcomeUnknown);
}

#[test]
fn too_few_copies_until_the_deadline_is_refused_and_no_primary_is_unavailable() {
    let mut attempts = call(Repeat::Named);
    attempts.judge(AttemptEnd::Reply(Reply::NotDone(NotDone::TooFewCopies {
        synced: 1,
        min_copies: 2,
    })));
    assert_eq!(*attempts.out_of_time().kind(), ErrorKind::Refused);
    assert_eq!(*call(Repeat::Named).out_of_time().kind(), ErrorKind::Unavailable);
}

#[test]
fn no_attempt_is_begun_so_late_that_it_could_only_make_a_clear_end_unclear() {
    let late = Duration::from_millis(10);
    let mut attempts = call(Repeat::Named);
    assert!(attempts.worth_another(late), "it is the first");
    attempts.judge(not_primary());
    assert!(attempts.worth_another(Duration::from_secs(1)));
    assert!(!attempts.worth_another(late));
    attempts.judge(lost());
    assert!(attempts.worth_another(late), "the end is unclear already");
    assert!(!attempts.worth_another(Duration::ZERO));
}
