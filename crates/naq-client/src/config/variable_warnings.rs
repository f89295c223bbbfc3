//! Warnings about environment variables.

use naq_protocol::closest_match;

use super::error::Warning;
use super::process_env::ProcessEnv;
use super::settings_table::{
    CONFIG_FILE_VARIABLE, JOB_ID_VARIABLE, JOB_VARIABLES, REMOVED, RUNNER_PROGRAM_VARIABLES,
    SETTINGS, TIMEZONE_FOLDER_VARIABLE,
};

/// Warnings about variables that look like settings but are not.
pub(super) fn variable_warnings(env: &ProcessEnv) -> Vec<Warning> {
    let in_a_job = env.variable(JOB_ID_VARIABLE).is_some();
    let known = |name: &str| {
        name == CONFIG_FILE_VARIABLE
            || name == TIMEZONE_FOLDER_VARIABLE
            || RUNNER_PROGRAM_VARIABLES.contains(&name)
            || (in_a_job && JOB_VARIABLES.contains(&name))
            || SETTINGS.iter().any(|setting| setting.variable == name)
    };
    let removed = |name: &str| {
        REMOVED.iter().find(|(old, _)| match old.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *old == name,
        })
    };
    env.environment
        .keys()
        .filter(|name| name.starts_with("NAQ_") && !known(name))
        .map(|name| match removed(name) {
            Some((_, instead)) => Warning::RemovedVariable {
                name: name.clone(),
                instead,
            },
            None => Warning::UnknownVariable {
                name: name.clone(),
                closest_match: closest_match(name, SETTINGS.iter().map(|setting| setting.variable)),
            },
        })
        .collect()
}
