//! What both benchmarks load: keys of 16 bytes in random order with values of 100.

use bytes::Bytes;
use kvproto::{Action, Change, Command};

/// The key of this number: 16 digits that have no order in common with the numbers.
pub(crate) fn key(number: u64) -> Bytes {
    // Splitmix64 (Steele, Lea, Flood 2014).
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Bytes::from(format!("{:016x}", mixed ^ (mixed >> 27)))
}

/// Puts a value of 100 bytes.
pub(crate) fn put(number: u64) -> Command {
    let value = Bytes::from(vec![number as u8; 100]);
    Command::Change(Change { key: key(number), action: Action::Put(value) })
}
