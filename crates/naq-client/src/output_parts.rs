//! What is stored of a job's output, part by part: a reader needs the memory of one part.

use bytes::Bytes;

use super::stored_output::missing_bytes;
use super::{Client, ClientError};
use naq_jetstream::{OutputStream, StoredObject};
use naq_protocol::{CapturedOutput, Record};

/// Maximum size of a part of an output that is in the record, in bytes. A part of one in the object store is
/// a chunk of the object.
const PART_BYTES_MAX: usize = 128 << 10;

/// What is stored of one output stream of a job, to be read with [`Client::read_output_part`].
#[derive(Clone, Debug)]
pub struct OutputParts {
    place: Place,
    length: u64,
    gap: Option<OutputGap>,
}

#[derive(Clone, Debug)]
enum Place {
    Record(Bytes),
    Object(StoredObject),
}

/// A place at which bytes of the stream were not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputGap {
    /// Number of stored bytes before it.
    pub offset: u64,
    /// Number of bytes that are missing.
    pub missing_bytes: u64,
}

/// The beginning of a part of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartPosition {
    /// Number of stored bytes before it.
    pub offset: u64,
    /// Sequence in the object store from which the part is searched. 0 means the first one.
    sequence: u64,
}

impl PartPosition {
    /// The position after this many stored bytes of an output that is in the record.
    #[must_use]
    pub fn in_record(offset: u64) -> PartPosition {
        PartPosition {
            offset,
            sequence: 0,
        }
    }
}

impl OutputParts {
    fn new(output: &CapturedOutput, object: Option<StoredObject>) -> OutputParts {
        let (place, length, head_bytes) = match object {
            Some(object) => {
                let length = object.size_bytes;
                // Records of earlier versions do not say where the head ends: the gap is at the end.
                let head = output.object_head_bytes.filter(|head| *head < length);
                (Place::Object(object), length, head.unwrap_or(length))
            }
            None => {
                let mut bytes = output.head_bytes();
                let head_bytes = bytes.len() as u64;
                bytes.append(&mut output.tail_bytes());
                let length = bytes.len() as u64;
                (Place::Record(bytes.into()), length, head_bytes)
            }
        };
        let missing_bytes = missing_bytes(output, length);
        OutputParts {
            place,
            length,
            gap: (missing_bytes > 0).then_some(OutputGap {
                offset: head_bytes,
                missing_bytes,
            }),
        }
    }

    /// Number of stored bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where bytes are missing. `None` if all bytes of the stream are stored.
    #[must_use]
    pub fn gap(&self) -> Option<OutputGap> {
        self.gap
    }

    /// What identifies the content, if it is an object. `None` if it is in the record.
    #[must_use]
    pub fn object_id(&self) -> Option<&str> {
        match &self.place {
            Place::Record(_) => None,
            Place::Object(object) => Some(&object.id),
        }
    }
}

impl Client {
    /// Finds what is stored of an output stream of a job, to read it part by part. A stream of which nothing is
    /// stored is empty.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the output is a stored object that does not exist.
    pub async fn open_output(
        &self,
        record: &Record,
        stdio: OutputStream,
    ) -> Result<OutputParts, ClientError> {
        let output = match stdio {
            OutputStream::Stdout => &record.stdout,
            OutputStream::Stderr => &record.stderr,
        };
        let Some(output) = output else {
            return Ok(OutputParts::new(&CapturedOutput::default(), None));
        };
        let object = match &output.object {
            Some(object) => Some(self.broker.open_object(object).await?),
            None => None,
        };
        Ok(OutputParts::new(output, object))
    }

    /// Reads the part of an output that begins at this position, and returns it with the position of the next
    /// one. `None` at the end.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the part cannot be read, or if the object has another size than its
    /// description says.
    pub async fn read_output_part(
        &self,
        output: &OutputParts,
        position: PartPosition,
    ) -> Result<Option<(Bytes, PartPosition)>, ClientError> {
        if position.offset >= output.length {
            return Ok(None);
        }
        match &output.place {
            Place::Record(bytes) => {
                let from = usize::try_from(position.offset).unwrap_or(bytes.len());
                let from = from.min(bytes.len());
                let part = bytes.slice(from..(from + PART_BYTES_MAX).min(bytes.len()));
                let next = PartPosition::in_record(position.offset + part.len() as u64);
                Ok(Some((part, next)))
            }
            Place::Object(object) => {
                let from = position.sequence.max(1);
                let reading = self.broker.read_object_chunk(object, from, position.offset);
                let chunk = reading.await?;
                let next = PartPosition {
                    offset: position.offset + chunk.bytes.len() as u64,
                    sequence: chunk.sequence + 1,
                };
                Ok(Some((chunk.bytes, next)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_an_output_is_between_head_and_tail() {
        let output = CapturedOutput::new(b"head".to_vec(), b"tail\n".to_vec(), 109, 100);
        let parts = OutputParts::new(&output, None);
        let gap = OutputGap {
            offset: 4,
            missing_bytes: 100,
        };
        assert_eq!((parts.length(), parts.gap()), (9, Some(gap)));
        let whole = CapturedOutput::new(b"all".to_vec(), Vec::new(), 3, 0);
        assert_eq!(OutputParts::new(&whole, None).gap(), None);
        let of_earlier_version = CapturedOutput {
            bytes: 10,
            missing_bytes: None,
            ..output
        };
        let parts = OutputParts::new(&of_earlier_version, None);
        assert_eq!(parts.gap().map(|gap| gap.missing_bytes), Some(1));
    }
}
