//! `naq failed groups`: failed jobs, grouped by cause.

use crate::cli::exit::Failure;
use crate::cli::render::{self, Column};
use crate::cli::session::Session;
use naq_client::{Client, DeadLetterFilter, DeadLetterGroup, QueueName};

pub(super) async fn list(
    session: &Session,
    client: &Client,
    filter: &DeadLetterFilter,
) -> Result<u8, Failure> {
    let found = client.group_dead_letters(filter).await?;
    let groups = || found.groups.iter().chain(&found.other);
    if session.json {
        for group in groups() {
            render::print_json(group)?;
        }
        return Ok(0);
    }
    if found.groups.is_empty() {
        render::note("no failed jobs");
        return Ok(0);
    }
    let now = render::now();
    let rows: Vec<Vec<String>> = groups().map(|group| row(group, now)).collect();
    render::print_table(
        &[
            Column::new("GROUP"),
            Column::number("JOBS"),
            Column::new("FIRST").optional(2),
            Column::new("LAST").optional(1),
            Column::new("QUEUES").optional(3),
            Column::new("CAUSE"),
        ],
        &rows,
    )?;
    Ok(0)
}

fn row(group: &DeadLetterGroup, now: naq_protocol::Timestamp) -> Vec<String> {
    let id = group.group.as_ref().map(ToString::to_string);
    let queues: Vec<&str> = group.queues.iter().map(QueueName::as_str).collect();
    vec![
        render::or_dash(id.unwrap_or_default()),
        group.count.to_string(),
        format!("{} ago", render::age(group.first_seen, now)),
        format!("{} ago", render::age(group.last_seen, now)),
        queues.join(","),
        group.cause(),
    ]
}
