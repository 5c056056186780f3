//! What the ledgers hold a client's certainty against when an operator forces a generation.

use kvproto::{LogTime, RequestId, ViewNumber};

use super::*;

fn ledgers() -> Ledgers {
    Ledgers::new(&Settings { value_size_max: 4, ..Settings::default() })
}

fn epoch(generation: u64, view: u64) -> Epoch {
    Epoch { generation: Generation(generation), primary_since: ViewNumber(view) }
}

fn entry(epoch: Epoch, op: u64, id: Option<RequestId>, command: Command) -> Arc<Entry> {
    let position = Position { epoch, op: OpNumber(op) };
    Arc::new(Entry { position, at: LogTime::from_millis(op), id, command })
}

fn append(suffix: &'static str) -> Command {
    let action = Action::Append(Bytes::from_static(suffix.as_bytes()));
    Command::Change(Change { key: Bytes::from_static(b"list"), action })
}

/// The first generation commits a session, fills the list and refuses a request to append to it. A
/// generation is forced from what stood before the list was filled, whose server has the same
/// request in a tail of an older primaryship, and orders it anew (ADR 5). There it fits.
fn the_request_fits_in_a_forced_generation(certain_by: impl Fn(LogPoint) -> Option<LogPoint>) {
    let mut ledgers = ledgers();
    let (first, second) = (epoch(1, 2), epoch(2, 3));
    ledgers.commit(
        first.generation,
        first,
        &entry(first, 1, None, Command::Barrier(Default::default())),
    );
    ledgers.commit(first.generation, first, &entry(first, 2, None, Command::OpenSession));
    let session = SessionId((1 << 48) | 2);
    let request = |number| {
        Some(RequestId { session, number: RequestNumber(number), first_open: RequestNumber(1) })
    };
    ledgers.commit(first.generation, first, &entry(first, 3, request(1), append("abc")));
    let refused = entry(first, 4, request(2), append("de"));
    assert_eq!(ledgers.commit(first.generation, first, &refused), Committed::Nothing);
    let answered = LogPoint { generation: first.generation, op: OpNumber(4) };
    ledgers.never_request((session, RequestNumber(2)), certain_by(answered));

    ledgers.begin(0, second.generation, first.generation, 2);
    ledgers.commit(
        second.generation,
        second,
        &entry(second, 3, None, Command::Barrier(Default::default())),
    );
    let anew = entry(second, 4, request(2), append("de"));
    assert_eq!(ledgers.commit(second.generation, second, &anew), Committed::Done);
}

/// Seed 623572: a client heard that its append was too large; the only server that had committed
/// this refusal was lost.
#[test]
fn what_an_operator_gives_up_includes_answers_that_were_refusals() {
    the_request_fits_in_a_forced_generation(Some);
}

#[test]
#[should_panic(expected = "NotDoneIsNever")]
fn a_request_that_was_never_ordered_is_done_in_no_generation() {
    the_request_fits_in_a_forced_generation(|_| None);
}

#[test]
fn what_was_decided_binds_the_generations_that_hold_it() {
    let mut ledgers = ledgers();
    let first = epoch(1, 2);
    for op in 1..=4 {
        let barrier = entry(first, op, None, Command::Barrier(Default::default()));
        ledgers.commit(first.generation, first, &barrier);
    }
    ledgers.begin(0, Generation(2), Generation(1), 2);
    ledgers.begin(0, Generation(3), Generation(2), 1);
    let bound = |generation, op| {
        let decided = Some(LogPoint { generation: Generation(generation), op: OpNumber(op) });
        [1, 2, 3].map(|of| ledgers.is_bound(Generation(of), decided))
    };
    assert_eq!(bound(1, 1), [true, true, true]);
    assert_eq!(bound(1, 2), [true, true, false]);
    assert_eq!(bound(1, 3), [true, false, false]);
    assert_eq!(bound(2, 3), [false, true, false], "the first does not hear of the second's");
}
