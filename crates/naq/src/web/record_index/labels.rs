//! The labels of a record as one text, so that equal sets are stored once.

use std::collections::BTreeMap;
use std::fmt::Write;

use naq_client::LabelFilter;

/// The labels as text: the lengths and the bytes of each key and value. `None` if there are none.
pub(super) fn encode(labels: &BTreeMap<String, String>) -> Option<String> {
    if labels.is_empty() {
        return None;
    }
    let mut text = String::new();
    for (key, value) in labels {
        // writing to a text cannot fail
        let _ = write!(text, "{}:{}:{key}{value}", key.len(), value.len());
    }
    Some(text)
}

/// Whether labels satisfy all filters.
pub(super) fn satisfy(text: Option<&str>, filters: &[LabelFilter]) -> bool {
    filters.iter().all(|filter| {
        decode(text.unwrap_or_default()).any(|(key, value)| {
            key == filter.key && filter.value.as_ref().is_none_or(|wanted| wanted == value)
        })
    })
}

fn decode(mut text: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let (key, rest) = text.split_once(':')?;
        let (value, rest) = rest.split_once(':')?;
        let (key, rest) = rest.split_at_checked(key.parse().ok()?)?;
        let (value, rest) = rest.split_at_checked(value.parse().ok()?)?;
        text = rest;
        Some((key, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn labels_are_read_back(labels in proptest::collection::btree_map("\\PC{0,5}|[:0-9]{0,4}", "\\PC{0,5}|[:0-9]{0,4}", 0..4)) {
            let text = encode(&labels);
            let read: BTreeMap<String, String> = decode(text.as_deref().unwrap_or_default())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            prop_assert_eq!(read, labels);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}|[:0-9]{0,9}") {
            let _ = decode(&text).count();
        }
    }
}
