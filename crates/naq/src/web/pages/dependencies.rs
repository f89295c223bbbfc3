//! Jobs that depend on one another, as a graph and as a table: the jobs of a flow, or those around a job.

use std::collections::HashMap;

use serde::Serialize;

use super::job_row::class_of;
use crate::text::{Ending, excerpt};
use crate::web::graph::{NODE_HEIGHT, layout};
use naq_client::DependencyNode;
use naq_protocol::{DependencyCondition, JobId, escape};

/// Maximum number of jobs in the table.
const ROWS_MAX: usize = 1_000;

/// Maximum number of jobs in the graph. A larger one is unreadable.
const GRAPH_JOBS_MAX: usize = 100;

/// Maximum number of characters of a name in the graph.
const NAME_CHARS_MAX: usize = 22;

/// The variables of `dependencies.html`.
#[derive(Serialize)]
pub(super) struct Dependencies {
    rows: Vec<Row>,
    /// Number of jobs that are not shown.
    more: usize,
    graph: Option<Graph>,
}

/// A job in the table.
#[derive(Serialize)]
struct Row {
    id: String,
    state: String,
    class: &'static str,
    /// The jobs that it depends on, with their conditions.
    after: String,
    /// Whether it is the job of the page.
    is_this: bool,
}

#[derive(Serialize)]
struct Graph {
    width: u32,
    height: u32,
    nodes: Vec<Node>,
    /// Paths of SVG, and whether the condition of each is another one than success.
    edges: Vec<Edge>,
}

#[derive(Serialize)]
struct Node {
    x: u32,
    y: u32,
    text_x: u32,
    text_y: u32,
    id: String,
    name: String,
    state: String,
    class: &'static str,
    is_this: bool,
}

#[derive(Serialize)]
struct Edge {
    path: String,
    is_other: bool,
}

impl Dependencies {
    /// The view of jobs. `prefix` begins their ids, and is left out of their names in the graph. `this` is the job
    /// of the page, if it is the page of one.
    pub(super) fn new(
        nodes: &[DependencyNode],
        prefix: &str,
        this: Option<&JobId>,
    ) -> Dependencies {
        let rows = nodes.iter().take(ROWS_MAX).map(|node| Row::new(node, this));
        let rows: Vec<Row> = rows.collect();
        Dependencies {
            more: nodes.len() - rows.len(),
            graph: (2..=GRAPH_JOBS_MAX)
                .contains(&nodes.len())
                .then(|| graph(nodes, prefix, this)),
            rows,
        }
    }
}

impl Row {
    fn new(node: &DependencyNode, this: Option<&JobId>) -> Row {
        let after = node.depends_on.iter().map(|one| match one.on {
            DependencyCondition::Success => one.job.to_string(),
            on => format!("{} ({on})", one.job),
        });
        let after = after.collect::<Vec<_>>().join(", ");
        let (state, class) = state_of(node);
        Row {
            id: node.job_id.to_string(),
            state,
            class,
            after: excerpt(&after, 200),
            is_this: Some(&node.job_id) == this,
        }
    }
}

fn state_of(node: &DependencyNode) -> (String, &'static str) {
    match &node.record {
        Some(record) => (
            escape(&Ending::of(record).to_string()),
            class_of(record.state()),
        ),
        None => ("does not exist".to_owned(), "idle"),
    }
}

fn graph(nodes: &[DependencyNode], prefix: &str, this: Option<&JobId>) -> Graph {
    let number_of: HashMap<&JobId, usize> = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| (&node.job_id, number))
        .collect();
    // a dependency outside of what was read has no place
    let known = |node: &DependencyNode| {
        let jobs = node.depends_on.iter();
        let numbers = jobs.filter_map(|one| number_of.get(&one.job).copied());
        numbers.collect::<Vec<_>>()
    };
    let layout = layout(&nodes.iter().map(known).collect::<Vec<_>>());
    let edges = layout.edges.iter().map(|(from, to)| {
        let condition = nodes[*to]
            .depends_on
            .iter()
            .find(|one| one.job == nodes[*from].job_id)
            .map(|one| one.on);
        Edge {
            path: layout.path((*from, *to)),
            is_other: condition.is_some_and(|on| on != DependencyCondition::Success),
        }
    });
    let edges = edges.collect();
    let nodes = nodes.iter().zip(&layout.places).map(|(node, place)| {
        let (state, class) = state_of(node);
        let id = node.job_id.as_str();
        let name = id.strip_prefix(prefix).filter(|name| !name.is_empty());
        Node {
            x: place.x,
            y: place.y,
            text_x: place.x + 12,
            text_y: place.y + NODE_HEIGHT / 2 + 4,
            name: excerpt(name.unwrap_or(id), NAME_CHARS_MAX),
            id: id.to_owned(),
            state,
            class,
            is_this: Some(&node.job_id) == this,
        }
    });
    Graph {
        nodes: nodes.collect(),
        edges,
        width: layout.width,
        height: layout.height,
    }
}
