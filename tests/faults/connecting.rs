//! Connections that fail: one message and one exit code for each cause, against servers of each kind.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;

use crate::harness::naq::{CliOutput, GuardedChild, Naq, start_plain_server};
use crate::harness::nats::TestServer;

/// A file of `tests/tls`, whose README says what each is.
fn tls(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/tls");
    folder.join(name).display().to_string()
}

/// `naq queues` with these arguments, and nothing about NATS from the environment.
fn queues(naq: &Naq, url: &str, options: &[&str]) -> CliOutput {
    let words = ["queues", "--nats-url", url, "--connect-timeout", "2s"];
    naq.cli(words.iter().chain(options).copied())
        .without_env("NAQ_TOKEN")
        .run()
}

/// Asserts the exit code and the message. No cause but an unreachable server is reported as one.
#[track_caller]
fn fails(done: CliOutput, code: i32, words: &[&str]) {
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    assert!(!done.stderr.contains("is it running?"), "{done:?}");
    done.exits(code).expect_stderr(words);
}

/// A nats-server with TLS, and further lines of its configuration.
fn start_tls_server(naq: &Naq, certificate: &str, more: &str) -> (GuardedChild, String) {
    let (cert, key) = (
        tls(&format!("{certificate}.pem")),
        tls(&format!("{certificate}.key")),
    );
    let conf = naq.file(
        "tls.conf",
        format!("jetstream: enabled\ntls {{ cert_file: {cert:?}, key_file: {key:?}, {more} }}\n"),
    );
    let (server, port) = start_plain_server(naq, &["-c", conf.to_str().unwrap()]);
    (server, format!("tls://localhost:{port}"))
}

#[test]
fn an_address_that_cannot_be_one_is_a_mistake_of_the_caller() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (url, words) in [
        (",", ["no address is given", "nats://host:port"]),
        (
            "http://127.0.0.1:4222",
            ["http:// is not a scheme of NATS", "nats://host:port"],
        ),
        (
            "amqp://127.0.0.1",
            ["amqp:// is not a scheme of NATS", "nats://host:port"],
        ),
        ("ws://127.0.0.1:4222", ["WebSocket", "nats://host:port"]),
        ("wss://127.0.0.1:4222", ["WebSocket", "nats://host:port"]),
        ("nats://127.0.0.1:99999", ["invalid", "nats://host:port"]),
    ] {
        fails(queues(&naq, url, &[]), 2, &words);
    }
    for (option, words) in [
        ("--creds", "credentials"),
        ("--nkey", "nkey"),
        ("--tls-ca", "CA certificates"),
    ] {
        let done = queues(&naq, server.url(), &[option, "absent.file"]);
        fails(done, 2, &[words, "absent.file", "No such file"]);
    }
}

#[test]
fn a_listener_that_is_no_nats_server_is_named_as_such() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let host = queues(&naq, "nats://no-such-host.invalid", &["--token", "x"]);
    fails(host, 3, &["the host name cannot be resolved", "--nats-url"]);

    // nothing listens at a port that was free a moment ago
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let url = format!("nats://{}", free.unwrap());
    queues(&naq, &url, &[])
        .exits(3)
        .expect_stderr(&["refused", "is it running?"]);

    // the monitoring port of a server is the usual wrong one; it closes a connection that says
    // nothing after five seconds
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let monitoring = free.unwrap().port().to_string();
    let _monitored = start_plain_server(&naq, &["-m", &monitoring]);
    let url = format!("nats://127.0.0.1:{monitoring}");
    for limit in ["2s", "20s"] {
        let words = ["queues", "--nats-url", &url, "--connect-timeout", limit];
        let done = naq.cli(words).run();
        fails(done, 3, &["HTTP server", "4222"]);
    }
    let listen = |answer: Option<&'static str>, speaks_first: bool| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if let Some(answer) = answer {
                    if !speaks_first {
                        let _ = std::io::Read::read(&mut stream, &mut [0; 512]);
                    }
                    let _ = stream.write_all(answer.as_bytes());
                }
                open.push(stream);
            }
        });
        format!("nats://{address}")
    };
    let http = listen(Some("HTTP/1.0 200 OK\r\n\r\n"), false);
    fails(queues(&naq, &http, &[]), 3, &["HTTP server", "4222"]);
    let ssh = listen(Some("SSH-2.0-OpenSSH_9.6\r\n"), true);
    fails(queues(&naq, &ssh, &[]), 3, &["no NATS server", "SSH-2.0"]);
    let silent = listen(None, false);
    fails(
        queues(&naq, &silent, &[]),
        3,
        &["no answer in time", "--connect-timeout"],
    );
}

