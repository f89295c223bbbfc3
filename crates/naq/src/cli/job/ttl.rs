//! `naq job ttl`

use crate::cli::changes::Changes;
use crate::cli::exit::Failure;
use crate::cli::job_options::check_record_ttl;
use crate::cli::json::ResultTtl;
use crate::cli::render;
use crate::cli::session::Session;
use naq_client::AuditAction;
use naq_protocol::JobId;
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ended job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// Time from now until the record expires, such as 24h or 30d: at least 10m; 0 keeps it
    /// forever
    #[arg(value_name = "TIME")]
    ttl: WireDuration,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    check_record_ttl("the time", args.ttl)?;
    let client = session.connect().await?;
    let (record, kept) = client.set_result_ttl(&job_id, args.ttl.0).await?;
    let mut changes = Changes::new(AuditAction::JobTtl);
    changes.add(&job_id);
    changes.record(&client, &Ok(())).await;
    let kept = kept.map(WireDuration);
    if session.json {
        render::print_json(&ResultTtl {
            job_id: &record.job_id,
            result_ttl: kept.unwrap_or_default(),
        })?;
        return Ok(0);
    }
    match kept {
        None => render::print_line(format_args!("{job_id}  kept forever"))?,
        Some(kept) => render::print_line(format_args!("{job_id}  kept for {kept}"))?,
    }
    Ok(0)
}
