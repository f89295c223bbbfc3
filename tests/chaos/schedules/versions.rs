//! Every version of every schedule, as the bucket stored it: the changes of the controller, and the
//! progress that the schedulers stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_nats::jetstream;
use naq_jetstream::Broker;
use naq_protocol::{Schedule, ScheduleStatus};

use crate::chaos::history::follow;

/// A schedule as it was stored.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// Its sequence in the bucket's stream.
    pub(super) revision: u64,
    /// When the server stored it, in Unix milliseconds.
    pub(super) at_ms: i64,
    /// The leader's term that wrote it; `None` if the controller did.
    pub(super) term: Option<String>,
    /// `None` if it was removed.
    pub(super) schedule: Option<Schedule>,
}

impl Version {
    /// Whether it has no more ticks.
    pub(super) fn has_ended(&self) -> bool {
        let status = self.schedule.as_ref().map(|schedule| schedule.status);
        status.is_none_or(|status| status == ScheduleStatus::Ended)
    }
}

/// All versions, by schedule, in order.
pub(super) type All = BTreeMap<String, Vec<Version>>;

#[derive(Clone, Default)]
pub(super) struct Versions(Arc<Mutex<(All, Vec<String>)>>);

const STREAM: &str = "KV_naq_scheduled_jobs";

impl Versions {
    /// Makes the bucket keep replaced versions, and starts to read it.
    pub(super) async fn follow(
        broker: &Broker,
        nats: async_nats::Client,
    ) -> Result<Versions, async_nats::Error> {
        // the watcher creates the bucket
        drop(broker.watch_schedules().await?);
        let jetstream = jetstream::new(nats);
        let stream = jetstream.get_stream(STREAM).await?;
        let mut config = stream.cached_info().config.clone();
        config.max_messages_per_subject = -1;
        jetstream.update_stream(config).await?;
        let versions = Versions::default();
        let (reads, breaks) = (versions.clone(), versions.clone());
        tokio::spawn(follow(
            jetstream,
            (STREAM, "$KV.naq_scheduled_jobs.>"),
            move |message, revision| reads.read(message, revision),
            move |broken| breaks.0.lock().unwrap().1.push(broken),
        ));
        Ok(versions)
    }

    fn read(&self, message: &jetstream::Message, revision: u64) -> Result<(), async_nats::Error> {
        let name = message.subject.rsplit('.').next().unwrap_or_default();
        let term = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Naq-Writer"))
            .map(|writer| writer.as_str().to_owned());
        let schedule = match message.payload.as_ref() {
            [] => None,
            payload => Some(Schedule::parse(payload)?),
        };
        let at = message.info()?.published;
        let version = Version {
            revision,
            at_ms: at.timestamp_millis(),
            term,
            schedule,
        };
        let mut all = self.0.lock().unwrap();
        all.0.entry(name.to_owned()).or_default().push(version);
        Ok(())
    }

    pub(super) fn all(&self) -> All {
        self.0.lock().unwrap().0.clone()
    }

    /// Errors that interrupted the reading, for the investigation of a failure.
    pub(super) fn breaks(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }

    /// Whether none of these schedules has any more ticks, by the versions read so far.
    pub(super) fn have_ended<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        let all = self.0.lock().unwrap();
        names.all(|name| {
            let last = all.0.get(name).and_then(|versions| versions.last());
            last.is_some_and(Version::has_ended)
        })
    }
}
