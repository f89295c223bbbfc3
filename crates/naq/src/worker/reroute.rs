//! Rerouting: passing a job on to workers that have the labels it requires.

use super::attempt::Attempt;
use super::report::Done;
use naq_jetstream::{BrokerError, LabelRoute, failpoint, label_route_key};
use naq_protocol::{JobId, Record};

impl Attempt<'_> {
    /// Passes the job on to workers that have the labels it requires: writes what has to survive
    /// to the record, registers the route, publishes the envelope to it, acknowledges.
    ///
    /// `present` and `revision` are the record as it was decided upon, `running` the record that
    /// would be written if the job ran here.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the record has changed since: the caller decides again.
    /// Returns the last error if the lease has expired without an answer.
    pub(super) async fn reroute_by_labels(
        &self,
        present: Option<&Record>,
        revision: u64,
        running: Box<Record>,
    ) -> Result<Done, BrokerError> {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let job_id = running.job_id.clone();
        if let Some(record) = naq_core::rerouted_record(present, running) {
            delivery
                .persist(|| broker.write_record(&record, revision, None))
                .await?;
        }
        self.publish_to_route(&job_id).await?;
        Ok(delivery.acknowledge(Done::NothingToRun).await)
    }

    /// Registers the route before the job is published to it: a job on a route that no worker
    /// knows would wait unseen.
    async fn publish_to_route(&self, job_id: &JobId) -> Result<(), BrokerError> {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let route = LabelRoute {
            queue: delivery.message.queue.clone(),
            key: label_route_key(&self.envelope.requires),
            labels: self.envelope.requires.clone(),
        };
        let routes = &delivery.context.registered_routes;
        if !routes.contains(&route) {
            delivery
                .persist(|| broker.register_label_route(&route))
                .await?;
            routes.insert(&route);
            failpoint("reroute.registered");
        }
        delivery
            .persist(|| broker.reroute_by_labels(delivery.message, job_id, &route.key))
            .await?;
        failpoint("reroute.published");
        tracing::debug!(%job_id, queue = %route.queue, "rerouted to workers that have the labels it requires");
        Ok(())
    }
}
