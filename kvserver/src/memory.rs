//! How a server divides the memory that it was given. Pure.
//!
//! The data gets what everything else leaves. Everything else is bounded, and set aside whether it is
//! used or not, so that a write is refused at the same size of the data whatever else goes on: also
//! while a newcomer is brought up, which is the worst moment to run out. With little memory all of it
//! shrinks in proportion.

use kvprocess::serve::{CONNECTION_COST, CONNECTIONS_MAX, CallLimits};
use kvproto::Settings;
use kvproto::limits::{BATCH_SIZE_MAX, MESSAGE_SIZE_MAX};

use crate::replica::Tuning;

/// A server with less could not hold anything worth having.
pub const MAX_MEMORY_MIN: u64 = 64 * MIB;

const MIB: u64 = 1 << 20;
/// The program and its runtime; about half of it when measured.
const PROCESS: u64 = 16 * MIB;
/// The allocator rounds up, and keeps pages that are only partly used: a sixteenth of the whole.
const ALLOCATOR: u64 = 16;
/// Copies that may be brought up at the same time, each with chunks of its own under way.
const TRANSFERS: u64 = 2;

/// The shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shares {
    /// What there was to divide.
    pub memory_max: u64,
    /// Log, windows and transfers, and how much is left for the data.
    pub tuning: Tuning,
    /// What the calls of clients may hold.
    pub calls: CallLimits,
    /// Connections open at once.
    pub connections_max: usize,
}

impl Shares {
    /// Divides so many bytes, at least [`MAX_MEMORY_MIN`].
    #[must_use]
    pub fn of(memory_max: u64) -> Shares {
        let full = Tuning::default();
        // A share of the whole, or as much as suits a server with plenty.
        let share = |part: u64, plenty: usize| {
            usize::try_from(memory_max / part).unwrap_or(usize::MAX).min(plenty)
        };
        let calls = share(8, 256 << 20);
        let connections_max = share(16, CONNECTIONS_MAX * CONNECTION_COST) / CONNECTION_COST;
        let mut tuning = Tuning {
            window_bytes: share(32, full.window_bytes),
            batch_bytes: share(64, BATCH_SIZE_MAX),
            retain_bytes: share(32, full.retain_bytes),
            retain_bytes_max: share(8, full.retain_bytes_max),
            chunk_bytes: share(4096, full.chunk_bytes),
            uncommitted_bytes_max: share(32, full.uncommitted_bytes_max),
            ..full
        };
        let log = (tuning.retain_bytes_max + tuning.uncommitted_bytes_max) as u64;
        let chunks = tuning.chunk_bytes as u64 * tuning.chunks_in_flight;
        let reserved = PROCESS
            + memory_max / ALLOCATOR
            + (calls + connections_max * CONNECTION_COST) as u64
            + log
            + tuning.window_bytes as u64
            + chunks * TRANSFERS;
        tuning.data_max = memory_max - reserved;
        let calls = CallLimits {
            bytes_max: calls,
            // Room for the largest message if there is any, and never so much that one connection
            // could take all.
            connection_bytes_max: (calls / 4).max(MESSAGE_SIZE_MAX.min(calls / 3)),
            exempt: &[],
        };
        Shares { memory_max, tuning, calls, connections_max }
    }

    /// The least memory with which a server takes every request that a cluster with these settings
    /// allows: a connection may hold the third part of an eighth of it.
    #[must_use]
    pub fn memory_for_requests(settings: &Settings) -> u64 {
        // Beside its keys and values, a request has its own cost and that of the pieces it came in.
        let request = settings.op_size_max + settings.op_size_max / 64 + (64 << 10);
        (request * 3 * 8).next_multiple_of(MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plenty_of_memory_gives_every_share_its_full_size() {
        let shares = Shares::of(16 << 30);
        let Tuning { data_max, .. } = shares.tuning;
        assert_eq!(shares.tuning, Tuning { data_max, ..Tuning::default() });
        assert_eq!(shares.calls.bytes_max, 256 << 20);
        assert_eq!(shares.connections_max, CONNECTIONS_MAX);
        assert!(shares.calls.connection_bytes_max >= MESSAGE_SIZE_MAX);
    }

    #[test]
    fn the_least_memory_for_requests_has_room_for_the_largest() {
        for op_size_max in [16 << 20, 64 << 20] {
            let settings = Settings { op_size_max, ..Settings::default() };
            let memory = Shares::memory_for_requests(&settings);
            assert!(
                Shares::of(memory).calls.connection_bytes_max as u64 > op_size_max + (64 << 10)
            );
            assert!(
                (Shares::of(memory - MIB).calls.connection_bytes_max as u64)
                    < op_size_max * 33 / 32
            );
        }
        // As the page on limits says.
        assert_eq!(Shares::memory_for_requests(&Settings::default()) / MIB, 392);
    }

    /// As the table of the page on limits says.
    #[test]
    fn the_room_for_data_is_known_before_a_server_is_started() {
        let room = [64 << 20, 256 << 20, 1 << 30, 16 << 30].map(|memory_max| {
            kvprocess::size::Size(Shares::of(memory_max).tuning.data_max).to_string()
        });
        assert_eq!(room, ["19 MiB", "124 MiB", "568 MiB", "13.5 GiB"]);
    }

    #[test]
    fn the_smallest_server_keeps_a_quarter_for_its_data() {
        for memory_max in [MAX_MEMORY_MIN, 96 << 20, 256 << 20, 1 << 30, 16 << 30] {
            let Shares { tuning, calls, connections_max, .. } = Shares::of(memory_max);
            let data = tuning.data_max;
            assert!(data >= memory_max / 4, "{memory_max}: only {data} are left for the data");
            assert!(connections_max >= 128, "{memory_max}: {connections_max}");
            assert!(calls.connection_bytes_max <= calls.bytes_max / 3);
        }
    }
}
