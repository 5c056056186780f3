//! An exhaustive explorer of small worlds made of the production code: the real law of views and
//! the real replicas, in every order in which things can happen.
//!
//! In reading order:
//! - [`model`], [`models`]: what a bounded world may do, and the named ones
//! - [`state`]: one state, and how a step of a server is performed in it
//! - [`action`]: what may happen next
//! - [`properties`], [`heal`]: what must hold in every state, and that none is wedged
//! - [`goals`]: what must be reached, or silence says little
//! - [`shared`]: values with their hashes
//! - [`search`]: breadth first, or at random (shell)
//! - [`command`]: the verb of the program (shell)

pub mod action;
pub mod command;
pub mod goals;
pub mod heal;
pub mod model;
pub mod models;
pub mod properties;
pub mod search;
pub mod shared;
pub mod state;
