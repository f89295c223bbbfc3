//! Compares all streams, buckets and consumers with what naq needs, for `naq server check`.

use async_nats::jetstream::Error as ApiError;
use serde_json::{Value, json};

use super::consumers;
use super::memory::REPLICAS_MAX;
use super::setting::{Remedy, Setting, SettingDifference, differences};
use super::streams::StreamSpec;
use super::topology::{StreamReport, is_about_replicas};
use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::QueueName;

const CHECKING: &str = "checking the streams";

/// A stream or consumer that was compared with what naq needs.
#[derive(Clone, Debug)]
pub struct CheckedLayout {
    /// The stream.
    pub stream: String,
    /// The consumer of that stream. `None` if the stream itself was compared.
    pub consumer: Option<String>,
    /// Number of replicas of the stream. `None` for a consumer, which has as many as its stream.
    pub replicas: Option<usize>,
    /// What differs from what naq needs.
    pub differences: Vec<SettingDifference>,
    /// What differed and was changed.
    pub changed: Vec<SettingDifference>,
    /// Why a change was refused. `None` if none was.
    pub refusal: Option<String>,
}

impl Broker {
    /// Compares every stream and consumer of naq that exists with what naq needs. With `fix`, changes
    /// what NATS permits to change, except that no stream gets fewer replicas.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn check_layout(&self, fix: bool) -> Result<Vec<CheckedLayout>, BrokerError> {
        let names = self.stream_names(CHECKING).await?;
        let fixed = StreamSpec::all(&self.names);
        let mut allowed = self.options.replicas;
        let mut checked = Vec::new();
        for name in names {
            let queue = self.names.queue_of_stream(&name);
            let spec = match &queue {
                Some(queue) => Some(StreamSpec::queue(&self.names, queue)),
                None => fixed.iter().find(|spec| spec.name == name).cloned(),
            };
            let Some(spec) = spec else { continue };
            // it may be removed meanwhile
            let Some(report) = self.stream_report(&name).await? else {
                continue;
            };
            if allowed.is_none() {
                allowed = Some(self.replicas_allowed(&report).await?);
            }
            let wanted = allowed.unwrap_or(1);
            checked.push(self.check_stream(&spec, &report, wanted, fix).await?);
            if let Some(queue) = queue {
                checked.extend(self.check_consumers(&queue, fix).await?);
            }
        }
        Ok(checked)
    }

    /// Raises or lowers the number of replicas of a queue.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist, and
    /// [`BrokerError::Refused`] if the cluster has too few servers.
    pub async fn set_replicas(
        &self,
        queue: &QueueName,
        replicas: usize,
    ) -> Result<(), BrokerError> {
        const DOING: &str = "setting the number of replicas";
        let spec = StreamSpec::queue(&self.names, queue);
        let Some(report) = self.stream_report(&spec.name).await? else {
            return Err(BrokerError::QueueNotFound(queue.to_string()));
        };
        let mut config = report.config;
        config.insert("num_replicas".to_owned(), replicas.into());
        let subject = format!("STREAM.UPDATE.{}", spec.name);
        let changed: Result<StreamReport, ApiError> = self
            .api_request(subject, &Value::Object(config), DOING)
            .await?;
        changed
            .map(drop)
            .map_err(|error| BrokerError::from_api(&error, DOING))
    }

    async fn check_stream(
        &self,
        spec: &StreamSpec,
        report: &StreamReport,
        replicas_wanted: usize,
        fix: bool,
    ) -> Result<CheckedLayout, BrokerError> {
        let mut checked = CheckedLayout {
            stream: spec.name.clone(),
            consumer: None,
            replicas: Some(report.replicas().count),
            differences: differences(&spec.settings, &report.config),
            changed: Vec::new(),
            refusal: None,
        };
        if fix {
            let changes = changeable(&checked.differences);
            let changes: Vec<_> = changes.iter().collect();
            if !changes.is_empty() {
                let done = self.change_stream(spec, &report.config, &changes).await;
                checked.settle(done.map(drop), &changeable(&checked.differences))?;
            }
        }
        let count = report.replicas().count;
        if count < replicas_wanted {
            let difference = SettingDifference::replicas(count, replicas_wanted);
            checked.differences.push(difference.clone());
            // by itself: a stream that gets further replicas takes no other change at the same time
            let current = match fix {
                true => self.stream_report(&spec.name).await?,
                false => None,
            };
            if let Some(current) = current {
                let done = self
                    .change_stream(spec, &current.config, &[&difference])
                    .await;
                if done.is_ok() {
                    checked.replicas = Some(replicas_wanted);
                }
                checked.settle(done.map(drop), &[difference])?;
            }
        }
        Ok(checked)
    }

    async fn check_consumers(
        &self,
        queue: &QueueName,
        fix: bool,
    ) -> Result<Vec<CheckedLayout>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let mut checked = Vec::new();
        for info in self.consumers(queue).await? {
            let needed: Vec<Setting> = match self.names.route_of_consumer(&info.name) {
                Some(key) => consumers::route_consumer(&self.names, queue, key),
                None if info.name == self.names.worker_consumer() => {
                    consumers::worker_consumer(&self.names, queue)
                }
                None => continue,
            };
            let Some(config) = self.consumer_config(&stream, &info.name).await? else {
                continue;
            };
            let mut one = CheckedLayout {
                stream: stream.clone(),
                consumer: Some(info.name.clone()),
                replicas: None,
                differences: differences(&needed, &config),
                changed: Vec::new(),
                refusal: None,
            };
            let changes = changeable(&one.differences);
            if fix && !changes.is_empty() {
                let changes: Vec<_> = changes.iter().collect();
                let done = self
                    .change_consumer(&stream, &info.name, &config, &changes)
                    .await;
                one.settle(done, &changeable(&one.differences))?;
            }
            checked.push(one);
        }
        Ok(checked)
    }

    /// How many replicas the cluster allows a stream, up to three: found by creating one, which is
    /// removed again.
    async fn replicas_allowed(&self, report: &StreamReport) -> Result<usize, BrokerError> {
        if !report.replicas().is_clustered {
            return Ok(1);
        }
        let name = format!("{}_replica_probe", self.names.prefix());
        // what a process left that died half-way
        let _ = self.jetstream.delete_stream(&name).await;
        for count in (2..=REPLICAS_MAX).rev() {
            let config = json!({ "name": name, "subjects": [name], "num_replicas": count });
            let created: Result<Value, ApiError> = self
                .api_request(format!("STREAM.CREATE.{name}"), &config, CHECKING)
                .await?;
            match created {
                Ok(_) => {
                    self.jetstream
                        .delete_stream(&name)
                        .await
                        .map_err(|error| self.request_error(CHECKING, error))?;
                    return Ok(count);
                }
                Err(error) if is_about_replicas(&error) => {}
                Err(error) => return Err(BrokerError::from_api(&error, CHECKING)),
            }
        }
        Ok(1)
    }
}

impl CheckedLayout {
    /// Records the result of changes that were requested together.
    fn settle(
        &mut self,
        done: Result<(), BrokerError>,
        changes: &[SettingDifference],
    ) -> Result<(), BrokerError> {
        match done {
            Ok(()) => {
                self.differences.retain(|one| !changes.contains(one));
                self.changed.extend_from_slice(changes);
                Ok(())
            }
            Err(
                error @ (BrokerError::Unsuitable { .. }
                | BrokerError::Refused { .. }
                | BrokerError::StorageFull(_)),
            ) => {
                self.refusal = Some(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_changeable(difference: &SettingDifference) -> bool {
    matches!(difference.remedy, Remedy::Automatic | Remedy::OnRequest)
}

fn changeable(differences: &[SettingDifference]) -> Vec<SettingDifference> {
    let differences = differences.iter();
    differences
        .filter(|one| is_changeable(one))
        .cloned()
        .collect()
}
