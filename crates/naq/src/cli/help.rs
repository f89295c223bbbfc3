//! The layout of help: short for `-h`, long for `--help`, with the examples of each verb.

use clap::{Arg, Command};

use super::examples::{EXAMPLES, Example};

/// Maximum number of examples of a verb.
pub(super) const EXAMPLES_MAX: usize = 5;

/// The end of the program's own help.
const OVERVIEW: &str = "\
First steps:
  naq run -- echo hello      Run one job, with everything in one process
  naq dev                    Run a local server, a worker, a scheduler and the dashboard
  naq enqueue -- ./job.sh    Enqueue a job, which a worker runs

Names of the Python library:
  list-scheduled, list-workers, purge, job-control; worker and scheduler have the same name";

/// The exit codes, which `--help` of the program lists.
const EXIT_CODES: &str = "\
Exit codes:
  0 done, 1 failed, 2 bad usage, 3 no NATS, 4 not found, 5 conflict, 6 refused envelope,
  7 full, 124 timed out; `naq run` exits with its job's code";

/// One line of `-h` for the options that only `--help` lists.
const FOLDED_OPTIONS: &str =
    "Connection and log options (--nats-url, --context, --log-level, …): see --help";

/// The options of a worker in the order of their lists: first what every worker is started with,
/// without a heading, then by subject. An option that is not named here follows those without a
/// heading.
const WORKER_OPTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &["concurrency", "labels", "name", "order", "at_boot", "quiet"],
    ),
    (
        "Jobs",
        &[
            "timeout",
            "memory",
            "strict_limits",
            "workdir",
            "kill_grace",
            "runners_dir",
        ],
    ),
    (
        "Rights of jobs",
        &[
            "containment",
            "run_as",
            "allow_root",
            "allow_setuid",
            "private_tmp",
            "landlock_read",
            "landlock_write",
            "allow_env",
            "secrets_dir",
            "grant",
        ],
    ),
    (
        "Stops, crashes and outages",
        &[
            "drain_timeout",
            "max_worker_crashes",
            "takeover_after",
            "outage_grace",
            "trust_refused",
        ],
    ),
];

/// Verbs with the options of a worker.
const WORKER_VERBS: &[&str] = &["worker", "dev"];

/// Headings of options that `-h` folds, since few commands need them.
const FOLDED_HEADINGS: &[&str] = &[
    "Late and long runs",
    "Limits",
    "Retries",
    "Dependencies",
    "Rights of jobs",
    "Stops, crashes and outages",
];

/// Adds to each verb what its help ends with.
pub(super) fn with_examples(command: Command) -> Command {
    command
        .after_help(format!("{OVERVIEW}\n\n{FOLDED_OPTIONS}"))
        .after_long_help(format!("{OVERVIEW}\n\n{EXIT_CODES}"))
        .mut_subcommands(|verb| {
            let path = verb.get_name().to_owned();
            add_examples(verb, &path)
        })
}

/// Sorts the options of a worker.
fn sort_worker_options(mut verb: Command) -> Command {
    let mut place = 0;
    for (heading, names) in WORKER_OPTIONS {
        for name in *names {
            place += 1;
            if verb.get_arguments().all(|option| option.get_id() != *name) {
                continue;
            }
            verb = verb.mut_arg(name, |option| {
                let option = option.display_order(place);
                match *heading {
                    "" => option,
                    heading => option.help_heading(heading),
                }
            });
        }
    }
    verb
}

fn add_examples(verb: Command, path: &str) -> Command {
    let verb = match WORKER_VERBS.contains(&path) {
        true => sort_worker_options(verb),
        false => verb,
    };
    let mut text = "Examples:".to_owned();
    for (what, command) in examples(path) {
        text.push_str(&format!("\n  {what}:\n    $ {command}"));
    }
    let mut more = String::new();
    for heading in FOLDED_HEADINGS {
        let has_heading = |argument: &Arg| argument.get_help_heading() == Some(*heading);
        if verb.get_arguments().any(has_heading) {
            more.push_str(&format!("{}, ", heading.to_lowercase()));
        }
    }
    verb.mut_args(|argument| match argument.get_help_heading() {
        Some(heading) if FOLDED_HEADINGS.contains(&heading) => argument.hide_short_help(true),
        _ => argument,
    })
    .after_help(format!("{FOLDED_OPTIONS}\nAlso in --help: {more}examples"))
    .after_long_help(text)
    .mut_subcommands(|inner| {
        let path = format!("{path} {}", inner.get_name());
        add_examples(inner, &path)
    })
}

/// The examples of a verb. A verb that groups others has the first example of each.
pub(super) fn examples(path: &str) -> Vec<&'static Example> {
    if let Some((_, examples)) = EXAMPLES.iter().find(|(verb, _)| *verb == path) {
        return examples.iter().collect();
    }
    EXAMPLES
        .iter()
        .filter(|(verb, _)| {
            let inner = verb.strip_prefix(path);
            inner.is_some_and(|rest| rest.starts_with(' '))
        })
        .filter_map(|(_, examples)| examples.first())
        .take(EXAMPLES_MAX)
        .collect()
}
