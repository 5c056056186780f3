//! Histories that tell one story each. In those that are wrong the account must consist of exactly
//! the calls that a person would point at. Version 1 is the first write, which finds no key.

use super::*;

#[test]
fn concurrent_calls_may_take_effect_in_any_order() {
    legal([
        p(0).at(0..10).put("a", 1),
        p(1).at(0..10).put("b", 2),
        p(2).at(5..8).get("a", 1),
        p(2).at(11..12).get("b", 2),
    ]);
}

#[test]
fn a_read_that_begins_in_the_tick_in_which_a_write_returns_overlaps_it() {
    legal([p(0).at(0..1).put("old", 1), p(0).at(2..4).put("new", 2), p(1).at(4..5).get("old", 1)]);
}

#[test]
fn a_stale_read_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("old", 1),
        p(0).at(2..3).put("new", 2),
        p(1).at(4..5).get("old", 1),
        p(1).at(6..7).get("new", 2),
    ];
    let account = illegal(calls.clone(), &[0, 1, 2]);
    assert!(account.contains("get k"), "{account}");
    refused_by_witness(calls, "version 0/1 was still seen after version 0/2 was known");
}

#[test]
fn a_lost_acknowledged_write_is_a_violation() {
    let calls = [p(0).at(0..1).put("a", 1), p(1).at(2..3).get_nothing()];
    illegal(calls.clone(), &[0, 1]);
    refused_by_witness(calls, "nothing was seen after version 0/1 was known");
}

#[test]
fn a_lost_update_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(1).at(2..9).append("b", 2, 2),
        p(2).at(2..9).append("c", 3, 2),
        p(0).at(10..11).get("ac", 3),
    ];
    illegal(calls.clone(), &[1, 2]);
    refused_by_witness(calls, "0/3 is 3 bytes long and says 2");
}

#[test]
fn a_duplicate_append_is_a_violation() {
    let calls = [p(0).at(0..1).append("a", 1, 1), p(1).at(2..3).get("aa", 2)];
    illegal(calls.clone(), &[1]);
    refused_by_witness(calls, "nobody wrote \"aa\"");
}

#[test]
fn a_value_from_nowhere_is_a_violation() {
    let calls = [p(0).at(0..1).put("a", 1), p(1).at(2..3).get("b", 2)];
    illegal(calls.clone(), &[1]);
    refused_by_witness(calls, "nobody wrote \"b\"");
}

#[test]
fn a_write_that_takes_effect_before_its_call_is_a_violation() {
    let calls = [p(1).at(0..1).get("a", 1), p(0).at(2..3).put("a", 1)];
    illegal(calls.clone(), &[0]);
    refused_by_witness(calls, "version 0/1 was seen before its write began");
}

#[test]
fn an_unknown_write_does_not_take_effect_before_its_call_either() {
    let calls = [p(1).at(0..1).get("a", 1), p(0).from(2).put("a", 1)];
    illegal(calls.clone(), &[0]);
    refused_by_witness(calls, "nobody wrote \"a\"");
}

#[test]
fn a_write_that_takes_effect_after_its_return_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(0).at(2..3).put("b", 3),
        p(1).at(4..5).put("c", 2),
        p(1).at(6..7).get("b", 3),
    ];
    illegal(calls.clone(), &[1, 2, 3]);
    refused_by_witness(calls, "version 0/3 was known before the write of version 0/2 began");
}

#[test]
fn a_read_that_goes_back_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(0).at(2..20).put("b", 2),
        p(1).at(4..5).get("b", 2),
        p(2).at(6..7).get("a", 1),
    ];
    illegal(calls.clone(), &[0, 2, 3]);
    refused_by_witness(calls, "version 0/1 was still seen after version 0/2 was known");
}

#[test]
fn a_client_that_does_not_read_its_own_write_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(1).at(2..8).put("b", 2),
        p(0).at(3..4).put("c", 3),
        p(0).at(5..6).get("a", 1),
    ];
    illegal(calls.clone(), &[0, 2, 3]);
    refused_by_witness(calls, "version 0/1 was still seen after version 0/3 was known");
}

#[test]
fn a_delete_that_comes_undone_is_a_violation() {
    let calls = [p(0).at(0..1).put("a", 1), p(0).at(2..3).delete(2), p(1).at(4..5).get("a", 1)];
    illegal(calls.clone(), &[0, 1, 2]);
    refused_by_witness(calls, "version 0/1 was still seen after version 0/2 was known");
}

