//! Names in the directory of a server, and the files that say whose directory it is and what the
//! view service said last. Pure.
//!
//! ```text
//! identity                      whose directory this is
//! record                        the newest record of the view service
//! era-000003/                   one unbroken life of the log; the highest counts
//!   …0042.snapshot              the state at op 42
//!   000007-…0041.journal        the seventh segment, which begins after op 41
//!   suspect                     a write or sync failed here; why
//! set-aside/era-000002.…        an era that another replaced
//! *.new                         not finished; removed at the next start
//! ```

use kvproto::ids::{ClusterId, Generation, OpNumber, StorageId};
use kvproto::snapshot::RESTORE_FILE;
use kvproto::view::View;

use super::pending::SnapshotNumber;
use crate::store::StoreLimits;

/// Whose directory it is.
pub const IDENTITY: &str = "identity";
/// The newest record of the view service.
pub const RECORD: &str = "record";
/// Marks an era that cannot be relied on.
pub const SUSPECT: &str = "suspect";
/// Where replaced eras go.
pub const SET_ASIDE: &str = "set-aside";
/// Ends the names of what is not finished.
pub const NEW: &str = ".new";

const SEGMENT: &str = ".journal";
const SNAPSHOT: &str = ".snapshot";
const ERA: &str = "era-";
const SPARE: &str = "segment-";
const UNDER_WAY: &str = "snapshot-";

/// Whether the directory of a server has something of this name, finished or not.
#[must_use]
pub fn is_kept(name: &str) -> bool {
    let Some(unfinished) = name.strip_suffix(NEW) else {
        return name.starts_with(ERA)
            || [IDENTITY, RECORD, SET_ASIDE, RESTORE_FILE].contains(&name);
    };
    let begins = |with: &&str| unfinished.starts_with(*with);
    [ERA, SPARE, UNDER_WAY].iter().any(begins) || [IDENTITY, RECORD].contains(&unfinished)
}

/// Name of a file for a segment, made ahead.
#[must_use]
pub fn spare_segment(number: u64) -> String {
    format!("{SPARE}{number}{NEW}")
}

/// Name of a snapshot as long as it is not whole.
#[must_use]
pub fn new_snapshot(number: SnapshotNumber) -> String {
    format!("{UNDER_WAY}{number}{NEW}")
}

/// Directory of an era.
#[must_use]
pub fn era(number: u64) -> String {
    format!("{ERA}{number:06}")
}

/// Number of the era with this name.
#[must_use]
pub fn era_number(name: &str) -> Option<u64> {
    name.strip_prefix(ERA)?.parse().ok()
}

/// Name of a segment.
#[must_use]
pub fn segment(number: u64, after: OpNumber) -> String {
    format!("{number:06}-{:020}{SEGMENT}", after.0)
}

/// Number of the segment with this name.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    let (number, _) = name.strip_suffix(SEGMENT)?.split_once('-')?;
    number.parse().ok()
}

/// Name of a snapshot.
#[must_use]
pub fn snapshot(at: OpNumber) -> String {
    format!("{:020}{SNAPSHOT}", at.0)
}

/// Op of the snapshot with this name.
#[must_use]
pub fn snapshot_op(name: &str) -> Option<OpNumber> {
    name.strip_suffix(SNAPSHOT)?.parse().ok().map(OpNumber)
}

/// Where a replaced era goes; `None` when nobody could read what generation it was.
#[must_use]
pub fn set_aside(number: u64, generation: Option<Generation>) -> String {
    match generation {
        Some(generation) => format!("{SET_ASIDE}/{}.generation-{generation}", era(number)),
        None => format!("{SET_ASIDE}/{}.damaged", era(number)),
    }
}

/// Number of an era that was set aside under this name.
#[must_use]
pub fn set_aside_number(name: &str) -> Option<u64> {
    era_number(name.split('.').next()?)
}

/// Generation of an era that was set aside under this name.
#[must_use]
pub fn set_aside_generation(name: &str) -> Option<Generation> {
    let (_, generation) = name.split_once(".generation-")?;
    generation.parse().ok().map(Generation)
}

/// What the identity file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Names the directory.
    pub storage: StorageId,
    /// The cluster to which it belongs, none before the first registration.
    pub cluster: ClusterId,
    /// Under which the entries of its log are applied.
    pub limits: StoreLimits,
}

/// Why one of the two small files cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadFile {
    /// It does not check out.
    Corrupt,
    /// A newer program wrote it.
    Newer(u32),
}

const TITLE: &str = "kvserver data";
/// The format of an identity that this program writes, and the newest that it reads.
pub const IDENTITY_LEVEL: u32 = 1;

const RECORD_TITLE: &str = "kvserver record";
/// The format of a record file that this program writes, and the newest that it reads.
pub const RECORD_LEVEL: u32 = 1;

