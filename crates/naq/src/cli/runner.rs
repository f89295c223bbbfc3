//! `naq runner`: the runners of scripts and functions.

use std::path::PathBuf;

use clap::Subcommand;

use super::exit::{Exit, Failure};
use super::installed_runners::languages;
use super::json::RunnerReport;
use super::render::{self, Column};
use super::session::Session;
use super::worker_options::WorkerOptions;
use crate::languages::{Language, LanguageState, Languages, check_language};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<RunnerVerb>,
    /// Folder of further runners [default: the setting `runners_dir`]
    #[arg(long, value_name = "DIR", global = true)]
    runners_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum RunnerVerb {
    /// List runners (the default)
    List,
    /// Print the manifest of a runner
    Show {
        /// Runner's name
        #[arg(value_name = "RUNNER")]
        runner: String,
        /// Print its shim instead, which calls functions
        #[arg(long)]
        shim: bool,
    },
    /// Check which runners work on this machine
    ///
    /// Starts the program of each runner as a worker would start it for a job, and asks for its version. Exits
    /// with 1 if a runner that was named does not work.
    Check {
        /// Runners' names [default: all]
        #[arg(value_name = "RUNNER")]
        runners: Vec<String>,
    },
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let languages = languages(session, args.runners_dir.as_ref())?;
    match args.verb.unwrap_or(RunnerVerb::List) {
        RunnerVerb::List => list(session, &languages),
        RunnerVerb::Show { runner, shim } => {
            let language = named(&languages, &runner)?;
            let text = match shim {
                true => language.shim_text().ok_or_else(|| {
                    Failure::new(
                        Exit::NotFound,
                        format!("the runner `{runner}` has no shim: it calls no functions"),
                    )
                })?,
                false => language.manifest_text(),
            };
            render::tolerate_closed_output(render::print_line(text.trim_end()))?;
            Ok(0)
        }
        RunnerVerb::Check { runners } => check(session, &languages, &runners).await,
    }
}

fn named<'l>(languages: &'l Languages, name: &str) -> Result<&'l Language, Failure> {
    languages.get(name).ok_or_else(|| {
        let known: Vec<&str> = languages.names().collect();
        let failure = Failure::new(Exit::NotFound, format!("no runner `{name}`"));
        failure.hint(format!("there are {}", known.join(", ")))
    })
}

/// What a runner can do, without looking at this machine.
fn report(language: &Language) -> RunnerReport {
    RunnerReport {
        name: language.name().to_owned(),
        scripts: language.runs_scripts(),
        functions: language.calls_functions(),
        warm: language
            .warm_modes()
            .iter()
            .map(|mode| mode.name().to_owned())
            .collect(),
        extensions: language.extensions().to_vec(),
        tested: language.tested().to_vec(),
        folder: language.folder().map(|folder| folder.display().to_string()),
        works: None,
        version: None,
        problem: None,
    }
}

fn list(session: &Session, languages: &Languages) -> Result<u8, Failure> {
    let reports: Vec<RunnerReport> = languages.iter().map(report).collect();
    if session.json {
        for report in &reports {
            render::print_json(report)?;
        }
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
    render::print_table(
        &[
            Column::new("RUNNER"),
            Column::new("EXTENSIONS"),
            Column::new("RUNS"),
            Column::new("WARM"),
            Column::new("TESTED"),
            Column::new("FROM").optional(1),
        ],
        &rows,
    )?;
    Ok(0)
}

fn row(report: &RunnerReport) -> Vec<String> {
    let runs = match (report.scripts, report.functions) {
        (true, true) => "scripts, functions",
        (true, false) => "scripts",
        (false, _) => "functions",
    };
    vec![
        report.name.clone(),
        render::or_dash(report.extensions.join(" ")),
        runs.to_owned(),
        render::or_dash(report.warm.join(", ")),
        tested(&report.tested),
        report.folder.clone().unwrap_or_else(|| "naq".to_owned()),
    ]
}

/// The versions that a runner was tested with.
fn tested(versions: &[String]) -> String {
    match versions {
        [] => "untested".to_owned(),
        [from, to] if from != to => format!("{from} to {to}"),
        [one, ..] => one.clone(),
    }
}

async fn check(session: &Session, languages: &Languages, names: &[String]) -> Result<u8, Failure> {
    let chosen: Vec<&Language> = match names {
        [] => languages.iter().collect(),
        names => {
            let chosen = names.iter().map(|name| named(languages, name));
            chosen.collect::<Result<_, _>>()?
        }
    };
    let runner = WorkerOptions::single_slot().start_runner(session).await?;
    let mut reports = Vec::new();
    for language in chosen {
        let mut report = report(language);
        let state = check_language(&runner, languages, language, false).await;
        report.works = Some(matches!(state, LanguageState::Found(_)));
        match state {
            LanguageState::Found(version) => report.version = version,
            LanguageState::Absent => {
                let programs = language.programs().join(", ");
                report.problem = Some(format!("not found: {programs}"));
            }
            LanguageState::Broken(why) => report.problem = Some(why),
        }
        if session.json {
            render::print_json(&report)?;
        }
        reports.push(report);
    }
    runner.shutdown().await;
    if !session.json {
        print_states(&reports)?;
    }
    let all_work = reports.iter().all(|report| report.works == Some(true));
    match names.is_empty() || all_work {
        true => Ok(0),
        false => Ok(Exit::Failed as u8),
    }
}

fn print_states(reports: &[RunnerReport]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let works = report.works == Some(true);
            vec![
                report.name.clone(),
                if works { "works" } else { "does not work" }.to_owned(),
                render::or_dash(report.version.clone().unwrap_or_default()),
                tested(&report.tested),
                render::or_dash(report.problem.clone().unwrap_or_default()),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("RUNNER"),
            Column::new("HERE"),
            Column::new("VERSION"),
            Column::new("TESTED"),
            Column::new("PROBLEM"),
        ],
        &rows,
    )?;
    Ok(())
}
