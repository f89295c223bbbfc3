//! Ranges of lines in requests: `120-200`, `120` or `120-`. Lines are numbered from 1.

use std::ops::RangeInclusive;

/// The lines that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) struct LineRange {
    pub(in crate::web) first: u64,
    /// `None` means the end of the output.
    pub(in crate::web) last: Option<u64>,
}

impl LineRange {
    /// Those of the named lines that an output with this many lines has, at most `lines_max`. `None` if it has
    /// none of them.
    pub(in crate::web) fn of(self, lines: u64, lines_max: u64) -> Option<RangeInclusive<u64>> {
        let last = self.last.unwrap_or(lines).min(lines);
        let most = self.first.saturating_add(lines_max.saturating_sub(1));
        (self.first <= last).then(|| self.first..=last.min(most))
    }
}

impl std::str::FromStr for LineRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<LineRange, &'static str> {
        const EXPECTED: &str = "expected lines such as 120-200, 120 or 120-, counted from 1";
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u64>().map_err(|_| EXPECTED),
            false => Err(EXPECTED),
        };
        let (first, last) = match text.split_once('-') {
            None => (number(text)?, Some(number(text)?)),
            Some((first, "")) => (number(first)?, None),
            Some((first, last)) => (number(first)?, Some(number(last)?)),
        };
        match first > 0 && last.is_none_or(|last| first <= last) {
            true => Ok(LineRange { first, last }),
            false => Err(EXPECTED),
        }
    }
}

/// The last lines of an output with this many lines, at most `count`. `None` if it is empty.
pub(in crate::web) fn tail(lines: u64, count: u64) -> Option<RangeInclusive<u64>> {
    (lines > 0 && count > 0).then(|| lines.saturating_sub(count - 1).max(1)..=lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_has_a_first_line_and_may_have_a_last_one() {
        let range = |first, last| Some(LineRange { first, last });
        for (text, expected) in [
            ("120-200", range(120, Some(200))),
            ("7", range(7, Some(7))),
            ("7-", range(7, None)),
            ("7-7", range(7, Some(7))),
            ("0", None),
            ("0-5", None),
            ("5-2", None),
            ("-5", None),
            ("", None),
            ("+1-2", None),
            ("1-2-3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_range_is_cut_to_what_the_output_has() {
        let of = |text: &str, lines| text.parse::<LineRange>().unwrap().of(lines, 100);
        assert_eq!(of("5-9", 7), Some(5..=7));
        assert_eq!(of("8-", 7), None);
        assert_eq!(of("1", 0), None);
        assert_eq!(of("3-", 1_000), Some(3..=102));
        assert_eq!(tail(10, 3), Some(8..=10));
        assert_eq!(tail(2, 3), Some(1..=2));
        assert_eq!(tail(0, 3), None);
        assert_eq!(tail(u64::MAX, u64::MAX), Some(1..=u64::MAX));
    }

    proptest! {
        #[test]
        fn named_lines_exist_and_are_few(first in 1_u64.., more in any::<Option<u64>>(), lines in any::<u64>(), max in 1_u64..10_000) {
            let last = more.map(|more| first.saturating_add(more));
            if let Some(range) = (LineRange { first, last }).of(lines, max) {
                prop_assert!(*range.start() == first && range.end() <= &lines);
                prop_assert!(range.end() - range.start() < max);
            } else {
                prop_assert!(first > lines);
            }
        }
    }
}
