//! Suggestions for misspelt names.

/// The candidate closest to `name`. `None` if none is close enough for a typing error.
#[must_use]
pub fn closest_match<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The name is foreign input, and the distance costs the product of both lengths.
    let name: String = name.chars().take(100).collect();
    let distance_max = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= distance_max)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest_match;

    #[test]
    fn typing_errors_get_a_suggestion_and_other_names_none() {
        let names = ["timeout", "concurrency"];
        assert_eq!(closest_match("concurency", names), Some("concurrency"));
        assert_eq!(closest_match("tmieout", names), Some("timeout"));
        assert_eq!(closest_match("frobnicate", names), None);
    }
}
