//! Durations in Go's syntax, which every Consul client, file and flag uses
//! (spec/http-api-1.md §1.10).

use std::fmt;

/// Nanoseconds, signed as in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(pub i64);

/// Why a text is no duration. The texts are Go's; clients look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form number-unit, or too large.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// The text in double quotes with Go's escapes for quotes, backslashes and control characters.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl GoDuration {
    /// From whole milliseconds.
    pub fn from_millis(ms: u64) -> Self {
        Self(i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX))
    }

    /// As a standard duration; negative ones are zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Parses Go's syntax: optional sign, then decimal-unit pairs, or a bare `0`.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let whole_len = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (whole, after) = rest.split_at(whole_len);
            let (fraction, after) = match after.strip_prefix('.') {
                None => ("", after),
                Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
            let (unit, after) = after.split_at(unit_len);
            let scale: u128 = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                unit => {
                    return Err(DurationError::UnknownUnit {
                        unit: unit.to_owned(),
                        text: text.to_owned(),
                    });
                }
            };
            // More digits than any representable duration has: refused before they are summed.
            if whole.trim_start_matches('0').len() > 19 {
                return Err(invalid());
            }
            let whole = whole.bytes().fold(0_u128, |n, b| n * 10 + u128::from(b - b'0'));
            total += whole * scale;
            // Digits past the 18th are below any unit's nanosecond.
            let (mut part, mut base) = (0_u128, 1_u128);
            for b in fraction.bytes().take(18) {
                part = part * 10 + u128::from(b - b'0');
                base *= 10;
            }
            total += part * scale / base;
            if total > i64::MAX as u128 + 1 {
                return Err(invalid());
            }
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(ns)) => Ok(Self(ns)),
            (true, Ok(ns)) => Ok(Self(-ns)),
            (true, Err(_)) => Ok(Self(i64::MIN)),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let (unit, scale) = match ns {
            0 => return f.write_str("0s"),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            1_000_000..1_000_000_000 => ("ms", 1_000_000),
            _ => ("s", 1_000_000_000),
        };
        if scale < 1_000_000_000 {
            return write!(f, "{}{unit}", decimal(ns, scale));
        }
        let (minutes, seconds) = (ns / 60_000_000_000, ns % 60_000_000_000);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(seconds, scale))
    }
}

/// `value / scale` with the fraction's trailing zeros dropped; `scale` is a power of ten.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0digits$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_texts_parse_and_print() {
        for (text, ns, printed) in [
            ("0", 0, "0s"),
            ("10s", 10_000_000_000, "10s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("72h", 259_200_000_000_000, "72h0m0s"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("200ms", 200_000_000, "200ms"),
            ("2.5s", 2_500_000_000, "2.5s"),
            ("-3us", -3_000, "-3\u{b5}s"),
            (".5s", 500_000_000, "500ms"),
            ("+5ns", 5, "5ns"),
            ("1h0m1s", 3_601_000_000_000, "1h0m1s"),
        ] {
            let parsed = GoDuration::parse(text);
            assert_eq!(parsed, Ok(GoDuration(ns)), "{text}");
            assert_eq!(GoDuration(ns).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refusals_have_gos_texts() {
        for (text, said) in [
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("s", "time: invalid duration \"s\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
        ] {
            let said_now = GoDuration::parse(text).expect_err(text).to_string();
            assert_eq!(said_now, said, "{text}");
        }
        assert_eq!(GoDuration::parse("-9223372036854775808ns"), Ok(GoDuration(i64::MIN)));
    }
}
