//! The bytes of a segment: its header, and records that check out or do not. Pure.
//!
//! A segment begins with a header of [`HEADER_SIZE`] bytes. Records follow, each at a multiple of
//! eight bytes; numbers are little-endian:
//!
//! ```text
//! magic u32 | crc u32 | size of the body u32 | crc of the record before u32
//! synced through u64 | committed op u64 | kind u64 | body, then zeros to a multiple of 8
//! ```
//!
//! The checksum (CRC-32C) covers everything after itself and begins with a number of the segment's
//! own, so that what an older life of the file left behind never checks out. Each record names the
//! checksum of the one before it: none can be missing, or come from elsewhere. Places are counted
//! through all segments of an era ([`Lsn`]); *synced through* is the place before which everything
//! was known to be on disk when the record was written. That tells a torn end from damage: what a
//! later record says was synced cannot have been torn by a crash.

use bytes::BufMut;
use kvproto::ids::{Epoch, Generation, OpNumber, Position, StorageId, ViewNumber};

/// What this program writes, and the newest that it reads.
pub const LEVEL: u32 = 1;

/// Bytes before the first record of a segment.
pub const HEADER_SIZE: usize = 104;

const SEGMENT_MAGIC: &[u8; 8] = b"kvsegmnt";
const RECORD_MAGIC: u32 = 0x6b76_7265;
const HEAD_SIZE: usize = 40;
const ALIGNMENT: usize = 8;
/// Position of the first entry, how many there are, and 0.
const ENTRIES_HEAD_SIZE: usize = 32;

/// A place in the bytes of all segments of an era.
pub type Lsn = u64;

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The directory to which it belongs.
    pub storage: StorageId,
    /// The era to which it belongs.
    pub era: u64,
    /// Drawn for this segment; its checksums begin with it.
    pub nonce: u64,
    /// Place of its first byte.
    pub base: Lsn,
    /// Bytes that the file was given when it was made. It never has fewer.
    pub capacity: u64,
    /// Checksum of the last record of the segment before it.
    pub previous: u32,
    /// The epoch adopted when it began.
    pub adopted: Epoch,
    /// The op after which it began.
    pub after: OpNumber,
}

/// Why bytes are no header that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// They do not check out.
    Corrupt,
    /// A program of a newer format level wrote them.
    Newer(u32),
}

impl SegmentHeader {
    /// The header as it stands in the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SIZE);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32_le(LEVEL);
        out.put_u32_le(0);
        out.put_slice(&self.storage.0);
        for number in [self.era, self.nonce, self.base, self.capacity] {
            out.put_u64_le(number);
        }
        out.put_u64_le(u64::from(self.previous));
        out.put_u64_le(self.adopted.generation.0);
        out.put_u64_le(self.adopted.primary_since.0);
        out.put_u64_le(self.after.0);
        out.put_u64_le(0);
        debug_assert_eq!(out.len(), HEADER_SIZE);
        let crc = header_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When the bytes are no header, or one of a newer format. A newer format keeps the place of
    /// its level and the size and checksum of the header.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let Some(bytes) = bytes.get(..HEADER_SIZE) else {
            return Err(BadHeader::Corrupt);
        };
        if &bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 12) != header_crc(bytes) {
            return Err(BadHeader::Corrupt);
        }
        let level = u32_at(bytes, 8);
        if level > LEVEL {
            return Err(BadHeader::Newer(level));
        }
        let mut storage = [0; 16];
        storage.copy_from_slice(&bytes[16..32]);
        Ok(SegmentHeader {
            storage: StorageId(storage),
            era: u64_at(bytes, 32),
            nonce: u64_at(bytes, 40),
            base: u64_at(bytes, 48),
            capacity: u64_at(bytes, 56),
            previous: u32_at(bytes, 64),
            adopted: Epoch {
                generation: Generation(u64_at(bytes, 72)),
                primary_since: ViewNumber(u64_at(bytes, 80)),
            },
            after: OpNumber(u64_at(bytes, 88)),
        })
    }

    /// The chain of the segment's records.
    #[must_use]
    pub fn chain(&self) -> Chain {
        let seed = (self.nonce ^ (self.nonce >> 32)) as u32;
        Chain { seed, previous: self.previous }
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_SIZE])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
}

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// Contiguous entries of one epoch.
    Entries {
        /// Position of the first.
        first: Position,
        /// How many.
        count: u32,
        /// As [`Batch`](kvproto::batch::Batch) encodes them.
        batch: &'a [u8],
    },
    /// This epoch was adopted.
    Adopt(Epoch),
    /// Every entry after this op was dropped.
    Truncate(OpNumber),
    /// Nothing but what every record says.
    Mark,
}

