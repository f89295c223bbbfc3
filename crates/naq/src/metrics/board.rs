//! The Grafana dashboard `docs/grafana/naq-overview.json`, generated from the table.

use serde_json::{Value, json};

use super::table::{self, MetricInfo, MetricKind, Scope};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;

/// Height of a panel in rows of the grid.
const PANEL_HEIGHT: u32 = 7;

/// Metrics without a panel: they are labels of others, or limits that a panel of their own would not explain.
#[cfg(test)]
const WITHOUT_PANEL: &[&str] = &[
    "naq_build_info",
    "naq_schedule_period_seconds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// How a panel shows its metrics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// One number, in the colour of the state if it is not the expected one.
    Number,
    /// Lines over time.
    Lines,
    /// Stacked areas over time.
    Areas,
    /// The distribution of a histogram over time.
    Heatmap,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            View::Number => "stat",
            View::Lines | View::Areas => "timeseries",
            View::Heatmap => "heatmap",
        }
    }
}

struct Panel {
    title: &'static str,
    view: View,
    /// Columns of the grid.
    width: u32,
    metrics: &'static [&'static MetricInfo],
    /// The labels by which it splits. Others are summed up.
    by: &'static [&'static str],
}

const fn panel(
    title: &'static str,
    view: View,
    width: u32,
    metrics: &'static [&'static MetricInfo],
    by: &'static [&'static str],
) -> Panel {
    Panel {
        title,
        view,
        width,
        metrics,
        by,
    }
}

