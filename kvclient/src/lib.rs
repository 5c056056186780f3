//! The client of the store.
//!
//! ```no_run
//! # async fn example() -> kvclient::Result<()> {
//! use kvclient::{CasResult, Client, ClientConfig, Expect};
//!
//! let client = Client::connect(ClientConfig::new("localhost:8000")).await?;
//! client.put("user:1", "Alice").await?;
//! if let Some(record) = client.get("user:1").await? {
//!     let swap = Expect::Version(record.version);
//!     match client.compare_and_set("user:1", swap, Some("Bob".into())).await? {
//!         CasResult::Done(changed) => println!("now at version {}", changed.version),
//!         CasResult::Conflict(record) => println!("somebody else wrote {record:?}"),
//!     }
//! }
//! client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a caller is promised
//! - A call ends in one of three ways: done; certainly not done; or, only as
//!   [`ErrorKind::OutcomeUnknown`], unknown. It never guesses.
//! - A call that was answered is kept, and everything a client reads is at least as new as
//!   everything it has seen before.
//! - By default writes go through a session, opened with the first one and kept alive in the
//!   background. Each is applied exactly once, however often it has to be sent. Should the session
//!   expire while an answer is missing, the call ends as unknown rather than being done twice.
//! - Failovers are invisible but for the time they take: a call tries until its time-out, moves on
//!   as soon as another server is primary, and asks the view service only then.
//! - A session has 64 writes in flight at most; more wait for their turn.
//!
//! ```no_run
//! # async fn example(client: kvclient::Client) {
//! use kvclient::ErrorKind;
//!
//! match client.append("log", "line\n").await {
//!     Ok(length) => println!("{length} bytes"),
//!     Err(error) => match error.kind() {
//!         ErrorKind::OutcomeUnknown => println!("read it before you append again: {error}"),
//!         _ => println!("nothing was changed: {error}"),
//!     },
//! }
//! # }
//! ```
//!
//! # Where to find what
//! Decisions, without I/O, public so that a simulator can drive them: [`caller`] (all calls of a
//! client, each from its first attempt to its end) and what it is made of: [`session`] (numbers,
//! window, floor), [`route`] (whom to ask), [`attempts`] (what a call may conclude), [`backoff`] (how
//! long to wait), and [`Error`].
//! Plumbing: `client` (the API), `admin` (what operators ask),
//! `dump` (all of one copy), `call` (does what [`caller`] says),
//! `views` (pushed views), `servers` (connections), `wire` (messages). The program `kvctl` is in
//! `src/bin`.

mod admin;
pub mod attempts;
pub mod backoff;
mod call;
pub mod caller;
mod client;
mod dump;
mod error;
pub mod route;
mod servers;
pub mod session;
mod views;
mod wire;

pub use admin::{ClusterStatus, Doubt, LeftOut, RefusedServer, ServerStatus, Shown};
pub use client::{CasResult, Client, ClientConfig};
pub use dump::{Dump, DumpSummary, Snapshot};
pub use error::{Error, ErrorKind, Result};
pub use kvproto::{Action, Change, Changed, Expect, Record, Version, View};
