//! Drop-down lists of filters.

use serde::Serialize;

use naq_protocol::escape;

/// Periods that a page can be limited to: the value of `since`, and its name.
pub(super) const PERIODS: &[(&str, &str)] = &[
    ("1h", "in the last hour"),
    ("1d", "in the last day"),
    ("7d", "in the last 7 days"),
    ("30d", "in the last 30 days"),
];

/// The name of all time.
pub(super) const AT_ANY_TIME: &str = "at any time";

/// An entry of a list.
#[derive(Serialize)]
pub(super) struct Choice {
    value: String,
    name: String,
    is_chosen: bool,
}

/// A list that begins with everything. The value that was chosen is in it, whatever it is.
pub(super) fn choices<'c>(
    chosen: &str,
    everything: &str,
    others: impl Iterator<Item = (&'c str, &'c str)>,
) -> Vec<Choice> {
    let choice = |value: &str, name: &str| Choice {
        value: value.to_owned(),
        name: name.to_owned(),
        is_chosen: value == chosen,
    };
    let mut choices = vec![choice("", everything)];
    choices.extend(others.map(|(value, name)| choice(value, name)));
    if !choices.iter().any(|choice| choice.is_chosen) {
        choices.push(choice(chosen, &escape(chosen)));
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_value_is_in_the_list_whatever_it_is() {
        let chosen = |value: &str| {
            let choices = choices(value, AT_ANY_TIME, PERIODS.iter().copied());
            let chosen: Vec<String> = choices
                .into_iter()
                .filter(|choice| choice.is_chosen)
                .map(|choice| choice.name)
                .collect();
            chosen.join(", ")
        };
        assert_eq!(chosen(""), "at any time");
        assert_eq!(chosen("7d"), "in the last 7 days");
        assert_eq!(chosen("90s"), "90s");
        assert_eq!(chosen("\u{202e}"), "\\u{202e}");
    }
}
