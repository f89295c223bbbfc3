//! Settings: layers, sources, contexts, mistakes and the documented table.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use naq_client::config::{
    ConfigError, FlagScope, Flags, LogFormat, ProcessEnv, REMOVED, Resolved, SETTINGS, Source,
    Warning, load, settings_markdown, trust_current_dir,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::harness::generated_file::assert_is_generated;
use crate::harness::nats::naq;

mod credentials;
mod files;
mod trust;

/// An environment with a home folder and a current folder of its own.
struct Place {
    folder: TempDir,
    env: ProcessEnv,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().unwrap();
        for name in ["home", "here"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let env = ProcessEnv {
            environment: BTreeMap::new(),
            current_dir: folder.path().join("here"),
            system_dir: Some(folder.path().join("etc/naq")),
            home: Some(folder.path().join("home")),
            uid: nix::unistd::getuid().as_raw(),
            processors: 4,
            ignored_folders: Vec::new(),
        };
        Place { folder, env }
    }

    fn set(mut self, name: &str, value: &str) -> Place {
        self.env
            .environment
            .insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(self, path: &str, text: &str) -> Place {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    /// A `naq.toml` in the current folder that the user trusts.
    fn trusted(self, text: &str) -> Place {
        let place = self.file("here/naq.toml", text);
        trust_current_dir(&place.env).unwrap().unwrap();
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<Resolved, ConfigError> {
        self.load_with(&Flags::default())
    }

    fn load_with(&self, flags: &Flags) -> Result<Resolved, ConfigError> {
        load(&self.env, flags)
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn a_higher_layer_overrides_a_lower_one() {
    let place = Place::new();
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.default_queue, "default");
    assert_eq!(resolved.source("default_queue"), Source::Default);

    let place = place.file("here/naq.toml", "# mine\n\ndefault_queue = \"file\"\n");
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.default_queue, "file");
    let source = resolved.source("default_queue");
    assert_eq!(
        source,
        Source::File {
            path: place.path("here/naq.toml"),
            line: 3
        }
    );
    assert!(source.to_string().ends_with("here/naq.toml:3"), "{source}");

    let place = place.set("NAQ_DEFAULT_QUEUE", "variable");
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.default_queue, "variable");
    assert_eq!(
        resolved.source("default_queue"),
        Source::Variable("NAQ_DEFAULT_QUEUE")
    );

    let resolved = place
        .load_with(&Flags::default().with("default_queue", "flag"))
        .unwrap();
    assert_eq!(resolved.settings.default_queue, "flag");
    assert_eq!(
        resolved.source("default_queue").to_string(),
        "--default-queue"
    );

    // An empty variable counts as unset.
    let resolved = place.set("NAQ_DEFAULT_QUEUE", "").load().unwrap();
    assert_eq!(resolved.settings.default_queue, "file");
}

#[test]
fn every_kind_of_value_is_read_from_a_file() {
    let place = Place::new().trusted(
        r#"
nats_url = "nats://a:4222,nats://b:4222"
default_result_ttl = "2d"
worker_ttl = 20
connect_timeout = 0.25
memory = "1.5G"
concurrency = 0x10
allow_insecure = true
log_format = "json"
log_level = "WARNING"
allow_env = ["LD_PRELOAD", "PYTHONPATH"]
workdir = "jobs"
creds = "~/me.creds"
secrets_dir = "/run/secrets"

[worker_labels]
arch = "arm"
zone = "eu"
"#,
    );
    let resolved = place.load().unwrap();
    let settings = resolved.settings;
    assert!(resolved.nats_configured);
    assert_eq!(
        settings.nats_url.as_deref(),
        Some("nats://a:4222,nats://b:4222")
    );
    assert_eq!(settings.default_result_ttl, Duration::from_secs(2 * 86_400));
    assert_eq!(settings.worker_ttl, Duration::from_secs(20));
    assert_eq!(settings.connect_timeout, Duration::from_millis(250));
    assert_eq!(settings.memory, Some(3 << 29));
    assert_eq!(settings.concurrency, 16);
    assert!(settings.allow_insecure);
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.log_level, "warn");
    assert_eq!(settings.allow_env, ["LD_PRELOAD", "PYTHONPATH"]);
    // Relative to the file, not to the current folder.
    assert_eq!(settings.workdir, Some(place.path("here/jobs")));
    assert_eq!(settings.creds, Some(place.path("home/me.creds")));
    assert_eq!(
        settings.secrets_dir.as_deref(),
        Some(Path::new("/run/secrets"))
    );
    assert_eq!(
        settings.worker_labels.get("arch").map(String::as_str),
        Some("arm")
    );
}

#[test]
fn every_kind_of_value_is_read_from_variables_and_flags() {
    let place = Place::new()
        .set("NAQ_DEFAULT_RESULT_TTL", "604800")
        .set("NAQ_WORKER_TTL", "60")
        .set("NAQ_WORKER_HEARTBEAT_INTERVAL", "15")
        .set("NAQ_DEFAULT_ACK_WAIT", "1m30s")
        .set("NAQ_LOG_TO_FILE_ENABLED", "True")
        .set("NAQ_LOG_FILE_PATH", "~/naq.log")
        .set("NAQ_LOG_LEVEL", "CRITICAL")
        .set("NAQ_ALLOW_ENV", "A, B,,C")
        .set("NAQ_WORKER_LABELS", "arch=arm,zone=eu=1");
    let flags = Flags::default()
        .with("worker_labels", "gpu=yes")
        .with("worker_labels", "arch=x86")
        .with("timeout", "1s")
        .with("timeout", "5m")
        .with_optional("memory", Some("64K"))
        .with_optional("workdir", None::<String>);
    let settings = place.load_with(&flags).unwrap().settings;
    assert_eq!(settings.default_result_ttl, Duration::from_secs(604_800));
    assert_eq!(settings.worker_heartbeat_interval, Duration::from_secs(15));
    assert_eq!(settings.ack_wait, Duration::from_secs(90));
    assert!(settings.log_to_file_enabled);
    assert_eq!(settings.log_file_path, place.path("home/naq.log"));
    assert_eq!(settings.log_level, "error");
    assert_eq!(settings.allow_env, ["A", "B", "C"]);
    let labels: Vec<_> = settings.worker_labels.into_iter().collect();
    assert_eq!(
        labels,
        [("arch".into(), "x86".into()), ("gpu".into(), "yes".into())]
    );
    assert_eq!(settings.timeout, Some(Duration::from_secs(300)));
    assert_eq!(settings.memory, Some(65_536));
    let settings = place.load().unwrap().settings;
    assert_eq!(settings.worker_labels["zone"], "eu=1");
}

#[test]
fn the_settings_file_is_found_in_four_places() {
    let system = "prefix = \"machine\"\ndefault_queue = \"machine\"";
    let place = Place::new().file("etc/naq/naq.toml", system);
    assert_eq!(place.load().unwrap().settings.prefix, "machine");
    let place = place.file("home/.config/naq/naq.toml", "prefix = \"users\"");
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.prefix, "users");
    // what a higher file does not set comes from the lower one
    assert_eq!(resolved.settings.default_queue, "machine");
    let both = ["etc/naq/naq.toml", "home/.config/naq/naq.toml"];
    assert_eq!(resolved.files, both.map(|file| place.path(file)));
    let place = place.trusted("prefix = \"here\"");
    assert_eq!(place.load().unwrap().settings.prefix, "here");
    let place = place
        .file("else/where.toml", "prefix = \"named\"")
        .set("NAQ_CONFIG", "../else/where.toml");
    assert_eq!(place.load().unwrap().settings.prefix, "named");
    let flags = Flags::default().with_config_file(Some(place.path("home/.config/naq/naq.toml")));
    let resolved = place.load_with(&flags).unwrap();
    assert_eq!(resolved.settings.prefix, "users");
    assert_eq!(resolved.files, [place.path("home/.config/naq/naq.toml")]);

