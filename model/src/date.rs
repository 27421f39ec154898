//! Wall-clock time as people and clients read it.

/// Unix milliseconds as RFC 3339 in UTC, with as many digits of the second as it needs, as Go's
/// JSON has it.
pub fn rfc3339(unix_ms: u64) -> String {
    let seconds = seconds(unix_ms);
    match unix_ms % 1_000 {
        0 => format!("{seconds}Z"),
        ms => format!("{seconds}.{}Z", format!("{ms:03}").trim_end_matches('0')),
    }
}

/// The same with always three digits.
pub fn rfc3339_millis(unix_ms: u64) -> String {
    format!("{}.{:03}Z", seconds(unix_ms), unix_ms % 1_000)
}

fn seconds(unix_ms: u64) -> String {
    let (days, s) = (unix_ms / 86_400_000, unix_ms % 86_400_000 / 1_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (s / 3_600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_780, (2026, 11, 23)),
        ] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn fractions_are_as_long_as_they_need_to_be() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (86_399_000, "1970-01-01T23:59:59Z"),
            (1_500, "1970-01-01T00:00:01.5Z"),
            (1_050, "1970-01-01T00:00:01.05Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
        assert_eq!(rfc3339_millis(1_500), "1970-01-01T00:00:01.500Z");
    }
}
