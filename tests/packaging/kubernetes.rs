//! `kubernetes/`: manifests that a cluster would accept, and that agree with naq.

use std::path::Path;

use naq_client::config::{SETTINGS, Setting};
use naq_jetstream::Names;
use naq_protocol::QueueName;
use naq_protocol::units::WireDuration;

use super::{assert_naq_accepts, file, run};
use crate::harness::find_program;

const WORKER: &str = "kubernetes/base/worker.yaml";
const SCALED_JOB: &str = "kubernetes/keda/scaledjob.yaml";
const SCALED_OBJECT: &str = "kubernetes/keda/scaledobject.yaml";

/// The values of a key, in order.
fn values<'m>(manifest: &'m str, key: &str) -> Vec<&'m str> {
    let lines = manifest
        .lines()
        .map(|line| line.trim_start_matches([' ', '-']));
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .map(|value| value.trim_matches('"'))
        .collect()
}

/// A list in brackets.
fn words(list: &str) -> Vec<&str> {
    let list = list.trim_matches(['[', ']']);
    list.split(", ")
        .map(|word| word.trim_matches('"'))
        .collect()
}

#[test]
fn every_container_runs_a_command_that_naq_has() {
    for (name, health) in [
        (WORKER, Some("worker")),
        ("kubernetes/base/scheduler.yaml", Some("scheduler")),
        ("kubernetes/base/dashboard.yaml", None),
        (SCALED_JOB, None),
    ] {
        let manifest = file(name);
        let [args] = values(&manifest, "args")[..] else {
            panic!("{name}: one container");
        };
        assert_naq_accepts(&words(args));
        let probe: Vec<_> = values(&manifest, "command")
            .into_iter()
            .map(words)
            .collect();
        let expected: Vec<_> = health
            .map(|service| vec!["naq", "health", service])
            .into_iter()
            .collect();
        assert_eq!(probe, expected, "{name}");
        // a dashboard has no heartbeat: it answers itself
        let is_dashboard = name.ends_with("/dashboard.yaml");
        let paths: &[&str] = if is_dashboard {
            &["/readyz", "/healthz"]
        } else {
            &[]
        };
        assert_eq!(values(&manifest, "path"), paths, "{name}");
        // the one host that it accepts with any --host-name
        let hosts = values(&manifest, "value");
        assert_eq!(hosts, vec!["localhost"; paths.len()], "{name}");
        assert_eq!(
            values(&manifest, "readOnlyRootFilesystem"),
            ["true"],
            "{name}"
        );
        assert_eq!(values(&manifest, "runAsUser"), ["10001"], "{name}");
    }
    let settings = file("kubernetes/base/settings.yaml");
    let variables = settings
        .lines()
        .filter_map(|line| line.trim().split_once(':'));
    for (name, _) in variables.filter(|(name, _)| name.starts_with("NAQ_")) {
        assert!(
            SETTINGS.iter().any(|setting| setting.variable == name),
            "{name}"
        );
    }
}

#[test]
fn a_pod_may_take_as_long_as_its_worker_may_drain() {
    let settings = file("kubernetes/base/settings.yaml");
    let variable = Setting::by_name("drain_timeout").unwrap().variable;
    let drain: WireDuration = values(&settings, variable)[0].parse().unwrap();
    let queue = QueueName::new("build").unwrap();
    let kill_grace = naq::worker::WorkerConfig::new(vec![queue], 1).kill_grace;
    for name in [WORKER, SCALED_JOB] {
        let grace: u64 = values(&file(name), "terminationGracePeriodSeconds")[0]
            .parse()
            .unwrap();
        // and to record outcomes and to sign off
        let needed = drain.0 + kill_grace + std::time::Duration::from_secs(10);
        assert!(
            std::time::Duration::from_secs(grace) >= needed,
            "{name}: {grace} s"
        );
    }
}

#[test]
fn the_autoscaler_reads_the_consumer_that_each_queue_has() {
    let names = Names::new("naq").unwrap();
    for (name, queue) in [(SCALED_OBJECT, "default"), (SCALED_JOB, "long")] {
        let manifest = file(name);
        let queue = QueueName::new(queue).unwrap();
        assert_eq!(
            values(&manifest, "stream"),
            [names.queue_stream(&queue)],
            "{name}"
        );
        assert_eq!(
            values(&manifest, "consumer"),
            [names.worker_consumer()],
            "{name}"
        );
    }
    // one worker for as many jobs as it runs at once
    let concurrency = words(values(&file(WORKER), "args")[0])[3].to_owned();
    assert_eq!(values(&file(SCALED_OBJECT), "lagThreshold"), [concurrency]);
}

#[test]
fn the_manifests_are_valid() {
    let Some(validate) = find_program("kubernetes-validate", "no manifest is validated") else {
        return;
    };
    // its interpreter has the libraries that the script needs, in whichever environment it is installed
    let first_line = std::fs::read_to_string(&validate).unwrap_or_default();
    let interpreter = first_line
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("#!"));
    let python = Path::new(interpreter.unwrap_or("python3"));
    let done = run(
        python,
        &["tests/packaging/manifests.py", "kubernetes"],
        Path::new(crate::ROOT),
    );
    let printed =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{printed}");
}
