//! The definition of a schedule: what its user chooses, in the form in which the API and the page take it.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::api::submit::check_envelope;
use super::hidden_values::{hide_values, restore_values};
use super::precondition::{Etag, Precondition};
use super::problem::{self, Problem};
use super::state::Web;
use super::tokens::Tokens;
use naq_client::{NewSchedule, PutSchedule, Recurrence};
use naq_protocol::units::WireDuration;
use naq_protocol::{Envelope, Misfire, Overlap, QueueName, Schedule, ScheduleId, Timestamp};

/// The definition of a schedule: the queue and the envelope of its jobs, and when its ticks are.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "schedule_definition")]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleDefinition {
    /// The queue of its jobs.
    pub(super) queue: QueueName,
    /// The envelope of each of its jobs, without an id and without `expires_at`. The value `***` of a variable
    /// stands for the stored one.
    #[schemars(with = "Envelope")]
    pub(super) envelope: Box<RawValue>,
    /// The cron expression. Either `cron` or `every` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cron: Option<String>,
    /// The IANA time zone of `cron`; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tz: Option<String>,
    /// The interval between two ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) every: Option<WireDuration>,
    /// How many jobs it enqueues in total; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) repeat: Option<u64>,
    /// The time of the earliest tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Timestamp>,
    /// The time of the latest tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<Timestamp>,
    /// The longest random delay of a tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jitter: Option<WireDuration>,
    /// What to do with late ticks; `once` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) misfire: Option<Misfire>,
    /// The most late ticks that are enqueued under `all`; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) misfire_max: Option<NonZeroU32>,
    /// How late a tick may be and still be on time; a minute if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) misfire_grace: Option<WireDuration>,
    /// What to do with a tick while the previous job has not ended; `allow` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) overlap: Option<Overlap>,
}

