//! The command line: arguments in, text and exit codes out. One verb, one file.
//!
//! Only this room prints, and only this room reads `config`.

mod artifacts;
mod audit;
mod bench;
mod cancel;
mod changes;
mod clock;
mod complete;
mod completions;
mod config;
mod confirm;
mod control;
mod cron;
mod dashboard;
mod denied_role;
mod dev;
mod enqueue;
mod envelope_check;
mod events;
mod examples;
mod exit;
mod failed;
mod greeting_bound;
mod health;
mod help;
mod http_agent;
mod installed_runners;
mod job;
mod job_control;
mod job_options;
mod job_output;
mod job_socket;
mod jobs;
mod json;
mod log_file;
mod logs;
mod man;
mod metrics_args;
mod nats_config;
mod private_file;
mod progress;
mod purge;
mod queue;
mod remarks;
mod render;
mod report;
mod result;
mod retry;
mod root_jobs;
mod run;
mod runner;
mod runtime;
mod schedule;
mod schedule_options;
mod scheduler;
mod schema;
mod server;
mod session;
mod setting_flags;
mod signals;
mod status;
mod systemd;
mod time_limit;
mod times;
mod trace_export;
mod upload;
mod verb_command;
mod version;
mod wait;
mod waiting;
mod why;
mod word_hints;
mod worker;
mod worker_options;
mod workers;
mod zoneinfo;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub use schedule::fuzz;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use exit::Failure;
use session::{GlobalOptions, Logged, LoggedJobs, Session};
use time_limit::{limited, verb_time_max};
use zoneinfo::ZoneinfoDatabase;