/// The panels in their rows.
const ROWS: &[(&str, &[Panel])] = &[
    (
        "Now",
        &[
            panel("Jobs", View::Number, 6, &[table::QUEUE_JOBS.0], &["state"]),
            panel("Workers", View::Number, 6, &[table::WORKERS.0], &["state"]),
            panel(
                "Oldest queued job",
                View::Number,
                4,
                &[table::QUEUE_OLDEST.0],
                &[],
            ),
            panel(
                "Dead letters",
                View::Number,
                4,
                &[table::FAILED_KEPT.0],
                &[],
            ),
            panel(
                "Leading schedulers",
                View::Number,
                4,
                &[table::SCHEDULER_LEADER.0],
                &[],
            ),
        ],
    ),
    (
        "Queues",
        &[
            panel(
                "Jobs by queue",
                View::Areas,
                12,
                &[table::QUEUE_JOBS.0],
                &["queue", "state"],
            ),
            panel(
                "Age of the oldest queued job",
                View::Lines,
                12,
                &[table::QUEUE_OLDEST.0],
                &["queue"],
            ),
            panel(
                "Slots, and limit of running jobs",
                View::Lines,
                8,
                &[table::QUEUE_SLOTS.0, table::QUEUE_MAX_RUNNING.0],
                &["queue"],
            ),
            panel(
                "Paused",
                View::Lines,
                8,
                &[table::QUEUE_PAUSED.0],
                &["queue"],
            ),
            panel(
                "Stored messages",
                View::Lines,
                8,
                &[table::QUEUE_SIZE.0],
                &["queue"],
            ),
        ],
    ),
    (
        "Waiting and running",
        &[
            panel(
                "Wait until claimed",
                View::Heatmap,
                12,
                &[table::JOB_WAIT.0],
                &[],
            ),
            panel("Run time", View::Heatmap, 12, &[table::JOB_RUN.0], &[]),
            panel(
                "Attempts started",
                View::Areas,
                12,
                &[table::ATTEMPTS_STARTED.0],
                &["queue"],
            ),
            panel(
                "Attempts by outcome",
                View::Areas,
                12,
                &[table::ATTEMPTS.0],
                &["outcome"],
            ),
        ],
    ),
    (
        "Failures",
        &[
            panel(
                "Ended jobs by state and reason",
                View::Areas,
                12,
                &[table::JOBS_ENDED.0],
                &["state", "reason"],
            ),
            panel(
                "Processes that could not be started",
                View::Lines,
                12,
                &[table::SPAWN_FAILURES.0],
                &["error"],
            ),
            panel(
                "Lost leases, redeliveries, write conflicts",
                View::Lines,
                12,
                &[
                    table::LEASES_LOST.0,
                    table::REDELIVERIES.0,
                    table::WRITE_CONFLICTS.0,
                ],
                &[],
            ),
            panel(
                "Leaked processes, spawner restarts",
                View::Lines,
                12,
                &[table::JOBS_LEAKED.0, table::SPAWNER_RESTARTS.0],
                &[],
            ),
        ],
    ),
    (
        "Resources of jobs",
        &[
            panel(
                "CPU in use by jobs",
                View::Areas,
                12,
                &[table::JOB_CPU.0],
                &["queue", "mode"],
            ),
            panel(
                "Peak memory of attempts",
                View::Heatmap,
                12,
                &[table::JOB_MEMORY.0],
                &[],
            ),
            panel(
                "Output",
                View::Lines,
                12,
                &[table::OUTPUT_BYTES.0],
                &["queue", "stream"],
            ),
            panel(
                "Truncated output",
                View::Lines,
                12,
                &[table::OUTPUT_TRUNCATED.0],
                &["queue", "stream"],
            ),
        ],
    ),
    (
        "Workers",
        &[
            panel(
                "Slots, and slots in use",
                View::Lines,
                12,
                &[table::WORKER_SLOTS.0, table::WORKER_SLOTS_BUSY.0],
                &[],
            ),
            panel(
                "Draining workers",
                View::Lines,
                12,
                &[table::WORKER_DRAINING.0],
                &[],
            ),
        ],
    ),
    (
        "Schedules",
        &[
            panel(
                "Since the last success",
                View::Lines,
                12,
                &[table::SCHEDULE_LAST_SUCCESS.0],
                &["schedule"],
            ),
            panel(
                "Lateness of ticks",
                View::Heatmap,
                12,
                &[table::SCHEDULE_LATENESS.0],
                &[],
            ),
            panel(
                "Ticks by result",
                View::Areas,
                6,
                &[table::SCHEDULE_TICKS.0],
                &["result"],
            ),
            panel(
                "Jobs enqueued",
                View::Lines,
                6,
                &[table::ENQUEUED.0],
                &["queue", "via"],
            ),
            panel(
                "Schedules",
                View::Lines,
                6,
                &[table::SCHEDULES.0],
                &["status"],
            ),
            panel(
                "Repairs after crashes",
                View::Lines,
                6,
                &[table::RECONCILES.0],
                &["what"],
            ),
        ],
    ),
    (
        "NATS and naq",
        &[
            panel(
                "Connected to NATS",
                View::Lines,
                8,
                &[table::NATS_UP.0, table::NATS_RECONNECTS.0],
                &[],
            ),
            panel(
                "Storage, and its limit",
                View::Lines,
                8,
                &[table::STORAGE.0, table::STORAGE_LIMIT.0],
                &[],
            ),
            panel(
                "CPU in use by naq",
                View::Lines,
                8,
                &[table::PROCESS_CPU.0],
                &[],
            ),
            panel(
                "Memory of naq",
                View::Lines,
                8,
                &[table::PROCESS_RESIDENT_MEMORY.0],
                &[],
            ),
            panel(
                "Open files of naq",
                View::Lines,
                8,
                &[table::PROCESS_OPEN_FDS.0],
                &[],
            ),
            panel(
                "Live clients of the dashboard",
                View::Lines,
                8,
                &[table::LIVE_CLIENTS.0],
                &[],
            ),
            panel(
                "HTTP requests",
                View::Areas,
                8,
                &[table::HTTP_REQUESTS.0],
                &["code"],
            ),
            panel(
                "HTTP answers",
                View::Heatmap,
                8,
                &[table::HTTP_SECONDS.0],
                &[],
            ),
            panel(
                "Failed logins",
                View::Lines,
                8,
                &[table::AUTH_FAILURES.0],
                &[],
            ),
        ],
    ),
];

/// The dashboard as JSON, to be imported into Grafana. A test compares it with the file.
#[must_use]
pub fn grafana_board() -> String {
    let board = json!({
        "__inputs": [],
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.0.0"},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        ],
        "id": null,
        "uid": "naq-overview",
        "title": "naq",
        "description": "Queues, jobs, workers and schedules of naq",
        "tags": ["naq"],
        "schemaVersion": 39,
        "version": 1,
        // that of the viewer
        "timezone": "",
        // one crosshair in all panels
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [{
            "title": "Dashboard of naq",
            "type": "link",
            "url": "${naq_url}",
            "targetBlank": true,
        }],
        "templating": {"list": variables()},
        "panels": panels(),
    });
    format!("{board:#}\n")
}

/// The PromQL expressions of the dashboard.
#[must_use]
pub fn grafana_expressions() -> Vec<String> {
    let panels = ROWS.iter().flat_map(|(_, panels)| panels.iter());
    panels
        .flat_map(|panel| panel.metrics.iter().map(|metric| expression(metric, panel)))
        .collect()
}

