//! Servers that come back with their data (VIEW-6).

use kvproto::{EpochStart, Position};

use super::*;

const A: StorageId = StorageId([0xa; 16]);
const B: StorageId = StorageId([0xb; 16]);

fn begin(state: &mut ViewState, name: &str, mut held: Held) -> Member {
    let epoch = state.view().epoch();
    for start in held.epochs.iter_mut().filter(|start| start.epoch == epoch) {
        start.history = state.view().began;
    }
    let replaces = state.present(&name.into()).map(|member| member.incarnation);
    let name = name.into();
    let command = Command::Register {
        name,
        kind: Kind::Full,
        replaces,
        life: LifeId::default(),
        held: Some(held),
    };
    match state.apply(command) {
        Ok(Applied::Registered(member)) => member,
        other => panic!("not registered: {other:?}"),
    }
}

/// A log through this op, ordered in these views of generation 1.
fn log(storage: StorageId, views: &[u64], op: u64) -> Held {
    let epoch = |view: &u64| Epoch { generation: Generation(1), primary_since: ViewNumber(*view) };
    let start = |view| EpochStart { epoch: epoch(view), ..EpochStart::default() };
    let epochs: Vec<_> = views.iter().map(start).collect();
    let last = Position { epoch: epochs.last().unwrap().epoch, op: OpNumber(op) };
    Held { storage, last, epochs }
}

fn activate(state: &mut ViewState, by: &Member, reconciled: &[Member]) {
    let view = state.view_id();
    let command = Command::Activate { by: by.clone(), view, reconciled: reconciled.to_vec() };
    state.apply(command).unwrap();
}

/// View 2: `a` leads, `b` is a complete backup; through op 10 is known to be committed.
fn pair() -> (ViewState, Member, Member) {
    let mut state = state();
    let a = begin(&mut state, "a", Held::nothing(A));
    let b = begin(&mut state, "b", Held::nothing(B));
    let first = propose(&state, &a, &[]);
    state.apply(first).unwrap();
    activate(&mut state, &a, &[]);
    let both = propose(&state, &a, std::slice::from_ref(&b));
    state.apply(both).unwrap();
    activate(&mut state, &a, &[]);
    let (view, server) = (state.view_id(), b.clone());
    state.apply(Command::Synced { by: a.clone(), view, server }).unwrap();
    let heard = Command::Heard { by: a.clone(), view, committed: OpNumber(10) };
    state.apply(heard).unwrap();
    (state, a, b)
}

#[test]
fn view_6_a_backup_that_comes_back_with_its_data_is_the_member_that_it_was() {
    let (mut state, a, b) = pair();
    let before = state.view().clone();
    let again = begin(&mut state, "b", log(B, &[1], 10));
    let after = state.view();
    assert!(after.revision > before.revision, "everybody hears of the new life");
    assert_eq!(after.backups, std::slice::from_ref(&b), "of which the view knows nothing");
    assert_eq!(after.eligible, BTreeSet::from([a.clone(), again.clone()]));
    assert!(!state.is_present(&b));
    // A late word about its former life changes nothing.
    let (view, server) = (state.view_id(), b);
    let late = state.apply(Command::Synced { by: a.clone(), view, server });
    assert!(matches!(late, Err(Refusal::NotPresent(_))), "{late:?}");
    let proposal = propose(&state, &a, std::slice::from_ref(&again));
    state.apply(proposal).unwrap();
    activate(&mut state, &a, std::slice::from_ref(&again));
    assert_eq!(state.view().eligible, BTreeSet::from([a, again]), "it never left");
}

#[test]
pub(in crate::assignment) fn view_6_a_primary_that_comes_back_with_its_data_leads_only_in_a_new_epoch()
 {
    let (mut state, a, b) = pair();
    let epoch = state.view().epoch();
    let again = begin(&mut state, "a", log(A, &[1], 12));
    assert!(state.view().is_primary(&a) && !state.is_present(&a));
    assert_eq!(state.view().eligible, BTreeSet::from([again.clone(), b.clone()]));
    let (view, reconciled) = (state.view_id(), vec![b.clone()]);
    let late = state.apply(Command::Activate { by: a, view, reconciled });
    assert!(matches!(late, Err(Refusal::NotPresent(_))), "{late:?}");
    let proposal = propose(&state, &again, &[b]);
    state.apply(proposal).unwrap();
    assert!(state.view().epoch() > epoch);
}

