//! `systemd/`: units that systemd accepts, and that hold what naq relies on.

use naq_client::config::{DefaultValue, Setting};

use super::{assert_naq_accepts, file, naq, path, run};
use crate::harness::find_program;

const WORKER: &str = "systemd/naq-worker@.service";
const SCHEDULER: &str = "systemd/naq-scheduler.service";
const DASHBOARD: &str = "systemd/naq-dashboard.service";

/// The values of a key, in order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

fn seconds(unit: &str, key: &str) -> u64 {
    values(unit, key)[0].parse().unwrap()
}

#[test]
fn units_have_what_naq_relies_on() {
    for name in [WORKER, SCHEDULER, DASHBOARD] {
        let unit = file(name);
        for (key, value) in [
            // READY=1 comes once NATS is connected, however long that takes
            ("Type", "notify"),
            ("TimeoutStartSec", "infinity"),
            ("Restart", "always"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("User", "naq"),
        ] {
            assert_eq!(values(&unit, key), [value], "{name}: {key}");
        }
        // a loop that waits for a slow server must not look dead
        assert!(seconds(&unit, "WatchdogSec") >= 30, "{name}");
        let [command] = values(&unit, "ExecStart")[..] else {
            panic!("{name}: one ExecStart");
        };
        let args = command.strip_prefix("/usr/local/bin/naq ").unwrap();
        assert_naq_accepts(&args.split(' ').collect::<Vec<_>>());
    }
    let worker = file(WORKER);
    for (key, value) in [
        ("Delegate", "yes"),
        // the jobs of a draining worker get no signal
        ("KillMode", "mixed"),
        // a job that the kernel kills does not stop its worker
        ("OOMPolicy", "continue"),
    ] {
        assert_eq!(values(&worker, key), [value], "{key}");
    }
    // these break containment: docs/hardening.md says why
    for key in BREAKS_CONTAINMENT {
        assert!(values(&worker, key).is_empty(), "{key}");
    }
    // it would hide the user who runs a NATS server on the same machine
    for name in [WORKER, SCHEDULER, DASHBOARD] {
        assert!(values(&file(name), "PrivateUsers").is_empty(), "{name}");
    }
    // draining, the grace of a stopped job, and the time to record outcomes: a manager that does not extend the
    // time must not kill the worker of the default settings either
    let drain = Setting::by_name("drain_timeout").unwrap().default;
    assert_eq!(drain, DefaultValue::Text("30s"));
    assert!(seconds(&worker, "TimeoutStopSec") > 30 + 10 + 5);
}

/// Options that take a containment from a worker.
pub(super) const BREAKS_CONTAINMENT: &[&str] = &[
    "ProtectControlGroups",
    "RestrictNamespaces",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectProc",
];

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = find_program("systemd-analyze", "no unit is verified") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // the program has to exist for a unit to be valid
    let installed = |name: &str| file(name).replace("/usr/local/bin/naq", naq().to_str().unwrap());
    let worker = "naq-worker@build.service";
    let (scheduler, dashboard) = ("naq-scheduler.service", "naq-dashboard.service");
    let units = [
        (worker, WORKER),
        (scheduler, SCHEDULER),
        (dashboard, DASHBOARD),
    ];
    for (unit, source) in units {
        std::fs::write(folder.path().join(unit), installed(source)).unwrap();
        let done = run(&analyze, &["verify", &format!("./{unit}")], folder.path());
        let printed = String::from_utf8_lossy(&done.stderr);
        // an unknown key or value is a remark of the verb, and no failure
        assert!(done.status.success() && printed.is_empty(), "{printed}");
    }
    // how much is left open, in tenths of a point: what runs commands of others needs more than what
    // runs none
    for (unit, exposure_max) in [(worker, "52"), (scheduler, "16"), (dashboard, "16")] {
        let threshold = format!("--threshold={exposure_max}");
        let unit = format!("./{unit}");
        let args = ["security", "--no-pager", "--offline=yes", &threshold, &unit];
        let done = run(&analyze, &args, folder.path());
        let printed = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success(),
            "{unit}: {}",
            printed.lines().last().unwrap_or_default()
        );
    }
    for file in ["naq.sysusers.conf", "naq.tmpfiles.conf"] {
        assert!(path(&format!("systemd/{file}")).is_file(), "{file}");
    }
}
