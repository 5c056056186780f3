//! A key-value server: one copy of the data, which may be primary, backup or spare.
//!
//! Pure, in reading order: [`store`] (the data), [`replica`] (the protocol), [`journal`] (where
//! entries are kept), [`memory`] (who gets how much). Shells: [`node`] (the loop), [`table`] (what
//! doors read without it), [`heartbeat`] (the view service), [`peers`] (other copies), [`api`]
//! (doors), [`storage`] (the data directory), [`config`] (the flags), and [`server`], which puts them
//! together. [`offline`] looks at the data of a server that does not run.

pub mod api;
pub mod config;
pub mod heartbeat;
pub mod journal;
pub mod memory;
pub mod node;
pub mod offline;
pub mod peers;
pub mod refusal;
pub mod replica;
pub mod server;
pub mod storage;
pub mod store;
pub mod table;

pub use config::{Config, Flags};
pub use server::run;
