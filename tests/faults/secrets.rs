//! Secrets: envelopes name them and never hold the value; values are masked in everything that a
//! job prints.

use std::path::Path;
use std::process::{Command, Stdio};

use naq_protocol::{Reason, State};

use crate::harness::naq::{GuardedChild, Naq, eventually, text};
use crate::harness::nats::TestServer;
use crate::harness::{is_root, skipped};

const VALUE: &str = "s3cr3t-v4lue-0f-the-test";

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

fn has(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[test]
fn a_secret_reaches_the_job_and_no_store() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("API_TOKEN"), format!("{VALUE}\n")).unwrap();
    let worker = naq
        .worker(&["build"])
        .arg("--secrets-dir")
        .arg(folder.to_str().unwrap())
        .spawn();
    // whole, split in two, within other text, for long enough to go live, and on the control
    // channel; the file in the job's folder shows that the job received the value
    let (half, rest) = VALUE.split_at(9);
    let script = format!(
        "printf %s \"$API_TOKEN\" > got; echo \"out $API_TOKEN\"; echo \"err $API_TOKEN\" >&2\n\
        printf '{half}'; sleep 1.3; echo '{rest}'; echo \"live $API_TOKEN\"\n\
        echo \"{{\\\"progress\\\":50,\\\"message\\\":\\\"$API_TOKEN\\\"}}\" >&3\n\
        echo \"{{\\\"result\\\":{{\\\"token\\\":\\\"$API_TOKEN\\\"}}}}\" >&3\n\
        echo \"not json $API_TOKEN\" >&3"
    );
    // the pieces alone are no secret, but in this test the envelope must not contain the value
    assert!(!script.contains(VALUE));
    let job = naq.enqueue(&[
        "-q",
        "build",
        "--secret",
        "API_TOKEN",
        "--label",
        "kind=secret",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(
        std::fs::read_to_string(naq.home().join("got")).unwrap(),
        VALUE
    );
    let printed = text(record.stdout.as_ref());
    assert!(
        printed.starts_with("out ***\n") && printed.ends_with("live ***\n"),
        "{printed}"
    );
    assert_eq!(text(record.stderr.as_ref()), "err ***\n");
    for verb in ["status", "result", "logs"] {
        for json in [false, true] {
            let mut args = vec![verb, job.as_str()];
            args.extend(json.then_some("--json"));
            let done = naq.cli(args).run().succeeds();
            assert!(
                !done.stdout.contains(VALUE) && !done.stderr.contains(VALUE),
                "{done:#?}"
            );
        }
    }
    // nowhere on the server's disk: not in the queue, the record, the live output or the dead
    // letters
    let mut seen_the_job = false;
    for path in files(server.data_dir()) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        seen_the_job |= has(&bytes, "API_TOKEN");
        assert!(!has(&bytes, VALUE), "{}", path.display());
    }
    assert!(seen_the_job, "looked in the wrong place");
    assert!(!worker.log().contains(VALUE));
}

#[test]
fn a_missing_secret_is_named_in_the_error() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", r#"{"command":"true","secrets":["API_TOKEN"]}"#);
    let record = naq.wait_ended(&job);
    assert_eq!(record.reason(), Some(Reason::Spawn), "{record:#?}");
    assert!(record.error.unwrap().contains("API_TOKEN"));
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_secret_that_is_not_read_in_time_delays_no_other_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("KEY"), "value").unwrap();
    let _worker = naq
        .worker(&["build"])
        .concurrency(2)
        .env("FAILPOINTS", "secrets.read=1*sleep(60000)")
        .arg("--secrets-dir")
        .arg(folder.to_str().unwrap())
        .spawn();
    let script = "[ \"$KEY\" = value ]";
    let stuck = naq.enqueue(&["-q", "build", "--secret", "KEY", "--", "true"]);
    naq.wait_running(&stuck);
    let others = [&["--secret", "KEY"][..], &[]].map(|options| {
        let words = [&["-q", "build"], options, &["--", "sh", "-c", script]].concat();
        naq.wait_ended(&naq.enqueue(&words)).state()
    });
    assert_eq!(others, [State::Succeeded, State::Failed]);
    let record = naq.wait_ended(&stuck);
    assert_eq!(record.reason(), Some(Reason::Spawn), "{record:#?}");
    assert!(record.started_at.is_some());
    let error = record.error.unwrap();
    assert!(error.contains("not read within 10 s"), "{error}");
}

