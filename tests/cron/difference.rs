//! Why other libraries answer differently: every kind of difference, each as narrow as possible.

use std::collections::BTreeSet;

use chrono::Timelike;

use super::question::{Question, TIMES};

/// The packages that are asked, in the order of their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    Cronsim,
    Croniter,
}

/// What a package says: moments, or why it says nothing.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Times(Vec<i64>),
    Error(String),
}

const CIRCLES: &str =
    "cronsim goes in circles when the clocks are put back over midnight or within an hour";
const OF_A_SECOND: &str = "croniter has the second of what is skipped, at the end of the gap";

/// Every reason for which an answer differs from naq's, empty if they are equal; or what
/// cannot be explained.
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
            "cronsim takes 4-4/2 for 4/2, from 4 to the last",
        ),
        Package::Croniter => (
            question.with_single_ranges(|_, step, (first, last)| {
                // it counts Sunday once
                let last = if last == 7 { 6 } else { last };
                format!("{first}-{last}{step}")
            }),
            "croniter takes 4-4 for all there is",
        ),
    };
    let mut reasons = differences(package, &read, answer)?;
    if read.times() != question.times() {
        reasons.insert(reason);
    }
    Ok(reasons)
}

/// The reasons other than how the expression is read.
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
    // who has found all that were asked for has not looked further
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
            .ok_or_else(|| format!("they do not have {}", question.show(*time)))
    });
    let added = theirs.difference(&ours).map(|time| {
        not_ours(package, question, *time)
            .ok_or_else(|| format!("they have {}", question.show(*time)))
    });
    missing.chain(added).collect()
}

/// Why a package does not read an expression.
fn unread(package: Package, question: &Question, error: &str) -> Option<&'static str> {
    match package {
        Package::Cronsim if question.day().ends_with('W') && question.day() != "LW" => {
            (error == "Bad day-of-month").then_some("cronsim does not know W")
        }
        Package::Cronsim if question.is_put_back_within_an_hour() => {
            (error == "took too long").then_some(CIRCLES)
        }
        Package::Croniter if question.day() == "LW" => error
            .contains("is not acceptable")
            .then_some("croniter does not know LW"),
        Package::Croniter if takes_both_days(question) => (error == "failed to find next date")
            .then_some("croniter takes both days where one has W, # or L, which may never be"),
        _ => None,
    }
}

/// Why a moment of naq's is not one of theirs.
fn not_theirs(package: Package, question: &Question, moment: i64) -> Option<&'static str> {
    let forward = question.put_forward(moment);
    match package {
        Package::Cronsim if follows_the_clocks(question) && forward > 0 => Some(
            "cronsim leaves out times that are skipped where the minute is a star, as Debian's \
             cron does, or there are seconds",
        ),
        Package::Cronsim if was_put_within_an_hour(question, moment) => {
            Some("cronsim steps by whole hours when the clocks change within one, and is too late")
        }
        Package::Cronsim if is_within_an_hour_of_a_skipped_midnight(question, moment) => {
            Some("cronsim loses the hour after a midnight that is skipped")
        }
        Package::Cronsim if moment - question.after > 50 * 365 * 86_400 => {
            Some("cronsim does not look further than 50 years")
        }
        Package::Croniter
            if forward > 0 && !keeps_cadence(question) && question.has_every_hour() =>
        {
            Some("croniter takes a list of all hours for a star")
        }
        Package::Croniter if forward > 0 && question.has_seconds() => Some(OF_A_SECOND),
        Package::Croniter
            if keeps_cadence(question)
                && question.is_shown_again(moment)
                && (was_put_within_an_hour(question, moment)
                    || was_put_over_midnight(question, moment)) =>
        {
            Some("croniter leaves out what is shown again within an hour, or before midnight")
        }
        Package::Croniter if takes_both_days(question) || has_a_star_within(question) => {
            let by_day = question.with(question.day(), "*").is_true(moment);
            let by_weekday = question.with("*", question.weekday()).is_true(moment);
            (by_day != by_weekday).then_some(if takes_both_days(question) {
                "croniter takes both days where one has W, # or L"
            } else {
                "croniter takes all days for a star where the other field has one"
            })
        }
        _ => None,
    }
}

