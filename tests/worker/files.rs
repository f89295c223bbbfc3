//! Files that travel with jobs: uploads before an attempt, artifacts after it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;
use naq_protocol::{FileDigest, Reason, Record, State};

/// Writes a file below the test's folder, and the folders in which it is.
fn write(naq: &Naq, path: &str, content: impl AsRef<[u8]>) {
    let path = naq.home().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Number of messages in the object store.
fn stored_messages(naq: &Naq) -> u64 {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("OBJ_naq_files").await;
        stream.map_or(0, |stream| stream.cached_info().state.messages)
    })
}

fn names(record: &Record) -> Vec<&str> {
    let artifacts = record.artifacts.iter();
    artifacts.map(|artifact| artifact.name.as_str()).collect()
}

#[test]
fn files_go_into_the_work_folder_and_what_is_left_comes_back() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let large: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
    write(&naq, "input/deep/large.bin", &large);
    write(&naq, "input/empty", "");
    write(
        &naq,
        "sum.sh",
        "#!/bin/sh\nmkdir out; pwd > out/pwd; echo \"$NAQ_WORK_DIR\" >> out/pwd\ncp input/deep/large.bin out/copy.bin\nstat -c %a . sum.sh input/empty\nls input\n",
    );
    let program = naq.home().join("sum.sh");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let args = [
        "--upload",
        "input",
        "sum.sh",
        "--artifact",
        "out/*.bin",
        "--artifact",
        "out/pwd",
        "--",
        "./sum.sh",
    ];
    let first = naq.wait_ended(&naq.enqueue(&args));
    assert_eq!(first.state(), State::Succeeded, "{first:#?}");
    assert_eq!(text(first.stdout.as_ref()), "700\n700\n600\ndeep\nempty\n");
    assert_eq!(names(&first), ["out/copy.bin", "out/pwd"]);
    let copy = &first.artifacts[0];
    assert_eq!(
        (copy.bytes, &copy.digest),
        (1_500_000, &FileDigest::of(&large))
    );
    // a relative directory is in the work folder
    let options = ["--upload", "input", "--cwd", "input/deep", "--", "ls"];
    let listed = naq.wait_ended(&naq.enqueue(&options));
    assert_eq!(text(listed.stdout.as_ref()), "large.bin\n", "{listed:#?}");
    let stored = stored_messages(&naq);

    // sent once: another job stores only its own artifacts, and finds the files in the worker's cache
    let second = naq.wait_ended(&naq.enqueue(&args));
    assert_eq!(second.state(), State::Succeeded);
    let artifacts = 2 + 3 + 1;
    assert_eq!(stored_messages(&naq), stored + artifacts);

    let job = first.job_id.to_string();
    let listed = naq.cli(["artifacts", &job]).run().succeeds();
    assert!(listed.stdout.contains("1.4 MiB") && listed.stdout.contains("out/copy.bin"));
    let listed = naq
        .cli(["artifacts", &job, "out/pwd", "--json"])
        .run()
        .succeeds();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["name"], "out/pwd");
    naq.cli(["artifacts", &job, "-o", "back"]).run().succeeds();
    assert_eq!(
        std::fs::read(naq.home().join("back/out/copy.bin")).unwrap(),
        large
    );
    let printed = naq
        .cli(["artifacts", &job, "out/pwd", "-o", "-"])
        .run()
        .succeeds();
    let lines: Vec<&str> = printed.stdout.lines().collect();
    assert_eq!(lines[0], lines[1], "the job starts in NAQ_WORK_DIR");
    assert!(!Path::new(lines[0]).exists(), "it is removed afterwards");
    naq.cli(["artifacts", &job, "-o", "-"]).run().exits(2);
    naq.cli(["artifacts", &job, "no", "-o", "-"]).run().exits(4);
}

