//! Between calls and the messages that travel: values in, values out, of gRPC's types.

use std::error::Error as StdError;

use kvproto::convert::{Execute, ExecuteOperation};
use kvproto::pb::kvserver as pb;
use kvproto::status::{self, from_status};
use kvproto::{Reply, ServerName, Settings, View};
use tonic::{ConnectError, Status};

use crate::attempts::AttemptEnd;
use crate::caller::{Attempt, Operation};
use crate::servers::failed;

/// The message of one attempt.
pub(crate) fn request(attempt: Attempt) -> pb::ExecuteRequest {
    let operation = match attempt.operation {
        Operation::Query(query) => ExecuteOperation::Query(query),
        Operation::Command(command) => ExecuteOperation::Command { id: attempt.id, command },
        Operation::KeepAlive(session) => ExecuteOperation::KeepAlive(session),
    };
    Execute { cluster: attempt.cluster, operation }.into()
}

/// What came of an attempt at `server` that reached a connection.
pub(crate) fn attempt_end(
    server: &ServerName,
    answer: Result<pb::ExecuteResponse, Status>,
) -> AttemptEnd {
    match answer {
        Ok(response) => match Reply::try_from(response) {
            Ok(reply) => AttemptEnd::Reply(reply),
            Err(malformed) => {
                AttemptEnd::Lost(format!("{server}: the answer made no sense: {malformed}"))
            }
        },
        Err(status) if never_connected(&status) => AttemptEnd::NotSent(failed(server, &status)),
        Err(status) => match from_status(&status) {
            status::Attempt::NotDone(not_done) => AttemptEnd::Reply(Reply::NotDone(not_done)),
            status::Attempt::Unknown => AttemptEnd::Lost(failed(server, &status)),
        },
    }
}

/// A view record. One of a plain lab view service lacks what its clients do not need.
pub(crate) fn view(
    record: Option<kvproto::pb::viewservice::View>,
) -> Result<View, kvproto::convert::Malformed> {
    let mut record = record.unwrap_or_default();
    record.settings.get_or_insert_with(|| Settings::default().into());
    View::try_from(record)
}

/// Whether a status means that no connection could be made, as opposed to one that broke.
fn never_connected(status: &Status) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_proves_nothing_is_a_lost_attempt() {
        for status in [
            Status::unavailable("the connection broke"),
            Status::internal("h2"),
            Status::cancelled("Timeout expired"),
            Status::deadline_exceeded("late"),
        ] {
            let end = attempt_end(&"s1:1".into(), Err(status));
            assert!(matches!(end, AttemptEnd::Lost(_)), "{end:?}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_a_lost_attempt() {
        let end = attempt_end(&"s1:1".into(), Ok(pb::ExecuteResponse::default()));
        assert!(matches!(end, AttemptEnd::Lost(_)), "{end:?}");
    }

    #[test]
    fn a_view_of_a_plain_view_service_is_understood() {
        let record = kvproto::pb::viewservice::View {
            view_number: 3,
            primary: "s1:1".into(),
            backup: "s2:1".into(),
            ..Default::default()
        };
        let view = view(Some(record)).expect("understood");
        assert_eq!(view.primary_name().map(|name| name.as_str()), Some("s1:1"));
    }
}
