//! Checks that each tick that was due became one job, and no other did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use naq_protocol::{Overlap, Schedule, ScheduleStatus, State, Timestamp};

use super::expected::{UNDER_WAY_MS, expect, lives};
use super::set::role_of;
use super::versions::{All, Version};
use crate::chaos::check::Records;

/// The job of a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Made {
    enqueued_ms: i64,
    /// When the job ended, or its cancellation was requested.
    until_ms: i64,
}

/// The result of the check. Each list names what broke a promise; all have to be empty.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Number of ticks that were due.
    pub(super) due: usize,
    /// Number of jobs of ticks.
    pub(super) jobs: usize,
    /// Number of ticks that the overlap policy skipped.
    pub(super) skipped: u64,
    pub(super) missed: Vec<String>,
    /// Jobs of a schedule that was paused, removed or ended, or had no such tick.
    pub(super) unexpected: Vec<String>,
    /// Jobs that were enqueued before their tick.
    pub(super) early: Vec<String>,
    /// Progress that moved back.
    pub(super) backwards: Vec<String>,
    /// Counters that differ from what was enqueued.
    pub(super) miscounted: Vec<String>,
    /// Ticks that were enqueued before an earlier one.
    pub(super) disordered: Vec<String>,
    /// Jobs that ran at once although the overlap policy forbids it.
    pub(super) overlapping: Vec<String>,
    /// Schedules that have not ended.
    pub(super) stuck: Vec<String>,
    /// Number of ticks that a leader enqueued after a change that it had not received yet, and the longest
    /// time between the change and such a tick.
    pub(super) unreceived: usize,
    pub(super) unreceived_ms_max: i64,
    /// Number of terms in which a leader stored progress.
    pub(super) terms: usize,
    pub(super) versions: usize,
    /// Number of changes by the controller.
    pub(super) changes: usize,
}

impl Verdict {
    fn lists(&self) -> [(&'static str, &Vec<String>); 8] {
        [
            ("missed", &self.missed),
            ("unexpected", &self.unexpected),
            ("early", &self.early),
            ("backwards", &self.backwards),
            ("miscounted", &self.miscounted),
            ("disordered", &self.disordered),
            ("overlapping", &self.overlapping),
            ("not ended", &self.stuck),
        ]
    }

    pub(super) fn is_good(&self) -> bool {
        self.lists().iter().all(|(_, list)| list.is_empty())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ticks due, {} jobs, {} skipped by overlap",
            self.due, self.jobs, self.skipped
        )?;
        for (what, list) in self.lists() {
            write!(f, ", {what} {}", list.len())?;
        }
        write!(
            f,
            "\n{} terms of leaders, {} changes, {} versions; {} ticks of up to {} ms after a change",
            self.terms, self.changes, self.versions, self.unreceived, self.unreceived_ms_max
        )?;
        for (what, list) in self.lists() {
            for one in list.iter().take(20) {
                write!(f, "\n{what}: {one}")?;
            }
        }
        Ok(())
    }
}

/// The jobs of each schedule, by tick.
fn jobs_of(records: &Records, verdict: &mut Verdict) -> BTreeMap<String, BTreeMap<i64, Made>> {
    let mut jobs: BTreeMap<String, BTreeMap<i64, Made>> = BTreeMap::new();
    for (job, (_, record)) in records {
        let (Some(schedule), Some(tick)) = (&record.schedule_id, record.scheduled_for) else {
            verdict.unexpected.push(format!("{job} belongs to no tick"));
            continue;
        };
        if *job != job_id(schedule.as_str(), tick) {
            let named = format!("{job} is not the id of {schedule} at {tick}");
            verdict.unexpected.push(named);
        }
        let finished = record.finished_at().map(Timestamp::unix_ms);
        let was_cancelled = record.cancel_requested || record.state() == State::Cancelled;
        let made = Made {
            enqueued_ms: record.enqueue_time.unix_ms(),
            until_ms: match finished {
                // the scheduler that enqueued the next tick cancelled it
                _ if was_cancelled => i64::MIN,
                Some(finished) => finished,
                None => i64::MAX,
            },
        };
        let jobs = jobs.entry(schedule.to_string()).or_default();
        jobs.insert(tick.unix_ms(), made);
    }
    jobs
}

