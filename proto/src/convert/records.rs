//! Records of state as they travel: `StateRecord` messages of `replication.proto`, each preceded by
//! its length, in one run of bytes.
//!
//! A transfer moves millions of them, so keys are written from and read into borrowed slices, without
//! a value of the generated type in between; what is written is what that type would write. Sessions,
//! of which there are few, go through it.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
    encoded_len_varint, skip_field,
};

use super::{Malformed, malformed, required};
use crate::ids::Version;
use crate::message::SessionRecord;
use crate::pb::replication as pb;

/// One piece of replicated state, for transfer and snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateRecord<'a> {
    /// A key.
    Key {
        /// Which.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// Its version.
        version: Version,
    },
    /// A session with the answers still remembered. It borrows nothing: values are copied.
    Session(SessionRecord),
}

// Fields of the messages, and how large each is with its head.
const STATE_KEY: u32 = 1;
const STATE_SESSION: u32 = 2;
const KEY_KEY: u32 = 1;
const KEY_VALUE: u32 = 2;
const KEY_VERSION: u32 = 3;

fn sized(length: usize) -> usize {
    encoded_len_varint(length as u64) + length
}

/// Writes records one after the other until the next would be too much.
#[derive(Debug)]
pub struct RecordsWriter {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl RecordsWriter {
    /// A writer of at most this many bytes; it always takes one record, whatever its size.
    #[must_use]
    pub fn new(bytes_max: usize) -> RecordsWriter {
        RecordsWriter { bytes: Vec::new(), bytes_max }
    }

    /// Writes a key. False if it does not fit any more; then nothing was written.
    pub fn key(&mut self, key: &[u8], value: &[u8], version: Version) -> bool {
        // As the generated code does, a field at its default is left out.
        let of_bytes = |bytes: &[u8]| if bytes.is_empty() { 0 } else { 1 + sized(bytes.len()) };
        let of_version = if version.0 == 0 { 0 } else { 1 + encoded_len_varint(version.0) };
        let inner = of_bytes(key) + of_bytes(value) + of_version;
        let outer = 1 + sized(inner);
        if !self.takes(sized(outer)) {
            return false;
        }
        encode_varint(outer as u64, &mut self.bytes);
        self.head(STATE_KEY, inner);
        for (field, bytes) in [(KEY_KEY, key), (KEY_VALUE, value)] {
            if !bytes.is_empty() {
                self.head(field, bytes.len());
                self.bytes.extend_from_slice(bytes);
            }
        }
        if version.0 != 0 {
            encode_key(KEY_VERSION, WireType::Varint, &mut self.bytes);
            encode_varint(version.0, &mut self.bytes);
        }
        true
    }

    /// Writes a session, or a part of one. False if it does not fit any more.
    pub fn session(&mut self, session: &SessionRecord) -> bool {
        let record = pb::state_record::Record::Session(session.clone().into());
        let record = pb::StateRecord { record: Some(record) };
        let fits = self.takes(sized(record.encoded_len()));
        if fits {
            record.encode_length_delimited(&mut self.bytes).expect("a vector has room for it");
        }
        fits
    }

    /// What was written; `None` if nothing was.
    #[must_use]
    pub fn finish(self) -> Option<Bytes> {
        (!self.bytes.is_empty()).then(|| self.bytes.into())
    }

    fn takes(&mut self, size: usize) -> bool {
        let fits = self.bytes.is_empty() || self.bytes.len() + size <= self.bytes_max;
        if fits && self.bytes.is_empty() {
            // Most often it will be filled. What bounds it in the end is what is written.
            self.bytes.reserve_exact(size.max(self.bytes_max.min(RESERVED_MAX)));
        }
        fits
    }

    fn head(&mut self, field: u32, length: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(length as u64, &mut self.bytes);
    }
}

/// Room that a writer takes ahead.
const RESERVED_MAX: usize = 1 << 20;

/// Reads records. What is malformed ends them.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<StateRecord<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = take(&mut rest).and_then(record);
        if record.is_err() {
            rest = &[];
        }
        Some(record)
    })
}

/// Reads one record. As in all of the format, fields may come in any order, the last one counts, and
/// unknown ones are skipped.
fn record(mut bytes: &[u8]) -> Result<StateRecord<'_>, Malformed> {
    let mut record = None;
    while let Some((field, wire)) = next_field(&mut bytes)? {
        match (field, wire) {
            (STATE_KEY, WireType::LengthDelimited) => record = Some(key(take(&mut bytes)?)?),
            (STATE_SESSION, WireType::LengthDelimited) => {
                let session = pb::SessionRecord::decode(take(&mut bytes)?);
                let session = session.map_err(|_| BROKEN)?.try_into()?;
                record = Some(StateRecord::Session(session));
            }
            _ => skip(field, wire, &mut bytes)?,
        }
    }
    required(record, "a record of state is of no known kind")
}

fn key(mut bytes: &[u8]) -> Result<StateRecord<'_>, Malformed> {
    let (mut key, mut value, mut version) = (&[][..], &[][..], Version(0));
    while let Some((field, wire)) = next_field(&mut bytes)? {
        match (field, wire) {
            (KEY_KEY, WireType::LengthDelimited) => key = take(&mut bytes)?,
            (KEY_VALUE, WireType::LengthDelimited) => value = take(&mut bytes)?,
            (KEY_VERSION, WireType::Varint) => version = Version(varint(&mut bytes)?),
            _ => skip(field, wire, &mut bytes)?,
        }
    }
    Ok(StateRecord::Key { key, value, version })
}

