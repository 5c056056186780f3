//! VIEW-8: what puts the state in doubt, what is refused then, and what ends it.

use kvproto::ViewOrder;

use super::*;

/// s1 and s2 hold everything; and the record after s2 was left out and s1 was alone, of which the first
/// knows nothing.
fn older_and_newer() -> (ViewState, View) {
    let mut state = state();
    let (s1, s2) = (register(&mut state, "s1"), register(&mut state, "s2"));
    let view = |state: &mut ViewState, backups: &[Member]| {
        state.apply(propose(state, &s1, backups)).unwrap();
        let (by, view) = (s1.clone(), state.view_id());
        state.apply(Command::Activate { by, view, reconciled: backups.to_vec() }).unwrap();
    };
    view(&mut state, std::slice::from_ref(&s2));
    let (by, view_id) = (s1.clone(), state.view_id());
    state.apply(Command::Synced { by, view: view_id, server: s2 }).unwrap();
    let older = state.clone();
    view(&mut state, &[]);
    (older, state.view().clone())
}

fn shown(name: &str, record: &View) -> Shown {
    Shown {
        name: name.into(),
        incarnation: Some(Incarnation(1)),
        life: LifeId::default(),
        order: record.order(),
        history: record.history,
        record: Some(Box::new(record.clone())),
    }
}

fn doubt(state: &mut ViewState, shown: Shown) -> Result<Applied, Refusal> {
    state.apply(Command::Doubt { shown })
}

#[test]
pub(in crate::assignment) fn view_8_in_doubt_the_law_refuses_all_else() {
    let (mut state, newer) = older_and_newer();
    assert_eq!(doubt(&mut state, shown("s1", &newer)), Ok(Applied::Changed));
    assert_eq!(doubt(&mut state, shown("s1", &newer)), Ok(Applied::Unchanged));
    let before = state.clone();
    let (s1, s2) = (state.present(&"s1".into()).unwrap(), state.present(&"s2".into()).unwrap());
    let view = state.view_id();
    for command in [
        Command::Register {
            name: "s3".into(),
            kind: Kind::Full,
            replaces: None,
            life: LifeId::default(),
            held: None,
        },
        Command::Forget { server: s2.clone() },
        Command::Adopted { by: s1.clone() },
        propose(&state, &s2, std::slice::from_ref(&s1)),
        Command::Activate { by: s1.clone(), view, reconciled: Vec::new() },
        Command::Synced { by: s1.clone(), view, server: s2.clone() },
        Command::Heard { by: s1.clone(), view, committed: OpNumber(7) },
        Command::Force { after: view, server: s1.clone() },
    ] {
        assert_eq!(state.apply(command.clone()), Err(Refusal::InDoubt), "{command:?}");
    }
    assert_eq!(state, before);
}

#[test]
fn view_8_what_is_of_this_past_or_of_none_proves_nothing() {
    let (mut state, newer) = older_and_newer();
    let own = state.view().clone();
    let mut given_up = newer.clone();
    given_up.generation = Generation(0);
    let of_another = View { cluster: ClusterId([9; 16]), ..newer.clone() };
    let endless = View { number: ViewNumber(u64::MAX), ..newer.clone() };
    let mut never_given = shown("s1", &newer);
    never_given.incarnation = Some(Incarnation(u64::MAX));
    let ghost = Member { name: "s9".into(), incarnation: Incarnation(u64::MAX) };
    let beyond = View { backups: vec![ghost], ..newer.clone() };
    for shown in [
        shown("s1", &own),
        shown("s1", &of_another),
        shown("s1", &endless),
        shown("s1", &beyond),
        never_given,
    ] {
        let refused = Err(Refusal::ProvesNothing("s1".into()));
        assert_eq!(doubt(&mut state, shown.clone()), refused, "{shown:?}");
    }
    let (after, server) = (state.view_id(), state.present(&"s1".into()).unwrap());
    state.apply(Command::Force { after, server }).unwrap();
    assert!(!state.contradicts(given_up.order(), given_up.history), "an older generation");
    assert_eq!(state.doubt(), None);
    let whom =
        Believed { name: "s1".into(), incarnation: None, life: LifeId::default(), storage: None };
    let believe = Command::Believe { after: state.view_id(), whom };
    assert_eq!(state.apply(believe), Err(Refusal::NoDoubt));
}

#[test]
fn view_8_a_doubt_is_bounded_and_ends_above_all_that_was_ever_shown() {
    let (mut state, newer) = older_and_newer();
    for number in 0..500_u64 {
        let order = ViewOrder { number: ViewNumber(100 + number), ..newer.order() };
        let ghost = Member { name: "ghost".into(), incarnation: Incarnation(1_000 + number) };
        let mut record = View { number: order.number, backups: vec![ghost], ..newer.clone() };
        record.eligible = (0..number)
            .map(|it| Member {
                name: format!("e{it}").into(),
                incarnation: Incarnation(2_000 + it),
            })
            .collect();
        doubt(&mut state, shown(&format!("s{number}"), &record)).unwrap();
    }
    let kept = state.doubt().unwrap();
    assert_eq!(kept.shown().count(), 64);
    assert!(kept.shown().all(|it| it.order.number > ViewNumber(500)), "the newest");
    let before = state.view().clone();
    let whom =
        Believed { name: "s7".into(), incarnation: None, life: LifeId([7; 16]), storage: None };
    let after = state.view_id();
    state.apply(Command::Believe { after, whom }).unwrap();
    let view = state.view();
    assert!(view.number > ViewNumber(599) && view.generation == before.generation.next());
    assert!(view.primary.as_ref().unwrap().incarnation > Incarnation(2_498));
    assert_eq!(state.doubt(), None);
}

/// The number that a living server has was given to another one since.
#[test]
fn view_8_a_living_server_keeps_its_number_and_nobody_else_has_it() {
    let (mut state, newer) = older_and_newer();
    let s3 = register(&mut state, "s3");
    doubt(&mut state, shown("s4", &newer)).unwrap();
    let (after, life) = (state.view_id(), LifeId([4; 16]));
    let storage = Some(Storage::of(&Held::nothing(StorageId([4; 16]))));
    let whom = Believed { name: "s4".into(), incarnation: Some(s3.incarnation), life, storage };
    let durable = Command::Believe { after, whom: whom.clone() };
    assert_eq!(state.apply(durable), Err(Refusal::WrongMode(Mode::InMemory)));
    state.apply(Command::Believe { after, whom: Believed { storage: None, ..whom } }).unwrap();
    let s4 = Member { name: "s4".into(), incarnation: s3.incarnation };
    assert!(state.view().is_primary(&s4) && state.is_present(&s4) && !state.is_present(&s3));
    assert_eq!(state.life(&s4), Some(life));
}

/// A state to which nobody ever came may be one that was put back as well.
#[test]
fn view_8_an_untouched_state_can_be_in_doubt() {
    let (_, newer) = older_and_newer();
    let mut state = state();
    assert!(state.is_untouched());
    doubt(&mut state, shown("s1", &newer)).unwrap();
    assert!(!state.is_untouched());
    let (after, life) = (state.view_id(), LifeId::default());
    let name = "s1".into();
    let whom = Believed { name, incarnation: Some(Incarnation(1)), life, storage: None };
    state.apply(Command::Believe { after, whom }).unwrap();
    assert!(state.ever_activated() && state.view().number > newer.number);
}
