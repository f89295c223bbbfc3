//! Cron expressions in time zones: the next due time across daylight-saving changes, and what an
//! expression means in a sentence.
//!
//! ```
//! use naq_cron::{Cron, Timezone};
//!
//! let cron = Cron::parse("30 2 * * *")?;
//! let berlin: Timezone = "Europe/Berlin".parse()?;
//!
//! // On 29 March 2026 the clocks in Berlin skip from 02:00 to 03:00.
//! let after = "2026-03-28T12:00:00Z".parse()?;
//! let next = cron.next_after(after, berlin).expect("before the year 9999");
//! assert_eq!(berlin.format(next), "2026-03-29T03:00:00+02:00");
//! assert_eq!(cron.explain(), "At 02:30 every day.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate stands alone: it performs no I/O, reads no clock, and does not depend on the rest of
//! naq. Instants are [`chrono::DateTime<Utc>`](chrono::DateTime); a time zone is a [`Timezone`], so
//! that the zone database behind it can change without a change of this interface.
//!
//! # Semantics
//!
//! - Expressions have five fields as in crontab, or six with seconds first. `L`, `LW`, `W`, `#`, `?`,
//!   names of months and days, and names such as `@daily` are supported; `@reboot` and years are not.
//! - If both day fields are restricted, a day matches if either field matches, as in crontab.
//! - If the hour field does not begin with `*`, an expression names times of day: a time that clocks
//!   skip matches at the instant of the change, and a time that occurs twice matches once.
//! - If the hour field begins with `*`, an expression is a frequency: `*/15 * * * *` matches every 15
//!   minutes of elapsed time, also while clocks change.
//!
//! # Errors
//!
//! [`CronError`] names the field, its position, the invalid part and the valid values, in one line:
//!
//! ```
//! let error = naq_cron::Cron::parse("0 25 * * *").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "cron expression \"0 25 * * *\": hour (field 2) \"25\": must be 0 to 23"
//! );
//! ```
//!
//! [`TimezoneError`] suggests a similar name, and [`DateTimeError`] shows the accepted forms. All of
//! them escape and shorten the text that they quote.
//!
//! # Platform
//!
//! Any. A zone database is compiled in, for the zones that no [`TimezoneSource`] has.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

mod calendar;
mod database;
mod datetime;
mod error;
mod explain;
mod expression;
mod field;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod text;
mod timezone;

pub use database::{
    TimezoneSource, bundled_timezone_release, refresh_timezones, set_timezone_source,
    timezone_names,
};
pub use datetime::{DateTimeError, parse_datetime};
pub use error::CronError;
pub use expression::Cron;
pub use timezone::{Timezone, TimezoneError};