fn variables() -> Value {
    let query = |name: &str, label: &str, query: &str| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": datasource(),
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": true,
            "includeAll": true,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        })
    };
    json!([
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        query("job", "Scrape job", "label_values(naq_build_info, job)"),
        query("queue", "Queue", "label_values(naq_queue_jobs, queue)"),
        {
            "name": "naq_url",
            "label": "Address of naq",
            "type": "textbox",
            "query": "http://127.0.0.1:8080",
            "current": {"text": "http://127.0.0.1:8080", "value": "http://127.0.0.1:8080"},
        },
    ])
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn panels() -> Vec<Value> {
    let mut panels = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (title, row) in ROWS {
        if x > 0 {
            y += PANEL_HEIGHT;
        }
        panels.push(json!({
            "id": panels.len() + 1,
            "type": "row",
            "title": title,
            "collapsed": false,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }));
        (x, y) = (0, y + 1);
        for panel in *row {
            if x + panel.width > COLUMNS {
                (x, y) = (0, y + PANEL_HEIGHT);
            }
            let place = json!({"x": x, "y": y, "w": panel.width, "h": PANEL_HEIGHT});
            panels.push(panel_json(panel, panels.len() + 1, &place));
            x += panel.width;
        }
    }
    panels
}

fn panel_json(panel: &Panel, id: usize, place: &Value) -> Value {
    let is_heatmap = panel.view == View::Heatmap;
    let targets = panel.metrics.iter().zip('A'..).map(|(metric, name)| {
        json!({
            "refId": name.to_string(),
            "datasource": datasource(),
            "expr": expression(metric, panel),
            "legendFormat": legend(metric, panel),
            "format": match is_heatmap {
                true => "heatmap",
                false => "time_series",
            },
        })
    });
    let targets: Vec<Value> = targets.collect();
    let help: Vec<String> = panel
        .metrics
        .iter()
        .map(|metric| format!("{}: {}.", metric.name, metric.help))
        .collect();
    let stacking = match panel.view {
        View::Areas => "normal",
        _ => "none",
    };
    let mut shown = json!({
        "id": id,
        "type": panel.view.name(),
        "title": panel.title,
        "description": help.join("\n\n"),
        "datasource": datasource(),
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": panel.metrics.first().map_or("short", |metric| unit(metric)),
                "min": 0,
                "custom": {
                    "fillOpacity": match panel.view {
                        View::Areas => 30,
                        _ => 0,
                    },
                    "stacking": {"mode": stacking, "group": "A"},
                    "showPoints": "never",
                },
            },
            "overrides": [],
        },
        "options": match panel.view {
            View::Heatmap => json!({"calculate": false, "yAxis": {"unit": panel.metrics.first().map(|metric| unit(metric))}, "color": {"scheme": "Blues"}}),
            View::Number => json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}),
            View::Lines | View::Areas => json!({"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}),
        },
    });
    if panel.by.contains(&"reason") {
        let link = json!([{"title": "Failed jobs by cause", "url": "${naq_url}/failed", "targetBlank": true}]);
        shown["fieldConfig"]["defaults"]["links"] = link;
    }
    shown
}

/// The unit of what [`expression`] returns, as Grafana names it.
fn unit(metric: &MetricInfo) -> &'static str {
    match metric.kind {
        // seconds of CPU in a second are processors
        MetricKind::SecondsCounter => "short",
        MetricKind::Counter if metric.name.ends_with("_bytes_total") => "Bps",
        MetricKind::Counter => "cps",
        _ if metric.name.ends_with("_seconds") => "s",
        _ if metric.name.ends_with("_bytes") => "bytes",
        _ => "short",
    }
}

