//! How each program of the store starts, listens, dials, logs and stops. Knows nothing of views,
//! logs or keys.
//!
//! In the order in which a program uses them:
//! - [`args`]: command line, environment and configuration file
//! - [`logging`], [`clock`]
//! - [`shutdown`]: signals become a token
//! - [`data_dir`]: where it keeps what must outlive it; [`snapshot_file`]: backups
//! - [`listen`], [`serve`]: its own address; [`dial`]: other people's;
//!   [`meeting`]: who answers there
//! - [`machine`]: what there is to share; [`size`]: bytes in words
//!
//! Behind [`serve`]: `connection` (who gets a place and who loses it), `calls` and `budget` (what each
//! call may hold).

pub mod args;
mod budget;
mod calls;
pub mod clock;
mod connection;
pub mod data_dir;
pub mod dial;
pub mod listen;
pub mod logging;
pub mod machine;
pub mod meeting;
pub mod serve;
pub mod shutdown;
pub mod size;
pub mod snapshot_file;

/// Version of all programs of the store.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
