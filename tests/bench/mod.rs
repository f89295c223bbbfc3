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
    for row in assert_table(&rows, "jobs cpu", "program", &programs, &figures) {
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

/// What `naq bench growth` measures, with tiny sizes, and the number of rows.
const GROWTH: &[(&[&str], usize)] = &[
    (&["queues", "--queues=3"], 1),
    (&["output", "--output=4K"], 3),
    (&["followers", "--followers=2"], 1),
    (&["records", "--records=200"], 2),
    (&["schedules", "--lines=20"], 4),
    (&["labels", "--label-sets=3"], 2),
    (&["sync"], 2),
    (&["replicas", "--servers=3"], 1),
    (&["key", "--workers=2"], 3),
];

#[test]
fn what_grows_is_measured() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (args, count) in GROWTH {
        let rows = measure_with(&naq, &[&["growth"], *args].concat());
        let growth = assert_growth(&rows, &vec![args[0]; *count]);
        if let Some(sets) = growth.iter().find(|row| row["unit"] == "sets") {
            assert_eq!(sets["with"], 3.0, "every label set is served: {sets:#}");
        }
    }
}

/// Asserts that these are the rows of `growth`, and that those about jobs say what a job costs.
fn assert_growth<'r>(rows: &'r [Value], names: &[&str]) -> Vec<&'r Value> {
    let figures = ["with", "without", "ratio"];
    let growth = assert_table(rows, "growth", "growth", names, &figures);
    for row in &growth {
        assert!(row["without"].as_f64() > Some(0.0), "{row:#}");
        assert!(row["ratio"].as_f64() > Some(0.0), "{row:#}");
        let costs = ["with_us_per_job", "without_us_per_job"];
        let has_costs = costs.map(|field| row[field].as_f64() > Some(0.0));
        assert_eq!(has_costs, [row["unit"] == "jobs/s"; 2], "{row:#}");
    }
    growth
}

#[test]
fn functions_are_measured_cold_and_warm() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let python = [
        "python, cold",
        "python, warm by fork",
        "python, warm by standby",
        "python, warm by reuse",
    ];
    assert_functions(&naq, "python", &python);
    if naq.cli(["runner", "check", "node"]).run().code == Some(0) {
        let node = ["node, cold", "node, warm by reuse", "node, warm by standby"];
        assert_functions(&naq, "node", &node);
    } else {
        assert!(!crate::harness::is_required(), "node does not work here");
        crate::harness::skipped("node is not installed");
    }
}

/// Asserts that these ways to call a function of a runner are measured, the first of them cold.
fn assert_functions(naq: &Naq, runner: &str, ways: &[&str]) {
    let rows = measure_with(naq, &["functions", runner, "--slots=1"]);
    let figures = ["slots", "calls_per_s", "us_per_call", "p50_ms", "p99_ms"];
    assert_table(&rows, "functions", "function", ways, &figures);
    let figures = ["slots", "processes", "processes_pss_mib", "worker_pss_mib"];
    for row in assert_table(&rows, "functions memory", "warm", &ways[1..], &figures) {
        assert!(row["processes"].as_f64() > Some(0.0), "{row:#}");
        assert!(row["processes_pss_mib"].as_f64() > Some(0.0), "{row:#}");
    }
}
