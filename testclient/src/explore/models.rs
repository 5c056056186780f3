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
            start: Start::Fresh,
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            wedge_every: 1,
            stale: true,
            goals: &[Goal::WriteDone, Goal::ProposedSuperseded],
            ..Model::new("fresh", "the first views of a new cluster")
        },
        Model {
            budget: Budget { proposals: 2, writes: 1, ..NOTHING },
            wedge_every: 16,
            goals: &[Goal::WriteAfterFailover, Goal::ShrinkConfirmed, Goal::TailDropped],
            ..Model::new("pair", "failover and back between two copies")
        },
        Model {
            budget: Budget { proposals: 2, writes: 1, restarts: 1, ..NOTHING },
            goals: &[Goal::WriteAfterFailover, Goal::CountedOnRestarted],
            ..Model::new("pair-restart", "a copy restarts empty while it is counted on")
        },
    ]
}
