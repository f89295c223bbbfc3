//! Reads crontab files as Vixie cron and its descendants do.
//!
//! A line is empty, a comment, an assignment that applies to the lines below it, or five fields (or
//! a name such as `@daily`) and a command. The command is the rest of the line up to the first `%`.
//! The text after that is the command's standard input, in which each further `%` is a line break.
//! `\%` is a percent sign.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::schedule_file::{Diagnostic, FileSchedule, ScheduleFile};
use naq_client::{NewSchedule, Recurrence};
use naq_cron::Timezone;
use naq_protocol::{Envelope, QueueName, ScheduleId};
use naq_runner::is_env_denied;

/// How a crontab is read.
#[derive(Debug)]
pub(super) struct CrontabOptions<'o> {
    /// The queue of the jobs of lines without a user.
    pub(super) queue: &'o QueueName,
    /// The time zone of lines for which the file sets none.
    pub(super) zone: Timezone,
    /// Whether lines have a user between the fields and the command, as in `/etc/crontab`.
    pub(super) is_system: bool,
    /// The queues of users' jobs.
    pub(super) user_queues: &'o BTreeMap<String, QueueName>,
}

/// The shell of commands for which the file sets no `SHELL`.
const SHELL: &str = "/bin/sh";

/// Variables that are settings of cron and are not passed to jobs.
const CRON_ONLY_VARIABLES: [&str; 6] = [
    "CRON_TZ",
    "RANDOM_DELAY",
    "MAILTO",
    "MAILFROM",
    "CONTENT_TYPE",
    "CONTENT_TRANSFER_ENCODING",
];

/// The assignments so far, which apply to the lines below them.
struct Settings {
    variables: BTreeMap<String, String>,
    zone: Timezone,
    jitter: Option<Duration>,
}

/// Reads a crontab.
pub(super) fn read(text: &str, options: &CrontabOptions) -> ScheduleFile {
    let mut file = ScheduleFile::default();
    let mut settings = Settings {
        variables: BTreeMap::new(),
        zone: options.zone,
        jitter: None,
    };
    // How often each command has occurred so far.
    let mut commands: HashMap<String, usize> = HashMap::new();
    let mut names: HashSet<ScheduleId> = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let read = match assignment(line) {
            Some((name, value)) => settings
                .assign(&name, value, options.zone)
                .map(|warning| file.warnings.extend(warning_at(number, warning))),
            None => entry(line, options.is_system)
                .and_then(|entry| {
                    let occurrence = commands.entry(entry.key()).or_default();
                    *occurrence += 1;
                    let name = name(&entry, *occurrence, &mut names);
                    file_schedule(&entry, name, number, &settings, options)
                })
                .map(|file_schedule| file.schedules.push(file_schedule)),
        };
        if let Err(problem) = read {
            file.problems.push(Diagnostic::new(number, problem));
        }
    }
    file
}

fn warning_at(line: usize, text: Option<String>) -> Option<Diagnostic> {
    text.map(|text| Diagnostic::new(line, text))
}

impl Settings {
    /// Applies an assignment. Returns a warning if the user may expect something else of it.
    fn assign(
        &mut self,
        name: &str,
        value: String,
        zone: Timezone,
    ) -> Result<Option<String>, String> {
        let mut warning = None;
        match name {
            "CRON_TZ" if value.is_empty() => self.zone = zone,
            "CRON_TZ" => {
                self.zone = value
                    .parse()
                    .map_err(|bad: naq_cron::TimezoneError| format!("CRON_TZ: {bad}"))?;
            }
            "RANDOM_DELAY" => {
                let minutes: u64 = value
                    .parse()
                    .map_err(|_| "RANDOM_DELAY: it must be a whole number of minutes".to_owned())?;
                self.jitter = (minutes > 0).then(|| Duration::from_secs(minutes * 60));
            }
            "MAILTO" if !value.is_empty() => {
                warning = Some(
                    "MAILTO: naq sends no mail; `naq events` with --exec or --webhook reports jobs that fail"
                        .to_owned(),
                );
            }
            "TZ" => {
                warning = Some(
                    "TZ: it is passed to the jobs and, as in cron, does not change when they run; CRON_TZ does"
                        .to_owned(),
                );
            }
            name if is_env_denied(name, &[]) => {
                warning = Some(format!(
                    "{name}: workers refuse it unless they are started with --allow-env {name}"
                ));
            }
            _ => {}
        }
        if !CRON_ONLY_VARIABLES.contains(&name) {
            self.variables.insert(name.to_owned(), value);
        }
        Ok(warning)
    }
}

