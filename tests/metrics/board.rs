//! docs/grafana: the dashboards are those of the table, and Prometheus understands what they ask.

use std::process::Command;

use crate::harness::find_program;
use crate::harness::generated_file::assert_is_generated;
use naq::metrics::{BOARDS, grafana_board, grafana_expressions};

#[test]
fn the_grafana_dashboards_match_the_table() {
    for board in BOARDS {
        let file = format!("docs/grafana/{}.json", board.uid);
        assert_is_generated(&file, &grafana_board(board), "grafana");
    }
}

#[test]
fn promtool_parses_each_expression_of_the_grafana_dashboards() {
    let Some(promtool) = find_program("promtool", "the Grafana dashboard is not checked") else {
        return;
    };
    let expressions: Vec<String> = BOARDS.iter().flat_map(grafana_expressions).collect();
    assert!(expressions.len() > 40);
    let rules: Vec<String> = expressions
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            // the values of Grafana's variables
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$job", ".*")
                .replace("$queue", ".*");
            let expression = serde_json::Value::from(expression);
            format!("  - record: naq:panel_{number}\n    expr: {expression}\n")
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    let text = format!("groups:\n- name: board\n  rules:\n{}", rules.concat());
    std::fs::write(&file, text).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the parser of Prometheus")]
    let output = Command::new(promtool)
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:#?}");
}
