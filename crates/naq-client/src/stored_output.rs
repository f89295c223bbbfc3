//! What is stored of a job's output, with the place at which bytes are missing.

use super::{Client, ClientError};
use naq_jetstream::OutputStream;
use naq_protocol::{CapturedOutput, Record};

/// What is stored of one output stream of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredOutput {
    /// The beginning of the stream; all of it if no bytes are missing.
    pub head: Vec<u8>,
    /// Number of bytes between head and tail that were not kept.
    pub missing_bytes: u64,
    /// The end of the stream. Empty if no bytes are missing.
    pub tail: Vec<u8>,
}

impl StoredOutput {
    /// Splits what is stored of an output into head and tail. `object` has the bytes of the object
    /// that the output names.
    #[must_use]
    pub fn new(output: &CapturedOutput, object: Option<Vec<u8>>) -> StoredOutput {
        let (head, tail) = match object {
            None => (output.head_bytes(), output.tail_bytes()),
            Some(mut head) => {
                // Records of earlier versions do not say where the head ends: the gap is at the end.
                let tail = output
                    .object_head_bytes
                    .and_then(|length| usize::try_from(length).ok())
                    .filter(|length| *length < head.len())
                    .map(|length| head.split_off(length));
                (head, tail.unwrap_or_default())
            }
        };
        let missing_bytes = missing_bytes(output, (head.len() + tail.len()) as u64);
        StoredOutput {
            head,
            missing_bytes,
            tail,
        }
    }

    /// All stored bytes, without a mark where bytes are missing.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.head.append(&mut self.tail);
        self.head
    }
}

/// Number of bytes that are missing from an output of which `kept` bytes are stored.
pub(crate) fn missing_bytes(output: &CapturedOutput, kept: u64) -> u64 {
    match output.truncated {
        false => 0,
        // Earlier versions store only the length of the whole stream.
        true => output
            .missing_bytes
            .unwrap_or_else(|| output.bytes.saturating_sub(kept).max(1)),
    }
}

impl Client {
    /// Returns what is stored of an output stream of a job, in the record or in the object store.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the output is a stored object that cannot be read.
    pub async fn read_output(
        &self,
        record: &Record,
        stdio: OutputStream,
    ) -> Result<StoredOutput, ClientError> {
        let output = match stdio {
            OutputStream::Stdout => &record.stdout,
            OutputStream::Stderr => &record.stderr,
        };
        let Some(output) = output else {
            return Ok(StoredOutput::default());
        };
        let object = match &output.object {
            Some(object) => Some(self.broker.get_object(object).await?),
            None => None,
        };
        Ok(StoredOutput::new(output, object))
    }

    /// Returns what is stored of a job's standard output, without a mark where bytes are missing.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the output is a stored object that cannot be read.
    pub async fn read_stdout(&self, record: &Record) -> Result<Vec<u8>, ClientError> {
        let output = self.read_output(record, OutputStream::Stdout).await?;
        Ok(output.into_bytes())
    }

    /// Returns what is stored of a job's standard error, without a mark where bytes are missing.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the output is a stored object that cannot be read.
    pub async fn read_stderr(&self, record: &Record) -> Result<Vec<u8>, ClientError> {
        let output = self.read_output(record, OutputStream::Stderr).await?;
        Ok(output.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_of_a_truncated_output_is_between_head_and_tail() {
        let output = CapturedOutput::new(b"head".to_vec(), b"tail".to_vec(), 108, 100);
        let stored = StoredOutput::new(&output, None);
        assert_eq!(
            (&stored.head[..], stored.missing_bytes, &stored.tail[..]),
            (&b"head"[..], 100, &b"tail"[..])
        );
        let in_object = CapturedOutput {
            text: Some("he".to_owned()),
            tail: None,
            object: Some("output/j/1/stdout".to_owned()),
            object_head_bytes: Some(4),
            ..output
        };
        assert_eq!(
            StoredOutput::new(&in_object, Some(b"headtail".to_vec())),
            stored
        );
    }

    #[test]
    fn gap_of_an_earlier_version_is_what_the_length_says() {
        let output: CapturedOutput =
            serde_json::from_str(r#"{"text":"ab","tail":"yz","bytes":26,"truncated":true}"#)
                .unwrap();
        assert_eq!(StoredOutput::new(&output, None).missing_bytes, 22);
    }
}
