//! Flows: many jobs that depend on one another, enqueued and read as one.

use std::collections::{HashMap, HashSet, VecDeque};

use futures_util::{FutureExt, StreamExt, stream};

use super::{Client, ClientError};
use naq_core::StartDelay;
use naq_jetstream::NewJob;
use naq_protocol::{
    DEPENDENCIES_MAX, Dependency, Envelope, FLOW_LABEL, Flow, FlowMember, JobId, QueueName, Record,
};

/// How many jobs are read at the same time.
const READS_AT_ONCE: usize = 64;

/// The maximum number of jobs in a dependency tree that no flow describes.
const TREE_JOBS_MAX: usize = 1_000;

/// A job in a dependency tree.
#[derive(Clone, Debug)]
pub struct DependencyNode {
    /// The job.
    pub job_id: JobId,
    /// The job's record. `None` means that the job does not exist.
    pub record: Option<Record>,
    /// The jobs that it depends on, with conditions.
    pub depends_on: Vec<Dependency>,
}

impl Client {
    /// Enqueues the jobs of a flow, those that others depend on first. Jobs that name no queue go to
    /// `queue`. Enqueueing the same flow under the same name again has no effect.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// use naq_client::{Flow, JobId, QueueName};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let flow = Flow::parse(
    ///     br#"{"jobs": {
    ///         "fetch": {"command": "./fetch.sh"},
    ///         "build": {"command": "make", "depends_on": ["fetch"]},
    ///         "alarm": {"command": "./mail.sh", "depends_on": [{"job": "build", "on": "failure"}]}
    ///     }}"#,
    /// )?;
    /// let name = JobId::from_user("night-17")?;
    /// for job in client.enqueue_flow(&flow, &name, &QueueName::new("build")?).await? {
    ///     println!("{} is {}", job.name, job.job_id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if a job depends on a job that is neither in the flow nor
    /// enqueued, and otherwise the error of [`Queue::enqueue`](crate::Queue::enqueue) for the first
    /// job that was refused. Jobs that depend on a refused one wait for `dependency_timeout`; the
    /// same flow may be enqueued again meanwhile.
    pub async fn enqueue_flow(
        &self,
        flow: &Flow,
        name: &JobId,
        queue: &QueueName,
    ) -> Result<Vec<FlowMember>, ClientError> {
        self.enqueue_flow_delayed(flow, name, queue, None).await
    }

    /// Enqueues a flow whose jobs are all delayed until a time. From then on their dependencies
    /// decide.
    ///
    /// # Errors
    /// As [`Client::enqueue_flow`] and [`Queue::enqueue_at`](crate::Queue::enqueue_at).
    pub async fn enqueue_flow_delayed(
        &self,
        flow: &Flow,
        name: &JobId,
        queue: &QueueName,
        start: Option<StartDelay>,
    ) -> Result<Vec<FlowMember>, ClientError> {
        let members = flow.members(name)?;
        if let Some(start) = &start {
            for member in &members {
                let expires_at = Envelope::parse(&member.payload)?.expires_at;
                naq_core::check_expiry(start, expires_at).map_err(ClientError::InvalidDueTime)?;
            }
        }
        for other in flow.external_dependencies() {
            self.fetch_job(&other).await?;
        }
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        self.broker.write_flow(name, &names).await?;
        let mut bulk = self.bulk();
        for member in &members {
            let queue = member.queue.as_ref().unwrap_or(queue).clone();
            let payload = member.payload.clone().into();
            let mut job = NewJob::with_id(member.job_id.clone(), queue, payload);
            job.start = start;
            bulk.push(job).await?;
        }
        bulk.finish().await?;
        match bulk.take_rejected() {
            Some((_, error)) => Err(error),
            None => Ok(members),
        }
    }

    /// Records the jobs `<flow>-0`, `<flow>-1` … as a flow, so that they are shown together and
    /// [`Client::fetch_flow_jobs`] returns them. They may be enqueued already. Returns false if they are more than a
    /// job can depend on; then they are no flow.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the server refuses the request or does not answer.
    pub async fn record_numbered_flow(&self, flow: &JobId, jobs: u64) -> Result<bool, ClientError> {
        if jobs > DEPENDENCIES_MAX as u64 {
            return Ok(false);
        }
        let names: Vec<String> = (0..jobs).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.broker.write_flow(flow, &names).await?;
        Ok(true)
    }

