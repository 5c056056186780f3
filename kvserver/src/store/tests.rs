//! One test per rule. The random comparison with a plain model is in [`twin`].

mod twin;

use bytes::Bytes;
use kvproto::command::{Action, Change, Changed, Expect, SESSION_WINDOW};
use kvproto::convert::RecordsWriter;
use kvproto::ids::{ClusterId, Epoch, Generation, RequestNumber, ViewNumber};
use kvproto::message::{AnswerRecord, SessionRecord};
use kvproto::snapshot::{Check, Item as Part, SnapshotEnd, SnapshotHead};

use super::*;

const LIMITS: StoreLimits = StoreLimits { value_size_max: 32, sessions_max: 3 };

/// A store and the end of its log.
struct Fixture {
    store: Store,
    next: OpNumber,
    generation: Generation,
    at: LogTime,
}

impl Fixture {
    fn new() -> Self {
        Fixture {
            store: Store::new(LIMITS, Items::default()),
            next: OpNumber(1),
            generation: Generation(1),
            at: LogTime::from_millis(10),
        }
    }

    fn ordered(&mut self, id: Option<RequestId>, command: Command) -> Outcome {
        let epoch = Epoch { generation: self.generation, primary_since: ViewNumber(1) };
        let position = Position { epoch, op: self.next };
        self.next = self.next.next();
        let entry = Entry { position, at: self.at, id, command };
        let outcome = self.store.apply(&entry);
        self.store.check_invariants();
        outcome
    }

    fn plain(&mut self, command: Command) -> Outcome {
        self.ordered(None, command)
    }

    fn open(&mut self) -> SessionId {
        match self.plain(Command::OpenSession) {
            Outcome::SessionOpened(id) => id,
            other => panic!("no session: {other:?}"),
        }
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        self.store.query(&Query::Get(vec![bytes(key)]))[0].clone().map(|record| record.value)
    }

    /// A store filled by a scan of this one in the smallest chunks, whose log goes on the same. The
    /// chunks alone tell the digest too.
    fn transferred(&mut self) -> Fixture {
        let scan = self.store.begin_scan();
        let mut store = Store::new(LIMITS, Items::default());
        let (mut check, mut chunks) = (Check::default(), 0);
        let (at, keys) = (Position::default(), self.store.key_count() as u64);
        check.take(&Part::Head(SnapshotHead { cluster: ClusterId::default(), at, keys })).unwrap();
        while let Some(chunk) = self.store.next_chunk(scan, 1) {
            assert_eq!(records(&chunk).count(), 1);
            store.install(&chunk).unwrap();
            check.take(&Part::Block(chunk)).unwrap();
            chunks += 1;
        }
        store.check_invariants();
        let digest = store.digest();
        assert_eq!(digest, self.store.digest());
        let end = SnapshotEnd { epochs: Vec::new(), log_time: self.at, digest, chunks };
        check.take(&Part::End(end)).unwrap();
        Fixture { store, next: self.next, generation: self.generation, at: self.at }
    }
}

