//! A nats-server with the users of `naq nats-config`.

use std::path::PathBuf;

use crate::harness::naq::{Cli, FollowedCli, GuardedChild, Naq, start_plain_server};
use crate::harness::nats::TestServer;

/// A server with the users of a fleet, and the settings of each.
pub(super) struct Fleet {
    naq: Naq,
    url: String,
    _server: GuardedChild,
    _other: TestServer,
}

impl Fleet {
    /// Starts a server for these options of `naq nats-config`, besides `--out`.
    pub(super) fn start(options: &[&str]) -> Fleet {
        Fleet::start_with(options, &[])
    }

    /// Starts a server for these options of `naq nats-config`, and with these of nats-server.
    pub(super) fn start_with(options: &[&str], server_options: &[&str]) -> Fleet {
        let other = TestServer::start();
        let naq = Naq::new(&other);
        let generate = |url: &str| {
            let words = ["nats-config", "--out", "fleet", "--nats-url", url];
            let verb = naq.cli(words.iter().chain(options).copied());
            verb.without_env("NAQ_TOKEN").run().succeeds();
        };
        generate("nats://127.0.0.1:1");
        let conf = naq.home().join("fleet/nats.conf");
        let log = naq.home().join("nats.log");
        let mut arguments = vec!["-js", "-c", path(&conf), "-l", path(&log)];
        arguments.extend(server_options);
        let (server, port) = start_plain_server(&naq, &arguments);
        let url = format!("nats://127.0.0.1:{port}");
        // the same users again: the server does not notice
        generate(&url);
        Fleet {
            naq,
            url,
            _server: server,
            _other: other,
        }
    }

    pub(super) fn naq(&self) -> &Naq {
        &self.naq
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A file of the fleet's folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.naq.home().join("fleet").join(name)
    }

    /// A verb as a user of the fleet.
    pub(super) fn cli(&self, user: &str, verb: &[&str]) -> Cli {
        let settings = self.file(&format!("{user}.toml"));
        let words = ["--config", path(&settings)];
        let cli = self.naq.cli(words.iter().chain(verb).copied());
        cli.without_env("NAQ_TOKEN").without_env("NAQ_NATS_URL")
    }

    /// Runs a verb, which exits with this code.
    #[track_caller]
    pub(super) fn exits(&self, code: i32, user: &str, verb: &[&str]) -> String {
        let done = self.cli(user, verb).run();
        assert_eq!(done.code, Some(code), "{user} {verb:?}: {done:#?}");
        done.stdout
    }

    /// Runs a verb, which succeeds.
    #[track_caller]
    pub(super) fn run(&self, user: &str, verb: &[&str]) -> String {
        self.exits(0, user, verb)
    }

    /// Starts a worker or a scheduler.
    pub(super) fn start_service(&self, user: &str, verb: &[&str], ready: &str) -> FollowedCli {
        let service = self.cli(user, verb).follow();
        service.expect_stderr(ready);
        service
    }

    /// The lines of the server's log about what it denied.
    pub(super) fn denials(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.naq.home().join("nats.log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("Violation"));
        lines.map(str::to_owned).collect()
    }

    #[track_caller]
    pub(super) fn expect_no_denial(&self, when: &str) {
        assert_eq!(self.denials(), Vec::<String>::new(), "{when}");
    }
}

pub(super) fn path(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}
