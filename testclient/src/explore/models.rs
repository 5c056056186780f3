//! The named models, small first. Pure.
//!
//! Where leases play no part reads are confirmed, so that nobody waits for a clock that stands.

use kvserver::replica::Reads;

use super::goals::Goal;
use super::model::{Budget, Model, Start};

const NOTHING: Budget = Model::new("", "").budget;

/// All models.
#[must_use]
pub fn all() -> Vec<Model> {
    [calm(), views(), disks(), put_backs(), joins(), repeats(), reads(), big()].concat()
}

/// One client, and nothing that fails.
#[must_use]
pub fn calm() -> Vec<Model> {
    vec![
        Model {
            servers: 1,
            start: Start::Led { backups: 0 },
            budget: Budget { writes: 2, reads: 2, passes: 2, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::WriteDone],
            ..Model::new("e16", "one client, one server")
        },
        Model {
            servers: 3,
            start: Start::Led { backups: 2 },
            budget: Budget { writes: 2, reads: 1, passes: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::WriteDone, Goal::LeaseRead],
            ..Model::new("e17", "one client, three servers that form a view")
        },
    ]
}

/// View changes, failover, restarts.
#[must_use]
pub fn views() -> Vec<Model> {
    vec![
        Model {
            start: Start::Fresh,
            reads: Reads::Confirm,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            wedge_every: 8,
            goals: &[Goal::WriteDone, Goal::ProposedSuperseded],
            ..Model::new("fresh", "the first views of a new cluster")
        },
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 3, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::ShrinkConfirmed, Goal::TailDropped],
            ..Model::new("pair3v", "three view changes between two copies")
        },
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 2, writes: 1, restarts: 1, ..NOTHING },
            stale: true,
            goals: &[Goal::WriteAfterFailover, Goal::CountedOnRestarted],
            ..Model::new("pair-restart", "a copy restarts empty while it is counted on")
        },
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 2, writes: 1, passes: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped],
            ..Model::new("heartbeat", "heartbeats reach copies with an old tail")
        },
        Model {
            reads: Reads::Confirm,
            slow_journal: true,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped],
            ..Model::new("journal", "journals that finish late")
        },
        Model {
            servers: 3,
            start: Start::Led { backups: 2 },
            reads: Reads::Confirm,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped, Goal::ShrinkConfirmed],
            ..Model::new("failover3", "failover among three copies")
        },
    ]
}

/// Servers that come back with their data.
#[must_use]
pub fn disks() -> Vec<Model> {
    let durable = Model {
        durable: true,
        slow_journal: true,
        reads: Reads::Confirm,
        budget: Budget { proposals: 2, writes: 1, restarts: 1, ..NOTHING },
        goals: &[Goal::WriteAfterFailover, Goal::CameBack],
        ..Model::new("durable", "a copy or the primary restarts with what it had synced")
    };
    vec![
        Model {
            name: "durable-join",
            about: "a newcomer restarts with what it had, at any moment of joining",
            start: Start::Joining,
            slow_journal: false,
            budget: Budget { proposals: 1, writes: 1, restarts: 1, ..NOTHING },
            goals: &[Goal::NewcomerSynced, Goal::CameBack],
            ..durable.clone()
        },
        Model {
            name: "durable-transfer",
            about: "a newcomer restarts at any moment of a full transfer",
            start: Start::Joining,
            slow_journal: false,
            forgetful: true,
            budget: Budget { proposals: 1, writes: 1, restarts: 1, ..NOTHING },
            goals: &[Goal::NewcomerSynced, Goal::Transferred, Goal::CameBack],
            ..durable.clone()
        },
        Model {
            name: "durable-lease",
            about: "a backup that restarts has forgotten the lease that it granted",
            slow_journal: false,
            reads: Reads::Lease,
            budget: Budget { proposals: 1, writes: 1, restarts: 1, reads: 1, passes: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::LeaseRead, Goal::CameBack, Goal::WriteAfterFailover],
            ..durable.clone()
        },
        durable,
    ]
}

