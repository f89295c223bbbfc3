//! The known differences from other packages, each defined as narrowly as possible.

use std::collections::BTreeSet;

use chrono::Timelike;

use super::question::{Question, TIMES};

/// The other packages, in the order of their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    Cronsim,
    Croniter,
}

/// The answer of a package: instants, or why it has none.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Times(Vec<i64>),
    Error(String),
}

const CIRCLES: &str =
    "cronsim loops forever when clocks go back over midnight or not at a full hour";
const OF_A_SECOND: &str = "croniter keeps the second of a skipped time, at the end of the gap";

/// The reasons why an answer differs from that of naq; empty if both are the same. The error is a
/// difference without a known reason.
pub(super) fn reasons(
    package: Package,
    question: &Question,
    answer: &Answer,
) -> Result<BTreeSet<&'static str>, String> {
    let (read, reason) = match package {
        Package::Cronsim => (
            question.with_single_ranges(|from, step, (_, last)| match step {
                "" => from.to_owned(),
                _ => format!("{from}-{last}{step}"),
            }),
            "cronsim reads 4-4/2 as 4/2, from 4 to the last value",
        ),
        Package::Croniter => (
            question.with_single_ranges(|_, step, (first, last)| {
                // The package counts Sunday once.
                let last = if last == 7 { 6 } else { last };
                format!("{first}-{last}{step}")
            }),
            "croniter reads 4-4 as all values",
        ),
    };
    let mut reasons = differences(package, &read, answer)?;
    if read.times() != question.times() {
        reasons.insert(reason);
    }
    Ok(reasons)
}

/// The reasons other than a different meaning of the expression.
fn differences(
    package: Package,
    question: &Question,
    answer: &Answer,
) -> Result<BTreeSet<&'static str>, String> {
    let ours = question.times();
    assert!(ours.is_sorted_by(|a, b| a < b), "{question:?}: {ours:?}");
    let theirs = match answer {
        Answer::Times(theirs) => theirs,
        Answer::Error(error) => {
            return unread(package, question, error)
                .map(|reason| BTreeSet::from([reason]))
                .ok_or_else(|| error.clone());
        }
    };
    // A side that found all requested matches searched no further.
    let end = [&ours, theirs]
        .into_iter()
        .filter(|times| times.len() == TIMES)
        .filter_map(|times| times.last())
        .min()
        .copied()
        .unwrap_or(i64::MAX);
    let within = |times: &[i64]| -> BTreeSet<i64> {
        times.iter().copied().filter(|time| *time <= end).collect()
    };
    let (ours, theirs) = (within(&ours), within(theirs));
    let missing = ours.difference(&theirs).map(|time| {
        not_theirs(package, question, *time)
            .ok_or_else(|| format!("the package does not have {}", question.show(*time)))
    });
    let added = theirs.difference(&ours).map(|time| {
        not_ours(package, question, *time)
            .ok_or_else(|| format!("only the package has {}", question.show(*time)))
    });
    missing.chain(added).collect()
}

/// Why a package rejects an expression.
fn unread(package: Package, question: &Question, error: &str) -> Option<&'static str> {
    match package {
        Package::Cronsim if question.day().ends_with('W') && question.day() != "LW" => {
            (error == "Bad day-of-month").then_some("cronsim does not support W")
        }
        Package::Cronsim if question.is_put_back_within_an_hour() => {
            (error == "took too long").then_some(CIRCLES)
        }
        Package::Croniter if question.day() == "LW" => error
            .contains("is not acceptable")
            .then_some("croniter does not support LW"),
        Package::Croniter if takes_both_days(question) => (error == "failed to find next date")
            .then_some("croniter requires both days if one has W, # or L, which may never match"),
        _ => None,
    }
}

/// Why a match of naq is missing in the package's answer.
fn not_theirs(package: Package, question: &Question, moment: i64) -> Option<&'static str> {
    let forward = question.put_forward(moment);
    match package {
        Package::Cronsim if follows_the_clocks(question) && forward > 0 => Some(
            "cronsim leaves out times that are skipped where the minute is a star, as Debian's \
             cron does, or there are seconds",
        ),
        Package::Cronsim if was_put_within_an_hour(question, moment) => {
            Some("cronsim advances by whole hours when clocks change within one, and is late")
        }
        Package::Cronsim if is_within_an_hour_of_a_skipped_midnight(question, moment) => {
            Some("cronsim loses the hour after a skipped midnight")
        }
        Package::Cronsim if moment - question.after > 50 * 365 * 86_400 => {
            Some("cronsim searches 50 years at most")
        }
        Package::Croniter
            if forward > 0 && !keeps_cadence(question) && question.has_every_hour() =>
        {
            Some("croniter treats a list of all hours as a star")
        }
        Package::Croniter if forward > 0 && question.has_seconds() => Some(OF_A_SECOND),
        Package::Croniter
            if keeps_cadence(question)
                && question.is_shown_again(moment)
                && (was_put_within_an_hour(question, moment)
                    || was_put_over_midnight(question, moment)) =>
        {
            Some("croniter misses times that are repeated within an hour, or before midnight")
        }
        Package::Croniter if takes_both_days(question) || has_a_star_within(question) => {
            let by_day = question.with(question.day(), "*").is_true(moment);
            let by_weekday = question.with("*", question.weekday()).is_true(moment);
            (by_day != by_weekday).then_some(if takes_both_days(question) {
                "croniter requires both days if one has W, # or L"
            } else {
                "croniter reads all days as a star if the other field has one"
            })
        }
        _ => None,
    }
}

