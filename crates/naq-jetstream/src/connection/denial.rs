//! What the server denies the user. It reports a denied publish or subscription on the connection and
//! answers the request itself with nothing, so a request would wait for its time limit.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

/// Maximum number of denials that are remembered for the requests that await an answer.
const RECENT_MAX: usize = 1_024;

/// An action on a subject that the server denies the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What is denied.
    pub action: DeniedAction,
    /// The subject, as the server names it.
    pub subject: String,
    /// The user that the server denies it: `the user `reader``, or `this user` if its name is unknown.
    pub user: Arc<str>,
}

/// What the server denies on a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedAction {
    /// To publish a message or a request.
    Publish,
    /// To subscribe.
    Subscribe,
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let action = match self.action {
            DeniedAction::Publish => "publish",
            DeniedAction::Subscribe => "subscribe",
        };
        let subject = naq_protocol::escape(&self.subject);
        write!(f, "{} permission to {action} to `{subject}`", self.user)
    }
}

/// What the text of a denial begins with.
const MARK: &str = "permissions violation for ";

impl Denial {
    /// Whether the text of an error of the server is a denial.
    pub(crate) fn is_one(text: &str) -> bool {
        text.to_ascii_lowercase().contains(MARK)
    }

    /// Parses the text of an error of the server. The NATS protocol has no code for a denial: `-ERR`
    /// carries this text and nothing else. `None` if the error is another one.
    pub(crate) fn parse(text: &str, user: &Arc<str>) -> Option<Denial> {
        let start = text.to_ascii_lowercase().find(MARK)?;
        let rest = text.get(start + MARK.len()..)?;
        let action = if rest.to_ascii_lowercase().starts_with("subscription") {
            DeniedAction::Subscribe
        } else {
            DeniedAction::Publish
        };
        let subject = rest.split('"').nth(1).unwrap_or_default().to_owned();
        Some(Denial {
            action,
            subject,
            user: Arc::clone(user),
        })
    }

    /// Whether a request about this is the denied one: a subject, the beginning of one up to a dot, or
    /// the name of the stream whose API it uses, which is a token of the subject.
    fn is_about(&self, about: &str) -> bool {
        let rest = self.subject.strip_prefix(about);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            || self.subject.split('.').any(|token| token == about)
    }
}

/// The denials of a connection.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    /// Number of denials so far.
    count: u64,
    /// The latest ones, numbered from 1.
    recent: VecDeque<(u64, Denial)>,
    /// The denied subscription to the replies of all requests, which the client sends once for each
    /// connection. No request gets an answer.
    replies: Option<Denial>,
}

impl Denials {
    /// Adds a denial. `inbox_prefix` is the first part of reply subjects.
    pub(crate) fn add(&mut self, denial: Denial, inbox_prefix: &str) {
        let is_of_replies = denial.action == DeniedAction::Subscribe
            && denial.subject.ends_with(".*")
            && denial
                .subject
                .strip_prefix(inbox_prefix)
                .is_some_and(|rest| rest.starts_with('.'));
        if is_of_replies {
            self.replies = Some(denial.clone());
        }
        self.count += 1;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((self.count, denial));
    }

    /// Forgets what a new connection finds out again.
    pub(crate) fn reconnected(&mut self) {
        self.replies = None;
    }

    /// The denial that leaves a request about a subject or stream without an answer.
    fn of_request(&self, about: &str, since: u64) -> Option<&Denial> {
        let found = self.since(since).find(|denial| denial.is_about(about));
        self.replies.as_ref().or(found)
    }

    /// The denial of a subscription to one of these subjects.
    fn of_subscription(&self, subjects: &[String], since: u64) -> Option<&Denial> {
        self.since(since).find(|denial| {
            denial.action == DeniedAction::Subscribe && subjects.contains(&denial.subject)
        })
    }

    fn since(&self, since: u64) -> impl Iterator<Item = &Denial> {
        let new = self
            .recent
            .iter()
            .filter(move |(number, _)| *number > since);
        new.map(|(_, denial)| denial)
    }
}

/// A watch on the denials that are reported from its creation on.
#[derive(Clone, Debug)]
pub(crate) struct DenialWatch {
    denials: watch::Receiver<Denials>,
    since: u64,
}

