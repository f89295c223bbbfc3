//! Suggestions for misspelt names.

/// The candidate nearest to `name`, or `None` if none is near enough to be a typing error.
#[must_use]
pub fn closest_match<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Names come from foreign input, and the distance costs the product of both lengths.
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
    fn only_typing_errors_are_suggested() {
        let names = ["timeout", "concurrency"];
        assert_eq!(closest_match("concurency", names), Some("concurrency"));
        assert_eq!(closest_match("tmieout", names), Some("timeout"));
        assert_eq!(closest_match("frobnicate", names), None);
    }
}
