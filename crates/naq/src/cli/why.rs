//! `naq why`

use super::exit::Failure;
use super::job_socket::ObservedJob;
use super::render;
use super::session::Session;
use crate::text::waiting::Why;
use naq_protocol::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.job_reader().await?;
    let ObservedJob { record, cause } = client.observer().look_at(&job_id).await?;
    let unseen = session.settings().worker_ttl;
    let why = Why::new(&record, cause?, render::now(), unseen);
    match session.json {
        true => render::print_json(&why)?,
        false => render::print_line(&why.text)?,
    }
    Ok(0)
}
