//! The attack matrix of `docs/containment.md`: each way to outlive a job, in each containment, as
//! each user. The table in the page says what happens, and these tests compare the two.
//!
//! `NAQ_WRITE_MATRIX=1 cargo nextest run -p naq --test runner -j 1 -E 'test(matrix)'` writes the
//! table.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use naq_runner::{Completion, Containment, JobUser, Runner, RunnerError};

use super::harness::{options, program, skipped, within};

const NOBODY: u32 = 65534;

/// The techniques, as `attack.py` and the table name them. Those marked attack the worker, and
/// have one of their own.
const TECHNIQUES: [(&str, bool, &str); 16] = [
    ("double_fork", false, "double fork, as a daemon does"),
    ("new_session", false, "`setsid`, TERM and HUP ignored"),
    (
        "orphaned_grandchild",
        false,
        "grandchild whose parents have ended",
    ),
    (
        "closed_descriptors",
        false,
        "daemon that closes all descriptors",
    ),
    (
        "child_subreaper",
        false,
        "`PR_SET_CHILD_SUBREAPER`: a job's process adopts the orphans",
    ),
    (
        "clone_parent",
        false,
        "`CLONE_PARENT`: a child of the spawner",
    ),
    ("memfd_exec", false, "program without a file (`memfd`)"),
    (
        "own_pid_namespace",
        false,
        "PID namespace of the job's own making",
    ),
    (
        "fork_without_end",
        false,
        "fork bomb within its limit: 8 processes that replace themselves",
    ),
    (
        "cgroup_procs",
        false,
        "move to another group by `cgroup.procs`",
    ),
    ("setuid_helper", false, "set-user-ID program of root"),
    ("ptrace", true, "`ptrace` of worker and spawner"),
    (
        "stop_and_kill",
        true,
        "SIGSTOP of worker and spawner, then SIGKILL",
    ),
    (
        "cgroup_kill",
        true,
        "worker and spawner moved to a group, then its `cgroup.kill`",
    ),
    (
        "prlimit",
        true,
        "`prlimit` of worker and spawner: no descriptors, no CPU time",
    ),
    (
        "handover",
        false,
        "handover to a service (`at`, `cron`, `systemd-run`)",
    ),
];

/// The users of worker and job, as the table names them.
const USERS: [(&str, &str); 3] = [
    ("same", "same user"),
    ("other", "another user"),
    ("root", "root"),
];

/// The variable with the driver's folder, containment, user and techniques.
const DRIVER: &str = "NAQ_TEST_MATRIX";

/// A worker that runs attacks, one after the other. The tests below start it as a process of its
/// own, in a PID namespace of its own.
#[tokio::test]
#[ignore = "the process that other tests attack"]
async fn driver() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how a test passes arguments to a process of its own"
    )]
    let Ok(variable) = std::env::var(DRIVER) else {
        return;
    };
    let [folder, containment, user, techniques] = *variable.split(' ').collect::<Vec<_>>() else {
        panic!("{variable}");
    };
    let folder = Path::new(folder);
    let mut options = options(folder);
    options.containment = Some(containment.parse().unwrap());
    options.concurrency = 2;
    match user {
        "same" => {
            nix::unistd::setgroups(&[]).unwrap();
            nix::unistd::setgid(NOBODY.into()).unwrap();
            nix::unistd::setuid(NOBODY.into()).unwrap();
        }
        "other" => options.run_as = Some(JobUser::lookup("65534:65534").unwrap()),
        _ => {}
    }
    naq_runner::make_undumpable().unwrap();
    let runner = match Runner::start(options).await {
        Ok(runner) => runner,
        Err(error @ RunnerError::Containment { .. }) => {
            std::fs::write(folder.join("unavailable"), error.to_string()).unwrap();
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for technique in techniques.split(',') {
        let ended = attack(&runner, folder, technique).await;
        // at the moment when the end is reported
        let left = survivors(&mark(folder, technique)).len();
        let report = format!("{left} {ended:?}");
        std::fs::write(folder.join(format!("{technique}.result")), report).unwrap();
    }
    runner.shutdown().await;
}

async fn attack(runner: &Runner, folder: &Path, technique: &str) -> Completion {
    let attack = folder.join("attack.py");
    let mut command = program(
        "python3",
        &[
            attack.to_str().unwrap(),
            technique,
            folder.to_str().unwrap(),
            &mark(folder, technique),
        ],
    );
    // Not for the others: on a busy machine their short-lived children pile up beyond it.
    command.limits.processes = (technique == "fork_without_end").then_some(64);
    command.timeout = Some(Duration::from_secs(40));
    command.kill_grace = Duration::from_millis(100);
    within(runner.start_job(command).wait()).await
}

/// What all processes of an attack have among their arguments.
fn mark(folder: &Path, technique: &str) -> String {
    let folder = folder.file_name().unwrap().to_str().unwrap();
    format!("naq-attack-{folder}-{technique}")
}

/// The processes with a mark.
fn survivors(mark: &str) -> Vec<i32> {
    let has_mark = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|arg| arg == mark.as_bytes())
        })
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(has_mark)
        .collect()
}

