//! docs/alerts.yml: `promtool` tests the rules, and each metric that they name exists.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::ROOT;
use crate::harness::find_program;
use naq::metrics::metric_names;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join("docs").join(name)).unwrap()
}

#[test]
fn promtool_finds_the_alerts_valid_and_sees_each_fire_and_not_fire() {
    let Some(promtool) = find_program("promtool", "the alerts are not tested") else {
        return;
    };
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        #[expect(
            clippy::disallowed_methods,
            reason = "the alerts are rules of another program"
        )]
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(Path::new(ROOT).join("docs"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:#?}");
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_not_to_fire() {
    let (rules, tests) = (page("alerts.yml"), page("alerts_test.yml"));
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let cases: Vec<&str> = tests.split("- eval_time: ").skip(1).collect();
    for alert in alerts {
        let about = format!("alertname: {alert}\n");
        let (mut fires, mut is_quiet) = (false, false);
        for case in cases.iter().filter(|case| case.contains(&about)) {
            match case.contains("exp_alerts: []") {
                true => is_quiet = true,
                false => fires = true,
            }
        }
        assert!(fires, "no test in which {alert} fires");
        assert!(is_quiet, "no test in which {alert} does not fire");
    }
}

#[test]
fn alerts_name_metrics_that_exist() {
    let names: BTreeSet<&str> = metric_names().collect();
    for file in ["alerts.yml", "alerts_test.yml"] {
        let text = page(file);
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = text
            .split(|c: char| !is_part(c))
            .filter(|word| word.starts_with("naq_"));
        let words: Vec<&str> = words.collect();
        assert!(words.len() > 10, "{file}");
        for word in words {
            assert!(
                names.contains(word),
                "{file} names {word}, which does not exist"
            );
        }
    }
}
