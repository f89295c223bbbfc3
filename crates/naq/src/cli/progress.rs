//! ProgressBars that show how far jobs are, on a terminal.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::render;
use naq_protocol::{JobId, JobProgress, Record};

/// The most bars shown at once: more than this is no help to anybody.
const BARS_MAX: usize = 8;

/// A bar for each job that tells of its progress. Drawn on standard error where that is a
/// terminal, and nowhere else.
pub(super) struct ProgressBars {
    all: MultiProgress,
    shown: HashMap<JobId, ProgressBar>,
}

impl ProgressBars {
    pub(super) fn new() -> ProgressBars {
        ProgressBars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
            shown: HashMap::new(),
        }
    }

    /// Shows a job's progress. Its bar appears with its first progress and disappears when the job
    /// ends.
    pub(super) fn update(&mut self, record: &Record) {
        if record.state().is_terminal() {
            if let Some(bar) = self.shown.remove(&record.job_id) {
                bar.finish_and_clear();
            }
        } else if let Some(progress) = &record.progress {
            self.show(&record.job_id, progress);
        }
    }

    /// Shows how far a job is.
    pub(super) fn show(&mut self, job: &JobId, progress: &JobProgress) {
        if !self.shown.contains_key(job) {
            if self.shown.len() >= BARS_MAX {
                return;
            }
            let bar = self.all.add(ProgressBar::new(100));
            if let Ok(style) = ProgressStyle::with_template("{prefix}  {bar:30} {pos:>3}%  {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(job.to_string());
            self.shown.insert(job.clone(), bar);
        }
        let Some(bar) = self.shown.get(job) else {
            return;
        };
        if let Some(percent) = progress.percent {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 100"
            )]
            bar.set_position(percent.round() as u64);
        }
        let message = progress.message.as_deref().unwrap_or_default();
        bar.set_message(render::excerpt(&render::escape(message), 60));
    }

    /// Does something that prints, with the bars out of its way.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.all.suspend(print)
    }

    /// Takes every bar away.
    pub(super) fn clear(&mut self) {
        for (_, bar) in self.shown.drain() {
            bar.finish_and_clear();
        }
    }
}