/// Run any command as a job: queued on NATS, run by workers, its output kept.
#[derive(Debug, Parser)]
#[command(name = "naq", version)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command as a job, and wait for its output and exit code
    ///
    /// Enqueues the command, runs it in this process, prints its output and exits with its exit
    /// code. Starts a local server if no NATS is configured or found. Standard input, unless it is a
    /// terminal, is read to its end and passed to the job.
    Run(Box<run::Args>),
    /// Enqueue jobs
    ///
    /// Prints each job's id. A worker runs the job.
    Enqueue(Box<enqueue::Args>),
    /// Show a job: its state, times and outcome
    Status(status::Args),
    /// Explain why a job does not run, or how it ended
    Why(why::Args),
    /// Print an ended job's standard output, or set the result of the job in which naq runs
    Result(result::Args),
    /// Report the progress of the job in which naq runs
    ///
    /// Needs no settings and no grant. What is out of range becomes a warning on the job's record.
    Progress(report::ProgressArgs),
    /// Store a value for the next attempt of the job in which naq runs
    ///
    /// The next attempt finds it in the file $NAQ_CHECKPOINT_FILE, and unless it is long in $NAQ_CHECKPOINT. Needs
    /// no settings and no grant. What is too large becomes a warning on the job's record, and the earlier value
    /// stays.
    Checkpoint(report::CheckpointArgs),
    /// Print a job's output, or follow it while the job runs
    ///
    /// Standard output goes to standard output, standard error to standard error.
    Logs(logs::Args),
    /// List or download the files that a job has left
    ///
    /// Lists the files that the job's --artifact patterns have kept. With --output, downloads them.
    Artifacts(artifacts::Args),
    /// Wait until jobs have ended
    Wait(wait::Args),
    /// Cancel jobs
    ///
    /// A job that waits ends at once. A job that runs is stopped with everything it started.
    Cancel(cancel::Args),
    /// Run ended jobs again, as new jobs
    Retry(retry::Args),
    /// List jobs, the latest change first
    Jobs(jobs::Args),
    /// Set a job's TTL, or pause, resume, reschedule or trigger delayed jobs
    Job(job::Args),
    /// List, group, show, retry or discard failed jobs
    Failed(failed::Args),
    /// List who changed what, how many, and from where
    ///
    /// Each change by the dashboard or by a command leaves an entry, except for `naq run` and `naq enqueue`. A
    /// command can only claim who runs it, and such a name is marked.
    Audit(audit::Args),
    /// Print changes of jobs' states, or run a command for each
    Events(events::Args),
    /// Add, list, change, apply or delete schedules
    Schedule(Box<schedule::Args>),
    /// List schedules and delayed jobs
    Schedules(schedule::list::Args),
    /// List, add, change, pause, purge or remove queues
    Queue(queue::Args),
    /// List queues
    Queues(queue::ListArgs),
    /// List, show or check the runners of scripts and functions
    Runner(runner::Args),
    /// Remove the results of ended jobs, or every job of queues
    ///
    /// `naq purge --results` frees room in the store, and works when it is full. `naq purge QUEUE` is
    /// the Python library's name for `naq queue purge`.
    Purge(purge::Args),
    /// List or drain workers
    Workers(workers::Args),
    /// Run a worker, which runs jobs of queues
    ///
    /// The first TERM or INT drains the worker: running jobs may end, and it takes no more. The
    /// second one stops it.
    Worker(worker::Args),
    /// Run a scheduler, which enqueues jobs of schedules when they are due
    ///
    /// Several may run; one leads, and another takes over if it fails.
    Scheduler(scheduler::Args),
    /// Serve the dashboard and the HTTP API
    ///
    /// Prints an address that logs one browser in, once, and the path of the file with the token for programs.
    Dashboard(dashboard::Args),
    /// Run a local server, a worker, a scheduler and the dashboard in the foreground, for development
    Dev(dev::Args),
    /// Check that NATS can be used, and that the worker or scheduler of this machine or container is alive
    ///
    /// For the health check of a container, or of a monitor. Exits with 3 if NATS cannot be used or does not have
    /// the heartbeat of a worker that runs here, and with 4 if none runs here.
    Health(health::Args),
    /// Start, stop or inspect the managed local nats-server
    Server(server::Args),
    /// Print the users of nats-server's configuration, with the permissions of each role
    ///
    /// Each part of naq gets a user that may do what its role needs on these queues. Producers get an
    /// account of their own. With --out, writes the configuration and each user's credentials and settings
    /// into a folder, which nobody else can read.
    NatsConfig(nats_config::Args),
    /// Print every setting, its value and where it comes from, or trust a naq.toml
    Config(config::Args),
    /// Print the coming times of a cron expression, or explain it
    Cron(cron::Args),
    /// Print the JSON Schema of a wire type
    Schema(schema::Args),
    /// Measure this machine and this server
    Bench(bench::Args),
    /// Print the script that registers naq's completion with a shell
    Completions(completions::Args),
    /// Write naq's man pages into a folder
    Man(man::Args),
    /// Print naq's version
    Version(version::Args),
    /// List schedules and delayed jobs (the Python library's name for `naq schedule list`)
    #[command(hide = true)]
    ListScheduled(schedule::list::Args),
    /// Cancel, pause, resume, reschedule or run a schedule or delayed job (the Python library's
    /// name for the verbs of `naq schedule` and `naq job`)
    #[command(hide = true)]
    JobControl(Box<job_control::Args>),
    /// List workers (the Python library's name for `naq workers`)
    #[command(hide = true)]
    ListWorkers(workers::ListArgs),
}

/// The verbs and their options.
fn command() -> clap::Command {
    // A schedule refuses both, with an error that says which option to use instead.
    let hide = |verb: clap::Command| {
        verb.mut_arg("id", |option| option.hide(true))
            .mut_arg("expires_at", |option| option.hide(true))
    };
    let command =
        Cli::command().mut_subcommand("schedule", |verb| hide(verb).mut_subcommand("add", hide));
    complete::with_completers(help::with_examples(command))
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // These are tiny processes of their own, before anything else is set up.
    match std::env::args_os().nth(1) {
        Some(first) if first == "__spawner" => naq_runner::spawner_main(),
        Some(first) if first == naq_runner::SPAWN_LIMIT_ARGUMENT => naq_runner::spawn_limit_main(),
        Some(first) if first == crate::local_server::SUPERVISOR_ARGUMENT => {
            crate::local_server::supervisor_main()
        }
        _ => {}
    }
    if complete::run(command) {
        return ExitCode::SUCCESS;
    }
    let cli = match parse(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(error) => return report_usage(error),
    };
    render::set_mode(render::OutputMode {
        json: cli.global.json,
        wide: cli.global.wide,
    });
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// Parses a command line, which begins with the name of the program.
fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let named = words.iter().skip(1).filter_map(|word| word.to_str());
    let verb = verb_command::for_words(named.take_while(|word| *word != "--"));
    match verb.map(|verb| parse_with(verb, words)) {
        Some(Ok(cli)) => Ok(cli),
        // help, and the words of an error, come from the options of all verbs
        Some(Err(_)) | None => parse_with(command(), words),
    }
}

