//! Files that are no settings, and folders of another user.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use naq_client::config::{ConfigError, Flags};

use super::{Place, fs, naq};
use crate::harness::is_root;

/// Ownership of a file that no user of the machine has.
const STRANGER: u32 = 4711;

#[test]
fn a_file_that_another_user_owns_or_can_write_to_is_not_read() {
    for (path, name) in [
        ("here/naq.toml", None),
        ("home/.config/naq/naq.toml", None),
        ("named.toml", Some("../named.toml")),
    ] {
        let mut place = Place::new().file(path, "default_queue = \"theirs\"\n");
        if let Some(name) = name {
            place = place.set("NAQ_CONFIG", name);
        }
        assert!(place.load().is_ok(), "{path}");
        for mode in [0o620, 0o602, 0o666] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(place.path(path), permissions).unwrap();
            let error = place.load().unwrap_err();
            assert!(
                matches!(error, ConfigError::WritableByOthers { .. }),
                "{path}: {error:?}"
            );
        }
        fs::set_permissions(place.path(path), fs::Permissions::from_mode(0o644)).unwrap();
        if place.env.uid == 0 {
            // A file of root is accepted by other users, but not the other way round.
            nix::unistd::chown(&place.path(path), Some(STRANGER.into()), None).unwrap();
        } else {
            place.env.uid += 1;
        }
        let error = place.load().unwrap_err();
        assert!(
            matches!(error, ConfigError::ForeignOwner { .. }),
            "{path}: {error:?}"
        );
    }
}

#[test]
fn a_context_of_another_user_is_not_read() {
    let place = Place::new().file("home/.config/nats/context/a.json", r#"{"url":"nats://a"}"#);
    let flags = Flags::default().with("context", "a");
    assert!(place.load_with(&flags).is_ok());
    let path = place.path("home/.config/nats/context/a.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
    let error = place.load_with(&flags).unwrap_err();
    let is_refused =
        matches!(&error, ConfigError::WritableByOthers { path: found, .. } if *found == path);
    assert!(is_refused, "{error:?}");
    let (code, said) = run_briefly(path_of_home(&path), &["config", "--context", "a"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains(&format!("run chmod go-w {}", path.display())),
        "{said}"
    );
    let (code, said) = run_briefly(path_of_home(&path), &["config", "--context", "b"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("`nats context ls` lists the contexts"),
        "{said}"
    );
}

/// The folder with the home folder of a path in it.
fn path_of_home(path: &Path) -> &Path {
    let mut above = path.ancestors();
    above.find(|folder| folder.join("home").is_dir()).unwrap()
}

/// Runs the program in a folder, and fails if it runs for longer than a moment.
fn run_briefly(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    // Without a bound, /dev/zero would fill the memory of the machine.
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""])
        .arg(naq())
        .args(args)
        .env_clear()
        .env("HOME", folder.join("home"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("naq {args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_fifo_a_device_and_a_huge_file_end_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("home/.config/naq");
    fs::create_dir_all(&users).unwrap();
    let here = folder.path().join("naq.toml");
    let users = users.join("naq.toml");
    for path in [&here, &users] {
        for (what, expected) in [
            ("fifo", "not a regular file"),
            ("zero", "not a regular file"),
            ("full", "not a regular file"),
            ("socket", "naq.toml"),
            ("huge", "larger than 1 MiB"),
            ("folder", "it is a folder"),
        ] {
            let mut socket = None;
            match what {
                "fifo" => {
                    let mode = nix::sys::stat::Mode::S_IRUSR;
                    nix::unistd::mkfifo(path.as_path(), mode).unwrap();
                }
                "zero" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
                "full" => std::os::unix::fs::symlink("/dev/full", path).unwrap(),
                "socket" => {
                    socket = Some(std::os::unix::net::UnixListener::bind(path).unwrap());
                }
                "huge" => {
                    let file = fs::File::create(path).unwrap();
                    file.set_len(1 << 40).unwrap();
                }
                _ => fs::create_dir(path).unwrap(),
            }
            for args in [
                &["config"][..],
                &["jobs"],
                &["config", "--config", "naq.toml"],
            ] {
                if args.len() == 3 && path != &here {
                    continue;
                }
                let (code, said) = run_briefly(folder.path(), args);
                assert_eq!(code, Some(2), "{what} {args:?}: {said}");
                assert!(said.contains(expected), "{what} {args:?}: {said}");
            }
            drop(socket);
            match what {
                "folder" => fs::remove_dir(path).unwrap(),
                _ => fs::remove_file(path).unwrap(),
            }
        }
    }
}

#[test]
fn credentials_and_certificates_that_are_no_files_end_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
    fs::File::create(path("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    fs::create_dir(path("folder")).unwrap();
    for (name, expected) in [
        ("fifo", "not a regular file"),
        ("zero", "not a regular file"),
        ("huge", "larger than 16 MiB"),
        ("folder", "it is a folder"),
    ] {
        for options in [
            &["--creds", name][..],
            &["--nkey", name],
            &["--tls-ca", name],
            &["--tls-cert", name, "--tls-key", name],
        ] {
            let args = [&["queues", "--nats-url", "nats://127.0.0.1:1"], options].concat();
            let (code, said) = run_briefly(folder.path(), &args);
            assert_eq!(code, Some(2), "{args:?}: {said}");
            assert!(said.contains(expected), "{args:?}: {said}");
        }
    }
}

#[test]
fn parts_of_an_envelope_without_an_end_fill_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["enqueue", "--stdin", "/dev/zero", "--", "cat"][..],
        &["enqueue", "--script", "/dev/zero"],
        &["schedule", "apply", "/dev/zero"],
    ] {
        let (code, said) = run_briefly(folder.path(), args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains("larger than 64 MiB"), "{args:?}: {said}");
    }
}

#[test]
fn root_obeys_no_settings_and_folders_in_the_home_of_another_user() {
    if !is_root("a folder of another user") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("theirs");
    let settings = home.join(".config/naq/naq.toml");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    // A file of root there, by a hard link or a bind mount, does not count either.
    fs::write(
        &settings,
        "nats_server = \"/tmp/evil\"\ndefault_queue = \"theirs\"\n",
    )
    .unwrap();
    for path in [&home, &home.join(".config")] {
        nix::unistd::chown(path, Some(STRANGER.into()), None).unwrap();
    }
    for variables in [
        &["HOME"][..],
        &["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"],
    ] {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut command = Command::new(naq());
        command.args(["config", "--json"]).env_clear();
        command.env("NAQ_LOG_LEVEL", "warn");
        for variable in variables {
            let path = match *variable {
                "XDG_CONFIG_HOME" => home.join(".config"),
                _ => home.clone(),
            };
            command.env(variable, path);
        }
        let output = command.current_dir(folder.path()).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(!shown.contains("theirs"), "{shown}");
        assert!(!shown.contains("/tmp/evil"), "{shown}");
        for variable in variables {
            assert!(
                said.contains(&format!("the variable {variable} is ignored")),
                "{said}"
            );
        }
    }
}
