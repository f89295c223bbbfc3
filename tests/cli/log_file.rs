//! `log_file_path`: the log in a file.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::{File, read_dir, read_to_string};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::read;

use crate::harness::naq::{Cli, Naq, command, eventually};
use crate::harness::nats::TestServer;

/// A verb that logs to this file.
fn logging_to(verb: Cli, path: &Path) -> Cli {
    verb.env("NAQ_LOG_TO_FILE_ENABLED", "true")
        .env("NAQ_LOG_FILE_PATH", path.to_str().unwrap())
}

/// Logs two warnings, of its option and that it waits for NATS, and ends by itself: no server is at that
/// address.
fn warn_twice(naq: &Naq, path: &Path) -> Cli {
    let verb = naq
        .cli(["scheduler", "--poll-interval", "1s"])
        .env("NAQ_NATS_URL", "nats://127.0.0.1:1")
        .env("NAQ_CONNECT_TIMEOUT", "1s");
    logging_to(verb, path)
}

/// The text of the first warning of [`warn_twice`].
const WARNING: &str = "schedules are not polled";

/// Writes a log file whose last line is of this day of January 2026.
fn write_log_of(path: &Path, day: u64) {
    let file = File::create(path).unwrap();
    std::io::Write::write_all(&mut &file, format!("line of day {day}\n").as_bytes()).unwrap();
    // 1767225600 is 2026-01-01T00:00:00Z.
    let noon = Duration::from_secs(1_767_225_600 + (day - 1) * 86_400 + 43_200);
    file.set_modified(SystemTime::UNIX_EPOCH + noon).unwrap();
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A socket keeps each write apart, and takes only so many until a program reads them.
#[test]
fn a_line_of_the_log_is_one_write() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let mut environment = naq.environment();
    environment.insert("NAQ_NATS_URL".to_owned(), "nats://127.0.0.1:1".to_owned());
    environment.insert("NAQ_CONNECT_TIMEOUT".to_owned(), "1s".to_owned());
    let args = ["scheduler", "--poll-interval", "1s"].map(str::to_owned);
    let mut verb = command(&args, &environment, naq.home());
    let mut process = verb.stderr(Stdio::from(theirs)).spawn().unwrap();
    process.wait().unwrap();
    drop(verb);
    let mut lines = Vec::new();
    loop {
        let mut message = vec![0; 65_536];
        let length = read(&ours, &mut message).unwrap();
        if length == 0 {
            break;
        }
        lines.push(String::from_utf8(message[..length].to_vec()).unwrap());
    }
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() >= 2, "{lines:?}");
    for line in warnings {
        assert!(line.starts_with("20") && line.ends_with('\n'), "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn every_line_is_in_the_log_file_when_the_process_has_ended() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for verb in ["worker", "scheduler"] {
        let path = naq.home().join(verb);
        let process = logging_to(naq.cli([verb]), &path).follow();
        eventually("the first line", || {
            read_to_string(&path).is_ok_and(|log| log.contains("ing "))
        });
        process.signal(Signal::SIGTERM);
        assert!(process.wait_exit().success());
        let log = read_to_string(&path).unwrap();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(" done "), "{verb}: {log}");
        assert!(!log.contains('\x1b'), "{verb}: {log}");
    }
    let path = naq.home().join("failed");
    let failed = warn_twice(&naq, &path).run().exits(3);
    assert!(!failed.stderr.contains(WARNING), "{}", failed.stderr);
    assert!(read_to_string(&path).unwrap().contains(WARNING));
}

#[test]
fn a_log_file_that_cannot_be_written_is_a_usage_error() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let path = naq.home().join("missing/naq.log");
    let failed = logging_to(naq.cli(["jobs"]), &path).run().exits(2);
    let expected = format!("naq: cannot write the log to {}: ", path.display());
    assert!(failed.stderr.starts_with(&expected), "{}", failed.stderr);
    assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
}

#[test]
fn log_file_is_rotated_daily_and_seven_earlier_files_are_kept() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("naq.log");
    for day in 2..=9 {
        write_log_of(&folder.path().join(format!("naq.log.2026-01-0{day}")), day);
    }
    write_log_of(&folder.path().join("naq.log.old"), 1);
    write_log_of(&path, 10);
    // All at once, as a worker, a scheduler and producers with the same settings.
    let processes: Vec<_> = (0..6).map(|_| warn_twice(&naq, &path).follow()).collect();
    for process in processes {
        process.wait_exit();
    }
    let mut expected: Vec<String> = (4..=10)
        .map(|day| format!("naq.log.2026-01-{day:02}"))
        .collect();
    expected.insert(0, "naq.log".to_owned());
    expected.push("naq.log.old".to_owned());
    assert_eq!(names(folder.path()), expected);
    let earlier = read_to_string(folder.path().join("naq.log.2026-01-10")).unwrap();
    assert_eq!(earlier, "line of day 10\n");
    let log = read_to_string(&path).unwrap();
    assert_eq!(log.matches(WARNING).count(), 6, "{log}");
}

#[test]
fn lines_that_the_log_file_does_not_take_are_counted_and_reported() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    warn_twice(&naq, Path::new("/dev/full"))
        .run()
        .exits(3)
        .expect_stderr(&["naq: 2 lines of the log could not be written"]);
}
