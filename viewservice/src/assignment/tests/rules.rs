//! What full servers and operators can count on.

use kvproto::{Epoch, Generation, Position};

use super::*;

const A_WHILE: Duration = Duration::from_secs(2);

fn propose(world: &mut World, primary: &Member, backups: &[&Member]) -> Result<Applied, Refusal> {
    let command = Command::Propose {
        after: world.id(),
        primary: primary.clone(),
        backups: backups.iter().map(|member| (*member).clone()).collect(),
    };
    world.propose(command)
}

fn admission(world: &World, asked: &Registration) -> Admission {
    let Leader { state, liveness, door, .. } = &world.leader;
    requests::register(state, liveness, door, asked, world.now)
}

#[test]
pub(super) fn view_2_nobody_incomplete_becomes_primary_whoever_proposes_it() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let (s1, s3) = (world.present("s1"), world.present("s3"));
    assert_eq!(propose(&mut world, &s3, &[&s1]), Err(Refusal::NotEligible(s3)));
    let ghost = member("s2", 99);
    assert_eq!(propose(&mut world, &ghost, &[]), Err(Refusal::NotPresent(ghost.clone())));
}

#[test]
fn view_3_a_membership_change_keeps_the_epoch_and_a_new_primary_ends_it() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let epoch = world.view().epoch();
    propose(&mut world, &s1, &[]).unwrap();
    assert_eq!(world.view().epoch(), epoch);
    propose(&mut world, &s2, &[]).unwrap();
    assert!(world.view().epoch() > epoch);
    assert_eq!(world.view().eligible.len(), 2, "a proposal changes nobody's standing");
}

#[test]
fn view_3_a_candidate_that_dies_before_it_activates_is_superseded() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.habit("s2", Habit::Stays);
    world.kill("s1");
    world.check("s2", "s3", 4);
    world.kill("s2");
    world.check("s3", "", 5);
    world.pass(PING_INTERVAL * 4);
    assert!(world.view().is_activated());
}

#[test]
pub(super) fn view_4_activation_keeps_only_those_who_were_complete_and_are_reconciled() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2"]);
    world.habit("s1", Habit::Zero);
    world.start("s3");
    let view = world.view();
    let (s1, s2, s3) = (world.present("s1"), world.present("s2"), world.present("s3"));
    assert_eq!(view.backups, [s2.clone(), s3.clone()]);
    let activate = |by: &Member, reconciled: &[&Member]| Command::Activate {
        by: by.clone(),
        view: ViewId::of(&view),
        reconciled: reconciled.iter().map(|member| (*member).clone()).collect(),
    };
    assert_eq!(
        world.propose(activate(&s2, &[])),
        Err(Refusal::NotPrimary(s2.clone())),
        "only the primary of the view may activate it"
    );
    world.propose(activate(&s1, &[&s3])).unwrap();
    assert!(world.view().eligible.iter().eq([&s1]), "s3 was never complete, s2 was not reconciled");
    assert_eq!(world.view().role_of(&s2), Role::Joining);

    let record = world.view();
    assert_eq!(world.propose(activate(&s1, &[&s2, &s3])), Ok(Applied::Unchanged));
    assert_eq!(world.view(), record, "a repetition changes nothing, not even the revision");
}

#[test]
pub(super) fn view_4_an_activation_of_an_older_view_is_refused() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.habit("s2", Habit::Zero);
    world.kill("s1");
    let older = world.id();
    let s2 = world.present("s2");
    world.start("s3");
    world.start("s4");
    let command = |view| Command::Activate { by: s2.clone(), view, reconciled: Vec::new() };
    let s3 = world.present("s3");
    propose(&mut world, &s2, &[&s3]).unwrap();
    assert!(matches!(world.propose(command(older)), Err(Refusal::Overtaken { .. })));
    assert!(!world.view().is_activated());
}

#[test]
fn view_5_synced_makes_a_joiner_complete_without_a_new_view() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.habit("s1", Habit::Zero);
    world.start("s2");
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let view = world.view();
    let command = |by: &Member, server: &Member| Command::Synced {
        by: by.clone(),
        view: ViewId::of(&view),
        server: server.clone(),
    };
    assert_eq!(world.propose(command(&s1, &s2)), Err(Refusal::NotActivated));
    world.wish(&s1, activate(&view, &[]));
    assert_eq!(world.propose(command(&s2, &s2)), Err(Refusal::NotPrimary(s2.clone())));
    let stranger = member("s9", 9);
    assert_eq!(world.propose(command(&s1, &stranger)), Err(Refusal::NotBackup(stranger.clone())));
    let before = world.view();
    assert_eq!(world.propose(command(&s1, &s2)), Ok(Applied::Changed));
    let after = world.view();
    assert_eq!(after.number, before.number);
    assert_eq!(after.revision, before.revision.next());
    assert!(after.eligible.contains(&s2));
    assert_eq!(world.propose(command(&s1, &s2)), Ok(Applied::Unchanged));
    assert_eq!(world.view(), after);
}