    let place = place.set("NAQ_CONFIG", "absent.toml");
    let text = place.error();
    assert!(
        text.contains("absent.toml (from NAQ_CONFIG): No such file"),
        "{text}"
    );
    let place = Place::new().file("xdg/naq/naq.toml", "prefix = \"xdg\"");
    let xdg = place.path("xdg");
    let place = place.set("XDG_CONFIG_HOME", xdg.to_str().unwrap());
    assert_eq!(place.load().unwrap().settings.prefix, "xdg");
}

#[test]
fn mistakes_in_a_file_are_reported_with_their_place() {
    let report = |text: &str| Place::new().file("here/naq.toml", text).error();
    for (text, expected) in [
        (
            "\nconcurency = 3",
            "naq.toml:2: unknown setting `concurency`; did you mean `concurrency`?",
        ),
        ("frobnicate = 3", "naq.toml:1: unknown setting `frobnicate`"),
        (
            "prefix = \"naq\"\nworker_ttl = \"5 parsecs\"",
            "naq.toml:2: worker_ttl: ",
        ),
        ("worker_ttl = -1", "naq.toml:1: worker_ttl: -1 "),
        ("worker_ttl = nan", "naq.toml:1: worker_ttl: "),
        ("worker_ttl = 1e20", "out of range"),
        (
            "worker_ttl = \"10ms\"",
            "10ms is too short; the minimum is 1s",
        ),
        ("memory = -5", "naq.toml:1: memory: -5 is negative"),
        (
            "concurrency = \"many\"",
            "concurrency: expected a whole number without quotes, found a string",
        ),
        (
            "concurrency = 0",
            "concurrency: 0 is too small; the minimum is 1",
        ),
        (
            "allow_insecure = \"yes\"",
            "allow_insecure: expected true or false",
        ),
        (
            "log_level = \"loud\"",
            "\"loud\" is not one of off, error, warn, info, debug, trace",
        ),
        (
            "prefix = \"a.b\"",
            "\"a.b\" cannot be a prefix: it has a dot",
        ),
        ("prefix = \"naq_queue\"", "leave `_queue` out"),
        ("prefix = \"\"", "it is empty"),
        (
            "creds = 3",
            "creds: expected a string, found a whole number",
        ),
        (
            "allow_env = \"A\"",
            "allow_env: expected an array of strings",
        ),
        ("allow_env = [3]", "expected only strings as items"),
        (
            "worker_labels = { a = 1 }",
            "expected only strings as labels",
        ),
        ("[nats]\nurl = \"x\"", "naq.toml:1: unknown setting `nats`"),
        ("prefix = \"a\"\nprefix = \"b\"", "naq.toml:2:"),
        ("prefix = \"a\"\nuser = ", "naq.toml:2:"),
        ("prefix = \"bell\\u0007\\n\"", "line break"),
    ] {
        let said = report(text);
        assert!(
            said.contains(expected),
            "{text:?} gave {said:?}, without {expected:?}"
        );
        assert!(!said.contains('\n'), "{said:?}");
    }
}

