//! Files of the repository that are written from the program.

use std::path::Path;

/// Asserts that a file, by its path from the root, is what the program says. A developer writes it by running the test
/// with the variable `NAQ_TEST_UPDATE`; `test` is a part of its name.
pub(crate) fn assert_is_generated(path: &str, expected: &str, test: &str) {
    let file = Path::new(crate::ROOT).join(path);
    #[expect(
        clippy::disallowed_methods,
        reason = "a developer asks the test to write the file by this variable"
    )]
    let update = std::env::var_os("NAQ_TEST_UPDATE").is_some();
    if update {
        std::fs::write(&file, expected).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is not what the program says; run NAQ_TEST_UPDATE=1 cargo test --test naq {test}"
    );
}
