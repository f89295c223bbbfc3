//! The settings of streams and consumers that naq relies on, compared with those that NATS reports.
//!
//! Pure: a table of settings in, differences out. Settings have the names and values of the JetStream
//! API, so that what naq prints can be found in `nats stream info` and in NATS' documentation.

use serde_json::{Map, Value, json};

/// The settings of a stream or consumer by name, as in the JetStream API.
pub(crate) type Config = Map<String, Value>;

/// A setting of a stream or consumer: the value of a new one, and what an existing one must have.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Its name in the JetStream API.
    pub(crate) name: &'static str,
    /// The value that a new stream or consumer gets, and an existing one if it is changed.
    pub(crate) value: Value,
    need: Need,
    grade: Grade,
}

/// What the value of an existing stream or consumer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// The same value. An absent value is the same as `false`, 0, an empty text and an empty list.
    Same,
    /// The same value, or none so far. Another value means that someone else uses the setting.
    SameOrUnset,
    /// Subjects that include all of these, literally or by wildcards.
    Subjects,
    /// The same texts, in any order.
    SameTexts,
    /// A number that is at least this.
    AtLeast(i64),
    /// No limit: absent, 0 or negative.
    Unlimited,
    /// Any value.
    Any,
}

/// What follows from a value that naq does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// naq does not work with it.
    Required,
    /// naq works, but may lose jobs or records, for example with a server of the cluster.
    Advised,
}

/// What naq does about a setting that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The program that needs it changes it when it starts: nothing is lost by that.
    Automatic,
    /// `naq server check --fix` changes it. Until then naq works, but may lose jobs or records.
    OnRequest,
    /// NATS does not change it, or someone else uses it, and naq does not work with it: programs that
    /// need it do not start.
    Impossible,
    /// NATS does not change it; naq works with it, but may lose jobs or records.
    Tolerated,
}

/// A setting of an existing stream or consumer that is not as naq needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingDifference {
    /// Its name in the JetStream API.
    pub setting: &'static str,
    /// The value that it has. Null if it has none.
    pub found: Value,
    /// The value that naq needs. Of subjects those that are missing.
    pub wanted: Value,
    /// What naq does about it.
    pub remedy: Remedy,
    /// The value that the setting gets if it is changed.
    target: Value,
}

impl Setting {
    fn new(name: &'static str, value: Value, need: Need, grade: Grade) -> Setting {
        Setting {
            name,
            value,
            need,
            grade,
        }
    }

    /// naq works only with this value.
    pub(crate) fn required(name: &'static str, value: impl Into<Value>) -> Setting {
        Setting::new(name, value.into(), Need::Same, Grade::Required)
    }

    /// naq works only with this value, and leaves another one alone.
    pub(crate) fn required_or_unset(name: &'static str, value: Value) -> Setting {
        Setting::new(name, value, Need::SameOrUnset, Grade::Required)
    }

    /// naq sets this value if the setting has none, and works with another one.
    pub(crate) fn advised_or_unset(name: &'static str, value: Value) -> Setting {
        Setting::new(name, value, Need::SameOrUnset, Grade::Advised)
    }

    /// naq also works with another value, but may lose jobs or records.
    pub(crate) fn advised(name: &'static str, value: impl Into<Value>) -> Setting {
        Setting::new(name, value.into(), Need::Same, Grade::Advised)
    }

    /// The subjects that a stream must store.
    pub(crate) fn subjects(subjects: Vec<String>) -> Setting {
        Setting::new("subjects", json!(subjects), Need::Subjects, Grade::Required)
    }

    /// The subjects that a consumer must deliver, and no others.
    pub(crate) fn filters(subjects: Vec<String>) -> Setting {
        Setting::new(
            "filter_subjects",
            json!(subjects),
            Need::SameTexts,
            Grade::Required,
        )
    }

    /// naq works only with a number of at least `min`, and sets `value`.
    pub(crate) fn required_at_least(name: &'static str, min: i64, value: i64) -> Setting {
        Setting::new(name, value.into(), Need::AtLeast(min), Grade::Required)
    }

    /// naq also works with less than `min`, but may lose jobs or records; it sets `value`.
    pub(crate) fn advised_at_least(name: &'static str, min: i64, value: i64) -> Setting {
        Setting::new(name, value.into(), Need::AtLeast(min), Grade::Advised)
    }