#[test]
fn a_missing_key_is_seen_between_its_delete_and_the_next_write() {
    legal([
        p(0).at(0..1).put("a", 1),
        p(0).at(2..3).delete(2),
        p(1).at(4..5).get_nothing(),
        p(0).at(6..9).append("b", 3, 1),
        p(1).at(7..8).get_nothing(),
    ]);
}

#[test]
fn an_unknown_write_may_never_happen() {
    legal([
        p(0).at(0..1).put("a", 1),
        p(1).from(2).put("b", 0),
        p(0).at(3..4).get("a", 1),
        p(0).at(5..6).append("c", 2, 2),
    ]);
}

#[test]
fn an_unknown_write_may_take_effect_very_late() {
    legal([
        p(0).at(0..1).put("a", 1),
        p(1).from(2).put("b", 0),
        p(0).at(3..4).get("a", 1),
        p(0).at(1_000..1_001).put("c", 2),
        p(0).at(2_000..2_001).get("b", 3),
    ]);
}

#[test]
fn an_unknown_write_that_appears_and_then_vanishes_is_a_violation() {
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(1).from(2).put("b", 0),
        p(0).at(3..4).get("b", 2),
        p(0).at(5..6).get("a", 1),
    ];
    illegal(calls.clone(), &[0, 2, 3]);
    refused_by_witness(calls, "version 0/1 was still seen after version 0/2 was known");
}

#[test]
fn an_unknown_append_that_happens_twice_is_a_violation() {
    let calls =
        [p(0).from(0).append("a", 0, 1), p(1).at(1..2).get("a", 1), p(1).at(3..4).get("aa", 2)];
    illegal(calls.clone(), &[2]);
    refused_by_witness(calls, "nobody wrote");
}

#[test]
fn an_unknown_write_that_nobody_saw_may_be_betrayed_by_a_length() {
    legal([
        p(0).from(0).append("unseen", 0, 6),
        p(1).at(1..2).append("b", 2, 7),
        p(1).at(3..4).delete(3),
    ]);
}

#[test]
fn a_call_that_was_certainly_not_done_must_have_no_effect() {
    let mut failed = p(0).at(0..1).put("a", 1);
    let returned = Timestamp::from_nanos(1_000_000);
    failed.end = End::NotDone { returned, why: "no primary answered".to_owned() };
    let calls = [failed, p(1).at(2..3).get("a", 1)];
    illegal(calls.clone(), &[1]);
    refused_by_witness(calls, "nobody wrote \"a\"");
}

#[test]
fn of_two_compare_and_sets_from_one_value_only_one_may_succeed() {
    let done = |version| Answer::Changed(vec![made(version, true, 1)]);
    let from_a = || Expect::Value(bytes("a").into());
    let calls = [
        p(0).at(0..1).put("a", 1),
        p(1).at(2..9).set(from_a(), "b", done(2)),
        p(2).at(2..9).set(from_a(), "c", done(3)),
    ];
    illegal(calls.clone(), &[1, 2]);
    refused_by_witness(calls, "0/3 was made although its condition did not hold");
}

#[test]
fn a_refused_compare_and_set_is_a_read_of_what_refused_it() {
    let refused = |value: &str, version| {
        let record = Some(record(value, version));
        Answer::Refused { change: 0, record }
    };
    let story = |answer| {
        [
            p(0).at(0..1).put("a", 1),
            p(0).at(2..3).put("b", 2),
            p(1).at(4..5).set(Expect::Missing, "c", answer),
        ]
    };
    legal(story(refused("b", 2)));
    illegal(story(refused("a", 1)), &[0, 1, 2]);
}

#[test]
fn versions_decide_where_a_compare_and_set_expects_one() {
    let set =
        |told: Told, version, answer| told.set(Expect::Version(Version(version)), "n", answer);
    let done = || Answer::Changed(vec![made(3, true, 1)]);
    // The same value twice: only the version tells which of the two is there.
    let story = |expected| {
        [p(0).at(0..1).put("a", 1), p(0).at(2..3).put("a", 2), set(p(1).at(4..5), expected, done())]
    };
    legal(story(2));
    illegal(story(1), &[1, 2]);
    refused_by_witness(story(1), "0/3 was made although its condition did not hold");
}

