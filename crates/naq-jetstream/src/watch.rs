//! The one implementation of a watch: core subscriptions to messages that the server republishes
//! when it stores them.
//!
//! A watch needs no consumer at the server and sees no refused write. In exchange, messages can be
//! lost: while the connection is down, when they arrive faster than they are read (the connection's
//! generation grows in both cases), and when a server of a cluster goes down after it stores a
//! message and before it republishes it. The first two are reported as [`WatchEvent::Resync`]. The
//! third shows only as a gap in the sequences, which a watch on a whole bucket compares and reports
//! as [`WatchEvent::Gap`].

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};

use crate::broker::Broker;
use crate::connection::denial::DenialWatch;
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;
use crate::names::Names;

/// An event of a [`Watch`].
#[derive(Debug)]
pub enum WatchEvent<T> {
    /// A value was stored or removed.
    Changed(T),
    /// Changes may have been missed because the connection was lost: read the values again.
    Resync,
    /// The sequences show that changes were missed: read what was stored since the
    /// [position](Watch::position). Only a watch that compares sequences reports it.
    Gap,
}

/// What a watch reads from a message.
pub(crate) struct Parsed<T> {
    /// The message's sequence in its stream. `None` if the watch does not compare sequences.
    pub(crate) sequence: Option<u64>,
    /// The value to report. `None` skips the message.
    pub(crate) value: Option<T>,
}

impl<T> Parsed<T> {
    /// A value of a watch that does not compare sequences.
    pub(crate) fn unordered(value: Option<T>) -> Parsed<T> {
        Parsed {
            sequence: None,
            value,
        }
    }
}

/// Parses a message: all that tells one kind of watch from another.
pub(crate) type Parse<T> = fn(&Names, Message) -> Parsed<T>;

/// Reads the sequence of a republished message in its stream.
pub(crate) fn sequence(message: &Message) -> Option<u64> {
    let value = message.headers.as_ref()?.get("Nats-Sequence")?;
    value.as_str().parse().ok()
}

/// A watch on values of type `T` as they are stored. Earlier changes are not reported: read the
/// values once the watch is open.
pub struct Watch<T> {
    names: Arc<Names>,
    parse: Parse<T>,
    messages: SelectAll<Subscriber>,
    subjects: Vec<String>,
    link: ConnectionWatch,
    denials: DenialWatch,
    /// Generation of the connection as of the last resync.
    generation: u64,
    position: u64,
    skips_seen: bool,
}

impl<T> Watch<T> {
    /// Subscribes to the subjects.
    ///
    /// The server processes what one connection sends in order: a read that is sent after the
    /// subscription is answered after the subscription is active, so no flush is needed.
    pub(crate) async fn open(
        broker: &Broker,
        subjects: Vec<String>,
        parse: Parse<T>,
    ) -> Result<Watch<T>, BrokerError> {
        let mut link = broker.link.clone();
        // before the subscription: a reconnect in between must be reported
        let generation = link.mark_seen().generation;
        let denials = link.denials();
        let mut subscribers = Vec::with_capacity(subjects.len());
        for subject in &subjects {
            subscribers.push(broker.subscribe(subject.clone()).await?);
        }
        Ok(Watch {
            names: Arc::clone(&broker.names),
            parse,
            messages: select_all(subscribers),
            subjects,
            link,
            denials,
            generation,
            position: 0,
            skips_seen: false,
        })
    }

    /// Makes the watch skip messages up to its position.
    ///
    /// Without this they are reported. A watch whose caller lists values without the removed ones
    /// has to report them: the listing can mark a position past a removal that only the watch
    /// shows.
    pub(crate) fn skip_seen(mut self) -> Watch<T> {
        self.skips_seen = true;
        self
    }

    /// The newest sequence that was seen. Always 0 for a watch that does not compare sequences.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Marks a sequence, and all before it, as seen by other means.
    pub fn mark_seen_up_to(&mut self, sequence: u64) {
        self.position = self.position.max(sequence);
    }

    /// Sets the position, also backwards: for a stream that was created again or has lost its last
    /// messages, and for a watch that replaces a broken one.
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
    }

    /// Whether [`next`](Self::next) has reported every loss of the connection so far.
    #[must_use]
    pub fn is_uninterrupted(&self) -> bool {
        let link = self.link.state();
        link.connected && link.generation == self.generation
    }

    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    /// Returns [`BrokerError::PermissionDenied`] if the server denies a subscription of the watch,
    /// which it reports some time after the subscription is sent.
    pub async fn next(&mut self) -> Result<WatchEvent<T>, BrokerError> {
        match self.next_or_end().await? {
            Some(event) => Ok(event),
            // the client is closed: there will be no further event
            None => std::future::pending().await,
        }
    }

    /// As [`next`](Self::next), but returns `None` when the client's own task has ended, which only
    /// a message that makes it panic does. Cancel safe.
    pub(crate) async fn next_or_end(&mut self) -> Result<Option<WatchEvent<T>>, BrokerError> {
        loop {
            tokio::select! {
                // messages first: those that arrived before a reconnect are reported before it
                biased;
                message = self.messages.next() => {
                    let Some(message) = message else { return Ok(None) };
                    if let Some(event) = self.on_message(message) {
                        return Ok(Some(event));
                    }
                }
                denial = self.denials.subscription_denied(&self.subjects) => {
                    let doing = "watching changes";
                    return Err(BrokerError::PermissionDenied { doing, denial });
                }
                link = self.link.changed() => {
                    if link.connected && link.generation != self.generation {
                        self.generation = link.generation;
                        return Ok(Some(WatchEvent::Resync));
                    }
                }
            }
        }
    }

    fn on_message(&mut self, message: Message) -> Option<WatchEvent<T>> {
        let Parsed { sequence, value } = (self.parse)(&self.names, message);
        if let Some(sequence) = sequence {
            if sequence > self.position + 1 {
                // the position stays before the gap, from where the caller reads
                return Some(WatchEvent::Gap);
            }
            if sequence <= self.position && self.skips_seen {
                // The first message of a stream, after others: the stream may have been created again,
                // so that its sequences say nothing. The caller reads its state.
                let is_another = sequence == 1 && self.position > 1;
                return is_another.then_some(WatchEvent::Gap);
            }
            self.mark_seen_up_to(sequence);
        }
        value.map(WatchEvent::Changed)
    }
}