/// What Grafana asks Prometheus for a metric. The kind and the scope of the metric decide.
fn expression(metric: &MetricInfo, panel: &Panel) -> String {
    let mut conditions = vec![r#"job=~"$job""#];
    if metric.labels.contains(&"queue") {
        conditions.push(r#"queue=~"$queue""#);
    }
    let conditions = conditions.join(",");
    let name = metric.name;
    let by: Vec<&str> = panel
        .by
        .iter()
        .copied()
        .filter(|label| metric.labels.contains(label))
        .collect();
    let sum = |labels: &[&str], of: &str| match labels {
        [] => format!("sum({of})"),
        labels => format!("sum by ({}) ({of})", labels.join(", ")),
    };
    let max = |labels: &[&str], of: &str| match labels {
        [] => format!("max({of})"),
        labels => format!("max by ({}) ({of})", labels.join(", ")),
    };
    match (metric.kind, metric.scope) {
        (MetricKind::Histogram(_), _) => {
            let rate = format!("increase({name}_bucket{{{conditions}}}[$__rate_interval])");
            sum(&["le"], &rate)
        }
        (MetricKind::Counter | MetricKind::SecondsCounter, _) => {
            let rate = format!("rate({name}{{{conditions}}}[$__rate_interval])");
            sum(&by, &rate)
        }
        (MetricKind::Gauge, _) if name.ends_with("_timestamp_seconds") => {
            let latest = max(&by, &format!("{name}{{{conditions}}}"));
            format!("time() - {latest}")
        }
        // several dashboards report the same value, and ages have no sum
        (MetricKind::Gauge, Scope::Cluster)
            if by.len() == metric.labels.len() || name.ends_with("_seconds") =>
        {
            max(&by, &format!("{name}{{{conditions}}}"))
        }
        (MetricKind::Gauge, Scope::Cluster) => {
            let each = max(metric.labels, &format!("{name}{{{conditions}}}"));
            sum(&by, &each)
        }
        (MetricKind::Gauge, Scope::Process) => sum(&by, &format!("{name}{{{conditions}}}")),
    }
}

/// The name of a series: its labels, or the metric if a panel has several.
fn legend(metric: &MetricInfo, panel: &Panel) -> String {
    if panel.view == View::Heatmap {
        return "{{le}}".to_owned();
    }
    let labels = panel
        .by
        .iter()
        .filter(|label| metric.labels.contains(label));
    let labels: Vec<String> = labels.map(|label| format!("{{{{{label}}}}}")).collect();
    let plain = metric
        .name
        .trim_start_matches("naq_")
        .trim_end_matches("_total");
    let plain = plain.replace('_', " ");
    match (panel.metrics.len(), labels.as_slice()) {
        (_, []) => plain,
        (1, labels) => labels.join(" "),
        (_, labels) => format!("{plain} {}", labels.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_a_panel_or_a_reason_for_none() {
        let shown: Vec<&str> = ROWS
            .iter()
            .flat_map(|(_, panels)| panels.iter())
            .flat_map(|panel| panel.metrics.iter().map(|metric| metric.name))
            .collect();
        for metric in table::ALL {
            let is_left_out = WITHOUT_PANEL.contains(&metric.name);
            assert_ne!(shown.contains(&metric.name), is_left_out, "{}", metric.name);
        }
    }

    #[test]
    fn panels_split_by_labels_of_their_metrics_and_fit_the_grid() {
        for panel in ROWS.iter().flat_map(|(_, panels)| panels.iter()) {
            assert!(panel.width <= COLUMNS, "{}", panel.title);
            for label in panel.by {
                let has = |metric: &&MetricInfo| metric.labels.contains(label);
                assert!(panel.metrics.iter().any(has), "{}: {label}", panel.title);
            }
            let is_histogram =
                |metric: &&MetricInfo| matches!(metric.kind, MetricKind::Histogram(_));
            assert_eq!(
                panel.view == View::Heatmap,
                panel.metrics.iter().any(is_histogram),
                "{}",
                panel.title
            );
        }
    }

    #[test]
    fn the_kind_and_the_scope_of_a_metric_decide_how_it_is_added_up() {
        let of = |metric: &'static MetricInfo, by: &'static [&'static str]| {
            let metrics = Box::leak(Box::new([metric]));
            expression(metric, &panel("", View::Lines, 1, metrics, by))
        };
        assert_eq!(
            of(table::QUEUE_JOBS.0, &["state"]),
            r#"sum by (state) (max by (queue, state) (naq_queue_jobs{job=~"$job",queue=~"$queue"}))"#
        );
        assert_eq!(
            of(table::QUEUE_OLDEST.0, &[]),
            r#"max(naq_queue_oldest_seconds{job=~"$job",queue=~"$queue"})"#
        );
        assert_eq!(
            of(table::ATTEMPTS.0, &["outcome"]),
            r#"sum by (outcome) (rate(naq_attempts_total{job=~"$job",queue=~"$queue"}[$__rate_interval]))"#
        );
        assert_eq!(
            of(table::WORKER_SLOTS.0, &[]),
            r#"sum(naq_worker_slots{job=~"$job"})"#
        );
        assert!(of(table::JOB_RUN.0, &[]).starts_with("sum by (le) (increase("));
    }
}
