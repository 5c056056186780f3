//! Tries the store out, from a first put to every order of events that small clusters can take.
//!
//! In reading order:
//! - [`args`]: what can be asked for on the command line
//! - [`calls`]: the few calls that everything here is made of
//! - [`basic`]: the four basic tests, then a put and a get every second
//! - [`random`]: the one source of chance (pure)
//! - [`workload`], [`bench`](mod@bench): a load from a seed (pure), and how fast it is served, next
//!   to a bare echo
//! - [`ledger`], [`failover`]: what writers were promised (pure), and a drill that checks it
//!   through faults
//! - [`torture`]: everything is killed at once, again and again
//! - [`recorder`], [`history`]: what clients asked and were answered, as a file (its form is pure)
//! - [`check`](mod@check), [`linearizability`], [`witness`]: the verdict on a history, by a search
//!   that believes nothing and by the servers' own versions (both pure)
//! - [`scenes`]: what happens to a cluster that is joined, filled, overloaded or abused
//! - [`cluster`]: real processes on this machine; [`up`]: such a cluster for people
//! - [`sim`]: a whole cluster in memory that one seed decides (pure); [`sweep`]: many of them
//! - [`explore`]: every order in which small worlds of the production code can go
//! - [`report`]: tables, durations and lines for people

pub mod args;
pub mod basic;
pub mod bench;
pub mod calls;
pub mod check;
pub mod cluster;
pub mod explore;
pub mod failover;
pub mod history;
pub mod ledger;
pub mod linearizability;
pub mod random;
pub mod recorder;
pub mod report;
pub mod scenes;
pub mod sim;
pub mod sweep;
pub mod torture;
pub mod up;
pub mod witness;
pub mod workload;
