//! `naq bench` with tiny sizes: every row exists, and every figure is a number. What the numbers are is not
//! tested: that depends on the machine.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use serde_json::{Value, json};

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// The rows that a verb prints with `--json`, on servers that it starts itself.
fn measure(args: &[&str]) -> Vec<Value> {
    let server = TestServer::start();
    measure_with(&Naq::new(&server), args)
}

/// The rows that a verb prints with `--json`. Without an address it uses the managed server of the test's folder, or
/// servers of its own.
fn measure_with(naq: &Naq, args: &[&str]) -> Vec<Value> {
    let tiny = ["--json", "bench", "--rounds=1", "--seconds=0.1"];
    let done = naq
        .cli([&tiny, args].concat())
        .without_env("NAQ_NATS_URL")
        .without_env("NAQ_TOKEN")
        .without_env("NAQ_REPLICAS")
        .run()
        .succeeds();
    let rows: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_are_measurements(&rows);
    assert_eq!(rows[0]["bench"], "machine", "{rows:#?}");
    assert!(rows[0]["processors"].as_u64() > Some(0), "{rows:#?}");
    rows
}

/// Asserts that the rows are as the schema of `--json` says.
fn assert_are_measurements(rows: &[Value]) {
    let file = format!("{}/schemas/output.v1.json", crate::ROOT);
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let schema = json!({"$ref": "#/$defs/measurement", "$defs": schema["$defs"]});
    let validator = jsonschema::validator_for(&schema).unwrap();
    for row in rows {
        if let Err(error) = validator.validate(row) {
            panic!("{error}: {row}");
        }
    }
}

/// Asserts that one table has these rows, by the value of one field, and that each has all of the figures, which
/// are not negative. Returns the rows.
fn assert_table<'r>(
    rows: &'r [Value],
    table: &str,
    field: &str,
    names: &[&str],
    figures: &[&str],
) -> Vec<&'r Value> {
    let of_table = rows.iter().filter(|row| row["bench"] == table);
    let of_table: Vec<&Value> = of_table.collect();
    let found: Vec<&str> = of_table
        .iter()
        .map(|row| row[field].as_str().unwrap())
        .collect();
    assert_eq!(found, names, "{table}: {rows:#?}");
    for row in &of_table {
        for figure in figures {
            let value = row[*figure].as_f64();
            assert!(value.is_some_and(|value| value >= 0.0), "{figure}: {row:#}");
        }
    }
    of_table
}

/// Whether this machine is one for which naq has static programs.
const HAS_STATIC_PROGRAMS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

#[test]
fn jobs_are_measured_by_rate_and_by_processor_time() {
    let rows = measure(&["jobs", "--concurrency=1,2"]);
    let mut programs = vec!["/bin/true", "/bin/true"];
    if HAS_STATIC_PROGRAMS {
        programs.push("static program: nothing");
    }
    let figures = [
        "spawn_limit_per_s",
        "jobs_per_s",
        "of_limit",
        "of_best_limit",
    ];
    let rates = assert_table(&rows, "jobs", "program", &programs, &figures);
    let slots = rates.iter().map(|row| row["concurrency"].as_f64());
    let slots: Vec<Option<f64>> = slots.collect();
    assert_eq!(slots[..2], [Some(1.0), Some(2.0)]);
    let figures = [
        "limit_us",
        "limit_child_us",
        "limit_parent_us",
        "naq_us",
        "child_us",
        "worker_us",
        "spawners_us",
        "server_us",
        "producer_us",
        "overhead_us",
        "of_limit",
    ];
    let costs = assert_table(&rows, "jobs cpu", "program", &programs, &figures);
    for row in &costs {
        let sum = |fields: &[&str]| -> f64 {
            let values = fields.iter().map(|field| row[*field].as_f64().unwrap());
            values.sum()
        };
        let overhead = sum(&["worker_us", "spawners_us", "server_us", "producer_us"]);
        assert!((overhead - sum(&["overhead_us"])).abs() <= 3.0, "{row:#}");
        assert!(sum(&["worker_us"]) > 0.0, "{row:#}");
        assert!(sum(&["server_us"]) > 0.0, "{row:#}");
        assert!(sum(&["limit_child_us"]) > 0.0, "{row:#}");
    }
    // the point of that program
    if let [usual, _, nothing] = costs[..] {
        let limit = |row: &Value| row["limit_child_us"].as_f64().unwrap();
        assert!(limit(nothing) < limit(usual), "{costs:#?}");
    }
}

#[test]
fn enqueues_are_measured() {
    let rows = measure(&["enqueue", "--jobs=500"]);
    let figures = ["bare_per_s", "naq_per_s", "of_bare"];
    let names = [
        "one by one",
        "pipelined: bare to one subject",
        "pipelined: bare to a subject each",
        "naq enqueue --file: bare to a subject each",
    ];
    assert_table(&rows, "enqueue", "enqueue", &names, &figures);
}

#[test]
fn memory_is_measured() {
    let rows = measure(&["memory", "--output=1M"]);
    let names = ["idle, with its spawners", "while a job prints 1.0 MiB"];
    assert_table(&rows, "memory", "worker", &names, &["pss_mib"]);
}

#[test]
fn the_dashboard_is_measured() {
    let rows = measure(&["web", "--records=1000", "--viewers=2"]);
    let names = [
        "no dashboard",
        "a dashboard with one live viewer",
        "a dashboard with 2 live viewers",
    ];
    let figures = ["jobs_per_s", "of_without", "server_us_per_job"];
    assert_table(&rows, "web throughput", "16 slots", &names, &figures);
    assert!(rows.iter().any(|row| row["bench"] == "web pages"));
}

#[test]
fn latency_is_measured_by_hop_and_against_the_floor() {
    let rows = measure(&["latency"]);
    let mut names = vec![
        "floor: one acknowledged publish",
        "floor: start and end of /bin/true",
        "enqueue to stored result, idle worker, /bin/true",
    ];
    if HAS_STATIC_PROGRAMS {
        names.extend([
            "floor: start and end of static program: nothing",
            "enqueue to stored result, idle worker, static program: nothing",
        ]);
    }
    names.extend([
        "floor: a naq process that does nothing",
        "cold `naq enqueue` process",
    ]);
    let latencies = assert_table(&rows, "latency", "latency", &names, &["p50_ms", "p99_ms"]);
    for row in latencies {
        let name = row["latency"].as_str().unwrap();
        let is_ratio = row["of_floor"].as_f64().is_some();
        assert_eq!(is_ratio, !name.starts_with("floor"), "{row:#}");
    }
    if HAS_STATIC_PROGRAMS {
        let hops = [
            "sent: stored by the server",
            "sent: acknowledged to the producer",
            "stored: delivered and claimed",
            "claimed: program started",
            "program started: ended and result stored",
            "result stored: seen by the producer",
        ];
        assert_table(&rows, "latency hops", "hop", &hops, &["p50_ms", "p99_ms"]);
    }
}
