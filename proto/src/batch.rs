//! Entries on their way to other copies: encoded once, however many they go to.
//!
//! Owns the encoding of a run of entries: each as a protobuf message behind its length. Does not
//! judge whether they are contiguous; whoever takes a batch does.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::command::Entry;
use crate::convert::Malformed;
use crate::pb::replication as pb;

/// Some entries of the log. Clones share them, and their encoding.
#[derive(Clone, Default)]
pub struct Batch(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Vec<Arc<Entry>>,
    encoded: OnceLock<Bytes>,
}

impl Batch {
    /// The entries in their wire form. The first call encodes, later ones on any clone do not.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.0.encoded.get_or_init(|| encode(&self.0.entries)).clone()
    }

    /// The entries of a wire form. Keys and values are slices of it.
    ///
    /// # Errors
    /// When the bytes are no entries.
    pub fn decode(encoded: Bytes) -> Result<Batch, Malformed> {
        let mut rest = encoded.clone();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let entry = pb::Entry::decode_length_delimited(&mut rest)
                .map_err(|_| Malformed { what: "a batch holds bytes that are no entry" })?;
            entries.push(Arc::new(entry.try_into()?));
        }
        Ok(Batch(Arc::new(Inner { entries, encoded: encoded.into() })))
    }
}

/// More than the numbers of an entry of one change take.
const NUMBERS_MAX: usize = 64;

fn encode(entries: &[Arc<Entry>]) -> Bytes {
    let size = |entry: &Arc<Entry>| NUMBERS_MAX + entry.command.payload();
    let mut out = BytesMut::with_capacity(entries.iter().map(size).sum());
    for entry in entries {
        let entry = pb::Entry::from(Entry::clone(entry));
        entry.encode_length_delimited(&mut out).expect("a growing buffer has room");
    }
    out.freeze()
}

impl From<Vec<Arc<Entry>>> for Batch {
    fn from(entries: Vec<Arc<Entry>>) -> Self {
        Batch(Arc::new(Inner { entries, encoded: OnceLock::new() }))
    }
}

impl Deref for Batch {
    type Target = [Arc<Entry>];
    fn deref(&self) -> &[Arc<Entry>] {
        &self.0.entries
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        **self == **other
    }
}

impl Eq for Batch {}

impl Hash for Batch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
