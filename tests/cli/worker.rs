//! `naq worker`: what its jobs may do.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;
use crate::harness::{is_root, skipped};

#[test]
fn jobs_are_another_users_in_the_containment_asked_for() {
    if !is_root("jobs of another user") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["q"])
        .arg("--containment=namespace")
        .arg("--run-as=65534:65534")
        .arg("--workdir=/")
        .arg("--landlock-read=/")
        .spawn();
    worker.expect_stderr("containment=namespace");
    let script =
        "id -u; echo $NAQ_WORK_DIR; echo $$; touch $NAQ_WORK_DIR/x; touch /tmp/naq-x || echo kept";
    let job = naq.enqueue(&["--queue", "q", "--", "sh", "-c", script]);
    let record = naq.wait_ended(&job);
    let stdout = text(record.stdout.as_ref());
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!((lines[0], lines[3]), ("65534", "kept"), "{stdout}");
    // Its number is one of a namespace that began with the worker.
    assert!(lines[2].parse::<u32>().unwrap() < 100, "{stdout}");
    naq.cli(["list-workers"])
        .run()
        .succeeds()
        .expect_stdout("namespace");
    worker.stop();
}

#[test]
fn what_a_worker_cannot_hold_to_is_refused_at_its_start() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = |args: &[&str], code: i32, words: &str| {
        let args = ["worker", "q"].iter().chain(args).copied();
        naq.cli(args).run().exits(code).expect_stderr(&[words]);
    };
    let usage = 2;
    refused(
        &["--containment", "chroot"],
        usage,
        "auto, namespace+cgroup, namespace",
    );
    refused(&["--run-as", "no-such-user"], usage, ": no such user");
    refused(&["--run-as", "root:no-such"], usage, ": no such group");
    refused(&["--landlock-read", "usr"], 1, "usr: not an absolute path");
    refused(
        &["--landlock-write", "/no/such"],
        1,
        "/no/such: No such file",
    );
    naq.cli(["worker", "q"])
        .env("NAQ_RUN_AS", "no-such-user")
        .run()
        .exits(usage)
        .expect_stderr(&[": no such user"]);
}

/// A program that says which user it has become, with the set-user-ID bit of root, in a folder that
/// every user may enter.
fn setuid_program(folder: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.join("who");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    program
}

#[test]
fn setuid_programs_of_jobs_gain_rights_only_where_the_worker_allows_it() {
    if !is_root("a set-user-ID program of root") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let program = setuid_program(folder.path());
    let program = program.to_str().unwrap();
    let hint = "cannot gain rights by its set-user-ID bit or capabilities, since jobs run with \
                no_new_privs; run the job on a worker with `--allow-setuid`";
    for (queue, flags, becomes_root) in [
        ("without", [].as_slice(), false),
        ("with", &["--allow-setuid"], true),
    ] {
        let worker = naq.worker(&[queue]).arg("--run-as=65534:65534");
        let worker = flags.iter().fold(worker, |worker, flag| worker.arg(flag));
        let worker = worker.arg("--workdir=/").spawn();
        let job = naq.enqueue(&["-q", queue, "--", program]);
        let record = naq.wait_ended(&job);
        let stdout = text(record.stdout.as_ref());
        assert_eq!(stdout.contains("euid=0"), becomes_root, "{stdout}");
        assert!(record.warnings.is_empty(), "{:?}", record.warnings);
        // A failure of such a program, or of a script in which one complains, gets the hint: in
        // `status`, and where the outcome is waited for.
        let complaint = "echo 'sudo: The \"no new privileges\" flag is set' >&2; exit 1";
        for (name, whose, command) in [
            (
                "direct",
                format!("`{program}`"),
                vec![program, "--no-such-option"],
            ),
            (
                "script",
                "a program of the job".to_owned(),
                vec!["sh", "-c", complaint],
            ),
        ] {
            let expected = format!("{whose} {hint}");
            let id = format!("{queue}-{name}");
            let args = ["enqueue", "-q", queue, "--id", &id, "--wait", "--"];
            let waited = naq.cli(args.into_iter().chain(command)).run().exits(1);
            let status = naq.cli(["status", &id]).run().succeeds();
            for printed in [waited.stderr, status.stdout] {
                assert_eq!(printed.contains(&expected), !becomes_root, "{printed}");
            }
        }
        worker.stop();
    }
    // a job of root has nothing to gain
    let worker = naq.worker(&["root"]).spawn();
    let job = naq.enqueue(&["-q", "root", "--", program, "--no-such-option"]);
    assert!(naq.wait_ended(&job).warnings.is_empty());
    worker.stop();
    naq.cli(["worker", "q", "--allow-setuid", "--landlock-read=/usr"])
        .run()
        .exits(1)
        .expect_stderr(&["Landlock needs no_new_privs"]);
}

