//! The ways to log in, each with a whole life of a job: TLS with client certificates, key pairs, and
//! credentials files of an operator.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use naq_jetstream::{Names, Role, permissions};
use naq_protocol::QueueName;

use super::fleet::{Fleet, path};
use crate::harness::naq::{Naq, start_plain_server};
use crate::harness::nats::TestServer;

/// A file of `tests/tls`, whose README says what each is.
fn tls(name: &str) -> String {
    let folder = PathBuf::from(crate::ROOT).join("tests/tls");
    folder.join(name).display().to_string()
}

#[test]
fn a_fleet_works_over_tls_with_key_pairs_and_client_certificates() {
    let (ca, cert, key) = (tls("ca.pem"), tls("server.pem"), tls("server.key"));
    let server = [
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
        "--tlscacert",
        &ca,
        "--tlsverify",
    ];
    let options = ["--queue", "build", "--nkeys"];
    let fleet = Fleet::start_with(&options, &server);
    // the same users, with the address and the certificates in their settings
    let url = fleet.url().replace("nats://127.0.0.1", "tls://localhost");
    let (cert, key) = (tls("client.pem"), tls("client.key"));
    let regenerate = |more: &[&str]| {
        let words = [
            "nats-config",
            "--out",
            "fleet",
            "--nats-url",
            &url,
            "--tls-ca",
            &ca,
        ];
        let words = [&words, &options[..], more].concat();
        fleet
            .naq()
            .cli(words)
            .without_env("NAQ_TOKEN")
            .run()
            .succeeds();
    };
    regenerate(&["--tls-cert", &cert, "--tls-key", &key]);
    let _worker = fleet.start_service("worker", &["worker", "build"], "buckets are ready");
    let enqueue = [
        "enqueue", "--queue", "build", "--wait", "--", "echo", "hello",
    ];
    assert_eq!(fleet.run("producer", &enqueue), "hello\n");
    fleet.expect_no_denial("each role used its subjects");
    // the key pair alone is not enough
    regenerate(&[]);
    let done = fleet.cli("producer", &enqueue).run().exits(3);
    done.expect_stderr(&["requires a client certificate"]);
}

/// A signed claim of the NATS protocol for operators, accounts and users.
fn jwt(signer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": name, "iat": 1_700_000_000, "iss": signer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": claims,
    });
    let signed = format!("{}.{}", encode(&header), encode(&body));
    let signature = signer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A credentials file of a user with these permissions.
fn credentials(account: &KeyPair, name: &str, permissions: Value) -> String {
    let user = KeyPair::new_user();
    let mut claims = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
    });
    claims
        .as_object_mut()
        .unwrap()
        .extend(permissions.as_object().unwrap().clone());
    let token = jwt(account, &user, name, &claims);
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

#[test]
fn credentials_files_of_an_operator_work_with_the_permissions_of_a_role() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let operator = KeyPair::new_operator();
    let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let of_system = json!({
        "type": "account", "version": 2,
        "limits": { "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                    "wildcards": true, "conn": -1, "leaf": -1 },
    });
    let of_operator = json!({ "type": "operator", "version": 2 });
    // a token with the permissions of a worker is longer than the longest line by default, 4 KiB
    let conf = format!(
        "max_control_line: 65536\noperator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}\n",
        jwt(&operator, &operator, "operator", &of_operator),
        system.public_key(),
        system.public_key(),
        jwt(&operator, &system, "SYS", &of_system),
        account.public_key(),
        jwt(&operator, &account, "naq", &of_account),
    );
    let conf = naq.file("operator.conf", conf);
    let log = naq.home().join("nats.log");
    let arguments = ["-js", "-c", path(&conf), "-l", path(&log)];
    let (_server, port) = start_plain_server(&naq, &arguments);
    let url = format!("nats://127.0.0.1:{port}");

    let names = Names::new("naq").unwrap();
    let queues = [QueueName::new("build").unwrap()];
    let worker = permissions(&names, "$JS.API", Role::Worker, &queues, false);
    let worker = json!({
        "pub": { "allow": worker.publish() },
        "sub": { "allow": worker.subscribe() },
        "resp": { "max": 1, "ttl": 5_000_000_000_u64 },
    });
    naq.file("worker.creds", credentials(&account, "worker", worker));
    naq.file("all.creds", credentials(&account, "all", json!({})));
    let cli = |file: &str, verb: &[&str]| {
        let login = ["--nats-url", &url, "--creds", file];
        let words = [&verb[..1], &login, &verb[1..]].concat();
        naq.cli(words)
            .without_env("NAQ_TOKEN")
            .without_env("NAQ_NATS_URL")
    };
    let worker = cli("worker.creds", &["worker", "build"])
        .env("NAQ_INBOX_PREFIX", "_INBOX_worker")
        .follow();
    worker.expect_stderr("working");
    let enqueue = [
        "enqueue", "--queue", "build", "--wait", "--", "echo", "hello",
    ];
    let done = cli("all.creds", &enqueue).run().succeeds();
    assert_eq!(done.stdout, "hello\n");
    let denied = ["enqueue", "--queue", "deploy", "--", "true"];
    cli("worker.creds", &denied)
        .env("NAQ_INBOX_PREFIX", "_INBOX_worker")
        .run()
        .exits(3);
    worker.stop();
    let violations = std::fs::read_to_string(log).unwrap();
    let violations: Vec<&str> = violations
        .lines()
        .filter(|line| line.contains("Violation") && !line.contains("deploy"))
        .collect();
    assert_eq!(violations, Vec::<&str>::new());
}