/// A file of text lines: what it is and in which format, what it says, and a checksum of all that.
fn sealed(title: &str, level: u32, lines: &str) -> String {
    let text = format!("{title}, format {level}\n{lines}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {crc:08x}\n")
}

/// What such a file says.
fn unsealed<'a>(bytes: &'a [u8], title: &str, known: u32) -> Result<&'a str, BadFile> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadFile::Corrupt)?;
    let at = text.rfind("checksum ").ok_or(BadFile::Corrupt)?;
    let crc = crc32c::crc32c(&bytes[..at]);
    if text[at..] != format!("checksum {crc:08x}\n") {
        return Err(BadFile::Corrupt);
    }
    let (first, rest) = text[..at].split_once('\n').ok_or(BadFile::Corrupt)?;
    let level = first.strip_prefix(title).and_then(|rest| rest.strip_prefix(", format "));
    let level = level.and_then(|level| level.parse().ok()).ok_or(BadFile::Corrupt)?;
    if level > known { Err(BadFile::Newer(level)) } else { Ok(rest) }
}

/// The text of the file that keeps a record, for people too.
#[must_use]
pub fn encode_record(record: &View) -> String {
    let json = serde_json::to_string(record).expect("a record is made of plain values");
    sealed(RECORD_TITLE, RECORD_LEVEL, &json)
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// When it was not written so.
pub fn decode_record(bytes: &[u8]) -> Result<View, BadFile> {
    let json = unsealed(bytes, RECORD_TITLE, RECORD_LEVEL)?;
    serde_json::from_str(json).map_err(|_| BadFile::Corrupt)
}

impl Identity {
    /// The text of the file, for people too.
    #[must_use]
    pub fn encode(&self) -> String {
        let lines = format!(
            "storage {}\ncluster {}\nvalue-size-max {:x}\nsessions-max {:x}",
            self.storage, self.cluster, self.limits.value_size_max, self.limits.sessions_max
        );
        sealed(TITLE, IDENTITY_LEVEL, &lines)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When it was not written so.
    pub fn decode(bytes: &[u8]) -> Result<Identity, BadFile> {
        let mut lines = unsealed(bytes, TITLE, IDENTITY_LEVEL)?.lines();
        let mut field = |name: &str| {
            let line = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
            u128::from_str_radix(line, 16).ok()
        };
        let mut field = |name| field(name).ok_or(BadFile::Corrupt);
        let number = |field: u128| u64::try_from(field).map_err(|_| BadFile::Corrupt);
        let storage = StorageId(field("storage")?.to_be_bytes());
        let cluster = ClusterId(field("cluster")?.to_be_bytes());
        let value_size_max = number(field("value-size-max")?)?;
        let sessions_max = number(field("sessions-max")?)?;
        let limits = StoreLimits { value_size_max, sessions_max };
        Ok(Identity { storage, cluster, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_made() {
        assert_eq!(era_number(&era(7)), Some(7));
        assert_eq!(era_number("era-000007.new"), None);
        assert_eq!(segment_number(&segment(12, OpNumber(99))), Some(12));
        assert_eq!(segment_number(&snapshot(OpNumber(3))), None);
        assert_eq!(snapshot_op(&snapshot(OpNumber(3))), Some(OpNumber(3)));
        assert_eq!(set_aside_generation(&set_aside(1, Some(Generation(4)))), Some(Generation(4)));
        assert_eq!(set_aside_generation(&set_aside(1, None)), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all() {
        let record = View::none(ClusterId([0x0f; 16]), kvproto::Settings::default());
        let text = encode_record(&record);
        assert_eq!(decode_record(text.as_bytes()), Ok(record));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 0x20;
            assert_eq!(decode_record(&bytes), Err(BadFile::Corrupt), "{at}");
            assert_eq!(decode_record(&text.as_bytes()[..at]), Err(BadFile::Corrupt));
        }
        let newer = sealed(RECORD_TITLE, RECORD_LEVEL + 1, "");
        assert_eq!(decode_record(newer.as_bytes()), Err(BadFile::Newer(RECORD_LEVEL + 1)));
    }

    #[test]
    fn an_identity_is_read_as_it_was_written_or_not_at_all() {
        let identity = Identity {
            storage: StorageId([0xa5; 16]),
            cluster: ClusterId([0x0f; 16]),
            limits: StoreLimits { value_size_max: 8 << 20, sessions_max: 100_000 },
        };
        let text = identity.encode();
        assert_eq!(Identity::decode(text.as_bytes()), Ok(identity));
        for at in 0..text.len() {
            for mask in [1, 0x20, 0xff] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= mask;
                assert_eq!(Identity::decode(&bytes), Err(BadFile::Corrupt), "{at}");
            }
            assert_eq!(Identity::decode(&text.as_bytes()[..at]), Err(BadFile::Corrupt));
        }
    }
}
