//! What open pages show: the topics of a stream of updates.

use naq_protocol::JobId;

/// Maximum length of the part that tells two topics on one subject apart.
const SUFFIX_MAX: usize = 16;

/// What an open page shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Overview,
    Job(JobId),
    Flow(JobId),
    /// A bulk action. Its id has the form of a job's.
    Action(JobId),
}

/// A subject, as a page asks for it: `overview`, `job=ID`, `flow=ID` or `action=ID`, with `~` and hexadecimal digits
/// at the end if the page wants its own events from their beginning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Topic {
    /// The topic as the page wrote it, which is the id of its events.
    pub(super) text: String,
    pub(super) subject: Subject,
}

impl Topic {
    /// The names of subjects.
    pub(super) const NAMES: &[&str] = &["overview", "job", "flow", "action"];

    /// Reads a topic.
    ///
    /// # Errors
    /// Returns a message, for people, if the name is none of [`Topic::NAMES`], or if the value is invalid.
    pub(super) fn parse(name: &str, value: &str) -> Result<Topic, String> {
        let (id, suffix) = value.split_once('~').unwrap_or((value, "0"));
        let is_suffix = suffix.len() <= SUFFIX_MAX && suffix.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_suffix || suffix.is_empty() {
            return Err("expected at most 16 hexadecimal digits after `~`".to_owned());
        }
        let job_id = || JobId::new(id).map_err(|error| error.to_string());
        let subject = match name {
            "overview" if id.is_empty() => Subject::Overview,
            "job" => Subject::Job(job_id()?),
            "flow" => Subject::Flow(job_id()?),
            "action" => Subject::Action(job_id()?),
            _ => return Err("expected a topic".to_owned()),
        };
        Ok(Topic {
            text: match value {
                "" => name.to_owned(),
                value => format!("{name}={value}"),
            },
            subject,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_and_keeps_its_text() {
        let job = Topic::parse("job", "a~1f").unwrap();
        assert_eq!(job.subject, Subject::Job(JobId::new("a").unwrap()));
        assert_eq!(job.text, "job=a~1f");
        assert_eq!(Topic::parse("overview", "").unwrap().text, "overview");
        for name in Topic::NAMES {
            assert!(Topic::parse(name, if *name == "overview" { "" } else { "a" }).is_ok());
        }
    }

    #[test]
    fn a_topic_that_cannot_be_the_id_of_an_event_is_refused() {
        for (name, value) in [
            ("job", "a.b"),
            ("job", ""),
            ("job", "a~"),
            ("job", "a~x\n"),
            ("flow", "a\n"),
            ("job", "a~00000000000000000"),
            ("overview", "a"),
            ("all", ""),
        ] {
            assert!(Topic::parse(name, value).is_err(), "{name}={value}");
        }
    }
}
