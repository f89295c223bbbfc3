//! The dashboard and the HTTP API, by raw requests to a running `naq dashboard`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod actions;
mod api;
mod artifacts;
mod audit;
mod bodies;
mod browser;
mod control;
mod enqueue;
mod failed;
mod failed_pages;
mod http;
mod index;
mod job;
mod jobs;
mod metrics;
mod output;
mod pages;
mod proxy;
mod schedule_pages;
mod schedules;
mod security;
mod snapshot;
mod traces;

use crate::harness::naq::{FollowedCli, Naq};
use http::{Answer, Request};

/// A running dashboard.
struct Dashboard {
    process: FollowedCli,
    /// `127.0.0.1:PORT`.
    address: String,
    /// The address that logs one browser in.
    login: String,
    token: String,
}

impl Dashboard {
    /// Starts one on a free port.
    fn start(naq: &Naq, options: &[&str]) -> Dashboard {
        let words = [&["dashboard", "--port", "0"], options].concat();
        Dashboard::of(naq, naq.cli(words).follow())
    }

    /// The dashboard of a verb that serves one.
    fn of(naq: &Naq, process: FollowedCli) -> Dashboard {
        process.expect_stderr("stop       Ctrl-C");
        let printed = process.stderr_text();
        let line = printed
            .lines()
            .find_map(|line| line.strip_prefix("dashboard  "));
        let login = line
            .unwrap_or_else(|| panic!("no address in {printed}"))
            .to_owned();
        let rest = login.strip_prefix("http://").unwrap();
        let token = std::fs::read_to_string(naq.home().join("data/dashboard.token")).unwrap();
        Dashboard {
            address: rest.split('/').next().unwrap().to_owned(),
            token: token.trim().to_owned(),
            login,
            process,
        }
    }

    /// A request with the token of programs.
    fn request(&self, method: &str, path: &str) -> Request {
        let authorization = format!("Bearer {}", self.token);
        self.anonymous(method, path)
            .header("Authorization", &authorization)
    }

    /// A request without a token or a session.
    fn anonymous(&self, method: &str, path: &str) -> Request {
        Request::new(&self.address, method, path)
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    fn post(&self, path: &str) -> Answer {
        self.request("POST", path).send()
    }

    /// Logs a browser in. Returns its cookie.
    fn log_in(&self) -> String {
        let path = self.login.strip_prefix("http://").unwrap();
        let path = path.strip_prefix(&self.address).unwrap();
        let answer = self.anonymous("GET", path).send().expect(303);
        cookie(&answer)
    }
}

/// The cookie that an answer sets, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").unwrap();
    set.split(';').next().unwrap().to_owned()
}
