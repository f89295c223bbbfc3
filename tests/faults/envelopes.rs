//! Invalid envelopes, published without naq: kept whole, with the reason and the path of the
//! invalid field.

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::{TestOptions, TestServer};

fn deep(levels: usize) -> String {
    let (open, close) = ("[".repeat(levels), "]".repeat(levels));
    format!(r#"{{"command":"true","meta":{open}{close}}}"#)
}

#[test]
fn an_invalid_envelope_becomes_a_dead_letter_with_reason_and_path() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let invalid: Vec<(Vec<u8>, &[&str])> = vec![
        (b"".to_vec(), &["empty"]),
        (b" \n".to_vec(), &["empty"]),
        (b"run this please".to_vec(), &["line 1"]),
        (b"\x00\x01\xff\xfe".to_vec(), &["UTF-8", "byte 2"]),
        (br#"{"command":"true""#.to_vec(), &["EOF", "line 1"]),
        (br#"["true"]"#.to_vec(), &["object"]),
        (br#""true""#.to_vec(), &["object"]),
        (
            br#"{"command":"true"} {"command":"true"}"#.to_vec(),
            &["trailing"],
        ),
        (
            br#"{"command":"true","command":"false"}"#.to_vec(),
            &["`command`", "twice"],
        ),
        (
            br#"{"command":"true","env":{"A":"1","A":"2"}}"#.to_vec(),
            &["`env.A`", "twice"],
        ),
        (deep(10_000).into_bytes(), &["`meta", "64 levels"]),
        ("[".repeat(100_000).into_bytes(), &["64 levels"]),
        (br#"{}"#.to_vec(), &["nothing to run"]),
        (br#"{"args":["a"]}"#.to_vec(), &["nothing to run"]),
        (
            br#"{"command":"true","script":"true"}"#.to_vec(),
            &["more than one"],
        ),
        (br#"{"command":""}"#.to_vec(), &["`command`", "empty"]),
        (br#"{"command":7}"#.to_vec(), &["`command`"]),
        (br#"{"command":null,"args":"x"}"#.to_vec(), &["`args`"]),
        (br#"{"command":"a\u0000b"}"#.to_vec(), &["`command`", "NUL"]),
        (
            br#"{"command":"true","args":["a","b\u0000"]}"#.to_vec(),
            &["`args[1]`", "NUL"],
        ),
        (
            br#"{"command":"true","args":[{}]}"#.to_vec(),
            &["`args[0]`"],
        ),
        (
            br#"{"command":"true","env":{"A=B":"c"}}"#.to_vec(),
            &["`env.A=B`", "="],
        ),
        (
            br#"{"command":"true","env":{"A\u0000":"c"}}"#.to_vec(),
            &["env", "NUL"],
        ),
        (
            br#"{"command":"true","env":{"A":"c\u0000"}}"#.to_vec(),
            &["`env.A`", "NUL"],
        ),
        (
            br#"{"command":"true","env":{"A":1}}"#.to_vec(),
            &["`env.A`"],
        ),
        (
            br#"{"command":"true","timeout":-1}"#.to_vec(),
            &["`timeout`"],
        ),
        (
            br#"{"command":"true","timeout":NaN}"#.to_vec(),
            &["timeout", "line 1"],
        ),
        (
            br#"{"command":"true","timeout":1e20}"#.to_vec(),
            &["`timeout`"],
        ),
        (
            br#"{"command":"true","timeout":1e999}"#.to_vec(),
            &["timeout"],
        ),
        (
            br#"{"command":"true","timeout":"5 parsecs"}"#.to_vec(),
            &["`timeout`", "5 parsecs"],
        ),
        (
            br#"{"command":"true","timeout":0}"#.to_vec(),
            &["`timeout`"],
        ),
        (
            br#"{"command":"true","limits":{"memory":"much"}}"#.to_vec(),
            &["`limits.memory`"],
        ),
        (
            br#"{"command":"true","limits":{"cpus":-2}}"#.to_vec(),
            &["`limits.cpus`"],
        ),
        (br#"{"command":"true","limits":[]}"#.to_vec(), &["`limits`"]),
        (
            br#"{"command":"true","max_retries":-1}"#.to_vec(),
            &["`max_retries`"],
        ),
        (
            br#"{"command":"true","max_retries":99999999999999999999}"#.to_vec(),
            &["max_retries"],
        ),
        (
            br#"{"command":"true","expires_at":"tomorrow"}"#.to_vec(),
            &["`expires_at`"],
        ),
        (
            br#"{"command":"true","stdin":"a","input":1}"#.to_vec(),
            &["more than one"],
        ),
        (
            br#"{"command":"true","stdin_base64":"?"}"#.to_vec(),
            &["`stdin_base64`"],
        ),
        (
            br#"{"command":"true","job_id":"../../etc"}"#.to_vec(),
            &["`job_id`", "dot"],
        ),
        (
            br#"{"command":"true","job_id":"a.b"}"#.to_vec(),
            &["`job_id`", "dot"],
        ),
        (
            br#"{"command":"true","job_id":"*"}"#.to_vec(),
            &["`job_id`", "wildcard"],
        ),
        (
            br#"{"command":"true","job_id":""}"#.to_vec(),
            &["`job_id`", "empty"],
        ),
        (
            br#"{"command":"true","job_id":"a b"}"#.to_vec(),
            &["`job_id`", "space"],
        ),
        (
            br#"{"command":"true","job_id":"a\u0000"}"#.to_vec(),
            &["`job_id`", "NUL"],
        ),
        (
            br#"{"command":"true","secrets":["../key"]}"#.to_vec(),
            &["`secrets[0]`"],
        ),
    ];
    let jobs: Vec<_> = invalid
        .iter()
        .map(|(bytes, _)| naq.publish("build", bytes.clone()))
        .collect();
    for (job, (bytes, words)) in jobs.iter().zip(&invalid) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        let record = naq.wait_ended(job);
        assert_eq!(record.state(), State::Rejected, "{shown}: {record:#?}");
        assert_eq!(record.reason(), Some(Reason::Invalid), "{shown}");
        let error = record.error.unwrap();
        for word in *words {
            assert!(error.contains(word), "{shown}: no {word:?} in {error}");
        }
    }
    let failed = naq.dead_letters();
    for (job, (bytes, _)) in jobs.iter().zip(&invalid) {
        let kept = failed.iter().find(|kept| kept.job_id == *job).unwrap();
        assert_eq!(kept.payload, *bytes, "{job}");
        assert_eq!(kept.reason, Some(Reason::Invalid));
        assert!(kept.error.as_ref().is_some_and(|error| !error.is_empty()));
    }
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

#[test]
fn a_later_envelope_version_is_rejected_and_an_unknown_field_is_ignored() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // also if a later version has given a known field another form
    for later in [
        r#"{"version":2,"command":"true"}"#,
        r#"{"version":4000000000,"command":{"argv":["true"]}}"#,
    ] {
        let job = naq.publish("build", later);
        let record = naq.wait_ended(&job);
        assert_eq!(
            record.reason(),
            Some(Reason::UnsupportedVersion),
            "{record:#?}"
        );
        assert_eq!(naq.dead_letter(&job).payload, later);
    }
    let known = r#"{"version":1,"command":"echo","args":["x"],"colour":"blue","nested":{"a":[1]}}"#;
    let record = naq.wait_ended(&naq.publish("build", known));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    // kept as it was written
    assert_eq!(record.envelope.unwrap().get(), known);
    naq.assert_jobs_still_run("build");
}

#[test]
fn field_that_a_worker_must_not_ignore_is_rejected_and_a_number_is_passed_as_written() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    for (later, path) in [
        (r#"{"command":"true","unique":"a"}"#, "`unique`"),
        (r#"{"command":"true","rate":"10/m"}"#, "`rate`"),
        (r#"{"command":"true","record":"none"}"#, "`record`"),
        (r#"{"command":"true","limits":{"gpus":2}}"#, "`limits.gpus`"),
        (
            r#"{"command":"true","colour":1,"must_understand":["timeout","colour"]}"#,
            "`colour`",
        ),
    ] {
        let job = naq.publish("build", later);
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Rejected, "{later}: {record:#?}");
        assert_eq!(record.reason(), Some(Reason::NotAllowed), "{later}");
        assert!(record.error.unwrap().contains(path), "{later}");
        assert_eq!(naq.dead_letter(&job).payload, later);
        // The producer that checks first learns the same.
        let refused = naq
            .cli(["enqueue", "--dry-run", "-f", "-"])
            .stdin(later)
            .run();
        assert_ne!(refused.code, Some(0));
        refused.expect_stderr(&[path]);
    }
    let known = r#"{"command":"echo","args":[12345678901234567890123,1.50,1e3,true],
        "unique":null,"max_retries":1.0,"must_understand":["args","limits.memory"]}"#;
    let record = naq.wait_ended(&naq.publish("build", known));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(
        text(record.stdout.as_ref()),
        "12345678901234567890123 1.50 1e3 true\n"
    );
}

#[test]
fn variables_that_make_programs_run_other_code_are_refused_unless_allowed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _strict = naq.worker(&["strict"]).spawn();
    let _open = naq.worker(&["open"]).arg("--allow-env").arg("LD_*").spawn();
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "BASH_ENV",
        "BASH_FUNC_ls%%",
        "NODE_OPTIONS",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "RUBYOPT",
        "JAVA_TOOL_OPTIONS",
        "CLASSPATH",
        "GIT_CONFIG_PARAMETERS",
        "DOTNET_STARTUP_HOOKS",
        "GCONV_PATH",
        "OPENSSL_CONF",
    ] {
        let job = naq.publish(
            "strict",
            format!(r#"{{"command":"true","env":{{"{name}":"/tmp/x"}}}}"#),
        );
        let record = naq.wait_ended(&job);
        assert_eq!(
            record.reason(),
            Some(Reason::NotAllowed),
            "{name}: {record:#?}"
        );
        assert!(record.error.unwrap().contains(&format!("env.{name}")));
        assert_eq!(naq.dead_letter(&job).reason, Some(Reason::NotAllowed));
    }
    naq.assert_jobs_still_run("strict");
    let allowed = r#"{"command":"sh","args":["-c","echo $LD_BIND_NOW"],"env":{"LD_BIND_NOW":"1"}}"#;
    let record = naq.wait_ended(&naq.publish("open", allowed));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
}

#[test]
fn names_in_subjects_are_validated() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let mut raw = naq.raw();
    let good = br#"{"command":"true"}"#;
    let long = "x".repeat(65);
    let tokens = [
        ("a/b", "slash"),
        ("$x", "character"),
        (long.as_str(), "long"),
    ];
    for (place, (token, word)) in (1..).zip(tokens) {
        raw.publish(format!("naq.queue.build.{token}").as_bytes(), good);
        let job = naq_protocol::JobId::new(format!("build-seq-{place}")).unwrap();
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Rejected, "{token}");
        assert!(
            record.error.as_ref().unwrap().contains(word),
            "{token}: {record:#?}"
        );
        assert_eq!(naq.dead_letter(&job).payload, &good[..]);
    }
    // an id in the envelope that differs from the subject's
    naq.publish_to(
        "build",
        "naq.queue.build.one",
        br#"{"command":"true","job_id":"two"}"#.to_vec(),
    );
    let record = naq.wait_ended(&id("one"));
    assert_eq!(record.state(), State::Rejected);
    assert!(record.error.unwrap().contains("two"));
    naq.assert_jobs_still_run("build");
}

#[test]
fn bad_names_are_refused_by_the_command_line() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (name, word) in [
        ("*", "wildcard"),
        ("a.>", "wildcard"),
        ("..", "dot"),
        ("../etc", "dot"),
        ("a/b", "slash"),
        ("a b", "space"),
        ("", "empty"),
        ("\u{1b}[31m", "character"),
        ("grün", "character"),
    ] {
        for args in [
            vec!["enqueue", "--queue", name, "--", "true"],
            vec!["enqueue", "--id", name, "--", "true"],
            vec!["worker", "--", name],
            vec!["queue", "add", name],
            vec!["purge", "--yes", name],
            vec!["status", name],
            vec!["result", name],
            vec!["wait", name],
            vec!["logs", name],
        ] {
            let done = naq.cli(args).run().exits(2).expect_stderr(&[word]);
            assert!(!done.stderr.contains('\u{1b}'), "{done:?}");
            assert_eq!(done.stdout, "");
        }
    }
    assert!(naq.block_on(naq.client().list_queues()).unwrap().is_empty());
}

#[test]
fn an_envelope_over_the_message_size_is_refused_before_it_is_sent() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(64 << 10),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let large = naq.file("large", "x".repeat(100 << 10));
    let large = large.to_str().unwrap();
    naq.cli(["enqueue", "-q", "build", "--stdin", large, "--", "cat"])
        .run()
        .exits(6)
        .expect_stderr(&["65536", "file", "object"]);
    // if only the headers make the message too large
    for over in 0..400 {
        if over % 40 != 0 {
            continue;
        }
        let bytes = (64 << 10) - over;
        let padding = "x".repeat(bytes - r#"{"command":"true","meta":""}"#.len());
        let envelope = naq.file(
            "edge",
            format!(r#"{{"command":"true","meta":"{padding}"}}"#),
        );
        let done = naq
            .cli([
                "enqueue",
                "-q",
                "build",
                "--file",
                envelope.to_str().unwrap(),
            ])
            .run();
        match done.code {
            Some(0) => {
                let job = naq_protocol::JobId::new(done.stdout.trim_end()).unwrap();
                assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
            }
            _ => {
                done.exits(6).expect_stderr(&["65536"]);
            }
        }
    }
    // valid envelopes in the same file are enqueued
    let padding = "x".repeat(100 << 10);
    let lines = format!(
        "{}\n{{\"command\":\"true\",\"meta\":\"{padding}\"}}\n{}\n",
        r#"{"command":"true"}"#, r#"{"command":"true"}"#
    );
    let done = naq
        .cli(["enqueue", "-q", "build", "--file", "-"])
        .stdin(lines)
        .run()
        .exits(6)
        .expect_stderr(&["2 jobs enqueued", "65536"]);
    assert_eq!(done.stdout.lines().count(), 2);
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_dead_letter_near_the_message_size_is_kept_whole() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(64 << 10),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    // a payload that leaves no room for headers, and headers that leave no room for another name
    let payload = vec![b'x'; 64 << 10];
    let job = naq.publish("build", payload.clone());
    assert_eq!(naq.wait_ended(&job).state(), State::Rejected);
    let object = naq.dead_letter(&job).object.unwrap();
    assert_eq!(
        naq.block_on(naq.client().broker().get_object(&object))
            .unwrap(),
        payload
    );
    let fields = "A: b\r\n".repeat(10_000);
    naq.raw().publish_with_headers(
        b"naq.queue.build",
        format!("NATS/1.0\r\n{fields}\r\n").as_bytes(),
        b"not an envelope",
    );
    let job = naq_protocol::JobId::new("build-seq-2").unwrap();
    assert_eq!(naq.wait_ended(&job).state(), State::Rejected);
    naq.dead_letter(&job);
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
}

#[test]
fn one_field_that_fills_the_envelope_does_not_block_its_worker() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(64 << 10),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let long = "x".repeat((64 << 10) - 60);
    for field in [
        "labels",
        "retry_strategy",
        "expires_at",
        "job_id",
        "timeout",
    ] {
        let value = match field {
            "labels" => format!(r#"{{"a":"{long}"}}"#),
            _ => format!(r#""{long}""#),
        };
        let job = naq.publish(
            "build",
            format!(r#"{{"command":"true","{field}":{value}}}"#),
        );
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Rejected, "{field}");
        let error = record.error.unwrap();
        assert!(error.contains(field) && error.len() < 1_000, "{error}");
    }
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
}

#[test]
fn a_core_publish_of_any_client_is_a_job_too() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    naq.block_on(async {
        let nats = naq.nats();
        for payload in [r#"{"command":"echo","args":[1,true,"x"]}"#, "not this one"] {
            nats.publish("naq.queue.build", payload.into())
                .await
                .unwrap();
        }
        nats.flush().await.unwrap();
    });
    let record = naq.wait_ended(&naq_protocol::JobId::new("build-seq-1").unwrap());
    assert_eq!(text(record.stdout.as_ref()), "1 true x\n");
    let record = naq.wait_ended(&naq_protocol::JobId::new("build-seq-2").unwrap());
    assert_eq!(record.state(), State::Rejected);
    naq.assert_jobs_still_run("build");
}

#[test]
fn a_chosen_id_is_never_that_of_a_later_job_without_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli([
        "enqueue",
        "-q",
        "build",
        "--id",
        "build-seq-2",
        "--",
        "true",
    ])
    .run()
    .exits(2)
    .expect_stderr(&["`-seq-` and a number"]);
    naq.add_queue("build");
    // a producer that publishes by itself takes the id of the job after its own
    naq.publish_to(
        "build",
        "naq.queue.build.build-seq-2",
        br#"{"command":"echo","args":["chosen"]}"#.to_vec(),
    );
    let bare = naq.publish("build", r#"{"command":"echo","args":["bare"]}"#);
    assert_eq!(bare.as_str(), "build-seq-2");
    let _worker = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&bare);
    assert_eq!(text(record.stdout.as_ref()), "bare\n");
    let chosen = naq.wait_ended(&naq_protocol::JobId::new("build-seq-1").unwrap());
    assert_eq!(chosen.state(), State::Rejected);
    assert!(chosen.error.unwrap().contains("`build-seq-2` has the form"));
}
