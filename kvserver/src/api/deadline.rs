//! When a caller stops waiting, from its `grpc-timeout` header. Pure.

use std::time::Duration;

/// A caller that names no time-out waits this long.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Nobody waits longer than this, whatever the header says.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Reads the value of a `grpc-timeout` header: up to 8 digits and a unit. `None` if it is not one.
pub(super) fn parse(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_the_header_is_understood() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse("70u"), Some(Duration::from_micros(70)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn what_is_no_timeout_is_ignored() {
        for header in ["", "S", "1", "-1S", "+1S", "1 S", "123456789S", "1é", "é", "1.5S"] {
            assert_eq!(parse(header), None, "{header:?}");
        }
    }
}
