//! `naq schedule backfill`: enqueues the runs that a schedule would have had in a range of the past.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cli::changes::Changes;
use crate::cli::clock;
use crate::cli::exit::Failure;
use crate::cli::json::BackfillRunReport;
use crate::cli::render::{self, Column};
use crate::cli::session::Session;
use crate::cli::times::TimeReader;
use crate::text::count;
use naq_client::{
    AuditAction, BACKFILL_TICKS_DEFAULT, BACKFILL_TICKS_MAX, Backfill, BackfillOrder,
    BackfillRange, Client, ClientError, ErrorKind,
};
use naq_protocol::{ScheduleId, command_line};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Schedule's name
    #[arg(value_name = "SCHEDULE")]
    id: String,
    /// Beginning of the range: RFC 3339 or '2026-12-24 18:00', in the schedule's time zone
    #[arg(long, value_name = "TIME")]
    from: String,
    /// End of the range; a run at this very time is not part of it [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Maximum number of runs
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = default_limit(),
          value_parser = clap::value_parser!(u32).range(1..=BACKFILL_TICKS_MAX as i64))]
    limit: u32,
    /// Runs to enqueue first, and to take if there are more than the limit
    #[arg(long, value_name = "ORDER", value_parser = order(), default_value = "oldest")]
    order: BackfillOrder,
    /// List the runs instead of enqueueing them
    #[arg(long)]
    dry_run: bool,
    /// Time zone of times without an offset [default: the schedule's]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
}

fn default_limit() -> u32 {
    u32::try_from(BACKFILL_TICKS_DEFAULT).unwrap_or(u32::MAX)
}

fn order() -> impl TypedValueParser<Value = BackfillOrder> {
    PossibleValuesParser::new(BackfillOrder::ALL.map(BackfillOrder::name))
        .try_map(|text| text.parse::<BackfillOrder>())
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let id = ScheduleId::new(&args.id)?;
    let mut times = TimeReader::new(session, args.tz.as_deref(), true)?;
    // A typing error is found before naq connects.
    times.parse("--from", &args.from)?;
    if let Some(to) = &args.to {
        times.parse("--to", to)?;
    }
    let client = session.connect().await?;
    if args.tz.is_none() {
        let Some(found) = client.fetch_schedule(&id).await? else {
            return Err(ClientError::NoSuchSchedule(id.to_string()).into());
        };
        let zone = found.schedule.tz.as_deref();
        let zone = zone.and_then(|name| name.parse().ok()).unwrap_or_default();
        times = times.in_zone(zone);
    }
    let range = BackfillRange {
        from: times.parse("--from", &args.from)?,
        to: match &args.to {
            Some(to) => times.parse("--to", to)?,
            None => render::now(),
        },
        limit: args.limit as usize,
        order: args.order,
    };
    times.note("--from", range.from)?;
    if args.to.is_some() {
        times.note("--to", range.to)?;
    }
    let backfill = client.backfill_schedule(&id, &range, args.dry_run).await;
    if !args.dry_run {
        record(&client, &id, &backfill).await;
    }
    let backfill = backfill?;
    render::tolerate_closed_output(print(session, &backfill, args.dry_run))?;
    note_rest(&backfill, &range);
    clock::warn_if_off(&client).await;
    Ok(0)
}

/// Appends what was enqueued to the audit.
async fn record(client: &Client, id: &ScheduleId, done: &Result<Backfill, ClientError>) {
    let mut changes = Changes::new(AuditAction::ScheduleBackfill);
    let failure = match done {
        Ok(backfill) => {
            if backfill.new_jobs() > 0 {
                changes.add_with(id, backfill.new_jobs() as u64);
            }
            Ok(())
        }
        Err(error) => {
            let is_refused = matches!(error.kind(), ErrorKind::Usage | ErrorKind::NotFound);
            if !is_refused {
                // some of the jobs may be enqueued
                changes.add_unknown();
            }
            Err(Failure::general(error.to_string()))
        }
    };
    changes.record(client, &failure).await;
}

fn print(session: &Session, backfill: &Backfill, is_dry: bool) -> std::io::Result<()> {
    let result = |existed| match (existed, is_dry) {
        (true, _) => "exists",
        (false, true) => "would be enqueued",
        (false, false) => "enqueued",
    };
    if session.json {
        for run in &backfill.runs {
            render::print_json(&BackfillRunReport {
                schedule_id: &backfill.schedule_id,
                job_id: &run.job_id,
                scheduled_for: run.tick,
                existed: run.existed,
                enqueued: !run.existed && !is_dry,
                backfill: (!run.existed && !is_dry).then_some(backfill.label.as_str()),
            })?;
        }
        return Ok(());
    }
    if backfill.runs.is_empty() {
        render::note("the schedule has no run in this range");
        return Ok(());
    }
    let zone = backfill.tz.as_deref();
    let rows: Vec<Vec<String>> = backfill
        .runs
        .iter()
        .map(|run| {
            vec![
                render::format_in_zone(run.tick, zone),
                run.job_id.to_string(),
                result(run.existed).to_owned(),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("RUN"),
            Column::new("JOB"),
            Column::new("RESULT"),
        ],
        &rows,
    )?;
    let new_jobs = backfill.new_jobs() as u64;
    if !is_dry && new_jobs > 0 {
        render::note(format_args!(
            "{} enqueued; `naq jobs --label backfill={}` lists them",
            count(new_jobs, "job"),
            backfill.label
        ));
    }
    Ok(())
}

/// Says that the range has more runs than the limit, and how to continue.
fn note_rest(backfill: &Backfill, range: &BackfillRange) {
    let Some(next) = backfill.rest(range) else {
        return;
    };
    let at_least = match backfill.more_is_minimum {
        true => "at least ",
        false => "",
    };
    let (from, to) = (next.from.to_string(), next.to.to_string());
    let verb = command_line([
        "naq",
        "schedule",
        "backfill",
        backfill.schedule_id.as_str(),
        "--from",
        &from,
        "--to",
        &to,
        "--order",
        range.order.name(),
    ]);
    let more = count(backfill.more, "more run");
    render::note(format_args!(
        "the range has {at_least}{more}; `{verb}` continues"
    ));
}
