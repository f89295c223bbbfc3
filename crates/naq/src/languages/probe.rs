//! Whether a runner's program is on this machine, and its version.

use std::time::Duration;

use bytes::Bytes;

use super::catalog::{Language, Languages};
use super::invocation::arguments;
use super::template::Placeholders;
use naq_runner::{Command, Program, Runner, SourceProgram, Termination};

/// Number of bytes of a program's message that an error shows.
const MESSAGE_BYTES_MAX: usize = 200;

/// What a worker has of a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LanguageState {
    /// The program works. `None` if it does not say its version.
    Found(Option<String>),
    /// The program is nowhere.
    Absent,
    /// The program exists and does not work, or is too old: why.
    Broken(String),
}

/// How a probe runs that nobody waits for.
const NICE_IN_BACKGROUND: i32 = 19;

/// Runs the probe of a runner as a job would run. In the background, it gets only the processor time that
/// nothing else needs.
pub async fn check_language(
    runner: &Runner,
    languages: &Languages,
    language: &Language,
    in_background: bool,
) -> LanguageState {
    let probe = &language.manifest.probe;
    let program = Program::Source(SourceProgram {
        // It is not used: the arguments of a probe name no file.
        file_name: ".naq-probe".to_owned(),
        source: Bytes::new(),
        programs: language.programs_to_try(languages.variables()),
        args: arguments(&probe.argv, &Placeholders::default()),
    });
    let mut command = Command::new(format!("probe of {}", language.name()), program);
    command.timeout = Some(probe.timeout());
    command.kill_grace = Duration::from_secs(1);
    command.limits.nice = in_background.then_some(NICE_IN_BACKGROUND);
    let ended = runner.start_without_slot(command).wait().await;
    let printed = [ended.stdout.head.as_slice(), &ended.stderr.head].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    match ended.end {
        Termination::NotStarted(failure) if failure.step == "exec" => LanguageState::Absent,
        Termination::NotStarted(failure) => LanguageState::Broken(failure.message),
        // A shell that starts the program itself does not find it.
        Termination::Exited(127) => LanguageState::Absent,
        Termination::Exited(0) => judge(version(&printed), probe.at_least.as_deref()),
        _ if ended.stopped.is_some() => {
            LanguageState::Broken(format!("its probe did not end in {:?}", probe.timeout()))
        }
        Termination::Exited(code) => {
            LanguageState::Broken(format!("its probe exited with {code}: {}", shown(&printed)))
        }
        Termination::Signalled(signal) => {
            LanguageState::Broken(format!("signal {signal} ended its probe"))
        }
        Termination::SpawnerDied { .. } => LanguageState::Broken("its spawner died".to_owned()),
    }
}

/// The state of a program that printed this version.
fn judge(version: Option<String>, at_least: Option<&str>) -> LanguageState {
    match (&version, at_least) {
        (Some(found), Some(least)) if numbers(found) < numbers(least) => {
            LanguageState::Broken(format!("version {found}, and the runner needs {least}"))
        }
        _ => LanguageState::Found(version),
    }
}

/// The first version in a text: digits, at least one dot between them; else the first number.
fn version(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let words = || {
        text.split(|c: char| !is_part(c))
            .map(|word| word.trim_matches('.'))
            .filter(|word| !word.is_empty())
    };
    words()
        .find(|word| word.contains('.'))
        .or_else(|| words().next())
        .map(str::to_owned)
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

/// The beginning of a program's message, in one line.
fn shown(text: &str) -> String {
    let line = text.trim().replace('\n', " ");
    line.chars().take(MESSAGE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, found) in [
            ("3.12.3\n", Some("3.12.3")),
            ("v20.20.2", Some("20.20.2")),
            ("PHP 8.2.29 (cli) (built: Jul 2025) 1.2", Some("8.2.29")),
            ("openjdk 17", Some("17")),
            ("go version go1.19.8 linux/amd64", Some("1.19.8")),
            ("none", None),
        ] {
            assert_eq!(version(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn an_old_program_is_named_with_what_is_needed() {
        assert_eq!(
            judge(Some("3.10.1".to_owned()), Some("3.9")),
            LanguageState::Found(Some("3.10.1".to_owned()))
        );
        let LanguageState::Broken(why) = judge(Some("3.8".to_owned()), Some("3.9")) else {
            panic!("it is too old")
        };
        assert!(why.contains("3.8") && why.contains("3.9"));
    }
}
