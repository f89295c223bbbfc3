//! What the subject of a job's message states: the job's id, and whether it was rerouted.

use naq_protocol::JobId;

/// The id in a job's subject: `prefix.queue.NAME`, `prefix.queue.NAME.ID`, or
/// `prefix.route.NAME.KEY.ID` for a rerouted job.
pub(crate) fn subject_id(subject: &str) -> Option<Result<JobId, String>> {
    let token = subject.splitn(4, '.').nth(3)?;
    let token = route_key_and_id(subject).map_or(token, |(_, id)| id);
    // an id made of queue and sequence is longer than a user may choose
    let id = match JobId::new(token) {
        Ok(id) if id.is_made_from_sequence() => Ok(id),
        _ => JobId::from_user(token),
    };
    Some(id.map_err(|error| error.to_string()))
}

/// The route key and the id in the subject of a rerouted job.
pub(crate) fn route_key_and_id(subject: &str) -> Option<(&str, &str)> {
    let mut tokens = subject.splitn(4, '.').skip(1);
    if tokens.next()? != "route" {
        return None;
    }
    tokens.nth(1)?.split_once('.')
}

/// Whether a subject is that of a rerouted job.
pub(crate) fn is_rerouted(subject: &str) -> bool {
    route_key_and_id(subject).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_is_read_from_queue_and_route_subjects() {
        let id = |subject: &str| subject_id(subject).map(|id| id.map(|id| id.to_string()));
        assert_eq!(id("naq.queue.build"), None);
        assert_eq!(id("naq.queue.build.j"), Some(Ok("j".to_owned())));
        assert_eq!(id("naq.route.build.0af3.j"), Some(Ok("j".to_owned())));
        // a retried or rerouted job whose producer set no id
        let by_sequence = format!("{}-seq-123456789", "q".repeat(64));
        for kind in ["route", "queue"] {
            let key = if kind == "route" { "0af3." } else { "" };
            let subject = format!("naq.{kind}.{}.{key}{by_sequence}", "q".repeat(64));
            assert_eq!(id(&subject), Some(Ok(by_sequence.clone())));
        }
        let too_long = format!("naq.queue.build.{}", "j".repeat(65));
        assert!(matches!(id(&too_long), Some(Err(_))));
        assert!(matches!(id("naq.queue.build.a.b"), Some(Err(_))));
    }
}