#[test]
fn view_6_a_new_life_is_refused_while_the_older_one_lives_and_voids_its_commands_afterwards() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let old = world.present("s1");
    let refused = admission(&world, &newcomer("s1"));
    assert!(matches!(refused, Admission::InUse(_, _)));
    let view = world.view();
    let by_the_former = world.asks("s1");
    world.habit("s2", Habit::Silent);
    world.kill("s1");
    world.start("s1");
    world.pass(A_WHILE);
    let new = world.present("s1");
    assert!(new.incarnation > old.incarnation);
    let number = world.number();
    let by_the_old =
        Command::Synced { by: old.clone(), view: ViewId::of(&view), server: world.present("s2") };
    world.propose(by_the_old).unwrap_err();
    assert_eq!(world.number(), number);
    let resume = Registration { incarnation: Some(old.incarnation), ..by_the_former };
    assert!(matches!(
        admission(&world, &resume),
        Admission::Refused(RefusedReason::StaleIncarnation, _)
    ));
    let resume = Registration { incarnation: Some(new.incarnation), ..world.asks("s1") };
    assert_eq!(admission(&world, &resume), Admission::Resumes(new));
}

/// H1: a primary that restarted, even with its data, would name two ops at one position if it went on
/// in its old epoch: its unsynced tail may have been acknowledged by others.
#[test]
pub(super) fn h1_the_role_of_a_primary_does_not_survive_its_restart() {
    let mut world = World::new(Kind::Full, 2);
    world.start("s1");
    world.habit("s1", Habit::Zero);
    let first = world.view();
    world.kill("s1");
    world.start("s1");
    let second = world.view();
    assert_eq!(second.primary_name(), first.primary_name());
    assert_eq!(second.number, first.number.next());
    assert_eq!(second.primary_since, second.number, "a new life never goes on in an old epoch");
}

#[test]
fn view_6_a_repeated_registration_ends_nobody() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    let repeated = Command::Register {
        name: "s1".into(),
        kind: Kind::Full,
        replaces: None,
        life: LifeId::default(),
        held: None,
    };
    let before = world.leader.state.clone();
    assert!(matches!(world.propose(repeated), Err(Refusal::Overtaken { .. })));
    assert_eq!(world.leader.state, before);
}

#[test]
fn view_6_a_restarted_backup_comes_back_as_a_newcomer() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let old = world.present("s2");
    world.cut("s2");
    world.leader.liveness.refused(&old, world.now);
    world.start("s2");
    assert_eq!(
        world.present("s2"),
        old,
        "it was complete, and is not voided before it is left out"
    );
    world.habit("s1", Habit::Zero);
    world.check("s1", "", 3);
    world.habit("s1", Habit::Follows);
    world.pass(PING_INTERVAL * 2);
    let new = world.present("s2");
    assert_ne!(new, old);
    world.check("s1", "s2", 4);
    assert_eq!(world.view().backups, [new]);
}

#[test]
fn view_7_force_is_refused_while_a_complete_server_is_heard_and_soon_after() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let ask = |world: &World| {
        let (leader, server) = (&world.leader, ServerName::from("s3"));
        requests::force(&leader.state, &leader.liveness, &leader.door, &server, world.now)
    };
    assert!(ask(&world).unwrap_err().contains("is heard"));
    world.habit("s1", Habit::Silent);
    world.habit("s2", Habit::Silent);
    world.pass(A_WHILE);
    assert!(ask(&world).unwrap_err().contains("try again in"));
    world.pass(kvproto::limits::SILENCE_BEFORE_FORCE);
    let before = world.view();
    let command = ask(&world).unwrap();
    world.propose(command).unwrap();
    let view = world.view();
    assert_eq!(view.generation, before.generation.next());
    assert_eq!(view.number, before.number.next());
    let s3 = world.present("s3");
    assert!(view.is_primary(&s3) && view.backups.is_empty() && !view.is_activated());
    assert_eq!(view.eligible.into_iter().collect::<Vec<_>>(), [s3]);
}

#[test]
fn a_killed_primary_is_replaced_at_once_and_a_silent_one_after_dead_after() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.kill("s1");
    world.check("s2", "", 3);
}

