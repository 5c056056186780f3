//! One table of limits for every door, the log, the transfer and the operator.

use std::time::Duration;

use crate::command::{Action, Change, Command, Expect, Query};
use crate::reply::NotDone;
use crate::settings::Settings;

/// Keys that one query or batch may name.
pub const KEYS_PER_REQUEST_MAX: usize = 10_000;

/// A batch of entries or chunk of a transfer closes at this many bytes, but always takes at least
/// one op.
pub const BATCH_SIZE_MAX: usize = 4 << 20;

/// Largest message on any connection, gRPC or between copies: an op at its highest limit, and the framing around it.
pub const MESSAGE_SIZE_MAX: usize = (64 << 20) + (1 << 20);

/// VIEW-7: whoever might still serve the old generation must have been silent for this long before a
/// new one is forced. Far longer than any lease.
pub const SILENCE_BEFORE_FORCE: Duration = Duration::from_secs(10);

/// Checks a command from a client against the limits.
///
/// # Errors
/// [`NotDone::Invalid`] in words that name what is wrong, how large it is and what is allowed.
pub fn check_command(command: &Command, settings: &Settings) -> Result<(), NotDone> {
    match command {
        Command::Barrier | Command::ExpireSession(_) => {
            return invalid("barriers and session expiries come from the primary only".into());
        }
        Command::Batch(changes) if changes.is_empty() => {
            return invalid("a batch needs at least one change".into());
        }
        Command::Batch(changes) if changes.len() > KEYS_PER_REQUEST_MAX => {
            return invalid(format!(
                "a batch of {} changes is over the limit of {KEYS_PER_REQUEST_MAX}",
                changes.len()
            ));
        }
        _ => {}
    }
    for change in command.changes() {
        check_change(change, settings)?;
    }
    let size = command.payload() as u64;
    if size > settings.op_size_max {
        return invalid(format!(
            "an op of {size} bytes is over the limit of {} (--op-size-max)",
            settings.op_size_max
        ));
    }
    Ok(())
}

/// Checks a query from a client against the limits.
///
/// # Errors
/// As [`check_command`].
pub fn check_query(query: &Query, settings: &Settings) -> Result<(), NotDone> {
    let Query::Get(keys) = query;
    if keys.is_empty() || keys.len() > KEYS_PER_REQUEST_MAX {
        return invalid(format!(
            "a read names 1 to {KEYS_PER_REQUEST_MAX} keys; this one names {}",
            keys.len()
        ));
    }
    keys.iter().try_for_each(|key| check_key(key, settings))
}

fn check_change(change: &Change, settings: &Settings) -> Result<(), NotDone> {
    check_key(&change.key, settings)?;
    if let Action::CompareAndSet { expect: Expect::Renamed(_), .. } = &change.action {
        return invalid("versions are given other names by the primary only".into());
    }
    let size = change.new_value_len() as u64;
    if size > settings.value_size_max {
        return invalid(format!(
            "a value of {size} bytes is over the limit of {} (--value-size-max)",
            settings.value_size_max
        ));
    }
    Ok(())
}

fn check_key(key: &[u8], settings: &Settings) -> Result<(), NotDone> {
    if key.is_empty() {
        return invalid("a key must not be empty".into());
    }
    if key.len() as u64 > settings.key_size_max {
        return invalid(format!(
            "a key of {} bytes is over the limit of {} (--key-size-max)",
            key.len(),
            settings.key_size_max
        ));
    }
    Ok(())
}

fn invalid(message: String) -> Result<(), NotDone> {
    Err(NotDone::Invalid(message))
}
