//! The certificate of a managed server: naq's clients log in only inside TLS with it, or to the process of the server,
//! also when a program of the same user takes the port.

use std::net::SocketAddr;

use naq_client::ServerProcess;

use super::*;
use crate::harness::impostor::{Impostor, greeting_of};

/// A client that is none of naq's, with the key of the server's folder. It trusts this certificate only.
fn admits_with_tls(server: &ManagedServer, certificate: &Path) -> bool {
    let seed = fs::read_to_string(server.nkey_file()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connecting = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
        .require_tls(true)
        .add_root_certificates(certificate.to_owned())
        .connect(server.url().to_owned());
    runtime.block_on(connecting).is_ok()
}

fn certificate_and_key(folder: &Path) -> (String, String) {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap();
    (read("server.pem"), read("server.key"))
}

#[test]
fn a_managed_server_keeps_the_certificate_that_its_first_starters_made() {
    let folder = TempDir::new().unwrap();
    let starters: Vec<_> = (0..4)
        .map(|_| {
            let wanted = options(folder.path());
            std::thread::spawn(move || ensure_blocking(&wanted).unwrap())
        })
        .collect();
    let servers: Vec<ManagedServer> = starters
        .into_iter()
        .map(|starter| starter.join().unwrap())
        .collect();
    let first = certificate_and_key(folder.path());
    let certificate = folder.path().join("server.pem");
    for server in &servers {
        assert_eq!(
            server
                .certificate_file()
                .map(fs::canonicalize)
                .unwrap()
                .unwrap(),
            fs::canonicalize(&certificate).unwrap()
        );
        assert!(admits_with_tls(server, &certificate));
    }
    // clients in other languages may do without
    assert!(admits(&servers[0]));
    let greeting = greeting_of(servers[0].port());
    assert!(greeting.contains(r#""tls_available":true"#), "{greeting}");
    assert!(!greeting.contains("tls_required"), "{greeting}");
    let status = local_server::status(folder.path()).unwrap().unwrap();
    assert!(status.responding);
    let log = fs::read_to_string(folder.path().join("nats-server.log")).unwrap();
    assert!(!log.contains("TLS handshake error"), "{log}");
    drop(servers);

    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    let next = ensure_blocking(&options(folder.path())).unwrap();
    assert_eq!(certificate_and_key(folder.path()), first);
    assert!(admits_with_tls(&next, &certificate));
    drop(next);

    // a folder of an earlier version has none
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    let seed = fs::read_to_string(folder.path().join("client.nk")).unwrap();
    for name in ["server.pem", "server.key"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let next = ensure_blocking(&options(folder.path())).unwrap();
    assert_ne!(certificate_and_key(folder.path()), first);
    assert!(admits_with_tls(&next, &certificate));
    assert!(admits_key(next.url(), seed.trim()), "the key has changed");
}

/// naq on its managed server, which is killed and does not come back until the supervisor resumes.
struct Gap {
    naq: Naq,
    dev: crate::harness::naq::FollowedCli,
    state: local_server::ServerState,
    _other: TestServer,
}

impl Gap {
    /// A running server with a worker.
    fn before() -> Gap {
        let other = TestServer::start();
        let naq = Naq::new(&other);
        let dev = unconfigured(&naq, &["dev"])
            .env("NAQ_CONTAINMENT", "subreaper")
            .follow();
        dev.expect_stderr("Ctrl-C");
        let state = running(&naq.home().join("data/server")).unwrap();
        assert!(state.certificate_file.is_some());
        Gap {
            naq,
            dev,
            state,
            _other: other,
        }
    }

    fn begin(&self) {
        // before the supervisor can act
        signal(self.state.supervisor_pid, Signal::SIGSTOP);
        signal(self.state.pid, Signal::SIGKILL);
        assert!(gone(self.state.pid));
    }

    fn expect_refusals(&self) {
        for verb in [["enqueue", "--", "true"].as_slice(), &["queues"]] {
            unconfigured(&self.naq, verb)
                .run()
                .exits(3)
                .expect_stderr(&[
                    "it does not prove by the certificate",
                    "server.pem that it is this user's managed server",
                    "naq server stop",
                ]);
        }
    }

    /// Verbs take the server for one that an earlier version of naq has started, whose user they check.
    fn forget_certificate(&self) {
        let mut state = self.state.clone();
        state.certificate_file = None;
        self.write(&state);
    }

    fn remember_certificate(&self) {
        self.write(&self.state);
    }

    fn write(&self, state: &local_server::ServerState) {
        let path = self.naq.home().join("data/server/server.json");
        fs::write(path, serde_json::to_vec(state).unwrap()).unwrap();
    }

    /// The server comes back, and the worker with it.
    fn end(self) {
        signal(self.state.supervisor_pid, Signal::SIGCONT);
        let works = || unconfigured(&self.naq, &["queues"]).run().code == Some(0);
        assert!(eventually(works));
        let done = unconfigured(&self.naq, &["enqueue", "--wait", "--", "echo", "ran"]).run();
        assert_eq!(done.succeeds().stdout, "ran\n");
        assert!(self.dev.stop().success());
    }
}

fn unconfigured(naq: &Naq, words: &[&str]) -> crate::harness::naq::Cli {
    naq.cli(words.iter().copied())
        .without_env("NAQ_NATS_URL")
        .without_env("NAQ_TOKEN")
}

/// It has the user id that naq's managed server has to have, and its greeting.
#[test]
fn a_program_of_the_same_user_that_replays_the_greeting_of_a_managed_server_gets_no_login() {
    let gap = Gap::before();
    let greeting = greeting_of(gap.state.port);
    let impostor = Impostor::of_same_user(&gap.naq, gap.state.port, &greeting);
    gap.begin();
    impostor.expect_listening();
    // of the worker and of the scheduler
    impostor.expect_connections(8);
    gap.expect_refusals();
    let heard = impostor.heard();
    // the first message of a handshake, and the alert that ends it
    let is_handshake = |line: &str| {
        let record = line.trim_start_matches("heard b").get(1..9);
        record == Some(r"\x16\x03") || record == Some(r"\x15\x03")
    };
    assert!(
        !heard.is_empty() && heard.lines().all(is_handshake),
        "{heard}"
    );
    // only the certificate prevents it
    gap.forget_certificate();
    unconfigured(&gap.naq, &["queues"]).run();
    let heard = impostor.heard();
    assert!(heard.contains("CONNECT "), "{heard}");
    drop(impostor);
    gap.end();
}

/// The client's other connection leads to the server, which has its port again.
#[test]
fn a_program_that_keeps_one_connection_and_frees_the_port_is_seen() {
    let other = TestServer::start();
    let naq = Naq::new(&other);
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let impostor = Impostor::keeps_one_connection(&naq, port);
    impostor.expect_listening();
    let kept = TcpStream::connect(address).unwrap();
    impostor.expect_connections(1);

    let server = TcpListener::bind(address).unwrap();
    let _served = TcpStream::connect(address).unwrap();
    let _accepted = server.accept().unwrap();
    let own = ServerProcess::of_pid(std::process::id().try_into().unwrap()).unwrap();
    assert!(!own.serves(address));
    // without it, the other connection proves that the server is this process
    drop((impostor, kept));
    assert!(eventually(|| own.serves(address)));
}

/// These servers admit the key of naq's clients.
#[test]
fn a_nats_server_with_another_certificate_or_without_tls_gets_no_login() {
    let gap = Gap::before();
    gap.begin();
    for with_tls in [true, false] {
        let folder = TempDir::new().unwrap();
        let mut other = options(folder.path());
        other.port = Port::Fixed(gap.state.port);
        other.extra_config = "debug: true\ntrace: true".to_owned();
        fs::copy(&gap.state.nkey_file, folder.path().join("client.nk")).unwrap();
        if !with_tls {
            let seed = fs::read_to_string(&gap.state.nkey_file).unwrap();
            let key = nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key();
            other.access = local_server::Access::Configured;
            other.extra_config += &format!("\nauthorization {{ users: [{{ nkey: {key} }}] }}");
        }
        let server = ensure_blocking(&other).unwrap();
        assert_eq!(server.certificate_file().is_some(), with_tls);
        gap.expect_refusals();
        let log = || fs::read_to_string(folder.path().join("nats-server.log")).unwrap();
        // connections of the worker besides those of the two verbs
        let count = || log().matches("Client connection created").count();
        let before = count();
        assert!(eventually(|| count() >= before + 4), "{}", log());
        assert!(!log().contains("CONNECT"), "{}", log());
        // only the certificate prevents it
        gap.forget_certificate();
        unconfigured(&gap.naq, &["queues"]).run().succeeds();
        assert!(log().contains("CONNECT"), "{}", log());
        gap.remember_certificate();
        drop(server);
        wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    }
    gap.end();
}

/// Changes which process the folder of a server names.
fn rename_process(folder: &Path, pid: i32, identity: Option<String>) {
    let path = folder.join("server.json");
    let mut state: local_server::ServerState =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (state.pid, state.process_identity) = (pid, identity);
    fs::write(path, serde_json::to_vec(&state).unwrap()).unwrap();
}

#[test]
fn a_connection_needs_no_tls_if_the_kernel_shows_that_it_leads_to_the_servers_process() {
    let other = TestServer::start();
    let naq = Naq::new(&other);
    let folder = naq.home().join("data/server");
    let mut wanted = options(&folder);
    wanted.extra_config = "debug: true".to_owned();
    let server = ensure_blocking(&wanted).unwrap();
    let handshakes_of_a_verb = || {
        let log = || fs::read_to_string(folder.join("nats-server.log")).unwrap();
        let count = || log().matches("TLS handshake complete").count();
        let before = count();
        unconfigured(&naq, &["queues"]).run().succeeds();
        count() - before
    };
    assert_eq!(handshakes_of_a_verb(), 0);
    let (pid, identity) = (server.pid(), server.state().process_identity.clone());
    let later = identity.as_ref().map(|identity| format!("{identity}0"));
    let own = i32::try_from(std::process::id()).unwrap();
    for (pid, identity) in [(pid, later), (own, identity.clone()), (pid, None)] {
        rename_process(&folder, pid, identity.clone());
        assert_eq!(handshakes_of_a_verb(), 1, "{pid} {identity:?}");
    }
    rename_process(&folder, pid, identity);
    assert_eq!(handshakes_of_a_verb(), 0);
}

#[test]
fn a_missing_or_replaced_certificate_is_named_with_what_to_do() {
    let other = TestServer::start();
    let naq = Naq::new(&other);
    let folder = naq.home().join("data/server");
    let server = ensure_blocking(&options(&folder)).unwrap();
    let certificate = folder.join("server.pem");
    let first = fs::read_to_string(&certificate).unwrap();
    unconfigured(&naq, &["queues"]).run().succeeds();

    fs::remove_file(&certificate).unwrap();
    let name = certificate.to_str().unwrap();
    for verb in [["queues"].as_slice(), &["run", "--", "true"], &["server"]] {
        let failed = unconfigured(&naq, verb).run().exits(3);
        let failed = failed.expect_stderr(&["certificate of the", name, "naq server stop"]);
        assert_eq!(failed.stderr.trim().lines().count(), 1, "{failed:?}");
    }

    let folder_of_another = TempDir::new().unwrap();
    drop(ensure_blocking(&options(folder_of_another.path())).unwrap());
    fs::copy(folder_of_another.path().join("server.pem"), &certificate).unwrap();
    rename_process(&folder, server.pid(), None);
    let failed = unconfigured(&naq, &["queues"]).run().exits(3);
    failed.expect_stderr(&["does not prove by the certificate", name, "naq server stop"]);
    let status = local_server::status(&folder).unwrap().unwrap();
    assert!(!status.responding);

    // as the hint says
    unconfigured(&naq, &["server", "stop"]).run().succeeds();
    drop(server);
    let _server = ensure_blocking(&options(&folder)).unwrap();
    unconfigured(&naq, &["queues"]).run().succeeds();
    assert_ne!(fs::read_to_string(&certificate).unwrap(), first);
}

#[test]
fn a_running_server_that_an_earlier_version_has_started_is_used_without_tls() {
    let other = TestServer::start();
    let naq = Naq::new(&other);
    let folder = naq.home().join("data/server");
    let server = ensure_blocking(&options(&folder)).unwrap();
    // what that version has written, and the folder that it has left
    let state = fs::read_to_string(folder.join("server.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    state.as_object_mut().unwrap().remove("certificate_file");
    fs::write(folder.join("server.json"), state.to_string()).unwrap();
    fs::remove_file(folder.join("server.pem")).unwrap();
    unconfigured(&naq, &["queues"]).run().succeeds();
    let joined = ensure_blocking(&options(&folder)).unwrap();
    assert_eq!(joined.pid(), server.pid());
    assert!(local_server::status(&folder).unwrap().unwrap().responding);
}
