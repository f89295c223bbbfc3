//! What a `naq.toml` in the current folder may set, before and after it is trusted.

use naq_client::config::{ConfigError, Setting, revoke_trust_of_current_dir, trust_current_dir};

use super::{Place, SETTINGS, Source, fs, naq};

/// A value of each setting in the notation of `naq.toml`.
fn some_value(setting: &Setting) -> String {
    use naq_client::config::SettingKind;
    match setting.kind {
        SettingKind::Bool => "true".to_owned(),
        SettingKind::Count { .. } => "3".to_owned(),
        SettingKind::Duration { .. } => "\"7s\"".to_owned(),
        SettingKind::Size => "\"1M\"".to_owned(),
        SettingKind::List => "[\"a\"]".to_owned(),
        SettingKind::Labels => "{ a = \"b\" }".to_owned(),
        SettingKind::Choice(words) => format!("{:?}", words[0]),
        SettingKind::Text | SettingKind::Name | SettingKind::Prefix | SettingKind::Path => {
            "\"x\"".to_owned()
        }
    }
}

#[test]
fn a_file_in_the_current_folder_sets_only_harmless_settings_until_it_is_trusted() {
    for setting in SETTINGS {
        let line = format!("{} = {}", setting.name, some_value(setting));
        let place = Place::new().file("here/naq.toml", &line);
        match place.load() {
            Ok(resolved) => {
                assert!(setting.is_harmless, "{line}");
                let source = resolved.source(setting.name);
                assert!(matches!(source, Source::File { line: 1, .. }), "{line}");
            }
            Err(ConfigError::Untrusted { keys, line: 1, .. }) => {
                assert!(!setting.is_harmless, "{line}");
                assert_eq!(keys, [setting.name]);
            }
            // invalid with or without trust
            Err(ConfigError::Conflict { .. }) => assert!(setting.is_harmless, "{line}"),
            Err(error) => panic!("{line}: {error}"),
        }
    }
    // What names a server, a credential, a program, a file or a user is never harmless.
    for name in [
        "nats_url",
        "context",
        "creds",
        "nkey",
        "user",
        "password",
        "token",
        "tls_ca",
        "tls_cert",
        "tls_key",
        "inbox_prefix",
        "jetstream_domain",
        "allow_insecure",
        "server_users",
        "prefix",
        "memory",
        "timeout",
        "workdir",
        "containment",
        "run_as",
        "allow_root",
        "landlock_read",
        "landlock_write",
        "allow_env",
        "grant",
        "allow_setuid",
        "strict_limits",
        "private_tmp",
        "runners_dir",
        "secrets_dir",
        "trusted_proxies",
        "forward_auth_header",
        "forward_auth_groups_header",
        "forward_auth_rights",
        "proxy_users",
        "nats_server",
        "data_dir",
        "cache_dir",
        "log_to_file_enabled",
        "log_file_path",
    ] {
        assert!(!Setting::by_name(name).unwrap().is_harmless, "{name}");
    }
}

#[test]
fn a_file_in_the_current_folder_does_not_hide_the_users_file() {
    let place = Place::new()
        .file(
            "home/.config/naq/naq.toml",
            "run_as = \"jobs\"\nnats_url = \"nats://mine\"\ndefault_queue = \"mine\"\n",
        )
        .file("here/naq.toml", "default_queue = \"here\"\n");
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.run_as.as_deref(), Some("jobs"));
    assert_eq!(resolved.settings.nats_url.as_deref(), Some("nats://mine"));
    assert_eq!(resolved.settings.default_queue, "here");
    assert_eq!(
        resolved.files,
        [
            place.path("home/.config/naq/naq.toml"),
            place.path("here/naq.toml")
        ]
    );
    // In the folder of the user's file, it is that one and no other.
    let mut place = place.file("home/.config/naq/naq.toml", "run_as = \"jobs\"\n");
    place.env.current_dir = place.path("home/.config/naq");
    assert_eq!(place.load().unwrap().files.len(), 1);
}

#[test]
fn trust_is_for_the_file_as_it_is_where_it_is() {
    let evil = "concurrency = 2\nnats_server = \"bin/nats-server\"\nrun_as = \"root\"\n";
    let place = Place::new().file("here/naq.toml", evil);
    let said = place.error();
    assert!(
        said.ends_with("here/naq.toml:2: a file in the current folder sets `nats_server`, `run_as` only if it is trusted"),
        "{said}"
    );

    let trusted = trust_current_dir(&place.env).unwrap().unwrap();
    assert_eq!(trusted.settings, ["nats_server", "run_as"]);
    let settings = place.load().unwrap().settings;
    assert_eq!(
        settings.nats_server,
        Some(place.path("here/bin/nats-server"))
    );

    // A pull or an unpacked archive changes it.
    let place = place.file("here/naq.toml", &format!("{evil}prefix = \"x\"\n"));
    let said = place.error();
    assert!(said.contains("has changed since it was trusted"), "{said}");
    let mut place = place.file("here/naq.toml", evil);
    assert!(place.load().is_ok());

    // Relative paths in it depend on the folder: neither a copy nor a link elsewhere is trusted.
    fs::create_dir(place.path("there")).unwrap();
    std::os::unix::fs::symlink(place.path("here/naq.toml"), place.path("there/naq.toml")).unwrap();
    place.env.current_dir = place.path("there");
    assert!(matches!(place.load(), Err(ConfigError::Untrusted { .. })));
    place.env.current_dir = place.path("here");

    assert!(revoke_trust_of_current_dir(&place.env).unwrap());
    assert!(!revoke_trust_of_current_dir(&place.env).unwrap());
    assert!(matches!(place.load(), Err(ConfigError::Untrusted { .. })));
    // A file that is named needs no trust.
    let place = place.set("NAQ_CONFIG", "naq.toml");
    assert!(place.load().is_ok());
}

#[test]
fn no_file_in_the_current_folder_decides_where_trust_is_looked_up() {
    // What the file itself says about folders must not count.
    let place = Place::new();
    let folder = place.path("here/data");
    let text = format!("data_dir = {folder:?}\nnats_url = \"nats://evil\"\n");
    let place = place.file("here/naq.toml", &text);
    trust_current_dir(&place.env).unwrap().unwrap();
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::rename(place.path("home/.local/share/naq"), &folder).unwrap();
    assert!(matches!(place.load(), Err(ConfigError::Untrusted { .. })));
}

#[test]
fn config_trust_lets_the_program_obey_the_file_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let output = std::process::Command::new(naq())
            .args(args)
            .env_clear()
            .env("HOME", folder.path())
            .current_dir(folder.path())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, _, said) = run(&["config", "trust"]);
    assert_eq!(code, Some(4), "{said}");
    fs::write(folder.path().join("naq.toml"), "prefix = \"project\"\n").unwrap();
    let (code, _, said) = run(&["config"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("`prefix` only if it is trusted") && said.contains("`naq config trust`"),
        "{said}"
    );
    let (code, shown, said) = run(&["config", "trust"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        shown.ends_with("naq.toml  trusted, with prefix\n"),
        "{shown}"
    );
    let (_, shown, said) = run(&["config", "--json"]);
    assert!(shown.contains(r#""value":"project""#), "{shown}{said}");
    let (_, shown, _) = run(&["config", "trust", "--revoke", "--json"]);
    assert!(
        shown.contains(r#""action":"revoked","settings":[]"#),
        "{shown}"
    );
    let (code, _, _) = run(&["config"]);
    assert_eq!(code, Some(2));
}
