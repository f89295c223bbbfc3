//! The commands that the modules of `examples/functions` show print what they show.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use super::{command, example};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// After the output of each command, with its exit code.
const MARK: char = '\u{1e}';

/// The commands of a module's documentation, each with what it prints.
fn steps(module: &str) -> Vec<(&str, String)> {
    let documentation = module.split("\"\"\"").nth(1).unwrap();
    let mut steps: Vec<(&str, String)> = Vec::new();
    for line in documentation.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command, String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
            }
            (None, None) => panic!("not a command: {line}"),
        }
    }
    steps
}

/// Runs the commands of a module in one shell, in that folder.
fn assert_prints(naq: &Naq, folder: &Path, name: &str) {
    let module = std::fs::read_to_string(folder.join(name)).unwrap();
    let steps = steps(&module);
    assert!(!steps.is_empty(), "{name} shows no command");
    let mut script = "exec 2>&1\n".to_owned();
    for (command, _) in &steps {
        script.push_str(&format!("{command}\nprintf '%s\\036' \"$?\"\n"));
    }
    // but for PATH, which has the program `naq` here
    let environment = naq.environment().into_iter();
    let environment = environment.filter(|(name, _)| name != "PATH");
    let output = command("sh")
        .args(["-c", &script])
        .current_dir(folder)
        .envs(environment)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let parts: Vec<&str> = printed.split_terminator(MARK).collect();
    assert_eq!(parts.len(), steps.len(), "{name}: {printed}");
    for ((command, shown), part) in steps.iter().zip(parts) {
        // how long a verb waits, and so whether it says what for, depends on the machine
        let says_waiting = |line: &&str| line.starts_with("naq: waiting");
        let lines: Vec<&str> = part.lines().filter(|line| !says_waiting(line)).collect();
        assert_eq!(lines.join("\n"), format!("{shown}0"), "{name}: $ {command}");
    }
}

#[test]
fn each_function_of_the_examples_prints_what_its_module_says() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default", "mail", "video"]).spawn();
    let _scheduler = naq.cli(["scheduler"]).follow();
    // a copy: Python writes its cache next to the modules
    let folder = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(example("functions")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.ends_with(".py") {
            std::fs::copy(file.path(), folder.path().join(&name)).unwrap();
            names.push(name);
        }
    }
    assert_eq!(names.len(), 10, "{names:?}");
    for name in &names {
        assert_prints(&naq, folder.path(), name);
    }
}
