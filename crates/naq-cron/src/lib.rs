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
//! assert_eq!(cron.explain(), "At 02:30.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate stands alone: it performs no I/O, reads no clock, and knows nothing about jobs.
//! Instants are [`chrono::DateTime<Utc>`](chrono::DateTime); a time zone is a [`Timezone`], so that the
//! zone database behind it can change without a change of this interface.

mod calendar;
mod datetime;
mod error;
mod explain;
mod expression;
mod field;
mod text;
mod timezone;

pub use datetime::{DateTimeError, parse_datetime};
pub use error::CronError;
pub use expression::Cron;
pub use timezone::{Timezone, TimezoneError};
