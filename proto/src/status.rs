//! The one table between refusals and gRPC statuses, in both directions.
//!
//! A status that carries our `google.rpc.ErrorInfo` (domain [`DOMAIN`]) proves what its reason
//! says. Any other status proves nothing, since the connection may have broken after the request was
//! ordered; the few exceptions are statuses that are only ever produced before a request reaches the
//! store. For these to hold, a client decodes answers of up to
//! [`MESSAGE_SIZE_MAX`](crate::limits::MESSAGE_SIZE_MAX): the answer to a command is never larger.
//!
//! | reason | code |
//! |---|---|
//! | `NOT_PRIMARY` (`primary`, `view`) | FAILED_PRECONDITION |
//! | `NOT_READY_TAKING_OVER`, `NOT_READY_UNCONFIRMED`, `NOT_READY_HANDING_OVER` | UNAVAILABLE |
//! | `OVERLOADED` | RESOURCE_EXHAUSTED |
//! | `OUT_OF_MEMORY` (`used`, `max`) | RESOURCE_EXHAUSTED |
//! | `DIRECTORY_GONE` (`server`) | UNAVAILABLE |
//! | `TOO_FEW_COPIES` (`synced`, `min_copies`) | UNAVAILABLE |
//! | `DIVERGED` (`op`) | DATA_LOSS |
//! | `INVALID` | INVALID_ARGUMENT |
//! | `WRONG_CLUSTER` (`cluster`) | FAILED_PRECONDITION |
//! | `OUTCOME_UNKNOWN` | ABORTED |

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt};

use crate::convert::Malformed;
use crate::ids::{ClusterId, OpNumber, ServerName, ViewNumber};
use crate::reply::{NotDone, NotReady, Reply};

/// Domain of our error details.
pub const DOMAIN: &str = "kvserver";

/// What a failed attempt proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// It certainly did nothing and will do nothing.
    NotDone(NotDone),
    /// It may have been done, or may still be.
    Unknown,
}

/// The status of a reply that is not an answer; `None` for answers, which travel as messages.
#[must_use]
pub fn to_status(reply: &Reply) -> Option<Status> {
    match reply {
        Reply::Done { .. } | Reply::Records { .. } | Reply::KeptAlive { .. } => None,
        Reply::NotDone(not_done) => Some(not_done_status(not_done)),
        Reply::Unknown => Some(unknown_status()),
    }
}

/// The status of an attempt that certainly did nothing.
#[must_use]
pub fn not_done_status(not_done: &NotDone) -> Status {
    let (code, reason, metadata) = match not_done {
        NotDone::NotPrimary { primary, view } => {
            let mut metadata = vec![("view", view.to_string())];
            metadata.extend(primary.as_ref().map(|name| ("primary", name.to_string())));
            (Code::FailedPrecondition, "NOT_PRIMARY", metadata)
        }
        NotDone::NotReady(not_ready) => (Code::Unavailable, not_ready_reason(*not_ready), vec![]),
        NotDone::Overloaded => (Code::ResourceExhausted, "OVERLOADED", vec![]),
        NotDone::OutOfMemory { used, max } => {
            let metadata = vec![("used", used.to_string()), ("max", max.to_string())];
            (Code::ResourceExhausted, "OUT_OF_MEMORY", metadata)
        }
        NotDone::DiskFull { server } => {
            (Code::ResourceExhausted, "DISK_FULL", vec![("server", server.to_string())])
        }
        NotDone::DirectoryGone { server } => {
            (Code::Unavailable, "DIRECTORY_GONE", vec![("server", server.to_string())])
        }
        NotDone::TooFewCopies { synced, min_copies } => {
            let metadata =
                vec![("synced", synced.to_string()), ("min_copies", min_copies.to_string())];
            (Code::Unavailable, "TOO_FEW_COPIES", metadata)
        }
        NotDone::Diverged { op } => (Code::DataLoss, "DIVERGED", vec![("op", op.to_string())]),
        NotDone::Invalid(_) => (Code::InvalidArgument, "INVALID", vec![]),
        NotDone::WrongCluster(cluster) => {
            let metadata = vec![("cluster", cluster.to_string())];
            (Code::FailedPrecondition, "WRONG_CLUSTER", metadata)
        }
    };
    with_info(code, not_done.to_string(), reason, metadata)
}

