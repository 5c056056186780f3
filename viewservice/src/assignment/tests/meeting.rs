//! Who was met at its address, and what that decides (VIEW-6).

use kvproto::Position;
use kvproto::registration::{Process, RefusedReason, ToServer};

use super::*;
use crate::assignment::liveness::State;

const A_WHILE: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to meet a server, and a little more.
const NEXT_ATTEMPT: Duration = Duration::from_secs(6);

fn nobody() -> NotMet {
    NotMet::Nobody("connection refused".into())
}

/// Another process under this name, which is no server of the world: it only knocks.
fn stranger(name: &str) -> Registration {
    Registration { life: LifeId([0xff; 16]), ..newcomer(name) }
}

/// What a server has on disk that was in the view, and holds everything.
fn whole(world: &World, name: &str) -> Held {
    let storage = world.leader.state.storage(&world.present(name)).unwrap();
    let last = Position { epoch: world.view().epoch(), op: OpNumber(0) };
    Held { storage, last, epochs: vec![EpochStart::at(last, world.view().began)] }
}

impl World {
    /// Knocks twice, as whoever is refused does. The reason and the words of the last refusal.
    fn knocks(&mut self, registration: Registration) -> Option<(RefusedReason, String)> {
        (0..2)
            .map(|_| {
                self.streams += 1;
                let (stream, registration) = (self.streams, registration.clone());
                let effects = self.step(Event::Register { stream, registration });
                effects.into_iter().find_map(|effect| match effect {
                    Effect::Rejected { reason, message, .. } => Some((reason, message)),
                    _ => None,
                })
            })
            .last()
            .flatten()
    }

    fn state_of(&self, name: &str) -> State {
        self.leader.liveness.state(&self.present(name))
    }
}

/// Trial 27: a second server that announced a dead address cost two views a second, for ever.
#[test]
pub(super) fn view_6_a_server_has_no_part_before_it_was_met_at_its_address() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.mislead("s2", nobody());
    world.start("s2");
    world.pass(A_WHILE * 3);
    world.check("s1", "", 1);
    let report = world.leader.report(world.now);
    let unmet: Vec<_> = report.servers.iter().map(|server| server.not_met.clone()).collect();
    assert_eq!(unmet, [None, Some(nobody())]);
    assert_eq!(world.state_of("s2"), State::Alive, "it attends all the same");
    world.misled.clear();
    world.pass(NEXT_ATTEMPT);
    world.check("s1", "s2", 2);
}

#[test]
fn view_6_before_the_first_activation_nobody_leads_unmet() {
    let mut world = World::new(Kind::Full, 2);
    world.mislead("s1", nobody());
    world.start("s1");
    world.pass(A_WHILE * 3);
    assert_eq!(world.number(), 0);
    let waiting = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap();
    assert_eq!(waiting.for_servers, [ServerName::from("s1")]);
    assert!(waiting.advice.contains("--advertise"), "{}", waiting.advice);
    world.start("s2");
    world.check("s2", "", 1);
}

/// Hole 15 (b): a wall between the view service and its servers in one direction, after a restart of
/// the view service or of the server: the only eligible one was never named.
#[test]
pub(super) fn view_6_an_eligible_server_that_nobody_meets_leads_if_no_other_eligible_could() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let view = world.view();
    world.mislead("s1", nobody());
    world.mislead("s2", nobody());
    world.restart_views();
    world.pass(A_WHILE * 2);
    assert_eq!(world.view(), view, "nobody is thrown out of the view for it");
    world.kill("s1");
    world.pass(A_WHILE);
    world.check("s2", "", 3);
    assert!(world.view().is_activated());
}

#[test]
fn view_6_of_two_eligible_servers_the_one_that_was_met_leads() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.mislead("s2", nobody());
    world.restart_views();
    world.appended("s2", 12);
    world.appended("s3", 10);
    world.pass(A_WHILE);
    world.kill("s1");
    world.check("s3", "s2", 4);
}

#[test]
fn view_6_who_leads_unmet_gives_way_to_an_eligible_server_that_was_met() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.mislead("s2", nobody());
    world.restart_views();
    world.pass(PING_INTERVAL * 4);
    world.kill("s1");
    world.pass(A_WHILE);
    world.check("s2", "", 3);
    world.start("s3");
    world.pass(A_WHILE);
    world.check("s3", "", 5);
    world.misled.clear();
    world.pass(NEXT_ATTEMPT);
    world.check("s3", "s2", 6);
}

#[test]
fn view_6_a_restart_with_its_data_is_over_with_the_former_life_at_once() {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let (held, former) = (whole(&world, "s2"), world.present("s2"));
    assert!(!world.brings("s2", held.clone()), "its stream stands");
    assert_eq!(world.present("s2"), former);
    world.begin("s2", Habit::Silent);
    world.servers.get_mut("s2").unwrap().stream = world.leader.attending.get(&former.name).cloned();
    world.cut("s2");
    assert!(world.brings("s2", held), "nobody else can be there with these data");
    let present = world.present("s2");
    assert!(present != former && world.view().eligible.contains(&present));
    assert_eq!(world.view().backups, [present], "in one change of the view");
}

