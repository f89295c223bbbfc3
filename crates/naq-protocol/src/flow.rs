//! Flows: jobs that depend on each other, defined in one file.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use crate::dependency::Dependency;
use crate::envelope::Envelope;
use crate::error::{EnvelopeError, RejectReason};
use crate::inputs::Inputs;
use crate::json;
use crate::names::{InputName, JobId, QueueName};
use crate::ordered_object::OrderedObject;

/// The most jobs of one flow.
pub const FLOW_JOBS_MAX: usize = 10_000;

/// The label that every job of a flow has. Its value is the flow's name.
pub const FLOW_LABEL: &str = "flow";

/// A flow as its author writes it: `{"jobs": {NAME: ENVELOPE, …}}`. `depends_on` lists names of jobs in
/// the flow, or ids of other jobs. An envelope may set its `queue`.
#[derive(Debug)]
pub struct Flow {
    /// In topological order: each job comes after those it depends on.
    jobs: Vec<FlowJob>,
}

#[derive(Debug)]
struct FlowJob {
    name: String,
    queue: Option<QueueName>,
    fields: OrderedObject,
    envelope: Envelope,
}

/// A job of a flow, ready to be enqueued.
#[derive(Clone, Debug)]
pub struct FlowMember {
    /// The name of the job in the flow.
    pub name: String,
    /// The id of the job: the flow's name, a dash, and the job's name.
    pub job_id: JobId,
    /// The queue that the envelope sets, if it does.
    pub queue: Option<QueueName>,
    /// The envelope.
    pub payload: Vec<u8>,
}

impl Flow {
    /// Whether a text is a flow and not an envelope.
    #[must_use]
    pub fn is_flow(text: &[u8]) -> bool {
        json::check_object(text, &[])
            .ok()
            .and_then(|text| serde_json::from_str::<OrderedObject>(text).ok())
            .is_some_and(|fields| fields.get("jobs").is_some() && fields.get("command").is_none())
    }

    /// Parses a flow strictly.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] with the path of an invalid envelope, an invalid name, or a circular
    /// dependency.
    pub fn parse(text: &[u8]) -> Result<Flow, EnvelopeError> {
        let text = json::check_object(text, &[])?;
        let fields: OrderedObject =
            serde_json::from_str(text).map_err(|error| invalid("", error))?;
        if let Some((name, _)) = fields.iter().find(|(name, _)| *name != "jobs") {
            return Err(invalid(
                name,
                "a flow has `jobs` and nothing else; set fields such as labels on its jobs",
            ));
        }
        let Some(jobs) = fields.get("jobs") else {
            return Err(invalid("", "a flow has its jobs under `jobs`"));
        };
        let jobs: OrderedObject = serde_json::from_str(jobs.get())
            .map_err(|_| invalid("jobs", "it is not an object with a name for each job"))?;
        let jobs = jobs
            .iter()
            .map(|(name, value)| FlowJob::parse(name, value))
            .collect::<Result<Vec<_>, _>>()?;
        if jobs.is_empty() || jobs.len() > FLOW_JOBS_MAX {
            return Err(invalid("jobs", "a flow has 1 to 10000 jobs"));
        }
        Ok(Flow {
            jobs: in_order(jobs)?,
        })
    }

    /// The jobs outside of the flow that its jobs depend on.
    #[must_use]
    pub fn external_dependencies(&self) -> Vec<JobId> {
        let names = self.names();
        let mut external_dependencies: Vec<JobId> = self
            .jobs
            .iter()
            .flat_map(|job| &job.envelope.depends_on)
            .filter(|dependency| !names.contains_key(dependency.job.as_str()))
            .map(|dependency| dependency.job.clone())
            .collect();
        external_dependencies.sort();
        external_dependencies.dedup();
        external_dependencies
    }

    fn names(&self) -> HashMap<&str, &FlowJob> {
        self.jobs
            .iter()
            .map(|job| (job.name.as_str(), job))
            .collect()
    }

