//! naq inside a job: what the worker grants, through its socket, without the worker's credentials.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::is_root;
use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::{TestServer, naq as program};
use naq_protocol::State;

/// A script for a job, in which `naq` is the program under test.
fn script(text: &str) -> String {
    format!(
        "NAQ={}; naq() {{ $NAQ \"$@\"; }}\n{text}",
        program().display()
    )
}

impl Naq {
    /// Runs a script as a job of `queue` and returns what it wrote, both streams together.
    fn run_in_job(&self, queue: &str, text_of_script: &str) -> String {
        let script = script(text_of_script);
        let job = self.enqueue(&["--queue", queue, "--", "sh", "-c", &script]);
        let record = self.wait_ended(&job);
        text(record.stdout.as_ref()) + &text(record.stderr.as_ref())
    }
}

#[test]
fn a_job_enqueues_and_reads_what_its_worker_grants() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["q"])
        .concurrency(2)
        .arg("--grant=enqueue,read")
        .spawn();
    // the job that the users tried, and the credentials that it must not have
    let printed = naq.run_in_job(
        "q",
        "env | grep -E '^NAQ_(TOKEN|NATS_URL)='
         naq enqueue -q q --id a -- echo from-a
         naq enqueue -q q --id b --depends-on a -- $NAQ result a
         naq enqueue -q q --id c --in 200ms -- sh -c 'echo waited; echo aside >&2; exit 3'
         naq wait a; naq result c --wait --exit-code; echo \"exit $?\"; naq result c --stderr
         naq status a | grep -E '^(queue|state) '
         naq enqueue -q q --wait -- echo child
         naq enqueue -q q --id a -- echo another; echo \"exit $?\"
         naq status nobody; echo \"exit $?\"
         echo '{\"command\":\"true\",\"job_id\":\"f1\"} {\"command\":\"true\"}' | tr ' ' '\\n' | naq enqueue -q q -f - | wc -l",
    );
    let expected = "a\nb\nc\na  succeeded\nwaited\nexit 3\nqueue           q\nstate           succeeded\n\
        child\nexit 5\nexit 4\n2\naside\n\
        naq: the job id `a` is taken by another envelope\nnaq: there is no job `nobody`: it was never enqueued here, or its record has expired\n";
    assert_eq!(printed, expected);
    // which is itself a job that reads
    let b = naq.wait_ended(&id("b"));
    assert_eq!(text(b.stdout.as_ref()), "from-a\n");
    worker.stop();
}

#[test]
fn what_is_not_granted_is_refused_with_the_flag_that_grants_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // A server of this user runs on the same machine. A job that finds it would enqueue to the wrong
    // naq, where nobody looks.
    let foreign = |args: &[&str]| {
        naq.cli(args.iter().copied())
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
            .without_env("NAQ_DATA_DIR")
    };
    let managed = foreign(&["server", "start", "--json"]).follow();
    managed.expect_stdout("url");
    naq.enqueue(&["-q", "elsewhere", "--id", "there", "--", "true"]);
    let bare = naq.worker(&["bare"]).concurrency(1).spawn();
    let printed = naq.run_in_job(
        "bare",
        "naq enqueue -q bare -- true; echo \"exit $?\"; naq enqueue -q other -- true; naq result there",
    );
    let foreign_jobs = foreign(&["jobs", "--json"]).run().succeeds();
    managed.stop();
    assert_eq!(
        printed,
        "exit 3\n\
         naq: this worker does not grant `enqueue`; start it with `--grant enqueue`\n\
         naq: this worker does not grant `enqueue`; start it with `--grant enqueue:other`\n\
         naq: this worker does not grant `read`; start it with `--grant read`\n"
    );
    assert_eq!(foreign_jobs.stdout, "");
    bare.stop();

    let some = naq
        .worker(&["some"])
        .env("NAQ_GRANT", "enqueue")
        .arg("--grant=read:elsewhere")
        .spawn();
    let printed = naq.run_in_job(
        "some",
        "naq status there | head -n 1; naq enqueue -q some --quiet -- true; echo \"exit $?\"
         naq enqueue -q elsewhere -- true; naq status $NAQ_JOB_ID
         naq cancel there; naq queues --json; naq enqueue -q some --max-jobs 3 -- true",
    );
    let not_here = |what: &str| {
        format!(
            "{what} needs a connection to NATS, which a job does not have; its worker can let it \
             use `naq enqueue`, `status`, `result` and `wait`"
        )
    };
    let hint = "--nats-url or --context gives it a connection of its own";
    assert_eq!(
        printed,
        format!(
            "job             there\nexit 0\n\
             naq: this worker does not grant `enqueue` for queue `elsewhere`; start it with `--grant enqueue:elsewhere`\n\
             naq: this worker does not grant `read` for queue `some`; start it with `--grant read`\n\
             naq: {this}; {hint}\n\
             {{\"error\":{{\"code\":\"no_nats\",\"message\":\"{this}\",\"hint\":\"{hint}\"}}}}\n\
             naq: {}; {hint}\n",
            not_here("--max-jobs"),
            this = not_here("this verb"),
        )
    );
    some.stop();
    for (grant, word) in [("purge", "cannot be granted"), ("none,read", "excludes")] {
        naq.cli(["worker", "q", "--grant", grant])
            .run()
            .exits(2)
            .expect_stderr(&[word]);
    }
}