/// Every item, in key order.
fn contents(store: &Store) -> Vec<Vec<u8>> {
    store.items().map(|item| item.contents().to_vec()).collect()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn change(key: &str, action: Action) -> Change {
    Change { key: bytes(key), action }
}

fn put(key: &str, value: &str) -> Command {
    Command::Change(change(key, Action::Put(bytes(value))))
}

fn append(key: &str, suffix: &str) -> Command {
    Command::Change(change(key, Action::Append(bytes(suffix))))
}

fn cas(key: &str, expect: Expect, new_value: Option<&str>) -> Command {
    Command::Change(change(key, Action::CompareAndSet { expect, new_value: new_value.map(bytes) }))
}

fn request(session: SessionId, number: u64, first_open: u64) -> Option<RequestId> {
    let (number, first_open) = (RequestNumber(number), RequestNumber(first_open));
    Some(RequestId { session, number, first_open })
}

fn version(op: u64) -> Version {
    Version::of_change_at(Generation(1), OpNumber(op))
}

fn changed(op: u64, existed: bool, length: u64) -> Outcome {
    Outcome::Changed(Changed { version: version(op), existed, length })
}

fn refused<T>(refusal: Refusal) -> Result<T, Refusal> {
    Err(refusal)
}

/// The outcome as a result, for comparisons that read well.
fn result(outcome: Outcome) -> Result<Outcome, Refusal> {
    match outcome {
        Outcome::Refused(refusal) => Err(refusal),
        done => Ok(done),
    }
}

#[test]
fn a_put_a_delete_and_an_append_say_what_they_did() {
    let mut f = Fixture::new();
    assert_eq!(f.plain(put("a", "one")), changed(1, false, 3));
    assert_eq!(f.plain(append("a", "+two")), changed(2, true, 7));
    assert_eq!(f.value("a"), Some(bytes("one+two")));
    assert_eq!(f.plain(put("a", "")), changed(3, true, 0));
    assert_eq!(f.value("a"), Some(bytes("")), "an empty value is a value");
    let delete = Command::Change(change("a", Action::Delete));
    assert_eq!(f.plain(delete.clone()), changed(4, true, 0));
    assert_eq!(f.value("a"), None);
    assert_eq!(f.plain(delete), changed(5, false, 0));
    assert_eq!(f.plain(append("b", "x")), changed(6, false, 1));
    assert_eq!(f.plain(Command::Barrier(Default::default())), Outcome::Barrier);
    assert_eq!(f.store.key_count(), 1);
}

#[test]
fn a_compare_and_set_holds_for_missing_value_and_version() {
    let mut f = Fixture::new();
    assert_eq!(f.plain(cas("a", Expect::Missing, Some("1"))), changed(1, false, 1));
    assert_eq!(f.plain(cas("a", Expect::Value(bytes("1").into()), Some("2"))), changed(2, true, 1));
    assert_eq!(f.plain(cas("a", Expect::Version(version(2)), None)), changed(3, true, 0));
    assert_eq!(f.value("a"), None);
}

#[test]
fn a_failed_condition_changes_nothing_and_says_what_is_there() {
    let mut f = Fixture::new();
    f.plain(put("a", "1"));
    let before = f.store.digest();
    let record = Some(Record { value: bytes("1"), version: version(1) });
    for expect in [Expect::Missing, Expect::Value(bytes("2").into()), Expect::Version(version(9))] {
        assert_eq!(
            result(f.plain(cas("a", expect, Some("3")))),
            refused(Refusal::ConditionFailed { record: record.clone(), change: 0 })
        );
    }
    assert_eq!(
        result(f.plain(cas("b", Expect::Value(bytes("").into()), Some("3")))),
        refused(Refusal::ConditionFailed { record: None, change: 0 })
    );
    assert_eq!(f.store.digest(), before);
}

#[test]
fn an_append_whose_result_is_too_large_is_refused_inside_the_op() {
    let mut f = Fixture::new();
    f.plain(put("a", &"x".repeat(30)));
    let before = f.store.digest();
    assert_eq!(
        result(f.plain(append("a", "123"))),
        refused(Refusal::TooLarge { size: 33, size_max: 32, change: 0 })
    );
    assert_eq!(f.store.digest(), before);
    assert_eq!(f.plain(append("a", "12")), changed(3, true, 32), "the limit itself is allowed");
}

#[test]
fn a_batch_sees_its_own_changes_and_gives_them_one_version() {
    let mut f = Fixture::new();
    let outcome = f.plain(Command::Batch(vec![
        change("a", Action::Put(bytes("1"))),
        change("a", Action::Append(bytes("2"))),
        change("a", Action::Append(bytes("3"))),
        change("a", Action::CompareAndSet { expect: Expect::Version(version(1)), new_value: None }),
        change("b", Action::CompareAndSet { expect: Expect::Missing, new_value: Some(bytes("b")) }),
        change("c", Action::Delete),
    ]));
    let of = |existed, length| Changed { version: version(1), existed, length };
    assert_eq!(
        outcome,
        Outcome::BatchChanged(vec![
            of(false, 1),
            of(true, 2),
            of(true, 3),
            of(true, 0),
            of(false, 1),
            of(false, 0)
        ])
    );
    assert_eq!((f.value("a"), f.value("b")), (None, Some(bytes("b"))));
}

#[test]
fn a_batch_that_fails_anywhere_changes_nothing_and_shows_nothing_of_itself() {
    let mut f = Fixture::new();
    f.plain(put("a", "old"));
    let before = f.store.digest();
    let overwrite = change("a", Action::Put(bytes("new")));
    let expect_old =
        Action::CompareAndSet { expect: Expect::Value(bytes("old").into()), new_value: None };
    assert_eq!(
        result(f.plain(Command::Batch(vec![overwrite.clone(), change("a", expect_old)]))),
        refused(Refusal::ConditionFailed {
            record: Some(Record { value: bytes("old"), version: version(1) }),
            change: 1
        })
    );
    let too_large = change("b", Action::Put(bytes(&"x".repeat(33))));
    assert_eq!(
        result(f.plain(Command::Batch(vec![overwrite, too_large]))),
        refused(Refusal::TooLarge { size: 33, size_max: 32, change: 1 })
    );
    assert_eq!(f.store.digest(), before);
}

#[test]
fn versions_rise_across_generations_that_reuse_op_numbers() {
    let mut f = Fixture::new();
    f.plain(put("a", "1"));
    f.generation = Generation(2);
    let Outcome::Changed(again) = f.plain(put("a", "1")) else { panic!("a put is not refused") };
    assert_eq!(again.version, Version::of_change_at(Generation(2), OpNumber(2)));
    assert!(again.version > version(u64::MAX >> 16));
}

#[test]
fn a_repeated_request_is_applied_once_and_answered_the_same() {
    let mut f = Fixture::new();
    let session = f.open();
    let id = request(session, 1, 1);
    assert_eq!(f.store.remembered(&id.unwrap(), &append("a", "x")), None);
    let first = f.ordered(id, append("a", "x"));
    assert_eq!(first, changed(2, false, 1));
    let before = f.store.digest();
    assert_eq!(f.store.remembered(&id.unwrap(), &append("a", "x")), Some(first.clone()));
    assert_eq!(f.ordered(id, append("a", "x")), first);
    assert_eq!(f.value("a"), Some(bytes("x")));
    assert_eq!(f.store.digest(), before, "a repetition leaves no trace");
}

#[test]
fn s2_k_a_retried_put_is_not_applied_after_a_newer_one() {
    let mut f = Fixture::new();
    let session = f.open();
    let first = f.ordered(request(session, 1, 1), put("k", "old"));
    f.ordered(request(session, 2, 1), put("k", "new"));
    // AnswersTravelWithData: the copy that takes over after a transfer knows the retry as well.
    for mut f in [f.transferred(), f] {
        assert_eq!(f.ordered(request(session, 1, 1), put("k", "old")), first);
        assert_eq!(f.value("k"), Some(bytes("new")));
        f.ordered(request(session, 3, 3), put("j", "1"));
        assert_eq!(
            result(f.ordered(request(session, 1, 1), put("k", "old"))),
            refused(Refusal::StaleRequest { floor: RequestNumber(3) })
        );
        assert_eq!(f.value("k"), Some(bytes("new")));
    }
}

#[test]
fn a_refusal_of_the_command_is_remembered_even_when_it_would_succeed_later() {
    let mut f = Fixture::new();
    let session = f.open();
    f.plain(put("a", "1"));
    let create = cas("a", Expect::Missing, Some("2"));
    let failed = f.ordered(request(session, 1, 1), create.clone());
    assert!(matches!(failed, Outcome::Refused(Refusal::ConditionFailed { .. })));
    f.plain(Command::Change(change("a", Action::Delete)));
    for mut f in [f.transferred(), f] {
        assert_eq!(f.ordered(request(session, 1, 1), create.clone()), failed);
        assert_eq!(f.value("a"), None);
    }
}

#[test]
fn a_number_used_for_another_command_is_refused_and_keeps_its_answer() {
    let mut f = Fixture::new();
    let session = f.open();
    let id = request(session, 1, 1);
    let first = f.ordered(id, put("a", "1"));
    assert_eq!(result(f.ordered(id, put("a", "2"))), refused(Refusal::RequestReused));
    assert_eq!(
        f.store.remembered(&id.unwrap(), &put("a", "2")),
        Some(Outcome::Refused(Refusal::RequestReused))
    );
    assert_eq!(f.value("a"), Some(bytes("1")));
    assert_eq!(f.ordered(id, put("a", "1")), first);
}

#[test]
fn a_request_of_an_unknown_session_is_refused_as_expired() {
    let mut f = Fixture::new();
    let session = SessionId(77);
    assert_eq!(
        result(f.ordered(request(session, 1, 1), put("a", "1"))),
        refused(Refusal::SessionExpired)
    );
    assert_eq!(f.value("a"), None);
    assert!(!f.store.has_session(session));
}

#[test]
fn the_window_counts_from_the_raised_floor() {
    let mut f = Fixture::new();
    let session = f.open();
    let full = || refused(Refusal::WindowFull);
    assert_eq!(result(f.ordered(request(session, 1 + SESSION_WINDOW, 1), put("a", "1"))), full());
    assert_eq!(f.value("a"), None);
    f.ordered(request(session, SESSION_WINDOW, 1), put("a", "last of the window"));
    f.ordered(request(session, 1 + SESSION_WINDOW, 2), put("a", "2"));
    assert_eq!(
        result(f.ordered(request(session, 1, 1), put("a", "below"))),
        refused(Refusal::StaleRequest { floor: RequestNumber(2) })
    );
    let far = request(session, u64::MAX, 1);
    assert_eq!(result(f.ordered(far, put("a", "far"))), full());
    assert_eq!(
        result(f.ordered(request(session, 0, 0), put("a", "zero"))),
        refused(Refusal::StaleRequest { floor: RequestNumber(2) })
    );
}

#[test]
fn a_floor_beyond_the_request_itself_stops_at_it() {
    let mut f = Fixture::new();
    let session = f.open();
    let id = request(session, 5, 99);
    let first = f.ordered(id, put("a", "1"));
    assert_eq!(f.ordered(id, put("a", "1")), first);
    assert_eq!(
        result(f.ordered(request(session, 4, 1), put("a", "2"))),
        refused(Refusal::StaleRequest { floor: RequestNumber(5) })
    );
}

#[test]
fn sessions_end_by_closing_and_by_expiry_and_their_answers_with_them() {
    let mut f = Fixture::new();
    let (one, two) = (f.open(), f.open());
    assert_eq!(f.store.sessions().collect::<Vec<_>>(), [one, two]);
    f.ordered(request(one, 1, 1), put("a", "1"));
    let closed = |existed| Outcome::SessionClosed { existed };
    assert_eq!(f.plain(Command::CloseSession(one)), closed(true));
    assert_eq!(f.plain(Command::ExpireSession(two)), closed(true));
    assert_eq!(f.plain(Command::ExpireSession(two)), closed(false));
    assert_eq!(f.store.session_count(), 0);
    assert_eq!(
        result(f.ordered(request(one, 1, 1), put("a", "1"))),
        refused(Refusal::SessionExpired)
    );
    f.plain(Command::Change(change("a", Action::Delete)));
    assert_eq!(f.store.digest(), Digest::default(), "nothing is left behind");
}

#[test]
fn a_session_that_closes_itself_is_gone() {
    let mut f = Fixture::new();
    let session = f.open();
    let id = request(session, 1, 1);
    let close = Command::CloseSession(session);
    assert_eq!(f.ordered(id, close.clone()), Outcome::SessionClosed { existed: true });
    assert_eq!(result(f.ordered(id, close)), refused(Refusal::SessionExpired));
    assert_eq!(f.store.digest(), Digest::default());
}

#[test]
fn a_session_over_the_cap_is_refused_until_one_ends() {
    let mut f = Fixture::new();
    let first = f.open();
    f.open();
    f.open();
    assert_eq!(
        result(f.plain(Command::OpenSession)),
        refused(Refusal::TooManySessions { sessions_max: 3 })
    );
    f.plain(Command::CloseSession(first));
    assert_ne!(f.open(), first, "ids are not used again");
}

#[test]
#[should_panic(expected = "TimeNeverFalls")]
fn log_time_that_falls_is_a_broken_log() {
    let mut f = Fixture::new();
    f.plain(Command::Barrier(Default::default()));
    f.at = LogTime::from_millis(9);
    f.plain(Command::Barrier(Default::default()));
}

#[test]
fn equal_states_have_equal_digests_whatever_their_history() {
    let (mut one, mut other) = (Fixture::new(), Fixture::new());
    one.plain(put("a", "1"));
    one.plain(put("b", "2"));
    other.plain(Command::Batch(vec![
        change("b", Action::Put(bytes("wrong"))),
        change("c", Action::Put(bytes("to go"))),
    ]));
    assert_ne!(one.store.digest(), other.store.digest());
    for f in [&mut one, &mut other] {
        f.plain(Command::Batch(vec![
            change("c", Action::Delete),
            change("a", Action::Put(bytes("1"))),
            change("b", Action::Put(bytes("2"))),
        ]));
    }
    // The version is part of the state: one history was an op longer.
    assert_ne!(one.store.digest(), other.store.digest());
    other.next = one.next;
    for f in [&mut one, &mut other] {
        f.plain(Command::Batch(vec![
            change("a", Action::Put(bytes("1"))),
            change("b", Action::Put(bytes("2"))),
        ]));
    }
    assert_eq!(one.store.digest(), other.store.digest());
}

#[test]
fn a_scan_shows_the_state_at_its_beginning_while_everything_changes() {
    let mut f = Fixture::new();
    let (kept, ended) = (f.open(), f.open());
    f.ordered(request(kept, 1, 1), put("b", "1"));
    f.ordered(request(ended, 1, 1), put("d", "1"));
    f.plain(put("f", "1"));
    let (digest, keys) = (f.store.digest(), f.store.key_count());
    let scan = f.store.begin_scan();
    let mut copy = Store::new(LIMITS, Items::default());
    for step in 0.. {
        let Some(chunk) = f.store.next_chunk(scan, 1) else {
            break;
        };
        copy.install(&chunk).unwrap();
        // Before, at and after the cursor: keys come, change and go; so do sessions.
        for key in ["a", "b", "c", "d", "e", "f", "g"] {
            f.plain(append(key, "!"));
            f.plain(Command::Change(change(key, Action::Delete)));
        }
        f.ordered(request(kept, step + 2, step + 2), put("c", "2"));
        f.plain(Command::CloseSession(ended));
        if step == 0 {
            f.open();
        }
    }
    copy.check_invariants();
    assert_eq!((copy.digest(), copy.key_count()), (digest, keys));
    assert!(copy.has_session(ended));
}

#[test]
fn a_chunk_closes_at_its_limit_and_an_ended_scan_yields_nothing() {
    let mut f = Fixture::new();
    for key in ["a", "b", "c", "d", "e"] {
        f.plain(put(key, "12345"));
    }
    let mut one = RecordsWriter::new(0);
    assert!(one.key(b"a", b"12345", version(1)));
    let size = one.finish().unwrap().len();
    let scan = f.store.begin_scan();
    let chunks: Vec<Bytes> =
        std::iter::from_fn(|| f.store.next_chunk(scan, 3 * size - 1)).collect();
    assert!(chunks.iter().map(|chunk| records(chunk).count()).eq([2, 2, 1]));
    assert!(chunks.iter().map(Bytes::len).eq([2 * size, 2 * size, size]));
    assert_eq!(f.store.next_chunk(scan, 100), None);
    let given_up = f.store.begin_scan();
    f.store.end_scan(given_up);
    assert_eq!(f.store.next_chunk(given_up, 100), None);
    assert!(f.store.scans.is_empty(), "nothing is saved for scans that are over");
}

#[test]
fn a_session_with_large_answers_travels_in_pieces() {
    let mut f = Fixture::new();
    let session = f.open();
    f.plain(put("a", &"x".repeat(32)));
    for number in 1..=SESSION_WINDOW {
        f.ordered(request(session, number, 1), cas("a", Expect::Missing, Some("1")));
    }
    let answers_weigh = SESSION_WINDOW as usize * (16 + 32);
    let scan = f.store.begin_scan();
    let mut copy = Store::new(LIMITS, Items::default());
    let mut chunks = 0;
    while let Some(chunk) = f.store.next_chunk(scan, 1000) {
        assert!(chunk.len() <= 1000);
        copy.install(&chunk).unwrap();
        chunks += 1;
    }
    assert!(chunks > answers_weigh / 1000, "{chunks} chunks");
    assert_eq!(copy.digest(), f.store.digest());
}

#[test]
fn answers_that_no_sound_copy_sends_show_in_the_digest_and_do_no_harm() {
    let mut f = Fixture::new();
    let session = f.open();
    f.ordered(request(session, 5, 5), put("a", "1"));
    let answer = AnswerRecord { command_hash: 1, outcome: Outcome::Barrier };
    let numbers = [0, 4, 5 + SESSION_WINDOW, u64::MAX].map(RequestNumber);
    let mut copy = f.transferred();
    let digest = copy.store.digest();
    copy.store = Store::new(LIMITS, Items::default());
    let mut writer = RecordsWriter::new(usize::MAX);
    writer.session(&SessionRecord {
        id: session,
        floor: RequestNumber(5),
        answers: numbers.map(|number| (number, answer.clone())).to_vec(),
    });
    copy.store.install(&writer.finish().unwrap()).unwrap();
    copy.store.check_invariants();
    assert_ne!(copy.store.digest(), digest);
}

#[test]
fn what_is_stored_does_not_keep_the_buffer_alive_in_which_it_arrived() {
    let mut f = Fixture::new();
    let buffer = Bytes::from(b"a long message from the network: key and value and more".to_vec());
    let (key, value) = (buffer.slice(33..36), buffer.slice(41..46));
    let changes = vec![
        Change { key: key.clone(), action: Action::Put(value.clone()) },
        Change { key: value.clone(), action: Action::Append(key.clone()) },
    ];
    f.plain(Command::Batch(changes));
    f.plain(Command::Change(Change {
        key: key.clone(),
        action: Action::CompareAndSet {
            expect: Expect::Value(value.clone().into()),
            new_value: Some(value.clone()),
        },
    }));
    drop((key, value));
    assert_eq!(f.value("key"), Some(bytes("value")));
    assert!(buffer.is_unique());
}

/// Whatever happens to a chunk on the way: it is refused, it shows in the digest, or it still says
/// the same.
#[test]
fn a_damaged_chunk_never_passes_for_another_state() {
    let mut f = Fixture::new();
    let session = f.open();
    f.plain(put("a", "1"));
    f.plain(put("bb", ""));
    f.ordered(request(session, 1, 1), append("c", "value"));
    f.ordered(request(session, 3, 1), cas("a", Expect::Missing, Some("2")));
    f.ordered(request(session, 4, 1), Command::Batch(vec![change("c", Action::Delete)]));
    f.plain(put("", "of the empty key"));
    let scan = f.store.begin_scan();
    let chunk = f.store.next_chunk(scan, usize::MAX).unwrap();
    let sound = |chunk: &[u8]| {
        let mut copy = Store::new(LIMITS, Items::default());
        copy.install(chunk).ok()?;
        copy.check_invariants();
        (copy.digest() == f.store.digest()).then_some(copy)
    };
    assert!(sound(&chunk).is_some());
    for length in 0..chunk.len() {
        assert!(sound(&chunk[..length]).is_none(), "cut to {length} bytes");
    }
    for at in 0..chunk.len() {
        for bit in 0..8 {
            let mut damaged = chunk.to_vec();
            damaged[at] ^= 1 << bit;
            if let Some(copy) = sound(&damaged) {
                assert_eq!(contents(&copy), contents(&f.store));
                assert_eq!(copy.sessions, f.store.sessions, "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn the_memory_that_a_store_counts_rises_and_falls_with_what_it_holds() {
    let mut f = Fixture::new();
    assert_eq!(f.store.bytes(), 0);
    f.plain(put("a", "1"));
    let small = f.store.bytes();
    f.plain(put("a", &"x".repeat(32)));
    assert!(f.store.bytes() >= small + 31 - 15, "up to what the allocator rounds to");
    let scan = f.store.begin_scan();
    let held = f.store.items().map(|item| item.bytes()).sum::<u64>();
    f.plain(put("a", "1"));
    assert_eq!(f.store.bytes(), small + held, "the scan holds on to what it has not reached");
    f.store.end_scan(scan);
    assert_eq!(f.store.bytes(), small);
    let session = f.open();
    let with_session = f.store.bytes();
    f.ordered(request(session, 1, 1), cas("a", Expect::Missing, None));
    assert!(f.store.bytes() > with_session, "an answer");
    assert_eq!(f.transferred().store.bytes(), f.store.bytes());
    f.plain(Command::CloseSession(session));
    f.plain(Command::Change(change("a", Action::Delete)));
    assert_eq!(f.store.bytes(), 0);
}

/// Names hold short keys in place and others behind a pointer; a store, its order, its scans and its
/// copies know no difference.
#[test]
fn a_key_of_any_length_is_found_and_ordered() {
    let mut f = Fixture::new();
    let of = |length: usize, last: char| format!("{}{last}", "k".repeat(length - 1));
    let mut keys: Vec<String> = [1, 2, 14, 15, 16, 17, 18, 31, 32, 33, 1000, 65_536]
        .into_iter()
        .flat_map(|length| ['a', 'k', 'z'].map(|last| of(length, last)))
        .chain([String::new()])
        .collect();
    keys.iter().for_each(|key| drop(f.plain(put(key, "1"))));
    keys.sort();
    let transferred = f.transferred();
    for store in [&f.store, &transferred.store] {
        assert!(
            store.items().map(|item| item.key().to_vec()).eq(keys.iter().map(|key| key.as_bytes()))
        );
    }
    for key in keys {
        assert_eq!(f.value(&key), Some(bytes("1")));
        f.plain(Command::Change(change(&key, Action::Delete)));
        assert_eq!(f.value(&key), None);
    }
    assert_eq!((f.store.key_count(), f.store.bytes()), (0, 0));
}

#[test]
fn a_clone_does_not_see_later_writes() {
    let mut f = Fixture::new();
    f.plain(put("a", "1"));
    f.plain(put("b", "1"));
    let clone = f.store.clone();
    let before = (contents(&clone), clone.digest());
    f.plain(put("a", "2"));
    f.plain(put("c", "2"));
    f.plain(Command::Change(change("b", Action::Delete)));
    assert_eq!((contents(&clone), clone.digest()), before);
    clone.check_invariants();
}

#[test]
fn a_cleared_store_is_a_new_one_and_its_readers_see_it() {
    let items = Items::default();
    let mut f = Fixture::new();
    f.store = Store::new(LIMITS, items.clone());
    let session = f.open();
    f.ordered(request(session, 1, 1), put("a", "1"));
    assert_eq!(items.get(b"a").as_ref().map(Item::value), Some(&b"1"[..]));
    f.store.clear(LIMITS);
    assert!(items.get(b"a").is_none());
    assert_eq!((f.store.key_count(), f.store.session_count(), f.store.bytes()), (0, 0, 0));
    assert_eq!(f.store.digest(), Digest::default());
    f.plain(put("a", "2"));
    assert_eq!(items.get(b"a").as_ref().map(Item::value), Some(&b"2"[..]));
}

/// After data was lost op numbers come again; an id that a client kept from before must not name the
/// session of a stranger.
#[test]
fn sessions_of_different_generations_have_different_ids() {
    let mut before = Fixture::new();
    let old = before.open();
    let mut after = Fixture::new();
    after.generation = Generation(2);
    let new = after.open();
    assert_ne!(old, new, "both were allocated by the same op number");
    assert_eq!(
        result(after.ordered(request(old, 1, 1), put("a", "1"))),
        refused(Refusal::SessionExpired)
    );
}

/// Tests of the tests: every rule of exactly-once beside the story that must fail without it.
#[test]
#[cfg(debug_assertions)]
fn every_rule_of_the_store_is_missed_by_a_named_story() {
    use kvproto::rules::{Rule, without};
    let mutants: [(Rule, fn()); 5] = [
        (Rule::RepeatsAreRecognised, s2_k_a_retried_put_is_not_applied_after_a_newer_one),
        (Rule::FloorIsKept, s2_k_a_retried_put_is_not_applied_after_a_newer_one),
        (Rule::UnknownSessionIsOver, a_request_of_an_unknown_session_is_refused_as_expired),
        (Rule::SessionsNameTheirGeneration, sessions_of_different_generations_have_different_ids),
        (Rule::SessionsTravel, a_scan_shows_the_state_at_its_beginning_while_everything_changes),
    ];
    for (rule, story) in mutants {
        let broken = std::panic::catch_unwind(|| without(&[rule], story));
        assert!(broken.is_err(), "nobody misses {rule:?}");
    }
}