impl ScheduleDefinition {
    /// Parses the body of a request.
    ///
    /// # Errors
    /// Returns a problem that names the wrong field.
    pub(super) fn parse(body: &[u8]) -> Result<ScheduleDefinition, Problem> {
        // serde reads the fields of a struct from an array too
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::new(&problem::REFUSED, "the body is not an object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = serde_path_to_error::deserialize(&mut deserializer);
        let definition = parsed.map_err(|error| {
            let path = error.path().to_string();
            let pointer = problem::pointer(if path == "." { "" } else { &path });
            Problem::new(&problem::REFUSED, error.into_inner().to_string()).at(&pointer)
        })?;
        let rest = deserializer.end();
        rest.map_err(|error| Problem::new(&problem::REFUSED, error.to_string()))?;
        Ok(definition)
    }

    /// The definition of a stored schedule, without the values of its variables. `None` if its envelope is no
    /// object.
    pub(super) fn of(schedule: &Schedule) -> Option<ScheduleDefinition> {
        let envelope = hide_values(&schedule.envelope)?;
        Some(ScheduleDefinition {
            envelope,
            ..ScheduleDefinition::with_values(schedule)
        })
    }

    fn with_values(schedule: &Schedule) -> ScheduleDefinition {
        let Schedule {
            queue, envelope, ..
        } = schedule.clone();
        ScheduleDefinition {
            queue,
            envelope,
            cron: schedule.cron.clone(),
            tz: schedule.tz.clone(),
            every: schedule.every,
            repeat: schedule.repeat,
            start: schedule.start,
            end: schedule.end,
            jitter: schedule.jitter,
            misfire: Some(schedule.misfire),
            misfire_max: schedule.misfire_max.and_then(NonZeroU32::new),
            misfire_grace: schedule.misfire_grace,
            overlap: Some(schedule.overlap),
        }
    }

    /// The schedule of this definition, checked as `naq schedule` checks it. `present` is the stored schedule, from
    /// which hidden values are taken.
    ///
    /// # Errors
    /// Returns a problem that names the wrong field.
    fn to_schedule(
        &self,
        schedule_id: &ScheduleId,
        present: Option<&Schedule>,
        now: Timestamp,
    ) -> Result<Schedule, Problem> {
        let mut envelope = check_envelope(self.envelope.get().as_bytes(), "/envelope")?;
        let stored =
            present.and_then(|present| Envelope::parse(present.envelope.get().as_bytes()).ok());
        let stored = stored.map(|stored| stored.env).unwrap_or_default();
        restore_values(&mut envelope.env, &stored, "/envelope").map_err(Problem::of_fields)?;
        let recurrence = match (&self.cron, self.every) {
            (Some(expression), None) => Recurrence::Cron {
                expression: expression.clone(),
                tz: self.tz.clone(),
            },
            (None, Some(every)) if self.tz.is_none() => Recurrence::Every(every.0),
            (None, Some(_)) => {
                let detail = "an interval is the same in every time zone; use `tz` with `cron`";
                return Err(Problem::new(&problem::REFUSED, detail).at("/tz"));
            }
            (None, None) => {
                let detail = "neither `cron` nor `every` is set; set one of the two";
                return Err(Problem::new(&problem::REFUSED, detail).at("/cron"));
            }
            (Some(_), Some(_)) => {
                let detail = "`cron` is set as well; set one of the two";
                return Err(Problem::new(&problem::REFUSED, detail).at("/every"));
            }
        };
        let mut new = NewSchedule::new(recurrence, envelope);
        new.schedule_id = Some(schedule_id.clone());
        new.repeat = self.repeat;
        new.start = self.start;
        new.end = self.end;
        new.jitter = self.jitter.map(|jitter| jitter.0);
        new.misfire = self.misfire.unwrap_or_default();
        new.misfire_max = self.misfire_max.map(NonZeroU32::get);
        new.misfire_grace = self.misfire_grace.map(|grace| grace.0);
        new.overlap = self.overlap.unwrap_or_default();
        Ok(new.to_schedule(&self.queue, now)?)
    }
}

/// The version of a stored schedule, which is `None` if it cannot be read.
pub(super) fn etag_of(tokens: &Tokens, schedule: Option<&Schedule>, revision: u64) -> Etag {
    let definition = schedule.map(ScheduleDefinition::with_values);
    let bytes = definition.and_then(|definition| serde_json::to_vec(&definition).ok());
    Etag {
        revision,
        // With a key: the definition has values of variables that readers must not guess.
        digest: bytes
            .map(|bytes| tokens.keyed_digest("schedule", &bytes))
            .unwrap_or_default(),
    }
}

/// Creates a schedule, or replaces it if the precondition holds for what is stored. The same definition again is
/// accepted whatever the precondition says, so that a request can be repeated.
///
/// # Errors
/// Returns a problem of the kind 412 or 428 if the precondition does not hold, and 422 if the definition is
/// invalid.
pub(super) async fn put(
    web: &Web,
    schedule_id: &ScheduleId,
    definition: &ScheduleDefinition,
    precondition: &Precondition,
    is_dry: bool,
) -> Result<(PutSchedule, Etag), Problem> {
    let tokens = &web.config.tokens;
    let now = crate::clock::now();
    let put = web.client.put_schedule(schedule_id, is_dry, |present| {
        let stored = present.map(|(schedule, _)| schedule);
        let wanted = definition.to_schedule(schedule_id, stored, now)?;
        let is_same = stored.is_some_and(|stored| is_same_definition(stored, &wanted));
        if !(is_same && *precondition != Precondition::Absent) {
            let version = present.map(|(schedule, at)| etag_of(tokens, Some(schedule), at));
            precondition.check_replacement(version.as_ref())?;
        }
        Ok::<_, Problem>(wanted)
    });
    let put = put.await?;
    let etag = etag_of(tokens, Some(&put.schedule), put.revision);
    Ok((put, etag))
}

fn is_same_definition(stored: &Schedule, wanted: &Schedule) -> bool {
    naq_core::differing_fields(stored, wanted).is_empty()
}

/// Deletes a schedule if the precondition holds for what is stored. With `is_dry` it is only checked.
///
/// # Errors
/// Returns a problem of the kind 404 if it does not exist, and 412 if the precondition does not hold.
pub(super) async fn delete(
    web: &Web,
    schedule_id: &ScheduleId,
    precondition: &Precondition,
    is_dry: bool,
) -> Result<(), Problem> {
    let check = |schedule: Option<&Schedule>, revision| {
        let version = etag_of(&web.config.tokens, schedule, revision);
        precondition.check(Some(&version))
    };
    web.client
        .delete_schedule_if(schedule_id, is_dry, check)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::ScheduleStatus;

    fn id() -> ScheduleId {
        ScheduleId::new("nightly").unwrap()
    }

    fn now() -> Timestamp {
        "2026-12-24T17:00:00Z".parse().unwrap()
    }

    fn stored(body: &str) -> Schedule {
        let definition = ScheduleDefinition::parse(body.as_bytes()).unwrap();
        definition.to_schedule(&id(), None, now()).unwrap()
    }

    const BODY: &str = r#"{"queue":"build","envelope":{"command":"./backup.sh","env":{"TOKEN":"hunter2"}},
        "cron":"0 3 * * *","tz":"Europe/Berlin","overlap":"skip"}"#;