/// The job id of a tick, as the protocol page defines it.
pub(super) fn job_id(schedule: &str, tick: Timestamp) -> String {
    // milliseconds only if they are not zero
    let text = tick.to_string().replace(".000Z", "Z");
    format!("{schedule}-{}", text.replace(['-', ':', '.'], ""))
}

/// The ids of the jobs that have to exist. `records` are those that exist so far.
pub(super) fn due(versions: &All, records: &Records) -> BTreeSet<String> {
    let jobs = jobs_of(records, &mut Verdict::default());
    let mut due = BTreeSet::new();
    for (name, versions) in versions {
        let ticks: BTreeSet<i64> = jobs
            .get(name)
            .map(|jobs| jobs.keys().copied().collect())
            .unwrap_or_default();
        for life in lives(versions) {
            if overlap(life) == Overlap::Skip {
                continue;
            }
            let expected = expect(versions, life, &ticks);
            let ids = expected.must.iter().map(|tick| id_at(name, *tick));
            due.extend(ids);
        }
    }
    due
}

fn id_at(name: &str, tick_ms: i64) -> String {
    job_id(name, Timestamp::from_unix_ms(tick_ms).unwrap())
}

fn overlap(life: &[Version]) -> Overlap {
    schedule(&life[0]).overlap
}

fn schedule(version: &Version) -> &Schedule {
    version.schedule.as_ref().unwrap()
}

/// Checks every promise.
pub(super) fn check(versions: &All, records: &Records) -> Verdict {
    let mut verdict = Verdict::default();
    let mut jobs = jobs_of(records, &mut verdict);
    let terms: BTreeSet<&String> = versions
        .values()
        .flatten()
        .filter_map(|version| version.term.as_ref())
        .collect();
    verdict.terms = terms.len();
    for (name, versions) in versions {
        verdict.versions += versions.len();
        let by_controller = versions.iter().filter(|version| version.term.is_none());
        verdict.changes += by_controller.count();
        check_schedule(
            &mut verdict,
            name,
            versions,
            &jobs.remove(name).unwrap_or_default(),
        );
    }
    for (name, _) in jobs {
        verdict.unexpected.push(format!("jobs of {name}"));
    }
    verdict
}

fn check_schedule(
    verdict: &mut Verdict,
    name: &str,
    versions: &[Version],
    jobs: &BTreeMap<i64, Made>,
) {
    verdict.jobs += jobs.len();
    let ticks: BTreeSet<i64> = jobs.keys().copied().collect();
    let mut due: BTreeSet<i64> = BTreeSet::new();
    let mut around: BTreeMap<i64, i64> = BTreeMap::new();
    let lives = lives(versions);
    for (nth, life) in lives.iter().enumerate() {
        let expected = expect(versions, life, &ticks);
        check_progress(verdict, name, life);
        let ends = lives.get(nth + 1).map(|next| schedule(&next[0]).created_at);
        let begins = schedule(&life[0]).created_at.unix_ms();
        let ends = ends.map_or(i64::MAX, Timestamp::unix_ms);
        let of_life: BTreeMap<i64, Made> = jobs
            .range(begins + 1..=ends)
            .map(|(tick, made)| (*tick, *made))
            .collect();
        check_counters(verdict, name, life, &expected.must, &of_life);
        if overlap(life) != Overlap::Skip {
            let missing = expected.must.iter().filter(|tick| !jobs.contains_key(tick));
            verdict
                .missed
                .extend(missing.map(|tick| id_at(name, *tick)));
        }
        let sure: BTreeMap<i64, Made> = of_life
            .iter()
            .filter(|(tick, _)| expected.must.contains(tick))
            .map(|(tick, made)| (*tick, *made))
            .collect();
        check_order(verdict, name, overlap(life), &sure);
        for (tick, changed_at) in expected.around {
            let latest = around.entry(tick).or_insert(changed_at);
            *latest = changed_at.max(*latest);
        }
        due.extend(expected.must);
    }
    verdict.due += due.len();
    for (tick, made) in jobs {
        if made.enqueued_ms < *tick {
            verdict.early.push(id_at(name, *tick));
        }
        if due.contains(tick) {
            continue;
        }
        match around.get(tick) {
            Some(changed_at) if made.enqueued_ms <= changed_at.saturating_add(UNDER_WAY_MS) => {
                let after_ms = tick - changed_at;
                if after_ms > 0 {
                    verdict.unreceived += 1;
                    verdict.unreceived_ms_max = verdict.unreceived_ms_max.max(after_ms);
                }
            }
            _ => verdict.unexpected.push(id_at(name, *tick)),
        }
    }
    let is_known = role_of(name).is_some();
    if !is_known || !versions.last().is_some_and(Version::has_ended) {
        verdict.stuck.push(format!("{name}: {:?}", versions.last()));
    }
}