#[test]
fn a_mistake_in_a_variable_or_flag_names_it() {
    let said = Place::new().set("NAQ_WORKER_TTL", "soon").error();
    assert!(
        said.starts_with("NAQ_WORKER_TTL: worker_ttl: `soon` is not a duration"),
        "{said}"
    );
    let said = Place::new().set("NAQ_CREDS", "a\u{fffd}b").error();
    assert!(said.contains("not UTF-8"), "{said}");
    let flags = Flags::default().with("memory", "lots");
    let said = Place::new().load_with(&flags).unwrap_err().to_string();
    assert!(said.starts_with("--memory: memory: `lots`"), "{said}");
    let flags = Flags::default().with("worker_labels", "plain");
    let said = Place::new().load_with(&flags).unwrap_err().to_string();
    assert!(said.contains("write key=value"), "{said}");
    let flags = Flags::default().with("no_such", "1");
    assert!(matches!(
        Place::new().load_with(&flags),
        Err(ConfigError::UnknownSetting { .. })
    ));
    let said = Place::new().set("NAQ_WORKER_TTL", "5").error();
    assert!(
        said.contains("worker_heartbeat_interval (default) and worker_ttl (NAQ_WORKER_TTL)"),
        "{said}"
    );
    let said = Place::new().set("NAQ_TLS_CERT", "x").error();
    assert!(
        said.contains("tls_cert (NAQ_TLS_CERT) and tls_key"),
        "{said}"
    );
    let said = Place::new().set("NAQ_USER", "me").error();
    assert!(said.contains("a user name needs a password"), "{said}");
}

