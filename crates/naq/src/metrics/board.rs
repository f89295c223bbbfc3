//! The dashboards for Grafana in `docs/grafana`, generated from their panels and the table of metrics.

use serde_json::{Value, json};

use super::board_panels::{Board, COLUMNS, Panel, QUEUE_BOARD, View};
use super::table::{MetricInfo, MetricKind, Scope};

/// Height of a panel in rows of the grid.
const PANEL_HEIGHT: u32 = 7;

/// A dashboard as JSON, to be imported into Grafana. A test compares it with the file.
#[must_use]
pub fn grafana_board(board: &Board) -> String {
    let json = json!({
        "__inputs": [],
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.0.0"},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        ],
        "id": null,
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
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
        "templating": {"list": variables(board)},
        "panels": panels(board),
    });
    format!("{json:#}\n")
}

/// The PromQL expressions of a dashboard.
#[must_use]
pub fn grafana_expressions(board: &Board) -> Vec<String> {
    board
        .panels()
        .flat_map(|panel| panel.metrics.iter().map(|metric| expression(metric, panel)))
        .collect()
}

fn variables(board: &Board) -> Value {
    let query = |name: &str, label: &str, query: &str, is_single: bool| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": datasource(),
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": !is_single,
            "includeAll": !is_single,
            "allValue": ".*",
            "current": match is_single {
                true => json!({}),
                false => json!({"text": "All", "value": "$__all"}),
            },
        })
    };
    json!([
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        query("job", "Scrape job", "label_values(naq_build_info, job)", false),
        query(
            "queue",
            "Queue",
            "label_values(naq_queue_jobs, queue)",
            board.is_of_queue,
        ),
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

fn panels(board: &Board) -> Vec<Value> {
    let mut panels = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (title, row) in board.rows {
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
            "exemplar": metric.has_exemplars(),
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
    let links = links(panel);
    if !links.is_empty() {
        shown["fieldConfig"]["defaults"]["links"] = links.into();
    }
    shown
}

/// Where a click on a value of a panel leads.
fn links(panel: &Panel) -> Vec<Value> {
    let mut links = Vec::new();
    if panel.by.contains(&"queue") {
        const QUEUE: &str = "${__field.labels.queue}";
        links.push(json!({
            "title": format!("Dashboard of the queue {QUEUE}"),
            "url": format!("/d/{QUEUE_BOARD}?var-queue={QUEUE}&var-datasource=${{datasource}}&${{__url_time_range}}"),
        }));
        links.push(json!({
            "title": format!("Jobs of the queue {QUEUE}"),
            "url": format!("${{naq_url}}/jobs?q=queue:{QUEUE}"),
            "targetBlank": true,
        }));
    }
    if panel.by.contains(&"reason") {
        links.push(json!({"title": "Failed jobs by cause", "url": "${naq_url}/failed", "targetBlank": true}));
    }
    links
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
    use super::super::board_panels::panel;
    use super::super::table;
    use super::*;

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
