//! The command line: arguments in, text and exit codes out. One verb, one file.
//!
//! This room prints, and no other does. It is also the only one that sees `config`.

mod bench;
mod cancel;
mod completions;
mod config;
mod cron;
mod dev;
mod enqueue;
mod events;
mod exit;
mod failed;
mod job_control;
mod job_options;
mod jobs;
mod list_scheduled;
mod list_workers;
mod logs;
mod progress;
mod purge;
mod queues;
mod render;
mod result;
mod retry;
mod run;
mod schedule;
mod schedule_options;
mod scheduler;
mod schema;
mod server;
mod session;
mod signals;
mod status;
mod ttl;
mod wait;
mod worker;
mod worker_options;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use exit::Failure;
use session::{GlobalOptions, Session};

/// Run any command as a job: queued on NATS, run by workers, its output kept.
#[derive(Debug, Parser)]
#[command(
    name = "naq",
    version,
    disable_help_subcommand = true,
    after_help = "First steps:  naq run -- echo hello      one job, everything in one process\n              naq dev                  a local server and a worker to play with\n              naq enqueue -- ./job.sh  a job for a worker; `naq worker` is one\n\nExit codes: 0 done, 1 failed, 2 bad usage, 3 no NATS, 4 not found, 5 conflict,\n6 refused envelope, 7 full, 124 timed out; `run` passes on its job's code."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command as a job, here and now, and pass on its output and exit code
    Run(run::Args),
    /// Put jobs into a queue
    Enqueue(enqueue::Args),
    /// Enqueue a job again and again: at times of day, or so far apart
    Schedule(Box<schedule::Args>),
    /// Take jobs from queues and run them
    Worker(worker::Args),
    /// Run a local server and a worker in the foreground, to develop with
    Dev(dev::Args),
    /// Show a job: state, times, outcome
    Status(status::Args),
    /// Print what a job wrote to standard output
    Result(result::Args),
    /// Wait until jobs have ended
    Wait(wait::Args),
    /// List jobs in whatever state, the one that changed last first
    Jobs(jobs::Args),
    /// Print changes of jobs' states, or act on them
    Events(events::Args),
    /// List, show, run again and discard failed jobs
    Failed(failed::Args),
    /// Run ended jobs again, as new jobs
    Retry(retry::Args),
    /// Set how long an ended job's record stays
    Ttl(ttl::Args),
    /// Print a job's output, as it comes with -f
    Logs(logs::Args),
    /// Cancel jobs: those that wait end at once, those that run are stopped
    Cancel(cancel::Args),
    /// List what is scheduled: when it runs next, and how it did
    ListScheduled(list_scheduled::Args),
    /// Cancel, pause, resume or change a schedule or a job that is held until its time, or run it now
    JobControl(job_control::Args),
    /// Enqueue the jobs of schedules when they are due; several may run, one leads
    Scheduler(scheduler::Args),
    /// List the workers
    ListWorkers(list_workers::Args),
    /// List, add, set, pause, resume and remove queues
    Queues(queues::Args),
    /// Remove every job of queues
    Purge(purge::Args),
    /// Start, stop and inspect the managed local nats-server
    Server(server::Args),
    /// Print every setting, its value and where it comes from
    Config(config::Args),
    /// Show when a cron expression comes true, and what it means
    Cron(cron::Args),
    /// Print the JSON Schema of a wire type
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Measure this machine and this server
    Bench(bench::Args),
}

/// The verbs and their options.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("schedule", |verb| {
        // taken so that the refusal can say what to use
        let verb = verb.mut_arg("id", |option| option.hide(true));
        verb.mut_arg("expires_at", |option| option.hide(true))
    })
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // both are tiny processes of their own: before anything else is set up
    match std::env::args_os().nth(1) {
        Some(first) if first == "__spawner" => naq_runner::spawner_main(),
        Some(first) if first == naq_runner::SPAWN_LIMIT_ARGUMENT => naq_runner::spawn_limit_main(),
        Some(first) if first == crate::local_server::SUPERVISOR_ARGUMENT => {
            crate::local_server::supervisor_main()
        }
        _ => {}
    }
    let cli = match command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => cli,
        Err(error) => {
            // help and version are not errors, and go to stdout
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(json),
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    // verbs that need nothing around them
    match &cli.verb {
        Verb::Cron(args) => return cron::run(args, cli.global.json),
        Verb::Schema(args) => return schema::run(args),
        Verb::Completions(args) => return completions::run(args, &mut command()),
        _ => {}
    }
    let log_jobs = matches!(cli.verb, Verb::Dev(_));
    let session = Session::open(&cli.global, log_jobs)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    let code = runtime.block_on(async {
        match cli.verb {
            Verb::Run(args) => run::run(&session, args).await,
            Verb::Enqueue(args) => enqueue::run(&session, args).await,
            Verb::Schedule(args) => schedule::run(&session, *args).await,
            Verb::Worker(args) => worker::run(&session, args).await,
            Verb::Dev(args) => dev::run(&session, args).await,
            Verb::Status(args) => status::run(&session, args).await,
            Verb::Result(args) => result::run(&session, args).await,
            Verb::Wait(args) => wait::run(&session, args).await,
            Verb::Jobs(args) => jobs::run(&session, args).await,
            Verb::Events(args) => events::run(&session, args).await,
            Verb::Failed(args) => failed::run(&session, args).await,
            Verb::Retry(args) => retry::run(&session, args).await,
            Verb::Ttl(args) => ttl::run(&session, args).await,
            Verb::Logs(args) => logs::run(&session, args).await,
            Verb::Cancel(args) => cancel::run(&session, args).await,
            Verb::ListScheduled(args) => list_scheduled::run(&session, args).await,
            Verb::JobControl(args) => job_control::run(&session, args).await,
            Verb::Scheduler(args) => scheduler::run(&session, args).await,
            Verb::ListWorkers(args) => list_workers::run(&session, args).await,
            Verb::Queues(args) => queues::run(&session, args).await,
            Verb::Purge(args) => purge::run(&session, args).await,
            Verb::Server(args) => server::run(&session, args).await,
            Verb::Config(args) => config::run(&session, &args),
            Verb::Bench(args) => bench::run(&session, args).await,
            Verb::Cron(_) | Verb::Schema(_) | Verb::Completions(_) => Ok(0),
        }
    });
    // a reader of standard input may sit in a thread that nothing can wake
    runtime.shutdown_background();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }
}
