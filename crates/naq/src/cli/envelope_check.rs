//! What workers will refuse or ignore in an envelope, reported when it is enqueued.

use std::collections::HashSet;

use super::exit::{Exit, Failure};
use super::render;
use super::session::Session;
use naq_protocol::{Envelope, closest_match, escape};
use naq_runner::is_env_denied;

/// Maximum number of different warnings, which may be as many as a file has envelopes.
const WARNINGS_MAX: usize = 20;

/// A check of envelopes by the functions that workers call.
#[derive(Default)]
pub(super) struct EnvelopeCheck {
    /// Whether a warning is an error.
    strict: bool,
    /// Variables that the workers' `--allow-env` permits, as far as the settings here say.
    allow_env: Vec<String>,
    /// The warnings so far. Each is printed once.
    warned: HashSet<String>,
}

impl EnvelopeCheck {
    pub(super) fn new(session: &Session, strict: bool) -> EnvelopeCheck {
        EnvelopeCheck {
            strict,
            allow_env: session.settings().allow_env.clone(),
            warned: HashSet::new(),
        }
    }

    /// Checks a valid envelope. `place` says where it is, such as `line 3`; empty if it is the only one.
    ///
    /// # Errors
    /// Returns a [`Failure`] for each warning if the check is strict.
    pub(super) fn check(&mut self, envelope: &Envelope, place: &str) -> Result<(), Failure> {
        for name in envelope.unknown.names() {
            let meant = closest_match(name, Envelope::field_names().iter().copied())
                .map(|field| format!("; did you mean `{field}`?"))
                .unwrap_or_default();
            let name = escape(name);
            self.warn(
                place,
                format!("workers ignore the unknown field `{name}`{meant}"),
            )?;
        }
        for name in envelope.env.keys() {
            if is_env_denied(name, &self.allow_env) {
                let name = escape(name);
                self.warn(
                    place,
                    format!("workers refuse a job that sets `env.{name}`, unless they run with --allow-env {name}"),
                )?;
            }
        }
        Ok(())
    }

    fn warn(&mut self, place: &str, warning: String) -> Result<(), Failure> {
        if self.strict {
            return Err(refused(place, &warning));
        }
        if self.warned.len() < WARNINGS_MAX && self.warned.insert(warning.clone()) {
            render::note(with_place(place, &warning));
            if self.warned.len() == WARNINGS_MAX {
                render::note("further warnings about envelopes are not shown");
            }
        }
        Ok(())
    }
}

fn refused(place: &str, why: &str) -> Failure {
    Failure::new(Exit::Refused, with_place(place, why))
}

fn with_place(place: &str, text: &str) -> String {
    match place {
        "" => text.to_owned(),
        place => format!("{place}: {text}"),
    }
}
