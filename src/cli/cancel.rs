//! `naq cancel`

use super::exit::Failure;
use super::render;
use super::session::Session;
use crate::client::{Cancelled, Client, ClientError};
use crate::envelope::{JobId, State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Wait until jobs that run have been stopped
    #[arg(short = 'w', long)]
    wait: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let ids = args
        .ids
        .iter()
        .map(JobId::new)
        .collect::<Result<Vec<_>, _>>()?;
    let client = session.connect().await?;
    let mut cancelling = Cancelling::new(session, &client);
    for id in &ids {
        cancelling.cancel(id).await?;
    }
    cancelling.finish(args.wait).await
}

/// Jobs being cancelled one after another, and what came of it.
struct Cancelling<'s> {
    session: &'s Session,
    client: &'s Client,
    running: Vec<JobId>,
    unknown: Option<JobId>,
}

impl<'s> Cancelling<'s> {
    fn new(session: &'s Session, client: &'s Client) -> Cancelling<'s> {
        Cancelling {
            session,
            client,
            running: Vec::new(),
            unknown: None,
        }
    }

    async fn cancel(&mut self, id: &JobId) -> Result<(), Failure> {
        let ttl = self.session.settings().default_result_ttl;
        let cancelled = match self.client.cancel(id, render::now(), ttl).await {
            Ok(cancelled) => cancelled,
            // the others are cancelled all the same
            Err(ClientError::NoSuchJob(id)) => {
                self.unknown.get_or_insert(id);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (told, heard) = match &cancelled {
            Cancelled::Done(_) => (render::state(State::Cancelled), true),
            Cancelled::Asked { heard: true, .. } => ("being stopped".to_owned(), true),
            Cancelled::Asked { heard: false, .. } => (
                "to be stopped: its worker has not answered yet".to_owned(),
                false,
            ),
            Cancelled::Ended(record) => (format!("{} already", render::state(record.state)), true),
        };
        if let Cancelled::Asked { .. } = &cancelled {
            self.running.push(id.clone());
        }
        if self.session.json {
            let state = cancelled.record().state;
            let asked = matches!(cancelled, Cancelled::Asked { .. });
            render::print_json(&serde_json::json!({
                "job_id": id, "state": state, "cancel_requested": asked, "worker_heard": asked && heard,
            }))?;
        } else {
            render::print_line(format_args!("{id}  {told}"))?;
        }
        Ok(())
    }

    async fn finish(self, wait: bool) -> Result<u8, Failure> {
        if wait && !self.running.is_empty() {
            let mut printed = Ok(());
            self.client
                .wait_each(&self.running, |record| {
                    if printed.is_ok() && !self.session.json {
                        let state = render::state(record.state);
                        printed = render::print_line(format_args!("{}  {state}", record.job_id));
                    }
                })
                .await?;
            printed?;
        }
        match self.unknown {
            Some(id) => Err(ClientError::NoSuchJob(id).into()),
            None => Ok(0),
        }
    }
}