const BROKEN: Malformed = Malformed { what: "a record of state is broken" };

fn next_field(bytes: &mut &[u8]) -> Result<Option<(u32, WireType)>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    decode_key(bytes).map(Some).map_err(|_| BROKEN)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| BROKEN)
}

/// A run of bytes that its length precedes.
fn take<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = varint(bytes)?;
    match usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)) {
        Some((taken, rest)) => {
            *bytes = rest;
            Ok(taken)
        }
        None => malformed("a record of state is cut off"),
    }
}

fn skip(field: u32, wire: WireType, bytes: &mut impl Buf) -> Result<(), Malformed> {
    skip_field(wire, field, bytes, DecodeContext::default()).map_err(|_| BROKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Outcome;
    use crate::ids::{RequestNumber, SessionId};
    use crate::message::AnswerRecord;

    fn of_key(record: StateRecord<'_>) -> pb::StateRecord {
        let StateRecord::Key { key, value, version } = record else {
            panic!("a key, not {record:?}");
        };
        let [key, value] = [key, value].map(Bytes::copy_from_slice);
        let key = pb::KeyRecord { key, value, version: version.0 };
        pb::StateRecord { record: Some(pb::state_record::Record::Key(key)) }
    }

    fn keys() -> Vec<(Vec<u8>, Vec<u8>, Version)> {
        let sizes = [0, 1, 20, 127, 128, 20_000];
        let versions = [0, 1, 127, 128, u64::MAX].map(Version);
        let pairs = sizes.iter().flat_map(|key| sizes.iter().map(move |value| (*key, *value)));
        let of = |(key, value)| versions.map(|version| (vec![1; key], vec![2; value], version));
        pairs.flat_map(of).collect()
    }

    #[test]
    fn keys_are_written_as_the_generated_type_would_and_read_back() {
        for (key, value, version) in keys() {
            let mut writer = RecordsWriter::new(0);
            assert!(writer.key(&key, &value, version));
            let written = writer.finish().expect("a record");
            let record = StateRecord::Key { key: &key, value: &value, version };
            assert_eq!(of_key(record.clone()).encode_length_delimited_to_vec(), written);
            assert!(records(&written).eq([Ok(record)]));
        }
    }

    #[test]
    fn a_writer_takes_what_fits_and_one_record_always() {
        let session = SessionRecord {
            id: SessionId(1),
            floor: RequestNumber(2),
            answers: vec![(
                RequestNumber(3),
                AnswerRecord { command_hash: 4, outcome: Outcome::Barrier },
            )],
        };
        let mut writer = RecordsWriter::new(0);
        assert!(writer.session(&session) && !writer.session(&session));
        let size = writer.finish().expect("a record").len();
        let mut writer = RecordsWriter::new(2 * size);
        assert!(writer.session(&session) && writer.session(&session) && !writer.session(&session));
        let written = writer.finish().expect("records");
        assert_eq!(written.len(), 2 * size);
        let session = || Ok(StateRecord::Session(session.clone()));
        assert!(records(&written).eq([session(), session()]));
        assert_eq!(RecordsWriter::new(9).finish(), None);
    }

    #[test]
    fn fields_may_come_in_any_order_and_unknown_ones_are_skipped() {
        // Version 7, an unknown number, an unknown run of two bytes, value "v", key "k".
        let key = [0x18, 7, 0x28, 1, 0x32, 2, 9, 9, 0x12, 1, b'v', 0x0a, 1, b'k'];
        let record = [&[2 + key.len() as u8, 0x0a, key.len() as u8], &key[..]].concat();
        let expected = StateRecord::Key { key: b"k", value: b"v", version: Version(7) };
        assert!(records(&record).eq([Ok(expected)]));
    }

    #[test]
    fn broken_records_are_refused_and_end_the_run() {
        let sound = [5, 0x0a, 3, 0x0a, 1, b'k'];
        let broken: [&[u8]; 6] = [
            &[0],                         // nothing in it
            &[0xff],                      // a length without its end
            &[6, 0x0a, 3, 0x0a, 1, b'k'], // longer than what is there
            &[5, 0x0a, 4, 0x0a, 1, b'k'], // its key longer than itself
            &[5, 0x0f, 3, 0x0a, 1, b'k'], // no wire type
            &[4, 0x12, 2, 0x1a, 9],       // a session cut off
        ];
        for broken in broken {
            let run = [&sound, broken, &sound].concat();
            let read: Vec<_> = records(&run).collect();
            assert!(read[0].is_ok() && read[1].is_err() && read.len() == 2, "{broken:?}: {read:?}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut seed = 1_u64;
        for length in (0..200).cycle().take(20_000) {
            let mut next = || {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (seed >> 56) as u8
            };
            // Small numbers are lengths and heads of fields.
            let bytes: Vec<u8> =
                (0..length).map(|_| if next() < 200 { next() % 32 } else { next() }).collect();
            records(&bytes).for_each(drop);
        }
    }
}