impl DenialWatch {
    pub(crate) fn new(denials: watch::Receiver<Denials>) -> DenialWatch {
        let since = denials.borrow().count;
        DenialWatch { denials, since }
    }

    /// Waits until the server denies a request about this subject or stream. Cancel safe.
    pub(crate) async fn request_denied(&mut self, about: &str) -> Denial {
        let since = self.since;
        self.wait(|denials| denials.of_request(about, since)).await
    }

    /// Waits until the server denies a subscription to one of these subjects. Cancel safe.
    pub(crate) async fn subscription_denied(&mut self, subjects: &[String]) -> Denial {
        let since = self.since;
        self.wait(|denials| denials.of_subscription(subjects, since))
            .await
    }

    async fn wait(&mut self, find: impl Fn(&Denials) -> Option<&Denial>) -> Denial {
        loop {
            if let Some(denial) = find(&self.denials.borrow_and_update()) {
                return denial.clone();
            }
            if self.denials.changed().await.is_err() {
                // the client is closed: nothing is reported any more
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_read_from_the_text_of_the_server() {
        let user: Arc<str> = "this user".into();
        let publish = |subject: &str| Denial {
            action: DeniedAction::Publish,
            subject: subject.to_owned(),
            user: Arc::clone(&user),
        };
        for (text, expected) in [
            (
                r#"Permissions Violation for Publish to "naq.queue.build.x""#,
                Some(publish("naq.queue.build.x")),
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_INBOX.a.b""#,
                Some(publish("_INBOX.a.b")),
            ),
            (
                r#"nats: Permissions Violation for Subscription to "naq.event.>" using queue "q""#,
                Some(Denial {
                    action: DeniedAction::Subscribe,
                    subject: "naq.event.>".to_owned(),
                    user: Arc::clone(&user),
                }),
            ),
            ("Authorization Violation", None),
            ("Maximum Payload Violation", None),
        ] {
            assert_eq!(Denial::parse(text, &user), expected, "{text}");
        }
    }

    #[test]
    fn a_denied_removal_of_a_consumer_does_not_end_the_read_of_its_stream() {
        let denied =
            r#"Permissions Violation for Publish to "$JS.API.CONSUMER.DELETE.OBJ_naq_files.c""#;
        let mut denials = Denials::default();
        denials.add(
            Denial::parse(denied, &"this user".into()).unwrap(),
            "_INBOX",
        );
        let creating = "$JS.API.CONSUMER.CREATE.OBJ_naq_files";
        assert!(denials.of_request(creating, 0).is_none());
        let denied =
            format!(r#"Permissions Violation for Publish to "{creating}.c.$O.naq_files.>""#);
        denials.add(
            Denial::parse(&denied, &"this user".into()).unwrap(),
            "_INBOX",
        );
        assert!(denials.of_request(creating, 0).is_some());
    }

    #[test]
    fn a_denial_ends_the_requests_that_are_about_its_subject_and_no_others() {
        let mut denials = Denials::default();
        let deny = |denials: &mut Denials, text: &str| {
            denials.add(Denial::parse(text, &"this user".into()).unwrap(), "_INBOX");
        };
        deny(
            &mut denials,
            r#"Permissions Violation for Publish to "$JS.API.STREAM.INFO.naq_queue_a""#,
        );
        assert!(denials.of_request("naq_queue_a", 0).is_some());
        assert!(
            denials
                .of_request("$JS.API.STREAM.INFO.naq_queue_a", 0)
                .is_some()
        );
        assert!(denials.of_request("naq_queue", 0).is_none());
        // the beginning of a subject, but not of a token
        assert!(denials.of_request("$JS.API.STREAM.INFO", 0).is_some());
        assert!(denials.of_request("$JS.API.STREAM.IN", 0).is_none());
        // a request that began after the denial is another one
        assert!(denials.of_request("naq_queue_a", 1).is_none());
        // a subscription to one inbox is not that of all replies
        deny(
            &mut denials,
            r#"Permissions Violation for Subscription to "_INBOX.abc""#,
        );
        assert!(denials.of_request("naq_queue_b", 1).is_none());
        deny(
            &mut denials,
            r#"Permissions Violation for Subscription to "_INBOX.abc.*""#,
        );
        assert!(denials.of_request("naq_queue_b", 9).is_some());
        denials.reconnected();
        assert!(denials.of_request("naq_queue_b", 9).is_none());
    }
}