#[test]
fn a_broken_stream_alone_kills_nobody() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let stream = world.cut("s1").unwrap();
    world.habit("s1", Habit::Silent);
    world.pass(DEAD_AFTER / 2);
    world.check("s1", "s2", 2);
    world.habit("s1", Habit::Follows);
    world.resume("s1");
    world.step(Event::Gone(stream));
    world.pass(A_WHILE);
    world.check("s1", "s2", 2);
}

#[test]
fn of_two_complete_backups_the_one_that_holds_more_is_promoted() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.appended("s2", 10);
    world.appended("s3", 12);
    world.pass(PING_INTERVAL * 2);
    world.kill("s1");
    world.check("s3", "s2", 4);
}

/// After a power cut a copy that lacked nearly everything was filled, and a complete one looked on.
#[test]
fn of_two_spares_the_one_that_holds_more_is_recruited() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3", "s4"]);
    world.appended("s3", 10);
    world.appended("s4", 12);
    world.pass(PING_INTERVAL * 2);
    world.kill("s2");
    world.check("s1", "s4", 3);
}

#[test]
fn the_view_has_as_many_copies_as_wished_and_the_rest_are_spares() {
    let world = World::setup(Kind::Full, 3, &["s1", "s2", "s3", "s4"]);
    assert_eq!(world.view().members().count(), 3);
    assert_eq!(world.view().role_of(&world.present("s4")), Role::Spare);
}

#[test]
fn an_evicted_backup_leaves_a_spare_takes_its_place_and_it_needs_a_sign_of_life_to_return() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let view = world.view();
    assert_eq!(world.wish(&s2, evict(&view, &s1)), Granted::Nothing, "only the primary may ask");
    world.wish(&s1, evict(&view, &s2));
    world.check("s1", "s3", 3);
    assert_eq!(world.wish(&s1, evict(&view, &s2)), Granted::Nothing, "late, hence harmless");

    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    world.habit("s2", Habit::Silent);
    let view = world.view();
    world.wish(&s1, evict(&view, &s2));
    world.check("s1", "", 3);
    world.pass(PING_INTERVAL * 2);
    world.check("s1", "", 3);
    world.habit("s2", Habit::Follows);
    world.pass(PING_INTERVAL * 2);
    world.check("s1", "s2", 4);
}

#[test]
fn an_evicted_backup_of_a_proposed_view_is_left_out_and_nobody_recruited() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.habit("s2", Habit::Stays);
    world.kill("s1");
    world.start("s4");
    world.check("s2", "s3", 4);
    let (s2, s3, view) = (world.present("s2"), world.present("s3"), world.view());
    world.wish(&s2, evict(&view, &s3));
    world.check("s2", "", 5);
    assert_eq!(world.view().epoch(), view.epoch(), "the same primaryship goes on");
}

#[test]
fn a_leaving_primary_is_replaced_and_not_recruited_again() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let s1 = world.present("s1");
    for _ in 0..40 {
        assert_eq!(world.wish(&s1, Wish::Leave), Granted::Leaving);
        world.check("s2", "", 3);
        world.pass(PING_INTERVAL);
    }
}

/// The mark was kept for ever: a server that could not leave in time and stayed was never recruited
/// again.
#[test]
fn a_server_that_gave_up_leaving_is_recruited_again() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let s1 = world.present("s1");
    world.wish(&s1, Wish::Leave);
    world.pass(Duration::from_millis(1900));
    world.check("s2", "", 3);
    world.pass(Duration::from_millis(200));
    world.check("s2", "s1", 4);
}

/// A primary that was cut off for nearly `dead-after` came back, and before its first ping could
/// show that it had moved it was taken for stuck: a needless failover.
#[test]
fn a_server_that_attends_again_is_not_stuck_before_it_could_say_that_it_moved() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.cut("s1");
    world.habit("s1", Habit::Silent);
    world.pass(DEAD_AFTER - STEP * 2);
    world.resume("s1");
    world.pass(STEP * 4);
    world.check("s1", "s2", 2);
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    world.check("s1", "s2", 2);
}

/// And one that is really stuck does not gain by coming back.
#[test]
fn a_stuck_server_stays_dead_until_it_moves_even_if_it_attends_again() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.servers.get_mut("s1").unwrap().stuck = true;
    world.pass(A_WHILE);
    world.check("s2", "", 3);
    world.cut("s1");
    world.resume("s1");
    world.check("s2", "", 3);
    world.servers.get_mut("s1").unwrap().stuck = false;
    world.pass(A_WHILE);
    world.check("s2", "s1", 4);
}

