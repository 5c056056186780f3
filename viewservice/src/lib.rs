//! The view service: who is primary, who is backup, one truth.
//!
//! - [`assignment`]: the decisions, pure
pub mod assignment;