#[test]
fn missing_refused_and_expired_credentials_have_messages_of_their_own() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    fails(
        queues(&naq, server.url(), &[]),
        3,
        &["requires credentials, and none are given", "--token"],
    );
    fails(
        queues(&naq, server.url(), &["--token", "wrong"]),
        3,
        &["refuses the credentials", "check --creds"],
    );
    fails(
        queues(&naq, server.url(), &["--user", "a", "--password", "b"]),
        3,
        &["refuses the credentials"],
    );
    // claims with "exp": 1577836800
    let expired = naq.file(
        "expired.creds",
        "-----BEGIN NATS USER JWT-----\n\
         eyJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJleHAiOjE1Nzc4MzY4MDB9.c2ln\n\
         ------END NATS USER JWT------\n\
         -----BEGIN USER NKEY SEED-----\n\
         SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n\
         ------END USER NKEY SEED------\n",
    );
    fails(
        queues(&naq, server.url(), &["--creds", expired.to_str().unwrap()]),
        3,
        &["expired.creds expired at 2020-01-01", "get new ones"],
    );
}

#[test]
fn a_server_that_is_full_is_named_as_such() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let conf = naq.file("full.conf", "jetstream: enabled\nmax_connections: 1\n");
    let (_full, port) = start_plain_server(&naq, &["-c", conf.to_str().unwrap()]);
    let url = format!("nats://127.0.0.1:{port}");
    let first = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut greeting = [0; 4];
    std::io::Read::read_exact(&mut &first, &mut greeting).unwrap();
    let done = queues(&naq, &url, &[]);
    fails(
        done,
        3,
        &["refuses the connection", "maximum connections exceeded"],
    );
}

#[test]
fn each_failure_of_tls_has_a_message_of_its_own() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (ca, other_ca) = (tls("ca.pem"), tls("other_ca.pem"));
    let (_good, url) = start_tls_server(&naq, "server", "");
    queues(&naq, &url, &["--tls-ca", &ca]).succeeds();
    // the server says that it requires TLS
    let by_nats = url.replace("tls://", "nats://");
    queues(&naq, &by_nats, &["--tls-ca", &ca]).succeeds();
    for options in [&[][..], &["--tls-ca", &other_ca]] {
        let done = queues(&naq, &url, options);
        fails(
            done,
            3,
            &["an authority that is not trusted", "--tls-ca names"],
        );
    }
    let by_ip = url.replace("localhost", "127.0.0.1");
    fails(
        queues(&naq, &by_ip, &["--tls-ca", &ca]),
        3,
        &["for another host name", "localhost", "--nats-url"],
    );

    let (_expired, url) = start_tls_server(&naq, "expired", "");
    fails(
        queues(&naq, &url, &["--tls-ca", &ca]),
        3,
        &["its certificate expired at 2020-02-01"],
    );

    let (_verifying, url) =
        start_tls_server(&naq, "server", &format!("ca_file: {ca:?}, verify: true"));
    let with = |certificate: &str, key: &str| {
        let (certificate, key) = (tls(certificate), tls(key));
        let options = [
            "--tls-ca",
            &ca,
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
        ];
        queues(&naq, &url, &options)
    };
    with("client.pem", "client.key").succeeds();
    fails(
        queues(&naq, &url, &["--tls-ca", &ca]),
        3,
        &["requires a client certificate", "--tls-cert"],
    );
    fails(
        with("stranger.pem", "stranger.key"),
        3,
        &["refuses the client certificate", "--tls-cert"],
    );
    fails(
        with("client.pem", "server.key"),
        3,
        &["TLS failed", "--tls-key"],
    );
}

#[test]
fn tls_that_the_server_does_not_speak_is_never_left_out() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_plain, port) = start_plain_server(&naq, &["-js"]);
    let by_tls = format!("tls://127.0.0.1:{port}");
    let does_not = ["does not speak TLS", "write nats://"];
    fails(queues(&naq, &by_tls, &[]), 3, &does_not);
    // a CA or a certificate asks for TLS whatever the scheme
    let by_nats = format!("nats://127.0.0.1:{port}");
    queues(&naq, &by_nats, &[]).succeeds();
    fails(
        queues(&naq, &by_nats, &["--tls-ca", &tls("ca.pem")]),
        3,
        &does_not,
    );
    let (cert, key) = (tls("client.pem"), tls("client.key"));
    let options = ["--tls-cert", &cert, "--tls-key", &key];
    fails(queues(&naq, &by_nats, &options), 3, &does_not);
}

