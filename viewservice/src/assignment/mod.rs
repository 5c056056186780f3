//! Who is primary and who is backup. Pure: values in, values out.
//!
//! In reading order:
//! - [`law`]: what is allowed. Refuses the rest, whoever proposes it; this is what a replicated log
//!   of the view service carries.
//! - [`liveness`]: who seems to live, and [`meetings`]: who was met at its address. Soft state of
//!   whoever leads; may be late or wrong.
//! - [`planner`]: what would be good to do next, given the two. Can only propose.
//! - [`requests`]: what full servers and operators ask for, turned into commands or a refusal.
//! - [`door`]: who came and was not let in. Soft state too.
//! - [`proof`]: what comes before everything else: whether a server knows another past than ours.
//! - [`plain`]: the same for the lab's pings.
//! - [`leader`]: all of them as one value: an event comes in, effects come out; [`notice`] is what
//!   it tells people.

pub mod door;
pub mod law;
pub mod leader;
pub mod liveness;
pub mod meetings;
pub mod notice;
pub mod plain;
pub mod planner;
pub mod proof;
pub mod requests;

#[cfg(test)]
mod tests;