#[test]
fn misspelt_and_removed_variables_are_reported() {
    let place = Place::new()
        .set("NAQ_NATS_ULR", "nats://x")
        .set("NAQ_JOB_SERIALIZER", "json")
        .set("NAQ_EVENTS_ENABLED", "true")
        .set("NAQ_QUEUE", "q")
        .set("NATS_URL", "x");
    let warnings = place.load().unwrap().warnings;
    let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings
            .iter()
            .filter(|w| matches!(w, Warning::RemovedVariable { .. }))
            .count(),
        2
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("NAQ_NATS_ULR")
                && text.contains("did you mean `NAQ_NATS_URL`?")),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(
            |text| text.contains("NAQ_JOB_SERIALIZER has no effect: envelopes are always JSON")
        ),
        "{texts:?}"
    );
    assert_eq!(
        warnings
            .iter()
            .filter(|warning| warning.is_shown_at_startup())
            .count(),
        2
    );
    // Inside a job, its own variables are not mistakes.
    let warnings = place.set("NAQ_JOB_ID", "j").load().unwrap().warnings;
    assert!(
        !warnings
            .iter()
            .any(|warning| warning.to_string().contains("NAQ_QUEUE"))
    );
}

#[test]
fn secrets_are_never_displayed() {
    let place = Place::new().trusted(
        "nats_url = \"nats://me:hunter2@a:4222,tls://hunter2@b\"\nuser = \"me\"\npassword = \"hunter2\"",
    );
    fs::set_permissions(
        place.path("here/naq.toml"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let resolved = place.load().unwrap();
    assert_eq!(
        resolved.settings.password.as_ref().unwrap().expose(),
        "hunter2"
    );
    let shown: Vec<String> = resolved
        .entries
        .iter()
        .map(|entry| entry.display_value())
        .collect();
    assert!(!shown.concat().contains("hunter2"), "{shown:?}");
    assert!(
        shown.contains(&"nats://(hidden)@a:4222,tls://(hidden)@b".to_owned()),
        "{shown:?}"
    );
    assert!(!format!("{:?}", resolved.settings.password).contains("hunter2"));
    let flags = Flags::default().with("token", "hunter2");
    assert!(!format!("{flags:?}").contains("hunter2"));
    assert!(
        resolved
            .warnings
            .iter()
            .any(|warning| matches!(warning, Warning::ReadableByOthers { .. }))
    );
}

const CONTEXT: &str = r#"{
  "description": "production", "url": "tls://prod:4222", "token": "", "user": "", "password": "",
  "creds": "~/prod.creds", "nkey": "", "cert": "", "key": "", "ca": "/etc/prod.pem", "nsc": "",
  "jetstream_domain": "hub", "inbox_prefix": "_INBOX.me", "user_jwt": "", "color_scheme": ""
}"#;

#[test]
fn a_context_ranks_just_below_the_place_that_names_it() {
    let place = Place::new()
        .file("home/.config/nats/context/prod.json", CONTEXT)
        .file("home/.config/nats/context.txt", "prod\n")
        .trusted("nats_url = \"nats://file\"\ntoken = \"files\"\n");
    // The selected context is only used if it is named.
    let resolved = place.load().unwrap();
    assert_eq!(resolved.settings.nats_url.as_deref(), Some("nats://file"));

    for name in ["prod", "@selected"] {
        let flags = Flags::default().with("context", name);
        let resolved = place.load_with(&flags).unwrap();
        let settings = &resolved.settings;
        assert_eq!(settings.nats_url.as_deref(), Some("tls://prod:4222"));
        assert_eq!(settings.creds, Some(place.path("home/prod.creds")));
        assert_eq!(settings.tls_ca.as_deref(), Some(Path::new("/etc/prod.pem")));
        assert_eq!(settings.jetstream_domain.as_deref(), Some("hub"));
        assert_eq!(settings.inbox_prefix.as_deref(), Some("_INBOX.me"));
        // The file's token belongs to the file's server.
        assert!(settings.token.is_none());
        assert!(resolved.nats_configured);
        assert!(
            resolved
                .source("nats_url")
                .to_string()
                .starts_with("context prod (")
        );
    }

    // Values from the same place override the context, and only one way to authenticate is used.
    let flags = Flags::default()
        .with("context", "prod")
        .with("nats_url", "nats://flag")
        .with("token", "flags");
    let settings = place.load_with(&flags).unwrap().settings;
    assert_eq!(settings.nats_url.as_deref(), Some("nats://flag"));
    assert_eq!(settings.token.unwrap().expose(), "flags");
    assert!(settings.creds.is_none());

    // A context named in the file ranks below a variable.
    let place = place
        .trusted("context = \"prod\"")
        .set("NAQ_INBOX_PREFIX", "_INBOX.variable");
    let settings = place.load().unwrap().settings;
    assert_eq!(settings.nats_url.as_deref(), Some("tls://prod:4222"));
    assert_eq!(settings.inbox_prefix.as_deref(), Some("_INBOX.variable"));
    assert!(settings.creds.is_some());
}

#[test]
fn an_invalid_context_is_reported() {
    let place = Place::new()
        .file("home/.config/nats/context/broken.json", "{\"url\": ")
        .file(
            "home/.config/nats/context/nsc.json",
            r#"{"url":"nats://x","nsc":"nsc://a/b/c"}"#,
        );
    let said = |name: &str| {
        place
            .load_with(&Flags::default().with("context", name))
            .unwrap_err()
            .to_string()
    };
    assert!(said("absent").contains("(--context)"), "{}", said("absent"));
    assert!(said("absent").contains("absent.json: No such file"));
    assert!(said("broken").contains("broken.json: EOF"));
    assert!(said("../../etc").contains("not a valid name of a context"));
    assert!(said("@selected").contains("no context is selected"));
    let resolved = place
        .load_with(&Flags::default().with("context", "nsc"))
        .unwrap();
    assert!(
        resolved
            .warnings
            .iter()
            .any(|warning| matches!(warning, Warning::UnusedContextField { field: "nsc", .. }))
    );
}

#[test]
fn two_ways_to_authenticate_in_one_layer_are_rejected() {
    let place = Place::new().set("NAQ_TOKEN", "a").set("NAQ_CREDS", "b");
    let said = place.error();
    assert!(
        said.contains("creds (NAQ_CREDS) and token (NAQ_TOKEN)"),
        "{said}"
    );
    // In different layers, the higher one wins.
    let settings = place
        .set("NAQ_CREDS", "")
        .load_with(&Flags::default().with("creds", "b"))
        .unwrap()
        .settings;
    assert!(settings.token.is_none() && settings.creds.is_some());
}

#[test]
fn any_setting_about_nats_means_that_nats_is_configured() {
    assert!(!Place::new().load().unwrap().nats_configured);
    let about_others = Place::new().set("NAQ_PREFIX", "x").set("NAQ_REPLICAS", "3");
    assert!(!about_others.load().unwrap().nats_configured);
    for settings in [
        &[("creds", "a")][..],
        &[("nkey", "a")],
        &[("user", "a"), ("password", "b")],
        &[("token", "a")],
        &[("tls_ca", "a")],
        &[("tls_cert", "a"), ("tls_key", "b")],
        &[("inbox_prefix", "a")],
        &[("jetstream_domain", "a")],
    ] {
        let mut by_flag = Flags::default();
        let (mut by_variable, mut by_file) = (Place::new(), String::new());
        for (name, value) in settings {
            let setting = SETTINGS.iter().find(|row| row.name == *name).unwrap();
            by_flag = by_flag.with(name, *value);
            by_variable = by_variable.set(setting.variable, value);
            by_file.push_str(&format!("{name} = {value:?}\n"));
        }
        for resolved in [
            Place::new().load_with(&by_flag).unwrap(),
            by_variable.load().unwrap(),
            Place::new().trusted(&by_file).load().unwrap(),
        ] {
            assert!(resolved.nats_configured, "{settings:?}");
            assert!(resolved.is_address_missing(), "{settings:?}");
        }
        let with_address = by_flag.with("nats_url", "nats://a");
        let resolved = Place::new().load_with(&with_address).unwrap();
        assert!(!resolved.is_address_missing(), "{settings:?}");
    }
}

#[test]
fn without_a_home_folder_there_are_still_data_and_cache_folders() {
    let mut place = Place::new();
    place.env.home = None;
    let settings = place.load().unwrap().settings;
    assert!(settings.data_dir.is_absolute() && settings.cache_dir.is_absolute());
    assert_ne!(settings.data_dir, settings.cache_dir);
}

#[test]
fn the_settings_page_matches_the_table() {
    assert_is_generated("docs/settings.md", &settings_markdown(), "settings_page");
}

/// Whether the `--help` of a verb lists a flag.
fn lists_flag(help: &str, flag: &str) -> bool {
    help.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with('-') && line.split([' ', ',', '=', '.']).any(|word| word == flag)
    })
}

