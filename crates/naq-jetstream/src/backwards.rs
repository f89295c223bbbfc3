//! A stream read from its end to its beginning, for lists that show the newest first.
//!
//! Messages come by the server's API, in base64, so that none can upset the client; and no
//! consumer is made, which a work queue would not have beside its own. A few reads are under way
//! at once, and no more is held than these bring.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use super::raw::{RawMessage, Which};
use super::{Broker, BrokerError};
use naq_protocol::Timestamp;

/// How many reads are under way at once. So many misses in a row are a gap, which is jumped over.
const READS_AHEAD: usize = 32;

/// What is made of a message where it is read, while others are on their way.
pub(super) type Look<T> =
    fn(Broker, String, RawMessage) -> BoxFuture<'static, Result<Option<T>, BrokerError>>;

/// A stream on the way back.
pub(super) struct Backwards<T> {
    broker: Broker,
    stream: String,
    look: Look<T>,
    first: u64,
    /// The next sequence to ask for; 0 where all have been.
    next: u64,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Step<T>, BrokerError>>>,
    ready: VecDeque<T>,
    misses: usize,
}

enum Step<T> {
    Missing(u64),
    Passed,
    Found(T),
}

impl<T: Send + 'static> Backwards<T> {
    /// The next message towards the beginning that the look made something of.
    pub(super) async fn next(&mut self) -> Result<Option<T>, BrokerError> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            while self.under_way.len() < READS_AHEAD && self.next >= self.first && self.next > 0 {
                let (broker, stream) = (self.broker.clone(), self.stream.clone());
                let (sequence, look) = (self.next, self.look);
                self.under_way.push_back(Box::pin(async move {
                    let message = broker
                        .read_message(&stream, Which::Sequence(sequence))
                        .await?;
                    Ok(match message {
                        None => Step::Missing(sequence),
                        Some(message) => look(broker, stream, message)
                            .await?
                            .map_or(Step::Passed, Step::Found),
                    })
                }));
                self.next -= 1;
            }
            match self.under_way.next().await {
                None => return Ok(None),
                Some(step) => match step? {
                    Step::Found(found) => {
                        self.misses = 0;
                        self.ready.push_back(found);
                    }
                    Step::Passed => self.misses = 0,
                    Step::Missing(sequence) => {
                        self.misses += 1;
                        if self.misses >= READS_AHEAD {
                            self.jump(sequence).await?;
                        }
                    }
                },
            }
        }
    }

    /// Goes on at the newest message below a sequence.
    async fn jump(&mut self, below: u64) -> Result<(), BrokerError> {
        self.misses = 0;
        self.under_way = FuturesOrdered::new();
        self.next = self
            .broker
            .last_where(&self.stream, self.first, below.saturating_sub(1), |_| true)
            .await?
            .unwrap_or(0);
        Ok(())
    }
}

impl Broker {
    /// Reads a stream backwards, from the newest message that is no later than `until`; nothing
    /// where there is no such stream.
    pub(super) async fn read_backwards<T: Send + 'static>(
        &self,
        stream: String,
        until: Option<Timestamp>,
        look: Look<T>,
    ) -> Result<Backwards<T>, BrokerError> {
        let (first, last) = match self.jetstream.get_stream(&stream).await {
            Ok(found) => {
                let state = &found.cached_info().state;
                (state.first_sequence, state.last_sequence)
            }
            Err(error) if error.to_string().contains("not found") => (1, 0),
            Err(error) => {
                return Err(BrokerError::Refused {
                    doing: "reading a stream's state",
                    message: error.to_string(),
                });
            }
        };
        let next = match until {
            None => last,
            Some(until) => self
                .last_where(&stream, first, last, |time| time <= until)
                .await?
                .unwrap_or(0),
        };
        Ok(Backwards {
            broker: self.clone(),
            stream,
            look,
            first: first.max(1),
            next,
            under_way: FuturesOrdered::new(),
            ready: VecDeque::new(),
            misses: 0,
        })
    }

    /// The sequence of the newest message in `first..=last` whose time passes, given that all
    /// older ones pass too: found in as many reads as the range has binary digits.
    async fn last_where(
        &self,
        stream: &str,
        first: u64,
        last: u64,
        passes: impl Fn(Timestamp) -> bool,
    ) -> Result<Option<u64>, BrokerError> {
        let (mut low, mut high) = (first, last);
        let mut best = None;
        while low <= high && high > 0 {
            let middle = low + (high - low) / 2;
            let found = self
                .read_message(stream, Which::NextOf(">", middle))
                .await?
                .filter(|message| message.sequence <= high && passes(message.time));
            match found {
                Some(message) => {
                    best = Some(message.sequence);
                    low = message.sequence + 1;
                }
                None => high = middle.saturating_sub(1),
            }
        }
        Ok(best)
    }
}
