//! The page `docs/metrics.md`, generated from the table.

use std::fmt::Write;

use super::table::{ALL, MetricKind, Scope};

/// The text before the table.
const INTRODUCTION: &str = include_str!("page_introduction.md");

/// The name of each metric.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|row| row.name)
}

/// The whole text of `docs/metrics.md`. A test compares it with the file.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for row in ALL {
        let labels: Vec<String> = row
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let roles: Vec<&str> = row.roles.iter().map(|role| role.name()).collect();
        let scope = match row.scope {
            Scope::Process => "process",
            Scope::Cluster => "cluster",
        };
        // writing into a string cannot fail
        let _ = writeln!(
            page,
            "| `{}` | {}, {scope} | {} | {} | {} |",
            row.name,
            row.kind.name(),
            labels.join(", "),
            roles.join(", "),
            row.help
        );
    }
    page.push_str("\n## Bounds of the histograms\n\n| name | bounds |\n|---|---|\n");
    for row in ALL {
        if let MetricKind::Histogram(bounds) = row.kind {
            let bounds: Vec<String> = bounds.iter().map(|bound| bound.to_string()).collect();
            let _ = writeln!(page, "| `{}` | {} |", row.name, bounds.join(", "));
        }
    }
    page
}
