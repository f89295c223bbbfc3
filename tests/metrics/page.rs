//! docs/metrics.md.

use crate::harness::generated_file::assert_is_generated;
use naq::metrics::metrics_markdown;

#[test]
fn the_metrics_page_matches_the_table() {
    assert_is_generated("docs/metrics.md", &metrics_markdown(), "metrics_page");
}