    /// naq works only without this limit. `none` is the value that stands for no limit.
    pub(crate) fn required_unlimited(name: &'static str, none: i64) -> Setting {
        Setting::new(name, none.into(), Need::Unlimited, Grade::Required)
    }

    /// naq works with this limit, but loses what exceeds it.
    pub(crate) fn advised_unlimited(name: &'static str, none: i64) -> Setting {
        Setting::new(name, none.into(), Need::Unlimited, Grade::Advised)
    }

    /// The value of a new stream or consumer. naq works with any other.
    pub(crate) fn initial(name: &'static str, value: impl Into<Value>) -> Setting {
        Setting::new(name, value.into(), Need::Any, Grade::Advised)
    }

    /// Whether naq needs some value of the setting, so that another one is a difference.
    #[cfg(test)]
    pub(crate) fn is_needed(&self) -> bool {
        self.need != Need::Any
    }

    fn difference(&self, config: &Config) -> Option<SettingDifference> {
        let found = config.get(self.name).unwrap_or(&Value::Null);
        let mut target = self.value.clone();
        let mut wanted = self.value.clone();
        let mut is_changeable = !is_refused_by_server(self.name, found, &self.value);
        let is_met = match self.need {
            Need::Same => is_same(found, &self.value),
            Need::SameOrUnset => {
                is_changeable &= is_blank(found);
                is_same_object(found, &self.value)
            }
            Need::Subjects => {
                let missing = missing_subjects(found, &self.value);
                target = json!(merged_subjects(found, &missing));
                wanted = json!(missing);
                missing.is_empty()
            }
            Need::SameTexts => sorted_texts(found) == sorted_texts(&self.value),
            Need::AtLeast(min) => found.as_i64().unwrap_or(0) >= min,
            Need::Unlimited => found.as_i64().unwrap_or(0) <= 0 && !found.is_string(),
            Need::Any => true,
        };
        (!is_met).then(|| SettingDifference {
            setting: self.name,
            found: found.clone(),
            wanted,
            target,
            remedy: match (self.grade, is_changeable) {
                (_, true) if self.need == Need::SameOrUnset => Remedy::Automatic,
                (Grade::Required, true) => Remedy::Automatic,
                (Grade::Required, false) => Remedy::Impossible,
                (Grade::Advised, true) => Remedy::OnRequest,
                (Grade::Advised, false) => Remedy::Tolerated,
            },
        })
    }
}

/// The settings that differ from what naq needs.
pub(crate) fn differences(settings: &[Setting], config: &Config) -> Vec<SettingDifference> {
    settings
        .iter()
        .filter_map(|setting| setting.difference(config))
        .collect()
}

/// The settings of a new stream or consumer.
pub(crate) fn new_config(settings: &[Setting]) -> Config {
    settings
        .iter()
        .filter(|setting| !setting.value.is_null())
        .map(|setting| (setting.name.to_owned(), setting.value.clone()))
        .collect()
}

/// The settings with some of them changed to what naq needs. All others stay as they are.
pub(crate) fn changed_config<'d>(
    config: &Config,
    changes: impl Iterator<Item = &'d SettingDifference>,
) -> Config {
    let mut config = config.clone();
    for change in changes {
        config.insert(change.setting.to_owned(), change.target.clone());
    }
    config
}

impl SettingDifference {
    /// A difference in the number of replicas.
    pub(crate) fn replicas(found: usize, wanted: usize) -> SettingDifference {
        SettingDifference {
            setting: "num_replicas",
            found: found.into(),
            wanted: wanted.into(),
            target: wanted.into(),
            remedy: Remedy::OnRequest,
        }
    }

    /// The value that it has, for people.
    #[must_use]
    pub fn found_text(&self) -> String {
        value_text(self.setting, &self.found)
    }

    /// The value that naq needs, for people.
    #[must_use]
    pub fn wanted_text(&self) -> String {
        value_text(self.setting, &self.wanted)
    }
}

/// A value of a setting, for people: durations with a unit, and no limit as such.
fn value_text(setting: &str, value: &Value) -> String {
    const DURATIONS: [&str; 5] = [
        "max_age",
        "subject_delete_marker_ttl",
        "ack_wait",
        "inactive_threshold",
        "max_expires",
    ];
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(texts) if texts.is_empty() => "none".to_owned(),
        Value::Array(texts) => texts
            .iter()
            .map(|text| value_text(setting, text))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Object(_) if setting == "republish" => {
            let part = |name: &str| value[name].as_str().unwrap_or(">").to_owned();
            format!("{} -> {}", part("src"), part("dest"))
        }
        Value::Number(_) if DURATIONS.contains(&setting) => match value.as_u64() {
            None | Some(0) => "none".to_owned(),
            Some(nanos) => format!("{:?}", std::time::Duration::from_nanos(nanos)),
        },
        Value::Number(number) if number.as_i64() == Some(-1) => "unlimited".to_owned(),
        other => other.to_string(),
    }
}

