//! Looking for the runners of this worker's machine, for its heartbeat.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::context::WorkerContext;
use crate::languages::{Language, LanguageState, check_language};

/// How long after its start a worker looks for its runners. Until then it may have jobs to run, and many
/// workers live no longer.
const PROBE_DELAY: Duration = Duration::from_secs(10);

/// How often a worker that runs jobs checks whether it is idle.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the probe of each runner, one at a time, and only while no job runs. A probe takes no slot, and no job
/// depends on the result.
pub(super) async fn run(context: Arc<WorkerContext>) {
    if context.options.single_job.is_some() {
        return;
    }
    tokio::time::sleep(PROBE_DELAY).await;
    let languages = &context.options.languages;
    for language in languages.iter() {
        while !context.leases.is_empty() {
            tokio::time::sleep(IDLE_CHECK_INTERVAL).await;
        }
        let state = check_language(&context.runner, languages, language, true).await;
        note(&context, language, state);
    }
}

fn note(context: &WorkerContext, language: &Language, state: LanguageState) {
    let name = language.name().to_owned();
    match state {
        LanguageState::Found(version) => {
            let mut found = context
                .runners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            found.insert(name, version.unwrap_or_default());
        }
        LanguageState::Absent => {}
        LanguageState::Broken(why) => {
            tracing::debug!(runner = name, "the runner does not work here: {why}");
        }
    }
}