/// Parses `NAME = VALUE`, in which either may be in quotes. Returns `None` for a line of another
/// form. A value is literal: `$NAME` in it is not expanded.
fn assignment(line: &str) -> Option<(String, String)> {
    let (name, rest) = match line.chars().next()? {
        quote @ ('"' | '\'') => line[1..].split_once(quote)?,
        _ => {
            let end = line.find(['=', ' ', '\t'])?;
            line.split_at(end)
        }
    };
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return None;
    }
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let value = value.trim_matches([' ', '\t']);
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) if value.len() > 1 && value.ends_with(quote) => {
            &value[1..value.len() - 1]
        }
        _ => value,
    };
    Some((name.to_owned(), value.to_owned()))
}

/// A line with a command.
struct Entry<'l> {
    expression: String,
    user: Option<&'l str>,
    command: String,
    stdin: Option<String>,
}

impl Entry<'_> {
    /// User, command and input: what is run, regardless of when.
    fn key(&self) -> String {
        let user = self.user.unwrap_or_default();
        let stdin = self.stdin.as_deref().unwrap_or_default();
        [user, &self.command, stdin].join("\0")
    }
}

/// Takes the next word off a line.
fn take_word<'l>(line: &mut &'l str) -> Option<&'l str> {
    let blank = [' ', '\t'];
    let text = line.trim_start_matches(blank);
    let end = text.find(blank).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    *line = rest.trim_start_matches(blank);
    (!word.is_empty()).then_some(word)
}

fn entry(line: &str, is_system: bool) -> Result<Entry<'_>, String> {
    // With a dash before the first field, some crons do not log the line.
    let mut rest = match line.strip_prefix('-') {
        Some(quiet) if quiet.starts_with(|c: char| c.is_ascii_digit() || c == '*' || c == '@') => {
            quiet
        }
        _ => line,
    };
    let fields = if rest.starts_with('@') { 1 } else { 5 };
    let mut words = Vec::with_capacity(fields);
    for _ in 0..fields {
        words.extend(take_word(&mut rest));
    }
    let user = if is_system {
        Some(take_word(&mut rest).unwrap_or_default())
    } else {
        None
    };
    if rest.is_empty() {
        return Err(match user {
            Some(_) => {
                "no command: a line is five fields (or a name such as @daily), a user and a command"
            }
            None => "no command: a line is five fields (or a name such as @daily) and a command",
        }
        .to_owned());
    }
    let (command, stdin) = split_input(rest);
    if command.trim().is_empty() {
        return Err("no command before the first %".to_owned());
    }
    Ok(Entry {
        expression: words.join(" "),
        user,
        command,
        stdin,
    })
}

/// Splits a line into the command before the first `%` and the standard input after it.
fn split_input(text: &str) -> (String, Option<String>) {
    let mut command = String::with_capacity(text.len());
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '%' if escaped => {
                // It replaces the backslash.
                command.pop();
                command.push(c);
            }
            '%' => return (command, Some(input(&text[at + 1..]))),
            c => command.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    (command, None)
}

/// Decodes the standard input: each `%` is a line break, and it ends with one.
fn input(text: &str) -> String {
    let mut stdin = String::with_capacity(text.len() + 1);
    let mut escaped = false;
    for c in text.chars() {
        if escaped && c != '%' {
            stdin.push('\\');
        }
        if !escaped && c == '%' {
            stdin.push('\n');
        } else if c != '\\' {
            stdin.push(c);
        }
        escaped = c == '\\';
    }
    if escaped {
        stdin.push('\\');
    }
    if !stdin.is_empty() && !stdin.ends_with('\n') {
        stdin.push('\n');
    }
    stdin
}

fn file_schedule(
    entry: &Entry,
    name: ScheduleId,
    line: usize,
    settings: &Settings,
    options: &CrontabOptions,
) -> Result<FileSchedule, String> {
    let queue = match entry.user {
        None => options.queue,
        Some(user) => options.user_queues.get(user).ok_or_else(|| {
            format!(
                "the line runs as the user `{user}`, but a worker runs all jobs as its own user; --user-queue {user}=QUEUE names a queue whose workers run as that user"
            )
        })?,
    };
    let variables = &settings.variables;
    let shell = variables.get("SHELL").map_or(SHELL, String::as_str);
    let mut envelope = Envelope::command(shell, ["-c", &entry.command]);
    envelope.stdin.clone_from(&entry.stdin);
    envelope.env.clone_from(variables);
    // Cron starts a command in the home folder of its user.
    envelope.cwd = variables.get("HOME").cloned();
    let cadence = Recurrence::Cron {
        expression: entry.expression.clone(),
        // Machines use either name for UTC.
        tz: match settings.zone.name() {
            "UTC" | "Etc/UTC" => None,
            name => Some(name.to_owned()),
        },
    };
    let mut new = NewSchedule::new(cadence, envelope);
    new.jitter = settings.jitter;
    new.schedule_id = Some(name);
    Ok(FileSchedule {
        line,
        field_lines: BTreeMap::new(),
        queue: queue.clone(),
        new,
    })
}