#[test]
fn a_read_of_two_keys_that_tears_a_batch_is_seen_when_the_store_is_checked_as_one() {
    let both = |value: &str| ["x", "y"].map(|key| change(key, Action::Put(bytes(value)))).to_vec();
    let wrote = |version, existed| Answer::Changed(vec![made(version, existed, 1); 2]);
    let read = |first: Record, second: Record| {
        let answer = Answer::Records(vec![Some(first), Some(second)]);
        p(1).at(5..6).call(Operation::Read(vec![bytes("x"), bytes("y")]), answer)
    };
    let story = |read| {
        history([
            p(0).at(0..1).write(both("1"), wrote(1, false)),
            p(0).at(2..9).write(both("2"), wrote(2, true)),
            read,
        ])
    };
    let whole = story(read(record("2", 2), record("2", 2)));
    assert_eq!(check_whole(&whole, STEPS), Finding::Ok);
    let torn = story(read(record("2", 2), record("1", 1)));
    assert!(check(&torn, STEPS).is_ok(), "each key alone is fine");
    assert!(matches!(check_whole(&torn, STEPS), Finding::Violation(_)));
}

#[test]
fn an_unknown_batch_takes_effect_as_a_whole() {
    let batch = ["x", "y"].map(|key| change(key, Action::Put(bytes("1")))).to_vec();
    let read = |time, first, second| {
        let answer = Answer::Records(vec![first, second]);
        p(1).at(time).call(Operation::Read(vec![bytes("x"), bytes("y")]), answer)
    };
    let unknown = p(0).from(0).write(batch, Answer::Changed(Vec::new()));
    let one = || Some(record("1", 5));
    let late = history([unknown.clone(), read(1..2, None, None), read(3..4, one(), one())]);
    assert_eq!(check_whole(&late, STEPS), Finding::Ok);
    let torn = history([unknown, read(1..2, one(), None)]);
    assert!(matches!(check_whole(&torn, STEPS), Finding::Violation(_)));
}

/// Once taken for a violation: the batch was not tried, since the put that comes next makes nothing of
/// what it does to `y`. But it has to come before that put for what it does to `x`.
#[test]
fn an_unknown_batch_is_tried_although_half_of_it_is_overwritten_next() {
    let put = |key, value: &str| change(key, Action::Put(bytes(value)));
    let done = |version, existed| Answer::Changed(vec![made(version, existed, 1)]);
    let batch = vec![put("y", "b"), put("x", "b")];
    let seen = Answer::Records(vec![Some(record("b", 2)), Some(record("c", 3))]);
    let calls = history([
        p(0).at(0..1).write(vec![put("y", "a")], done(1, false)),
        p(1).from(2).write(batch, Answer::Changed(Vec::new())),
        p(0).at(3..4).write(vec![put("y", "c")], done(3, true)),
        p(0).at(5..6).call(Operation::Read(vec![bytes("x"), bytes("y")]), seen),
    ]);
    assert_eq!(check_whole(&calls, STEPS), Finding::Ok);
}

#[test]
fn without_enough_steps_the_verdict_is_not_decided() {
    let calls = (0..2_000).map(|i| p(i).at(0..10).put(&i.to_string(), u64::from(i) + 1));
    assert_eq!(check(&history(calls), 1).not_decided().count(), 1);
}

#[test]
fn an_answer_as_of_a_point_in_the_log_shows_the_newest_version_up_to_it() {
    let mut read = p(1).at(0..9).get("a", 1);
    let End::Done { at, .. } = &mut read.end else { unreachable!("it is done") };
    *at = Some(kvproto::LogPoint { op: kvproto::OpNumber(5), ..Default::default() });
    let calls = [p(0).at(0..1).put("a", 1), p(0).at(2..3).put("b", 4), read];
    assert!(check(&history(calls.clone()), STEPS).is_ok());
    refused_by_witness(calls, "an answer as of 0/5 misses version 0/4");
}

#[test]
fn an_account_shows_the_contradiction_in_a_few_lines() {
    let mut calls: Vec<Call> =
        (1..100).map(|i| p(0).at(10 * i..10 * i + 5).append("x", i, i)).collect();
    calls.push(p(1).at(500..508).get(&"x".repeat(49), 49));
    calls.push(p(2).at(509..512).get(&"x".repeat(48), 48));
    let account = illegal(calls.clone(), &[99, 100]);
    assert!(account.lines().count() <= 6, "{account}");
    refused_by_witness(calls, "version 0/48 was still seen after version 0/50 was known");
}
