//! An exhaustive explorer of small worlds made of the production code: the real law of views and
//! the real replicas, in every order in which things can happen.
//!
//! In reading order:
//! - [`model`], [`models`]: what a bounded world may do, and the named ones
//! - [`state`], [`step`], [`network`]: one state, how a step of a server is performed in it, and
//!   the ways between servers
//! - [`action`]: what may happen next
//! - [`properties`], [`heal`]: what must hold in every state, and that none is wedged
//! - [`goals`]: what must be reached, or silence says little
//! - [`explain`]: what happened, in words
//! - [`shared`]: values with their hashes
//! - [`search`]: breadth first, or at random (shell)
//! - [`command`]: the verb of the program (shell)

pub mod action;
pub mod command;
mod disk;
pub mod explain;
pub mod goals;
pub mod heal;
pub mod model;
pub mod models;
pub mod network;
pub mod properties;
pub mod search;
pub mod shared;
pub mod state;
pub mod step;
