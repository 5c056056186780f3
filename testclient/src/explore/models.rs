//! The named models, small first. Pure.

use kvserver::replica::Reads;

use super::goals::Goal;
use super::model::{Budget, Model, Start};

const NOTHING: Budget = Model::new("", "").budget;

/// All models.
#[must_use]
pub fn all() -> Vec<Model> {
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
        Model {
            start: Start::Fresh,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            wedge_every: 1,
            goals: &[Goal::WriteDone, Goal::ProposedSuperseded],
            reads: Reads::Confirm,
            ..Model::new("fresh", "the first views of a new cluster")
        },
        Model {
            budget: Budget { proposals: 3, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::ShrinkConfirmed, Goal::TailDropped],
            reads: Reads::Confirm,
            ..Model::new("pair3v", "three view changes between two copies")
        },
        Model {
            budget: Budget { proposals: 2, writes: 1, restarts: 1, ..NOTHING },
            stale: true,
            goals: &[Goal::WriteAfterFailover, Goal::CountedOnRestarted],
            reads: Reads::Confirm,
            ..Model::new("pair-restart", "a copy restarts empty while it is counted on")
        },
        Model {
            start: Start::Led { backups: 0 },
            budget: Budget { proposals: 2, writes: 1, breaks: 1, passes: 1, ..NOTHING },
            quanta: &[160],
            stale: true,
            goals: &[Goal::NewcomerSynced, Goal::NewcomerPromoted],
            reads: Reads::Confirm,
            ..Model::new("join", "a newcomer is brought up by the log, and may lead")
        },
        Model {
            start: Start::Led { backups: 0 },
            budget: Budget { proposals: 2, writes: 1, breaks: 1, passes: 1, restarts: 1, ..NOTHING },
            quanta: &[160],
            goals: &[Goal::NewcomerSynced, Goal::NewcomerPromoted],
            reads: Reads::Confirm,
            ..Model::new("join-restart", "the newcomer restarts on the way")
        },
        Model {
            start: Start::Led { backups: 0 },
            forgetful: true,
            budget: Budget { proposals: 2, writes: 1, breaks: 1, passes: 1, ..NOTHING },
            quanta: &[160],
            goals: &[Goal::NewcomerSynced, Goal::NewcomerPromoted, Goal::Transferred],
            reads: Reads::Confirm,
            ..Model::new("join-transfer", "a newcomer is brought up by a full transfer")
        },
        Model {
            forgetful: true,
            budget: Budget { proposals: 3, writes: 1, ..NOTHING },
            goals: &[Goal::NewcomerSynced, Goal::Transferred],
            reads: Reads::Confirm,
            ..Model::new("rejoin-transfer", "a former copy is emptied only when nobody counts on it")
        },
        Model {
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 3, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::LeaseRead, Goal::ReadAfterFailover, Goal::DeposedHoldsRead],
            ..Model::new("lease", "reads under a lease while another is promoted")
        },
        Model {
            budget: Budget { proposals: 1, writes: 1, reads: 1, passes: 3, pauses: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::LeaseRead, Goal::LeaseRanOut, Goal::ActedAfterPause],
            ..Model::new("pause", "a server pauses between deciding and acting")
        },
        Model {
            start: Start::Led { backups: 0 },
            budget: Budget { proposals: 2, writes: 1, reads: 1, passes: 2, ..NOTHING },
            quanta: &[80],
            goals: &[Goal::LeaseRead, Goal::NewcomerSynced],
            ..Model::new("lease-join", "a copy that is being counted in grants leases too")
        },
        Model {
            reads: Reads::Confirm,
            budget: Budget { proposals: 1, writes: 1, reads: 2, passes: 1, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::ConfirmedRead, Goal::ReadAfterFailover, Goal::DeposedHoldsRead],
            ..Model::new("confirm", "reads confirmed by every copy, with no clock")
        },
        Model {
            budget: Budget { proposals: 2, writes: 1, reads: 1, passes: 1, leaves: 1, ..NOTHING },
            quanta: &[90],
            goals: &[Goal::HandedOver, Goal::Released, Goal::WriteAfterFailover],
            ..Model::new("release", "a primary is asked to stop, stops, and may lead again")
        },
        Model {
            budget: Budget { proposals: 2, writes: 1, passes: 2, ..NOTHING },
            quanta: &[40],
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped],
            reads: Reads::Confirm,
            ..Model::new("heartbeat", "heartbeats reach copies with an old tail")
        },
        Model {
            slow_journal: true,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped],
            reads: Reads::Confirm,
            ..Model::new("journal", "journals that finish late")
        },
        Model {
            servers: 3,
            start: Start::Led { backups: 2 },
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::TailDropped, Goal::ShrinkConfirmed],
            reads: Reads::Confirm,
            ..Model::new("failover3", "failover among three copies")
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