#[test]
fn a_job_that_may_enqueue_and_not_read_learns_the_id_of_what_it_enqueued() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["q"]).arg("--grant=enqueue").spawn();
    let printed = naq.run_in_job(
        "q",
        "naq enqueue -q q --id w --wait -- true; echo \"exit $?\"",
    );
    assert!(printed.starts_with("exit 3\n"), "{printed}");
    assert!(printed.contains("--grant read"), "{printed}");
    assert!(printed.contains("stopped waiting for job w"), "{printed}");
    assert_eq!(naq.wait_ended(&id("w")).state(), State::Succeeded);
}

#[test]
fn verbs_that_run_jobs_refuse_inside_a_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["q"]).arg("--grant=enqueue,read").spawn();
    for verb in ["run -- true", "worker", "scheduler", "dev"] {
        let printed = naq.run_in_job("q", &format!("timeout 20 $NAQ {verb}; echo \"exit $?\""));
        assert!(printed.starts_with("exit 3\n"), "{verb}: {printed}");
        assert!(printed.contains("which a job does not have"), "{printed}");
    }
}

#[test]
fn jobs_of_dev_and_run_use_naq_without_a_flag() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let printed = |args: &[&str]| {
        let job = script("naq enqueue -q any --id from-$NAQ_QUEUE -- true");
        let args = args.iter().copied().chain(["--", "sh", "-c", &job]);
        naq.cli(args).run().succeeds().stdout
    };
    assert_eq!(printed(&["run"]), "from-run\n");
    // a folder of temporary files whose path is too long for a socket
    let long = naq.home().join("x".repeat(90));
    std::fs::create_dir(&long).unwrap();
    naq.cli(["run", "--", "sh", "-c", "test -S $NAQ_JOB_SOCKET"])
        .env("TMPDIR", long.to_str().unwrap())
        .run()
        .succeeds();
    let dev = naq.cli(["dev", "q"]).follow();
    assert_eq!(printed(&["enqueue", "-q", "q", "--wait"]), "from-q\n");
    dev.signal(nix::sys::signal::Signal::SIGTERM);
    dev.wait_exit();
    let refusing = naq.cli(["dev", "q", "--grant", "none"]).follow();
    let job = script("naq enqueue -q any -- true");
    naq.cli(["enqueue", "-q", "q", "--wait", "--", "sh", "-c", &job])
        .run()
        .exits(3)
        .expect_stderr(&["start it with `--grant enqueue:any`"]);
    refusing.signal(nix::sys::signal::Signal::SIGTERM);
    refusing.wait_exit();
}

/// A connection to a worker's socket without naq, as a job in any language opens it.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(socket: &str) -> Connection {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Connection(BufReader::new(stream))
    }

    fn send(&mut self, line: &[u8]) {
        self.0.get_mut().write_all(line).unwrap();
    }

    /// Sends a request and returns the reply. `Null` means that the worker has hung up.
    fn request(&mut self, request: &Value) -> Value {
        self.send(format!("{request}\n").as_bytes());
        self.reply()
    }

    fn reply(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_default()
    }
}