/// Returns a name that does not change when other lines or the line's own times change. If a
/// command occurs several times, the names of the second and later ones contain their times.
fn name(entry: &Entry, occurrence: usize, taken: &mut HashSet<ScheduleId>) -> ScheduleId {
    let program = entry
        .command
        .split_whitespace()
        .find(|word| !word.contains('='))
        .unwrap_or_default();
    let label = program.rsplit('/').next().unwrap_or_default();
    let mut of = entry.key();
    if occurrence > 1 {
        of.push_str(&format!("\0{}\0{occurrence}", entry.expression));
    }
    loop {
        let name = ScheduleId::derived(label, of.as_bytes());
        // Two of very many lines of one program may have the same name.
        if taken.insert(name.clone()) {
            return name;
        }
        of.push('\0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::Timestamp;
    use proptest::prelude::*;

    fn read_with(text: &str, is_system: bool) -> ScheduleFile {
        let user_queues = BTreeMap::from([("root".to_owned(), QueueName::new("roots").unwrap())]);
        read(
            text,
            &CrontabOptions {
                queue: &QueueName::new("default").unwrap(),
                zone: "Europe/Berlin".parse().unwrap(),
                is_system,
                user_queues: &user_queues,
            },
        )
    }

    fn file(text: &str) -> ScheduleFile {
        read_with(text, false)
    }

    fn one(line: &str) -> NewSchedule {
        let file = file(line);
        assert_eq!(file.problems, [], "{line}");
        file.schedules.into_iter().next().unwrap().new
    }

    fn command_and_input(line: &str) -> (String, Option<String>) {
        let envelope = one(line).envelope;
        (envelope.command_args()[1].clone(), envelope.stdin)
    }

    fn now() -> Timestamp {
        "2026-12-24T17:00:00Z".parse().unwrap()
    }

    #[test]
    fn crontab_is_read_as_cron_reads_it() {
        let file = file(
            r#"# m h  dom mon dow   command
SHELL=/bin/bash
PATH = /usr/local/bin:/usr/bin:/bin
  HOME="/srv/back up"
MAILTO=""
'GREETING' = ' hello '
EMPTY=

17 *	* * *   cd / && run-parts --report /etc/cron.hourly
*/10 9-17 * * MON-FRI  ./poll.sh -q   # not a comment
CRON_TZ=America/New_York
RANDOM_DELAY=15
SHELL=/bin/zsh
	@daily	backup "$GREETING" $((1 + 2))
-5 4 1 1 * quiet
"#,
        );
        assert_eq!(file.problems, []);
        assert_eq!(file.warnings, []);
        let [hourly, poll, daily, quiet] = &file.schedules[..] else {
            panic!("{file:#?}");
        };
        assert_eq!(hourly.line, 9);
        let envelope = &hourly.new.envelope;
        assert_eq!(
            envelope.summary(),
            "/bin/bash -c 'cd / && run-parts --report /etc/cron.hourly'"
        );
        assert_eq!(envelope.cwd.as_deref(), Some("/srv/back up"));
        let variables: Vec<_> = envelope
            .env
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            variables,
            [
                ("EMPTY", ""),
                ("GREETING", " hello "),
                ("HOME", "/srv/back up"),
                ("PATH", "/usr/local/bin:/usr/bin:/bin"),
                ("SHELL", "/bin/bash"),
            ]
        );
        let cron = |expression: &str, tz: &str| Recurrence::Cron {
            expression: expression.to_owned(),
            tz: Some(tz.to_owned()),
        };
        assert_eq!(hourly.new.recurrence, cron("17 * * * *", "Europe/Berlin"));
        assert_eq!(
            poll.new.recurrence,
            cron("*/10 9-17 * * MON-FRI", "Europe/Berlin")
        );
        assert_eq!(
            poll.new.envelope.command_args()[1],
            "./poll.sh -q   # not a comment"
        );
        assert_eq!(poll.new.jitter, None);
        assert_eq!(daily.new.recurrence, cron("@daily", "America/New_York"));
        assert_eq!(daily.new.jitter, Some(Duration::from_secs(900)));
        assert_eq!(daily.new.envelope.command.as_deref(), Some("/bin/zsh"));
        assert_eq!(quiet.new.recurrence, cron("5 4 1 1 *", "America/New_York"));
        for file_schedule in &file.schedules {
            file_schedule.schedule(now()).unwrap();
        }
    }

    /// As `cron_do_command` has it.
    #[test]
    fn a_percent_sign_ends_the_command() {
        for (line, command, stdin) in [
            ("* * * * * date +\\%F", "date +%F", None),
            ("* * * * * cat%one%two", "cat", Some("one\ntwo\n")),
            ("* * * * * cat%one%", "cat", Some("one\n")),
            ("* * * * * cat%", "cat", Some("")),
            ("* * * * * cat%10\\%%a\\b\\", "cat", Some("10%\na\\b\\\n")),
            ("* * * * * echo a\\b \\\\\\%", "echo a\\b \\\\%", None),
            ("* * * * * a=b cat", "a=b cat", None),
        ] {
            let (got, input) = command_and_input(line);
            assert_eq!((got.as_str(), input.as_deref()), (command, stdin), "{line}");
        }
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let file = file(
            "0 5 * * *\n@reboot x\n\n61 * * * * x\n* * * * x\nCRON_TZ=Berlin\nRANDOM_DELAY=1h\n@daily\n* * * * * %x\nMAILTO=me\nTZ=UTC\nLD_PRELOAD=x\n",
        );
        let mut problems: Vec<_> = file
            .problems
            .iter()
            .map(|one| (one.line, one.text.clone()))
            .collect();
        for file_schedule in &file.schedules {
            let problem = file_schedule.schedule(now()).unwrap_err();
            problems.push((problem.line, problem.text));
        }
        problems.sort();
        let expected = [
            (1, "no command"),
            (2, "@reboot is not supported"),
            (4, "minute (field 1)"),
            (5, "no command"),
            (6, "Europe/Berlin"),
            (7, "minutes"),
            (8, "no command"),
            (9, "before the first %"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for ((line, text), (expected_line, words)) in problems.iter().zip(expected) {
            assert_eq!(*line, expected_line, "{text}");
            assert!(text.contains(words), "{text}");
        }
        let warnings: Vec<_> = file
            .warnings
            .iter()
            .map(|one| (one.line, &*one.text))
            .collect();
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        assert!(warnings[0].1.contains("sends no mail") && warnings[0].0 == 10);
        assert!(warnings[1].1.contains("CRON_TZ does"));
        assert!(warnings[2].1.contains("--allow-env LD_PRELOAD"));
    }

    #[test]
    fn a_system_crontab_has_users() {
        let file = read_with(
            "25 6 * * * root run-parts /etc/cron.daily\n@daily www-data clean\n",
            true,
        );
        assert_eq!(file.schedules.len(), 1);
        assert_eq!(file.schedules[0].queue.as_str(), "roots");
        let new = &file.schedules[0].new;
        assert_eq!(new.envelope.command_args()[1], "run-parts /etc/cron.daily");
        assert_eq!(file.problems[0].line, 2);
        assert!(
            file.problems[0]
                .text
                .contains("--user-queue www-data=QUEUE")
        );
    }

    #[test]
    fn a_line_keeps_its_name_when_others_change() {
        let names = |text: &str| -> Vec<String> {
            let schedules = file(text).schedules.into_iter();
            schedules
                .map(|one| one.new.schedule_id.unwrap().to_string())
                .collect()
        };
        let both = names("0 5 * * * /opt/backup.sh --all\n0 6 * * * A=1 clean\n");
        assert!(both[0].starts_with("backup-sh-"), "{both:?}");
        assert!(both[1].starts_with("clean-"), "{both:?}");
        // other times, other lines, other variables
        let again =
            names("X=1\n0 6 * * * A=1 clean\n* * * * * more\n30 4 * * * /opt/backup.sh --all\n");
        assert_eq!([&again[2], &again[0]], [&both[0], &both[1]]);
        // the same several times
        let same = names("0 5 * * * x\n0 6 * * * x\n0 6 * * * x\n");
        assert_eq!(
            same.iter().collect::<std::collections::BTreeSet<_>>().len(),
            3
        );
        assert_eq!(names("0 5 * * * x\n0 6 * * * x\n"), same[..2]);
    }

    #[test]
    fn no_two_lines_have_one_name() {
        let entry = entry("@daily x", false).unwrap();
        let mut taken = HashSet::new();
        let first = name(&entry, 1, &mut taken);
        // as if its digest were another's
        assert_ne!(name(&entry, 1, &mut taken), first);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", system: bool) {
            for prefix in ["", "* * * * * ", "@daily ", "A=", "'A' = '"] {
                for file_schedule in read_with(&format!("{prefix}{text}"), system).schedules {
                    let _ = file_schedule.schedule(now());
                }
            }
        }

        /// What a shell is given is what was written, percent signs apart.
        #[test]
        fn command_is_taken_unchanged(text in "[!-~]( |[!-~]){0,30}") {
            prop_assume!(!text.contains('%') && !text.ends_with(' '));
            let (command, stdin) = command_and_input(&format!("* * * * * {text}"));
            prop_assert_eq!(command, text);
            prop_assert_eq!(stdin, None);
        }
    }
}
