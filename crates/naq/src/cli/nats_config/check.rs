//! `naq nats-config --check`: whether a running server allows each role what it needs, and denies what is
//! forbidden to it.

use super::super::exit::{Exit, Failure};
use super::super::json::PermissionCheck;
use super::super::render::{self, Column};
use super::super::session::Session;
use super::folder::Folder;
use super::{Args, Tenant};
use naq_client::{CheckedOperation, Client, Role};
use naq_protocol::QueueName;

/// An operation that was checked, of a role of a tenant.
struct Row<'a> {
    tenant: Option<&'a str>,
    role: Role,
    checked: CheckedOperation,
}

pub(super) async fn run(
    session: &Session,
    args: &Args,
    queues: &[QueueName],
) -> Result<u8, Failure> {
    let rows = rows(session, args, queues).await?;
    let wrong = rows
        .iter()
        .filter(|row| row.checked.wrong().next().is_some())
        .count();
    if session.json {
        for row in &rows {
            render::print_json(&report(row))?;
        }
    } else {
        print(&rows)?;
    }
    if wrong == 0 {
        return Ok(0);
    }
    let operations = render::count(u64::try_from(wrong).unwrap_or(u64::MAX), "operation");
    Err(Failure::new(
        Exit::Failed,
        format!("the server has other permissions for {operations} than the roles need"),
    )
    .hint("`naq nats-config` prints the configuration that grants them"))
}

async fn rows<'a>(
    session: &Session,
    args: &'a Args,
    queues: &[QueueName],
) -> Result<Vec<Row<'a>>, Failure> {
    let mut rows = Vec::new();
    let Some(folder) = &args.out else {
        let (&[role], [tenant]) = (&args.role[..], &args.tenants()[..]) else {
            return Err(Failure::usage(
                "without --out, --check checks only the user that naq connects as; give its --role, once",
            ));
        };
        let client = session.connect().await?;
        add_rows(&mut rows, tenant, role, &client, args, queues).await?;
        return Ok(rows);
    };
    for tenant in args.tenants() {
        for role in args.roles() {
            let file = Folder::settings_file(folder, &tenant.user(role));
            let settings = session.settings_of(&file)?;
            let client = Client::from_settings(&settings).await?;
            add_rows(&mut rows, &tenant, role, &client, args, queues).await?;
        }
    }
    Ok(rows)
}

async fn add_rows<'a>(
    rows: &mut Vec<Row<'a>>,
    tenant: &Tenant<'a>,
    role: Role,
    client: &Client,
    args: &Args,
    queues: &[QueueName],
) -> Result<(), Failure> {
    let checking = client.check_permissions(role, queues, args.publish_only);
    rows.extend(checking.await?.into_iter().map(|checked| Row {
        tenant: tenant.name,
        role,
        checked,
    }));
    Ok(())
}

const fn word(is_allowed: bool) -> &'static str {
    match is_allowed {
        true => "allowed",
        false => "denied",
    }
}

fn report<'a>(row: &'a Row<'_>) -> PermissionCheck<'a> {
    let subjects: Vec<&str> = row
        .checked
        .wrong()
        .map(|one| one.subject.as_str())
        .collect();
    let is_needed = row.checked.is_needed;
    PermissionCheck {
        role: row.role.name(),
        tenant: row.tenant,
        operation: row.checked.what,
        expected: word(is_needed),
        found: word(is_needed == subjects.is_empty()),
        subjects,
    }
}

fn print(rows: &[Row<'_>]) -> Result<(), Failure> {
    let has_tenants = rows.iter().any(|row| row.tenant.is_some());
    let mut columns = vec![
        Column::new("ROLE"),
        Column::new("OPERATION"),
        Column::new("EXPECTED"),
        Column::new("FOUND"),
        Column::new("WRONG"),
    ];
    if has_tenants {
        columns.insert(0, Column::new("TENANT"));
    }
    let cells = rows.iter().map(|row| {
        let report = report(row);
        let mut cells = vec![
            report.role.to_owned(),
            report.operation.to_owned(),
            report.expected.to_owned(),
            report.found.to_owned(),
            render::or_dash(report.subjects.join(" ")),
        ];
        if has_tenants {
            cells.insert(0, report.tenant.unwrap_or("-").to_owned());
        }
        cells
    });
    render::print_table(&columns, &cells.collect::<Vec<_>>())?;
    Ok(())
}
