//! Jobs that depend on one another, as a tree: each job is below its first dependency.

use std::collections::{HashMap, HashSet};

use crate::cli::exit::Failure;
use crate::cli::json::TreeNode;
use crate::cli::render::{self, Ending};
use crate::cli::session::Session;
use naq_client::{Client, DependencyNode};
use naq_protocol::{DependencyCondition, JobId, Record};

pub(super) async fn show(session: &Session, client: &Client, id: &JobId) -> Result<u8, Failure> {
    let nodes = client.fetch_dependency_tree(id).await?;
    if session.json {
        for node in &nodes {
            let record = node.record.as_ref();
            render::print_json(&TreeNode {
                job_id: &node.job_id,
                queue: record.map(|record| &record.queue),
                state: record.map(|record| record.state()),
                reason: record.and_then(|record| record.reason()),
                depends_on: &node.depends_on,
            })?;
        }
        return Ok(0);
    }
    for line in lines(&nodes) {
        render::print_line(line)?;
    }
    Ok(0)
}

/// The tree, a line for each job.
fn lines(nodes: &[DependencyNode]) -> Vec<String> {
    let known: HashSet<&JobId> = nodes.iter().map(|node| &node.job_id).collect();
    let mut below: HashMap<&JobId, Vec<&DependencyNode>> = HashMap::new();
    let mut roots = Vec::new();
    for node in nodes {
        let parent = node.depends_on.iter().find(|one| known.contains(&one.job));
        match parent {
            Some(parent) => below.entry(&parent.job).or_default().push(node),
            None => roots.push(node),
        }
    }
    let mut lines = Vec::with_capacity(nodes.len());
    let mut shown = HashSet::new();
    // the roots first; then what is left, which is in cycles
    for root in roots.into_iter().chain(nodes) {
        // an explicit stack: recursion would overflow on a long chain
        let mut next = vec![(root, String::new(), String::new())];
        while let Some((node, lead, rest)) = next.pop() {
            if !shown.insert(&node.job_id) {
                continue;
            }
            lines.push(format!("{lead}{}", describe_node(node)));
            let children = below
                .get(&node.job_id)
                .map(Vec::as_slice)
                .unwrap_or_default();
            for (place, child) in children.iter().enumerate().rev() {
                let is_last = place + 1 == children.len();
                let (branch, continuation) = if is_last {
                    ("└─ ", "   ")
                } else {
                    ("├─ ", "│  ")
                };
                next.push((
                    child,
                    format!("{rest}{branch}"),
                    format!("{rest}{continuation}"),
                ));
            }
        }
    }
    lines
}

fn describe_node(node: &DependencyNode) -> String {
    let mut text = format!("{}  {}", node.job_id, format_state(node.record.as_ref()));
    let others: Vec<String> = node
        .depends_on
        .iter()
        .enumerate()
        .filter(|(place, one)| *place > 0 || one.on != DependencyCondition::Success)
        .map(|(_, one)| match one.on {
            DependencyCondition::Success => one.job.to_string(),
            on => format!("{} ({on})", one.job),
        })
        .collect();
    if !others.is_empty() {
        text.push_str(&format!(
            "  after {}",
            render::excerpt(&others.join(", "), 120)
        ));
    }
    text
}

fn format_state(record: Option<&Record>) -> String {
    let Some(record) = record else {
        return "unknown".to_owned();
    };
    let mut text = render::outcome(Ending::of(record));
    let percent = record
        .progress
        .as_ref()
        .and_then(|progress| progress.percent);
    if let Some(percent) = percent.filter(|_| !record.state().is_terminal()) {
        text.push_str(&format!(" {percent}%"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::Dependency;

    fn node(id: &str, after: &[&str]) -> DependencyNode {
        DependencyNode {
            job_id: JobId::new(id).unwrap(),
            record: None,
            depends_on: after
                .iter()
                .map(|job| Dependency::new(JobId::new(job).unwrap(), DependencyCondition::Success))
                .collect(),
        }
    }

    #[test]
    fn tree_shows_each_job_once_below_its_first_dependency() {
        let nodes = [
            node("a", &[]),
            node("b", &["a"]),
            node("c", &["a"]),
            node("d", &["b", "c"]),
            node("e", &["elsewhere"]),
        ];
        assert_eq!(
            lines(&nodes),
            [
                "a  unknown",
                "├─ b  unknown",
                "│  └─ d  unknown  after c",
                "└─ c  unknown",
                "e  unknown",
            ]
        );
    }

    #[test]
    fn dependency_cycle_is_printed_once() {
        assert_eq!(lines(&[node("a", &["b"]), node("b", &["a"])]).len(), 2);
    }
}