    /// The jobs of the flow with the name `flow`, in topological order. Each id is derived from the
    /// flow's name and the job's name, so that enqueuing the same flow again is idempotent.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] if an id would be too long.
    pub fn members(&self, flow: &JobId) -> Result<Vec<FlowMember>, EnvelopeError> {
        let mut ids = HashMap::with_capacity(self.jobs.len());
        for job in &self.jobs {
            // the id consists of the flow's name and the job's
            let id = JobId::from_user(format!("{flow}-{}", job.name))
                .map_err(|error| invalid(&format!("jobs.{}", job.name), error.to_string()))?;
            ids.insert(job.name.as_str(), id);
        }
        self.jobs
            .iter()
            .map(|job| {
                let mut fields = job.fields.clone();
                let depends_on: Vec<Dependency> = job
                    .envelope
                    .depends_on
                    .iter()
                    .map(|dependency| resolve(dependency, &ids, job.envelope.inputs))
                    .collect();
                let mut labels: BTreeMap<&str, &str> = job
                    .envelope
                    .labels
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                labels.insert(FLOW_LABEL, flow.as_str());
                let job_id = ids[job.name.as_str()].clone();
                fields.remove("queue");
                fields.set("job_id", &job_id)?;
                fields.set("labels", &labels)?;
                if !depends_on.is_empty() {
                    fields.set("depends_on", &depends_on)?;
                }
                Ok(FlowMember {
                    name: job.name.clone(),
                    job_id,
                    queue: job.queue.clone(),
                    payload: fields.to_json()?.into_bytes(),
                })
            })
            .collect()
    }
}

/// A dependency with the id of the job in place of its name in the flow. A job that gets the outputs of all
/// its dependencies gets that of a job of the flow under the job's name there.
fn resolve(
    dependency: &Dependency,
    ids: &HashMap<&str, JobId>,
    inputs: Option<Inputs>,
) -> Dependency {
    let Some(id) = ids.get(dependency.job.as_str()) else {
        return dependency.clone();
    };
    let own_name = dependency.job.as_str();
    let own_name = InputName::new(own_name)
        .ok()
        .filter(|_| inputs == Some(Inputs::All));
    Dependency {
        job: id.clone(),
        on: dependency.on,
        as_name: dependency.as_name.clone().or(own_name),
    }
}

impl FlowJob {
    fn parse(name: &str, value: &RawValue) -> Result<FlowJob, EnvelopeError> {
        let path = format!("jobs.{name}");
        if JobId::from_user(name).is_err() {
            return Err(invalid(
                &path,
                "it cannot be a name; use 1 to 64 of A-Z a-z 0-9 _ -",
            ));
        }
        let within = |error: EnvelopeError| EnvelopeError {
            path: match error.path.as_str() {
                "" => path.clone(),
                inner => format!("{path}.{inner}"),
            },
            ..error
        };
        let envelope = Envelope::parse(value.get().as_bytes()).map_err(within)?;
        if envelope.job_id.is_some() {
            return Err(invalid(
                &format!("{path}.job_id"),
                "the ids of a flow's jobs are derived from their names; leave it out",
            ));
        }
        let fields: OrderedObject =
            serde_json::from_str(value.get()).map_err(|error| invalid(&path, error))?;
        let queue = fields
            .get("queue")
            .map(|queue| serde_json::from_str(queue.get()))
            .transpose()
            .map_err(|error| invalid(&format!("{path}.queue"), error))?;
        Ok(FlowJob {
            name: name.to_owned(),
            queue,
            fields,
            envelope,
        })
    }
}

fn invalid(path: &str, message: impl ToString) -> EnvelopeError {
    EnvelopeError::new(RejectReason::Invalid, path, message.to_string())
}

