//! The options of a single verb, for the command line that names it.
//!
//! The options of all verbs are some thousand objects, and to build them takes longer than most verbs
//! take to do their work. So a command line is first parsed with those of the verb that it seems to
//! name. What this cannot parse, such as a request for help, is parsed with the options of all.

use clap::{Args, Command};

use super::session::GlobalOptions;
use super::{
    artifacts, audit, bench, cancel, completions, config, cron, dashboard, dev, enqueue, events,
    failed, health, job, job_control, jobs, logs, man, nats_config, purge, queue, report, result,
    retry, run, runner, schedule, scheduler, schema, server, status, version, wait, why, worker,
    workers,
};

/// The program's options and those of the verb that the words seem to name: the first that is the name of
/// one. It may be the value of an option in fact. Then the words do not parse, since the verb
/// that they mean is missing. `None` if no word is the name of a verb.
pub(super) fn for_words<'w>(words: impl Iterator<Item = &'w str>) -> Option<Command> {
    let mut named = words.filter_map(|word| Some((word, arguments_of(word)?)));
    let (name, add_arguments) = named.next()?;
    let verb = add_arguments(Command::new(name.to_owned()));
    let program = GlobalOptions::augment_args(Command::new("naq"));
    Some(program.subcommand_required(true).subcommand(verb))
}

/// What adds a verb's arguments to its command.
fn arguments_of(verb: &str) -> Option<fn(Command) -> Command> {
    Some(match verb {
        "run" => run::Args::augment_args,
        "enqueue" => enqueue::Args::augment_args,
        "status" => status::Args::augment_args,
        "why" => why::Args::augment_args,
        "result" => result::Args::augment_args,
        "progress" => report::ProgressArgs::augment_args,
        "checkpoint" => report::CheckpointArgs::augment_args,
        "logs" => logs::Args::augment_args,
        "artifacts" => artifacts::Args::augment_args,
        "wait" => wait::Args::augment_args,
        "cancel" => cancel::Args::augment_args,
        "retry" => retry::Args::augment_args,
        "jobs" => jobs::Args::augment_args,
        "job" => job::Args::augment_args,
        "failed" => failed::Args::augment_args,
        "audit" => audit::Args::augment_args,
        "events" => events::Args::augment_args,
        "schedule" => schedule::Args::augment_args,
        "schedules" => schedule::list::Args::augment_args,
        "queue" => queue::Args::augment_args,
        "queues" => queue::ListArgs::augment_args,
        "runner" => runner::Args::augment_args,
        "purge" => purge::Args::augment_args,
        "workers" => workers::Args::augment_args,
        "worker" => worker::Args::augment_args,
        "scheduler" => scheduler::Args::augment_args,
        "dashboard" => dashboard::Args::augment_args,
        "dev" => dev::Args::augment_args,
        "health" => health::Args::augment_args,
        "server" => server::Args::augment_args,
        "nats-config" => nats_config::Args::augment_args,
        "config" => config::Args::augment_args,
        "cron" => cron::Args::augment_args,
        "schema" => schema::Args::augment_args,
        "bench" => bench::Args::augment_args,
        "completions" => completions::Args::augment_args,
        "man" => man::Args::augment_args,
        "version" => version::Args::augment_args,
        "list-scheduled" => schedule::list::Args::augment_args,
        "job-control" => job_control::Args::augment_args,
        "list-workers" => workers::ListArgs::augment_args,
        _ => return None,
    })
}
