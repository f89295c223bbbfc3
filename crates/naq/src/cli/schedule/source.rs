//! Where `naq schedule apply` reads its schedules: a file or standard input, its format, and the name
//! of the set that the schedules form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::crontab::{self, CrontabOptions, CrontabReader};
use super::file_text;
use super::schedule_file::{Diagnostic, Finding};
use super::toml_file::TomlFile;
use crate::cli::exit::Failure;
use crate::cli::job_options::read_bytes;
use crate::cli::render;
use crate::cli::session::Session;
use crate::cli::times::{machine_zone, parse_zone};
use naq_cron::Timezone;
use naq_protocol::{QueueName, Timestamp};
use nix::unistd::{Uid, User, gethostname};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Toml,
    Crontab,
}

/// The longest name of a set, in bytes.
const SET_BYTES_MAX: usize = 256;

/// A file of schedules, and how its options say to read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScheduleSource<'a> {
    /// Path of the file; `-` for standard input.
    pub(super) file: &'a str,
    /// `None` means that the name and the content of the file decide.
    pub(super) format: Option<Format>,
    /// Name of the set. `None` means that the file decides.
    pub(super) set: Option<&'a str>,
    /// Queue of jobs for which the file names none. `None` means the default queue.
    pub(super) queue: Option<&'a str>,
    /// Zone of times for which the file names none. `None` means UTC, and for a crontab the zone of
    /// this machine.
    pub(super) tz: Option<&'a str>,
    /// Whether the lines of a crontab have a user before the command. `None` means that they have
    /// none, and that a file which looks as if they had is refused.
    pub(super) has_users: Option<bool>,
    /// The queues of users' jobs, each as `USER=QUEUE`.
    pub(super) user_queues: &'a [String],
}

/// A file of schedules that can be read any number of times, so that nobody has to keep them all.
pub(super) struct OpenSource<'t> {
    content: Content<'t>,
    /// The time zone of a crontab for which neither the options nor the file name one.
    assumed_zone: Option<Timezone>,
}

enum Content<'t> {
    Toml(TomlFile<'t>),
    Crontab {
        text: &'t str,
        queue: QueueName,
        zone: Timezone,
        has_users: bool,
        user_queues: BTreeMap<String, QueueName>,
    },
}

impl OpenSource<'_> {
    /// Reads the file from its beginning.
    pub(super) fn findings(&self) -> Box<dyn Iterator<Item = Finding> + '_> {
        match &self.content {
            Content::Toml(file) => Box::new(file.findings()),
            Content::Crontab {
                text,
                queue,
                zone,
                has_users,
                user_queues,
            } => Box::new(CrontabReader::new(
                text,
                CrontabOptions {
                    queue,
                    zone: *zone,
                    is_system: *has_users,
                    user_queues,
                    is_account,
                },
            )),
        }
    }

    /// Says which zone the times of a crontab are in, unless the user or the file has named it.
    pub(super) fn note_zone(&self) {
        if let Some(zone) = self.assumed_zone {
            render::note(format_args!(
                "times are in {}, the time zone of this machine; --tz or a line CRON_TZ=ZONE sets another",
                zone.name()
            ));
        }
    }

    fn is_crontab(&self) -> bool {
        matches!(self.content, Content::Crontab { .. })
    }

    /// The name of the set. `None` if the file sets none.
    fn set(&self) -> Option<&str> {
        match &self.content {
            Content::Toml(file) => file.set(),
            Content::Crontab { .. } => None,
        }
    }
}