/// Sorts jobs topologically (Kahn, 1962).
fn in_order(jobs: Vec<FlowJob>) -> Result<Vec<FlowJob>, EnvelopeError> {
    let places: HashMap<String, usize> = jobs
        .iter()
        .enumerate()
        .map(|(place, job)| (job.name.clone(), place))
        .collect();
    let mut dependents = vec![Vec::new(); jobs.len()];
    let mut open = vec![0_usize; jobs.len()];
    for (place, job) in jobs.iter().enumerate() {
        for dependency in &job.envelope.depends_on {
            if let Some(first) = places.get(dependency.job.as_str()) {
                dependents[*first].push(place);
                open[place] += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..jobs.len()).filter(|place| open[*place] == 0).collect();
    let mut done = 0;
    while done < order.len() {
        for dependent in &dependents[order[done]] {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                order.push(*dependent);
            }
        }
        done += 1;
    }
    if order.len() < jobs.len() {
        let circle = circle(&jobs, &places, &open);
        return Err(invalid(
            &format!("jobs.{}.depends_on", circle[0]),
            format!(
                "these jobs depend on each other in a circle: {}",
                circle.join(" → ")
            ),
        ));
    }
    let mut jobs: Vec<Option<FlowJob>> = jobs.into_iter().map(Some).collect();
    Ok(order
        .into_iter()
        .filter_map(|place| jobs[place].take())
        .collect())
}

/// A circle among the jobs that could not be sorted, from a job back to itself.
fn circle(jobs: &[FlowJob], places: &HashMap<String, usize>, open: &[usize]) -> Vec<String> {
    let first = (0..jobs.len()).find(|place| open[*place] > 0).unwrap_or(0);
    let mut path = vec![first];
    loop {
        let here = path[path.len() - 1];
        // Each of these jobs depends on another one of them, so the walk reaches a job twice.
        let next = jobs[here]
            .envelope
            .depends_on
            .iter()
            .filter_map(|dependency| places.get(dependency.job.as_str()))
            .find(|place| open[**place] > 0)
            .copied()
            .unwrap_or(first);
        if let Some(start) = path.iter().position(|place| *place == next) {
            path.push(next);
            return path[start..]
                .iter()
                .map(|place| jobs[*place].name.clone())
                .collect();
        }
        path.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(text: &str) -> EnvelopeError {
        Flow::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn flow_names_become_job_ids_and_other_fields_are_kept() {
        let text = br#"{"jobs": {
            "build": {"command": "make", "depends_on": ["fetch", {"job": "other-job", "on": "finished"}], "input": {"a" : 1.50}},
            "fetch": {"command": "curl", "queue": "net", "labels": {"kind": "io"}, "colour": "red"},
            "alarm": {"command": "mail", "depends_on": [{"job": "build", "on": "failure"}]}
        }}"#;
        assert!(Flow::is_flow(text));
        let flow = Flow::parse(text).unwrap();
        assert_eq!(
            flow.external_dependencies(),
            [JobId::new("other-job").unwrap()]
        );
        let members = flow.members(&JobId::new("night").unwrap()).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["fetch", "build", "alarm"]);
        assert_eq!(
            members[0].queue.as_ref().map(QueueName::as_str),
            Some("net")
        );
        let payload = |at: usize| String::from_utf8(members[at].payload.clone()).unwrap();
        assert_eq!(
            payload(0),
            r#"{"command":"curl","labels":{"flow":"night","kind":"io"},"colour":"red","job_id":"night-fetch"}"#
        );
        assert!(payload(1).contains(
            r#""depends_on":["night-fetch",{"job":"other-job","on":"finished"}],"input":{"a" : 1.50}"#
        ));
        assert!(payload(2).contains(r#"{"job":"night-build","on":"failure"}"#));
        for member in &members {
            assert!(Envelope::parse(&member.payload).is_ok());
        }
    }

    #[test]
    fn outputs_of_a_flow_have_the_names_of_its_jobs() {
        let text = br#"{"jobs": {
            "fetch": {"command": "curl"},
            "count": {"command": "wc", "depends_on": ["fetch", "other"], "inputs": "all"},
            "show": {"command": "cat", "depends_on": [{"job": "count", "as": "counted"}, "fetch"]}
        }}"#;
        let members = Flow::parse(text).unwrap();
        let members = members.members(&JobId::new("f").unwrap()).unwrap();
        let names = |at: usize| -> Vec<String> {
            let envelope = Envelope::parse(&members[at].payload).unwrap();
            let names = envelope.input_sources();
            names.map(|source| source.name.to_owned()).collect()
        };
        assert_eq!(names(1), ["fetch", "other"]);
        assert_eq!(names(2), ["counted"]);
    }

    #[test]
    fn invalid_flow_names_the_path() {
        for (text, path, word) in [
            (r#"{"jobs": {}}"#, "jobs", "1 to"),
            (r#"{"jobs": []}"#, "jobs", "object"),
            (
                r#"{"jobs": {"a": {"command": "x"}}, "queue": "q"}"#,
                "queue",
                "nothing else",
            ),
            (r#"{"jobs": {"a.b": {"command": "x"}}}"#, "jobs.a.b", "name"),
            (
                r#"{"jobs": {"a": {"command": "x", "timeout": -1}}}"#,
                "jobs.a.timeout",
                "0 seconds",
            ),
            (
                r#"{"jobs": {"a": {"command": "x", "queue": "no.dots"}}}"#,
                "jobs.a.queue",
                "dot",
            ),
            (
                r#"{"jobs": {"a": {"command": "x", "job_id": "b"}}}"#,
                "jobs.a.job_id",
                "ids",
            ),
        ] {
            let invalid = error_of(text);
            assert_eq!(invalid.path, path, "{invalid}");
            assert!(invalid.message.contains(word), "{invalid}");
        }
        let invalid = error_of(
            r#"{"jobs": {"z": {"command": "x", "depends_on": ["a"]}, "a": {"command": "x", "depends_on": ["c"]},
                "b": {"command": "x", "depends_on": ["a"]}, "c": {"command": "x", "depends_on": ["b"]}}}"#,
        );
        assert!(invalid.message.contains("a → c → b → a"), "{invalid}");
    }

    proptest! {
        /// Any graph of dependencies is either sorted topologically, or rejected with a circle that it
        /// contains.
        #[test]
        fn flow_is_sorted_or_rejected_with_a_circle(
            edges in proptest::collection::vec((0_usize..8, 0_usize..8), 0..16),
        ) {
            let mut jobs = BTreeMap::new();
            for at in 0..8 {
                let after: std::collections::BTreeSet<String> = edges
                    .iter()
                    .filter(|(from, to)| *from == at && from != to)
                    .map(|(_, to)| format!("j{to}"))
                    .collect();
                jobs.insert(format!("j{at}"), serde_json::json!({"command": "x", "depends_on": after}));
            }
            let text = serde_json::json!({"jobs": jobs}).to_string();
            match Flow::parse(text.as_bytes()) {
                Ok(flow) => {
                    let mut seen = std::collections::HashSet::new();
                    for job in &flow.jobs {
                        for dependency in &job.envelope.depends_on {
                            prop_assert!(seen.contains(dependency.job.as_str()));
                        }
                        seen.insert(job.name.clone());
                    }
                    prop_assert_eq!(seen.len(), 8);
                }
                Err(invalid) => {
                    let circle: Vec<&str> = invalid.message.split(": ").nth(1).unwrap().split(" → ").collect();
                    prop_assert!(circle.len() > 2 && circle[0] == circle[circle.len() - 1]);
                    for pair in circle.windows(2) {
                        let after = jobs[pair[0]]["depends_on"].as_array().unwrap();
                        prop_assert!(after.iter().any(|name| name == pair[1]));
                    }
                }
            }
        }
    }
}
