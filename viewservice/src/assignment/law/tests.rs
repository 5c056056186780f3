//! What the law refuses, command by command.

use super::*;

pub(in crate::assignment) mod doubt;
pub(in crate::assignment) mod returning;

fn state() -> ViewState {
    ViewState::new(ClusterId([1; 16]), Settings::default())
}

fn register(state: &mut ViewState, name: &str) -> Member {
    let replaces = state.present(&name.into()).map(|member| member.incarnation);
    let command = Command::Register {
        name: name.into(),
        kind: Kind::Full,
        replaces,
        life: LifeId::default(),
        held: None,
    };
    match state.apply(command) {
        Ok(Applied::Registered(member)) => member,
        other => panic!("{name} was not registered: {other:?}"),
    }
}

fn propose(state: &ViewState, primary: &Member, backups: &[Member]) -> Command {
    Command::Propose { after: state.view_id(), primary: primary.clone(), backups: backups.to_vec() }
}

#[test]
fn view_1_the_same_configuration_is_no_new_view_even_in_another_order() {
    let mut state = state();
    let (a, b, c) =
        (register(&mut state, "a"), register(&mut state, "b"), register(&mut state, "c"));
    let command = propose(&state, &a, &[b.clone(), c.clone()]);
    state.apply(command).unwrap();
    let again = propose(&state, &a, &[c, b]);
    assert_eq!(state.apply(again), Err(Refusal::SameView));
}

#[test]
fn a_proposal_based_on_an_older_view_changes_nothing() {
    let mut state = state();
    let (a, b) = (register(&mut state, "a"), register(&mut state, "b"));
    let first = propose(&state, &a, &[]);
    let rival = propose(&state, &b, &[]);
    state.apply(first.clone()).unwrap();
    let after = state.clone();
    for late in [rival, first] {
        assert!(matches!(state.apply(late), Err(Refusal::Overtaken { .. })));
        assert_eq!(state, after);
    }
}

#[test]
fn nobody_stands_twice_in_a_view() {
    let mut state = state();
    let (a, b) = (register(&mut state, "a"), register(&mut state, "b"));
    for backups in [vec![a.clone()], vec![b.clone(), b.clone()]] {
        let command = propose(&state, &a, &backups);
        assert!(matches!(state.apply(command), Err(Refusal::Twice(_))));
    }
}

#[test]
fn incarnations_are_never_given_again_even_to_a_forgotten_name() {
    let mut state = state();
    let a = register(&mut state, "a");
    let b = register(&mut state, "b");
    state.apply(Command::Forget { server: a.clone() }).unwrap();
    let again = register(&mut state, "a");
    assert!(again.incarnation > b.incarnation);
    assert_eq!(state.apply(Command::Forget { server: a.clone() }), Err(Refusal::NotPresent(a)));
}

#[test]
fn a_member_of_the_view_is_not_forgotten() {
    let mut state = state();
    let a = register(&mut state, "a");
    let command = propose(&state, &a, &[]);
    state.apply(command).unwrap();
    let command = Command::Forget { server: a.clone() };
    assert_eq!(state.apply(command), Err(Refusal::StillNeeded(a)));
}

#[test]
fn names_and_numbers_of_servers_are_bounded() {
    let mut state = state();
    for name in [String::new(), "x".repeat(NAME_SIZE_MAX + 1)] {
        let command = Command::Register {
            name: name.into(),
            kind: Kind::Plain,
            replaces: None,
            life: LifeId::default(),
            held: None,
        };
        assert_eq!(state.apply(command), Err(Refusal::BadName));
    }
    for number in 0..SERVERS_MAX {
        register(&mut state, &format!("s{number}"));
    }
    let command = Command::Register {
        name: "one more".into(),
        kind: Kind::Full,
        replaces: None,
        life: LifeId::default(),
        held: None,
    };
    assert_eq!(state.apply(command), Err(Refusal::TooManyServers));
    register(&mut state, "s7");
}

#[test]
fn the_highest_committed_op_is_remembered_within_a_generation() {
    let mut state = state();
    let a = register(&mut state, "a");
    let command = propose(&state, &a, &[]);
    state.apply(command).unwrap();
    let heard = |state: &ViewState, op: u64| Command::Heard {
        by: a.clone(),
        view: state.view_id(),
        committed: OpNumber(op),
    };
    let command = heard(&state, 4);
    assert_eq!(state.apply(command), Err(Refusal::NotActivated));
    let command = Command::Force { after: state.view_id(), server: a.clone() };
    assert_eq!(state.apply(command.clone()), Err(Refusal::NothingToForce));
    let activate =
        Command::Activate { by: a.clone(), view: state.view_id(), reconciled: Vec::new() };
    state.apply(activate).unwrap();
    for (op, known) in [(4, 4), (3, 4), (9, 9)] {
        let command = heard(&state, op);
        state.apply(command).unwrap();
        assert_eq!(state.committed_heard(), OpNumber(known));
    }
    let old = state.view().clone();
    state.apply(command).unwrap();
    assert_eq!(state.committed_heard(), OpNumber(0));
    assert!(state.view().epoch() > old.epoch());
}