impl ScheduleSource<'_> {
    /// Reads the text, and a warning about it.
    pub(super) fn read_text(&self) -> Result<(String, Option<Diagnostic>), Failure> {
        file_text::decode(self.file, read_bytes(self.file, "the schedules")?)
    }

    /// Finds out how to read the schedules of a text.
    pub(super) fn open<'t>(
        &self,
        session: &Session,
        text: &'t str,
        now: Timestamp,
    ) -> Result<OpenSource<'t>, Failure> {
        let queue = self.queue.unwrap_or(&session.settings().default_queue);
        let queue = QueueName::new(queue)?;
        match self.resolve_format(text)? {
            Format::Toml if self.has_users.is_some() => {
                Err(Failure::usage("--system is about crontabs"))
            }
            Format::Toml => {
                let zone = self.tz.map(parse_zone).transpose()?;
                Ok(OpenSource {
                    content: Content::Toml(TomlFile::parse(text, &queue, zone, now)),
                    assumed_zone: None,
                })
            }
            Format::Crontab => self.open_crontab(session, text, queue),
        }
    }

    fn resolve_format(&self, text: &str) -> Result<Format, Failure> {
        let file = self.file;
        let detected = self.format.or_else(|| detect_format(file, text));
        detected.ok_or_else(|| {
            Failure::usage(format!("{file} looks like neither TOML nor a crontab"))
                .hint("--format toml or --format crontab says which")
        })
    }

    fn open_crontab<'t>(
        &self,
        session: &Session,
        text: &'t str,
        queue: QueueName,
    ) -> Result<OpenSource<'t>, Failure> {
        self.refuse_other_files(text)?;
        let named = self.tz.map(parse_zone).transpose()?;
        let zone = match named {
            Some(zone) => zone,
            None => machine_zone(session.variable("TZ"))?,
        };
        let is_assumed = named.is_none() && !text.contains("CRON_TZ");
        Ok(OpenSource {
            content: Content::Crontab {
                text,
                queue,
                zone,
                has_users: self.has_users.unwrap_or(false),
                user_queues: self.parse_user_queues()?,
            },
            assumed_zone: is_assumed.then_some(zone),
        })
    }

    /// Refuses what is not a crontab, and a system's crontab that would be read as a user's.
    fn refuse_other_files(&self, text: &str) -> Result<(), Failure> {
        let file = self.file;
        let is_script = text.starts_with("#!");
        let mut content = text.lines().map(str::trim);
        if is_script && content.all(|line| line.is_empty() || line.starts_with('#')) {
            return Err(Failure::usage(format!(
                "{file}:1: the first line begins with #!, and no line is a schedule: this is a script, not a crontab"
            )));
        }
        let path = self.path();
        if path.file_name().is_some_and(|name| name == "anacrontab") {
            return Err(Failure::usage(format!(
                "{file} is an anacrontab, whose lines are a period, a delay, a name and a command"
            ))
            .hint("naq makes up for missed runs itself: write each line as a crontab's, such as @daily COMMAND"));
        }
        if self.has_users.is_some() {
            return Ok(());
        }
        let hint = "--system reads it, and --user-queue USER=QUEUE says where a user's jobs go; --system=no reads the word before the command as its first";
        if path == Path::new("/etc/crontab") || path.starts_with("/etc/cron.d") {
            return Err(Failure::usage(format!("{file} has a column of users")).hint(hint));
        }
        match crontab::find_user_column(text, is_account) {
            None => Ok(()),
            Some((line, user)) => Err(Failure::usage(format!(
                "{file}:{line}: `{user}` before the command is a user: the file has a column of users, as /etc/crontab does; nothing was changed"
            ))
            .hint(hint)),
        }
    }

    fn parse_user_queues(&self) -> Result<BTreeMap<String, QueueName>, Failure> {
        let pairs = self.user_queues.iter().map(|text| {
            let (user, queue) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--user-queue {text}: write USER=QUEUE")))?;
            Ok((user.to_owned(), QueueName::new(queue)?))
        });
        pairs.collect()
    }

    /// The file's absolute path without symbolic links, as far as it can be known.
    fn path(&self) -> PathBuf {
        std::fs::canonicalize(self.file).unwrap_or_else(|_| PathBuf::from(self.file))
    }

    /// The name of the set: `--set`, else the one in the file, else the file's name. The crontab of a
    /// user that comes from standard input is named after the user and the host.
    pub(super) fn set_name(&self, file: &OpenSource) -> Result<String, Failure> {
        let file_name = || Path::new(self.file).file_name()?.to_str();
        let name = self.set.or(file.set());
        let name = name.or_else(|| file_name().filter(|_| self.file != "-"));
        let missing = || {
            Failure::usage("the set of schedules has no name").hint(
                "--set NAME gives it one: the next apply of the set removes what its file no longer has",
            )
        };
        let name = match name {
            Some(name) => name.to_owned(),
            None if file.is_crontab() && self.has_users != Some(true) => {
                let name = user_at_host().ok_or_else(missing)?;
                render::note(format_args!(
                    "the set of these schedules is `{name}`; --set names another"
                ));
                name
            }
            None => return Err(missing()),
        };
        if name.is_empty() || name.len() > SET_BYTES_MAX {
            return Err(Failure::usage(
                "the name of the set is empty, or over 256 bytes",
            ));
        }
        Ok(name)
    }
}

/// This process's user and host, such as `ann@web1`. `None` if either has no name.
fn user_at_host() -> Option<String> {
    let user = User::from_uid(Uid::current()).ok()??;
    let host = gethostname().ok()?.into_string().ok()?;
    (!host.is_empty()).then(|| format!("{}@{host}", user.name))
}

/// Whether this machine has an account of this name.
fn is_account(name: &str) -> bool {
    matches!(User::from_name(name), Ok(Some(_)))
}

/// The format of a file, by its name or by its first line that only one format can have.
fn detect_format(file: &str, text: &str) -> Option<Format> {
    let path = Path::new(file);
    let name = path.file_name().and_then(|name| name.to_str());
    let extension = path.extension().and_then(|extension| extension.to_str());
    match (name, extension) {
        (_, Some("toml")) => return Some(Format::Toml),
        (Some("crontab"), _) | (_, Some("crontab" | "cron" | "tab")) => {
            return Some(Format::Crontab);
        }
        _ if file.starts_with("/etc/cron.d/") => return Some(Format::Crontab),
        _ => {}
    }
    let mut is_blank = true;
    for line in text.lines().map(str::trim_start) {
        match line.chars().next() {
            None | Some('#') => {}
            Some('[') => return Some(Format::Toml),
            Some('*' | '@' | '-' | '0'..='9') => return Some(Format::Crontab),
            Some(_) => is_blank = false,
        }
    }
    // a file of blank lines and comments is valid in both
    is_blank.then_some(Format::Crontab)
}
