//! Servers that require no credentials, and wrong clocks.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use naq_protocol::State;

use crate::harness::naq::{ALLOW_ROOT, GuardedChild, Naq, eventually, start_plain_server, text};
use crate::harness::nats::{TestServer, naq as program};
use crate::harness::{is_root, skipped};

#[test]
fn a_remote_server_without_credentials_is_refused_unless_allowed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_open, port) = start_plain_server(&naq, &["-js"]);
    // an address of this machine that is not a loopback address
    let url = format!("nats://0.0.0.0:{port}");
    for verb in [&["enqueue", "--", "true"][..], &["worker"], &["queues"]] {
        let cli = || {
            naq.cli(verb.to_vec())
                .without_env("NAQ_TOKEN")
                .env("NAQ_NATS_URL", &url)
        };
        cli()
            .run()
            .exits(3)
            .expect_stderr(&["another host", "--allow-insecure", "--creds"]);
    }
    naq.cli(["queues", "--allow-insecure"])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &url)
        .run()
        .succeeds()
        .expect_stderr(&["without credentials"]);
    // allowed with credentials, and on loopback
    let done = naq
        .cli(["queues"])
        .env("NAQ_NATS_URL", &url)
        .run()
        .succeeds();
    assert!(!done.stderr.contains("another host"), "{done:?}");
    let done = naq
        .cli(["queues"])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &format!("nats://127.0.0.1:{port}"))
        .run()
        .succeeds();
    assert!(!done.stderr.contains("another host"), "{done:?}");
}

#[test]
fn the_servers_clock_counts_and_not_the_producers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    for offset in ["2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"] {
        let job = naq.publish(
            "build",
            serde_json::json!({"command": "true", "enqueue_time": offset}).to_string(),
        );
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
        let started = record.started_at.unwrap();
        let apart_ms = started.unix_ms() - record.enqueue_time.unix_ms();
        assert!((0..60_000).contains(&apart_ms), "{apart_ms}: {record:#?}");
    }
    // an expired job is not started; one that has not expired is
    let over = naq.publish(
        "build",
        r#"{"command":"true","expires_at":"2001-01-01T00:00:00Z"}"#,
    );
    assert_eq!(naq.wait_ended(&over).state(), State::Expired);
    let open = naq.publish(
        "build",
        r#"{"command":"true","expires_at":"2101-01-01T00:00:00Z"}"#,
    );
    assert_eq!(naq.wait_ended(&open).state(), State::Succeeded);
    naq.assert_jobs_still_run("build");
}

/// A worker that cannot ask others about their leases, or be asked, would run jobs twice.
#[test]
fn a_worker_without_the_right_to_ask_about_leases_does_not_start() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let conf = naq.file(
        "users.conf",
        r#"jetstream: enabled
authorization { users: [
  {user: admin, password: secret}
  {user: silent, password: secret, permissions: {publish: {allow: ">", deny: "naq.lease.>"}}}
  {user: deaf, password: secret, permissions: {subscribe: {allow: ">", deny: "naq.lease.>"}}}
] }
"#,
    );
    let (_denying, port) = start_plain_server(&naq, &["-c", conf.to_str().unwrap()]);
    let worker = |user: &str| {
        let worker = naq.cli(["worker", "build", "--user", user, "--password", "secret"]);
        worker
            .without_env("NAQ_TOKEN")
            .env("NAQ_NATS_URL", &format!("nats://127.0.0.1:{port}"))
    };
    for user in ["silent", "deaf"] {
        let refused = worker(user).run();
        assert_ne!(refused.code, Some(0), "{refused:?}");
        let denied = format!("NATS denies the user `{user}` permission");
        refused.expect_stderr(&[&denied, "naq.lease."]);
    }
    let admin = worker("admin").follow();
    admin.expect_stderr("working");
    assert!(admin.stop().success());
}

/// A publisher to the queue of a worker runs programs as the user of its jobs.
#[test]
fn a_worker_of_root_refuses_jobs_of_any_server_but_the_managed_one() {
    if !is_root("a worker of root") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    // The job of a publisher who would like to be root.
    let taken = naq.home().join("taken");
    let script = format!("id -u > {}", taken.display());
    naq.enqueue(&["-q", "build", "--", "sh", "-c", &script]);
    let refused: [&[&str]; 5] = [
        &["worker", "build"],
        &["worker", "build", "--run-as", "root"],
        &["worker", "build", "--run-as", "0:65534"],
        &["dev", "build"],
        &["run", "--id", "taken", "--", "sh", "-c", &script],
    ];
    for verb in refused {
        let done = naq.cli(verb.to_vec()).without_env(ALLOW_ROOT).run();
        done.exits(2)
            .expect_stderr(&["run as root", "--run-as USER", "--allow-root"]);
    }
    assert!(!taken.exists(), "a job ran as root");
    // Another user for the jobs, the flag and the variable each allow a worker.
    for args in [["--run-as", "65534:65534"], ["--allow-root", "--quiet"]] {
        let verb = [&["worker", "build"], &args[..]].concat();
        let worker = naq.cli(verb).without_env(ALLOW_ROOT).follow();
        worker.expect_stderr("working");
        assert!(worker.stop().success());
    }
    naq.cli(["run", "--", "id", "-u"])
        .run()
        .succeeds()
        .expect_stdout("0\n");
    // Only this user can publish to the managed server.
    naq.cli(["run", "--", "id", "-u"])
        .without_env(ALLOW_ROOT)
        .without_env("NAQ_NATS_URL")
        .without_env("NAQ_TOKEN")
        .run()
        .succeeds()
        .expect_stdout("0\n");
}