const ENTRIES: u64 = 1;
const ADOPT: u64 = 2;
const TRUNCATE: u64 = 3;
const MARK: u64 = 4;

/// What every record says beside its body.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    /// Everything before this place was on disk.
    pub synced_through: Lsn,
    /// Everything through this op was in every required copy.
    pub committed: OpNumber,
}

/// Where the checksums of a segment stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    seed: u32,
    previous: u32,
}

impl Chain {
    /// Checksum of the last record.
    #[must_use]
    pub fn previous(&self) -> u32 {
        self.previous
    }

    /// The chain as it stands before the record with which these bytes begin.
    #[must_use]
    pub fn rejoined(&self, bytes: &[u8]) -> Chain {
        let previous = bytes.get(12..16).map_or(self.previous, |_| u32_at(bytes, 12));
        Chain { previous, ..*self }
    }

    /// Adds a record to the bytes of a segment.
    pub fn write(&mut self, hints: Hints, body: &Body<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32_le(RECORD_MAGIC);
        out.put_u32_le(0);
        let size = body_size(body);
        out.put_u32_le(u32::try_from(size).expect("a record is far smaller than 4 GiB"));
        out.put_u32_le(self.previous);
        out.put_u64_le(hints.synced_through);
        out.put_u64_le(hints.committed.0);
        match *body {
            Body::Entries { first, count, batch } => {
                out.put_u64_le(ENTRIES);
                put_epoch(first.epoch, out);
                out.put_u64_le(first.op.0);
                out.put_u64_le(u64::from(count));
                out.put_slice(batch);
            }
            Body::Adopt(epoch) => {
                out.put_u64_le(ADOPT);
                put_epoch(epoch, out);
            }
            Body::Truncate(after) => {
                out.put_u64_le(TRUNCATE);
                out.put_u64_le(after.0);
            }
            Body::Mark => out.put_u64_le(MARK),
        }
        let end = start + HEAD_SIZE + size;
        debug_assert_eq!(out.len(), end);
        let crc = crc32c::crc32c_append(self.seed, &out[start + 8..end]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + padded(size), 0);
        self.previous = crc;
    }
}

fn put_epoch(epoch: Epoch, out: &mut Vec<u8>) {
    out.put_u64_le(epoch.generation.0);
    out.put_u64_le(epoch.primary_since.0);
}

fn body_size(body: &Body<'_>) -> usize {
    match body {
        Body::Entries { batch, .. } => ENTRIES_HEAD_SIZE + batch.len(),
        Body::Adopt(_) => 16,
        Body::Truncate(_) => 8,
        Body::Mark => 0,
    }
}

/// Bytes that a record takes in its segment.
#[must_use]
pub fn record_size(body: &Body<'_>) -> usize {
    padded(body_size(body))
}

fn padded(body_size: usize) -> usize {
    (HEAD_SIZE + body_size).next_multiple_of(ALIGNMENT)
}

/// A record that checked out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Where it begins in the bytes.
    pub at: usize,
    /// How many bytes it takes.
    pub size: usize,
    /// What it says beside its body.
    pub hints: Hints,
    /// What it holds.
    pub body: Body<'a>,
}

/// A record checks out, but this program does not know what it says: a newer one wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownRecord {
    /// Where it begins in the bytes.
    pub at: usize,
}

/// Reads records one after the other.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    chain: Chain,
}

