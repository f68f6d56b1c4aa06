//! Versions of cells for people: a time where it is one, else a number.

use opor_core::{ColVersion, Hlc};

/// A version this large is a stamp of a hybrid clock after 2001: no counter of edits gets there.
const FIRST_STAMP: u64 = 1_000_000_000_000 << Hlc::COUNTER_BITS;

/// `2026-11-21 03:25:54.123` (UTC, `+n` for the n-th stamp of a millisecond), or `v3` for a counted version.
pub(crate) fn full(version: ColVersion) -> String {
    if version.0 < FIRST_STAMP {
        return format!("v{version}");
    }
    let (year, month, day) = date(Hlc::from_version(version).millis().0 / 86_400_000);
    format!("{year}-{month:02}-{day:02} {}", clock(version))
}

/// As [`full`], without the date.
pub(crate) fn clock(version: ColVersion) -> String {
    if version.0 < FIRST_STAMP {
        return format!("v{version}");
    }
    let stamp = Hlc::from_version(version);
    let millis = stamp.millis().0 % 86_400_000;
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let time = format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match stamp.counter() {
        0 => time,
        counter => format!("{time}+{counter}"),
    }
}

/// `03:25:54` (UTC): now.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How far one version is past another: `12 ms`, or `2` for counted ones.
pub(crate) fn distance(later: ColVersion, earlier: ColVersion) -> String {
    if earlier.0 < FIRST_STAMP {
        return (later.0 - earlier.0).to_string();
    }
    let millis = Hlc::from_version(later).millis().0 - Hlc::from_version(earlier).millis().0;
    if millis == 0 { "less than 1 ms".into() } else { format!("{millis} ms") }
}

/// Year, month and day of a number of days after 1970-01-01, in the Gregorian calendar.
///
/// Counted in eras of 400 years of 146,097 days, which begin on a 1 March so that the leap day comes last.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gregorian() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_513), (2026, 3, 1));
        assert_eq!(date(47_541), (2100, 3, 1), "2100 is no leap year");
    }

    #[test]
    fn stamps_are_times_and_counts_are_counts() {
        let stamp = ColVersion((1_700_000_000_123 << 9) + 7);
        assert_eq!(full(stamp), "2023-11-14 22:13:20.123+7");
        assert_eq!(clock(stamp), "22:13:20.123+7");
        assert_eq!(full(ColVersion(3)), "v3");
        assert_eq!(distance(ColVersion(stamp.0 + (5 << 9)), stamp), "5 ms");
        assert_eq!(distance(ColVersion(stamp.0 + 1), stamp), "less than 1 ms");
        assert_eq!(distance(ColVersion(5), ColVersion(3)), "2");
    }
}
