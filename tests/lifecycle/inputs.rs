//! What a job gets of the jobs that it depends on.

use naq_protocol::{Reason, State};
use serde_json::{Value, json};

use crate::harness::is_root;
use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::{TestServer, naq as program};

/// A job that writes a megabyte, which is kept whole in the object store.
const LARGE: &str = "head -c 1000000 /dev/zero | tr '\\0' a; echo end";

#[test]
fn a_job_reads_the_outputs_of_its_dependencies_in_files() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(2).spawn();
    naq.enqueue(&[
        "--id",
        "ok",
        "--",
        "sh",
        "-c",
        r#"echo hello; echo '{"result": {"rows" : 7}}' >&3"#,
    ]);
    naq.enqueue(&[
        "--id",
        "cut",
        "--",
        "sh",
        "-c",
        "head -c 200000 /dev/zero; exit 3",
    ]);
    naq.enqueue(&["--id", "large", "--output", "2M", "--", "sh", "-c", LARGE]);
    naq.enqueue(&["--id", "plain", "--", "echo", "unused"]);
    let script = r#"cd "$NAQ_INPUTS" || exit 9
        case $PWD in "$NAQ_WORK_DIR"/*) ;; *) exit 8;; esac
        ls; cat fetch/stdout fetch/result.json; echo
        wc -c < cut/stdout; ls cut; cat cut/record.json
        tail -n 1 big/stdout | tail -c 4; wc -c < big/stdout"#;
    let join = naq.enqueue(&[
        "--depends-on",
        "ok,as=fetch",
        "--depends-on",
        "cut=finished,as=cut",
        "--depends-on",
        "large,as=big",
        "--depends-on",
        "plain",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let record = naq.wait_ended(&join);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let printed = text(record.stdout.as_ref());
    let mut lines = printed.lines();
    let mut next = |count: usize| lines.by_ref().take(count).collect::<Vec<_>>().join(" ");
    assert_eq!(next(3), "big cut fetch");
    assert_eq!(next(2), r#"hello {"rows" : 7}"#);
    assert_eq!(next(3), "65536 record.json stdout");
    let seen: Value = serde_json::from_str(&next(1)).unwrap();
    assert_eq!(seen["state"], "failed");
    assert_eq!(seen["exit_code"], 3);
    assert_eq!(
        (&seen["job_id"], &seen["index"], &seen["as"]),
        (&json!("cut"), &json!(1), &json!("cut"))
    );
    assert_eq!(
        seen["stdout_gap"],
        json!({"offset": 32_768, "missing_bytes": 134_464})
    );
    assert_eq!(next(2), "end 1000004");
    // a job that names no output gets none
    let plain = naq.enqueue(&[
        "--depends-on",
        "ok",
        "--",
        "sh",
        "-c",
        "echo \"${NAQ_INPUTS-none}\"",
    ]);
    assert_eq!(text(naq.wait_ended(&plain).stdout.as_ref()), "none\n");
    // and the whole is again there for a rerun, which does not wait
    let again = naq.cli(["retry", join.as_str()]).run().succeeds();
    let again = naq.wait_ended(&id(again.stdout.trim()));
    assert_eq!(text(again.stdout.as_ref()), printed);
}

#[test]
fn a_job_reads_the_outputs_of_its_dependencies_as_lines() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&[
        "--id",
        "a",
        "-l",
        "kind=x",
        "--",
        "sh",
        "-c",
        r#"printf 'ä"\n'; echo '{"result": [1.50]}' >&3"#,
    ]);
    naq.enqueue(&["--id", "b", "--", "sh", "-c", r"printf '\377'; exit 1"]);
    naq.enqueue(&["--id", "c", "--output", "2M", "--", "sh", "-c", LARGE]);
    let record = naq.wait_ended(&naq.enqueue(&[
        "--depends-on",
        "b=finished",
        "--depends-on",
        "a",
        "--depends-on",
        "c",
        "--inputs",
        "stdin",
        "--output",
        "2M",
        "--",
        "cat",
        "/dev/stdin",
    ]));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    let printed = naq
        .cli(["result", record.job_id.as_str(), "--full"])
        .run()
        .succeeds();
    let lines: Vec<Value> = printed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let schema: Value = serde_json::from_str(&naq_protocol::schema("input").unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], index);
        assert!(schema.is_valid(line), "{line}");
    }
    assert_eq!(
        (&lines[0]["job_id"], &lines[0]["state"]),
        (&json!("b"), &json!("failed"))
    );
    assert_eq!(lines[0]["stdout_base64"], "/w==");
    assert!(lines[0].get("result").is_none());
    assert_eq!(lines[1]["stdout"], "ä\"\n");
    assert_eq!(lines[1]["labels"], json!({"kind": "x"}));
    assert!(printed.stdout.contains(r#""result":[1.50]"#));
    assert_eq!(lines[2]["stdout"].as_str().unwrap().len(), 1_000_004);
}

#[test]
fn an_output_that_is_gone_fails_the_job_and_says_whose() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "first", "--", "echo", "kept"]);
    naq.wait_ended(&id("first"));
    naq.enqueue(&[
        "--id",
        "second",
        "--retries",
        "1",
        "--retry-delay",
        "1h",
        "--no-retry-jitter",
        "--depends-on",
        "first,as=first",
        "--",
        "sh",
        "-c",
        "cat $NAQ_INPUTS/first/stdout; exit 75",
    ]);
    let record = naq.wait_for(&id("second"), "retrying", |record| {
        record.state() == State::Retrying
    });
    assert_eq!(text(record.stdout.as_ref()), "kept\n");
    naq.cli(["purge", "--results", "--yes"]).run().succeeds();
    naq.cli(["job", "trigger", "second"]).run().succeeds();
    let record = naq.wait_ended(&id("second"));
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Dependency))
    );
    let error = record.error.unwrap();
    assert!(
        error.contains("the output of first") && error.contains("expired"),
        "{error}"
    );
}

#[test]
fn steps_of_a_flow_get_outputs_under_their_names() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let flow = naq.file(
        "flow.json",
        r#"{"jobs": {
            "fetch": {"command": "echo", "args": ["a b"]},
            "count": {"command": "sh", "args": ["-c", "wc -w < $NAQ_INPUTS/fetch/stdout"],
                      "depends_on": ["fetch"], "inputs": "all"}
        }}"#,
    );
    naq.cli(["enqueue", "--id", "f", "--file", flow.to_str().unwrap()])
        .run()
        .succeeds();
    let _worker = naq.worker(&["default"]).spawn();
    let counted = naq.wait_ended(&id("f-count"));
    assert_eq!(text(counted.stdout.as_ref()).trim(), "2");
}

#[test]
fn a_job_cannot_read_by_a_child_what_it_may_not_read_itself() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["own"]).arg("--grant=enqueue").spawn();
    naq.enqueue(&["-q", "other", "--id", "secret", "--", "true"]);
    let naq_program = program();
    let script = format!(
        "{0} enqueue -q own --depends-on secret -- true >/dev/null && {0} enqueue -q own --depends-on secret,as=x -- true",
        naq_program.display()
    );
    let job = naq.enqueue(&["-q", "own", "--", "sh", "-c", &script]);
    let record = naq.wait_ended(&job);
    assert_eq!(record.exit_code, Some(3), "{record:#?}");
    assert!(
        text(record.stderr.as_ref()).contains("does not grant `read`"),
        "{record:#?}"
    );
}

/// Other jobs run as the user to whom the files belong, while root writes them.
#[test]
fn outputs_belong_to_the_user_of_the_jobs() {
    if !is_root("files of another user") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).arg("--run-as=nobody").spawn();
    naq.enqueue(&["--id", "first", "--cwd", "/", "--", "echo", "kept"]);
    let script =
        "stat -c %U:%a $NAQ_INPUTS $NAQ_INPUTS/* $NAQ_INPUTS/*/stdout; cat $NAQ_INPUTS/*/stdout";
    let record = naq.wait_ended(&naq.enqueue(&[
        "--cwd",
        "/",
        "--depends-on",
        "first,as=first",
        "--",
        "sh",
        "-c",
        script,
    ]));
    assert_eq!(
        text(record.stdout.as_ref()),
        "nobody:700\nnobody:700\nnobody:600\nkept\n",
        "{record:#?}"
    );
    let record = naq.wait_ended(&naq.enqueue(&[
        "--cwd",
        "/",
        "--depends-on",
        "first",
        "--inputs",
        "stdin",
        "--",
        "sh",
        "-c",
        "wc -l < /dev/stdin",
    ]));
    assert_eq!(text(record.stdout.as_ref()).trim(), "1", "{record:#?}");
}