/// Whether nats-server (2.15) refuses to change a setting of an existing stream or consumer from one
/// value to another.
fn is_refused_by_server(name: &str, from: &Value, to: &Value) -> bool {
    match name {
        // of streams: what was never written cannot be added, and a promise is not taken back
        "retention" => from == "workqueue" || to == "workqueue",
        "storage" | "mirror" | "allow_msg_counter" => true,
        "sealed" | "deny_delete" | "deny_purge" => from == true,
        // of consumers
        "deliver_policy" | "ack_policy" | "replay_policy" | "deliver_subject" | "mem_storage"
        | "max_waiting" => true,
        // possible, but another program relies on it
        "subject_transform" => true,
        _ => false,
    }
}

/// Whether a value means the same as none.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_blank),
    }
}

fn is_same(found: &Value, wanted: &Value) -> bool {
    found == wanted || (is_blank(found) && is_blank(wanted))
}

/// Whether two objects have the same fields; an absent one is the same as a blank one.
fn is_same_object(found: &Value, wanted: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (found, wanted) else {
        return is_same(found, wanted);
    };
    a.keys()
        .chain(b.keys())
        .all(|name| is_same(&found[name.as_str()], &wanted[name.as_str()]))
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => vec![text],
        _ => Vec::new(),
    }
}

fn sorted_texts(value: &Value) -> Vec<&str> {
    let mut texts = texts(value);
    texts.sort_unstable();
    texts
}

/// The wanted subjects that the found ones do not include.
fn missing_subjects(found: &Value, wanted: &Value) -> Vec<String> {
    let found = texts(found);
    texts(wanted)
        .into_iter()
        .filter(|subject| !found.iter().any(|filter| includes(filter, subject)))
        .map(str::to_owned)
        .collect()
}

/// The found subjects and the missing ones, without those that a missing one includes: the subjects
/// of a stream must not overlap.
fn merged_subjects(found: &Value, missing: &[String]) -> Vec<String> {
    let kept = texts(found)
        .into_iter()
        .filter(|subject| !missing.iter().any(|filter| includes(filter, subject)));
    kept.map(str::to_owned)
        .chain(missing.iter().cloned())
        .collect()
}