    /// The status and the pointer of the problem of a body.
    fn refusal(body: &str, present: Option<&Schedule>) -> String {
        let refused = ScheduleDefinition::parse(body.as_bytes())
            .and_then(|definition| definition.to_schedule(&id(), present, now()))
            .unwrap_err();
        assert_eq!(refused.status(), 422, "{refused:?}");
        let body = serde_json::to_value(refused.into_body()).unwrap();
        body["errors"][0]["pointer"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_definition_is_read_back_without_the_values_of_variables() {
        let schedule = stored(BODY);
        assert_eq!(schedule.status, ScheduleStatus::Active);
        let shown = serde_json::to_string(&ScheduleDefinition::of(&schedule)).unwrap();
        assert!(
            !shown.contains("hunter2") && shown.contains("\"***\""),
            "{shown}"
        );
        let again = ScheduleDefinition::parse(shown.as_bytes()).unwrap();
        let again = again.to_schedule(&id(), Some(&schedule), now()).unwrap();
        assert!(is_same_definition(&schedule, &again));
        assert!(again.envelope.get().contains("hunter2"));
    }

    #[test]
    fn each_wrong_field_of_a_definition_is_named() {
        let with = |field: &str, value: &str| {
            let mut body: serde_json::Value = serde_json::from_str(BODY).unwrap();
            body[field] = serde_json::from_str(value).unwrap();
            refusal(&body.to_string(), None)
        };
        for (field, value, pointer) in [
            ("cron", "\"61 * * * *\"", "/cron"),
            ("cron", "null", "/cron"),
            ("every", "\"5m\"", "/every"),
            ("tz", "\"Mars/Olympus\"", "/tz"),
            ("repeat", "0", "/repeat"),
            ("repeat", "-1", "/repeat"),
            ("end", "\"2020-01-01T00:00:00Z\"", "/end"),
            ("misfire", "\"latest\"", "/misfire"),
            ("overlap", "\"limit\"", "/overlap"),
            ("misfire_max", "0", "/misfire_max"),
            ("misfire_max", "10001", "/misfire_max"),
            ("jitter", "\"soon\"", "/jitter"),
            ("queue", "\"a.b\"", "/queue"),
            ("envelope", "{}", "/envelope"),
            (
                "envelope",
                "{\"command\":\"a\",\"args\":[1,{}]}",
                "/envelope/args/1",
            ),
            (
                "envelope",
                "{\"command\":\"a\",\"job_id\":\"b\"}",
                "/envelope/job_id",
            ),
            (
                "envelope",
                "{\"command\":\"a\",\"env\":{\"A/B\":\"***\"}}",
                "/envelope/env/A~1B",
            ),
        ] {
            assert_eq!(with(field, value), pointer, "{field}: {value}");
        }
        // what the scheduler writes is no part of a definition
        assert_eq!(with("status", "\"paused\""), "/status");
        let every = r#"{"queue":"q","envelope":{"command":"a"},"every":"5m","tz":"Europe/Berlin"}"#;
        assert_eq!(refusal(every, None), "/tz");
    }

    #[test]
    fn a_hidden_value_stands_for_the_one_of_the_stored_schedule() {
        let hidden = BODY.replace("hunter2", "***");
        let present = stored(BODY);
        let definition = ScheduleDefinition::parse(hidden.as_bytes()).unwrap();
        let kept = definition
            .to_schedule(&id(), Some(&present), now())
            .unwrap();
        assert!(kept.envelope.get().contains("hunter2"));
        assert_eq!(refusal(&hidden, None), "/envelope/env/TOKEN");
    }

    #[test]
    fn a_version_changes_with_the_definition_and_not_with_the_progress() {
        let mut tokens = Tokens::default();
        let token = super::super::tokens::Token::new(
            "anna",
            super::super::access::Right::Submit,
            "0123456789abcdefghij",
        );
        tokens.add(token.unwrap()).unwrap();
        let mut schedule = stored(BODY);
        let first = etag_of(&tokens, Some(&schedule), 1);
        schedule.progress.runs = 7;
        let later = etag_of(&tokens, Some(&schedule), 2);
        assert_eq!(first.digest, later.digest);
        let secret = stored(&BODY.replace("hunter2", "hunter3"));
        assert_ne!(etag_of(&tokens, Some(&secret), 2).digest, first.digest);
        assert_eq!(etag_of(&tokens, None, 2).digest, "");
    }
}