/// Why a match of the package is missing in naq's answer.
fn not_ours(package: Package, question: &Question, moment: i64) -> Option<&'static str> {
    let keeps_cadence = keeps_cadence(question);
    let forward = question.put_forward(moment);
    match package {
        Package::Cronsim if follows_the_clocks(question) && question.is_shown_again(moment) => {
            Some(
                "cronsim takes times that are shown twice both times where the minute is a star, as \
             Debian's cron does, or there are seconds",
            )
        }
        Package::Cronsim if moment <= question.after => {
            if !keeps_cadence && question.is_shown_again(question.after) {
                Some(
                    "cronsim, asked during a repeated time, returns the first occurrence, which is past",
                )
            } else {
                question.is_put_back_within_an_hour().then_some(CIRCLES)
            }
        }
        Package::Cronsim if skips_midnight(question, moment) => {
            Some("cronsim moves a skipped midnight to the end of the gap")
        }
        Package::Croniter if !keeps_cadence && question.is_shown_again(moment) => {
            Some("croniter matches repeated times both times")
        }
        Package::Croniter if keeps_cadence && question.hour() != "*" && forward > 0 => {
            Some("croniter moves skipped times to the end of the gap, even for every other hour")
        }
        Package::Croniter
            if question.has_seconds() && is_within_a_minute_of_a_gap(question, moment) =>
        {
            Some(OF_A_SECOND)
        }
        Package::Croniter => {
            let near: u8 = question.day().strip_suffix('W')?.parse().ok()?;
            (near > question.days_in_month(moment))
                .then_some("croniter uses the last day for a W that the month does not have")
        }
        Package::Cronsim => None,
    }
}

/// Whether naq treats an expression as a frequency.
fn keeps_cadence(question: &Question) -> bool {
    question.hour().starts_with('*')
}

/// Whether cronsim treats an expression as a frequency, and naq as times of day.
fn follows_the_clocks(question: &Question) -> bool {
    (question.minute().starts_with('*') || question.has_seconds()) && !keeps_cadence(question)
}

/// Whether croniter requires both day fields where crontab requires one of them.
fn takes_both_days(question: &Question) -> bool {
    let (day, weekday) = (question.day(), question.weekday());
    let starred = day.starts_with('*') || weekday.starts_with('*');
    let special = day.contains('W') || weekday.contains(['L', '#']);
    special && !starred
}

/// Whether a day field has a star, but not at its start.
fn has_a_star_within(question: &Question) -> bool {
    [question.day(), question.weekday()]
        .iter()
        .any(|field| field.contains('*') && !field.starts_with('*'))
}

/// The clock changes in the day before, or in the same minute.
fn changes_before(question: &Question, moment: i64) -> impl Iterator<Item = i64> {
    (moment - 86_400..moment + 60)
        .step_by(60)
        .map(|minute| minute - minute % 60)
        .filter(|minute| question.put_forward(*minute) != 0)
}

/// Whether, in the day before, clocks changed by a part of an hour, or not at a full hour.
fn was_put_within_an_hour(question: &Question, moment: i64) -> bool {
    changes_before(question, moment).any(|change| {
        question.put_forward(change) % 3_600 != 0 || question.clock(change).minute() != 0
    })
}

/// Whether, in the day before, clocks went back from midnight or over it.
fn was_put_over_midnight(question: &Question, moment: i64) -> bool {
    changes_before(question, moment).any(|change| {
        let reached = question.clock(change - 1) + chrono::TimeDelta::seconds(1);
        question.clock(change).date() < reached.date()
    })
}

/// Whether, in the hour before, clocks went forward over midnight.
fn is_within_an_hour_of_a_skipped_midnight(question: &Question, moment: i64) -> bool {
    (moment - 3_599..=moment).any(|second| skips_midnight(question, second))
}

/// Whether clocks go forward over midnight, or from it.
fn skips_midnight(question: &Question, moment: i64) -> bool {
    question.put_forward(moment) > 0
        && question.clock(moment - 1).date() != question.clock(moment).date()
}

/// Whether clocks went forward in the minute before.
fn is_within_a_minute_of_a_gap(question: &Question, moment: i64) -> bool {
    (moment - 59..moment).any(|second| question.put_forward(second) > 0)
}
