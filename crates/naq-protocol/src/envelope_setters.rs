//! Setters of the fields that most producers set, to write an envelope as one expression. All other
//! fields are public.

use std::time::Duration;

use crate::dependency::{Dependency, DependencyCondition};
use crate::envelope::Envelope;
use crate::names::{InputName, InvalidName, JobId};
use crate::retry::RetryDelay;

impl Envelope {
    /// Sets the job's id. Enqueueing the same envelope again under an id that the producer chose has no
    /// effect, so a producer may repeat a request whose answer it did not get.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use naq_protocol::{Envelope, InvalidName};
    ///
    /// # fn example() -> Result<Envelope, InvalidName> {
    /// let envelope = Envelope::command("make", ["all"])
    ///     .with_job_id("build-4711")?
    ///     .with_cwd("/srv/build")
    ///     .with_timeout(Duration::from_secs(600))
    ///     .with_max_retries(2);
    /// # Ok(envelope)
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`InvalidName`] if the id is not 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    pub fn with_job_id(mut self, job_id: impl AsRef<str>) -> Result<Envelope, InvalidName> {
        self.job_id = Some(JobId::from_user(job_id)?);
        Ok(self)
    }

    /// Sets the text that the program receives on standard input.
    #[must_use]
    pub fn with_stdin(mut self, text: impl Into<String>) -> Envelope {
        self.stdin = Some(text.into());
        self
    }

    /// Adds a variable to the job's environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Envelope {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn with_cwd(mut self, folder: impl Into<String>) -> Envelope {
        self.cwd = Some(folder.into());
        self
    }

    /// Sets the longest duration of one attempt.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Envelope {
        self.timeout = Some(timeout.into());
        self
    }

    /// Sets the number of retries after the first attempt.
    #[must_use]
    pub fn with_max_retries(mut self, max_retries: u32) -> Envelope {
        self.max_retries = Some(max_retries);
        self
    }

    /// Sets the wait before a retry.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Envelope {
        self.retry_delay = Some(RetryDelay::Single(delay.into()));
        self
    }

    /// Adds a job that must succeed before this one starts.
    #[must_use]
    pub fn with_dependency(mut self, job: JobId) -> Envelope {
        self.depends_on
            .push(Dependency::new(job, DependencyCondition::Success));
        self
    }

    /// Adds a job that must succeed before this one starts, and whose output this one gets in the folder
    /// `name` of NAQ_INPUTS.
    #[must_use]
    pub fn with_input(mut self, job: JobId, name: InputName) -> Envelope {
        self.depends_on.push(Dependency {
            as_name: Some(name),
            ..Dependency::new(job, DependencyCondition::Success)
        });
        self
    }

    /// Sets how long the record stays after the job has finished. Zero means forever.
    #[must_use]
    pub fn with_result_ttl(mut self, result_ttl: Duration) -> Envelope {
        self.result_ttl = Some(result_ttl.into());
        self
    }

    /// Lets the job run past the end of its lease during an outage of NATS, if its worker allows
    /// that, although another attempt may run by then.
    #[must_use]
    pub fn with_overlap_ok(mut self) -> Envelope {
        self.overlap_ok = Some(true);
        self
    }

    /// Adds a label, for filters.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Envelope {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Adds a label that a worker must have to run the job.
    #[must_use]
    pub fn with_required_label(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Envelope {
        self.requires.insert(name.into(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_setters_write_the_fields_of_the_wire_format() {
        let envelope = Envelope::command("make", ["all"])
            .with_job_id("build-1")
            .unwrap()
            .with_stdin("text")
            .with_env("LANG", "C")
            .with_cwd("/srv")
            .with_timeout(Duration::from_millis(1_500))
            .with_max_retries(3)
            .with_retry_delay(Duration::from_secs(10))
            .with_dependency(JobId::from_user("fetch-1").unwrap())
            .with_input(
                JobId::from_user("fetch-2").unwrap(),
                InputName::new("second").unwrap(),
            )
            .with_result_ttl(Duration::ZERO)
            .with_overlap_ok()
            .with_label("team", "a")
            .with_required_label("gpu", "yes");
        envelope.validate().unwrap();
        let read = Envelope::parse(
            br#"{"command": "make", "args": ["all"], "job_id": "build-1", "stdin": "text",
                "env": {"LANG": "C"}, "cwd": "/srv", "timeout": "1500ms", "max_retries": 3,
                "retry_delay": 10, "depends_on": ["fetch-1", {"job": "fetch-2", "as": "second"}], "result_ttl": 0, "overlap_ok": true,
                "labels": {"team": "a"}, "requires": {"gpu": "yes"}}"#,
        );
        assert_eq!(
            serde_json::to_value(&envelope).unwrap(),
            serde_json::to_value(read.unwrap()).unwrap()
        );
        assert!(Envelope::default().with_job_id("a b").is_err());
    }
}
