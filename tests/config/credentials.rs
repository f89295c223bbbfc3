//! naq sends credentials only to the address that the same place names.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use naq_client::config::{ConfigError, Flags, Warning};

use super::{CONTEXT, Place, Resolved, naq};

/// Asserts that a credential is left out, with a warning.
#[track_caller]
fn left_out(found: Result<Resolved, ConfigError>, credential: &str) {
    let resolved = found.unwrap();
    let url = &resolved.settings.nats_url;
    let entry = resolved
        .entries
        .iter()
        .find(|entry| entry.setting.name == credential);
    assert!(
        entry.unwrap().value.is_none(),
        "the credential goes to {url:?}"
    );
    assert!(
        resolved
            .warnings
            .iter()
            .any(|warning| matches!(warning, Warning::ForeignCredential { name, .. } if *name == credential)),
        "{:?}",
        resolved.warnings
    );
}

/// Asserts that a credential is used, without a warning.
#[track_caller]
fn kept(found: Result<Resolved, ConfigError>, credential: &str) {
    let resolved = found.unwrap();
    let entry = resolved
        .entries
        .iter()
        .find(|entry| entry.setting.name == credential);
    assert!(
        entry.unwrap().value.is_some(),
        "no {credential}: {:?}",
        resolved.warnings
    );
    assert!(
        !resolved
            .warnings
            .iter()
            .any(|warning| matches!(warning, Warning::ForeignCredential { .. })),
        "{:?}",
        resolved.warnings
    );
}

#[test]
fn a_credential_of_the_user_never_goes_to_a_server_that_the_current_folder_names() {
    for (variable, credential) in [
        ("NAQ_TOKEN", "token"),
        ("NAQ_CREDS", "creds"),
        ("NAQ_NKEY", "nkey"),
    ] {
        let place = Place::new()
            .set(variable, "mine")
            .trusted("nats_url = \"nats://evil\"\n");
        left_out(place.load(), credential);
        let place = Place::new().trusted("nats_url = \"nats://evil\"\n");
        let flags = Flags::default().with(credential, "mine");
        left_out(place.load_with(&flags), credential);
        let place = place.file(
            "home/.config/naq/naq.toml",
            &format!("{credential} = \"mine\"\n"),
        );
        left_out(place.load(), credential);
    }
    // What it names itself is its own.
    let place = Place::new().trusted("nats_url = \"nats://ours\"\ntoken = \"ours\"\n");
    let settings = place.load().unwrap().settings;
    assert_eq!(settings.nats_url.as_deref(), Some("nats://ours"));
    kept(place.load(), "token");
    // A variable that overrides the address makes naq send the credential again.
    let place = Place::new()
        .set("NAQ_TOKEN", "mine")
        .set("NAQ_NATS_URL", "nats://mine")
        .trusted("nats_url = \"nats://evil\"\n");
    let settings = place.load().unwrap().settings;
    assert_eq!(settings.nats_url.as_deref(), Some("nats://mine"));
    kept(place.load(), "token");
}

#[test]
fn a_credential_belongs_to_the_address_of_its_own_place() {
    let users = "nats_url = \"nats://prod\"\ntoken = \"prod\"\n";
    let place = Place::new().file("home/.config/naq/naq.toml", users);
    kept(place.load(), "token");
    for url in ["nats://other", "nats://prod:4222"] {
        left_out(
            place.load_with(&Flags::default().with("nats_url", url)),
            "token",
        );
    }
    // The same address, wherever it is named.
    let same = Flags::default().with("nats_url", "nats://prod");
    kept(place.load_with(&same), "token");
    // A credential of its own next to the address.
    let own = Flags::default()
        .with("nats_url", "nats://other")
        .with("token", "other");
    kept(place.load_with(&own), "token");
    // A variable adds a credential to the user's own file.
    let bare = Place::new()
        .file("home/.config/naq/naq.toml", "nats_url = \"nats://prod\"\n")
        .set("NAQ_TOKEN", "secret");
    kept(bare.load(), "token");
    // Flags and variables count as one place.
    let variables = Place::new()
        .set("NAQ_NATS_URL", "nats://prod")
        .set("NAQ_TOKEN", "mine");
    let settings = variables
        .load_with(&Flags::default().with("nats_url", "nats://localhost"))
        .unwrap()
        .settings;
    assert!(settings.token.is_some());
    // A context's credentials are for the context's server.
    let context = Place::new().file("home/.config/nats/context/prod.json", CONTEXT);
    let flags = Flags::default()
        .with("context", "prod")
        .with("nats_url", "nats://evil");
    left_out(context.load_with(&flags), "creds");
    let context = context.trusted("context = \"prod\"\nnats_url = \"nats://evil\"\n");
    left_out(context.load(), "creds");
    // The place that names the context may name the credential for it.
    let flags = Flags::default().with("context", "prod").with("token", "t");
    kept(context.load_with(&flags), "token");
}

/// The attack itself: a server in the folder's `naq.toml` waits for the token of a user who runs naq there.
#[test]
fn a_server_that_the_current_folder_names_gets_no_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let (heard, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let info = r#"INFO {"server_id":"E","version":"2.12.0","auth_required":true,"max_payload":1048576,"headers":true,"jetstream":true}"#;
            let _ = stream.write_all(format!("{info}\r\n").as_bytes());
            let mut line = String::new();
            let _ = BufReader::new(stream).read_line(&mut line);
            let _ = heard.send(line);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("naq.toml"),
        format!("nats_url = {url:?}\n"),
    )
    .unwrap();
    let run = |args: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let output = Command::new(naq())
            .args(args)
            .env_clear()
            .env("HOME", folder.path())
            .env("NAQ_TOKEN", "hunter2")
            .env("NAQ_CONNECT_TIMEOUT", "2s")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    for is_trusted in [false, true] {
        if is_trusted {
            assert_eq!(run(&["config", "trust"]).0, Some(0));
        }
        for args in [
            &["jobs"][..],
            &["enqueue", "--", "true"],
            &["run", "--", "true"],
            &["worker", "--connect-timeout", "1s"],
            &["events"],
        ] {
            let (code, said) = run(args);
            assert!(matches!(code, Some(2 | 3)), "{args:?}: {said}");
            if is_trusted {
                assert!(said.contains("token (NAQ_TOKEN) is not sent"), "{said}");
            }
        }
        let heard: Vec<String> = lines.try_iter().collect();
        assert!(!heard.concat().contains("hunter2"), "{heard:?}");
        // only a trusted file's server is connected to at all
        assert_eq!(!heard.is_empty(), is_trusted, "{heard:?}");
    }
}
