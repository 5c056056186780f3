//! Stories with real processes. One test program, so that it can limit how many clusters run at
//! once. Needs the programs next to it: `cargo test --workspace` builds them as well.

mod addresses;
mod backups;
mod bad_input;
mod bench;
mod check;
mod common;
mod copies;
mod directories;
mod handover;
mod hanging_disk;
mod histories;
mod limits;
mod older_past;
mod primary_backup_6824;
mod scenes;
mod small_disk;
mod start_order;
mod torture;
mod views_on_disk;
