//! A server of another user of the machine: it gets neither credentials nor envelopes, and its jobs are
//! not run.

use super::*;
use crate::harness::impostor::{Impostor, UID, greeting_of};
use crate::harness::nats::naq as program;

#[test]
fn a_server_of_another_user_gets_nothing_unless_its_user_is_named() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let port = free_port();
    let Some(impostor) = Impostor::start(&naq, port, None) else {
        return;
    };
    impostor.expect_listening();
    let refused = format!("at 127.0.0.1:{port} belongs to user id {UID}");
    naq.file(
        "me.nk",
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
    );
    let urls = ["127.0.0.1", "localhost", "0.0.0.0"].map(|host| format!("nats://{host}:{port}"));
    for (verb, login) in [
        (["enqueue", "--", "true"].as_slice(), "--token=hunter2"),
        (&["queues"], "--nkey=me.nk"),
        (&["worker"], "--token=hunter2"),
        (&["scheduler"], "--token=hunter2"),
        (&["run", "--", "true"], "--token=hunter2"),
    ] {
        for url in &urls {
            // options come before `--`
            let words = [&verb[..1], &[login], &verb[1..]].concat();
            let verb = naq.cli(words).env("NAQ_NATS_URL", url);
            verb.without_env("NAQ_TOKEN")
                .run()
                .exits(3)
                .expect_stderr(&[refused.as_str(), "server_users", "NAQ_SERVER_USERS"]);
        }
    }
    assert_eq!(impostor.heard(), "");

    // a user who is named may run a server, by id or by the name of an account
    let named = ["queues", "--nats-url", &urls[0], "--token=hunter2"];
    let named = naq
        .cli(named)
        .env("NAQ_SERVER_USERS", &format!("nats,{UID}"));
    named.run();
    assert!(impostor.heard().contains("hunter2"), "{}", impostor.heard());
}

/// The connection uses the last descriptor, so naq cannot open the kernel's list of connections.
#[test]
fn a_client_without_a_descriptor_to_look_with_sends_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let port = free_port();
    let Some(impostor) = Impostor::start(&naq, port, None) else {
        return;
    };
    impostor.expect_listening();
    let run = |descriptors: u32| {
        #[expect(clippy::disallowed_methods, reason = "a shell sets the limit")]
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$0\" queues --token=hunter2");
        command
            .args(["-c", &script])
            .arg(program())
            .env_clear()
            .envs(naq.environment())
            .env_remove("NAQ_TOKEN")
            .env("NAQ_NATS_URL", format!("nats://127.0.0.1:{port}"))
            .env("NAQ_CONNECT_TIMEOUT", "1s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let running: Vec<_> = (5..32).map(run).collect();
    let said: Vec<String> = running
        .into_iter()
        .map(|one| String::from_utf8(one.wait_with_output().unwrap().stderr).unwrap())
        .collect();
    assert_eq!(impostor.heard(), "", "{said:#?}");
    // too few to connect, just enough for that, and enough
    let says = |words: &str| said.iter().any(|said| said.contains(words));
    assert!(says("cannot see which user runs the server"), "{said:#?}");
    assert!(says(&format!("belongs to user id {UID}")), "{said:#?}");
}

#[test]
fn a_client_sends_nothing_to_another_user_who_takes_the_port_of_its_server() {
    // The harness connects to this one, and would connect to the impostor too.
    let own = TestServer::start();
    let naq = Naq::new(&own);
    let mut server = TestServer::start();
    let (url, token) = (server.url().to_owned(), server.token().to_owned());
    let there = |words: &[&str]| {
        naq.cli(words.iter().copied())
            .env("NAQ_NATS_URL", &url)
            .env("NAQ_TOKEN", &token)
    };
    let worker = there(&["worker", "build"]).follow();
    worker.expect_stderr("working");
    // another server, which the greeting names as one of the cluster
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let named = stranger.local_addr().unwrap();
    let greeting = greeting_of(server.port());
    let greeting = greeting.replacen('{', &format!("{{\"connect_urls\":[\"{named}\"],"), 1);
    let Some(impostor) = Impostor::start(&naq, server.port(), Some(&greeting)) else {
        return;
    };
    server.kill9();
    impostor.expect_listening();
    worker.expect_stderr(&format!("belongs to user id {UID}"));
    // both connections of the worker, again and again
    impostor.expect_connections(8);
    there(&["enqueue", "-q", "build", "--", "true"])
        .run()
        .exits(3)
        .expect_stderr(&["server_users"]);
    assert_eq!(impostor.heard(), "");
    stranger.set_nonblocking(true).unwrap();
    assert!(
        stranger.accept().is_err(),
        "a client has followed a greeting that it does not trust"
    );

    drop(impostor);
    server.restart();
    let done = there(&["enqueue", "-q", "build", "--wait", "--", "echo", "ran"]).run();
    assert_eq!(done.succeeds().stdout, "ran\n");
    assert!(worker.stop().success());
}

/// The supervisor starts a killed server again, at the same port. Another user may be faster.
#[test]
fn the_port_of_a_killed_managed_server_is_not_trusted() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let unconfigured = |words: &[&str]| {
        naq.cli(words.iter().copied())
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
            // who may run other servers, and not this one
            .env("NAQ_SERVER_USERS", &UID.to_string())
    };
    let dev = unconfigured(&["dev"])
        .env("NAQ_CONTAINMENT", "subreaper")
        .follow();
    dev.expect_stderr("Ctrl-C");
    let state = running(&naq.home().join("data/server")).unwrap();
    let greeting = greeting_of(state.port);
    let Some(impostor) = Impostor::start(&naq, state.port, Some(&greeting)) else {
        return;
    };
    // before the supervisor can act
    signal(state.supervisor_pid, Signal::SIGSTOP);
    signal(state.pid, Signal::SIGKILL);
    impostor.expect_listening();
    impostor.expect_connections(8);
    for verb in [["enqueue", "--", "true"].as_slice(), &["queues"]] {
        unconfigured(verb).run().exits(3);
    }
    // only the first message of a handshake
    let heard = impostor.heard();
    assert!(!heard.contains("CONNECT"), "{heard}");
    // A client in another language does not check who listens there. What it sends is of no use later.
    let seed = fs::read_to_string(&state.nkey_file).unwrap();
    assert!(admits_key(&state.url, seed.trim()));
    let heard = impostor.heard();
    assert!(!heard.contains(seed.trim()), "{heard}");
    let sent = heard.split_once("CONNECT ").unwrap().1;
    let login = sent.split_once("\\r\\n").unwrap().0.to_owned();

    drop(impostor);
    signal(state.supervisor_pid, Signal::SIGCONT);
    assert!(eventually(
        || unconfigured(&["queues"]).run().code == Some(0)
    ));
    let done = unconfigured(&["enqueue", "--wait", "--", "echo", "ran"]).run();
    assert_eq!(done.succeeds().stdout, "ran\n");
    let refused = connect(state.port, &login);
    assert!(
        refused.contains("Authorization Violation"),
        "{login}: {refused}"
    );
    assert!(dev.stop().success());
}
