//! What the fuzz targets check of this crate, with any bytes. `fuzz/README.md` says how they are run;
//! the test replays the corpus.

use async_nats::HeaderMap;

use crate::pull::delivery::check_ack_subject;
use crate::records::change::parse_change;
use crate::stream::stream_api::StoredMessage;

/// What a server, or a program in its place, sends: a stored message as JSON, and a subject for
/// acknowledgements.
pub fn nats_reply(bytes: &[u8]) {
    check_ack_subject(&String::from_utf8_lossy(bytes));
    let Ok(message) = serde_json::from_slice::<StoredMessage>(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for (name, value) in message.header_list() {
        // the client library accepts fewer names than a server can send
        if let (Ok(name), Ok(value)) = (
            name.parse::<async_nats::HeaderName>(),
            value.parse::<async_nats::HeaderValue>(),
        ) {
            headers.append(name, value);
        }
    }
    let payload = message.payload();
    let change = parse_change(&headers, &payload, message.sequence, Some(message.time));
    if let Some(change) = change {
        assert_eq!(change.revision, message.sequence);
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("nats_reply", super::nats_reply);
    }
}
