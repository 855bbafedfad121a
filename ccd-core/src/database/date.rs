//! Dates as Fig. 6 writes them, `Apr 16 09h49m47 1997`, in UTC. For people: no program compares them.

use crate::time::Date;
use alloc::format;
use alloc::string::String;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// Of the day, if the number of the month is one.
fn month_name(month: u64) -> &'static str {
    let index = usize::try_from(month).unwrap_or(usize::MAX);
    MONTHS.get(index).copied().unwrap_or("???")
}

const SECONDS_PER_DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01, in the proleptic Gregorian calendar.
const DAYS_BEFORE_1970: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_ERA: u64 = 146_097;

/// `Apr 16 09h49m47 1997`. Milliseconds are dropped.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "every date is less than 2^64 / 1000 seconds, which leaves room for all that is added; no divisor is 0, and what is \
              taken away is less"
)]
pub fn date_text(date: Date) -> String {
    let seconds = date.0 / 1000;
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    // Years are counted from March, so that the leap day is the last of its year.
    let day_from_march_0 = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (day_from_march_0 / DAYS_PER_ERA, day_from_march_0 % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let name = month_name(month);
    format!(
        "{name} {day:02} {:02}h{:02}m{:02} {year:04}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads what [`date_text`] writes; the day may also be one digit, with one or two spaces before it.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the year has at most nine digits and is 1970 or more, and the other numbers are checked before they are used: less \
              than 2^55 seconds, and more than 0"
)]
pub fn parse_date(text: &str) -> Option<Date> {
    let mut words = text.split_ascii_whitespace();
    let (month, day, time, year) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let day = number(day, 2)?;
    let (hour, rest) = time.split_once('h')?;
    let (minute, second) = rest.split_once('m')?;
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    // Nine digits hold every year that a Date can: 2⁶⁴ ms are 585 million years.
    let year = number(year, 9).filter(|year| *year >= 1970)?;
    if day == 0 || day > days_of_month(month, year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let year_from_march = year - u64::from(month < 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let day_of_year = (153 * ((month + 10) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_PER_ERA + day_of_era - DAYS_BEFORE_1970;
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(1000).map(Date)
}

/// `month` from 0 for January.
fn days_of_month(month: u64, year: u64) -> u64 {
    match month {
        1 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Decimal digits only, at most so many: no sign, no space.
fn number(text: &str, digits_max: usize) -> Option<u64> {
    let plain =
        !text.is_empty() && text.len() <= digits_max && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_written_as_in_figure_6() {
        let table = [
            (0, "Jan 01 00h00m00 1970"),
            (861_184_187, "Apr 16 09h49m47 1997"),
            (951_782_400, "Feb 29 00h00m00 2000"),
            (951_868_799, "Feb 29 23h59m59 2000"),
            (951_868_800, "Mar 01 00h00m00 2000"),
            (4_107_542_399, "Feb 28 23h59m59 2100"),
            (4_107_542_400, "Mar 01 00h00m00 2100"),
            (1_735_689_599, "Dec 31 23h59m59 2024"),
            (253_402_300_800, "Jan 01 00h00m00 10000"),
        ];
        for (seconds, text) in table {
            assert_eq!(date_text(Date(seconds * 1000)), text);
            assert_eq!(parse_date(text), Some(Date(seconds * 1000)));
        }
        assert_eq!(
            parse_date("Apr  6 09h49m47 1997"),
            parse_date("Apr 06 09h49m47 1997")
        );
    }

    #[test]
    fn what_is_no_date_is_refused() {
        let table = [
            "",
            "Apr 16 09h49m47",
            "Apr 16 09h49m47 1997 x",
            "apr 16 09h49m47 1997",
            "Apr 31 09h49m47 1997",
            "Apr 00 09h49m47 1997",
            "Feb 29 09h49m47 1997",
            "Feb 29 09h49m47 2100",
            "Apr 16 24h49m47 1997",
            "Apr 16 09h60m47 1997",
            "Apr 16 09h49m60 1997",
            "Apr 16 09:49:47 1997",
            "Apr +6 09h49m47 1997",
            "Apr 16 09h49m47 1969",
            "Apr 16 09h49m47 999999999",
            "Apr 16 09h49m47 99999999999999999999",
        ];
        for text in table {
            assert_eq!(parse_date(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_date_reads_back_to_the_second(milliseconds: u64) {
            let date = Date(milliseconds);
            prop_assert_eq!(parse_date(&date_text(date)), Some(Date(milliseconds / 1000 * 1000)));
        }
    }
}
