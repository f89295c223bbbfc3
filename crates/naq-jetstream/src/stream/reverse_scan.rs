//! Reads a stream from its end to its beginning, for lists that show the newest first.
//!
//! Messages are read through the server's API, in base64, so that no message can break the client;
//! and without a consumer, since a work queue allows no second one for a subject. A few reads are
//! in flight at once, and memory is bounded by what they return.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use crate::broker::Broker;
use crate::error::{BrokerError, is_stream_not_found};
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use naq_protocol::Timestamp;

/// Number of reads in flight. This many misses in a row count as a gap, which is skipped.
const READS_AHEAD: usize = 32;

/// Time limit of an item, for a server that keeps answering without ever sending an item.
const ITEM_TIMEOUT: Duration = Duration::from_secs(60);

/// Turns a message into an item of the listing, while other reads are in flight. `None` skips the
/// message.
pub(crate) type Decode<T> =
    fn(Broker, String, StoredMessage) -> BoxFuture<'static, Result<Option<T>, BrokerError>>;

/// A reverse scan of a stream.
pub(crate) struct ReverseScan<T> {
    broker: Broker,
    stream: String,
    decode: Decode<T>,
    first: u64,
    /// The next sequence to read; 0 at the end.
    next: u64,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<ScanStep<T>, BrokerError>>>,
    ready: VecDeque<T>,
    misses: usize,
}

enum ScanStep<T> {
    Gap(u64),
    Filtered,
    Found(T),
}

impl<T: Send + 'static> ReverseScan<T> {
    /// The next item, towards the beginning of the stream.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if no item is found within a minute.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, BrokerError> {
        let found = tokio::time::timeout(ITEM_TIMEOUT, self.find_next()).await;
        found.unwrap_or(Err(BrokerError::Timeout("looking for the next entry")))
    }

    async fn find_next(&mut self) -> Result<Option<T>, BrokerError> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            while self.in_flight.len() < READS_AHEAD && self.next >= self.first && self.next > 0 {
                let (broker, stream) = (self.broker.clone(), self.stream.clone());
                let (sequence, decode) = (self.next, self.decode);
                self.in_flight.push_back(Box::pin(async move {
                    let message = broker
                        .read_message(&stream, MessageSelector::BySequence(sequence))
                        .await?;
                    Ok(match message {
                        None => ScanStep::Gap(sequence),
                        Some(message) => decode(broker, stream, message)
                            .await?
                            .map_or(ScanStep::Filtered, ScanStep::Found),
                    })
                }));
                self.next -= 1;
            }
            match self.in_flight.next().await {
                None => return Ok(None),
                Some(step) => match step? {
                    ScanStep::Found(found) => {
                        self.misses = 0;
                        self.ready.push_back(found);
                    }
                    ScanStep::Filtered => self.misses = 0,
                    ScanStep::Gap(sequence) => {
                        self.misses += 1;
                        if self.misses >= READS_AHEAD {
                            self.jump(sequence).await?;
                        }
                    }
                },
            }
        }
    }

    /// Continues at the newest message below a sequence.
    async fn jump(&mut self, below: u64) -> Result<(), BrokerError> {
        self.misses = 0;
        self.in_flight = FuturesOrdered::new();
        self.next = self
            .broker
            .last_message_where(&self.stream, self.first, below.saturating_sub(1), |_| true)
            .await?
            .unwrap_or(0);
        Ok(())
    }
}

impl Broker {
    /// Reads a stream backwards, from the newest message that is no later than `until`; yields
    /// nothing if the stream does not exist. `sequence` is that of a message that the stream had.
    ///
    /// # Errors
    /// Returns [`BrokerError::StaleCursor`] if the stream has not had this sequence: it is another
    /// stream of the same name, or it has lost its last messages.
    pub(crate) async fn scan_reverse<T: Send + 'static>(
        &self,
        stream: String,
        until: Option<Timestamp>,
        sequence: Option<u64>,
        decode: Decode<T>,
    ) -> Result<ReverseScan<T>, BrokerError> {
        let (first, last) = self.first_and_last_sequence(&stream).await?;
        if sequence.is_some_and(|sequence| sequence > last) {
            return Err(BrokerError::StaleCursor);
        }
        let next = match until {
            None => last,
            Some(until) => self
                .last_message_where(&stream, first, last, |time| time <= until)
                .await?
                .unwrap_or(0),
        };
        Ok(self.scan_reverse_from(stream, first, next, decode))
    }

    /// Reads a stream backwards, from the newest message before a sequence, or from the newest of all;
    /// yields nothing if the stream does not exist.
    pub(crate) async fn scan_reverse_before<T: Send + 'static>(
        &self,
        stream: String,
        before: Option<u64>,
        decode: Decode<T>,
    ) -> Result<ReverseScan<T>, BrokerError> {
        let (first, last) = self.first_and_last_sequence(&stream).await?;
        let next = before.map_or(last, |before| last.min(before.saturating_sub(1)));
        Ok(self.scan_reverse_from(stream, first, next, decode))
    }

    fn scan_reverse_from<T>(
        &self,
        stream: String,
        first: u64,
        next: u64,
        decode: Decode<T>,
    ) -> ReverseScan<T> {
        ReverseScan {
            broker: self.clone(),
            stream,
            decode,
            first: first.max(1),
            next,
            in_flight: FuturesOrdered::new(),
            ready: VecDeque::new(),
            misses: 0,
        }
    }

    /// The range of a stream's sequences; empty if the stream does not exist.
    async fn first_and_last_sequence(&self, stream: &str) -> Result<(u64, u64), BrokerError> {
        const DOING: &str = "reading a stream's state";
        let asking = self.jetstream.get_stream(stream);
        match self.until_denied(DOING, stream, asking).await? {
            Ok(found) => {
                let state = &found.cached_info().state;
                Ok((state.first_sequence, state.last_sequence))
            }
            Err(error) if is_stream_not_found(&error) => Ok((1, 0)),
            Err(error) => Err(self.request_error(DOING, error)),
        }
    }

    /// The sequence of the newest message in `first..=last` whose time passes, given that all older
    /// ones pass too. Takes as many reads as the range has binary digits.
    async fn last_message_where(
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
                .read_message(stream, MessageSelector::NextBySubject(">", middle))
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
