//! VIEW-8: a view service that is put back to an older state, or that comes back empty.

use kvproto::{Epoch, Generation};

use super::*;
use crate::assignment::planner::Waiting;

const A_WHILE: Duration = Duration::from_secs(2);
const SILENCE: Duration = kvproto::limits::SILENCE_BEFORE_FORCE;

impl World {
    /// The names of the complete copies.
    fn eligible(&self) -> Vec<String> {
        self.view().eligible.iter().map(|member| member.name.to_string()).collect()
    }

    /// The directory of the view service is replaced by an older copy of it.
    fn put_back(&mut self, older: ViewState) {
        self.kept = older;
        self.restart_views();
    }

    /// The newest record that a server has.
    fn record(&self, name: &str) -> View {
        self.servers[name].record.clone().unwrap()
    }

    /// A new process starts with what the last one of this name left on its disk.
    fn comes_back(&mut self, name: &'static str) {
        let (held, record) = self.disks[name].clone();
        let mut process = self.process(Habit::Follows);
        process.disk = Some(held);
        process.record = record;
        self.servers.insert(name, process);
    }

    /// A server that does not attend asks to. How it was refused, if it was.
    fn knock(&mut self, name: &'static str) -> Option<(RefusedReason, String)> {
        match self.servers[name].member {
            Some(_) => self.resume(name),
            None => self.register(name),
        }
        self.refusal.clone()
    }

    fn force(&mut self, name: &str) -> Result<View, String> {
        let effects = self.step(Event::Force { server: name.into() });
        let forced = effects.into_iter().find_map(|effect| match effect {
            Effect::Forced(forced) => Some(forced.map(|view| *view)),
            _ => None,
        });
        forced.expect("the operator is answered")
    }
}

/// Of two copies on disk, s1 is left out after a copy of the view service's directory was made, and s2
/// is the only one that has everything. Now the copy takes the directory's place.
fn put_back_under_a_sole_copy() -> World {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let older = world.kept.clone();
    world.kill("s1");
    world.pass(A_WHILE);
    assert_eq!(world.eligible(), ["s2"]);
    world.put_back(older);
    world
}

#[track_caller]
fn refused(world: &mut World, name: &'static str) -> (RefusedReason, String) {
    match world.knock(name) {
        Some(refused) => refused,
        None => panic!("{name} was admitted: {:?}", world.view()),
    }
}

fn advice(world: &World) -> String {
    let Waiting { advice, .. } = world.leader.report(world.now).waiting.expect("it waits");
    advice
}

/// A stale server became primary, and 200 of 200 acknowledged writes were gone.
#[test]
pub(super) fn view_8_a_copy_that_knows_more_than_the_view_service_puts_it_in_doubt() {
    let mut world = put_back_under_a_sole_copy();
    let before = world.view();
    let shown = world.record("s2");
    assert_eq!(refused(&mut world, "s2").0, RefusedReason::Doubt);
    world.comes_back("s1");
    assert_eq!(refused(&mut world, "s1").0, RefusedReason::Doubt, "it could be made primary");
    world.habit("s2", Habit::Silent);
    for _ in 0..4 {
        world.pass(A_WHILE);
        assert_eq!(world.view(), before, "nothing is assigned");
        assert_eq!(world.leader.public_view(), &shown, "the world is shown who really leads");
    }
    let advice = advice(&world);
    for part in ["s2#2 shows view 3", "here it is view 2", "an older state", "kvctl force s2 "] {
        assert!(advice.contains(part), "{part}: {advice}");
    }
}

/// The server that comes first has nothing to show, and by that the revision of the older state
/// overtakes what the other shows.
#[test]
pub(super) fn view_8_what_was_decided_since_it_was_put_back_makes_another_past_and_no_newer_one() {
    let mut world = put_back_under_a_sole_copy();
    for spare in ["s3", "s4", "s5", "s6"] {
        world.start(spare);
    }
    assert!(world.view().revision > world.record("s2").revision);
    assert_eq!(refused(&mut world, "s2").0, RefusedReason::Doubt);
    assert!(advice(&world).contains("two pasts"), "{}", advice(&world));
}

#[test]
pub(super) fn view_8_a_doubt_outlives_the_process() {
    let mut world = put_back_under_a_sole_copy();
    refused(&mut world, "s2");
    world.habit("s2", Habit::Silent);
    world.restart_views();
    world.comes_back("s1");
    assert_eq!(refused(&mut world, "s1").0, RefusedReason::Doubt);
    world.pass(A_WHILE);
    assert!(world.leader.state.doubt().is_some());
}

