//! How long a shared server runs, and what ends it.

use std::io::Lines;
use std::process::{Child, ChildStdout};

use super::*;
use crate::harness::naq::{Naq, is_process_alive};
use crate::harness::nats::TestServer;

/// Set in a process of this test binary that uses a server and then waits. The value is the data
/// folder.
const USER_VARIABLE: &str = "TEST_SERVER_USER_FOLDER";

/// In place of a folder: use a server of the test harness.
const HARNESS: &str = "(harness)";

/// Another process that uses the server of this folder until it is killed or its stdin closes.
struct User {
    child: Child,
    /// Kept open, since the test harness in the process writes more to it.
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
    pid: i32,
}

impl User {
    fn start(folder: &Path) -> User {
        #[expect(
            clippy::disallowed_methods,
            reason = "a second user must be another process"
        )]
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command
            .args([
                "server::sharing::another_process",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(USER_VARIABLE, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let words: String = lines
            .find_map(|line| line.unwrap().strip_prefix("ready ").map(str::to_owned))
            .unwrap();
        let (port, pid) = words.split_once(' ').unwrap();
        User {
            port: port.parse().unwrap(),
            pid: pid.parse().unwrap(),
            lines,
            child,
        }
    }

    fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn leave(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// Not a test: the main function of a [`User`] process. Does nothing without its variable.
#[test]
#[ignore = "the process that other tests start"]
fn another_process() {
    let Some(folder) = naq_client::config::environment().remove(USER_VARIABLE) else {
        return;
    };
    if folder == HARNESS {
        let server = TestServer::start();
        println!("\nready {} {}", server.port(), server.pid());
        println!("folder {}", server.data_dir().display());
        loop {
            std::thread::park();
        }
    }
    let server = ensure_blocking(&options(Path::new(&folder))).unwrap();
    // The test harness has printed the test's name before.
    println!("\nready {} {}", server.port(), server.pid());
    let mut until_closed = Vec::new();
    std::io::stdin().read_to_end(&mut until_closed).unwrap();
}

#[test]
fn the_server_stops_when_its_only_user_is_killed() {
    let folder = TempDir::new().unwrap();
    let owner = User::start(folder.path());
    let (port, pid) = (owner.port, owner.pid);
    let state = running(folder.path()).unwrap();
    assert_eq!((state.port, state.pid), (port, pid));
    owner.kill9();
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
    assert!(running(folder.path()).is_none());
    assert!(!folder.path().join("server.json").exists());
}

#[test]
fn a_second_user_keeps_the_server_running() {
    let folder = TempDir::new().unwrap();
    let first = User::start(folder.path());
    let pid = first.pid;
    let second = ensure_blocking(&options(folder.path())).unwrap();
    assert!(!second.started());
    assert_eq!(second.pid(), pid);
    first.kill9();
    let third = User::start(folder.path());
    assert_eq!(third.pid, pid);
    drop(second);
    let state = running(folder.path()).unwrap();
    assert_eq!(state.port, third.port);
    let seed = fs::read_to_string(state.nkey_file).unwrap();
    assert!(admits_key(&state.url, seed.trim()));
    third.leave();
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
}

#[test]
fn a_server_that_run_or_dev_started_outlives_it_for_its_other_users() {
    let server = TestServer::start();
    for verb in [["run", "--", "sleep", "600"].as_slice(), &["dev"]] {
        let naq = Naq::new(&server);
        let first = naq
            .cli(verb.iter().copied())
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
            .env("NAQ_CONTAINMENT", "subreaper")
            .follow();
        let folder = naq.home().join("data/server");
        assert!(
            eventually(|| running(&folder).is_some()),
            "{verb:?}: {}",
            first.stderr_text()
        );
        let second = ensure_blocking(&options(&folder)).unwrap();
        assert!(!second.started());
        first.stop();
        // The runner has killed what was left of its jobs by now, and nothing else.
        assert!(admits(&second), "{verb:?}");
    }
}

#[test]
fn the_server_dies_with_a_killed_supervisor() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let pid = server.pid();
    let seed = fs::read_to_string(server.nkey_file()).unwrap();
    signal(server.state().supervisor_pid, Signal::SIGKILL);
    // The folder stays locked until nats-server is gone too.
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
    let next = ensure_blocking(&options(folder.path())).unwrap();
    assert!(next.started());
    assert!(admits_key(next.url(), seed.trim()), "the key has changed");
}

#[test]
fn a_suspended_server_dies_with_its_killed_supervisor_before_another_starts() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let pid = server.pid();
    signal(pid, Signal::SIGSTOP);
    signal(server.state().supervisor_pid, Signal::SIGKILL);
    assert!(eventually(|| !alive(server.state().supervisor_pid)));
    let next = ensure_blocking(&options(folder.path())).unwrap();
    assert!(next.started());
    assert!(gone(pid), "two servers in one folder");
}

#[test]
fn a_killed_server_is_restarted_at_the_same_port() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let mut pid = server.pid();
    for _ in 0..3 {
        signal(pid, Signal::SIGKILL);
        assert!(eventually(|| server.pid() != pid));
        pid = server.pid();
        assert!(admits(&server));
    }
    let joined = ensure_blocking(&options(folder.path())).unwrap();
    assert_eq!(joined.pid(), pid);
}