/// What other programs make of a secret before they print it.
const PRINT_ENCODED: &str = r#"
import base64, json, os, urllib.parse
plain, key = os.environ["PASSWORD"], os.environ["KEY"]
control = os.fdopen(3, "w")
def say(**message): print(json.dumps(message), file=control)
say(progress=50, message="password " + plain)
say(result={plain: plain, "list": [key, "x" + plain + "y"]})
print('{"checkpoint": "' + "".join("\\u%04x" % ord(c) for c in plain) + '"}', file=control)
print("not json", plain, file=control)
print(json.dumps(plain))
print(json.dumps(plain, ensure_ascii=False))
print(base64.b64encode(b"user:" + plain.encode()).decode())
print(urllib.parse.quote(plain, safe=""))
print(urllib.parse.urlencode({"p": plain}))
for line in key.splitlines(): print(">", line)
"#;

#[test]
fn a_secret_is_masked_in_every_form() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    let password = "pa\"ss\\wörd/2026";
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQ\n-----END KEY-----";
    std::fs::write(folder.join("PASSWORD"), password).unwrap();
    std::fs::write(folder.join("KEY"), format!("{key}\n")).unwrap();
    let worker = naq
        .worker(&["build"])
        .arg("--secrets-dir")
        .arg(folder.to_str().unwrap())
        .spawn();
    let job = naq.enqueue(&[
        "-q",
        "build",
        "--secret",
        "PASSWORD",
        "--secret",
        "KEY",
        "--",
        "python3",
        "-c",
        PRINT_ENCODED,
    ]);
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let result = record.result.as_ref().map(|result| result.get().to_owned());
    assert_eq!(
        result.as_deref(),
        Some(r#"{"***":"***","list":["***","x***y"]}"#)
    );
    let shown = text(record.stdout.as_ref());
    assert_eq!(shown.lines().count(), 9, "{shown}");
    assert_eq!(
        shown.lines().nth(3),
        Some("***"),
        "percent-encoded: {shown}"
    );
    let everything = serde_json::to_string(&record).unwrap() + &shown + &worker.log();
    for part in [
        "ss\\", "u00f6rd", "wörd", "%5Cw", "w7ZyZC8y", "BEGIN", "MIIEvQ", "BKcwgg", "d/2026",
        "d%2F2026",
    ] {
        assert!(!everything.contains(part), "{part}: {everything}");
    }
}

#[test]
fn a_job_gets_the_secret_of_its_queue_and_no_other_queue_does() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = naq.home().join("secrets");
    for (path, value) in [
        ("deploy/KEY", "of-the-queue-deploy"),
        ("deploy/OTHER", "of-the-queue-deploy"),
        ("run/KEY", "of-naq-run"),
        ("OTHER", "of-all-queues"),
    ] {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{value}\n")).unwrap();
    }
    let worker = naq
        .worker(&["deploy", "build"])
        .arg("--secrets-dir")
        .arg(folder.to_str().unwrap())
        .spawn();
    let script = "[ \"$KEY\" = of-the-queue-deploy ]";
    let [own, other] = ["deploy", "build"].map(|queue| {
        let words = ["-q", queue, "--secret", "KEY", "--", "sh", "-c", script];
        naq.wait_ended(&naq.enqueue(&words))
    });
    assert_eq!(own.state(), State::Succeeded, "{own:#?}");
    assert_eq!(other.state(), State::Failed, "{other:#?}");
    let error = other.error.unwrap();
    assert!(
        error.contains("`KEY` for jobs of the queue `build`"),
        "{error}"
    );
    // It replaces one for all queues.
    for (queue, value) in [
        ("deploy", "of-the-queue-deploy"),
        ("build", "of-all-queues"),
    ] {
        let script = format!("[ \"$OTHER\" = {value} ]");
        let words = ["-q", queue, "--secret", "OTHER", "--", "sh", "-c", &script];
        let record = naq.wait_ended(&naq.enqueue(&words));
        assert_eq!(record.state(), State::Succeeded, "{queue}: {record:#?}");
    }
    // The jobs of `naq run` are in a queue of their own, which has no secrets of another one.
    let script = "[ \"$KEY\" = of-naq-run ]";
    naq.cli(["run", "--secret", "KEY", "--", "sh", "-c", script])
        .env("NAQ_SECRETS_DIR", folder.to_str().unwrap())
        .run()
        .succeeds();
    assert!(worker.stop().success());
}

