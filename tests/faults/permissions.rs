//! Users that may not do everything: what NATS denies is reported at once, with the subject.

use crate::harness::naq::{GuardedChild, Naq, start_plain_server};
use crate::harness::nats::{TestServer, suspend};

/// A server on which each user is denied the subjects that one kind of request needs.
fn start_denying_server(naq: &Naq) -> (GuardedChild, String) {
    let conf = naq.file(
        "users.conf",
        r#"jetstream: enabled
authorization { users: [
  {user: admin, password: p}
  {user: no_publish, password: p, permissions: {publish: {allow: ">", deny: "naq.queue.>"}}}
  {user: no_names, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.STREAM.NAMES"}}}
  {user: no_create, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.STREAM.CREATE.>"}}}
  {user: no_info, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.STREAM.INFO.>"}}}
  {user: no_get, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.STREAM.MSG.GET.>"}}}
  {user: no_consumer, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.CONSUMER.>"}}}
  {user: no_events, password: p, permissions: {subscribe: {allow: ">", deny: "naq.event.>"}}}
  {user: no_lock, password: p, permissions: {publish: {allow: ">", deny: "$JS.API.STREAM.CREATE.KV_naq_scheduler_lock"}}}
  {user: no_inbox, password: p, permissions: {subscribe: {deny: "_INBOX.>"}}}
] }
"#,
    );
    let (server, port) = start_plain_server(naq, &["-c", conf.to_str().unwrap()]);
    (server, format!("nats://127.0.0.1:{port}"))
}

#[test]
fn a_denied_request_fails_at_once_with_its_subject() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_denying, url) = start_denying_server(&naq);
    let as_user = |user: &str, verb: &[&str]| {
        let login = ["--nats-url", &url, "--user", user, "--password", "p"];
        let words = verb[..1].iter().chain(&login).chain(&verb[1..]);
        naq.cli(words.copied()).without_env("NAQ_TOKEN")
    };
    let enqueue = ["enqueue", "--id", "first", "--", "true"];
    as_user("admin", &enqueue).run().succeeds();
    // the first worker creates the consumer that this producer may not create
    as_user(
        "no_consumer",
        &["enqueue", "--queue", "first", "--", "true"],
    )
    .run()
    .succeeds();
    let publish = |subject: &str| format!("permission to publish to `{subject}");
    let subscribe = |subject: &str| format!("permission to subscribe to `{subject}");
    for (user, verb, denied) in [
        (
            "no_publish",
            &["enqueue", "--", "true"][..],
            publish("naq.queue.default."),
        ),
        ("no_names", &["queues"], publish("$JS.API.STREAM.NAMES`")),
        (
            "no_names",
            &["status", "absent"],
            publish("$JS.API.STREAM.NAMES`"),
        ),
        (
            "no_create",
            &["enqueue", "--queue", "new", "--", "true"],
            publish("$JS.API.STREAM.CREATE.naq_queue_new`"),
        ),
        ("no_create", &["worker"], publish("$JS.API.STREAM.CREATE.")),
        (
            "no_info",
            &["queues"],
            // all of them are asked at once
            publish("$JS.API.STREAM.INFO.naq_queue_"),
        ),
        (
            "no_info",
            &["queue", "resume", "default"],
            publish("$JS.API.STREAM.INFO.naq_queue_default`"),
        ),
        (
            "no_get",
            &["status", "first"],
            publish("$JS.API.STREAM.MSG.GET."),
        ),
        (
            "no_get",
            &["cancel", "first"],
            publish("$JS.API.STREAM.MSG.GET."),
        ),
        (
            "no_consumer",
            &["worker"],
            publish("$JS.API.CONSUMER.INFO.naq_queue_default."),
        ),
        (
            "no_events",
            &["wait", "first"],
            subscribe("naq.event.first`"),
        ),
        (
            "no_events",
            &["events", "--follow"],
            subscribe("naq.event.>`"),
        ),
        ("no_inbox", &["queues"], subscribe("_INBOX.")),
        ("no_inbox", &["enqueue", "--", "true"], subscribe("_INBOX.")),
    ] {
        let done = as_user(user, verb).run();
        assert_eq!(done.code, Some(3), "{user} {verb:?}: {done:?}");
        // what an unanswered request ends with
        assert!(!done.stderr.contains("no answer"), "{done:?}");
        let by = format!("NATS denies the user `{user}` permission");
        let reports = done.stderr.matches(&by).count();
        if verb[0] != "worker" {
            assert_eq!(reports, 1, "{done:?}");
        }
        done.expect_stderr(&[&by, &denied]);
    }
}

/// What is denied once explains no later failure, and no answer is no refusal.
#[test]
fn a_request_that_times_out_is_neither_denied_nor_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (mut denying, url) = start_denying_server(&naq);
    let options = naq_jetstream::ConnectOptions {
        user: Some(("no_publish".to_owned(), "p".to_owned())),
        ..url.into()
    };
    let client = naq.block_on(naq_client::Client::connect(options)).unwrap();
    let queue = client.queue("build").unwrap();
    let job = naq_client::Envelope::command("true", Vec::<String>::new());
    let denied = naq.block_on(queue.enqueue(&job)).unwrap_err();
    assert!(denied.to_string().contains("naq.queue.build."), "{denied}");

    suspend(denying.pid());
    let broker = client.broker();
    let name = naq_protocol::QueueName::new("build").unwrap();
    let timed_out = [
        naq.block_on(broker.ensure_layout()).unwrap_err(),
        naq.block_on(broker.queue_messages(&name)).unwrap_err(),
        naq.block_on(broker.queue_names()).unwrap_err(),
    ];
    denying.child().kill().unwrap();
    for error in timed_out {
        assert!(
            matches!(error, naq_jetstream::BrokerError::Timeout(_)),
            "{error}"
        );
    }
}

/// `naq dev` is a worker and a scheduler. One of them alone would look like both.
#[test]
fn dev_ends_at_once_if_its_scheduler_or_its_worker_cannot_work() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_denying, url) = start_denying_server(&naq);
    let dev = |user: &str| {
        let login = ["--nats-url", &url, "--user", user, "--password", "p"];
        let args = ["dev"].into_iter().chain(login);
        naq.cli(args).without_env("NAQ_TOKEN").run().exits(3)
    };
    let scheduler = "the scheduler has ended, stopping the worker: ";
    dev("no_lock").expect_stderr(&[scheduler, "STREAM.CREATE.KV_naq_scheduler_lock`"]);
    let worker = "the worker has ended, stopping the scheduler: ";
    dev("no_consumer").expect_stderr(&[worker, "$JS.API.CONSUMER."]);
}