/// The status of an attempt whose outcome this server cannot tell.
#[must_use]
pub fn unknown_status() -> Status {
    with_info(
        Code::Aborted,
        "the outcome is unknown: the request may have been done; with a session, ask again with \
         the same request number"
            .into(),
        "OUTCOME_UNKNOWN",
        vec![],
    )
}

/// A message that made no sense was refused before anything was done with it.
impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Status {
        not_done_status(&NotDone::Invalid(malformed.to_string()))
    }
}

/// What a status proves about the attempt that ended with it.
#[must_use]
pub fn from_status(status: &Status) -> Attempt {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    match info {
        Some(info) => from_reason(&info, status.message()),
        None if refused_at_the_door(status) => {
            Attempt::NotDone(NotDone::Invalid(status.message().to_owned()))
        }
        None => Attempt::Unknown,
    }
}

/// Metadata are hints: where they are missing the reason still holds.
fn from_reason(info: &ErrorInfo, message: &str) -> Attempt {
    let text = |key: &str| info.metadata.get(key);
    let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
    let count = |key: &str| text(key).and_then(|text| text.parse::<u32>().ok());
    Attempt::NotDone(match info.reason.as_str() {
        "NOT_PRIMARY" => NotDone::NotPrimary {
            primary: text("primary")
                .filter(|name| !name.is_empty())
                .map(|name| ServerName::from(name.as_str())),
            view: ViewNumber(number("view").unwrap_or_default()),
        },
        "OVERLOADED" => NotDone::Overloaded,
        "OUT_OF_MEMORY" => NotDone::OutOfMemory {
            used: number("used").unwrap_or_default(),
            max: number("max").unwrap_or_default(),
        },
        "DISK_FULL" => NotDone::DiskFull {
            server: text("server").map(|name| ServerName::from(name.as_str())).unwrap_or_default(),
        },
        "DIRECTORY_GONE" => NotDone::DirectoryGone {
            server: text("server").map(|name| ServerName::from(name.as_str())).unwrap_or_default(),
        },
        "TOO_FEW_COPIES" => NotDone::TooFewCopies {
            synced: count("synced").unwrap_or_default(),
            min_copies: count("min_copies").unwrap_or_default(),
        },
        "DIVERGED" => NotDone::Diverged { op: OpNumber(number("op").unwrap_or_default()) },
        "INVALID" => NotDone::Invalid(message.to_owned()),
        "WRONG_CLUSTER" => NotDone::WrongCluster(
            text("cluster").and_then(|text| parse_cluster(text)).unwrap_or_default(),
        ),
        reason => match NOT_READY.into_iter().find(|it| not_ready_reason(*it) == reason) {
            Some(not_ready) => NotDone::NotReady(not_ready),
            None => return Attempt::Unknown,
        },
    })
}

const NOT_READY: [NotReady; 3] =
    [NotReady::TakingOver, NotReady::Unconfirmed, NotReady::HandingOver];

fn not_ready_reason(not_ready: NotReady) -> &'static str {
    match not_ready {
        NotReady::TakingOver => "NOT_READY_TAKING_OVER",
        NotReady::Unconfirmed => "NOT_READY_UNCONFIRMED",
        NotReady::HandingOver => "NOT_READY_HANDING_OVER",
    }
}

/// Statuses without our details that are produced before a request reaches the store: no such
/// method, a request that made no sense, one over the server's size limit.
fn refused_at_the_door(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented => true,
        Code::OutOfRange => status.message().starts_with("Error, decoded message length too large"),
        _ => false,
    }
}

fn parse_cluster(hex: &str) -> Option<ClusterId> {
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let id = u128::from_str_radix(hex, 16).ok()?;
    Some(ClusterId(id.to_be_bytes()))
}

fn with_info(code: Code, message: String, reason: &str, metadata: Vec<(&str, String)>) -> Status {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests;
