//! Hints for a misspelt command line: what the user most likely meant.

use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::session::Session;
use naq_client::Client;
use naq_protocol::{JobId, ScheduleId};

/// Time limit of the search for something else that has the name.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Quotes a word for a shell, unless the shell reads it as one word anyway.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command line to type instead of one that clap refuses. `words` are its arguments, without the
/// program's name.
pub(super) fn hint(error: &clap::Error, words: &[String], verbs: &clap::Command) -> Option<String> {
    let (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) = error.kind() else {
        return None;
    };
    let context = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let mut found = context.into_iter().filter_map(|kind| error.get(kind));
    let Some(ContextValue::String(refused)) = found.next() else {
        return None;
    };
    let verb = words
        .iter()
        .find(|word| verbs.find_subcommand(word).is_some())?;
    if refused.starts_with('-') || refused == verb {
        return None;
    }
    let at = words.iter().rposition(|word| word == refused)?;
    match verb.as_str() {
        "run" | "enqueue" | "schedule" => Some(command_hint(&words[..at], &words[at..])),
        _ => {
            // `naq queues add` for `naq queue add`
            let noun = verb.strip_suffix('s')?;
            let verb = verbs.find_subcommand(noun)?.find_subcommand(refused)?;
            let verb = verb.get_name();
            Some(format!("`naq {noun} {verb}` does that"))
        }
    }
}

/// The same words, with the command after `--`.
fn command_hint(before: &[String], command: &[String]) -> String {
    let mut words: Vec<String> = before.iter().map(|word| quoted(word)).collect();
    words.push("--".to_owned());
    let is_shell_line = matches!(command, [line] if line.contains(char::is_whitespace));
    if is_shell_line {
        words.extend(["sh".to_owned(), "-c".to_owned()]);
    }
    words.extend(command.iter().map(|word| quoted(word)));
    let what = if is_shell_line {
        "a shell command line follows `-- sh -c`"
    } else {
        "a command follows `--`"
    };
    format!("{what}: `naq {}`", words.join(" "))
}

/// The kind of thing that has a name which a verb did not find: a schedule, a queue, a worker or a job.
/// `None` if nothing has it, or if the search takes too long.
pub(super) async fn what_it_is(session: &Session, name: &str) -> Option<String> {
    let searching = async {
        let client = session.connect().await.ok()?;
        find(&client, name).await
    };
    tokio::time::timeout(SEARCH_TIMEOUT, searching).await.ok()?
}

async fn find(client: &Client, name: &str) -> Option<String> {
    if let Ok(id) = ScheduleId::new(name)
        && let Ok(Some(_)) = client.fetch_schedule(&id).await
    {
        return Some(format!(
            "`{name}` is a schedule: `naq schedule show {name}`"
        ));
    }
    let queues = client.list_queues().await.unwrap_or_default();
    if queues.iter().any(|queue| queue.name.as_str() == name) {
        return Some(format!(
            "`{name}` is a queue: `naq queues`, and `naq jobs --queue {name}` for its jobs"
        ));
    }
    let workers = client.list_workers().await.unwrap_or_default();
    if workers
        .iter()
        .any(|worker| worker.name == name || worker.worker_id == name)
    {
        return Some(format!("`{name}` is a worker: `naq workers`"));
    }
    let id = JobId::new(name).ok()?;
    client.fetch_job(&id).await.ok()?;
    Some(format!("`{name}` is a job: `naq status {name}`"))
}