#[test]
fn a_leaving_primary_without_a_complete_backup_hears_so_and_stays() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.habit("s1", Habit::Zero);
    world.start("s2");
    let s1 = world.present("s1");
    assert_eq!(world.wish(&s1, Wish::Leave), Granted::NobodyToTakeOver);
    world.pass(A_WHILE);
    world.check("s1", "s2", 2);
}

#[test]
fn a_leaving_backup_is_replaced_by_a_spare() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let s2 = world.present("s2");
    world.wish(&s2, Wish::Leave);
    world.check("s1", "s3", 3);
}

#[test]
pub(super) fn kinds_do_not_mix_and_a_plain_ping_for_a_full_server_is_inert() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (before, s1) = (world.leader.state.clone(), world.present("s1"));
    world.habit("s1", Habit::Silent);
    for number in [0, 2, 1] {
        assert_eq!(world.lab_ping("s1", number), None);
    }
    assert_eq!(world.lab_ping("s9", 0), None);
    assert_eq!(world.leader.state, before, "neither an acknowledgement nor a restart");
    let age = world.leader.liveness.unheard_for(&s1, world.now);
    world.pass(PING_INTERVAL);
    world.lab_ping("s1", 2);
    assert!(world.leader.liveness.unheard_for(&s1, world.now) > age, "nor a sign of life");

    let world = World::setup(Kind::Plain, 2, &["s1"]);
    assert!(matches!(
        admission(&world, &newcomer("s2")),
        Admission::Refused(RefusedReason::WrongKind, _)
    ));
}

#[test]
fn a_repeated_ping_0_of_a_server_that_never_got_further_is_no_restart() {
    let mut world = World::new(Kind::Plain, 2);
    world.lab_ping("s1", 0);
    let first = world.present("s1");
    world.lab_ping("s1", 0);
    assert_eq!(world.present("s1"), first);
    world.lab_ping("s1", 1);
    world.lab_ping("s1", 0);
    assert_ne!(world.present("s1"), first);
}

#[test]
fn a_server_long_dead_and_not_needed_is_forgotten_and_one_that_is_needed_is_not() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    world.kill("s3");
    world.kill("s2");
    world.pass(A_WHILE);
    world.kill("s1");
    for _ in 0..7 {
        world.now = world.now + Duration::from_secs(100);
        world.settle();
    }
    let left: Vec<_> = world.leader.state.servers().map(|server| server.name).collect();
    assert_eq!(left, [ServerName::from("s1")], "only s1 is complete; it may be waited for");
}

#[test]
fn waiting_names_the_silent_complete_server_and_the_ways_out() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.kill("s2");
    world.pass(A_WHILE);
    world.habit("s1", Habit::Silent);
    world.pass(A_WHILE);
    let waiting = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap();
    assert_eq!(waiting.for_servers, [ServerName::from("s1")]);
    assert!(waiting.advice.contains("resume it"), "{}", waiting.advice);
    world.habit("s1", Habit::Follows);
    world.pass(PING_INTERVAL * 2);
    assert_eq!(planner::waiting(&world.leader.state, &world.leader.liveness), None);
}

/// After a start of everything most servers that have not come yet are not known to have ended.
#[test]
fn waiting_for_data_on_disk_names_the_directory_first_and_the_loss_last() {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    world.kill("s2");
    world.pass(A_WHILE);
    world.habit("s1", Habit::Silent);
    world.pass(A_WHILE);
    let waiting = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap();
    assert_eq!(waiting.for_servers, [ServerName::from("s1")]);
    assert!(waiting.advice.contains("is in its data directory"), "{}", waiting.advice);
    assert!(waiting.advice.contains("only if its disk is lost"), "{}", waiting.advice);
    assert!(!waiting.advice.contains("its process still holds"), "{}", waiting.advice);
}

fn restored(storage: u8, generation: u64) -> Held {
    let epoch = Epoch { generation: Generation(generation), primary_since: ViewNumber(1) };
    let last = Position { epoch, op: OpNumber(9) };
    Held {
        storage: StorageId([storage; 16]),
        last,
        epochs: vec![EpochStart::at(last, Default::default())],
    }
}

/// A second one of a newer generation fenced the first for ever; and while the first was away for a
/// moment an empty server began the cluster, and then emptied it.
#[test]
fn a_cluster_begins_with_the_data_of_one_restored_server_or_not_at_all() {
    let mut world = World { on_disk: true, ..World::new(Kind::Full, 2) };
    assert!(world.brings("s1", restored(1, 2)));
    assert!(!world.brings("s2", restored(2, 3)), "it is told of the first");
    assert!(world.brings("s3", Held::nothing(StorageId([3; 16]))));
    world.kill("s1");
    world.habit("s3", Habit::Follows);
    world.pass(A_WHILE);
    let began = |world: &World| world.leader.state.ever_activated();
    assert!(!began(&world), "s3 holds nothing of it: {:?}", world.view());
    assert!(world.brings("s1", restored(1, 2)));
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    assert!(began(&world));
    assert_eq!(world.view().primary.unwrap().name.as_str(), "s1");
}