/// The view service is put back to an older state.
#[must_use]
pub fn put_backs() -> Vec<Model> {
    let put_back = Model {
        durable: true,
        slow_journal: true,
        reads: Reads::Confirm,
        budget: Budget { proposals: 1, writes: 1, restarts: 1, put_backs: 1, ..NOTHING },
        goals: &[Goal::WriteDone, Goal::Doubted, Goal::PutBackUnharmed],
        ..Model::new("put-back", "the view service is put back, and a copy shows what it knows")
    };
    vec![
        Model {
            name: "put-back3",
            about: "the same among three servers, of which one joins",
            servers: 3,
            slow_journal: false,
            budget: Budget { restarts: 0, ..put_back.budget },
            ..put_back.clone()
        },
        Model {
            name: "put-back-left",
            about: "the same with a copy that is left out by the others",
            servers: 3,
            start: Start::Led { backups: 2 },
            slow_journal: false,
            budget: Budget { restarts: 0, ..put_back.budget },
            ..put_back.clone()
        },
        put_back,
    ]
}

/// Requests that are repeated.
#[must_use]
pub fn repeats() -> Vec<Model> {
    let once = Model {
        sessions: true,
        reads: Reads::Confirm,
        budget: Budget { proposals: 2, writes: 1, repeats: 2, ..NOTHING },
        goals: &[Goal::RepeatAnswered, Goal::WriteAfterFailover],
        ..Model::new("once", "a write is repeated, before and after a failover")
    };
    vec![
        Model {
            name: "once-transfer",
            about: "a write is repeated to a copy that was brought up by a transfer",
            start: Start::Joining,
            forgetful: true,
            budget: Budget { proposals: 1, writes: 1, repeats: 1, ..NOTHING },
            goals: &[Goal::RepeatAnswered, Goal::Transferred],
            ..once.clone()
        },
        once,
    ]
}

/// Newcomers.
#[must_use]
pub fn joins() -> Vec<Model> {
    let synced = &[Goal::NewcomerSynced, Goal::NewcomerPromoted];
    let transferred = &[Goal::NewcomerSynced, Goal::NewcomerPromoted, Goal::Transferred];
    vec![
        Model {
            start: Start::Joining,
            reads: Reads::Confirm,
            stale: true,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: synced,
            ..Model::new("join", "a newcomer is brought up by the log, and may lead")
        },
        Model {
            start: Start::Joining,
            reads: Reads::Confirm,
            budget: Budget { proposals: 1, writes: 1, breaks: 1, passes: 1, ..NOTHING },
            quanta: &[160],
            goals: synced,
            ..Model::new("join-break", "the newcomer's stream breaks on the way")
        },
        Model {
            start: Start::Joining,
            reads: Reads::Confirm,
            stale: true,
            budget: Budget { proposals: 1, writes: 1, restarts: 1, ..NOTHING },
            goals: synced,
            ..Model::new("join-restart", "the newcomer restarts on the way")
        },
        Model {
            start: Start::Joining,
            reads: Reads::Confirm,
            forgetful: true,
            budget: Budget { proposals: 1, writes: 1, breaks: 1, passes: 1, ..NOTHING },
            quanta: &[160],
            goals: transferred,
            ..Model::new("join-transfer", "a newcomer is brought up by a full transfer")
        },
        Model {
            reads: Reads::Confirm,
            forgetful: true,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: &[Goal::NewcomerSynced, Goal::Transferred],
            ..Model::new(
                "rejoin-transfer",
                "a former copy is emptied only when nobody counts on it",
            )
        },
    ]
}

