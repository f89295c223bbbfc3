//! `naq wait`

use std::cell::RefCell;

use super::exit::{Exit, Failure};
use super::job_socket::JobReader;
use super::progress::ProgressBars;
use super::remarks::leaked;
use super::render;
use super::session::Session;
use super::waiting::explain;
use naq_protocol::units::WireDuration;
use naq_protocol::{JobId, Record, State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Jobs' ids
    #[arg(value_name = "JOB", required = true)]
    ids: Vec<String>,
    /// Longest time to wait, such as 90s or 5m; exit code 124 after it [default: no limit]
    #[arg(long, value_name = "TIME")]
    timeout: Option<WireDuration>,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let mut ids = args
        .ids
        .iter()
        .map(JobId::new)
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort();
    ids.dedup();
    let client = match session.job_reader().await? {
        JobReader::Nats(client) => client,
        worker @ JobReader::Worker(_) => {
            return wait_in_job(session, &worker, &ids, args.timeout).await;
        }
    };
    let mut all_succeeded = true;
    let mut printed = Ok(());
    let bars = RefCell::new(ProgressBars::new());
    let waiter = client.waiter(&ids).await?;
    let waiting = waiter.each_change(|record| {
        bars.borrow_mut().update(&record);
        if !record.state().is_terminal() {
            return;
        }
        all_succeeded &= record.state() == State::Succeeded;
        if printed.is_ok() {
            printed = bars.borrow().suspend(|| print(session, &record));
        }
    });
    let suspended = |print: &mut dyn FnMut()| bars.borrow().suspend(print);
    let waiting = explain(session, &*client, &ids, suspended, waiting);
    match args.timeout {
        None => waiting.await?,
        Some(timeout) => match tokio::time::timeout(timeout.0, waiting).await {
            Ok(waited) => waited?,
            Err(_) => return Err(out_of_time(timeout)),
        },
    }
    printed?;
    Ok(if all_succeeded { 0 } else { Exit::Failed as u8 })
}

/// Waits inside a job, whose worker does the waiting.
async fn wait_in_job(
    session: &Session,
    worker: &JobReader,
    ids: &[JobId],
    timeout: Option<WireDuration>,
) -> Result<u8, Failure> {
    let waiting = async {
        let mut all_succeeded = true;
        for id in ids {
            let record = worker.wait(id).await?;
            all_succeeded &= record.state() == State::Succeeded;
            print(session, &record)?;
        }
        Ok(if all_succeeded { 0 } else { Exit::Failed as u8 })
    };
    let waiting = explain(session, worker, ids, |print| print(), waiting);
    match timeout {
        None => waiting.await,
        Some(timeout) => match tokio::time::timeout(timeout.0, waiting).await {
            Ok(waited) => waited,
            Err(_) => Err(out_of_time(timeout)),
        },
    }
}

fn out_of_time(timeout: WireDuration) -> Failure {
    Failure::new(
        Exit::TimedOut,
        format!("not all jobs ended within {timeout}"),
    )
}

fn print(session: &Session, record: &Record) -> std::io::Result<()> {
    if session.json {
        return render::print_json(record);
    }
    let ending = render::outcome(render::Ending::of(record));
    render::print_line(format_args!("{}  {ending}", record.job_id))?;
    if let Some(leaked) = leaked(record) {
        render::note(format_args!("{}: {leaked}", record.job_id));
    }
    Ok(())
}