/// Once both were copies, the older of them could come back as the newer.
#[test]
fn a_copy_of_the_directory_of_a_server_that_lives_is_refused() {
    let mut world = World::on_disk(1, &["s1"]);
    let spare = || Held::nothing(StorageId([9; 16]));
    assert!(world.brings("s2", spare()));
    assert!(!world.brings("s3", spare()));
    world.kill("s2");
    world.pass(A_WHILE);
    assert!(world.brings("s3", spare()), "the disk has moved");
}

/// Status named a server that was there already, and the command that gave up all that its disk held.
#[test]
fn who_came_back_without_its_data_is_not_asked_to_come_back_with_it() {
    let mut world = World::on_disk(1, &["s1"]);
    world.kill("s1");
    world.pass(A_WHILE);
    assert!(world.brings("s1", Held::nothing(StorageId([8; 16]))));
    world.ping("s1");
    let advice = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap().advice;
    assert!(advice.contains("s1 came back without"), "{advice}");
    assert!(advice.contains("\"A damaged disk\""), "{advice}");
    assert!(advice.contains("--accept-data-loss`, which holds nothing"), "{advice}");
    assert!(!advice.contains("start s1"), "{advice}");
}

/// Machines that came back with other addresses were waited for twice.
#[test]
fn a_silence_is_explained_by_who_comes_with_the_name_or_with_the_storage() {
    for names in [["s1", "s2", "s3"], ["t1", "t2", "t3"]] {
        let mut world = World::on_disk(3, &["s1", "s2", "s3"]);
        let old: Vec<_> = ["s1", "s2", "s3"].map(|name| world.present(name)).into();
        let storages: Vec<_> =
            old.iter().map(|member| world.leader.state.storage(member).unwrap()).collect();
        world.restart_views();
        world.servers.clear();
        for (name, storage) in names.into_iter().zip(&storages) {
            // Who answers at the address of its storage ends its former life by that.
            world.mislead(name, NotMet::Another);
            assert!(!world.brings(name, Held::nothing(*storage)), "{name} may live");
        }
        world.pass(DEAD_AFTER);
        for (name, storage) in names.into_iter().zip(&storages) {
            assert!(world.brings(name, Held::nothing(*storage)), "{name}");
        }
    }
}

#[test]
fn too_few_complete_copies_for_writes_are_waited_for_by_number() {
    let settings = Settings { min_copies: 2, ..settings(2) };
    let mut world = World::with(Kind::Full, settings);
    let waiting = |world: &World| planner::waiting(&world.leader.state, &world.leader.liveness);
    world.start("s1");
    world.habit("s1", Habit::Zero);
    assert_eq!(waiting(&world), None, "before the first activation no copy can be missing");
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    let too_few = waiting(&world).unwrap();
    assert_eq!(too_few.for_servers, []);
    assert!(too_few.advice.contains("--min-copies 2"), "{}", too_few.advice);
    world.start("s2");
    world.pass(A_WHILE);
    assert_eq!(waiting(&world), None);
}

/// Somebody who tries things out stops the only server before the first put, and starts it again.
#[test]
fn the_advice_after_the_only_copy_is_gone_is_a_command_that_can_be_copied() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.kill("s1");
    world.start("s1");
    world.pass(A_WHILE);
    let waiting = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap();
    let command = "`kvctl force s1 --accept-data-loss`";
    assert!(waiting.advice.contains(command), "{}", waiting.advice);
    let nothing_lost = "if nothing was stored yet, that loses nothing";
    assert!(waiting.advice.contains(nothing_lost), "{}", waiting.advice);
}

/// A server that keeps dying is moved to the end of the queue, but a cluster that would be left
/// with a single copy takes it all the same.
#[test]
fn a_flapping_server_is_taken_when_nobody_else_holds_a_second_copy() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    for _ in 0..6 {
        world.kill("s2");
        world.start("s2");
        world.pass(A_WHILE);
        let view = world.view();
        assert_eq!(view.backups.len(), 1, "{view:?}");
        assert_eq!(view.eligible.len(), 2, "{view:?}");
    }
    world.start("s3");
    world.kill("s2");
    world.start("s2");
    world.pass(A_WHILE);
    assert_eq!(world.view().backups, [world.present("s3")], "who died less is taken first");
}