/// Leases, confirmations, hand-over.
#[must_use]
pub fn reads() -> Vec<Model> {
    vec![
        Model {
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 3, ..NOTHING },
            quanta: &[50],
            goals: &[Goal::LeaseRead, Goal::ReadAfterFailover, Goal::DeposedHoldsRead],
            ..Model::new("lease", "reads under a lease while another is promoted")
        },
        Model {
            sleepy: true,
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 2, ..NOTHING },
            quanta: &[80],
            goals: &[Goal::LeaseRead, Goal::ReadAfterFailover],
            ..Model::new("sleep", "servers oversleep the end of a lease")
        },
        Model {
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 2, pauses: 1, ..NOTHING },
            quanta: &[80],
            goals: &[Goal::LeaseRead, Goal::LeaseRanOut, Goal::ActedAfterPause],
            ..Model::new("pause", "a server pauses between deciding and acting")
        },
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 1, writes: 1, reads: 2, passes: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::ConfirmedRead, Goal::ReadAfterFailover, Goal::DeposedHoldsRead],
            ..Model::new("confirm", "reads confirmed by every copy, with no clock")
        },
        Model {
            start: Start::Joining,
            reads: Reads::Confirm,
            budget: Budget { proposals: 1, writes: 1, reads: 1, ..NOTHING },
            goals: &[Goal::ConfirmedRead, Goal::NewcomerPromoted, Goal::ReadAfterFailover],
            ..Model::new("confirm-join", "whoever was asked to be counted in confirms too")
        },
        Model {
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 1, leaves: 1, ..NOTHING },
            quanta: &[80],
            goals: &[Goal::HandedOver, Goal::Released, Goal::WriteAfterFailover],
            ..Model::new("release", "a primary is asked to stop, and hands over")
        },
        Model {
            servers: 3,
            start: Start::Led { backups: 2 },
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 2, ..NOTHING },
            quanta: &[80],
            goals: &[Goal::LeaseRead, Goal::ReadAfterFailover],
            ..Model::new("lease3", "a lease holds only when all copies granted it")
        },
    ]
}

/// Models for a patient machine, and for walks.
#[must_use]
pub fn big() -> Vec<Model> {
    let everything = Budget {
        proposals: 60,
        restarts: 6,
        breaks: 30,
        writes: 60,
        repeats: 60,
        reads: 60,
        passes: 200,
        pauses: 20,
        leaves: 10,
        put_backs: 0,
    };
    let walked = Model {
        servers: 3,
        start: Start::Led { backups: 2 },
        budget: everything,
        quanta: &[20, 50, 90, 160],
        sessions: true,
        walked: true,
        in_ci: false,
        goals: &[
            Goal::WriteAfterFailover,
            Goal::ReadAfterFailover,
            Goal::NewcomerSynced,
            Goal::NewcomerPromoted,
            Goal::ShrinkConfirmed,
            Goal::ProposedSuperseded,
            Goal::OldPrimaryReappointed,
            Goal::TailDropped,
            Goal::DeposedHoldsRead,
            Goal::LeaseRead,
            Goal::LeaseRanOut,
            Goal::ConfirmedRead,
            Goal::HandedOver,
            Goal::Released,
            Goal::Fenced,
            Goal::CountedOnRestarted,
            Goal::LateMessage,
            Goal::ActedAfterPause,
            Goal::RepeatAnswered,
        ],
        ..Model::new("e20", "three servers and everything that can happen to them")
    };
    vec![
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 4, writes: 2, ..NOTHING },
            in_ci: false,
            ..Model::new("pair4v", "four view changes and two writes between two copies")
        },
        Model {
            stale: true,
            budget: Budget { proposals: 3, writes: 1, reads: 1, passes: 2, ..NOTHING },
            quanta: &[80],
            in_ci: false,
            ..Model::new("lease3v", "leases over three view changes, late wishes and records")
        },
        Model {
            budget: Budget { proposals: 3, writes: 1, reads: 1, passes: 3, leaves: 1, ..NOTHING },
            quanta: &[40],
            in_ci: false,
            ..Model::new("release3v", "a primary hands over and leads again")
        },
        Model {
            servers: 3,
            start: Start::Joining,
            forgetful: true,
            reads: Reads::Confirm,
            budget: Budget {
                proposals: 3,
                writes: 2,
                breaks: 1,
                restarts: 1,
                passes: 1,
                ..NOTHING
            },
            quanta: &[160],
            in_ci: false,
            ..Model::new("join3", "transfers among three servers")
        },
        walked.clone(),
        Model {
            forgetful: true,
            slow_journal: true,
            name: "e20-transfer",
            about: "the same with full transfers and slow journals",
            goals: &[Goal::WriteAfterFailover, Goal::NewcomerPromoted, Goal::Transferred],
            ..walked.clone()
        },
        Model {
            reads: Reads::Confirm,
            stale: true,
            name: "e20-confirm",
            about: "the same with confirmed reads and everything that is out of date",
            goals: &[Goal::ConfirmedRead, Goal::WriteAfterFailover],
            ..walked
        },
    ]
}
