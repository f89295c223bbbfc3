//! The path of all pages behind a reverse proxy.

/// The path of all pages behind a reverse proxy: empty, or such as `/naq`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// The path as text: empty, or with a slash at the beginning and none at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for BasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<BasePath, String> {
        let path = text.trim_end_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        let mut parts = path.split('/');
        let starts_with_slash = parts.next() == Some("");
        let is_part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain)
        };
        match path.is_empty() || (starts_with_slash && parts.all(is_part)) {
            true => Ok(BasePath(path.to_owned())),
            false => Err(format!("`{text}` is not a path such as /naq")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_has_no_slash_at_its_end() {
        for (text, expected) in [
            ("", Some("")),
            ("/", Some("")),
            ("/naq", Some("/naq")),
            ("/tools/naq/", Some("/tools/naq")),
            ("naq", None),
            ("//evil.example", None),
            ("/../x", None),
            ("/a b", None),
            ("/a\"", None),
        ] {
            let parsed = text.parse::<BasePath>().ok();
            assert_eq!(parsed.as_ref().map(BasePath::as_str), expected, "{text}");
        }
    }
}