    /// Returns the ids of a flow's jobs, each after those that it depends on. `None` if there is no such flow.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the server does not answer.
    pub async fn fetch_flow_jobs(&self, flow: &JobId) -> Result<Option<Vec<JobId>>, ClientError> {
        let names = self.broker.read_flow(flow).await?;
        Ok(names.map(|names| flow_jobs(flow, &names)))
    }

    /// Returns the jobs of a flow; or a job, the jobs it depends on and its dependents, transitively.
    /// Each job comes after those that it depends on.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if neither a flow nor a job of this name exists.
    pub async fn fetch_dependency_tree(
        &self,
        id: &JobId,
    ) -> Result<Vec<DependencyNode>, ClientError> {
        let mut names = self
            .broker
            .read_flow(id)
            .await?
            .map(|names| (id.clone(), names));
        if names.is_none() {
            let record = self.fetch_job(id).await?;
            if let Some(flow) = record.labels.get(FLOW_LABEL)
                && let Ok(flow) = JobId::new(flow)
            {
                names = self
                    .broker
                    .read_flow(&flow)
                    .await?
                    .map(|names| (flow, names));
            }
        }
        match names {
            Some((flow, names)) => self.fetch_nodes(flow_jobs(&flow, &names)).await,
            None => self.fetch_neighbours(id).await,
        }
    }

    async fn fetch_nodes(&self, jobs: Vec<JobId>) -> Result<Vec<DependencyNode>, ClientError> {
        let mut reads = stream::iter(jobs)
            .map(|job| {
                let client = self.clone();
                async move { client.fetch_node(job).await }.boxed()
            })
            .buffered(READS_AT_ONCE);
        let mut nodes = Vec::new();
        while let Some(node) = reads.next().await {
            nodes.push(node?);
        }
        Ok(nodes)
    }

    async fn fetch_node(&self, job: JobId) -> Result<DependencyNode, ClientError> {
        let record = match self.fetch_job(&job).await {
            Ok(record) => Some(record),
            Err(ClientError::NoSuchJob(_)) => None,
            Err(error) => return Err(error),
        };
        let depends_on = record
            .as_ref()
            .and_then(|record| Envelope::parse(record.envelope.as_ref()?.get().as_bytes()).ok())
            .map(|envelope| envelope.depends_on)
            .unwrap_or_default();
        Ok(DependencyNode {
            job_id: job,
            record,
            depends_on,
        })
    }

    /// Reads a job, the jobs it depends on and its dependents, transitively, breadth first.
    async fn fetch_neighbours(&self, id: &JobId) -> Result<Vec<DependencyNode>, ClientError> {
        let mut nodes: HashMap<JobId, DependencyNode> = HashMap::new();
        let mut seen: HashSet<JobId> = HashSet::from([id.clone()]);
        let mut next = VecDeque::from([id.clone()]);
        while let Some(job) = next.pop_front() {
            let node = self.fetch_node(job.clone()).await?;
            let mut around: Vec<JobId> =
                node.depends_on.iter().map(|one| one.job.clone()).collect();
            if node
                .record
                .as_ref()
                .is_some_and(|record| record.has_dependents)
            {
                around.extend(self.broker.list_dependents(&job).await?);
            }
            for one in around {
                if seen.len() < TREE_JOBS_MAX && seen.insert(one.clone()) {
                    next.push_back(one);
                }
            }
            nodes.insert(job, node);
        }
        Ok(after_dependencies(nodes))
    }
}

/// The ids of the jobs of a flow that have these names.
fn flow_jobs(flow: &JobId, names: &[String]) -> Vec<JobId> {
    let ids = names.iter().map(|name| format!("{flow}-{name}"));
    ids.filter_map(|id| JobId::new(id).ok()).collect()
}

/// Sorts the jobs so that each comes after those that it depends on. Jobs of a cycle come last.
fn after_dependencies(mut nodes: HashMap<JobId, DependencyNode>) -> Vec<DependencyNode> {
    let mut sorted = Vec::with_capacity(nodes.len());
    while !nodes.is_empty() {
        let mut ready: Vec<JobId> = nodes
            .values()
            .filter(|node| {
                node.depends_on
                    .iter()
                    .all(|one| !nodes.contains_key(&one.job))
            })
            .map(|node| node.job_id.clone())
            .collect();
        if ready.is_empty() {
            ready = nodes.keys().cloned().collect();
        }
        ready.sort();
        sorted.extend(ready.iter().filter_map(|job| nodes.remove(job)));
    }
    sorted
}