/// Whether every subject that matches `subject`, which may have wildcards too, matches `filter`.
fn includes(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in filter.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Vec<Setting> {
        vec![
            Setting::subjects(vec!["a.queue.q".to_owned(), "a.queue.q.*".to_owned()]),
            Setting::required("retention", "workqueue"),
            Setting::required("allow_msg_ttl", true),
            Setting::required("deny_purge", false),
            Setting::required_or_unset("republish", json!({"src": "a.>", "dest": "b.>"})),
            Setting::required_at_least("subject_delete_marker_ttl", 1, 10),
            Setting::advised_unlimited("max_age", 0),
            Setting::advised("storage", "file"),
            Setting::advised_or_unset("placement", json!({"cluster": "c"})),
            Setting::initial("max_bytes", -1),
        ]
    }

    fn remedies(config: &Config) -> Vec<(&'static str, Remedy)> {
        let differences = differences(&settings(), config);
        let differences = differences.iter();
        differences.map(|one| (one.setting, one.remedy)).collect()
    }

    fn with(changes: &[(&str, Value)]) -> Config {
        let mut config = new_config(&settings());
        for (name, value) in changes {
            config.insert((*name).to_owned(), value.clone());
        }
        config
    }

    #[test]
    fn a_new_stream_is_as_naq_needs_it() {
        assert_eq!(remedies(&with(&[])), []);
    }

    #[test]
    fn a_setting_is_changed_if_nats_permits_it_and_nothing_is_lost() {
        use Remedy::{Automatic, Impossible, OnRequest, Tolerated};
        for (name, value, remedy) in [
            ("allow_msg_ttl", Value::Null, Automatic),
            ("subject_delete_marker_ttl", json!(0), Automatic),
            ("republish", Value::Null, Automatic),
            (
                "republish",
                json!({"src": "a.>", "dest": "mine.>"}),
                Impossible,
            ),
            ("retention", json!("limits"), Impossible),
            ("deny_purge", json!(true), Impossible),
            ("subjects", json!(["a.queue.q"]), Automatic),
            ("max_age", json!(3_600_000_000_000_u64), OnRequest),
            ("storage", json!("memory"), Tolerated),
            ("placement", Value::Null, Automatic),
            ("placement", json!({"cluster": "d"}), Tolerated),
        ] {
            let config = with(&[(name, value)]);
            assert_eq!(remedies(&config), [(name, remedy)], "{config:?}");
        }
        // what means the same, more than enough, or does not matter
        for (name, value) in [
            ("deny_purge", Value::Null),
            ("max_age", json!(-1)),
            ("subject_delete_marker_ttl", json!(5)),
            (
                "republish",
                json!({"src": "a.>", "dest": "b.>", "headers_only": false}),
            ),
            ("subjects", json!(["a.queue.q", "a.queue.q.>", "more"])),
            ("max_bytes", json!(1024)),
        ] {
            assert_eq!(remedies(&with(&[(name, value)])), []);
        }
    }

    #[test]
    fn missing_subjects_are_added_without_an_overlap() {
        let found = json!(["a.queue.q.x", "other"]);
        let config = with(&[("subjects", found)]);
        let differences = differences(&settings(), &config);
        assert_eq!(differences[0].wanted, json!(["a.queue.q", "a.queue.q.*"]));
        let changed = changed_config(&config, differences.iter());
        assert_eq!(
            changed["subjects"],
            json!(["other", "a.queue.q", "a.queue.q.*"])
        );
    }

    #[test]
    fn a_subject_is_included_literally_or_by_wildcards() {
        for (filter, subject, is_included) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.*", true),
            ("a.>", "a.*", true),
            ("a.>", "a.b.c", true),
            (">", "a.>", true),
            ("a.>", "a", false),
            ("a.*", "a.>", false),
            ("a.*", "a.b.c", false),
            ("a.b", "a.*", false),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(
                includes(filter, subject),
                is_included,
                "{filter} of {subject}"
            );
        }
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        for (setting, value, text) in [
            ("max_age", json!(3_600_000_000_000_u64), "3600s"),
            ("max_age", json!(0), "none"),
            ("max_msgs", json!(-1), "unlimited"),
            ("allow_msg_ttl", Value::Null, "unset"),
            ("subjects", json!(["a", "b"]), "a b"),
            (
                "republish",
                json!({"src": "a.>", "dest": "b.>"}),
                "a.> -> b.>",
            ),
        ] {
            assert_eq!(value_text(setting, &value), text);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1_i64..20).prop_map(Value::from),
            prop::sample::select(vec!["limits", "workqueue", "file", "memory", "a.>"])
                .prop_map(Value::from),
            prop::collection::vec(
                prop::sample::select(vec!["a.queue.q", "a.queue.>", "x", "a.queue.q.j"]),
                0..3
            )
            .prop_map(|texts| json!(texts)),
            Just(json!({"src": "a.>", "dest": "b.>"})),
            Just(json!({"src": "a.>", "dest": "c.>"})),
        ]
    }

    fn any_config() -> impl Strategy<Value = Config> {
        let names: Vec<&str> = settings().iter().map(|setting| setting.name).collect();
        let name = prop::sample::select([names, vec!["metadata", "description"]].concat());
        prop::collection::btree_map(name, any_value(), 0..8).prop_map(|changes| {
            let changes: Vec<(&str, Value)> = changes.into_iter().collect();
            with(&changes)
        })
    }

    proptest! {
        /// After naq has changed what it may, nothing differs but what cannot be changed; and nothing
        /// else has changed.
        #[test]
        fn a_change_leaves_only_what_cannot_be_changed(config in any_config()) {
            let settings = settings();
            let before = differences(&settings, &config);
            let is_changeable = |one: &&SettingDifference| {
                matches!(one.remedy, Remedy::Automatic | Remedy::OnRequest)
            };
            let changed = changed_config(&config, before.iter().filter(is_changeable));
            let left: Vec<_> = differences(&settings, &changed);
            let expected: Vec<_> = before.iter().filter(|one| !is_changeable(one)).cloned().collect();
            prop_assert_eq!(left, expected);
            for (name, value) in &config {
                let differed = before.iter().filter(is_changeable).any(|one| one.setting == name);
                prop_assert!(differed || changed.get(name) == Some(value), "{} changed", name);
            }
        }
    }
}
