//! Sizes in bytes, as people write and read them. Pure. All units are powers of 1024.

use std::fmt;

/// Reads a number with a unit (`512mb`, `2GiB`, `64k`) or without one, for bytes.
///
/// # Errors
/// The rule, for whoever gave something else.
pub fn parse(text: &str) -> Result<u64, String> {
    let rule = "must be a size such as 4096, 64kb, 512mb or 2GiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| rule)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(rule.into()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| rule.into())
}

/// Written for people: `17.3 MiB`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((unit, shift)) = units.into_iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return write!(f, "{} bytes", self.0);
        };
        let tenths = (u128::from(self.0) * 10) >> shift;
        match tenths % 10 {
            0 => write!(f, "{} {unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_any_unit_and_in_any_case() {
        for (text, bytes) in
            [("64mb", 64 << 20), ("2GiB", 2 << 30), ("3g", 3 << 30), ("7 kb", 7 << 10), ("12", 12)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "lots", "-1", "1.5gb", "99999999999TB", "5%"] {
            assert!(parse(bad).is_err_and(|rule| rule.contains("512mb")), "{bad}");
        }
    }

    #[test]
    fn a_size_is_written_in_the_largest_unit_that_it_fills() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 10, "1 KiB"),
            ((17 << 20) + (300 << 10), "17.2 MiB"),
            (5 << 40, "5 TiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
