//! Credentials without an address: for the server at the default address, and never for the managed
//! one.

use super::*;

/// What a user may give, and nothing else: flags, variables and lines of `naq.toml`.
struct Given {
    flags: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    settings_file: &'static str,
}

/// The seed of a user, from the documentation of NATS.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

const GIVEN: &[Given] = &[
    Given {
        flags: &["--token", "hunter2"],
        variables: &[],
        settings_file: "",
    },
    Given {
        flags: &["--creds", "me.creds"],
        variables: &[],
        settings_file: "",
    },
    Given {
        flags: &[],
        variables: &[("NAQ_USER", "me"), ("NAQ_PASSWORD", "hunter2")],
        settings_file: "",
    },
    Given {
        flags: &[],
        variables: &[("NAQ_NKEY", "me.nk")],
        settings_file: "",
    },
    Given {
        flags: &[],
        variables: &[],
        settings_file: "token = \"hunter2\"\n",
    },
    Given {
        flags: &[],
        variables: &[],
        settings_file: "tls_cert = \"me.pem\"\ntls_key = \"me.key\"\n",
    },
    Given {
        flags: &["--tls-ca", "ca.pem"],
        variables: &[],
        settings_file: "",
    },
];

#[test]
fn credentials_without_an_address_never_lead_to_the_managed_server() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let managed = ensure_blocking(&options(&naq.home().join("data/server"))).unwrap();
    let verb = |words: &[&str]| {
        naq.cli(words.iter().copied())
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
    };
    verb(&["queue", "add", "work"]).run().succeeds();
    naq.file("me.nk", SEED);
    naq.file(
        "me.creds",
        format!(
            "-----BEGIN NATS USER JWT-----\neyJhbGciOiJlZDI1NTE5In0.e30.c2ln\n------END NATS USER JWT------\n\
             -----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
        ),
    );
    let certificates = std::path::Path::new(crate::ROOT).join("tests/tls");
    for (file, name) in [
        ("client.pem", "me.pem"),
        ("client.key", "me.key"),
        ("ca.pem", "ca.pem"),
    ] {
        naq.file(name, fs::read_to_string(certificates.join(file)).unwrap());
    }
    for given in GIVEN {
        naq.file("naq.toml", given.settings_file);
        for words in [
            ["enqueue", "--queue", "work", "--", "true"].as_slice(),
            // these two would start a managed server
            &["run", "--", "true"],
            &["queues"],
        ] {
            // the options come before `--`
            let words = [given.flags, words].concat();
            let mut cli = verb(&words).env("NAQ_CONNECT_TIMEOUT", "10s");
            for (name, value) in given.variables {
                cli = cli.env(name, value);
            }
            let done = cli.run();
            // Nothing at the default address, or a server that refuses, or one that takes everybody.
            assert!(matches!(done.code, Some(2 | 3)), "{words:?}: {done:?}");
            done.expect_stderr(&["nats://127.0.0.1:4222", "without an address", "--nats-url"]);
        }
    }
    naq.file("naq.toml", "");
    let queues = verb(&["queues", "--json"]).run().succeeds();
    assert!(queues.stdout.contains(r#""depth":0"#), "{queues:?}");
    drop(managed);
}

/// The default address is one of the machine, so this needs a network of its own.
#[test]
fn credentials_without_an_address_are_refused_where_the_default_server_requires_none() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let script = naq.file(
        "in_own_network.sh",
        r#"ip link set lo up || exit 77
touch begun
"$NAQ_NATS_SERVER" -a 127.0.0.1 -p 4222 -js -sd store > /dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
tries=0
until "$1" queues > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 200 ] || exit 1; sleep 0.05
done
"$1" enqueue --token hunter2 -- true 2> refused
echo "exit $?" >> refused
"$1" enqueue --nats-url nats://127.0.0.1:4222 --token hunter2 -- true > /dev/null
echo "exit $?" >> refused
"#,
    );
    #[expect(
        clippy::disallowed_methods,
        reason = "a network of its own for a server and its user"
    )]
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh"])
        .args([script.as_path(), crate::harness::nats::naq()])
        .env_clear()
        .envs(naq.environment())
        .env_remove("NAQ_NATS_URL")
        .env_remove("NAQ_TOKEN")
        .current_dir(naq.home())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !naq.home().join("begun").exists() {
        crate::harness::skipped(&format!("no network of its own for a process: {status:?}"));
        return;
    }
    let printed = fs::read_to_string(naq.home().join("refused")).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let [refused, "exit 2", "exit 0"] = lines[..] else {
        panic!("{printed}");
    };
    assert!(refused.contains("requires none"), "{refused}");
    assert!(refused.contains("--nats-url"), "{refused}");
}
