//! Tails as they may stand in a log, and what becomes of their names.

use bytes::Bytes;
use kvproto::command::{Action, Change, Expect, Renamed};
use kvproto::ids::{Epoch, Generation, OpNumber, RequestNumber, ViewNumber};

use super::*;

fn position(generation: u64, view: u64, op: u64) -> Position {
    let primary_since = ViewNumber(view);
    Position {
        epoch: Epoch { generation: Generation(generation), primary_since },
        op: OpNumber(op),
    }
}

fn entry(position: Position, id: Option<RequestId>, command: Command) -> Arc<Entry> {
    Arc::new(Entry { position, at: LogTime::default(), id, command })
}

fn change(action: Action) -> Command {
    Command::Change(Change { key: Bytes::from_static(b"k"), action })
}

fn put() -> Command {
    change(Action::Put(Bytes::from_static(b"v")))
}

fn swap(expect: Expect) -> Command {
    change(Action::CompareAndSet { expect, new_value: None })
}

fn renamed(asked: u64, now: u64) -> Expect {
    Expect::Renamed(Box::new(Renamed { asked: Version(asked), now: Version(now) }))
}

fn stamp(generation: u64, op: u64) -> u64 {
    Version::of_change_at(Generation(generation), OpNumber(op)).0
}

fn by(session: u64) -> Option<RequestId> {
    let number = RequestNumber(7);
    Some(RequestId { session: SessionId(session), number, first_open: RequestNumber(5) })
}

/// Op number, session and command of everything after the barrier.
fn anew(tail: &[Arc<Entry>], barrier: Position) -> Vec<(u64, Option<u64>, Command)> {
    let ordered = ordered_anew(tail, barrier, LogTime::default());
    assert!(ordered.iter().all(|entry| entry.position.epoch == barrier.epoch));
    let parts =
        |entry: Arc<Entry>| (entry.op().0, entry.id.map(|id| id.session.0), entry.command.clone());
    ordered.into_iter().map(parts).collect()
}

/// The tail of several primaries, forced twice before it was committed.
#[test]
fn names_follow_their_ops_through_every_forced_generation() {
    let tail = [
        entry(position(1, 1, 11), None, Command::OpenSession),
        entry(position(1, 1, 12), by(stamp(1, 11)), put()),
        entry(position(1, 4, 13), None, Command::Barrier),
        entry(position(1, 4, 14), by(stamp(1, 11)), swap(Expect::Version(Version(stamp(1, 12))))),
        entry(position(1, 4, 15), by(stamp(1, 9)), swap(Expect::Version(Version(stamp(1, 10))))),
        entry(position(1, 4, 16), None, Command::CloseSession(SessionId(stamp(1, 11)))),
    ];
    let second = ordered_anew(&tail, position(2, 5, 11), LogTime::default());
    assert_eq!(
        anew(&tail, position(2, 5, 11)),
        [
            (12, None, Command::OpenSession),
            (13, Some(stamp(2, 12)), put()),
            (14, Some(stamp(2, 12)), swap(renamed(stamp(1, 12), stamp(2, 13)))),
            (15, Some(stamp(1, 9)), swap(Expect::Version(Version(stamp(1, 10))))),
            (16, None, Command::CloseSession(SessionId(stamp(2, 12)))),
        ]
    );
    // What clients of the second generation asked for stands behind it.
    let mut tail = vec![entry(position(2, 5, 11), None, Command::Barrier)];
    tail.extend(second);
    tail.push(entry(position(2, 5, 17), None, swap(Expect::Version(Version(stamp(2, 14))))));
    tail.push(entry(position(2, 5, 18), None, swap(Expect::Version(Version(stamp(1, 12))))));
    assert_eq!(
        anew(&tail, position(3, 9, 11)),
        [
            (12, None, Command::OpenSession),
            (13, Some(stamp(3, 12)), put()),
            (14, Some(stamp(3, 12)), swap(renamed(stamp(1, 12), stamp(3, 13)))),
            (15, Some(stamp(1, 9)), swap(Expect::Version(Version(stamp(1, 10))))),
            (16, None, Command::CloseSession(SessionId(stamp(3, 12)))),
            (17, None, swap(renamed(stamp(2, 14), stamp(3, 14)))),
            (18, None, swap(Expect::Version(Version(stamp(1, 12))))),
        ]
    );
}

#[test]
fn a_name_that_nothing_in_the_tail_made_before_stays_as_it_is() {
    let tail = [
        entry(position(1, 1, 11), by(stamp(1, 12)), swap(Expect::Version(Version(stamp(1, 13))))),
        entry(position(1, 1, 12), None, Command::OpenSession),
        entry(position(1, 1, 13), None, swap(renamed(stamp(1, 14), 0))),
        entry(position(1, 1, 14), None, swap(Expect::Missing)),
    ];
    let anew = anew(&tail, position(2, 2, 11));
    let before: Vec<_> = tail
        .iter()
        .map(|entry| (entry.op().0 + 1, entry.id.map(|id| id.session.0), entry.command.clone()))
        .collect();
    assert_eq!(anew, before);
}

/// A repetition of it would be hashed with the name that its client knows.
#[test]
fn the_end_of_a_session_of_the_tail_is_recorded_in_no_other_one() {
    let close = Command::CloseSession(SessionId(stamp(1, 11)));
    let tail = [
        entry(position(1, 1, 11), None, Command::OpenSession),
        entry(position(1, 1, 12), by(stamp(1, 9)), close.clone()),
        entry(position(1, 1, 13), by(stamp(1, 11)), close),
    ];
    let now = Command::CloseSession(SessionId(stamp(2, 12)));
    assert_eq!(
        anew(&tail, position(2, 2, 11))[1..],
        [(13, None, now.clone()), (14, Some(stamp(2, 12)), now)]
    );
}

#[test]
fn what_follows_an_expiry_in_its_session_is_left_out_and_all_else_stays() {
    let tail = [
        entry(position(1, 1, 11), by(stamp(1, 9)), put()),
        entry(position(1, 1, 12), None, Command::ExpireSession(SessionId(stamp(1, 9)))),
        entry(position(1, 1, 13), by(stamp(1, 9)), put()),
        entry(position(1, 1, 14), by(stamp(1, 8)), swap(Expect::Version(Version(stamp(1, 11))))),
    ];
    assert_eq!(
        anew(&tail, position(2, 2, 11)),
        [
            (12, Some(stamp(1, 9)), put()),
            (13, Some(stamp(1, 8)), swap(renamed(stamp(1, 11), stamp(2, 12)))),
        ]
    );
}
