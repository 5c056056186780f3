//! Every way to say no arrives as what it was.

use super::*;
use crate::command::Outcome;
use crate::reply::LogPoint;

fn every_not_done() -> Vec<(NotDone, Code)> {
    vec![
        (
            NotDone::NotPrimary { primary: Some("localhost:8002".into()), view: ViewNumber(7) },
            Code::FailedPrecondition,
        ),
        (
            NotDone::NotPrimary { primary: None, view: ViewNumber(u64::MAX) },
            Code::FailedPrecondition,
        ),
        (NotDone::NotReady(NotReady::TakingOver), Code::Unavailable),
        (NotDone::NotReady(NotReady::Unconfirmed), Code::Unavailable),
        (NotDone::NotReady(NotReady::HandingOver), Code::Unavailable),
        (NotDone::Overloaded, Code::ResourceExhausted),
        (NotDone::OutOfMemory { used: 91, max: 96 << 20 }, Code::ResourceExhausted),
        (NotDone::DiskFull { server: "s2".into() }, Code::ResourceExhausted),
        (NotDone::DirectoryGone { server: "s2".into() }, Code::Unavailable),
        (NotDone::TooFewCopies { synced: 1, min_copies: 2 }, Code::Unavailable),
        (NotDone::Diverged { op: OpNumber(99) }, Code::DataLoss),
        (NotDone::Invalid("a key must not be empty".into()), Code::InvalidArgument),
        (NotDone::WrongCluster(ClusterId([0xab; 16])), Code::FailedPrecondition),
    ]
}

/// As the status arrives at the other end of a connection.
fn over_the_wire(status: &Status) -> Status {
    let response: tonic::codegen::http::Response<()> = status.clone().into_http();
    Status::from_header_map(response.headers()).expect("a status has its headers")
}

#[test]
fn every_refusal_survives_the_wire_with_its_code() {
    for (not_done, code) in every_not_done() {
        let status = over_the_wire(&not_done_status(&not_done));
        assert_eq!(status.code(), code, "{not_done:?}");
        assert_eq!(status.message(), not_done.to_string());
        assert_eq!(from_status(&status), Attempt::NotDone(not_done));
    }
}

#[test]
fn an_unknown_outcome_stays_unknown() {
    let status = over_the_wire(&unknown_status());
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(from_status(&status), Attempt::Unknown);
}

#[test]
fn answers_have_no_status_and_everything_else_has() {
    let done = Reply::Done { at: LogPoint::default(), outcome: Outcome::Barrier };
    assert!(to_status(&done).is_none());
    let refused = to_status(&Reply::NotDone(NotDone::Overloaded)).unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let unknown = to_status(&Reply::Unknown).unwrap();
    assert_eq!(unknown.code(), Code::Aborted);
}

#[test]
fn a_status_without_our_details_proves_nothing() {
    let codes = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];
    for code in codes {
        let status = Status::new(code, "connection reset");
        assert_eq!(from_status(&status), Attempt::Unknown, "{code:?}");
    }
}

#[test]
fn details_of_another_domain_or_an_unknown_reason_prove_nothing() {
    for (reason, domain) in [("NOT_PRIMARY", "elsewhere"), ("NEWER_THAN_US", DOMAIN)] {
        let details = ErrorDetails::with_error_info(reason, domain, HashMap::new());
        let status = Status::with_error_details(Code::FailedPrecondition, "no", details);
        assert_eq!(from_status(&status), Attempt::Unknown);
    }
}

#[test]
fn a_refusal_at_the_door_is_certainly_not_done() {
    let too_large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
    for status in [
        Status::invalid_argument("what?"),
        Status::unimplemented("no such method"),
        Status::out_of_range(too_large),
    ] {
        let invalid = NotDone::Invalid(status.message().to_owned());
        assert_eq!(from_status(&status), Attempt::NotDone(invalid));
    }
}

#[test]
fn missing_or_broken_metadata_leave_the_reason_standing() {
    let broken = HashMap::from([
        ("view".to_owned(), "seven".to_owned()),
        ("cluster".to_owned(), "+".repeat(32)),
        ("synced".to_owned(), "-1".to_owned()),
    ]);
    let expected = [
        ("NOT_PRIMARY", NotDone::NotPrimary { primary: None, view: ViewNumber(0) }),
        ("WRONG_CLUSTER", NotDone::WrongCluster(ClusterId::default())),
        ("TOO_FEW_COPIES", NotDone::TooFewCopies { synced: 0, min_copies: 0 }),
    ];
    for (reason, not_done) in expected {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, broken.clone());
        let status = Status::with_error_details(Code::Unavailable, "", details);
        assert_eq!(from_status(&status), Attempt::NotDone(not_done));
    }
}

#[test]
fn a_malformed_request_is_refused_as_invalid() {
    let status = Status::from(Malformed { what: "it is empty" });
    let invalid = NotDone::Invalid("malformed message: it is empty".into());
    assert_eq!(from_status(&status), Attempt::NotDone(invalid));
}
