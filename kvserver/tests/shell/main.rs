//! The shell as a whole: servers in this process, on free ports, with a real view service or one that
//! says what the test says. One test program, so that all of it shares its helpers.

mod cluster;
mod common;
mod doors;
mod heartbeat;
mod leaving;
mod scripted;
