//! docs/metrics.md.

use std::path::Path;

use crate::ROOT;
use naq::metrics::metrics_markdown;

#[test]
fn the_metrics_page_matches_the_table() {
    let path = Path::new(ROOT).join("docs/metrics.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a developer asks the test to write the page by this variable"
    )]
    let update = std::env::var_os("NAQ_TEST_UPDATE").is_some();
    if update {
        std::fs::write(&path, metrics_markdown()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        metrics_markdown(),
        "run NAQ_TEST_UPDATE=1 cargo nextest run metrics_page"
    );
}
