//! The address that nobody configured: naq sends nothing there, neither credentials nor envelopes, and
//! takes no job from it.

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
        verb(&["config", "trust"]).run().succeeds();
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
            done.exits(2)
                .expect_stderr(&["without an address", "--nats-url"]);
        }
    }
    naq.file("naq.toml", "");
    let queues = verb(&["queues", "--json"]).run().succeeds();
    assert!(queues.stdout.contains(r#""depth":0"#), "{queues:?}");
    drop(managed);
}

/// The default address is one of the machine, so this needs a network of its own. Another user listens
/// there, if the test may become one.
#[test]
fn an_unconfigured_naq_never_connects_to_the_default_address() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.file("impostor.py", crate::harness::impostor::SCRIPT);
    let script = naq.file(
        "in_own_network.sh",
        r#"ip link set lo up || exit 77
touch begun
python3 impostor.py 4222 > heard &
impostor=$!
trap 'kill $impostor' EXIT
until grep -q listening heard; do sleep 0.05; done
naq=$1
verb() {
    timeout 60 "$naq" "$@" < /dev/null > printed 2>&1
    echo "exit $? $(tail -n 1 printed)"
}
{
    verb enqueue -- true
    verb enqueue --token hunter2 -- true
    verb queues
    verb worker
    verb scheduler
    verb run -- echo ran
} > outcomes
"#,
    );
    let is_root = nix::unistd::geteuid().is_root();
    #[expect(
        clippy::disallowed_methods,
        reason = "a network of its own for a server and its user"
    )]
    let status = Command::new("unshare")
        .args((!is_root).then_some("--map-root-user"))
        .args(["--net", "sh"])
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
    let outcomes = fs::read_to_string(naq.home().join("outcomes")).unwrap();
    let heard = fs::read_to_string(naq.home().join("heard")).unwrap();
    assert_eq!(heard, "listening\n", "{outcomes}");
    let lines: Vec<&str> = outcomes.lines().collect();
    let no_server = "exit 3 naq: no NATS server is configured, and no managed server of this user runs; \
                     `naq dev` or `naq server start` starts one, --nats-url or --context names another";
    let [
        unconfigured,
        without_address,
        queues,
        worker,
        scheduler,
        ran,
    ] = lines[..]
    else {
        panic!("{outcomes}");
    };
    for refused in [unconfigured, queues, worker, scheduler] {
        assert_eq!(refused, no_server);
    }
    assert!(without_address.starts_with("exit 2 "), "{without_address}");
    assert!(
        without_address.contains("without an address"),
        "{without_address}"
    );
    // by the managed server, at another port, since that one is taken
    assert_eq!(ran, "exit 0 ran");
}

/// A supervisor and its server outlive the program that started them, and every process of the same user
/// can read their environment.
#[test]
fn a_managed_server_does_not_keep_the_environment_of_its_starter() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let managed = naq
        .cli(["--json", "server", "start"])
        .without_env("NAQ_NATS_URL")
        .env("NAQ_TOKEN", "")
        .env("NAQ_PASSWORD", "")
        .env("DEPLOY_KEY", "hunter2")
        .follow();
    managed.expect_stdout("nats://");
    let state = running(&naq.home().join("data/server")).unwrap();
    for pid in [state.supervisor_pid, state.pid] {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        let names: Vec<&str> = environment
            .split_terminator('\0')
            .map(|variable| variable.split('=').next().unwrap())
            .collect();
        assert!(names.contains(&"PATH"), "{names:?}");
        let known = [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "GOGC",
            "GOMAXPROCS",
            "GOMEMLIMIT",
        ];
        assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    }
}