impl<'a> Records<'a> {
    /// The records of these bytes from `at` on, where the chain stands so.
    #[must_use]
    pub fn new(bytes: &'a [u8], at: usize, chain: Chain) -> Records<'a> {
        Records { bytes, at, chain }
    }

    /// Where the next record would begin.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Where the chain stands.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The next record; `None` when what stands there does not check out.
    ///
    /// # Errors
    /// When it checks out and is of no known kind.
    #[expect(clippy::should_implement_trait, reason = "it ends for good, and it may fail")]
    pub fn next(&mut self) -> Result<Option<Record<'a>>, UnknownRecord> {
        let Some((size, crc)) = checks_out(self.bytes, self.at, self.chain.seed) else {
            return Ok(None);
        };
        let (at, head) = (self.at, &self.bytes[self.at..]);
        if u32_at(head, 12) != self.chain.previous {
            return Ok(None);
        }
        let hints =
            Hints { synced_through: u64_at(head, 16), committed: OpNumber(u64_at(head, 24)) };
        let body = parse(u64_at(head, 32), &head[HEAD_SIZE..HEAD_SIZE + size])
            .ok_or(UnknownRecord { at })?;
        let size = padded(size);
        self.at += size;
        self.chain.previous = crc;
        Ok(Some(Record { at, size, hints, body }))
    }

    /// Whether something later in these bytes, which begin at `base`, proves that what stands here
    /// had been synced: then it is damaged, not torn. Says where the proof stands.
    #[must_use]
    pub fn proof_of_damage(&self, base: Lsn) -> Option<usize> {
        let here = base + self.at as u64;
        let mut at = self.at + ALIGNMENT;
        while at + HEAD_SIZE <= self.bytes.len() {
            if u32_at(self.bytes, at) == RECORD_MAGIC
                && u64_at(self.bytes, at + 16) > here
                && checks_out(self.bytes, at, self.chain.seed).is_some()
            {
                return Some(at);
            }
            at += ALIGNMENT;
        }
        None
    }
}

/// Body size and checksum of the record at this place, if it is one of this segment.
fn checks_out(bytes: &[u8], at: usize, seed: u32) -> Option<(usize, u32)> {
    let head = bytes.get(at..)?.get(..HEAD_SIZE)?;
    if u32_at(head, 0) != RECORD_MAGIC {
        return None;
    }
    let (crc, size) = (u32_at(head, 4), u32_at(head, 8) as usize);
    let covered = bytes.get(at + 8..at + HEAD_SIZE + size)?;
    let padding = bytes.get(at + HEAD_SIZE + size..at + padded(size))?;
    let is_whole = padding.iter().all(|byte| *byte == 0);
    (is_whole && crc32c::crc32c_append(seed, covered) == crc).then_some((size, crc))
}