#[test]
pub(in crate::assignment) fn view_6_data_that_lacks_something_acknowledged_is_not_the_members() {
    for (held, why) in [
        (log(StorageId([7; 16]), &[1], 10), "a storage that was never eligible"),
        (log(B, &[1], 9), "an op that was said to be committed is missing"),
        (log(B, &[2], 10), "the barrier of the last activated epoch is missing"),
        (Held::nothing(B), "nothing left, or damaged"),
    ] {
        let (mut state, _, b) = pair();
        let mut complete = log(B, &[1], 10);
        complete.epochs[0].history = state.view().began;
        let member = begin(&mut state, "b", held);
        assert!(!state.view().eligible.contains(&member), "{why}");
        assert!(state.view().eligible.contains(&b), "the former life is still waited for");
        assert_eq!(state.left_by(&complete), Some(&b), "whole, it would be the member: {why}");
    }
}

#[test]
pub(in crate::assignment) fn view_6_of_everybody_who_comes_back_after_a_power_cut_only_the_eligible_may_lead()
 {
    let (mut state, a, b) = pair();
    // b is left out, then the power goes.
    let alone = propose(&state, &a, &[]);
    state.apply(alone).unwrap();
    activate(&mut state, &a, &[]);
    let former = begin(&mut state, "b", log(B, &[1], 400));
    let refused = propose(&state, &former, &[]);
    assert_eq!(state.apply(refused), Err(Refusal::NotEligible(former)), "however much it holds");
    let again = begin(&mut state, "a", log(A, &[1], 11));
    let proposal = propose(&state, &again, &[]);
    state.apply(proposal).unwrap();
    assert!(!state.is_present(&b) && state.view().is_primary(&again));
}

/// A forced server may hold less or more than when it came, and its disk may have failed since. Until
/// its generation is activated nobody can tell: it takes another decision of the operator.
#[test]
fn view_6_a_forced_server_does_not_come_back_before_its_generation_has_begun() {
    for activated in [false, true] {
        let (mut state, ..) = pair();
        let forced = begin(&mut state, "b", log(B, &[1], 10));
        let (after, server) = (state.view_id(), forced.clone());
        state.apply(Command::Force { after, server }).unwrap();
        let mut held = log(B, &[1], 10);
        if activated {
            activate(&mut state, &forced, &[]);
            held.last.epoch = state.view().epoch();
            let start = EpochStart { epoch: held.last.epoch, ..EpochStart::default() };
            held.epochs.push(start);
        }
        let again = begin(&mut state, "b", held);
        let eligible = if activated { again } else { forced };
        assert_eq!(state.view().eligible, BTreeSet::from([eligible]));
    }
}

#[test]
fn view_6_a_disk_that_moved_to_another_address_is_the_same_storage() {
    let (mut state, a, b) = pair();
    let moved = begin(&mut state, "c", log(B, &[1], 10));
    assert_eq!(state.view().eligible, BTreeSet::from([a.clone(), moved.clone()]));
    assert!(state.present(&"b".into()).is_none(), "its former address holds nothing any more");
    assert_eq!(state.view().backups, [b], "a view names addresses: only a new one names the new");
    let proposal = propose(&state, &a, std::slice::from_ref(&moved));
    state.apply(proposal).unwrap();
    activate(&mut state, &a, std::slice::from_ref(&moved));
    assert_eq!(state.view().eligible, BTreeSet::from([a, moved]));
}

#[test]
fn the_first_server_decides_where_the_data_is_kept() {
    let (mut durable, ..) = pair();
    let memory = |replaces| Command::Register {
        name: "m".into(),
        kind: Kind::Full,
        replaces,
        life: LifeId::default(),
        held: None,
    };
    assert_eq!(durable.apply(memory(None)), Err(Refusal::WrongMode(Mode::Durable)));
    let mut in_memory = state();
    in_memory.apply(memory(None)).unwrap();
    let held = Some(Held::nothing(A));
    let other = Command::Register {
        name: "a".into(),
        kind: Kind::Full,
        replaces: None,
        life: LifeId::default(),
        held,
    };
    assert_eq!(in_memory.apply(other), Err(Refusal::WrongMode(Mode::InMemory)));
}

#[test]
fn restored_data_begins_a_generation_of_its_own() {
    let mut state = state();
    let mut restored = log(A, &[7], 300);
    restored.last.epoch.generation = Generation(4);
    let empty = begin(&mut state, "b", Held::nothing(B));
    let a = begin(&mut state, "a", restored);
    assert!(state.began_with_data(&a) && !state.began_with_data(&empty));
    let proposal = propose(&state, &a, &[]);
    state.apply(proposal).unwrap();
    assert_eq!((state.view().generation, state.view().number), (Generation(5), ViewNumber(1)));
    activate(&mut state, &a, &[]);
    let both = propose(&state, &a, &[empty]);
    state.apply(both).unwrap();
    assert_eq!(state.view().generation, Generation(5), "it rises once");
}