#[test]
fn artifacts_of_a_failed_attempt_are_kept_and_what_escapes_is_explained() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = "mkdir out; echo a > out/a; ln -s /etc/passwd out/link; mkfifo out/fifo; ln -s /etc dir\n\
                  truncate -s 2G out/sparse; echo b > named; echo c > other\n\
                  echo '{\"artifact\": \"named\"}' >&3; echo '{\"artifact\": \"/etc/passwd\"}' >&3\n\
                  echo '{\"artifact\": \"dir/passwd\"}' >&3; exit 3";
    let job = naq.enqueue(&[
        "--artifact",
        "out/*",
        "--artifact",
        "dir",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let record = naq.wait_ended(&job);
    assert_eq!(record.exit_code, Some(3), "{record:#?}");
    assert_eq!(names(&record), ["named", "out/a"]);
    let warnings = record.warnings.join("\n");
    for expected in [
        "`out/link` is not kept: it is a symbolic link",
        "`out/fifo` is not kept: it is a device, a FIFO or a socket",
        "`out/sparse` is not kept: a file may have 1 GiB",
        "`dir` is not kept: it is a symbolic link",
        "artifact `/etc/passwd`: it is absolute",
        "`dir/passwd` is not kept",
    ] {
        assert!(warnings.contains(expected), "{expected}: {warnings}");
    }
    // without patterns too
    let script = "echo x > \"$NAQ_WORK_DIR/x\"; echo '{\"artifact\": [\"x\"]}' >&3";
    let record = naq.wait_ended(&naq.enqueue(&["--", "sh", "-c", script]));
    assert_eq!(names(&record), ["x"], "{record:#?}");
}

#[test]
fn downloads_stay_in_their_folder_and_replace_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let script = "mkdir out; echo new > out/a; echo new > b";
    let job = naq.enqueue(&["--artifact", "**", "--", "sh", "-c", script]);
    naq.wait_ended(&job);
    let job = job.to_string();
    write(&naq, "outside/a", "kept");
    write(&naq, "back/b", "old");
    symlink(naq.home().join("outside"), naq.home().join("back/out")).unwrap();
    let download = |args: &[&str]| {
        naq.cli([&["artifacts", &job, "-o", "back"], args].concat())
            .run()
    };
    download(&["out/a", "--force"]).exits(1);
    download(&["b"]).exits(1).expect_stderr(&["--force"]);
    let read = |path: &str| std::fs::read_to_string(naq.home().join(path)).unwrap();
    assert_eq!(
        (read("outside/a"), read("back/b")),
        ("kept".to_owned(), "old".to_owned())
    );
    download(&["b", "--force"]).succeeds();
    assert_eq!(read("back/b"), "new\n");
    // a record that another program has written
    let hostile = json!({
        "job_id": "hostile", "queue": "default", "state": "succeeded", "attempt": 1,
        "enqueue_time": "2026-11-29T12:00:00Z", "finished_at": "2026-11-29T12:00:01Z",
        "artifacts": [{"name": "../outside/b", "bytes": 4, "digest": FileDigest::of(b"new\n"),
                       "object": format!("artifact/{job}/1/0")}],
    });
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_key_value("naq_results").await.unwrap();
        bucket
            .put("hostile", hostile.to_string().into())
            .await
            .unwrap();
    });
    let refused = naq
        .cli(["artifacts", "hostile", "-o", "back"])
        .run()
        .exits(1);
    refused.expect_stderr(&["stays in the work folder"]);
    assert!(!naq.home().join("outside/b").exists());
    assert_eq!(
        std::fs::read_dir(naq.home().join("back")).unwrap().count(),
        2
    );
}

#[test]
fn what_cannot_be_uploaded_is_refused_before_anything_is_sent() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    write(&naq, "folder/a", "a");
    symlink("/etc/passwd", naq.home().join("folder/link")).unwrap();
    nix::unistd::mkfifo(&naq.home().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, expected) in [
        ("folder", "`folder/link`: it is a symbolic link"),
        ("fifo", "`fifo`: it is a device, a FIFO or a socket"),
        ("/dev/null", "`/dev/null`: it is a device"),
        ("..", "it has no name"),
        ("gone", "`gone`: No such file"),
    ] {
        let refused = naq.cli(["enqueue", "--upload", path, "--", "true"]).run();
        refused.exits(2).expect_stderr(&[expected]);
    }
    for (pattern, expected) in [("/etc/*", "absolute"), ("../*", "stays in the work folder")] {
        let refused = naq
            .cli(["enqueue", "--artifact", pattern, "--", "true"])
            .run();
        refused.exits(6).expect_stderr(&["artifacts[0]", expected]);
    }
    naq.cli([
        "enqueue",
        "--upload",
        "folder/a",
        "--upload",
        "./folder/a",
        "--",
        "true",
    ])
    .run()
    .exits(6)
    .expect_stderr(&["files[1].path", "same path"]);
    let dry = naq
        .cli(["enqueue", "--dry-run", "--upload", "folder/a", "--", "true"])
        .run();
    let envelope: Value = serde_json::from_str(&dry.succeeds().stdout).unwrap();
    assert_eq!(envelope["files"][0]["path"], "folder/a");
    assert_eq!(envelope["must_understand"], json!(["files"]));
    assert_eq!(stored_messages(&naq), 0);
}