/// A worker without root may not signal a program that has become root, except by a control group.
#[test]
fn a_worker_that_could_not_kill_setuid_programs_does_not_start() {
    if !is_root("a set-user-ID program of root") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let program = setuid_program(folder.path());
    let copy = folder.path().join("naq");
    std::fs::copy(crate::harness::nats::naq(), &copy).unwrap();
    let run = |args: &[&str]| {
        use std::os::unix::process::CommandExt;
        #[expect(clippy::disallowed_methods, reason = "a naq of another user")]
        let mut command = std::process::Command::new(&copy);
        command.args(args).uid(65534).gid(65534).env_clear();
        command.envs(naq.environment()).env("HOME", "/nonexistent");
        command.current_dir(folder.path());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let program = program.to_str().unwrap();
    let (code, stdout, stderr) = run(&["run", "--", program]);
    assert!(
        code == Some(0) && !stdout.contains("euid"),
        "{stdout}{stderr}"
    );
    let (code, _, stderr) = run(&["run", "--", program, "--no-such-option"]);
    assert!(
        code == Some(1) && stderr.contains("run the job on a worker with `--allow-setuid`"),
        "{stderr}"
    );
    for containment in ["namespace", "subreaper"] {
        let containment = format!("--containment={containment}");
        let (code, _, stderr) = run(&["worker", "q", "--allow-setuid", &containment]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains("only a control group lets a worker without root kill them"),
            "{stderr}"
        );
    }
}

/// A file system that does not answer any more, like that of a network whose server is away. It
/// answers with errors once this is dropped.
struct HungFileSystem {
    folder: std::path::PathBuf,
    _answers: std::fs::File,
}

impl HungFileSystem {
    fn mount(folder: &Path) -> Result<HungFileSystem, String> {
        use std::os::fd::AsRawFd;
        let answers = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        let answers = answers.map_err(|error| format!("/dev/fuse: {error}"))?;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            answers.as_raw_fd()
        );
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("hung"),
            folder,
            Some("fuse"),
            flags,
            Some(data.as_str()),
        )
        .map_err(|error| format!("cannot mount: {error}"))?;
        Ok(HungFileSystem {
            folder: folder.to_owned(),
            _answers: answers,
        })
    }
}

impl Drop for HungFileSystem {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.folder, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_hung_file_system_of_a_failed_job_does_not_stop_the_worker() {
    if !is_root("a file system that does not answer") {
        return;
    }
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    for folder in [folder.path(), naq.home()] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let worker = naq
        .worker(&["q"])
        .concurrency(2)
        .ack_wait("2s")
        .arg("--run-as=65534:65534")
        .arg("--workdir=/")
        .spawn();
    let program = folder.path().join("fail");
    std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
    let script = format!(
        "cd {}; touch started; until [ -e go ]; do sleep 0.05; done; exit 1",
        naq.home().display()
    );
    let cwd = folder.path().to_str().unwrap();
    let enqueue = ["-q", "q", "--id", "fails", "--cwd", cwd];
    naq.enqueue(&[&enqueue[..], &["--", "./fail", "-c", &script]].concat());
    // it has been started in the folder, and is in another one
    let started = naq.home().join("started");
    eventually("the job has started", || started.exists());
    let hung = match HungFileSystem::mount(folder.path()) {
        Ok(hung) => hung,
        Err(why) => {
            skipped(&format!("a file system that does not answer: {why}"));
            return;
        }
    };
    naq.file("go", "");
    let record = naq.wait_ended(&id("fails"));
    // The attempt was neither interrupted nor repeated.
    assert_eq!((record.attempt, record.exit_code), (1, Some(1)));
    naq.assert_jobs_still_run("q");
    assert!(worker.stop().success());
    drop(hung);
}