/// Checks that the progress of a schedule only grows, and that only the controller pauses it.
fn check_progress(verdict: &mut Verdict, name: &str, life: &[Version]) {
    for two in life.windows(2) {
        let [before, after] = [&two[0], &two[1]].map(|version| &schedule(version).progress);
        let grows = after.done_until >= before.done_until
            && after.runs >= before.runs
            && after.missed >= before.missed
            && after.skipped >= before.skipped
            && after.last_run >= before.last_run;
        if !grows {
            let revision = two[1].revision;
            verdict
                .backwards
                .push(format!("{name} at {revision}: {before:?}, then {after:?}"));
        }
    }
    for version in life {
        let one = schedule(version);
        if one.status == ScheduleStatus::Paused && one.paused_reason.is_some() {
            verdict
                .unexpected
                .push(format!("{name} was paused: {:?}", one.paused_reason));
        }
    }
}

/// Checks the counters of a life that ended by itself.
fn check_counters(
    verdict: &mut Verdict,
    name: &str,
    life: &[Version],
    must: &BTreeSet<i64>,
    jobs: &BTreeMap<i64, Made>,
) {
    let last = schedule(&life[life.len() - 1]);
    if last.status != ScheduleStatus::Ended {
        return;
    }
    let progress = &last.progress;
    let wrong = |what: String| {
        format!(
            "{name}, created at {}: {what}: {progress:?}",
            last.created_at
        )
    };
    // a tick around a change need not be counted: its leader may have lost its lease
    let jobs_sure = jobs.keys().filter(|tick| must.contains(tick)).count();
    let counted = usize::try_from(progress.runs).unwrap();
    if !(jobs_sure..=jobs.len()).contains(&counted) {
        let found = format!(
            "{} jobs, {jobs_sure} of them not around a change",
            jobs.len()
        );
        verdict.miscounted.push(wrong(found));
    }
    verdict.skipped += progress.skipped;
    if overlap(life) == Overlap::Skip {
        let counted = jobs_sure + usize::try_from(progress.skipped).unwrap();
        if counted < must.len() {
            let missing = must.len() - counted;
            let missing = (0..missing).map(|_| format!("{name}: neither a job nor skipped"));
            verdict.missed.extend(missing);
        } else if counted > must.len() {
            let both = format!("{} ticks, {jobs_sure} jobs", must.len());
            verdict.miscounted.push(wrong(both));
        }
    } else if progress.skipped > 0 {
        verdict.miscounted.push(wrong("skipped".to_owned()));
    }
    if progress.missed > 0 {
        verdict.missed.push(wrong("counted as missed".to_owned()));
    }
    if progress.failures > 0 || progress.last_error.is_some() {
        verdict.miscounted.push(wrong("failures".to_owned()));
    }
}

/// Checks that ticks are enqueued in order and, if the overlap policy says so, only after the job before
/// has ended or was cancelled.
fn check_order(verdict: &mut Verdict, name: &str, overlap: Overlap, jobs: &BTreeMap<i64, Made>) {
    let in_turn: Vec<(&i64, &Made)> = jobs.iter().collect();
    for two in in_turn.windows(2) {
        let [(before_tick, before), (tick, made)] = [two[0], two[1]];
        let both = || {
            format!(
                "{}, and then {}",
                id_at(name, *before_tick),
                id_at(name, *tick)
            )
        };
        if made.enqueued_ms < before.enqueued_ms {
            verdict.disordered.push(both());
        }
        let one_at_once = matches!(overlap, Overlap::Skip | Overlap::Replace);
        if one_at_once && made.enqueued_ms < before.until_ms {
            verdict.overlapping.push(both());
        }
    }
}