#[test]
fn the_verbs_have_the_flags_of_the_settings_table() {
    let help = |verb: &str| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the program's own help is what the test reads"
        )]
        let output = std::process::Command::new(naq())
            .args([verb, "--help"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (worker, status) = (help("worker"), help("status"));
    for setting in SETTINGS {
        let flag = setting.flag();
        let everywhere = setting.flag_scope == FlagScope::EveryVerb;
        assert_eq!(lists_flag(&status, &flag), everywhere, "{flag} in status");
        let in_worker = !matches!(setting.flag_scope, FlagScope::None | FlagScope::Dashboard);
        assert_eq!(lists_flag(&worker, &flag), in_worker, "{flag} in worker");
    }
}

#[test]
fn removed_variables_are_not_settings_and_name_existing_ones() {
    for (name, instead) in REMOVED {
        assert!(
            SETTINGS.iter().all(|setting| setting.variable != *name),
            "{name} is a setting"
        );
        for word in instead.split([' ', ',']).filter(|w| w.starts_with("NAQ_")) {
            assert!(
                SETTINGS.iter().any(|setting| setting.variable == word),
                "{name} names {word}, which is not a setting"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_text_in_a_file_panics(text in "(?s).{0,200}", key in 0..SETTINGS.len()) {
        let place = Place::new().file("here/naq.toml", &text);
        let _any = place.load();
        let place = place.file("here/naq.toml", &format!("{} = {text}", SETTINGS[key].name));
        let _any = place.load();
    }

    #[test]
    fn a_variable_is_accepted_or_rejected_by_name(text in "\\PC{1,40}", index in 0..SETTINGS.len()) {
        let setting = &SETTINGS[index];
        let place = Place::new().set(setting.variable, &text);
        match place.load() {
            Ok(resolved) => {
                let source = resolved.source(setting.name);
                prop_assert_eq!(source, Source::Variable(setting.variable));
            }
            Err(ConfigError::Conflict { one, other, .. }) => {
                prop_assert!(one == setting.name || other == setting.name);
            }
            Err(error) => prop_assert!(error.to_string().contains(setting.variable), "{}", error),
        }
    }

    #[test]
    fn a_displayed_value_parses_to_the_same(seconds in 1_u32..10_000_000, bytes in 0_u64..1 << 50) {
        let given = Flags::default().with("timeout", seconds.to_string()).with("memory", bytes.to_string());
        let place = Place::new();
        let first = place.load_with(&given).unwrap();
        let shown = |name: &str| first.entries.iter().find(|e| e.setting.name == name).unwrap().display_value();
        let again = Flags::default().with("timeout", shown("timeout")).with("memory", shown("memory"));
        let second = place.load_with(&again).unwrap();
        prop_assert_eq!(first.settings.timeout, second.settings.timeout);
        prop_assert_eq!(second.settings.memory, Some(bytes));
    }
}