/// An envelope of a producer that checks nothing.
fn envelope_with(file: &Value) -> String {
    json!({"command": "true", "files": [file]}).to_string()
}

#[test]
fn worker_refuses_what_escapes_is_missing_or_has_other_content() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("default");
    let _worker = naq.worker(&["default"]).spawn();
    let digest = FileDigest::of(b"content");
    for path in ["/tmp/x", "../x", "a/../../x", "a\u{0}b", "a/", "."] {
        let file = json!({"path": path, "digest": digest, "bytes": 7});
        let record = naq.wait_ended(&naq.publish("default", envelope_with(&file)));
        assert_eq!(record.state(), State::Rejected, "{path:?}: {record:#?}");
        let error = record.error.unwrap();
        assert!(error.contains("files[0].path"), "{error}");
    }
    let file = json!({"path": "data/x", "digest": digest, "bytes": 7});
    let record = naq.wait_ended(&naq.publish("default", envelope_with(&file)));
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Spawn))
    );
    let error = record.error.unwrap();
    for expected in [
        "files[0]: the file `data/x`",
        digest.as_str(),
        "not stored",
        "enqueue the job again",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    // another program has stored something else under the digest
    let subject = |kind: &str, last: &str| format!("$O.naq_files.{kind}.upload.{last}");
    let description =
        json!({"name": "x", "bucket": "naq_files", "nuid": "bad", "size": 7, "chunks": 1});
    for (subject, payload) in [
        (subject("C", "bad"), "CONTENT".to_owned()),
        (subject("M", digest.hex()), description.to_string()),
    ] {
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            jetstream
                .publish(subject, payload.into())
                .await
                .unwrap()
                .await
                .unwrap();
        });
    }
    for bytes in [7, 8] {
        let file = json!({"path": "x", "digest": digest, "bytes": bytes});
        let record = naq.wait_ended(&naq.publish("default", envelope_with(&file)));
        assert_eq!(record.state(), State::Failed, "{record:#?}");
        let error = record.error.unwrap();
        assert!(
            error.contains("other content") || error.contains("not its size"),
            "{error}"
        );
    }
}

#[test]
fn long_script_travels_by_its_digest_and_is_stored_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    // more than any message may have
    let filler = "# nothing happens here\n".repeat(100_000);
    let script = format!("#!/bin/sh\n{filler}echo \"ran $1\"\n");
    assert!(script.len() > 2 << 20);
    naq.file("long.sh", &script);
    let run = || {
        let job = naq.enqueue(&["--script", "long.sh", "--", "it"]);
        let record = naq.wait_ended(&job);
        assert_eq!(text(record.stdout.as_ref()), "ran it\n", "{record:#?}");
        record
    };
    let record = run();
    let envelope = record.envelope.unwrap();
    let digest = FileDigest::of(script.as_bytes());
    assert!(envelope.get().contains(digest.as_str()) && envelope.get().len() < 1_000);
    let stored = stored_messages(&naq);
    run();
    assert_eq!(stored_messages(&naq), stored);
    // a rerun needs no producer
    let rerun = naq.cli(["retry", record.job_id.as_str()]).run().succeeds();
    let rerun = naq.wait_ended(&id(rerun.stdout.trim()));
    assert_eq!(text(rerun.stdout.as_ref()), "ran it\n");
}

#[test]
fn uploads_are_kept_for_so_long_that_a_delayed_job_finds_them() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    write(&naq, "a", "content");
    naq.enqueue(&["--upload", "a", "--", "true"]);
    let stored = stored_messages(&naq);
    naq.enqueue(&["--upload", "a", "--in", "10d", "--", "true"]);
    assert_eq!(stored_messages(&naq), stored, "60 days are enough for that");
    naq.enqueue(&["--upload", "a", "--in", "90d", "--", "true"]);
    assert!(stored_messages(&naq) > stored, "it would have expired");
    let headers = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("OBJ_naq_files").await.unwrap();
        let digest = FileDigest::of(b"content");
        let subject = format!("$O.naq_files.M.upload.{}", digest.hex());
        let message = stream
            .get_last_raw_message_by_subject(&subject)
            .await
            .unwrap();
        message.headers
    });
    let ttl = headers
        .get("Nats-TTL")
        .unwrap()
        .as_str()
        .trim_end_matches('s');
    let days = ttl.parse::<u64>().unwrap() / 86_400;
    assert!((149..=150).contains(&days), "{days}");
}
