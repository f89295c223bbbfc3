//! The patterns by which a job's files are kept.

use crate::files::check_file_path;

/// The most patterns of one job.
pub const ARTIFACT_PATTERNS_MAX: usize = 100;

/// Which files of a work folder to keep: a path in which `*` stands for any part of a name, `?` for one
/// character of it, and the name `**` for any number of folders. A pattern that matches a folder matches
/// everything in it. Every other character stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactPattern {
    names: Vec<String>,
}

impl ArtifactPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Returns what is wrong, as a clause: a pattern stays in the work folder, as a path does.
    pub fn new(text: &str) -> Result<ArtifactPattern, &'static str> {
        check_file_path(text)?;
        let names = text.split('/').map(str::to_owned).collect();
        Ok(ArtifactPattern { names })
    }

    /// The folder or file that everything which matches is or is in: the names before the first one with a
    /// wildcard. Empty for the work folder itself.
    #[must_use]
    pub fn base(&self) -> String {
        let is_plain = |name: &&String| !name.contains(['*', '?']);
        let plain: Vec<&str> = self
            .names
            .iter()
            .take_while(is_plain)
            .map(String::as_str)
            .collect();
        plain.join("/")
    }

    /// Whether a file's path matches, or that of a folder in which it is.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        (1..=names.len()).any(|count| matches_names(&self.names, &names[..count]))
    }
}

/// Whether the names of a pattern match those of a path. After each `**`, only the last one is tried again,
/// so that the time is at most the product of both lengths.
fn matches_names(pattern: &[String], names: &[&str]) -> bool {
    let (mut at, mut name) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while name < names.len() {
        match pattern.get(at).map(String::as_str) {
            Some("**") => {
                last_any = Some((at, name));
                at += 1;
            }
            Some(one) if matches_name(one, names[name]) => {
                at += 1;
                name += 1;
            }
            _ => match last_any {
                Some((any, from)) => {
                    last_any = Some((any, from + 1));
                    at = any + 1;
                    name = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| rest == "**")
}

/// Whether one name of a pattern matches one name of a path, in the same way.
fn matches_name(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut next) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while next < name.len() {
        match pattern.get(at) {
            Some('*') => {
                last_any = Some((at, next));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[next] => {
                at += 1;
                next += 1;
            }
            _ => match last_any {
                Some((any, from)) => {
                    last_any = Some((any, from + 1));
                    at = any + 1;
                    next = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        ArtifactPattern::new(pattern).unwrap().matches(path)
    }

    #[test]
    fn patterns_match_names_folders_and_everything_below() {
        for (pattern, path) in [
            ("out/*.csv", "out/a.csv"),
            ("*", "a"),
            ("*", "a/b"),
            ("out", "out/a/b"),
            ("a?c", "abc"),
            ("**/*.log", "a.log"),
            ("**/*.log", "x/y/a.log"),
            ("x/**/z", "x/z"),
            ("x/**/z", "x/a/b/z"),
            ("x/**", "x/a/b"),
            ("a*b*c", "a--b--b--c"),
            ("[a]", "[a]"),
            ("**/b/**/d", "a/b/c/b/d"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("out/*.csv", "out/a.txt"),
            ("out/*.csv", "a.csv"),
            ("a", "ab"),
            ("?", "ab"),
            ("[a]", "a"),
            ("x/**/z", "x/a"),
            ("*.csv", "a/b.csv"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_stays_in_the_work_folder() {
        for text in ["", "/etc/*", "../*", "a/../*", "./a", "a//b", "a\0"] {
            assert!(ArtifactPattern::new(text).is_err(), "{text:?}");
        }
        let base = |text: &str| ArtifactPattern::new(text).unwrap().base();
        assert_eq!(base("out/deep/*.csv"), "out/deep");
        assert_eq!(base("out/a.csv"), "out/a.csv");
        assert_eq!(base("**/a"), "");
    }

    proptest! {
        #[test]
        fn a_path_matches_itself_and_a_wildcard_in_any_place(path in "[a-c]{1,6}(/[a-c]{1,6}){0,4}", at in 0usize..30) {
            prop_assert!(matches(&path, &path));
            let mut wild = path.clone();
            wild.insert(at.min(path.len()), '*');
            prop_assert!(matches(&wild, &path), "{} {}", wild, path);
            let anywhere = format!("**/{path}");
            prop_assert!(matches(&anywhere, &path));
        }

        #[test]
        fn a_hostile_pattern_takes_little_time(stars in 1usize..200) {
            let pattern = "*a".repeat(stars.min(120)) + "b";
            prop_assert!(!matches(&pattern, &"a".repeat(250)));
        }
    }
}