/// A service waits for a server that may start, and for nothing else.
#[test]
fn a_worker_does_not_wait_for_a_server_that_will_never_take_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_good, url) = start_tls_server(&naq, "server", "");
    let worker = |url: &str| {
        naq.cli(["worker", "--nats-url", url])
            .env("NAQ_TOKEN", "wrong")
            .without_env("NAQ_CONNECT_TIMEOUT")
    };
    let done = worker(&url).run().exits(3);
    done.expect_stderr(&["an authority that is not trusted"]);
    let done = worker(server.url()).run().exits(3);
    done.expect_stderr(&["refuses the credentials"]);
    let waiting = worker("nats://no-such-host.invalid").follow();
    waiting.expect_stderr("waiting for NATS");
    waiting.stop();
}

/// Starts a proxy that drops what its first client sends. That client gets the greeting of the server, but the
/// server gets no login.
fn first_login_is_lost(target: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (place, client) in listener.incoming().flatten().enumerate() {
            let server = TcpStream::connect(("127.0.0.1", target)).unwrap();
            let pump = |from: &TcpStream, to: &TcpStream| {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                })
            };
            pump(&server, &client);
            if place > 0 {
                pump(&client, &server);
            } else {
                std::thread::spawn(move || std::io::copy(&mut &client, &mut std::io::sink()));
            }
        }
    });
    format!("nats://127.0.0.1:{port}")
}

#[test]
fn a_login_that_reached_the_server_too_late_is_tried_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_server, port) = start_plain_server(&naq, &["-js", "--user", "u", "--pass", "p"]);
    let url = first_login_is_lost(port);
    let words = ["queues", "--nats-url", &url, "--connect-timeout", "1m"];
    let verb = naq.cli(words.into_iter().chain(["--user", "u", "--password", "p"]));
    verb.without_env("NAQ_TOKEN").run().succeeds();
}

#[test]
fn a_missing_jetstream_is_a_matter_of_the_server_the_account_or_the_domain() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_without, port) = start_plain_server(&naq, &[]);
    let without = format!("nats://127.0.0.1:{port}");
    let conf = naq.file(
        "accounts.conf",
        "jetstream: enabled\n\
         accounts {\n\
         with { jetstream: enabled, users: [{user: with, password: p}] }\n\
         lacking { users: [{user: lacking, password: p}] }\n\
         }\n",
    );
    let (_accounts, port) = start_plain_server(&naq, &["-c", conf.to_str().unwrap()]);
    let accounts = format!("nats://127.0.0.1:{port}");
    for verb in [
        &["queues"][..],
        &["enqueue", "--", "true"],
        &["worker"],
        &["jobs"],
        &["scheduler"],
    ] {
        let run = |url: &str, user: Option<&str>, domain: Option<&str>| {
            let login = user.map_or(vec![], |user| vec!["--user", user, "--password", "p"]);
            let options = ["--nats-url", url].into_iter().chain(login);
            let words = verb[..1].iter().copied().chain(options);
            let mut cli = naq
                .cli(words.chain(verb[1..].iter().copied()))
                .without_env("NAQ_TOKEN");
            if let Some(domain) = domain {
                cli = cli.env("NAQ_JETSTREAM_DOMAIN", domain);
            }
            let done = cli.run();
            assert!(!done.stderr.contains("no answer"), "{verb:?}: {done:?}");
            assert_eq!(done.code, Some(3), "{verb:?}: {done:?}");
            done
        };
        run(&without, None, None)
            .expect_stderr(&["this NATS server runs without JetStream", "-js"]);
        let lacking = run(&accounts, Some("lacking"), None);
        assert!(!lacking.stderr.contains("-js"), "{verb:?}: {lacking:?}");
        lacking.expect_stderr(&["not enabled for the account of this user"]);
        run(&accounts, Some("with"), Some("elsewhere"))
            .expect_stderr(&["JetStream domain `elsewhere`", "NAQ_JETSTREAM_DOMAIN"]);
    }
}
