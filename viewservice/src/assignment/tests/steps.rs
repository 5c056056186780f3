//! What the view service answers, tells and asks for, step by step.

use super::*;
use crate::assignment::liveness::{Death, State};
use kvproto::registration::{RefusedReason, ToServer};

const A_WHILE: Duration = Duration::from_secs(2);

fn notices(effects: &[Effect]) -> Vec<&Notice> {
    let notices = effects.iter().filter_map(|effect| match effect {
        Effect::Notice(notice) => Some(notice),
        _ => None,
    });
    notices.collect()
}

fn published(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Publish(_))).count()
}

#[test]
fn a_registration_is_answered_after_what_it_led_to() {
    let mut world = World::new(Kind::Full, 2);
    let effects = world.step(Event::Register { stream: 1, registration: newcomer("s1") });
    let s1 = world.present("s1");
    let stream = Stream { member: s1.clone(), number: 1 };
    let answer = effects.iter().position(
        |effect| matches!(effect, Effect::Admitted(it, view) if *it == stream && view.revision.0 == 1),
    );
    let (before, after) = effects.split_at(answer.unwrap());
    assert_eq!(published(before), 1, "it is registered");
    assert!(before.iter().any(|effect| matches!(effect, Effect::Meet(it) if it.name == s1.name)));
    assert_eq!(published(after), 1, "it is primary when it was met");
    assert!(world.view().is_primary(&s1));
}

#[test]
fn what_comes_on_a_stream_that_was_replaced_changes_nothing() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (view, s2) = (world.view(), world.present("s2"));
    let old = world.servers["s1"].stream.clone().unwrap();
    let incarnation = Some(old.member.incarnation);
    let registration = Registration { incarnation, ..world.asks("s1") };
    let effects = world.step(Event::Register { stream: 99, registration });
    assert!(effects.contains(&Effect::Close(old.clone())));
    assert_eq!(world.step(Event::Wish(old.clone(), evict(&view, &s2))), []);
    assert_eq!(world.step(Event::Wish(old.clone(), Wish::Leave)), []);
    assert_eq!(world.step(Event::Broken(old.clone())), []);
    assert_eq!(world.step(Event::Gone(old)), [], "its address was asked before it came back");
    assert_eq!(world.view(), view);
}

#[test]
fn a_newer_life_ends_the_stream_of_the_older_one_and_says_so() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let old = world.servers["s2"].stream.clone().unwrap();
    let register = |stream| Event::Register { stream, registration: newcomer("s2") };
    let refused = world.step(register(98));
    assert!(matches!(
        refused[0],
        Effect::Rejected { stream: 98, reason: RefusedReason::NameInUse, .. }
    ));
    world.habit("s2", Habit::Silent);
    world.pass(A_WHILE);
    let effects = world.step(register(99));
    let told = effects.iter().position(|effect| {
        let stale = RefusedReason::StaleIncarnation;
        matches!(effect, Effect::Tell(stream, ToServer::Refused { reason, .. })
            if *stream == old && *reason == stale)
    });
    let closed = effects.iter().position(|effect| *effect == Effect::Close(old.clone()));
    assert!(told.unwrap() < closed.unwrap());
}

#[test]
fn the_highest_committed_op_is_taken_from_the_primary_of_an_activated_view_only() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let heard = |world: &World| world.leader.state.committed_heard();
    world.servers.get_mut("s2").unwrap().committed = OpNumber(9);
    world.pass(PING_INTERVAL * 2);
    assert_eq!(heard(&world), OpNumber(0), "a backup only repeats what it was told");
    world.servers.get_mut("s1").unwrap().committed = OpNumber(7);
    world.pass(PING_INTERVAL * 2);
    assert_eq!(heard(&world), OpNumber(7));
    world.servers.get_mut("s1").unwrap().committed = OpNumber(5);
    world.pass(PING_INTERVAL * 2);
    assert_eq!(heard(&world), OpNumber(7));

    world.habit("s2", Habit::Stays);
    world.kill("s1");
    world.pass(PING_INTERVAL * 2);
    assert!(world.view().is_primary(&world.present("s2")) && !world.view().is_activated());
    assert_eq!(heard(&world), OpNumber(7), "it does not lead yet");
}

