//! What a runner does once for a script before it runs, its `[prepare]`.

use std::fs;
use std::path::Path;

use naq_protocol::{JobId, Reason, State};

use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::TestServer;

/// Enqueues a script for the runner `kit`.
fn enqueue(naq: &Naq, script: &Path, options: &[&str]) -> JobId {
    let script = script.to_str().expect("UTF-8");
    let run = ["--runner", "kit", "--script", script];
    naq.enqueue(&[&run, options].concat())
}

#[test]
fn a_script_is_prepared_once_and_only_if_it_matches() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let notes = naq.home().join("prepared");
    naq.add_preparing_runner(&format!("echo once | tee -a {}", notes.display()));
    let _worker = naq
        .worker(&["default"])
        .env("NAQ_RUNNERS_DIR", "runners")
        .spawn();
    let plain = naq.file("plain.sh", "echo plain\n");
    let record = naq.wait_ended(&enqueue(&naq, &plain, &[]));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(record.preparation, None);
    assert!(!notes.exists());

    let needy = naq.file("needy.sh", "# needs a library\necho ran\n");
    let first = naq.wait_ended(&enqueue(&naq, &needy, &[]));
    assert_eq!(text(first.stdout.as_ref()), "ran\n", "{first:#?}");
    assert_eq!(first.preparation.unwrap().output, "once\n");
    let second = naq.wait_ended(&enqueue(&naq, &needy, &[]));
    assert_eq!(text(second.stdout.as_ref()), "ran\n", "{second:#?}");
    assert_eq!(second.preparation, None);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "once\n");

    let changed = naq.file("changed.sh", "# needs a library\necho changed\n");
    naq.wait_ended(&enqueue(&naq, &changed, &[]));
    assert_eq!(fs::read_to_string(&notes).unwrap(), "once\nonce\n");
}

#[test]
fn a_preparation_that_fails_is_retried_with_its_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mark = naq.home().join("failed");
    let preparation = format!("test -e {0} || {{ touch {0}; exit 3; }}", mark.display());
    naq.add_preparing_runner(&preparation);
    let _worker = naq
        .worker(&["default"])
        .env("NAQ_RUNNERS_DIR", "runners")
        .spawn();
    let script = naq.file("script.sh", "# needs a library\necho ran\n");
    let failed = naq.wait_ended(&enqueue(&naq, &script, &[]));
    assert_eq!(failed.reason(), Some(Reason::Spawn), "{failed:#?}");
    let error = failed.error.unwrap();
    assert!(error.contains("exited with 3"), "{error}");

    fs::remove_file(&mark).unwrap();
    let options = ["--retries", "1", "--retry-delay", "10ms"];
    let retried = naq.wait_ended(&enqueue(&naq, &script, &options));
    assert_eq!(
        (retried.state(), retried.attempt),
        (State::Succeeded, 2),
        "{retried:#?}"
    );
}

#[test]
fn a_job_is_cancelled_while_another_one_prepares_its_script() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let [begun, release] = ["begun", "release"].map(|name| naq.home().join(name));
    let preparation = format!(
        "echo begun >> {}; until test -e {}; do sleep 0.05; done",
        begun.display(),
        release.display()
    );
    naq.add_preparing_runner(&preparation);
    let _worker = naq
        .worker(&["default"])
        .concurrency(2)
        .env("NAQ_RUNNERS_DIR", "runners")
        .spawn();
    let script = naq.file("script.sh", "# needs a library\necho ran\n");
    let first = enqueue(&naq, &script, &[]);
    eventually("the script is being prepared", || begun.exists());
    let second = enqueue(&naq, &script, &[]);
    naq.wait_running(&second);
    naq.cli(["cancel", second.as_str()]).run().succeeds();
    let record = naq.wait_ended(&second);
    assert_eq!(record.state(), State::Cancelled, "{record:#?}");
    assert!(!release.exists(), "the first job still prepares it");

    fs::write(&release, "").unwrap();
    let record = naq.wait_ended(&first);
    assert_eq!(text(record.stdout.as_ref()), "ran\n", "{record:#?}");
    assert_eq!(fs::read_to_string(&begun).unwrap(), "begun\n");
}
