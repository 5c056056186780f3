//! Conversions between the wire types of [`pb`](crate::pb) and the domain: `From` outwards, and
//! `TryFrom` inwards with one error, [`Malformed`].
//!
//! The only place that knows that a field may be missing, that a digest or cluster id has 16 bytes
//! and that numbers which become versions and session ids have a range. It checks the form of a
//! message, never its sense: limits are in [`limits`](crate::limits), order and membership belong to
//! whoever receives it. What is not known (a command, a body, an expectation) is an error, never
//! skipped. Keys and values are moved, not copied, and no input makes it panic.

mod command;
mod message;
mod records;
mod registration;
mod view;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::ids::{ClusterId, Generation, History, OpNumber};
use crate::message::Digest;

pub use command::{Execute, ExecuteOperation};
pub use records::{RecordsWriter, StateRecord, records};

/// A message that no program of this protocol level sends. Nothing of it was used: refuse it, and
/// close the stream it came on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("malformed message: {what}")]
pub struct Malformed {
    /// What is missing or out of range.
    pub what: &'static str,
}

fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

pub(crate) fn required<T>(field: Option<T>, what: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed { what })
}

fn list<P, D>(items: Vec<P>) -> Result<Vec<D>, Malformed>
where
    D: TryFrom<P, Error = Malformed>,
{
    items.into_iter().map(D::try_from).collect()
}

fn into_list<D, P: From<D>>(items: Vec<D>) -> Vec<P> {
    items.into_iter().map(P::from).collect()
}

/// Versions and session ids have 16 bits for the generation.
fn generation(number: u64) -> Result<Generation, Malformed> {
    if number >= 1 << 16 {
        return malformed("a generation is out of range");
    }
    Ok(Generation(number))
}

/// Versions and session ids have 48 bits for the op number.
fn op(number: u64) -> Result<OpNumber, Malformed> {
    if number >= 1 << 48 {
        return malformed("an op number is out of range");
    }
    Ok(OpNumber(number))
}

/// Of all zeros where none is given.
fn history(bytes: &[u8]) -> Result<History, Malformed> {
    Ok(History(sixteen(bytes, "a history has 16 bytes")?.unwrap_or_default()))
}

fn history_bytes(history: History) -> Bytes {
    history.0.to_vec().into()
}

fn sixteen(bytes: &[u8], what: &'static str) -> Result<Option<[u8; 16]>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match bytes.try_into() {
        Ok(array) => Ok(Some(array)),
        Err(_) => malformed(what),
    }
}

fn cluster(bytes: &[u8]) -> Result<Option<ClusterId>, Malformed> {
    let id = sixteen(bytes, "a cluster id has 16 bytes")?.map(ClusterId);
    Ok(id.filter(|id| !id.is_none()))
}

fn cluster_bytes(id: ClusterId) -> Bytes {
    if id.is_none() { Bytes::new() } else { Bytes::copy_from_slice(&id.0) }
}

fn digest(bytes: &[u8]) -> Result<Option<Digest>, Malformed> {
    let digest = sixteen(bytes, "a digest has 16 bytes")?;
    Ok(digest.map(|bytes| Digest(u128::from_be_bytes(bytes))))
}

/// A digest as it travels: 16 bytes, the highest first.
impl From<Digest> for Bytes {
    fn from(digest: Digest) -> Bytes {
        Bytes::copy_from_slice(&digest.0.to_be_bytes())
    }
}

/// The inverse of the conversion to bytes; empty input is an error.
impl TryFrom<Bytes> for Digest {
    type Error = Malformed;
    fn try_from(bytes: Bytes) -> Result<Self, Malformed> {
        required(digest(&bytes)?, "a digest is missing")
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For a lease that is asked for: who promises must not promise less than the asker counts on.
fn millis_rounded_up(duration: Duration) -> u64 {
    millis(duration.saturating_add(Duration::from_nanos(999_999)))
}

#[cfg(test)]
mod tests;