#[test]
fn a_user_that_joins_during_a_restart_waits_for_it() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    signal(server.pid(), Signal::SIGKILL);
    let joined = ensure_blocking(&options(folder.path())).unwrap();
    assert_eq!(joined.port(), server.port());
    assert!(admits(&joined));
}

#[test]
fn the_number_of_restarts_is_limited() {
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.restarts_max = 1;
    let server = ensure_blocking(&wanted).unwrap();
    let first = server.pid();
    signal(first, Signal::SIGKILL);
    assert!(eventually(|| server.pid() != first));
    signal(server.pid(), Signal::SIGKILL);
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(running(folder.path()).is_none());
    let log = fs::read_to_string(folder.path().join("supervisor.log")).unwrap();
    assert!(log.contains("giving up on nats-server"), "{log}");
}

#[test]
fn a_server_with_stay_runs_until_it_is_stopped() {
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.stay = true;
    let server = ensure_blocking(&wanted).unwrap();
    let (pid, port) = (server.pid(), server.port());
    drop(server);
    // No users: the supervisor gets the lock at once and releases it.
    let status = || {
        local_server::status(folder.path())
            .unwrap()
            .unwrap_or_else(|| panic!("it went away"))
    };
    assert!(eventually(|| !status().in_use));
    assert!(status().stays);
    for _ in 0..3 {
        let again = ensure_blocking(&options(folder.path())).unwrap();
        assert_eq!((again.pid(), again.port()), (pid, port));
    }
    assert!(alive(pid));
    assert!(stop_blocking(folder.path(), TEST_TIMEOUT).unwrap());
    assert!(gone(pid));
    assert!(!stop_blocking(folder.path(), TEST_TIMEOUT).unwrap());
    // `stay` ended with the server.
    let next = ensure_blocking(&options(folder.path())).unwrap();
    drop(next);
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
}

#[test]
fn stay_can_be_set_on_a_running_server() {
    let folder = TempDir::new().unwrap();
    let first = ensure_blocking(&options(folder.path())).unwrap();
    let mut wanted = options(folder.path());
    wanted.stay = true;
    let second = ensure_blocking(&wanted).unwrap();
    assert_eq!(second.pid(), first.pid());
    let pid = first.pid();
    drop((first, second));
    assert!(eventually(|| local_server::status(folder.path())
        .unwrap()
        .is_some_and(|s| !s.in_use)));
    assert!(alive(pid));
    stop_blocking(folder.path(), TEST_TIMEOUT).unwrap();
}

#[test]
fn a_supervisor_survives_a_hangup() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let (supervisor, pid) = (server.state().supervisor_pid, server.pid());
    signal(supervisor, Signal::SIGHUP);
    // It still restarts its server, and a later signal still stops it.
    signal(pid, Signal::SIGKILL);
    assert!(eventually(|| server.pid() != pid));
    assert!(alive(supervisor));
    signal(supervisor, Signal::SIGTERM);
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(supervisor));
}

#[test]
fn many_concurrent_starters_share_one_server() {
    let folder = TempDir::new().unwrap();
    let starters: Vec<_> = (0..8)
        .map(|_| {
            let wanted = options(folder.path());
            std::thread::spawn(move || ensure_blocking(&wanted).unwrap())
        })
        .collect();
    let servers: Vec<ManagedServer> = starters
        .into_iter()
        .map(|starter| starter.join().unwrap())
        .collect();
    assert_eq!(servers.iter().filter(|server| server.started()).count(), 1);
    let pid = servers[0].pid();
    assert!(servers.iter().all(|server| server.pid() == pid));
}