/// A ping names a record; the world sees no more than it did.
#[test]
fn view_8_a_ping_shows_as_well() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let s2 = world.servers["s2"].stream.clone().unwrap();
    let record = world.view();
    world.servers.get_mut("s2").unwrap().steps += 1;
    world.step(Event::Ping(
        s2,
        Progress {
            view: record.order(),
            history: record.history.after(b"another past"),
            appended: OpNumber(0),
            committed: OpNumber(0),
            applied: OpNumber(0),
            steps: 1_000,
            role: Role::Backup,
            memory: Memory::default(),
            disk_full: false,
            disk_waits: Duration::ZERO,
            directory_gone: false,
        },
    ));
    assert!(world.leader.state.doubt().is_some());
    assert_eq!(world.leader.public_view(), &world.view());
    let number = world.number();
    world.kill("s1");
    world.pass(A_WHILE);
    assert_eq!(world.number(), number, "nobody takes over");
}

/// Whoever is heard may be chosen; whoever else may serve must be silent.
#[test]
pub(super) fn view_8_an_operator_ends_the_doubt_when_all_others_were_silent() {
    let mut world = put_back_under_a_sole_copy();
    let shown = world.record("s2");
    refused(&mut world, "s2");
    world.comes_back("s1");
    world.pass(SILENCE);
    let early = world.force("s2").unwrap_err();
    assert!(early.contains("s1 may still be serving"), "{early}");
    assert!(world.force("s9").unwrap_err().contains("is not heard"));
    world.servers.remove("s1");
    world.pass(SILENCE - STEP * 2);
    assert!(world.force("s2").unwrap_err().contains("s1 may still be serving"));
    world.pass(STEP * 4);
    let s2 = world.servers["s2"].member.clone().unwrap();
    world.force("s2").unwrap();
    let view = world.view();
    assert!(view.generation > shown.generation && view.number > shown.number);
    assert_eq!(view.primary, Some(s2.clone()), "it keeps its number");
    assert!(view.eligible.iter().eq([&s2]));
    assert_eq!(world.leader.state.doubt(), None);
    world.pass(A_WHILE);
    assert_eq!(world.present("s2"), s2);
    assert!(world.view().is_activated());

    // The other disk is of an older generation now: it joins like any other, and proves nothing.
    world.comes_back("s1");
    world.pass(A_WHILE);
    assert_eq!(world.leader.state.doubt(), None);
    assert_eq!(world.eligible(), ["s1", "s2"]);
    assert!(world.present("s1").incarnation > s2.incarnation);
}

/// It was refused while it started, so nobody had given it a number yet.
#[test]
pub(super) fn view_8_a_server_that_starts_may_be_believed_and_is_known_when_it_comes_again() {
    let mut world = put_back_under_a_sole_copy();
    let shown = world.record("s2");
    world.comes_back("s2");
    world.pass(SILENCE + A_WHILE);
    world.force("s2").unwrap();
    let s2 = world.present("s2");
    assert!(world.view().is_primary(&s2));
    assert!(shown.members().chain(&shown.eligible).all(|it| it.incarnation < s2.incarnation));
    world.pass(A_WHILE);
    assert_eq!(world.servers["s2"].member, Some(s2));
    assert!(world.view().is_activated());
}

/// A view service that was put back said "a newer process stands under this name" to the only copy
/// that there was, which was in memory. Also an older past is not ended by one that does not know it.
#[test]
pub(super) fn view_8_a_life_is_ended_only_by_a_view_service_that_knows_how_it_ended() {
    let mut world = World::setup(Kind::Full, 1, &["s1"]);
    let older = world.kept.clone();
    world.start("s3");
    world.pass(A_WHILE);
    let mut put_back = older;
    let life = LifeId([9; 16]);
    let name = "s9".into();
    let s9 = Command::Register { name, kind: Kind::Full, replaces: None, life, held: None };
    put_back.apply(s9).unwrap();
    let s1 = put_back.present(&"s1".into()).unwrap();
    put_back.apply(Command::Force { after: put_back.view_id(), server: s1 }).unwrap();
    world.put_back(put_back);
    let (reason, said) = refused(&mut world, "s3");
    assert_eq!(reason, RefusedReason::OtherPast, "{said}");
}

