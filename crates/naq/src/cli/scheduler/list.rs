//! `naq scheduler list`

use crate::cli::exit::Failure;
use crate::cli::render::{self, Column};
use crate::cli::session::Session;
use naq_client::{Client, ClientError, ListedSchedule, ScheduleFilter};
use naq_core::{CLOCK_SKEW_MAX, ClockSkew};
use naq_protocol::{LeaderInfo, ScheduleStatus, SchedulerInfo, SchedulerState};

const NO_LEADER: &str = "no scheduler leads, so schedules enqueue no jobs";

pub(super) async fn run(session: &Session) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let (schedulers, leader) =
        futures_util::try_join!(client.list_schedulers(), client.fetch_leader())?;
    if session.json {
        for scheduler in &schedulers {
            render::print_json(scheduler)?;
        }
    } else if !schedulers.is_empty() {
        print(&schedulers)?;
    }
    let has_schedules = leader.is_none() && has_active_schedule(&client).await?;
    for warning in warnings(&schedulers, leader.as_ref(), has_schedules) {
        render::note(warning);
    }
    if schedulers.is_empty() && leader.is_none() && !has_schedules {
        render::note("no schedulers; `naq scheduler` starts one");
    }
    crate::cli::clock::warn_if_off(&client).await;
    Ok(0)
}

fn print(schedulers: &[SchedulerInfo]) -> std::io::Result<()> {
    let now = render::now();
    let rows: Vec<Vec<String>> = schedulers
        .iter()
        .map(|scheduler| {
            vec![
                render::escape(&scheduler.instance_id),
                render::escape(&scheduler.hostname),
                scheduler.pid.to_string(),
                state(scheduler.state),
                render::age(scheduler.since, now),
                scheduler
                    .clock_offset_ms
                    .map_or_else(|| "-".to_owned(), offset),
                scheduler.enqueued.to_string(),
                format!("{} ago", render::age(scheduler.last_seen, now)),
                render::escape(&scheduler.version),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("SCHEDULER"),
            Column::new("HOST"),
            Column::number("PID").optional(4),
            Column::new("STATE"),
            Column::new("SINCE").optional(1),
            Column::number("CLOCK"),
            Column::number("ENQUEUED").optional(2),
            Column::new("SEEN").optional(3),
            Column::new("VERSION").optional(5),
        ],
        &rows,
    )
}

fn state(state: SchedulerState) -> String {
    let is_unknown = matches!(state, SchedulerState::Unknown(_));
    render::name_of_any_version(state, is_unknown).replace('_', " ")
}

/// A clock's offset from the server's, in seconds with its sign.
fn offset(ahead_ms: i64) -> String {
    let sign = if ahead_ms < 0 { '-' } else { '+' };
    let ahead_ms = ahead_ms.unsigned_abs();
    format!("{sign}{}.{:03}s", ahead_ms / 1_000, ahead_ms % 1_000)
}

async fn has_active_schedule(client: &Client) -> Result<bool, ClientError> {
    let active = ScheduleFilter {
        status: Some(ScheduleStatus::Active),
        ..ScheduleFilter::default()
    };
    let mut schedules = client.list_schedules(&active).await?;
    while let Some(listed) = schedules.next().await? {
        if matches!(listed, ListedSchedule::Valid(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Prints notes on why schedules enqueue no jobs, if no scheduler leads. A user without permission to
/// read the leader's lease gets no warning.
pub(in crate::cli) async fn warn_without_leader(
    client: &Client,
    leader: &Result<Option<LeaderInfo>, ClientError>,
) {
    if matches!(leader, Ok(None)) {
        let warnings = match client.list_schedulers().await {
            Ok(schedulers) => warnings(&schedulers, None, true),
            // a list that cannot be read does not show that no scheduler runs
            Err(_) => vec![NO_LEADER.to_owned()],
        };
        for warning in warnings {
            render::note(warning);
        }
    }
}

/// The notes on what keeps schedulers from leading. `has_schedules` says whether a schedule waits for one.
fn warnings(
    schedulers: &[SchedulerInfo],
    leader: Option<&LeaderInfo>,
    has_schedules: bool,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for scheduler in schedulers {
        let skew = scheduler.clock_offset_ms.map(ClockSkew::from_ahead_ms);
        let is_off = scheduler.state == SchedulerState::ClockOff
            || skew.is_some_and(ClockSkew::is_excessive);
        if is_off {
            let clock = skew.map_or_else(|| "wrong".to_owned(), |skew| skew.to_string());
            warnings.push(format!(
                "the clock of scheduler `{}` on {} is {clock}: it does not lead while it is more than {} s off",
                scheduler.instance_id,
                scheduler.hostname,
                CLOCK_SKEW_MAX.as_secs()
            ));
        }
    }
    match leader {
        None if has_schedules && schedulers.is_empty() => {
            warnings.push("no scheduler runs; `naq scheduler` starts one".to_owned());
        }
        None if has_schedules => {
            warnings.push(NO_LEADER.to_owned());
        }
        Some(leader) if !schedulers.iter().any(|one| is_leader(one, leader)) => {
            warnings.push(format!(
                "scheduler `{}` on {} (naq {}) leads and writes no heartbeat, so it is not listed",
                leader.instance_id, leader.hostname, leader.version
            ));
        }
        _ => {}
    }
    warnings
}

fn is_leader(scheduler: &SchedulerInfo, leader: &LeaderInfo) -> bool {
    scheduler.instance_id == leader.instance_id
        && scheduler.hostname == leader.hostname
        && scheduler.pid == leader.pid
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Timestamp, UnknownFields};

    fn scheduler(name: &str, state: SchedulerState, clock_offset_ms: i64) -> SchedulerInfo {
        let time = Timestamp::from_unix_ms(0).unwrap();
        SchedulerInfo {
            instance_id: name.to_owned(),
            hostname: "h".to_owned(),
            pid: 1,
            version: "0.1.0".to_owned(),
            state,
            since: time,
            clock_offset_ms: Some(clock_offset_ms),
            enqueued: 0,
            started_at: time,
            last_seen: time,
            unknown: UnknownFields::default(),
        }
    }

    #[test]
    fn warnings_name_what_keeps_schedules_from_running() {
        let leader = LeaderInfo {
            instance_id: "a".to_owned(),
            hostname: "h".to_owned(),
            pid: 1,
            version: "0.1.0".to_owned(),
            since: Timestamp::from_unix_ms(0).unwrap(),
        };
        let a = scheduler("a", SchedulerState::Leading, 3);
        let off = scheduler("b", SchedulerState::ClockOff, -7_500);
        assert_eq!(
            warnings(std::slice::from_ref(&a), Some(&leader), true),
            [""; 0]
        );
        assert_eq!(warnings(&[], None, false), [""; 0]);
        assert_eq!(
            warnings(&[], None, true),
            ["no scheduler runs; `naq scheduler` starts one"]
        );
        let clock = "the clock of scheduler `b` on h is 7.5 s behind the server's: it does not lead while it is more than 2 s off";
        assert_eq!(warnings(&[a, off.clone()], Some(&leader), true), [clock]);
        assert_eq!(
            warnings(&[off], None, true),
            [clock, "no scheduler leads, so schedules enqueue no jobs"]
        );
        assert_eq!(
            warnings(&[], Some(&leader), true),
            ["scheduler `a` on h (naq 0.1.0) leads and writes no heartbeat, so it is not listed"]
        );
    }

    #[test]
    fn offset_of_a_clock_has_a_sign() {
        assert_eq!(offset(0), "+0.000s");
        assert_eq!(offset(-3_600_012), "-3600.012s");
    }
}