/// Starts a job that says where its socket is and runs until `go` exists. Returns its variables.
fn hold_open(naq: &Naq, name: &str) -> (String, String) {
    let home = naq.home().display();
    let hold = format!(
        "echo $NAQ_JOB_SOCKET $NAQ_JOB_TOKEN > {home}/{name}.new; mv {home}/{name}.new {home}/{name}
         until [ -e {home}/go ]; do sleep 0.05; done"
    );
    naq.enqueue(&["-q", "q", "--id", name, "--", "sh", "-c", &hold]);
    let file = naq.home().join(name);
    eventually("the job has written its variables", || file.exists());
    let text = std::fs::read_to_string(file).unwrap();
    let (socket, token) = text.trim().split_once(' ').unwrap();
    (socket.to_owned(), token.to_owned())
}

#[test]
fn a_grant_ends_with_the_job_and_has_bounds() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["q"])
        .concurrency(4)
        .arg("--grant=enqueue,read")
        .spawn();
    let (socket, token) = hold_open(&naq, "holder");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(Path::new(&socket)), 0o600);
    assert_eq!(mode(Path::new(&socket).parent().unwrap()), 0o700);
    let status = json!({"token": token, "request": "status", "job_id": "holder"});

    // several requests on one connection, and the envelope as it was written
    let mut open = Connection::open(&socket);
    assert_eq!(open.request(&status)["record"]["state"], "running");
    open.send(
        format!(
            r#"{{"token":"{token}","request":"enqueue","queue":"q","envelope":{{"job_id":"raw", "command":"sh", "args":["-c","echo out"], "later":1.0}}}}"#
        )
        .as_bytes(),
    );
    open.send(b"\n");
    assert_eq!(open.reply(), json!({"job_id": "raw"}));
    let wait = json!({"token": token, "request": "wait", "job_id": "raw", "timeout": "20s"});
    let mut record = open.request(&wait);
    while record["record"]["state"] != "succeeded" {
        record = open.request(&wait);
    }
    let output = json!({"token": token, "request": "output", "job_id": "raw"});
    assert_eq!(open.request(&output), json!({"bytes": 4}));
    let mut bytes = [0; 4];
    open.0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"out\n");

    let refusal = |request: &Value| {
        let reply = Connection::open(&socket).request(request);
        let error = &reply["error"];
        format!("{}: {}", error["code"], error["message"]).replace('"', "")
    };
    for (request, words) in [
        (
            json!({"token": "0123", "request": "status", "job_id": "raw"}),
            "denied: the token belongs to no running job",
        ),
        (
            json!({"token": token, "request": "purge"}),
            "usage: request: unknown variant",
        ),
        (
            json!({"token": token, "request": "status", "job": "raw"}),
            "usage: request: unknown field `job`",
        ),
        (
            json!({"token": token, "request": "status"}),
            "usage: `job_id` is missing",
        ),
        (
            json!({"token": token, "request": "enqueue", "queue": "q"}),
            "usage: `enqueue` needs",
        ),
        (
            json!({"token": token, "request": "enqueue", "queue": "q", "envelope": {"args": []}}),
            "refused: envelope:",
        ),
        (
            json!({"token": token, "request": "enqueue", "queue": "other", "envelope": {"command": "true"}}),
            "denied: this worker does not grant",
        ),
    ] {
        let got = refusal(&request);
        assert!(got.starts_with(words), "{request}: {got}");
    }
    // a request without an end is not kept in memory
    let mut endless = Connection::open(&socket);
    let piece = vec![b' '; 64 << 10];
    let cut_off = (0..1_000).any(|_| endless.0.get_mut().write_all(&piece).is_err());
    assert!(cut_off, "64 MB without an end were taken");
    // one job's connections are bounded: the ninth is refused, another job's first is not
    let mut more: Vec<Connection> = (0..8).map(|_| Connection::open(&socket)).collect();
    let states: Vec<Value> = more
        .iter_mut()
        .map(|one| one.request(&status)["record"]["state"].clone())
        .collect();
    assert_eq!(
        states.iter().filter(|state| **state == "running").count(),
        7,
        "{states:?}"
    );
    let (_, other) = hold_open(&naq, "other");
    let as_other = json!({"token": other, "request": "status", "job_id": "other"});
    assert_eq!(
        Connection::open(&socket).request(&as_other)["record"]["state"],
        "running"
    );
    // a token of one job is no token of another's connection
    assert_eq!(open.request(&as_other)["error"]["code"], "usage");

    // the wait of a job that ends is cut off, and its token is worth nothing
    let mut waiting = more.remove(0);
    let wait = json!({"token": token, "request": "wait", "job_id": "other", "timeout": "20s"});
    waiting.send(format!("{wait}\n").as_bytes());
    naq.cli(["cancel", "--wait", "holder"]).run();
    assert_eq!(waiting.reply()["error"]["message"], "the job has ended");
    eventually("the token is void", || {
        refusal(&status).starts_with("denied: the token belongs")
    });
    naq.file("go", "");
    naq.wait_ended(&id("other"));
    worker.stop();
    assert!(!Path::new(&socket).exists());
}

