//! The protocol as a pure value.
pub mod effect;
pub mod event;
