//! `naq cron`

use std::io::Write;

use clap::Subcommand;

use super::exit::{Exit, Failure};
use super::json;
use super::render;
use super::times::TimeReader;
use super::zoneinfo::ZoneinfoDatabase;
use naq_cron::{Cron, Timezone};
use naq_protocol::Timestamp;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: CronVerb,
}

#[derive(Debug, Subcommand)]
enum CronVerb {
    /// Print the coming times of a cron expression, one per line
    Next {
        #[command(flatten)]
        expression: Expression,
        /// Time after which to start: 18:00, '2026-12-24 18:00' or RFC 3339 [default: now]
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Number of times
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 5,
              value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Explain a cron expression in a sentence
    Explain {
        #[command(flatten)]
        expression: Expression,
    },
}

#[derive(Debug, clap::Args)]
struct Expression {
    /// Cron expression, in quotes: five fields (minute, hour, day of month, month, day of week),
    /// six with seconds first, or a nickname such as @daily
    #[arg(required = true, value_name = "EXPR")]
    words: Vec<String>,
    /// Time zone, such as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
}

impl Expression {
    fn parse(&self) -> Result<Cron, Failure> {
        match &self.words[..] {
            [text] => Cron::parse(text).map_err(|error| Failure::usage(error.to_string())),
            words => {
                // the shell may have replaced a star by the names of files
                let text = words.join(" ");
                let text = match Cron::parse(&text) {
                    Ok(cron) => cron.to_string(),
                    Err(_) => "0 4 * * *".to_owned(),
                };
                let count = words.len();
                Err(
                    Failure::usage(format!("the cron expression is {count} arguments")).hint(
                        format!("quote it, so that the shell does not expand `*`: '{text}'"),
                    ),
                )
            }
        }
    }
}

pub(super) fn run(args: &Args, zones: &ZoneinfoDatabase) -> Result<u8, Failure> {
    let environment = naq_client::config::environment();
    let tz_variable = environment.get("TZ").map(String::as_str);
    match &args.verb {
        CronVerb::Next {
            expression,
            from,
            count,
        } => {
            let cron = expression.parse()?;
            let times = TimeReader::for_queries(tz_variable, expression.tz.as_deref())?;
            let from = match from {
                None => render::now(),
                Some(text) => times.parse("--from", text)?,
            };
            print_next_times(&cron, times.zone()?, from, *count)?;
            note_zone(expression, &times, zones)?;
        }
        CronVerb::Explain { expression } => {
            let cron = expression.parse()?;
            let sentence = cron.explain();
            let zone = TimeReader::for_queries(tz_variable, expression.tz.as_deref())?.zone()?;
            if render::is_json() {
                render::print_json(&json::CronExplanation {
                    cron: cron.as_str(),
                    tz: zone.name(),
                    explanation: &sentence,
                })?;
            } else if zone == Timezone::UTC {
                render::print_line(sentence)?;
            } else {
                let sentence = sentence.trim_end_matches('.');
                render::print_line(format_args!("{sentence} ({zone})."))?;
            }
        }
    }
    Ok(0)
}

/// Prints which zone the times are in, and the release of its rules.
fn note_zone(
    expression: &Expression,
    times: &TimeReader<'_>,
    zones: &ZoneinfoDatabase,
) -> Result<(), Failure> {
    let zone = times.zone()?;
    match expression.tz {
        Some(_) => render::note(format_args!("times are in {zone} ({zones})")),
        None => render::note(format_args!(
            "times are in {zone} ({zones}), the time zone of this machine; --tz names another"
        )),
    }
    Ok(())
}

fn print_next_times(
    cron: &Cron,
    zone: Timezone,
    from: Timestamp,
    count: u32,
) -> Result<(), Failure> {
    let times: Vec<String> = std::iter::successors(cron.next_after(from.0, zone), |last| {
        cron.next_after(*last, zone)
    })
    .take(count as usize)
    .map(|moment| zone.format(moment))
    .collect();
    if times.is_empty() {
        let message = format!("\"{cron}\" does not match again before the year 10000");
        return Err(Failure::new(Exit::NotFound, message));
    }
    if render::is_json() {
        for time in times {
            render::print_json(&json::CronTime { time })?;
        }
    } else {
        writeln!(std::io::stdout().lock(), "{}", times.join("\n"))?;
    }
    Ok(())
}
