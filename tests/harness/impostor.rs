//! A server that another user, or another program of the same user, has put where a client expects its own.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::naq::{GuardedChild, Naq, eventually};
use super::nats::TEST_TIMEOUT;

/// The program, which `python3` runs with a port and, if it is not the usual one, a greeting. It prints
/// `listening`, `connected` for each connection, and what it hears. Started by root, it becomes another
/// user.
pub(crate) const SCRIPT: &str = include_str!("impostor.py");

/// The user that it becomes.
pub(crate) const UID: u32 = 61_234;

/// A running impostor. Killed when dropped.
pub(crate) struct Impostor {
    printed: PathBuf,
    _process: GuardedChild,
}

impl Impostor {
    /// Starts one that listens at this port of 127.0.0.1 as soon as it is free. `None` if this process may
    /// not become another user.
    pub(crate) fn start(naq: &Naq, port: u16, greeting: Option<&str>) -> Option<Impostor> {
        super::is_root("a server of another user").then(|| {
            let greeting = greeting.into_iter().map(str::to_owned).collect();
            Impostor::spawn(naq, port, greeting)
        })
    }

    /// Starts one that stays the user of this process, with this greeting.
    pub(crate) fn of_same_user(naq: &Naq, port: u16, greeting: &str) -> Impostor {
        Impostor::spawn(naq, port, vec![greeting.to_owned(), "same".to_owned()])
    }

    /// Starts one that stays the user of this process, and listens no longer as soon as it has one connection.
    pub(crate) fn keeps_one_connection(naq: &Naq, port: u16) -> Impostor {
        let words = ["INFO {}", "same", "once"];
        Impostor::spawn(naq, port, words.map(str::to_owned).to_vec())
    }

    fn spawn(naq: &Naq, port: u16, arguments: Vec<String>) -> Impostor {
        let printed = naq.home().join("heard");
        #[expect(clippy::disallowed_methods, reason = "a program that takes a port")]
        let mut command = Command::new("python3");
        command
            .args(["-c", SCRIPT, &port.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&printed).unwrap());
        Impostor {
            printed,
            _process: GuardedChild::spawn(&mut command),
        }
    }

    /// Waits until it listens.
    pub(crate) fn expect_listening(&self) {
        eventually("the impostor listens", || self.count("listening") == 1);
    }

    /// Waits until this many connections were made to it.
    pub(crate) fn expect_connections(&self, count: usize) {
        eventually("clients connect to the impostor", || {
            self.count("connected") >= count
        });
    }

    /// What clients have sent to it, a line for each piece.
    pub(crate) fn heard(&self) -> String {
        let printed = std::fs::read_to_string(&self.printed).unwrap();
        let heard = printed.lines().filter(|line| line.starts_with("heard "));
        heard.collect::<Vec<_>>().join("\n")
    }

    fn count(&self, line: &str) -> usize {
        let printed = std::fs::read_to_string(&self.printed).unwrap();
        printed.lines().filter(|printed| *printed == line).count()
    }
}

/// The greeting of the server at this port of 127.0.0.1, which it sends to everybody.
pub(crate) fn greeting_of(port: u16) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}
