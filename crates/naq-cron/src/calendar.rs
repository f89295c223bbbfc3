//! The local times that an expression matches, without regard to daylight saving.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

use super::field::{self, FieldItem};

/// The last year in which an expression matches. RFC 3339 has no later years.
pub(super) const YEAR_MAX: i32 = 9999;

/// The days of the week repeat after this number of years.
const CYCLE_YEARS: i32 = 400;

/// The values that each field matches, as bit masks. It is small, since a scheduler holds many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    seconds: u64,
    minutes: u64,
    hours: u32,
    months: u16,
    days: u32,
    /// Days with `W`: the nearest workday matches.
    nearest_workdays: u32,
    last_day: bool,
    last_workday: bool,
    weekdays: u8,
    /// Weekdays with `L`: the last one of the month matches.
    last_weekdays: u8,
    /// Weekdays with `#`: seven bits for the first weekdays of the month, seven for the second, and so
    /// on.
    nth_weekdays: u64,
    /// Whether a day must match both fields, and not just one of them.
    days_match_both: bool,
}

/// The parsed fields of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CronFields {
    pub(super) seconds: Vec<FieldItem>,
    pub(super) minutes: Vec<FieldItem>,
    pub(super) hours: Vec<FieldItem>,
    pub(super) days: Vec<FieldItem>,
    pub(super) months: Vec<FieldItem>,
    pub(super) weekdays: Vec<FieldItem>,
}

/// Whether a field begins with `*`. Like crontab, only the start of the field counts.
pub(super) fn starts_with_star(items: &[FieldItem]) -> bool {
    matches!(items.first(), Some(FieldItem::Any { .. }))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a field's values are the bits of its width"
)]
impl Calendar {
    pub(super) fn new(fields: &CronFields) -> Calendar {
        let mut calendar = Calendar {
            seconds: field::SECOND.value_mask(&fields.seconds),
            minutes: field::MINUTE.value_mask(&fields.minutes),
            hours: field::HOUR.value_mask(&fields.hours) as u32,
            months: field::MONTH.value_mask(&fields.months) as u16,
            days: field::DAY.value_mask(&fields.days) as u32,
            nearest_workdays: 0,
            last_day: false,
            last_workday: false,
            weekdays: field::WEEKDAY.value_mask(&fields.weekdays) as u8,
            last_weekdays: 0,
            nth_weekdays: 0,
            days_match_both: starts_with_star(&fields.days) || starts_with_star(&fields.weekdays),
        };
        for item in fields.days.iter().chain(&fields.weekdays) {
            match *item {
                FieldItem::LastDay => calendar.last_day = true,
                FieldItem::LastWorkday => calendar.last_workday = true,
                FieldItem::NearestWorkday(day) => calendar.nearest_workdays |= 1 << day,
                FieldItem::Last(weekday) => calendar.last_weekdays |= 1 << weekday,
                FieldItem::Nth { weekday, nth } => {
                    calendar.nth_weekdays |= 1 << ((nth - 1) * 7 + weekday);
                }
                FieldItem::Value(_) | FieldItem::Range { .. } | FieldItem::Any { .. } => {}
            }
        }
        calendar
    }

    /// Whether any day ever matches.
    pub(super) fn can_match(&self) -> bool {
        // The search covers a full cycle of 400 years, which contains every kind of year.
        self.next_day(2000, 1, 1).is_some()
    }

    /// The first local time after `clock` that matches.
    pub(super) fn next(&self, clock: NaiveDateTime) -> Option<NaiveDateTime> {
        let (date, time) = (clock.date(), clock.time());
        if self.matching_days(date.year(), date.month()) & 1 << date.day() != 0
            && let Some(next) = self.next_time(time)
        {
            return Some(date.and_time(next));
        }
        let date = self.next_day(date.year(), date.month(), date.day() + 1)?;
        let first = time_of(
            self.hours.trailing_zeros(),
            self.minutes.trailing_zeros(),
            self.seconds.trailing_zeros(),
        )?;
        Some(date.and_time(first))
    }

