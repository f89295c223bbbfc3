//! Reads crontab files as Vixie cron and its descendants do.
//!
//! A line is empty, a comment, an assignment that applies to the lines below it, or five fields (or
//! a name such as `@daily`) and a command. The command is the rest of the line up to the first `%`.
//! The text after that is the command's standard input, in which each further `%` is a line break.
//! `\%` is a percent sign.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

mod dialects;

#[cfg(any(fuzzing, test))]
use super::schedule_file::ScheduleFile;
use super::schedule_file::{Diagnostic, FileSchedule, Finding};
use crate::cli::times::stored_zone;
use dialects::{refuse_flags, refuse_seconds};
use naq_client::{NewSchedule, Recurrence};
use naq_cron::{Cron, Timezone};
use naq_protocol::units::DURATION_MAX;
use naq_protocol::{Envelope, QueueName, ScheduleId, ShortDigest, short_digest};
use naq_runner::is_env_denied;

/// How a crontab is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrontabOptions<'o> {
    /// The queue of the jobs of lines without a user.
    pub(super) queue: &'o QueueName,
    /// The time zone of lines for which the file sets none.
    pub(super) zone: Timezone,
    /// Whether lines have a user between the fields and the command, as in `/etc/crontab`.
    pub(super) is_system: bool,
    /// The queues of users' jobs.
    pub(super) user_queues: &'o BTreeMap<String, QueueName>,
    /// Whether this machine has an account of this name.
    pub(super) is_account: fn(&str) -> bool,
}

/// Why a line is refused.
#[derive(Debug, PartialEq, Eq)]
enum LineError {
    /// No cron would accept the line, or it means something else than its author thinks.
    Invalid(String),
    /// Another implementation of cron accepts the line, and naq cannot do what it asks for.
    Unsupported(String),
}

impl From<String> for LineError {
    fn from(text: String) -> LineError {
        LineError::Invalid(text)
    }
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

/// Maximum size of the variables of all commands together, in bytes. Each command has a copy of the
/// variables above it, so without a limit their size would grow with the square of the file's.
const ENVIRONMENT_BYTES_MAX: usize = 64 << 20;

/// The assignments so far, which apply to the lines below them.
struct Settings {
    variables: BTreeMap<String, String>,
    /// What a copy of the variables takes, in bytes.
    variable_bytes: usize,
    zone: Timezone,
    jitter: Option<Duration>,
}

/// What a crontab contains, line by line. What is kept of the lines before are digests, which tell
/// whether a command or a name has occurred.
pub(super) struct CrontabReader<'f> {
    lines: std::iter::Enumerate<std::str::Lines<'f>>,
    options: CrontabOptions<'f>,
    settings: Settings,
    /// How often each command has occurred so far.
    commands: HashMap<ShortDigest, usize>,
    /// The names so far.
    names: HashSet<ShortDigest>,
    /// What the variables of all commands so far take, in bytes.
    environment_bytes: usize,
}

impl<'f> CrontabReader<'f> {
    pub(super) fn new(text: &'f str, options: CrontabOptions<'f>) -> CrontabReader<'f> {
        CrontabReader {
            lines: text.lines().enumerate(),
            settings: Settings {
                variables: BTreeMap::new(),
                variable_bytes: 0,
                zone: options.zone,
                jitter: None,
            },
            options,
            commands: HashMap::new(),
            names: HashSet::new(),
            environment_bytes: 0,
        }
    }

    /// Reads a line that counts. `None` means that there is nothing to say about it.
    fn read_line(&mut self, number: usize, line: &str) -> Result<Option<Finding>, LineError> {
        if let Some((name, value)) = assignment(line) {
            let warning = self.settings.assign(&name, value, self.options.zone)?;
            return Ok(warning.map(|text| Finding::Warning(Diagnostic::new(number, text))));
        }
        let entry = entry(line, self.options.is_system)?;
        self.environment_bytes += self.settings.variable_bytes;
        if self.has_too_many_variables() {
            return Err(too_many_variables());
        }
        let occurrence = self.commands.entry(short_digest(&entry.key())).or_default();
        *occurrence += 1;
        let name = name(&entry, *occurrence, &mut self.names);
        let schedule = file_schedule(&entry, name, number, &self.settings, &self.options)?;
        Ok(Some(Finding::Schedule(Box::new(schedule))))
    }

    fn has_too_many_variables(&self) -> bool {
        self.environment_bytes > ENVIRONMENT_BYTES_MAX
    }
}

impl Iterator for CrontabReader<'_> {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        while !self.has_too_many_variables() {
            let (index, line) = self.lines.next()?;
            let number = index + 1;
            let Some(line) = content(line) else {
                continue;
            };
            match self.read_line(number, line) {
                Ok(None) => {}
                Ok(Some(finding)) => return Some(finding),
                Err(LineError::Invalid(why)) => {
                    return Some(Finding::Problem(Diagnostic::new(number, why)));
                }
                Err(LineError::Unsupported(why)) => {
                    return Some(Finding::Unsupported(Diagnostic::new(number, why)));
                }
            }
        }
        None
    }
}

/// Reads a whole crontab.
#[cfg(any(fuzzing, test))]
pub(super) fn read(text: &str, options: &CrontabOptions) -> ScheduleFile {
    CrontabReader::new(text, *options).collect()
}