#[test]
fn an_eviction_counts_only_if_it_took_place() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let (s1, s2, s3) = (world.present("s1"), world.present("s2"), world.present("s3"));
    let view = world.view();
    let stream = |world: &World, member: &Member| world.leader.attending[&member.name].clone();
    let by_the_backup = Event::Wish(stream(&world, &s2), evict(&view, &s1));
    let effects = world.step(by_the_backup);
    assert!(!notices(&effects).contains(&&Notice::Evicted(s1.clone())));
    assert!(world.leader.liveness.is_recruitable(&s1));
    let by_the_primary = Event::Wish(stream(&world, &s1), evict(&view, &s2));
    let effects = world.step(by_the_primary.clone());
    assert!(notices(&effects).contains(&&Notice::Evicted(s2.clone())));
    assert_eq!(published(&effects), 1, "the spare comes in with the same view");
    assert_eq!(world.view().backups, [s3]);
    let deaths = world.leader.liveness.deaths(&s2.name);
    world.step(by_the_primary);
    assert_eq!(world.leader.liveness.deaths(&s2.name), deaths, "a repetition is not another one");
}

#[test]
fn a_wish_to_stop_is_noticed_once_and_answered_each_time_nobody_could_take_over() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let stream = world.servers["s2"].stream.clone().unwrap();
    let wants_to_stop = Notice::WantsToStop { member: stream.member.clone(), leads: false };
    let first = world.step(Event::Wish(stream.clone(), Wish::Leave));
    assert!(notices(&first).contains(&&wants_to_stop));
    let again = world.step(Event::Wish(stream, Wish::Leave));
    assert!(!notices(&again).contains(&&wants_to_stop));

    let alone = world.servers["s1"].stream.clone().unwrap();
    world.kill("s2");
    for _ in 0..2 {
        let effects = world.step(Event::Wish(alone.clone(), Wish::Leave));
        assert!(effects.contains(&Effect::Tell(alone.clone(), ToServer::NobodyToTakeOver)));
    }
}

#[test]
fn an_operator_is_answered_with_what_to_do_first_or_with_the_new_generation() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.start("s2");
    world.habit("s2", Habit::Zero);
    let force = Event::Force { server: "s2".into() };
    let effects = world.step(force.clone());
    assert!(matches!(&effects[..], [Effect::Forced(Err(advice))] if advice.contains("is heard")));
    world.cut("s2");
    world.servers.remove("s2");
    world.kill("s1");
    world.start("s3");
    let effects = world.step(Event::Force { server: "s3".into() });
    assert_eq!(effects.last(), Some(&Effect::Forced(Ok(Box::new(world.view())))));
    assert!(world.view().is_primary(&world.present("s3")));
    assert!(notices(&effects).iter().any(|notice| matches!(notice, Notice::Forced { .. })));
}

#[test]
fn a_death_noticed_at_the_door_is_told_like_any_other() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let s2 = world.present("s2");
    let mut told = Vec::new();
    for round in 0..20 {
        world.now = world.now + STEP;
        let registration = newcomer("s2");
        told.extend(world.step(Event::Register { stream: 50 + round, registration }));
        let stream = world.servers["s1"].stream.clone().unwrap();
        let progress = world.leader.liveness.progress(&stream.member).unwrap();
        let steps = progress.steps + 1;
        world.step(Event::Ping(stream, Progress { steps, ..progress }));
    }
    assert!(notices(&told).contains(&&Notice::Died(s2, Death::Silent)));
}

#[test]
fn waiting_is_told_when_it_begins_when_it_changes_and_when_it_ends() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    let stream = world.cut("s1").unwrap();
    let gone = world.step(Event::Gone(stream));
    let waits = |effects: &[Effect]| {
        notices(effects).iter().filter(|notice| matches!(notice, Notice::Waiting(_))).count()
    };
    assert_eq!(waits(&gone), 1);
    assert_eq!(world.step(Event::Tick), [], "it is not repeated");
    let back = world.step(Event::Register {
        stream: 9,
        registration: Registration {
            incarnation: Some(world.present("s1").incarnation),
            ..world.asks("s1")
        },
    });
    assert!(notices(&back).contains(&&Notice::NoLongerWaiting));
}

/// Whoever was registered when the view service ended may be gone since.
#[test]
fn a_new_leader_recruits_and_promotes_nobody_whom_it_has_not_heard() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.kill("s3");
    world.pass(A_WHILE);
    let view = world.view();
    assert_eq!(view.members().count(), 2);
    world.restart_views();
    world.settle();
    let states = world.leader.report(world.now).servers.into_iter().map(|server| server.state);
    assert!(states.into_iter().all(|state| state == State::Suspected));
    world.pass(DEAD_AFTER * 4);
    assert_eq!(world.view(), view, "those that came back are left in peace, s3 stays out");

    world.restart_views();
    world.kill("s1");
    world.habit("s2", Habit::Silent);
    world.pass(DEAD_AFTER / 2);
    assert_eq!(world.view(), view, "s1 may still be there");
    world.habit("s2", Habit::Follows);
    world.pass(DEAD_AFTER * 2);
    assert!(world.view().is_primary(&world.present("s2")));
}