#[test]
fn a_user_that_arrives_during_a_shutdown_gets_a_working_server() {
    let folder = TempDir::new().unwrap();
    for round in 0..20 {
        let server = ensure_blocking(&options(folder.path())).unwrap();
        assert!(admits(&server), "round {round}");
        let users: Vec<_> = (0..3)
            .map(|_| {
                let wanted = options(folder.path());
                std::thread::spawn(move || {
                    let server = ensure_blocking(&wanted).unwrap();
                    assert!(admits(&server));
                })
            })
            .collect();
        drop(server);
        users.into_iter().for_each(|user| user.join().unwrap());
    }
}

#[tokio::test]
async fn a_dropped_start_leaves_no_server() {
    let folder = TempDir::new().unwrap();
    let wanted = options(folder.path());
    let abandoned = tokio::time::timeout(Duration::from_millis(1), ensure(&wanted)).await;
    drop(abandoned);
    let server = ensure(&wanted).await.unwrap();
    let pid = server.pid();
    drop(server);
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
}

#[test]
fn a_test_server_stops_when_its_test_process_is_killed() {
    let mut user = User::start(Path::new(HARNESS));
    let pid = user.pid;
    let folder: PathBuf = user
        .lines
        .find_map(|line| Some(line.unwrap().strip_prefix("folder ")?.into()))
        .unwrap();
    assert!(folder.exists() && alive(pid));
    user.kill9();
    wait_until_gone(&folder, TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
    assert!(eventually(|| !folder.exists()));
}

#[test]
fn a_supervisor_whose_starter_died_is_joined_without_waiting() {
    let folder = TempDir::new().unwrap();
    // Simulates a process that dies between starting its supervisor and reading the reply. Here a server
    // runs, and a starter that does not see it before its own supervisor does.
    let first = ensure_blocking(&options(folder.path())).unwrap();
    let state = folder.path().join("server.json");
    let hidden = folder.path().join("hidden.json");
    fs::rename(&state, &hidden).unwrap();
    let mut wanted = options(folder.path());
    // Not within this test: it joins as soon as it sees the server.
    wanted.lock_timeout = TEST_TIMEOUT * 3;
    let second = std::thread::spawn(move || ensure_blocking(&wanted).unwrap());
    // Once its supervisor runs, it finds the folder locked.
    assert!(eventually(|| supervisors_of(folder.path()) == 2));
    fs::rename(&hidden, &state).unwrap();
    assert!(eventually(|| second.is_finished()), "it waits for the lock");
    let second = second.join().unwrap();
    assert!(!second.started());
    assert_eq!(second.pid(), first.pid());
}

/// The number of supervisors whose current folder is this one.
fn supervisors_of(folder: &Path) -> usize {
    let folder = fs::canonicalize(folder).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder))
        .filter(|process| {
            fs::read(process.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("__server-supervisor"))
        })
        .count()
}

#[test]
fn the_last_user_may_leave_during_a_restart() {
    for delay_ms in [0, 5, 30, 55, 60, 65, 70, 80, 120] {
        let folder = TempDir::new().unwrap();
        let server = ensure_blocking(&options(folder.path())).unwrap();
        let supervisor = server.state().supervisor_pid;
        signal(server.pid(), Signal::SIGKILL);
        // With each delay, the user leaves at another point of the restart.
        std::thread::sleep(Duration::from_millis(delay_ms));
        drop(server);
        assert!(gone(supervisor), "after {delay_ms} ms");
        assert!(running(folder.path()).is_none());
    }
}

#[test]
fn the_last_user_of_a_server_ends_after_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let own = |args: &[&str]| {
        naq.cli(args.iter().copied())
            .without_env("NAQ_NATS_URL")
            .without_env("NAQ_TOKEN")
    };
    let pid = || {
        let status = own(&["server", "status", "--json"]).run().succeeds();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        i32::try_from(status["server"]["pid"].as_i64().unwrap()).unwrap()
    };
    for verb in [&["server", "start", "--json"][..], &["dev"]] {
        let first = own(verb).follow();
        assert!(eventually(|| {
            own(&["server", "status"]).run().code == Some(0)
        }));
        let pid = pid();
        let second = own(&["server", "start", "--json"]).follow();
        second.expect_stdout("url");
        // another one uses it
        assert!(second.stop().success());
        assert!(is_process_alive(pid), "{verb:?}");
        first.signal(Signal::SIGTERM);
        assert!(first.wait_exit().success());
        assert!(!is_process_alive(pid), "{verb:?}");
    }
}