    /// The first time of day after `time` that matches.
    fn next_time(&self, time: NaiveTime) -> Option<NaiveTime> {
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let first_second = self.seconds.trailing_zeros();
        if self.hours & 1 << hour != 0 {
            if self.minutes & 1 << minute != 0
                && let Some(second) = next_bit_above(self.seconds, second)
            {
                return time_of(hour, minute, second);
            }
            if let Some(minute) = next_bit_above(self.minutes, minute) {
                return time_of(hour, minute, first_second);
            }
        }
        let hour = next_bit_above(u64::from(self.hours), hour)?;
        time_of(hour, self.minutes.trailing_zeros(), first_second)
    }

    /// The first day that matches, from a given day on. `day` may be one more than the month has.
    fn next_day(&self, year: i32, month: u32, day: u32) -> Option<NaiveDate> {
        let mut from = u32::MAX.checked_shl(day).unwrap_or(0);
        let mut first_month = month;
        for year in year..=YEAR_MAX.min(year + CYCLE_YEARS) {
            for month in first_month..=12 {
                let days = self.matching_days(year, month) & from;
                if days != 0 {
                    return NaiveDate::from_ymd_opt(year, month, days.trailing_zeros());
                }
                from = u32::MAX;
            }
            first_month = 1;
        }
        None
    }

    /// The days of a month that match, as a bit mask.
    fn matching_days(&self, year: i32, month: u32) -> u32 {
        if self.months & 1 << month == 0 {
            return 0;
        }
        let Some(first) = NaiveDate::from_ymd_opt(year, month, 1) else {
            return 0;
        };
        let month = Month {
            length: u32::from(first.num_days_in_month()),
            first_weekday: first.weekday().num_days_from_sunday(),
        };
        let (by_day, by_weekday) = (self.by_day(month), self.by_weekday(month));
        let days = if self.days_match_both {
            by_day & by_weekday
        } else {
            by_day | by_weekday
        };
        days & month.days()
    }

    fn by_day(&self, month: Month) -> u32 {
        let mut days = self.days;
        if self.last_day {
            days |= 1 << month.length;
        }
        if self.last_workday {
            days |= 1 << month.nearest_workday(month.length);
        }
        let mut near = self.nearest_workdays & month.days();
        while near != 0 {
            days |= 1 << month.nearest_workday(near.trailing_zeros());
            near &= near - 1;
        }
        days
    }

    fn by_weekday(&self, month: Month) -> u32 {
        if self.weekdays == 0x7f {
            return u32::MAX;
        }
        let mut days = 0;
        for weekday in 0..7 {
            let all_on_weekday = month.all_on_weekday(weekday);
            if self.weekdays & 1 << weekday != 0 {
                days |= all_on_weekday;
            }
            if self.last_weekdays & 1 << weekday != 0 {
                days |= 1 << all_on_weekday.ilog2();
            }
            for nth in 0..5 {
                if self.nth_weekdays & 1 << (nth * 7 + weekday) != 0 {
                    // The nth of any weekday is within the nth seven days of the month.
                    days |= all_on_weekday & 0xfe << (nth * 7);
                }
            }
        }
        days
    }
}

/// The lowest set bit above `bit`.
fn next_bit_above(bits: u64, bit: u32) -> Option<u32> {
    let above = bits & (u64::MAX << bit << 1);
    (above != 0).then(|| above.trailing_zeros())
}

fn time_of(hour: u32, minute: u32, second: u32) -> Option<NaiveTime> {
    NaiveTime::from_hms_opt(hour, minute, second)
}

#[derive(Clone, Copy)]
struct Month {
    length: u32,
    first_weekday: u32,
}

impl Month {
    /// The days of the month, as a bit mask.
    fn days(self) -> u32 {
        (u32::MAX >> (31 - self.length)) & !1
    }

    /// All days of the month on a weekday, as a bit mask.
    fn all_on_weekday(self, weekday: u32) -> u32 {
        let first = 1 + (weekday + 7 - self.first_weekday) % 7;
        // The constant has day 1 and every seventh day after it, and is shifted to the first such
        // weekday. The fifth may be beyond the end of the month.
        (0x2040_8102_u64 << (first - 1)) as u32 & self.days()
    }

    /// The day from Monday to Friday nearest to a day, within the month.
    fn nearest_workday(self, day: u32) -> u32 {
        match (self.first_weekday + day - 1) % 7 {
            6 if day > 1 => day - 1,
            6 => day + 2,
            0 if day < self.length => day + 1,
            0 => day - 2,
            _ => day,
        }
    }
}
