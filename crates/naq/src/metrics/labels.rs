//! Values of labels: short, few, and cheap to copy.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

/// Number of queues, or of schedules, that have time series of their own.
pub(crate) const LABEL_VALUES_MAX: usize = 500;

/// The value of a label that stands for all queues or schedules beyond the first 500.
pub(crate) const OTHER: &str = "other";

/// Maximum number of labels of a metric.
const LABELS_MAX: usize = 3;

/// The value of a label. A word and a name of the same text are the same value.
#[derive(Clone, Debug)]
pub(crate) enum LabelValue {
    /// A word of the program.
    Word(&'static str),
    /// A name that a user has chosen.
    Name(Arc<str>),
}

impl LabelValue {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            LabelValue::Word(word) => word,
            LabelValue::Name(name) => name,
        }
    }
}

impl PartialEq for LabelValue {
    fn eq(&self, other: &LabelValue) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for LabelValue {}

impl Hash for LabelValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl From<&'static str> for LabelValue {
    fn from(word: &'static str) -> LabelValue {
        LabelValue::Word(word)
    }
}

impl EncodeLabelValue for LabelValue {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

/// The values of a metric's labels, in the order of its row. A copy allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    names: &'static [&'static str],
    values: [Option<LabelValue>; LABELS_MAX],
}

impl Labels {
    /// Pairs names with values. Ignores values beyond the names.
    pub(super) fn new<const N: usize>(
        names: &'static [&'static str],
        values: [LabelValue; N],
    ) -> Labels {
        const { assert!(N <= LABELS_MAX) };
        debug_assert_eq!(names.len(), N, "{names:?}");
        let mut all = [const { None }; LABELS_MAX];
        for (place, value) in all.iter_mut().zip(values) {
            *place = Some(value);
        }
        Labels { names, values: all }
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), std::fmt::Error> {
        for (name, value) in self.names.iter().zip(self.values.iter().flatten()) {
            let mut key = encoder.encode_label();
            let mut key = key.encode_label_key()?;
            key.write_str(name)?;
            let mut shown = key.encode_label_value()?;
            value.encode(&mut shown)?;
            shown.finish()?;
        }
        Ok(())
    }
}

/// The values that a label has had. The first 500 names have their own value and all others share one, so
/// that many queues or schedules cannot exhaust the memory of a Prometheus server.
#[derive(Debug, Default)]
pub(crate) struct LabelValues(BTreeSet<Arc<str>>);

impl LabelValues {
    /// The value that stands for a name.
    pub(crate) fn of(&mut self, name: &str) -> LabelValue {
        if let Some(known) = self.0.get(name) {
            return LabelValue::Name(Arc::clone(known));
        }
        if self.0.len() >= LABEL_VALUES_MAX {
            return LabelValue::Word(OTHER);
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        LabelValue::Name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_label_has_at_most_500_values_and_each_name_keeps_its_own(
            names in proptest::collection::vec("[a-z]{1,2}", 0..2_000),
        ) {
            let mut values = LabelValues::default();
            let shown: Vec<LabelValue> = names.iter().map(|name| values.of(name)).collect();
            let distinct: BTreeSet<&str> = shown.iter().map(LabelValue::as_str).collect();
            prop_assert!(distinct.len() <= LABEL_VALUES_MAX + 1);
            let mut first: Vec<&String> = Vec::new();
            for (name, value) in names.iter().zip(&shown) {
                if !first.contains(&name) {
                    first.push(name);
                }
                let is_among_first = first.iter().position(|known| *known == name) < Some(LABEL_VALUES_MAX);
                let expected = if is_among_first { name.as_str() } else { OTHER };
                prop_assert_eq!(value.as_str(), expected);
                prop_assert_eq!(&values.of(name), value);
            }
        }
    }
}