/// Why a moment of theirs is not one of naq's.
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
                Some("cronsim, asked when times are shown again, gives the first, which is past")
            } else {
                question.is_put_back_within_an_hour().then_some(CIRCLES)
            }
        }
        Package::Cronsim if skips_midnight(question, moment) => {
            Some("cronsim has a midnight that is skipped, at the end of the gap")
        }
        Package::Croniter if !keeps_cadence && question.is_shown_again(moment) => {
            Some("croniter takes times that are shown twice both times")
        }
        Package::Croniter if keeps_cadence && question.hour() != "*" && forward > 0 => {
            Some("croniter has what is skipped at the end of the gap, also of every other hour")
        }
        Package::Croniter
            if question.has_seconds() && is_within_a_minute_of_a_gap(question, moment) =>
        {
            Some(OF_A_SECOND)
        }
        Package::Croniter => {
            let near: u8 = question.day().strip_suffix('W')?.parse().ok()?;
            (near > question.days_in_month(moment))
                .then_some("croniter takes the last day for a W that the month does not have")
        }
        Package::Cronsim => None,
    }
}

/// Whether an expression is of intervals to naq, not of times.
fn keeps_cadence(question: &Question) -> bool {
    question.hour().starts_with('*')
}

/// Whether cronsim takes an expression for one of intervals, and naq for one of times.
fn follows_the_clocks(question: &Question) -> bool {
    (question.minute().starts_with('*') || question.has_seconds()) && !keeps_cadence(question)
}

/// Whether croniter asks for both days where crontab takes either.
fn takes_both_days(question: &Question) -> bool {
    let (day, weekday) = (question.day(), question.weekday());
    let starred = day.starts_with('*') || weekday.starts_with('*');
    let special = day.contains('W') || weekday.contains(['L', '#']);
    special && !starred
}

/// Whether a field of days has a star that it does not begin with.
fn has_a_star_within(question: &Question) -> bool {
    [question.day(), question.weekday()]
        .iter()
        .any(|field| field.contains('*') && !field.starts_with('*'))
}

/// The moments of the day before, or the same minute, at which the clocks were put forward or back.
fn changes_before(question: &Question, moment: i64) -> impl Iterator<Item = i64> {
    (moment - 86_400..moment + 60)
        .step_by(60)
        .map(|minute| minute - minute % 60)
        .filter(|minute| question.put_forward(*minute) != 0)
}

/// Whether, in the day before, the clocks were put forward or back by part of an hour, or within
/// one.
fn was_put_within_an_hour(question: &Question, moment: i64) -> bool {
    changes_before(question, moment).any(|change| {
        question.put_forward(change) % 3_600 != 0 || question.clock(change).minute() != 0
    })
}

/// Whether, in the day before, the clocks were put back from midnight or over it.
fn was_put_over_midnight(question: &Question, moment: i64) -> bool {
    changes_before(question, moment).any(|change| {
        let reached = question.clock(change - 1) + chrono::TimeDelta::seconds(1);
        question.clock(change).date() < reached.date()
    })
}

/// Whether, in the hour before, the clocks were put forward over midnight.
fn is_within_an_hour_of_a_skipped_midnight(question: &Question, moment: i64) -> bool {
    (moment - 3_599..=moment).any(|second| skips_midnight(question, second))
}

/// Whether the clocks are put forward over midnight, or from it.
fn skips_midnight(question: &Question, moment: i64) -> bool {
    question.put_forward(moment) > 0
        && question.clock(moment - 1).date() != question.clock(moment).date()
}

/// Whether the clocks were put forward in the minute before.
fn is_within_a_minute_of_a_gap(question: &Question, moment: i64) -> bool {
    (moment - 59..moment).any(|second| question.put_forward(second) > 0)
}
