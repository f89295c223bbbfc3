//! The open streams: those of browsers, whose topics change while they are open, and those of programs.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::live_topic::Topic;

/// The open streams.
#[derive(Clone, Default)]
pub(super) struct LiveStreams(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The streams of browsers, by their numbers.
    of_browsers: Mutex<HashMap<String, OpenStream>>,
    of_programs: AtomicUsize,
}

struct OpenStream {
    /// The name of the token that opened the stream.
    owner: String,
    topics: watch::Sender<BTreeSet<Topic>>,
}

/// A stream that is open until this value is dropped.
pub(super) struct StreamEntry {
    streams: LiveStreams,
    number: String,
    /// The topics that its pages want.
    pub(super) topics: watch::Receiver<BTreeSet<Topic>>,
}

/// A stream of a program that is open until this value is dropped.
pub(super) struct ProgramStream(LiveStreams);

impl Drop for ProgramStream {
    fn drop(&mut self) {
        self.0.0.of_programs.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LiveStreams {
    /// Adds a stream with a secret number.
    pub(super) fn open(&self, number: String, owner: &str, topics: BTreeSet<Topic>) -> StreamEntry {
        let (sender, receiver) = watch::channel(topics);
        let open = OpenStream {
            owner: owner.to_owned(),
            topics: sender,
        };
        self.lock().insert(number.clone(), open);
        StreamEntry {
            streams: self.clone(),
            number,
            topics: receiver,
        }
    }

    /// Replaces the topics of a stream. Returns whether this owner has it.
    pub(super) fn set_topics(&self, number: &str, owner: &str, topics: BTreeSet<Topic>) -> bool {
        match self.lock().get(number) {
            Some(stream) if stream.owner == owner => {
                stream.topics.send_replace(topics);
                true
            }
            _ => false,
        }
    }

    /// Counts a stream of a program until the result is dropped.
    pub(super) fn of_program(&self) -> ProgramStream {
        self.0.of_programs.fetch_add(1, Ordering::Relaxed);
        ProgramStream(self.clone())
    }

    /// Number of open streams.
    pub(super) fn count(&self) -> usize {
        self.lock().len() + self.0.of_programs.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, OpenStream>> {
        self.0
            .of_browsers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(job: &str) -> BTreeSet<Topic> {
        BTreeSet::from([Topic::parse("job", job).unwrap()])
    }

    #[test]
    fn only_its_owner_changes_the_topics_of_an_open_stream() {
        let streams = LiveStreams::default();
        let mut entry = streams.open("1".to_owned(), "anna", of("a"));
        assert_eq!(streams.count(), 1);
        assert!(!streams.set_topics("1", "bert", of("b")));
        assert!(!streams.set_topics("2", "anna", of("b")));
        assert!(!entry.topics.has_changed().unwrap());
        assert!(streams.set_topics("1", "anna", of("b")));
        assert_eq!(*entry.topics.borrow_and_update(), of("b"));
        drop(entry);
        assert!(!streams.set_topics("1", "anna", of("b")));
        assert_eq!(streams.count(), 0);
    }
}
