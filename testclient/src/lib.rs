//! x
pub mod sim;
