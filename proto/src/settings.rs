//! Settings of the cluster: given to the view service at its first start, sent with every view.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rules::{Rule, keeps};

/// Timings, limits and copies, the same for all servers of a cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// A server pings the view service this often.
    pub ping_interval: Duration,
    /// A server unheard for this long is dead.
    pub dead_after: Duration,
    /// An idle primary sends a heartbeat this often.
    pub heartbeat_interval: Duration,
    /// Read lease that backups grant the primary.
    pub lease: Duration,
    /// A copy that leaves something unanswered for this long is left out of the view.
    pub stall_after: Duration,
    /// A session lives this long after its last keep-alive.
    pub session_lease: Duration,
    /// Servers in a view, the primary included.
    pub copies: u32,
    /// With fewer synced copies than this, the primary included, writes are refused.
    pub min_copies: u32,
    /// Largest key in bytes.
    pub key_size_max: u64,
    /// Largest value in bytes.
    pub value_size_max: u64,
    /// Largest op in bytes: all its keys and values.
    pub op_size_max: u64,
    /// Most sessions open at once.
    pub sessions_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ping_interval: Duration::from_millis(500),
            dead_after: Duration::from_millis(1500),
            heartbeat_interval: Duration::from_millis(100),
            lease: Duration::from_millis(400),
            stall_after: Duration::from_millis(750),
            session_lease: Duration::from_secs(30),
            copies: 2,
            min_copies: 1,
            key_size_max: 64 << 10,
            value_size_max: 8 << 20,
            op_size_max: 16 << 20,
            sessions_max: 100_000,
        }
    }
}

/// Two settings that contradict each other. The message names both flags and the rule.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct Contradiction(String);

impl Settings {
    /// Checks every relation between the settings.
    ///
    /// # Errors
    /// The first relation that does not hold, in words that name both flags.
    pub fn validate(&self) -> Result<(), Contradiction> {
        let rule = |holds: bool, message: String| {
            if holds { Ok(()) } else { Err(Contradiction(message)) }
        };
        rule(!self.ping_interval.is_zero(), "--ping-interval must be more than 0".into())?;
        rule(
            self.dead_after >= self.ping_interval * 3,
            format!(
                "--dead-after {:?} must be at least three times --ping-interval {:?}",
                self.dead_after, self.ping_interval
            ),
        )?;
        rule(
            !self.heartbeat_interval.is_zero(),
            "--heartbeat-interval must be more than 0".into(),
        )?;
        rule(
            self.lease >= self.heartbeat_interval * 3,
            format!(
                "--lease {:?} must be at least three times --heartbeat-interval {:?}",
                self.lease, self.heartbeat_interval
            ),
        )?;
        rule(
            self.lease < self.dead_after,
            format!(
                "--lease {:?} must be less than --dead-after {:?}",
                self.lease, self.dead_after
            ),
        )?;
        rule(
            self.stall_after > self.lease,
            format!(
                "--stall-after {:?} must be more than --lease {:?}",
                self.stall_after, self.lease
            ),
        )?;
        rule(
            self.session_lease > self.dead_after * 2,
            format!(
                "--session-lease {:?} must be more than twice --dead-after {:?}",
                self.session_lease, self.dead_after
            ),
        )?;
        rule((1..=16).contains(&self.copies), format!("--copies {} must be 1 to 16", self.copies))?;
        rule(
            (1..=self.copies).contains(&self.min_copies),
            format!("--min-copies {} must be 1 to --copies {}", self.min_copies, self.copies),
        )?;
        rule(self.key_size_max > 0, "--key-size-max must be more than 0".into())?;
        rule(
            self.key_size_max + self.value_size_max <= self.op_size_max,
            format!(
                "--key-size-max {} and --value-size-max {} together must be at most --op-size-max {}",
                self.key_size_max, self.value_size_max, self.op_size_max
            ),
        )?;
        rule(
            self.op_size_max <= 64 << 20,
            format!("--op-size-max {} must be at most 64 MiB", self.op_size_max),
        )?;
        rule(self.sessions_max > 0, "--sessions-max must be more than 0".into())
    }

    /// How long the primary may rely on a lease of length `lease`, counted from the send time of
    /// the message that asked for it: shortened for clocks whose rates differ by up to 1 %, less
    /// 20 ms. Zero when nothing is left. (Gray and Cheriton, Leases, 1989.)
    #[must_use]
    pub fn lease_held(lease: Duration) -> Duration {
        if !keeps(Rule::LeaseHasMargins) {
            return lease;
        }
        (lease * 99 / 101).saturating_sub(Duration::from_millis(20))
    }
}