fn parse(kind: u64, body: &[u8]) -> Option<Body<'_>> {
    let epoch = || Epoch {
        generation: Generation(u64_at(body, 0)),
        primary_since: ViewNumber(u64_at(body, 8)),
    };
    match (kind, body.len()) {
        (ENTRIES, ENTRIES_HEAD_SIZE..) => Some(Body::Entries {
            first: Position { epoch: epoch(), op: OpNumber(u64_at(body, 16)) },
            count: u32::try_from(u64_at(body, 24)).ok().filter(|count| *count > 0)?,
            batch: &body[ENTRIES_HEAD_SIZE..],
        }),
        (ADOPT, 16) => Some(Body::Adopt(epoch())),
        (TRUNCATE, 8) => Some(Body::Truncate(OpNumber(u64_at(body, 0)))),
        (MARK, 0) => Some(Body::Mark),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(view: u64) -> Epoch {
        Epoch { generation: Generation(1), primary_since: ViewNumber(view) }
    }

    fn header(nonce: u64) -> SegmentHeader {
        SegmentHeader {
            storage: StorageId([7; 16]),
            era: 3,
            nonce,
            base: 1000,
            capacity: 4096,
            previous: 99,
            adopted: epoch(4),
            after: OpNumber(12),
        }
    }

    fn bodies() -> Vec<Body<'static>> {
        let first = Position { epoch: epoch(4), op: OpNumber(13) };
        vec![
            Body::Adopt(epoch(5)),
            Body::Entries { first, count: 2, batch: b"two entries" },
            Body::Truncate(OpNumber(13)),
            Body::Mark,
            Body::Entries {
                first: Position { op: OpNumber(14), ..first },
                count: 1,
                batch: b"one",
            },
            Body::Mark,
        ]
    }

    /// A segment, and where its records begin and end. Each says that those before it are synced.
    fn segment(nonce: u64) -> (Vec<u8>, Vec<usize>) {
        let header = header(nonce);
        let (mut bytes, mut chain) = (header.encode(), header.chain());
        let mut places = vec![bytes.len()];
        for body in &bodies() {
            let hints =
                Hints { synced_through: header.base + bytes.len() as u64, committed: OpNumber(7) };
            let before = bytes.len();
            chain.write(hints, body, &mut bytes);
            assert_eq!(bytes.len() - before, record_size(body));
            places.push(bytes.len());
        }
        bytes.resize(4096, 0);
        (bytes, places)
    }

    fn read(bytes: &[u8], nonce: u64) -> (Vec<Body<'_>>, Records<'_>) {
        let mut records = Records::new(bytes, HEADER_SIZE, header(nonce).chain());
        let mut read = Vec::new();
        while let Some(record) = records.next().expect("every kind is known") {
            read.push(record.body);
        }
        (read, records)
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, places) = segment(1);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header(1)));
        let (read, records) = read(&bytes, 1);
        assert_eq!(read, bodies());
        assert_eq!(Some(&records.at()), places.last());
        assert_eq!(records.proof_of_damage(1000), None, "the end is the end");
    }

    #[test]
    fn any_flipped_byte_is_noticed_and_only_the_last_record_can_pass_for_torn() {
        let (bytes, places) = segment(1);
        for at in 0..*places.last().expect("there are records") {
            for mask in [1, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= mask;
                if at < HEADER_SIZE {
                    assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Corrupt), "{at}");
                    continue;
                }
                let (read, records) = read(&bytes, 1);
                let hit = places.partition_point(|place| *place <= at) - 1;
                assert_eq!(read, bodies()[..hit], "{at}");
                let proven = records.proof_of_damage(1000).is_some();
                assert_eq!(proven, hit + 1 < bodies().len(), "flipped at {at}");
            }
        }
    }

    #[test]
    fn a_record_that_was_not_synced_can_be_torn_before_another_that_was_written() {
        let header = header(1);
        let (mut bytes, mut chain) = (header.encode(), header.chain());
        let hints = Hints { synced_through: 1000 + HEADER_SIZE as u64, ..Hints::default() };
        chain.write(hints, &Body::Truncate(OpNumber(1)), &mut bytes);
        chain.write(hints, &Body::Mark, &mut bytes);
        bytes[HEADER_SIZE + 20] ^= 1;
        let (read, records) = read(&bytes, 1);
        assert_eq!(read, []);
        assert_eq!(records.proof_of_damage(1000), None);
    }

    #[test]
    fn what_an_older_life_of_the_file_left_never_checks_out() {
        let (old, _) = segment(1);
        let mut bytes = header(2).encode();
        bytes.extend_from_slice(&old[HEADER_SIZE..]);
        let (read, records) = read(&bytes, 2);
        assert_eq!(read, []);
        assert_eq!(records.proof_of_damage(0), None);
    }

    #[test]
    fn a_missing_record_breaks_the_chain() {
        let (mut bytes, places) = segment(1);
        bytes.drain(places[1]..places[2]);
        let (read, records) = read(&bytes, 1);
        assert_eq!(read, bodies()[..1]);
        assert!(records.proof_of_damage(1000).is_some());
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = header(1).encode();
        bytes[8] = 2;
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Newer(2)));

        // Any byte of its kind.
        for at in 32..40 {
            let (mut bytes, mut chain) = (header(1).encode(), header(1).chain());
            chain.write(Hints::default(), &Body::Mark, &mut bytes);
            bytes[HEADER_SIZE + at] = 9;
            let crc = crc32c::crc32c_append(chain.seed, &bytes[HEADER_SIZE + 8..HEADER_SIZE + 40]);
            bytes[HEADER_SIZE + 4..HEADER_SIZE + 8].copy_from_slice(&crc.to_le_bytes());
            let mut records = Records::new(&bytes, HEADER_SIZE, header(1).chain());
            assert_eq!(records.next(), Err(UnknownRecord { at: HEADER_SIZE }));
        }
    }
}