/// A small generator, so that the seed alone says what happened.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Whatever is proposed, by whom and however late: the invariants (asserted by `apply`) hold, and
/// the state is the same wherever the commands are replayed.
#[test]
fn no_order_of_commands_breaks_an_invariant() {
    for seed in 1..=200_u64 {
        println!("seed {seed}: replay with `for seed in [{seed}]`");
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut state = state();
        let mut lives: Vec<Member> = Vec::new();
        let mut ids = vec![state.view_id()];
        let mut applied = Vec::new();
        for _ in 0..300 {
            let names = ["a", "b", "c", "d"];
            let life = |dice: &mut Dice| match lives.len() {
                0 => Member::default(),
                all if dice.roll(3) == 0 => lives[dice.roll(all)].clone(),
                _ => {
                    let name = ServerName::from(names[dice.roll(4)]);
                    state.present(&name).unwrap_or_default()
                }
            };
            let view = match dice.roll(4) {
                0 => ids[dice.roll(ids.len())],
                _ => state.view_id(),
            };
            let primary = match dice.roll(2) {
                0 => life(&mut dice),
                _ => state.view().primary.clone().unwrap_or_default(),
            };
            let some = |dice: &mut Dice| (0..dice.roll(3)).map(|_| life(dice)).collect::<Vec<_>>();
            let command = match dice.roll(9) {
                0 => {
                    let name = ServerName::from(names[dice.roll(4)]);
                    let replaces = state.present(&name).map(|member| member.incarnation);
                    Command::Register {
                        name,
                        kind: Kind::Full,
                        replaces,
                        life: LifeId::default(),
                        held: None,
                    }
                }
                1 => Command::Forget { server: life(&mut dice) },
                2..=4 => Command::Propose { after: view, primary, backups: some(&mut dice) },
                5 => Command::Activate { by: primary, view, reconciled: some(&mut dice) },
                6 => Command::Synced { by: primary, view, server: life(&mut dice) },
                7 if dice.roll(20) == 0 => Command::Force { after: view, server: life(&mut dice) },
                7 => Command::Adopted { by: life(&mut dice) },
                _ => Command::Heard { by: primary, view, committed: OpNumber(dice.0 % 50) },
            };
            applied.push(command.clone());
            if let Ok(Applied::Registered(member)) = state.apply(command) {
                lives.push(member);
            }
            if ids.last() != Some(&state.view_id()) {
                ids.push(state.view_id());
            }
        }
        let mut replayed = ViewState::new(ClusterId([1; 16]), Settings::default());
        for command in applied {
            let _same_refusals = replayed.apply(command);
        }
        assert_eq!(replayed, state, "seed {seed}");
    }
}

/// A view service that is put back to an older state goes on with another past, also where the same
/// servers come in the same order: the processes are others.
#[test]
fn a_record_tells_which_past_it_is_of() {
    let begin = |state: &mut ViewState, name: &str, life: u8| {
        let replaces = state.present(&name.into()).map(|member| member.incarnation);
        let (name, life) = (name.into(), LifeId([life; 16]));
        let command = Command::Register { name, kind: Kind::Full, replaces, life, held: None };
        state.apply(command).expect("registered");
        state.view().clone()
    };
    let mut state = state();
    let first = begin(&mut state, "s1", 1);
    let mut put_back = state.clone();
    let newer = begin(&mut state, "s1", 2);
    assert!(state.went_through(first.revision, first.history));
    assert!(state.went_through(newer.revision, newer.history));
    assert!(!put_back.went_through(newer.revision, newer.history), "it knows no such revision");
    let other = begin(&mut put_back, "s1", 3);
    assert_eq!((other.order(), other.members().count()), (newer.order(), 0));
    assert!(!put_back.went_through(newer.revision, newer.history), "it knows another one");
    assert!(put_back.went_through(first.revision, first.history));
}

/// What is older than what is remembered cannot be told apart, and counts as this past.
#[test]
fn only_so_much_of_the_past_is_remembered() {
    let mut past = Past::founding(History([0; 16]));
    for _ in 0..PAST_KEPT {
        past.push(History([1; 16]));
    }
    assert!(past.includes(Revision(0), History([9; 16])), "forgotten");
    assert!(!past.includes(Revision(1), History([9; 16])), "remembered");
    assert!(past.includes(Revision(1), History([1; 16])));
}