const NOBODY: u32 = 65_534;

/// The system calls of keyrings.
const KEYRINGS: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
"#;

/// Puts a key into a session keyring, as a login does, and becomes another program.
const LOG_IN: &str = r#"
if libc.syscall(keyctl, 1, 0) < 0 or libc.syscall(add_key, b"user", b"of-login", b"hunter2", 7, -3) < 0:
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Looks for that key.
const LOOK_FOR_KEY: &str = r#"
key = libc.syscall(keyctl, 10, -3, b"user", b"of-login", 0)
value = ctypes.create_string_buffer(32)
print("got " + value.value.decode() if key > 0 and libc.syscall(keyctl, 11, key, value, 32) > 0 else "nothing")
"#;

/// The keyring of a login may hold the keys of encrypted folders and tickets for other machines.
#[test]
fn a_job_does_not_inherit_the_session_keyring_of_the_worker() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // Any user may run this copy.
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let copy = folder.path().join("naq");
    std::fs::copy(program(), &copy).unwrap();
    // the user of the worker, if it is another one, and its words
    let workers: &[(Option<u32>, &[&str])] = match is_root("jobs of another user") {
        true => &[
            (None, &[]),
            (None, &["--run-as", "65534:65534"]),
            // Its jobs share the keyring of their spawner.
            (Some(NOBODY), &[]),
        ],
        false => &[(None, &[])],
    };
    for (place, (user, args)) in workers.iter().enumerate() {
        for containment in ["auto", "namespace", "subreaper"] {
            let queue = format!("{containment}-{place}");
            naq.add_queue(&queue);
            #[expect(clippy::disallowed_methods, reason = "a login starts the worker")]
            let mut command = Command::new("python3");
            command
                .args(["-c", &format!("{KEYRINGS}{LOG_IN}")])
                .arg(&copy)
                .args(super::worker_words(&queue, containment))
                .args(*args)
                .env_clear()
                .envs(naq.environment())
                .env("HOME", "/")
                .current_dir("/")
                .stdin(Stdio::null())
                .stderr(Stdio::null());
            if let Some(user) = user {
                command.uid(*user).gid(*user);
            }
            let mut worker = GuardedChild::spawn(&mut command);
            let script = format!("{KEYRINGS}{LOOK_FOR_KEY}");
            let job = naq.enqueue(&["-q", &queue, "--", "python3", "-c", &script]);
            let result = || naq.block_on(naq.client().fetch_result(&job)).unwrap();
            let mut exited = None;
            eventually("the job or its worker has ended", || {
                exited = worker.child().try_wait().unwrap();
                exited.is_some() || result().is_some()
            });
            let Some(record) = result() else {
                let status = exited.unwrap();
                // the login says 77; the other containments are available everywhere
                let may_end = status.code() == Some(77) || containment == "namespace";
                assert!(may_end, "{containment} {args:?}: {status}");
                skipped(&format!(
                    "{containment} {args:?}: no keyrings or no such containment: {status}"
                ));
                continue;
            };
            assert_eq!(
                text(record.stdout.as_ref()),
                "nothing\n",
                "{containment} {user:?} {args:?}: {record:#?}"
            );
        }
    }
}

/// Puts a key into the session keyring that a job has.
const PUT_KEY: &str = r#"
libc.syscall(add_key, b"user", b"of-login", b"hunter2", 7, -3)
"#;

/// One spawner runs many jobs, one after the other. A worker of another user than root shares a keyring among
/// its jobs.
#[test]
fn a_job_does_not_see_the_keys_of_an_earlier_job() {
    if !is_root("a keyring for each job") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (place, args) in [&[][..], &["--run-as", "65534:65534"]].iter().enumerate() {
        for containment in ["auto", "subreaper"] {
            let queue = format!("{containment}-{place}");
            let words = super::worker_words(&queue, containment);
            let words = [&words[..], &["--concurrency", "1"], args].concat();
            let worker = naq.cli(words).follow();
            worker.expect_stderr("working");
            let run = |script: &str| {
                let script = format!("{KEYRINGS}{script}");
                let words = ["-q", &queue, "--", "python3", "-c", &script];
                text(naq.wait_ended(&naq.enqueue(&words)).stdout.as_ref())
            };
            if run(&format!("{PUT_KEY}{LOOK_FOR_KEY}")) != "got hunter2\n" {
                skipped("a job of a kernel that has no keyrings");
                return;
            }
            assert_eq!(run(LOOK_FOR_KEY), "nothing\n", "{containment} {args:?}");
            assert!(worker.stop().success());
        }
    }
}