/// The socket belongs to the user of the jobs, whatever contains them; other users cannot connect.
#[test]
fn jobs_of_another_user_reach_the_socket_and_other_users_do_not() {
    if !is_root("jobs of another user") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // the program has to be executable for the user of the jobs, wherever it was built
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.path().join("naq");
    std::fs::copy(program(), &copy).unwrap();
    for containment in ["namespace", "subreaper"] {
        let worker = naq
            .worker(&[containment])
            .arg("--grant=enqueue:any")
            .arg("--run-as=65534:65534")
            .arg("--landlock-read=/")
            .arg("--workdir=/")
            .arg(&format!("--containment={containment}"))
            .spawn();
        let enqueue = format!(
            "id -u; {} enqueue -q any --id of-{containment} -- true",
            copy.display()
        );
        let job = naq.enqueue(&["-q", containment, "--", "sh", "-c", &enqueue]);
        let record = naq.wait_ended(&job);
        let printed = text(record.stdout.as_ref()) + &text(record.stderr.as_ref());
        assert_eq!(printed, format!("65534\nof-{containment}\n"));
        worker.stop();
    }
    let worker = naq
        .worker(&["q"])
        .arg("--grant=read")
        .arg("--run-as=65534:65534")
        .arg("--workdir=/")
        .spawn();
    std::fs::set_permissions(naq.home(), PermissionsExt::from_mode(0o777)).unwrap();
    let (socket, _) = hold_open(&naq, "holder");
    let connects = |user: u32| {
        use std::os::unix::process::CommandExt;
        #[expect(clippy::disallowed_methods, reason = "a process of another user")]
        let mut command = std::process::Command::new("python3");
        let connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        command.args(["-c", connect, &socket]).uid(user).gid(user);
        command.output().unwrap().status.success()
    };
    assert!(connects(65534));
    assert!(!connects(65533));
    naq.file("go", "");
    worker.stop();
}

/// A worker with one slot never runs a job for which another job of it waits. The verbs say so.
#[test]
fn verbs_of_a_job_say_what_they_wait_for() {
    const BUSY: &str = "waiting: the workers of queue `q` are busy: 1 slot, none is free; \
        this job keeps one of them while it waits";
    const NOBODY: &str = "no worker serves queue `nobody`; start one with `naq worker nobody`";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["q"])
        .concurrency(1)
        .arg("--grant=enqueue:*,read:*")
        .env("NAQ_WORKER_HEARTBEAT_INTERVAL", "300ms")
        .spawn();
    naq.add_queue("nobody");
    let printed = naq.run_in_job(
        "q",
        "naq enqueue -q q --quiet --id own -- true
         naq enqueue -q nobody --quiet --id theirs -- true
         naq wait own --timeout 9s & timeout 9 $NAQ result own --wait &
         timeout 9 $NAQ enqueue -q q --wait -- true &
         naq wait theirs --timeout 9s &
         wait
         naq status theirs | grep ^waiting; naq status theirs --json | grep -o 'no worker serves'",
    );
    assert_eq!(printed.matches(BUSY).count(), 3, "{printed}");
    let theirs = format!("waiting: {NOBODY}");
    assert_eq!(printed.matches(&theirs).count(), 1, "{printed}");
    let status = format!("waiting         {NOBODY}\nno worker serves\n");
    assert!(printed.contains(&status), "{printed}");

    // as a program in any language reads it
    let (socket, token) = hold_open(&naq, "holder");
    let request = json!({"token": token, "request": "status", "job_id": "theirs"});
    let reply = Connection::open(&socket).request(&request);
    assert_eq!(
        reply["waits_for"],
        json!({"cause": "no_worker", "queue": "nobody"})
    );
    let request = json!({"token": token, "request": "status", "job_id": "holder"});
    let reply = Connection::open(&socket).request(&request);
    assert_eq!(reply["record"]["state"], "running");
    assert!(reply.get("waits_for").is_none(), "{reply}");
    naq.file("go", "");
    worker.stop();
}
