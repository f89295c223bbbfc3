//! `docker/`: what the image is built from and contains, and the services that it runs as. The image is
//! not built here.

use naq_client::config::SETTINGS;

use super::{assert_naq_accepts, file, path};

/// The instructions of a Dockerfile, each on one line.
fn instructions() -> Vec<String> {
    let text = file("docker/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn the_image_is_built_from_what_exists_and_has_certificates() {
    let instructions = instructions();
    let stages: Vec<_> = instructions
        .split(|line| line.starts_with("FROM "))
        .skip(1)
        .collect();
    let [build, image] = stages[..] else {
        panic!("one stage to build, one to keep");
    };
    // the oldest compiler that the manifest promises
    let manifest = file("Cargo.toml");
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"');
    assert!(
        instructions[0].starts_with(&format!("FROM rust:{rust}-")),
        "{}",
        instructions[0]
    );
    assert!(build.iter().any(|line| line == "COPY . ."), "{build:?}");
    assert!(
        build
            .iter()
            .any(|line| line.contains(" cargo build --profile dist --locked -p naq --bin naq ")),
        "{build:?}"
    );
    // of the sources nothing is left out but what is no source
    let ignored = file(".dockerignore");
    let ignored: Vec<_> = ignored.lines().collect();
    assert_eq!(ignored, [".git", ".github", "target", "**/target"]);
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "crates/naq/src/main.rs",
        "tests/main.rs",
    ] {
        assert!(path(needed).is_file(), "{needed}");
    }
    let copied: Vec<_> = image
        .iter()
        .filter_map(|line| line.strip_prefix("COPY "))
        .collect();
    assert_eq!(
        copied,
        [
            "--from=build /built/naq /usr/local/bin/naq",
            // where naq looks for it
            "--from=build /built/nats-server /usr/local/lib/naq/nats-server"
        ]
    );
    let installed = image
        .iter()
        .find_map(|line| line.split_once("apt-get install"))
        .map(|(_, packages)| packages.to_owned())
        .unwrap_or_default();
    for package in ["ca-certificates", "tzdata", "--no-install-recommends"] {
        assert!(
            installed.split(' ').any(|word| word == package),
            "not installed: {package}"
        );
    }
    assert!(image.iter().any(|line| line == "USER naq"), "jobs of root");
    let value = |name: &str| {
        let mut lines = image.iter().filter_map(|line| line.strip_prefix(name));
        lines.next_back().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(value("STOPSIGNAL"), "SIGTERM");
    assert_eq!(value("ENTRYPOINT"), r#"["naq"]"#);
    let command: Vec<String> = serde_json::from_str(&value("CMD")).unwrap();
    assert_naq_accepts(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let health = value("HEALTHCHECK");
    let (_, check) = health.split_once("CMD ").unwrap();
    let check: Vec<String> = serde_json::from_str(check).unwrap();
    assert_eq!(check, ["naq", "health", "worker"]);
    // the images of packaging/images are made of the same
    let images = file("packaging/images");
    assert!(
        images.contains("finish \"$worker\" worker worker "),
        "{images}"
    );
    let root = file("packaging/root");
    let base = instructions
        .iter()
        .rfind(|line| line.starts_with("FROM "))
        .unwrap();
    let release = base
        .strip_prefix("FROM debian:")
        .unwrap()
        .split('-')
        .next()
        .unwrap();
    assert!(
        root.contains(&format!("    {release} \"$1\"\n")),
        "{release}"
    );
}

/// The services of the compose file, and the lines of each.
fn services() -> Vec<(String, Vec<String>)> {
    let text = file("docker/docker-compose.yml");
    let (_, body) = text.split_once("\nservices:\n").unwrap();
    let mut services: Vec<(String, Vec<String>)> = Vec::new();
    for line in body
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with(' '))
    {
        let indent = line.len() - line.trim_start().len();
        match (indent, line.trim()) {
            (_, text) if text.is_empty() || text.starts_with('#') => {}
            (2, name) => services.push((name.trim_end_matches(':').to_owned(), Vec::new())),
            (_, text) => services.last_mut().unwrap().1.push(text.to_owned()),
        }
    }
    services
}

#[test]
fn the_services_are_a_server_a_worker_and_a_scheduler_that_naq_accepts() {
    let services = services();
    let names: Vec<_> = services.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["nats", "worker", "scheduler"]);
    for (name, lines) in &services[1..] {
        let value = |key: &str| {
            let mut lines = lines.iter().filter_map(|line| line.strip_prefix(key));
            lines.next().unwrap_or_default().trim().to_owned()
        };
        assert_eq!(value("dockerfile:"), "docker/Dockerfile", "{name}");
        assert_eq!(value("restart:"), "unless-stopped", "{name}");
        assert_eq!(value("condition:"), "service_healthy", "{name}");
        let command: Vec<String> = serde_json::from_str(&value("command:")).unwrap();
        assert_eq!(command[0], *name);
        assert_naq_accepts(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let variables: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.starts_with("NAQ_"))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(variables, ["NAQ_NATS_URL", "NAQ_TOKEN"], "{name}");
        for variable in variables {
            assert!(SETTINGS.iter().any(|setting| setting.variable == variable));
        }
    }
    let worker = services[1].1.join("\n");
    // orphans of killed jobs are reaped, and jobs may finish before the container is killed
    assert!(worker.contains("init: true") && worker.contains("stop_grace_period: 45s"));
}
