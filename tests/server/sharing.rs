//! Who keeps a server alive, and what ends it.

use std::io::Lines;
use std::process::{Child, ChildStdout};

use super::*;

/// Set for a process of this test binary that is to use a server and then wait; the value is the
/// data folder.
const USER_VARIABLE: &str = "TEST_SERVER_USER_FOLDER";

/// In place of a folder: a server of the test harness.
const HARNESS: &str = "(harness)";

/// Another process that uses the server of this folder, until it is killed or its stdin closes.
struct User {
    child: Child,
    /// Kept open: the harness in the process has more to say.
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

/// Not a test by itself: what [`User`] runs. Without its variable it does nothing.
#[test]
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
    // The harness has begun a line with the test's name.
    println!("\nready {} {}", server.port(), server.pid());
    let mut until_closed = Vec::new();
    std::io::stdin().read_to_end(&mut until_closed).unwrap();
}

#[test]
fn the_server_goes_with_an_owner_that_is_killed() {
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
fn a_second_user_keeps_it_alive() {
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
    assert!(accepts(
        third.port,
        &running(folder.path()).unwrap().read_token().unwrap()
    ));
    third.leave();
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
}

#[test]
fn the_server_goes_with_a_keeper_that_is_killed() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let (pid, token) = (server.pid(), server.token().to_owned());
    signal(server.state().supervisor_pid, Signal::SIGKILL);
    // The folder is free only once nats-server has gone, too.
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
    assert!(gone(pid));
    let next = ensure_blocking(&options(folder.path())).unwrap();
    assert!(next.started());
    assert_eq!(next.token(), token);
    assert!(accepts(next.port(), &token));
}

#[test]
fn a_paused_server_goes_with_its_killed_keeper_before_another_starts() {
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
fn it_is_restarted_at_its_port_when_it_is_killed() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    let mut pid = server.pid();
    for _ in 0..3 {
        signal(pid, Signal::SIGKILL);
        assert!(eventually(|| server.pid() != pid));
        pid = server.pid();
        assert!(accepts(server.port(), server.token()));
    }
    let joined = ensure_blocking(&options(folder.path())).unwrap();
    assert_eq!(joined.pid(), pid);
}

#[test]
fn who_joins_during_a_restart_waits_for_it() {
    let folder = TempDir::new().unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    signal(server.pid(), Signal::SIGKILL);
    let joined = ensure_blocking(&options(folder.path())).unwrap();
    assert_eq!(joined.port(), server.port());
    assert!(accepts(joined.port(), joined.token()));
}

#[test]
fn restarts_have_an_end() {
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
    assert!(log.contains("it is not started again"), "{log}");
}

#[test]
fn it_stays_when_asked_until_told() {
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.stay = true;
    let server = ensure_blocking(&wanted).unwrap();
    let (pid, port) = (server.pid(), server.port());
    drop(server);
    // Nobody uses it: the supervisor gets the lock at once, and lets it go again.
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
    // The wish to stay has gone with it.
    let next = ensure_blocking(&options(folder.path())).unwrap();
    drop(next);
    wait_until_gone(folder.path(), TEST_TIMEOUT).unwrap();
}

#[test]
fn a_running_server_can_be_asked_to_stay() {
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
fn a_keeper_takes_a_hangup_for_what_it_is() {
    let server = TestServer::start();
    let supervisor = running(server.data_dir()).unwrap().supervisor_pid;
    signal(supervisor, Signal::SIGHUP);
    signal(supervisor, Signal::SIGTERM);
    wait_until_gone(server.data_dir(), TEST_TIMEOUT).unwrap();
    assert!(gone(supervisor));
}

#[test]
fn many_starters_at_once_have_one_server() {
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
fn who_arrives_while_it_goes_gets_a_working_one() {
    let folder = TempDir::new().unwrap();
    for round in 0..20 {
        let server = ensure_blocking(&options(folder.path())).unwrap();
        assert!(accepts(server.port(), server.token()), "round {round}");
        let users: Vec<_> = (0..3)
            .map(|_| {
                let wanted = options(folder.path());
                std::thread::spawn(move || {
                    let server = ensure_blocking(&wanted).unwrap();
                    assert!(accepts(server.port(), server.token()));
                })
            })
            .collect();
        drop(server);
        users.into_iter().for_each(|user| user.join().unwrap());
    }
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_no_server() {
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
fn a_test_server_goes_with_a_test_process_that_is_killed() {
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
fn a_keeper_whose_starter_died_is_joined_and_not_waited_for() {
    let folder = TempDir::new().unwrap();
    // Play a starter that dies between starting its supervisor and having its answer: here there is a
    // server, and a starter that does not see it before its own supervisor does.
    let first = ensure_blocking(&options(folder.path())).unwrap();
    let state = folder.path().join("server.json");
    let hidden = folder.path().join("hidden.json");
    fs::rename(&state, &hidden).unwrap();
    let wanted = options(folder.path());
    let second = std::thread::spawn(move || ensure_blocking(&wanted).unwrap());
    // Once its supervisor is there, it finds the folder's lock held.
    assert!(eventually(|| keepers_of(folder.path()) == 2));
    fs::rename(&hidden, &state).unwrap();
    let start = Instant::now();
    let second = second.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!second.started());
    assert_eq!(second.pid(), first.pid());
}

/// How many keepers have this folder as their current one.
fn keepers_of(folder: &Path) -> usize {
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
        // Each delay meets the supervisor at another point of the restart.
        std::thread::sleep(Duration::from_millis(delay_ms));
        let start = Instant::now();
        drop(server);
        assert!(gone(supervisor), "after {delay_ms} ms");
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "after {delay_ms} ms"
        );
        assert!(running(folder.path()).is_none());
    }
}