#[test]
pub(super) fn view_8_a_living_server_of_a_past_that_was_given_up_is_not_told_to_end() {
    let mut world = put_back_under_a_sole_copy();
    refused(&mut world, "s2");
    world.comes_back("s1");
    world.habit("s2", Habit::Silent);
    world.pass(SILENCE + A_WHILE);
    world.force("s1").unwrap();
    world.pass(A_WHILE);
    let (reason, said) = refused(&mut world, "s2");
    assert_eq!(reason, RefusedReason::OtherPast);
    assert!(said.contains("generation 1") && said.contains("generation 2"), "{said}");
    assert_eq!(world.leader.state.doubt(), None, "older generations are never doubted");
}

/// A former life of this past is over, and is told so.
#[test]
fn view_8_a_life_that_ended_here_is_told_so() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let former = world.servers.remove("s3").unwrap();
    world.pass(A_WHILE);
    world.start("s3");
    world.servers.insert("s3", former);
    world.servers.get_mut("s3").unwrap().stream = None;
    assert_eq!(refused(&mut world, "s3").0, RefusedReason::StaleIncarnation);
}

/// A server of another cluster.
fn stranger(world: &mut World, name: &'static str) {
    let mut process = world.process(Habit::Follows);
    process.cluster = Some(ClusterId([9; 16]));
    world.servers.insert(name, process);
}

/// It founded a second world beside the servers of the first.
#[test]
pub(super) fn view_8_an_empty_view_service_listens_before_it_founds_a_cluster() {
    let mut world = World::new(Kind::Full, 2).listening();
    let process = world.process(Habit::Follows);
    world.servers.insert("s3", process);
    assert_eq!(refused(&mut world, "s3").0, RefusedReason::Listening);
    stranger(&mut world, "s1");
    assert_eq!(refused(&mut world, "s1").0, RefusedReason::Listening, "nobody to end it");
    for _ in 0..5 {
        world.pass(A_WHILE);
        let (reason, said) = refused(&mut world, "s3");
        assert_eq!(reason, RefusedReason::Listening);
        assert!(said.contains("while s1 of cluster 0909"), "{said}");
        let advice = advice(&world);
        assert!(advice.contains("servers of cluster 0909") && advice.contains("(s1)"), "{advice}");
    }
    world.servers.remove("s1");
    world.pass(Duration::from_secs(4));
    assert!(world.view().is_activated(), "the strangers went away");
}

#[test]
fn view_8_an_empty_view_service_to_which_nobody_of_another_cluster_comes_founds_one_soon() {
    let mut world = World::new(Kind::Full, 2).listening();
    assert!(advice(&world).contains("no server has come yet"), "{}", advice(&world));
    let process = world.process(Habit::Follows);
    world.servers.insert("s1", process);
    world.pass(DEAD_AFTER - STEP);
    assert_eq!(world.number(), 0);
    world.pass(DEAD_AFTER);
    assert!(world.view().is_activated());
}

/// The lab's test suites begin at once. Beside full servers their pings found nothing.
#[test]
pub(super) fn view_8_a_plain_ping_founds_at_once_unless_a_full_server_has_come() {
    let mut world = World::new(Kind::Plain, 2).listening();
    world.lab_ping("s1", 0);
    assert_eq!(world.number(), 1);

    let mut world = World::new(Kind::Full, 2).listening();
    stranger(&mut world, "s1");
    refused(&mut world, "s1");
    assert_eq!(world.lab_ping("s2", 0), None);
    assert_eq!(world.number(), 0);
}

/// Data that was restored has epochs of another cluster, which prove nothing; a record would.
#[test]
fn view_8_epochs_on_a_disk_of_this_cluster_prove_as_much_as_a_record() {
    let held = |number| {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(number) };
        let last = Position { epoch, op: OpNumber(9) };
        Held {
            storage: StorageId([5; 16]),
            last,
            epochs: vec![EpochStart::at(last, Default::default())],
        }
    };
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let cluster = Some(world.view().cluster);
    for (name, number, doubted) in [("s5", 2, false), ("s6", 9, true)] {
        let process = world.process(Habit::Zero);
        world.servers.insert(name, process);
        let held = Some(held(number));
        world.attend(name, Registration { held, cluster, ..newcomer(name) });
        assert_eq!(world.leader.state.doubt().is_some(), doubted);
    }
}