fn parse_with(command: clap::Command, words: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = command.try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// Help and version go to standard output and are no errors. Anything else is one line, as every
/// error.
fn report_usage(error: clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // the arguments could not be read, so `--json` is looked for among the words; what follows
    // `--` belongs to the job
    let words = std::env::args_os().take_while(|word| word != "--");
    let json = words.skip(1).any(|word| word == "--json");
    render::set_mode(render::OutputMode { json, wide: false });
    if !json && error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(exit::Exit::Usage as u8);
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let hint = word_hints::hint(&error, &words, &command());
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
    .report()
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let zones = ZoneinfoDatabase::find(&naq_client::config::environment())?;
    zones.install();
    // Verbs that need neither settings nor NATS.
    match &cli.verb {
        Verb::Cron(args) => return cron::run(args, &zones),
        Verb::Schema(args) => return schema::run(args),
        Verb::Completions(args) => return completions::run(args),
        Verb::Man(args) => return man::run(args, command()),
        Verb::Version(args) => return version::run(args, &zones),
        Verb::Progress(args) => return report::progress(args),
        Verb::Checkpoint(args) => return report::checkpoint(args),
        Verb::Result(args) => {
            if let Some(done) = args.set_in_job() {
                return done;
            }
        }
        Verb::Config(args) => {
            if let Some(done) = config::run_without_settings(args) {
                return done;
            }
        }
        _ => {}
    }
    let worker = match &cli.verb {
        Verb::Worker(args) => Some(args.setting_flags()),
        Verb::Dev(args) => Some(args.setting_flags()),
        _ => None,
    };
    let session = Session::open(&cli.global, worker, logged(&cli.verb))?;
    let runtime =
        runtime::start().map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    let limit = time_limit(&cli.verb);
    let code = runtime.block_on(async {
        let done = dispatch(&session, cli.verb);
        match limit {
            Some(limit) => limited(limit, &session.progress, done).await,
            None => done.await,
        }
    });
    let code = code.map_err(|failure| {
        let name = failure.missing.clone().filter(|_| failure.hint.is_none());
        // inside a job there is no connection of its own
        let name = name.filter(|_| session.job_socket().is_none());
        let hint = name.and_then(|name| runtime.block_on(word_hints::what_it_is(&session, &name)));
        match hint.or_else(|| denied_role::hint(&session, &failure)) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    });
    // A thread may block on standard input, which nothing can interrupt.
    runtime.shutdown_background();
    code
}

/// The time limit of a verb. `None` for those that run or wait for jobs, follow what happens, or serve.
fn time_limit(verb: &Verb) -> Option<Duration> {
    let is_endless = match verb {
        Verb::Run(_)
        | Verb::Wait(_)
        | Verb::Logs(_)
        | Verb::Events(_)
        | Verb::Worker(_)
        | Verb::Dashboard(_)
        | Verb::Dev(_)
        | Verb::Bench(_) => true,
        Verb::Enqueue(args) => args.is_endless(),
        Verb::Retry(args) => args.is_endless(),
        Verb::Server(args) => args.is_endless(),
        Verb::Result(args) => args.is_endless(),
        Verb::Cancel(args) => args.is_endless(),
        Verb::Jobs(args) => args.is_endless(),
        Verb::Audit(args) => args.is_endless(),
        Verb::Scheduler(args) => args.is_endless(),
        _ => false,
    };
    (!is_endless).then(verb_time_max)
}

/// What a verb logs besides warnings and errors.
fn logged(verb: &Verb) -> Logged {
    let is_quiet = match verb {
        Verb::Worker(args) => Some(args.is_quiet()),
        Verb::Dev(args) => Some(args.is_quiet()),
        _ => None,
    };
    Logged {
        jobs: match is_quiet {
            Some(false) => LoggedJobs::Always,
            Some(true) => LoggedJobs::Never,
            None => LoggedJobs::IfDebugging,
        },
        denials: match verb {
            Verb::Worker(_) | Verb::Dashboard(_) | Verb::Dev(_) => true,
            Verb::Scheduler(args) => args.is_endless(),
            _ => false,
        },
    }
}

/// Runs a verb that needs settings, and most of them NATS.
async fn dispatch(session: &Session, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Run(args) => run::run(session, *args).await,
        Verb::Enqueue(args) => enqueue::run(session, *args).await,
        Verb::Status(args) => status::run(session, args).await,
        Verb::Why(args) => why::run(session, args).await,
        Verb::Result(args) => result::run(session, args).await,
        Verb::Logs(args) => logs::run(session, args).await,
        Verb::Artifacts(args) => artifacts::run(session, args).await,
        Verb::Wait(args) => wait::run(session, args).await,
        Verb::Cancel(args) => cancel::run(session, args).await,
        Verb::Retry(args) => retry::run(session, args).await,
        Verb::Jobs(args) => jobs::run(session, args).await,
        Verb::Job(args) => job::run(session, args).await,
        Verb::Failed(args) => failed::run(session, args).await,
        Verb::Audit(args) => audit::run(session, args).await,
        Verb::Events(args) => events::run(session, args).await,
        Verb::Schedule(args) => schedule::run(session, *args).await,
        Verb::Schedules(args) | Verb::ListScheduled(args) => {
            schedule::list::run(session, args).await
        }
        Verb::JobControl(args) => job_control::run(session, *args).await,
        Verb::Queue(args) => queue::run(session, args).await,
        Verb::Queues(args) => queue::list(session, args).await,
        Verb::Runner(args) => runner::run(session, args).await,
        Verb::Purge(args) => purge::run(session, args).await,
        Verb::Workers(args) => workers::run(session, args).await,
        Verb::ListWorkers(args) => workers::list(session, args).await,
        Verb::Worker(args) => worker::run(session, args).await,
        Verb::Scheduler(args) => scheduler::run(session, args).await,
        Verb::Dashboard(args) => dashboard::run(session, args).await,
        Verb::Dev(args) => dev::run(session, args).await,
        Verb::Health(args) => health::run(session, &args, command).await,
        Verb::Server(args) => server::run(session, args).await,
        Verb::NatsConfig(args) => nats_config::run(session, args).await,
        Verb::Config(args) => config::run(session, &args),
        Verb::Bench(args) => bench::run(session, args).await,
        Verb::Cron(_)
        | Verb::Progress(_)
        | Verb::Checkpoint(_)
        | Verb::Schema(_)
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::Version(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_verb() {
        let verbs = command();
        let verb =
            |words: &[&str]| health::verb_of(format!("{}\0", words.join("\0")).as_bytes(), &verbs);
        let worker = Some("worker".to_owned());
        assert_eq!(verb(&["naq", "worker"]), worker);
        let long = [
            "/usr/bin/naq",
            "--nats-url",
            "nats://n:4222",
            "worker",
            "build",
        ];
        assert_eq!(verb(&long), worker);
        assert_eq!(
            verb(&["naq", "enqueue", "--", "naq", "worker"]).as_deref(),
            Some("enqueue")
        );
        assert_eq!(verb(&["naq", "scheduler", "list"]), None);
        assert_eq!(verb(&["naq", "__spawner"]), None);
        assert_eq!(verb(&["sh", "-c", "naq worker"]), None);
        assert_eq!(health::verb_of(b"", &verbs), None);
    }

    fn words(line: &str) -> Vec<OsString> {
        let words = shlex::split(line).unwrap_or_default();
        words.into_iter().map(OsString::from).collect()
    }

    /// Parses with the options of the verb that the words seem to name. `None` if they name none, or do not parse.
    fn parse_as_verb(words: &[OsString]) -> Option<String> {
        let named = words.iter().skip(1).filter_map(|word| word.to_str());
        let verb = verb_command::for_words(named.take_while(|word| *word != "--"))?;
        let cli = parse_with(verb, words).ok()?;
        Some(format!("{cli:?}"))
    }

    #[test]
    fn the_options_of_one_verb_parse_what_those_of_all_do() {
        let examples = examples::EXAMPLES
            .iter()
            .flat_map(|(_, examples)| examples.iter().map(|(_, line)| *line));
        let more = [
            "naq --json enqueue --timeout 5s -- run",
            "naq --nats-url nats://n:4222 --json run x",
            "naq schedule --every 5m -- ./x",
            "naq queue add build --json",
        ];
        let mut parsed = 0;
        for line in examples.chain(more).filter(|line| line.starts_with("naq ")) {
            let words = words(line);
            let whole = parse_with(command(), &words).map(|cli| format!("{cli:?}"));
            let verb = parse_as_verb(&words);
            parsed += usize::from(verb.is_some());
            assert_eq!(verb, whole.ok(), "{line}");
        }
        assert!(parsed > 100, "{parsed} lines");
    }

    #[test]
    fn each_verb_can_be_parsed_by_itself() {
        for verb in command().get_subcommands() {
            let name = verb.get_name();
            let found = verb_command::for_words([name].into_iter());
            let found = found.unwrap_or_else(|| panic!("no options of {name}"));
            let count = |verb: &clap::Command| verb.get_arguments().count();
            assert_eq!(count(found.find_subcommand(name).unwrap()), count(verb));
        }
    }

    #[test]
    fn the_name_of_a_verb_may_be_a_value() {
        // the verb is `status`
        let line = words("naq --context run status j1");
        assert_eq!(parse_as_verb(&line), None);
        assert!(matches!(parse(&line).unwrap().verb, Verb::Status(_)));
        for refused in [
            "naq",
            "naq --version",
            "naq enqueue --help",
            "naq nothing",
            "naq enqueue --nothing",
        ] {
            let whole = parse_with(command(), &words(refused))
                .unwrap_err()
                .to_string();
            assert_eq!(parse(&words(refused)).unwrap_err().to_string(), whole);
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_agrees_with_the_settings_table() {
        use naq_client::config::{FlagScope, SETTINGS, SettingKind};
        let command = command();
        let worker = command.find_subcommand("worker").unwrap();
        for setting in SETTINGS {
            let flag = setting.flag();
            let find = |command: &clap::Command| {
                let mut arguments = command.get_arguments();
                arguments
                    .find(|argument| argument.get_long() == flag.strip_prefix("--"))
                    .cloned()
            };
            let (global, local) = (find(&command), find(worker));
            let dashboard = find(command.find_subcommand("dashboard").unwrap());
            let argument = match setting.flag_scope {
                FlagScope::None => {
                    assert!(global.is_none() && local.is_none(), "{flag}");
                    continue;
                }
                FlagScope::EveryVerb => global.unwrap(),
                FlagScope::Worker => local.unwrap(),
                FlagScope::Dashboard => dashboard.unwrap(),
            };
            assert_eq!(
                argument.get_help().unwrap().to_string(),
                setting_flags::help(setting)
            );
            assert_eq!(argument.get_short(), setting.short_flag, "{flag}");
            let value_names = argument.get_value_names().unwrap_or_default();
            match setting.kind {
                SettingKind::Bool => assert_eq!(setting.value_name, ""),
                _ => assert_eq!(value_names, [setting.value_name], "{flag}"),
            }
        }
    }

    /// Calls `visit` with the path of every verb.
    fn for_each_verb(
        verbs: &clap::Command,
        path: &str,
        visit: &mut impl FnMut(&str, &clap::Command),
    ) {
        for verb in verbs.get_subcommands() {
            let path = format!("{path} {}", verb.get_name())
                .trim_start()
                .to_owned();
            visit(&path, verb);
            for_each_verb(verb, &path, visit);
        }
    }

    #[test]
    fn every_verb_has_two_to_five_examples() {
        let mut verbs = Vec::new();
        for_each_verb(&command(), "", &mut |path, _| {
            verbs.push(path.to_owned());
            let examples = help::examples(path);
            assert!(
                (2..=help::EXAMPLES_MAX).contains(&examples.len()),
                "naq {path}"
            );
            for (what, command) in examples {
                assert!(command.contains("naq "), "{command}");
                assert!(!what.ends_with('.'), "{what}");
            }
        });
        for (verb, _) in examples::EXAMPLES {
            assert!(verbs.iter().any(|known| known == verb), "no verb {verb}");
        }
    }

    /// Help is a sentence without a full stop for each verb and a noun phrase for each option.
    #[test]
    fn every_verb_and_option_has_a_help_text() {
        for_each_verb(&command(), "", &mut |path, verb| {
            let about = verb
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                !about.is_empty() && !about.ends_with('.'),
                "naq {path}: {about}"
            );
            for argument in verb.get_arguments() {
                let help = argument.get_help().map(ToString::to_string);
                let help = help.unwrap_or_default();
                let id = argument.get_id();
                assert!(!help.is_empty(), "naq {path}: {id} has no help");
                assert!(
                    help.chars().next().is_some_and(char::is_uppercase),
                    "naq {path}: {id}: {help}"
                );
                assert!(!help.ends_with('.'), "naq {path}: {id}: {help}");
            }
        });
    }
}
