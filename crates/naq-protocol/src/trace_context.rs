//! The trace context of W3C: which trace a job belongs to.

use std::fmt;
use std::str::FromStr;

/// The name of the header of HTTP requests and of messages. A job has the variable of the same name in capitals.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// A trace, and the span in it that is the parent of what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The id of the trace; not only zeros.
    pub trace_id: [u8; 16],
    /// The id of the span; not only zeros.
    pub span_id: [u8; 8],
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

/// A text is no trace context of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not a trace context such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)]
pub struct InvalidTraceContext;

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<TraceContext, InvalidTraceContext> {
        let mut parts = text.split('-');
        let mut part = |length| {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let part = parts.next().filter(|part| part.len() == length);
            let part = part.filter(|part| part.bytes().all(is_digit));
            part.ok_or(InvalidTraceContext)
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // a later version may add parts, but begins with these
        let has_more = parts.next().is_some();
        if version == "ff" || (version == "00" && has_more) {
            return Err(InvalidTraceContext);
        }
        let number = |digits| u128::from_str_radix(digits, 16).map_err(|_| InvalidTraceContext);
        let (trace_id, span_id, flags) = (number(trace_id)?, number(span_id)?, number(flags)?);
        let span_id = u64::try_from(span_id).map_err(|_| InvalidTraceContext)?;
        if trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceContext);
        }
        Ok(TraceContext {
            trace_id: trace_id.to_be_bytes(),
            span_id: span_id.to_be_bytes(),
            is_sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.span_id),
            u8::from(self.is_sampled)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_context_is_read_and_written() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        assert!(context.is_sampled);
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-more";
        let later: TraceContext = later.parse().unwrap();
        assert_eq!(
            (later.trace_id, later.is_sampled),
            (context.trace_id, false)
        );
    }

    #[test]
    fn what_is_no_trace_context_is_refused() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(
                wrong.parse::<TraceContext>(),
                Err(InvalidTraceContext),
                "{wrong}"
            );
        }
    }
}
