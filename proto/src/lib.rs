//! The contract of the store, which every other crate depends on.
//!
//! In reading order:
//! - [`ids`], [`time`]: identities, positions and the two clocks
//! - [`view`], [`settings`]: a view record, and what a cluster is set to
//! - [`command`], [`reply`], [`limits`]: what can be asked, what is answered, what is allowed
//! - [`message`]: what copies say to each other, entries in a [`batch`], all of it on a [`wire`];
//!   [`registration`]: servers and the view service
//! - [`snapshot`]: the file format of a state at one op, and the [`digest`] that it is checked by
//! - [`rules`]: the single rules of the protocol by name, for tests that drop one; [`codec`]: how
//!   calls are buffered; [`memory`]: what things take
//! - [`pb`]: the generated wire types; only [`convert`] and [`wire`] know their gaps, and [`status`] is
//!   the one table between refusals and gRPC statuses

pub mod batch;
pub mod codec;
pub mod command;
pub mod convert;
pub mod digest;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod message;
pub mod registration;
pub mod reply;
pub mod rules;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod time;
pub mod view;
pub mod wire;

pub use batch::Batch;
pub use command::{
    Action, Change, Changed, Command, Entry, Expect, Outcome, Query, Record, Refusal, RequestId,
};
pub use ids::{
    ClusterId, Epoch, EpochStart, Generation, History, Incarnation, LifeId, Member, Nonce,
    OpNumber, Position, RequestNumber, Revision, ServerName, SessionId, StorageId, StreamNumber,
    Version, ViewNumber,
};
pub use message::Digest;
pub use reply::{LogPoint, NotDone, NotReady, Reply};
pub use rules::{Rule, keeps};
pub use settings::Settings;
pub use time::{LogTime, Timestamp};
pub use view::{Role, View, ViewOrder, ViewStatus};

/// Generated from the `.proto` files of this crate.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    reason = "generated code; the .proto files carry the docs"
)]
pub mod pb {
    /// Package `viewservice`.
    pub mod viewservice {
        tonic::include_proto!("viewservice");
    }
    /// Package `kvserver`.
    pub mod kvserver {
        tonic::include_proto!("kvserver");
    }
    /// Package `replication`.
    pub mod replication {
        tonic::include_proto!("replication");
    }
    /// Package `proto`, the name that programs of the Go predecessor use.
    pub mod legacy {
        tonic::include_proto!("proto");
    }
    /// Descriptors of all files, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