/// The part of a line that counts. `None` for an empty line or a comment.
fn content(line: &str) -> Option<&str> {
    let line = line.trim_matches([' ', '\t', '\r']);
    (!line.is_empty() && !line.starts_with('#')).then_some(line)
}

/// The first line whose command begins with the name of an account, if that means that the file has
/// a column of users: each such word is an account of this machine, or one of them is `root`, which
/// is no program.
pub(super) fn find_user_column(
    text: &str,
    is_account: impl Fn(&str) -> bool,
) -> Option<(usize, String)> {
    let mut first = None;
    let mut are_all_accounts = true;
    for (index, line) in text.lines().enumerate() {
        let Some(line) = content(line).filter(|line| assignment(line).is_none()) else {
            continue;
        };
        // With a user, at least one word follows: `@daily sync` runs a program.
        let Ok(Entry {
            user: Some(user), ..
        }) = entry(line, true)
        else {
            are_all_accounts = false;
            continue;
        };
        if user == "root" {
            return Some((index + 1, user.to_owned()));
        }
        are_all_accounts &= is_account(user);
        first.get_or_insert((index + 1, user.to_owned()));
    }
    first.filter(|_| are_all_accounts)
}

fn too_many_variables() -> LineError {
    LineError::Invalid(format!(
        "each command gets a copy of the variables above it, and up to this line the copies exceed {} MiB; \
         split the file, or set fewer variables",
        ENVIRONMENT_BYTES_MAX >> 20
    ))
}

/// What a variable takes in a job's environment, in bytes.
fn variable_bytes(name: &str, value: &str) -> usize {
    // The texts are allocated one by one.
    const OVERHEAD_BYTES: usize = 96;
    name.len() + value.len() + OVERHEAD_BYTES
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
                let delay = value.parse().ok().and_then(|minutes: u64| {
                    let delay = Duration::from_secs(minutes.checked_mul(60)?);
                    (delay <= DURATION_MAX).then_some(delay)
                });
                let delay = delay.ok_or(
                    "RANDOM_DELAY: it must be a whole number of minutes, at most 100 years",
                )?;
                self.jitter = (!delay.is_zero()).then_some(delay);
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
            "LOGNAME" => {
                return Ok(Some(
                    "LOGNAME: as in cron, a crontab cannot set it; jobs get the name of the user that they run as"
                        .to_owned(),
                ));
            }
            name if is_env_denied(name, &[]) => {
                warning = Some(format!(
                    "{name}: workers refuse it unless they are started with --allow-env {name}"
                ));
            }
            _ => {}
        }
        if !CRON_ONLY_VARIABLES.contains(&name) {
            self.variable_bytes += variable_bytes(name, &value);
            if let Some(replaced) = self.variables.insert(name.to_owned(), value) {
                self.variable_bytes -= variable_bytes(name, &replaced);
            }
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

fn entry(line: &str, is_system: bool) -> Result<Entry<'_>, LineError> {
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
    let expression = words.join(" ");
    refuse_seconds(&expression, rest)?;
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
        .to_owned()
        .into());
    }
    refuse_flags(rest)?;
    let (command, stdin) = split_input(rest);
    if command.trim().is_empty() {
        return Err("no command before the first %".to_owned().into());
    }
    Ok(Entry {
        expression,
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
) -> Result<FileSchedule, LineError> {
    if let Err(error) = Cron::parse(&entry.expression) {
        return Err(dialects::expression_error(entry, &error));
    }
    let queue = match entry.user {
        None => options.queue,
        Some(user) => user_queue(user, options)?,
    };
    let variables = &settings.variables;
    let shell = variables.get("SHELL").map_or(SHELL, String::as_str);
    let mut envelope = Envelope::command(shell, ["-c", &entry.command]);
    envelope.stdin.clone_from(&entry.stdin);
    envelope.env.clone_from(variables);
    // Cron sets it, whatever shell the account has.
    let shell_name = || SHELL.to_owned();
    envelope
        .env
        .entry("SHELL".to_owned())
        .or_insert_with(shell_name);
    // Cron starts a command in the home folder of its user.
    envelope.cwd = variables.get("HOME").cloned();
    let cadence = Recurrence::Cron {
        expression: entry.expression.clone(),
        tz: stored_zone(settings.zone),
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

/// The queue of a user's jobs.
fn user_queue<'o>(user: &str, options: &CrontabOptions<'o>) -> Result<&'o QueueName, LineError> {
    options.user_queues.get(user).ok_or_else(|| {
        let why = if (options.is_account)(user) {
            format!(
                "the line runs as the user `{user}`, but a worker runs all jobs as its own user; --user-queue {user}=QUEUE names a queue whose workers run as that user"
            )
        } else {
            format!(
                "`{user}` stands where --system reads a user, and this machine has no such account; --user-queue {user}=QUEUE accepts it, and without --system it is the command"
            )
        };
        LineError::Invalid(why)
    })
}

/// Returns a name that does not change when other lines or the line's own times change. If a
/// command occurs several times, the names of the second and later ones contain their times.
fn name(entry: &Entry, occurrence: usize, taken: &mut HashSet<ShortDigest>) -> ScheduleId {
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
        if taken.insert(short_digest(name.as_str())) {
            return name;
        }
        of.push('\0');
    }
}

#[cfg(test)]
mod tests;