#[test]
fn view_6_a_restart_with_its_data_that_nobody_meets_waits_for_the_silence() {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let held = whole(&world, "s2");
    world.mislead("s2", nobody());
    let stream = world.cut("s2").unwrap();
    world.step(Event::Gone(stream));
    world.servers.remove("s2");
    assert!(!world.brings("s2", held.clone()));
    world.pass(A_WHILE);
    assert!(world.brings("s2", held), "eligible, it may have to lead");
    world.pass(A_WHILE);
    assert!(world.view().backups.is_empty(), "but it has no part");
}

/// Hole 15 (a): a virtual address moved while the last copy in memory was cut off. A newcomer that
/// answered there ended it.
#[test]
pub(super) fn view_6_a_newcomer_at_a_moved_address_does_not_end_the_last_copy_at_once() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    let last = world.present("s1");
    let stream = world.cut("s1").unwrap();
    world.habit("s1", Habit::Silent);
    let refused = world.knocks(stranger("s1"));
    assert!(matches!(refused, Some((RefusedReason::NameInUse, _))), "{refused:?}");
    // For a moment nobody listened there.
    world.step(Event::Gone(stream));
    assert!(world.knocks(stranger("s1")).is_some(), "an address that refuses proves no silence");
    assert_eq!(world.present("s1"), last);
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    world.check("s1", "", 1);
    assert_eq!(world.present("s1"), last, "it is back with everything");
    world.habit("s1", Habit::Silent);
    world.cut("s1");
    world.pass(A_WHILE);
    assert_eq!(world.knocks(stranger("s1")), None);
    assert_ne!(world.present("s1"), last);
}

/// Trial 27: an empty server that announced another's address took its name when that one had died,
/// and kept it from it for ever.
#[test]
pub(super) fn view_6_another_storage_gets_a_name_only_where_it_was_met() {
    let mut world = World::on_disk(2, &["s1"]);
    let held = whole(&world, "s1");
    let impostor =
        Registration { held: Some(Held::nothing(StorageId([0xff; 16]))), ..stranger("s1") };
    world.kill("s1");
    world.mislead("s1", nobody());
    for _ in 0..40 {
        let (reason, message) = world.knocks(impostor.clone()).expect("it is refused");
        assert_eq!(reason, RefusedReason::NameInUse);
        assert!(message.contains("announces s1, where nobody answers"), "{message}");
        world.pass(PING_INTERVAL);
    }
    world.misled.clear();
    assert!(world.brings("s1", held), "its name was kept for it");
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    world.check("s1", "", 2);
    assert!(world.view().is_activated());
}

#[test]
fn view_6_a_name_whose_server_was_never_met_goes_to_the_one_that_is_met_there() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.mislead("s3", NotMet::Another);
    world.start("s3");
    world.pass(A_WHILE);
    let squatter = world.servers["s3"].stream.clone().unwrap();
    world.misled.clear();
    assert_eq!(world.knocks(stranger("s3")), None);
    assert_ne!(world.present("s3"), squatter.member);
    assert!(world.knocks(newcomer("s3")).is_some(), "it lives, and was met");
}

#[test]
fn where_the_view_service_gets_no_answer_its_servers_are_asked() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    world.mislead("s4", nobody());
    let registration = stranger("s4");
    let process: Process = registration.process();
    let mut asked = Vec::new();
    let mut effects = world.step(Event::Register { stream: 90, registration });
    for _ in 0..8 {
        asked.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Tell(stream, ToServer::Meet(it)) if *it == process => Some(stream.clone()),
            _ => None,
        }));
        world.now = world.now + STEP;
        effects = world.step(Event::Tick);
    }
    let names: Vec<_> = asked.iter().map(|stream| stream.member.name.as_str()).collect();
    assert_eq!(names, ["s1", "s2", "s3"], "the primary first, then each of the others");
    let stale = Stream { number: 1000, ..asked[1].clone() };
    world.step(Event::MetBy(stale, process.clone()));
    assert!(!world.leader.liveness.meetings.is_met(&process), "not on an open stream");
    world.step(Event::MetBy(asked[1].clone(), process.clone()));
    assert!(world.leader.liveness.meetings.is_met(&process));
}

#[test]
fn a_server_hears_that_nobody_meets_it_and_people_are_told_once() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.mislead("s2", NotMet::Another);
    world.start("s2");
    let mut effects = Vec::new();
    for _ in 0..60 {
        world.now = world.now + STEP;
        effects.extend(world.step(Event::Tick));
    }
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(_, ToServer::NotMet { message }) => Some(message.as_str()),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert!(told.len() > 2, "{effects:?}");
    assert_eq!(
        told[0],
        "this server announces s2, where another server answers: check --advertise"
    );
    let noticed = Effect::Notice(Notice::NotMet("s2".into(), NotMet::Another));
    assert_eq!(effects.iter().filter(|effect| **effect == noticed).count(), 1);
    world.misled.clear();
    let mut effects = Vec::new();
    for _ in 0..100 {
        world.now = world.now + STEP;
        effects.extend(world.step(Event::Tick));
    }
    assert!(effects.contains(&Effect::Notice(Notice::Met("s2".into()))));
}
