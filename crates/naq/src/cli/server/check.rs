//! `naq server check`: compares the streams, buckets and consumers with what naq needs.

use super::super::changes::Changes;
use super::super::exit::{Exit, Failure};
use super::super::json::{LayoutReport, StreamSettingReport};
use super::super::render::{self, Column};
use super::super::session::Session;
use naq_client::{AuditAction, CheckedLayout, Remedy, SettingDifference};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Change what can be changed; what is stored stays
    #[arg(long)]
    fix: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let checked = client.check_layout(args.fix).await?;
    let changed: usize = checked.iter().map(|one| one.changed.len()).sum();
    let mut changes = Changes::new(AuditAction::ServerFix);
    changes.add_count(changed as u64);
    changes.record(&client, &Ok(())).await;
    if session.json {
        for one in &checked {
            render::print_json(&report(one))?;
        }
    } else {
        print(&checked)?;
    }
    let left: usize = checked.iter().map(|one| one.differences.len()).sum();
    let settings = count(left, "setting");
    if left == 0 {
        return Ok(0);
    }
    let fixable = checked
        .iter()
        .flat_map(|one| &one.differences)
        .filter(|one| is_fixable(one))
        .count();
    let failure = Failure::new(
        Exit::Failed,
        format!(
            "{settings} {} from what naq needs",
            if left == 1 { "differs" } else { "differ" }
        ),
    );
    let refusal = checked.iter().find_map(|one| one.refusal.as_ref());
    Err(match (refusal, args.fix, fixable) {
        (Some(refusal), _, _) => failure.hint(refusal.clone()),
        (None, false, 1..) => {
            failure.hint(format!("`naq server check --fix` changes {fixable} of {left}"))
        }
        _ => failure.hint(
            "a stream or consumer that you remove is created again as naq needs it, without what it stored",
        ),
    })
}

fn count(number: usize, thing: &str) -> String {
    render::count(u64::try_from(number).unwrap_or(u64::MAX), thing)
}

fn is_fixable(difference: &SettingDifference) -> bool {
    matches!(difference.remedy, Remedy::Automatic | Remedy::OnRequest)
}

fn print(checked: &[CheckedLayout]) -> Result<(), Failure> {
    if checked.is_empty() {
        render::note("nothing to compare: the first worker, scheduler or job creates the streams");
        return Ok(());
    }
    let mut rows = Vec::new();
    for one in checked {
        let object = match &one.consumer {
            Some(consumer) => format!("{}/{consumer}", one.stream),
            None => one.stream.clone(),
        };
        let row = |difference: &SettingDifference, outcome: &str| {
            vec![
                object.clone(),
                difference.setting.to_owned(),
                difference.found_text(),
                difference.wanted_text(),
                outcome.to_owned(),
            ]
        };
        rows.extend(
            one.changed
                .iter()
                .map(|difference| row(difference, "changed")),
        );
        rows.extend(one.differences.iter().map(|difference| {
            let outcome = match difference.remedy {
                Remedy::Automatic | Remedy::OnRequest if one.refusal.is_some() => "NATS refuses",
                Remedy::Automatic => "changed by --fix, or by the next start",
                Remedy::OnRequest => "changed by --fix",
                Remedy::Impossible => "cannot be changed, so naq does not start",
                Remedy::Tolerated => "cannot be changed",
            };
            row(difference, outcome)
        }));
    }
    if rows.is_empty() {
        let streams = checked.iter().filter(|one| one.consumer.is_none());
        let replicas = streams.clone().filter_map(|one| one.replicas);
        let replicas = match (replicas.clone().min(), replicas.max()) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most} replicas"),
            (least, _) => count(least.unwrap_or(1), "replica"),
        };
        let streams = streams.count();
        render::print_line(format_args!(
            "{} with {replicas} and {} are as naq needs them",
            count(streams, "stream"),
            count(checked.len() - streams, "consumer"),
        ))?;
        return Ok(());
    }
    render::print_table(
        &[
            Column::new("STREAM"),
            Column::new("SETTING"),
            Column::new("FOUND"),
            Column::new("NEEDED"),
            Column::new("OUTCOME"),
        ],
        &rows,
    )?;
    Ok(())
}

fn report(checked: &CheckedLayout) -> LayoutReport<'_> {
    LayoutReport {
        stream: &checked.stream,
        consumer: checked.consumer.as_deref(),
        replicas: checked.replicas,
        differences: checked.differences.iter().map(setting_report).collect(),
        changed: checked.changed.iter().map(setting_report).collect(),
        refusal: checked.refusal.as_deref(),
    }
}

fn setting_report(difference: &SettingDifference) -> StreamSettingReport<'_> {
    StreamSettingReport {
        setting: difference.setting,
        found: Some(&difference.found).filter(|value| !value.is_null()),
        needed: Some(&difference.wanted).filter(|value| !value.is_null()),
        fixable: is_fixable(difference),
        required: matches!(difference.remedy, Remedy::Automatic | Remedy::Impossible),
    }
}