/// A PID namespace with a driver in it. Ends with all its processes when it is dropped.
struct Arena {
    folder: tempfile::TempDir,
    unshare: Child,
    /// A control group of the driver's own.
    group: Option<PathBuf>,
}

impl Arena {
    fn start(containment: Containment, user: &str, techniques: &[&str]) -> Arena {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let set_mode = |name: &str, mode: u32| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path(name), mode).unwrap();
        };
        set_mode("", 0o777);
        std::fs::write(path("attack.py"), include_str!("attack.py")).unwrap();
        std::fs::write(path("service.py"), include_str!("service.py")).unwrap();
        // the driver's user may not reach the originals
        link_or_copy(&std::env::current_exe().unwrap(), &path("tests"));
        link_or_copy(Path::new(env!("CARGO_BIN_EXE_naq")), &path("naq"));
        std::fs::copy("/bin/sleep", path("setuid-sleep")).unwrap();
        set_mode("setuid-sleep", 0o4755);
        // Not that of other workers, which kill what a dead worker has left when they start.
        let has_group = containment.has_cgroup();
        let group = has_group.then(|| make_group(folder.path(), user)).flatten();
        let procs = match &group {
            Some(group) => group.join("cgroup.procs"),
            None => PathBuf::from("/dev/null"),
        };
        // The shell is the first process of the namespace and outlives the driver.
        let script = "echo $$ > $PROCS; cd $FOLDER; python3 service.py service & \
                      until [ -e service ]; do sleep 0.01; done; \
                      ./tests --exact matrix::driver --ignored --nocapture > log 2>&1; \
                      echo > over; exec sleep 600";
        #[expect(clippy::disallowed_methods, reason = "a namespace to attack in")]
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("FOLDER", folder.path())
            .env("PROCS", procs)
            .env("NAQ_TEST_PROGRAM", path("naq"))
            .env(
                DRIVER,
                format!(
                    "{} {containment} {user} {}",
                    folder.path().display(),
                    techniques.join(",")
                ),
            )
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Arena {
            folder,
            unshare,
            group,
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok()
    }

    /// Waits until the worker has ended or was ended, then judges each technique. `None` if the
    /// containment is unavailable.
    fn judge(&self, techniques: &[&str]) -> Option<Vec<bool>> {
        let until = Instant::now() + Duration::from_secs(100);
        while self.read("over").is_none() {
            let log = || self.read("log").unwrap_or_default();
            assert!(Instant::now() < until, "{techniques:?}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(why) = self.read("unavailable") {
            skipped(&why);
            return None;
        }
        let judged = techniques.iter().map(|technique| {
            let mark = mark(self.folder.path(), technique);
            match self.read(&format!("{technique}.result")) {
                Some(report) => {
                    let alive = self.read(&format!("{technique}.alive"));
                    let log = || self.read("log").unwrap_or_default();
                    assert!(alive.is_some(), "{technique} did nothing: {}", log());
                    println!("{technique}: {}", &report[..report.len().min(90)]);
                    !report.starts_with("0 ") || !survivors(&mark).is_empty()
                }
                None => {
                    // The worker was ended. Its spawners have a moment to kill the job.
                    let until = Instant::now() + Duration::from_secs(4);
                    while !survivors(&mark).is_empty() && Instant::now() < until {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    let left = survivors(&mark).len();
                    println!("{technique}: the worker was ended, {left} survive");
                    left > 0
                }
            }
        });
        Some(judged.collect())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // The first process dies with it, and all others with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let Some(group) = &self.group else { return };
        let until = Instant::now() + Duration::from_secs(5);
        while remove_groups(group).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

fn link_or_copy(from: &Path, to: &Path) {
    std::fs::hard_link(from, to)
        .or_else(|_| std::fs::copy(from, to).map(drop))
        .unwrap();
}

/// Creates a control group. For a worker of the user nobody it belongs to nobody, as systemd makes
/// it with `Delegate=yes`.
fn make_group(folder: &Path, user: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields[2] == "cgroup2");
    let mount = PathBuf::from(mount?[1]);
    let group = mount.join(format!("naq-test-{}", folder.file_name()?.display()));
    std::fs::create_dir(&group).ok()?;
    if user == "same" {
        for name in ["", "procs", "threads", "subtree_control"] {
            let file = match name {
                "" => group.clone(),
                name => group.join(format!("cgroup.{name}")),
            };
            chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    Some(group)
}

/// Runs all attacks in one containment. Returns a cell of the table for each technique.
fn measure(containment: Containment) -> Option<Vec<String>> {
    let mut cells = vec![(Vec::new(), Vec::new()); TECHNIQUES.len()];
    let mut measured = false;
    for (user, name) in USERS {
        let names = |lethal: bool| -> Vec<&str> {
            let same = TECHNIQUES.iter().filter(|technique| technique.1 == lethal);
            same.map(|technique| technique.0).collect()
        };
        let lethal = names(true).into_iter().map(|technique| vec![technique]);
        // The first has a job that forks without end: meanwhile no other arena could start a process.
        for runs in [vec![names(false)], lethal.collect()] {
            let arenas: Vec<_> = runs
                .iter()
                .map(|techniques| Arena::start(containment, user, techniques))
                .collect();
            for (techniques, arena) in runs.iter().zip(arenas) {
                println!("{containment}, {name}:");
                let judged = arena.judge(techniques);
                measured |= judged.is_some();
                for (at, technique) in techniques.iter().enumerate() {
                    let row = TECHNIQUES.iter().position(|row| row.0 == *technique);
                    let (survives, unmeasured) = &mut cells[row.unwrap()];
                    match &judged {
                        Some(judged) if judged[at] => survives.push(name),
                        Some(_) => {}
                        None => unmeasured.push(name),
                    }
                }
            }
        }
    }
    let cell = |(survives, unmeasured): (Vec<&str>, Vec<&str>)| {
        let mut cell = match survives.len() {
            0 => "held".to_owned(),
            3 => "**survives**".to_owned(),
            _ => format!("**survives**: {}", survives.join(", ")),
        };
        if !unmeasured.is_empty() {
            let _ = write!(cell, "; *not measured*: {}", unmeasured.join(", "));
        }
        cell
    };
    measured.then(|| cells.into_iter().map(cell).collect())
}

const HEADER: &str = "| technique | `namespace+cgroup` | `namespace` | `cgroup` | `subreaper` |\n|---|---|---|---|---|\n";

/// The rows of the table: the technique and a cell for each containment.
fn rows(page: &str) -> Vec<Vec<String>> {
    let Some((_, table)) = page.split_once(HEADER) else {
        return Vec::new();
    };
    table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// Compares the table with what happens.
fn check(containment: Containment, column: usize) {
    if !nix::unistd::geteuid().is_root() {
        skipped("the attack matrix: only root can run jobs of other users");
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "whether a tool is installed")]
    let unshare = Command::new("unshare").arg("--version").output();
    if unshare.is_err() {
        skipped("the attack matrix: unshare of util-linux is not installed");
        return;
    }
    let Some(measured) = measure(containment) else {
        return;
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/containment.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let mut rows = rows(&page);
    #[expect(clippy::disallowed_methods, reason = "how a person asks for the table")]
    if std::env::var_os("NAQ_WRITE_MATRIX").is_some() {
        rows.resize(TECHNIQUES.len(), vec![String::new(); 5]);
        let mut table = HEADER.to_owned();
        for ((row, technique), measured) in rows.iter_mut().zip(&TECHNIQUES).zip(measured) {
            technique.2.clone_into(&mut row[0]);
            row[column] = measured;
            let _ = writeln!(table, "| {} |", row.join(" | "));
        }
        let (before, rest) = page.split_once(HEADER).unwrap();
        let mut after = rest;
        while let Some((_, next)) = after
            .split_once('\n')
            .filter(|(line, _)| line.starts_with('|'))
        {
            after = next;
        }
        std::fs::write(&file, format!("{before}{table}{after}")).unwrap();
        return;
    }
    assert_eq!(rows.len(), TECHNIQUES.len());
    for ((row, technique), measured) in rows.iter().zip(&TECHNIQUES).zip(&measured) {
        assert_eq!(row[0], technique.2);
        let is_landlock = ["ptrace", "stop_and_kill"].contains(&technique.0);
        if is_landlock && !containment.has_namespace() && !has_signal_scope() {
            skipped(&format!("{}, which needs Linux 6.12", technique.0));
            continue;
        }
        if measured.contains("not measured") {
            skipped(&format!("{containment}, {}: {measured}", technique.0));
            continue;
        }
        assert_eq!(&row[column], measured, "{containment}: {}", technique.0);
    }
    // README.md has the number of survivors for each user
    let count = |user: &str| {
        let cells = rows.iter().map(|row| row[column].as_str());
        let survives = |cell: &&str| *cell == "**survives**" || cell.contains(user);
        cells.filter(survives).count()
    };
    let [same, other, root] = USERS.map(|(_, name)| count(name));
    let figure = format!("| `{containment}` | {same} | {other} | {root} |\n");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    assert!(readme.contains(&figure), "README.md lacks: {figure}");
}

/// Whether the kernel lets Landlock restrict signals.
pub(super) fn has_signal_scope() -> bool {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').filter_map(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6_u32), Some(12_u32))
}

#[test]
fn the_attack_matrix_of_namespace_and_cgroup_is_as_documented() {
    check(Containment::NamespaceAndCgroup, 1);
}

#[test]
fn the_attack_matrix_of_a_namespace_is_as_documented() {
    check(Containment::Namespace, 2);
}

#[test]
fn the_attack_matrix_of_a_cgroup_is_as_documented() {
    check(Containment::Cgroup, 3);
}

#[test]
fn the_attack_matrix_of_a_subreaper_is_as_documented() {
    check(Containment::Subreaper, 4);
}