#[cfg(test)]
mod tests {
    use naq_protocol::{Outcome, Phase};
    use serde_json::{Value, json};

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms).unwrap()
    }

    /// A schedule of every second, created at second 10, paused from 12.5 to 14.6, and ended at 15.
    struct Seen {
        versions: Vec<Version>,
        records: Records,
    }

    /// Indexes of its versions.
    const MADE: usize = 0;
    const STORED: usize = 1;
    const PAUSED: usize = 2;
    const RESUMED: usize = 3;
    const ENDED: usize = 4;

    fn version(revision: u64, at_ms: i64, by_leader: bool, fields: &Value) -> Version {
        let mut value = json!({
            "schedule_id": "steady", "queue": "left", "envelope": {"command": "true"},
            "every": 1, "created_at": at(10_000),
        });
        let all = value.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        Version {
            revision,
            at_ms,
            term: by_leader.then(|| "term".to_owned()),
            schedule: Some(Schedule::parse(value.to_string().as_bytes()).unwrap()),
        }
    }

    fn progress(done_until_ms: i64, runs: u64) -> Value {
        json!({"done_until": at(done_until_ms), "runs": runs})
    }

    fn good() -> Seen {
        let end = at(15_000);
        let mut seen = Seen {
            versions: vec![
                version(1, 10_001, false, &json!({"progress": progress(10_000, 0)})),
                version(2, 12_100, true, &json!({"progress": progress(12_000, 2)})),
                version(
                    3,
                    12_500,
                    false,
                    &json!({"progress": progress(12_000, 2), "status": "paused"}),
                ),
                version(
                    4,
                    14_600,
                    false,
                    &json!({"progress": progress(12_000, 2), "end": end}),
                ),
                version(
                    5,
                    15_100,
                    true,
                    &json!({"progress": progress(15_000, 5), "end": end, "status": "ended"}),
                ),
            ],
            records: Records::new(),
        };
        for (tick, enqueued) in [
            (11_000, 11_001),
            (12_000, 12_001),
            (13_000, 14_601),
            (14_000, 14_602),
            (15_000, 15_001),
        ] {
            seen.put(tick, enqueued);
        }
        seen
    }

    impl Seen {
        /// Adds the job of a tick, which ended when it was enqueued.
        fn put(&mut self, tick: i64, enqueued: i64) {
            let id = id_at("steady", tick);
            let record = json!({
                "job_id": id, "queue": "left", "state": "succeeded", "attempt": 1,
                "schedule_id": "steady", "scheduled_for": at(tick),
                "enqueue_time": at(enqueued), "finished_at": at(enqueued),
            });
            let record = serde_json::from_value(record).unwrap();
            self.records.insert(id, (1, record));
        }

        fn record(&mut self, tick: i64) -> &mut naq_protocol::Record {
            &mut self.records.get_mut(&id_at("steady", tick)).unwrap().1
        }

        /// Changes when the job of a tick finished.
        fn finish(&mut self, tick: i64, finished: i64) {
            self.record(tick).set_phase(Phase::Finished {
                outcome: Outcome::Succeeded,
                finished_at: at(finished),
            });
        }

        fn schedule(&mut self, nth: usize) -> &mut Schedule {
            self.versions[nth].schedule.as_mut().unwrap()
        }

        fn every_version(&mut self, change: impl Fn(&mut Schedule)) {
            for version in &mut self.versions {
                version.schedule.as_mut().map(&change);
            }
        }

        fn check(&self) -> Verdict {
            let versions = [("steady".to_owned(), self.versions.clone())].into();
            check(&versions, &self.records)
        }
    }

    #[test]
    fn checker_accepts_schedules_that_kept_their_promises() {
        let verdict = good().check();
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!((verdict.due, verdict.jobs, verdict.unreceived), (5, 5, 0));
    }

    #[test]
    fn ticks_around_a_change_are_attributed_to_the_right_version() {
        let mut seen = good();
        // resumed from that moment: ticks that were due during the pause are not enqueued
        seen.schedule(RESUMED).progress.done_until = at(14_600);
        for tick in [13_000, 14_000] {
            seen.records.remove(&id_at("steady", tick));
        }
        seen.schedule(ENDED).progress.runs = 3;
        let verdict = seen.check();
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!((verdict.due, verdict.jobs), (3, 3));
        // a tick that was sent just before the pause, whether it was counted or not
        seen.put(13_000, 13_001);
        let verdict = seen.check();
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!((verdict.unreceived, verdict.unreceived_ms_max), (1, 500));
        seen.schedule(ENDED).progress.runs = 4;
        assert!(seen.check().is_good());
        seen.schedule(ENDED).progress.runs = 5;
        assert!(!seen.check().is_good());
        // and a tick that was stored too late for that
        seen.schedule(ENDED).progress.runs = 4;
        seen.put(13_000, 12_500 + UNDER_WAY_MS + 1);
        assert!(!seen.check().unexpected.is_empty());
    }

    #[test]
    fn ticks_skipped_by_overlap_are_counted() {
        let mut seen = good();
        seen.every_version(|schedule| schedule.overlap = Overlap::Skip);
        assert!(seen.check().is_good());
        seen.records.remove(&id_at("steady", 13_000));
        let verdict = seen.check();
        assert!(!verdict.missed.is_empty(), "{verdict}");
        let progress = &mut seen.schedule(ENDED).progress;
        (progress.runs, progress.skipped) = (4, 1);
        let verdict = seen.check();
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!(verdict.skipped, 1);
        seen.schedule(ENDED).progress.skipped = 2;
        assert!(!seen.check().miscounted.is_empty());
    }

    /// Each promise broken, and the words of the verdict.
    #[test]
    fn checker_finds_each_broken_promise_of_schedules() {
        type Break = fn(&mut Seen);
        let breaks: [(&str, Break); 20] = [
            ("missed: steady-", |seen| {
                seen.records.remove(&id_at("steady", 12_000));
            }),
            // also a tick that was due during the pause, and is to be enqueued after it
            ("missed: steady-", |seen| {
                seen.records.remove(&id_at("steady", 13_000));
            }),
            ("missed: steady", |seen| {
                seen.schedule(ENDED).progress.missed = 1
            }),
            // the schedule has no such tick
            ("unexpected:", |seen| seen.put(11_500, 11_501)),
            // after its end
            ("unexpected:", |seen| seen.put(16_000, 16_001)),
            // before it was created
            ("unexpected:", |seen| seen.put(10_000, 10_001)),
            ("unexpected:", |seen| {
                // it was never resumed, and this tick is long after the pause
                seen.versions.truncate(RESUMED);
                seen.put(16_000, 16_001);
            }),
            ("unexpected:", |seen| {
                // and it was removed
                seen.versions.truncate(RESUMED);
                seen.versions[PAUSED].schedule = None;
                seen.put(16_000, 16_001);
            }),
            ("unexpected:", |seen| {
                seen.every_version(|schedule| schedule.repeat = Some(4));
            }),
            ("is not the id of", |seen| {
                let record = seen.records.remove(&id_at("steady", 12_000)).unwrap();
                seen.records.insert("steady-12".to_owned(), record);
            }),
            ("belongs to no tick", |seen| {
                seen.record(12_000).scheduled_for = None
            }),
            ("was paused", |seen| {
                seen.schedule(PAUSED).paused_reason = Some("too many failures".to_owned());
            }),
            ("early:", |seen| {
                seen.record(12_000).enqueue_time = at(11_999)
            }),
            ("backwards:", |seen| {
                seen.schedule(RESUMED).progress.done_until = at(11_000);
            }),
            ("backwards:", |seen| {
                seen.schedule(RESUMED).progress.runs = 1
            }),
            ("miscounted:", |seen| seen.schedule(ENDED).progress.runs = 4),
            ("miscounted:", |seen| seen.schedule(ENDED).progress.runs = 6),
            ("disordered:", |seen| {
                seen.record(13_000).enqueue_time = at(14_603);
            }),
            ("overlapping:", |seen| {
                seen.every_version(|schedule| schedule.overlap = Overlap::Replace);
                seen.finish(13_000, 14_603);
            }),
            ("not ended: steady", |seen| {
                seen.versions.truncate(ENDED);
                // only its progress says how far it was
                seen.schedule(STORED).progress.done_until = at(15_000);
            }),
        ];
        for (word, break_promise) in breaks {
            let mut seen = good();
            break_promise(&mut seen);
            let verdict = seen.check();
            assert!(!verdict.is_good(), "{word}");
            assert!(verdict.to_string().contains(word), "{word}: {verdict}");
        }
        let mut seen = good();
        seen.every_version(|schedule| schedule.overlap = Overlap::Replace);
        seen.finish(13_000, 14_603);
        seen.record(13_000).cancel_requested = true;
        assert!(seen.check().is_good());
        assert_eq!(seen.versions[MADE].revision, 1);
    }
}