/// Looks for a secret of another job: in the environments of all processes, in their memory, and in the
/// worker's folder.
const LOOK_FOR_SECRET: &str = r#"
import glob, os, sys
folder, value = sys.argv[1], b"s3cr3t-v4lue-" + b"0f-the-test"
found = set()
for process in glob.glob("/proc/[0-9]*"):
    if process == "/proc/%d" % os.getpid():
        continue
    try:
        if value in open(process + "/environ", "rb").read():
            found.add("environment")
    except OSError:
        pass
    try:
        open(process + "/mem", "rb").close()
        found.add("memory")
    except OSError:
        pass
for path in glob.glob(folder + "/**", recursive=True) + [folder + "/API_TOKEN"]:
    try:
        if value in open(path, "rb").read():
            found.add("folder")
    except OSError:
        pass
print(" ".join(sorted(found)) or "nothing")
"#;

/// Where a worker's jobs run as another user, and where they run as the worker's own.
#[test]
fn a_job_cannot_read_the_secret_of_another_job() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;

    const NOBODY: u32 = 65534;
    if !is_root("jobs of another user") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // All users may enter it, but not the folder of the secrets in it.
    let place = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(place.path(), 0o755);
    let ready = place.path().join("ready");
    std::fs::create_dir(&ready).unwrap();
    mode(&ready, 0o777);
    let program = place.path().join("naq");
    std::fs::copy(crate::harness::nats::naq(), &program).unwrap();
    for is_own_user in [false, true] {
        let folder = place.path().join(format!("secrets-{is_own_user}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("API_TOKEN"), VALUE).unwrap();
        mode(&folder, 0o700);
        if is_own_user {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
            chown(folder.join("API_TOKEN"), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for containment in ["auto", "namespace", "cgroup", "subreaper"] {
            let queue = format!("{containment}-{is_own_user}");
            naq.add_queue(&queue);
            #[expect(clippy::disallowed_methods, reason = "a worker of another user")]
            let mut command = Command::new(&program);
            command
                .args(super::worker_words(&queue, containment))
                .args(["--concurrency", "2", "--secrets-dir"])
                .arg(&folder)
                .env_clear()
                .envs(naq.environment())
                .env("HOME", "/")
                .current_dir("/")
                .stdin(Stdio::null())
                .stderr(std::fs::File::create(naq.home().join(&queue)).unwrap());
            if is_own_user {
                command.uid(NOBODY).gid(NOBODY);
            } else {
                command.args(["--run-as", "65534:65534"]);
            }
            let mut worker = GuardedChild::spawn(&mut command);
            let marker = ready.join(&queue);
            let hold = format!("echo \"$API_TOKEN\" > {}; sleep 600", marker.display());
            naq.enqueue(&[
                "-q",
                &queue,
                "--secret",
                "API_TOKEN",
                "--",
                "sh",
                "-c",
                &hold,
            ]);
            let folder = folder.to_str().unwrap();
            let what = format!("{containment}, own user {is_own_user}");
            let mut is_available = true;
            eventually("the job with the secret runs", || {
                is_available = worker.child().try_wait().unwrap().is_none();
                !is_available
                    || std::fs::read_to_string(&marker)
                        .is_ok_and(|text| text == format!("{VALUE}\n"))
            });
            let log = || std::fs::read_to_string(naq.home().join(&queue)).unwrap();
            if !is_available {
                // the other two are available everywhere
                let may_lack = ["namespace", "cgroup"].contains(&containment);
                assert!(may_lack, "{what}: {}", log());
                skipped(&format!("{what}: {}", log()));
                continue;
            }
            let attack =
                naq.enqueue(&["-q", &queue, "--", "python3", "-c", LOOK_FOR_SECRET, folder]);
            let found = text(naq.wait_ended(&attack).stdout.as_ref());
            // The folder of the worker is that of its user; a namespace covers it, and nothing else does.
            let warned = log().contains("can read the secrets of every other job");
            assert_eq!(found == "folder\n", warned, "{what}: {found}{}", log());
            let is_expected = match (is_own_user, containment) {
                (true, "cgroup" | "subreaper") => found == "folder\n",
                (true, "auto") => found == "nothing\n" || warned,
                _ => found == "nothing\n",
            };
            assert!(is_expected, "{what}: {found}{}", log());
        }
    }
}
