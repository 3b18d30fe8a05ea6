//! Times as people and JSON have them: RFC 3339 in UTC.
//!
//! A page of heartbeats has thousands of them, so that they are written by hand, and into no memory of their own.

const DAY_MS: i64 = 86_400_000;
const YEAR_0000_MS: i64 = -62_167_219_200_000;
const YEAR_9999_END_MS: i64 = 253_402_207_200_000;
/// `0000-01-01T00:00:00.000Z`.
const LONGEST: usize = 24;

/// A time in RFC 3339, as text.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339 {
    text: [u8; LONGEST],
    length: usize,
}

impl Rfc3339 {
    /// A wire time (milliseconds since 1970), clamped to the years that RFC 3339 has.
    #[must_use]
    pub fn of(ms: i64) -> Self {
        let ms = ms.clamp(YEAR_0000_MS, YEAR_9999_END_MS);
        let (year, month, day) = date(ms.div_euclid(DAY_MS));
        let of_day = ms.rem_euclid(DAY_MS);
        let mut time = Self { text: *b"0000-00-00T00:00:00.000Z", length: LONGEST };
        time.put(0, 4, year);
        time.put(5, 2, month);
        time.put(8, 2, day);
        time.put(11, 2, of_day / 3_600_000);
        time.put(14, 2, of_day / 60_000 % 60);
        time.put(17, 2, of_day / 1000 % 60);
        time.put(20, 3, of_day % 1000);
        // No more digits of the fraction than it has.
        time.length = match of_day % 1000 {
            0 => 20,
            tenths if tenths % 100 == 0 => 22,
            hundredths if hundredths % 10 == 0 => 23,
            _ => LONGEST,
        };
        time.text[time.length - 1] = b'Z';
        time
    }

    /// Writes so many digits of a number, `at` and after.
    fn put(&mut self, at: usize, digits: usize, mut number: i64) {
        for place in self.text.iter_mut().skip(at).take(digits).rev() {
            // Below ten.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let digit = (number % 10) as u8;
            *place = b'0' + digit;
            number /= 10;
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits and punctuation.
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}

/// Year, month and day of a day since 1970, by the Gregorian calendar: counted in eras of 400 years from a 1st of March, so
/// that the day that not every year has is the last of its year.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months = (5 * of_year + 2) / 153;
    let day = of_year - (153 * months + 2) / 5 + 1;
    let month = if months < 10 { months + 3 } else { months - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A wire time (milliseconds since 1970) as RFC 3339 in UTC, clamped to the years that RFC 3339 has.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    Rfc3339::of(ms).as_str().to_owned()
}

/// A time in RFC 3339 as milliseconds since 1970; the zone is required.
///
/// # Errors
/// The text is not such a time.
pub fn parse_rfc3339(text: &str) -> Result<i64, jiff::Error> {
    text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_library(ms: i64) -> String {
        jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
    }

    #[test]
    fn times_look_as_the_library_writes_them_all_over_the_calendar() {
        for day in (YEAR_0000_MS / DAY_MS..YEAR_9999_END_MS / DAY_MS).step_by(31) {
            assert_eq!(rfc3339(day * DAY_MS), by_library(day * DAY_MS));
        }
        for ms in [1, 10, 100, 120, 500, 999, 59_999, 3_599_990, DAY_MS - 1] {
            assert_eq!((rfc3339(ms), rfc3339(-ms)), (by_library(ms), by_library(-ms)));
        }
    }

    #[test]
    fn what_no_calendar_has_is_the_nearest_that_it_has() {
        assert_eq!(rfc3339(i64::MIN), "0000-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), by_library(YEAR_9999_END_MS));
    }

    proptest! {
        #[test]
        fn any_time_is_written_as_the_library_does_and_read_back(ms in YEAR_0000_MS..=YEAR_9999_END_MS) {
            let text = rfc3339(ms);
            prop_assert_eq!(&text, &by_library(ms));
            prop_assert_eq!(parse_rfc3339(&text).unwrap(), ms);
        }
    }
}
