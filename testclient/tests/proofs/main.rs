//! The protocol and what keeps it on disk, proven without real servers: simulations of many seeds, worlds
//! explored completely, tests of the labs, storage engines on disks that lie; and that each of them
//! notices when a rule is dropped.

mod exploration;
mod hanging;
#[cfg(debug_assertions)]
mod mutants;
mod older_past;
mod simulation;
mod slow;
mod storage;
mod tales;
