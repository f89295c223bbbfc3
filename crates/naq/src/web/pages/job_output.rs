//! The output of an ended job on its page: windows of numbered lines, and a search. The page works without
//! scripts, by parameters of its address; a script loads rows as the reader scrolls.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;

use crate::text::{bytes, count};
use crate::web::ansi::AnsiText;
use crate::web::api::output::{parse_stream, stream_name};
use crate::web::api::parameters::{Query, encode, limit};
use crate::web::output::Output;
use crate::web::output::line_range::LineRange;
use crate::web::output::search::Needle;
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_client::OutputStream;
use naq_protocol::{CapturedOutput, JobId, Record, escape};

/// Number of lines of a window.
const WINDOW_LINES: u64 = 400;

/// Number of lines that are shown of the beginning and of the end of a longer output.
const END_LINES: u64 = 200;

/// Number of lines of a window before the line that a link leads to.
const LINES_BEFORE: u64 = 20;

/// Maximum number of matches of a search that the page shows.
const MATCHES_SHOWN_MAX: usize = 100;

/// Maximum number of rows in an answer to a script.
const ROWS_MAX: usize = 500;

/// The parameters of the page that select what is shown of the outputs.
pub(super) const PARAMETERS: &[&str] = &["stdout", "stderr", "q", "in", "from"];

/// What the address of the page selects.
pub(super) struct Selection {
    stdout: Option<LineRange>,
    stderr: Option<LineRange>,
    search: Option<Search>,
}

struct Search {
    stream: OutputStream,
    text: String,
    needle: Needle,
    from: u64,
}

impl Selection {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Returns a problem that names an unknown parameter or an invalid value.
    pub(super) fn parse(query: RawQuery) -> Result<Selection, Problem> {
        let query = Query::parse(query, PARAMETERS)?;
        let stream = query.parsed("in", parse_stream)?;
        let from = query.parsed("from", |line| line.parse::<LineRange>())?;
        // an empty field of the form is no search
        let text = query.one("q")?.filter(|text| !text.is_empty());
        let search = text.map(|text| {
            let needle = text.parse::<Needle>();
            let needle = needle.map_err(|error| Problem::parameter("q", error))?;
            Ok::<_, Problem>(Search {
                stream: stream.unwrap_or(OutputStream::Stdout),
                text: text.to_owned(),
                needle,
                from: from.map_or(1, |range| range.first),
            })
        });
        let lines = |name| match query.one(name)? {
            Some("") => Ok(None),
            _ => query.parsed(name, str::parse::<LineRange>),
        };
        Ok(Selection {
            stdout: lines("stdout")?,
            stderr: lines("stderr")?,
            search: search.transpose()?,
        })
    }

    fn lines(&self, stream: OutputStream) -> Option<LineRange> {
        match stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        }
    }
}

/// An output stream of an ended job.
#[derive(Serialize)]
pub(super) struct OutputView {
    name: &'static str,
    /// Its size and number of lines.
    size: String,
    is_empty: bool,
    lines: u64,
    /// The line to show first; 0 means none in particular.
    first: u64,
    /// The last of the lines to highlight, which begin with `first`; 0 means none.
    last: u64,
    windows: Vec<WindowView>,
    /// The text that was searched for.
    text: String,
    found: Option<FoundView>,
}

/// Some lines in a row.
#[derive(Serialize)]
struct WindowView {
    /// Markup.
    rows: String,
    /// Links before and after it.
    before: Vec<LinkView>,
    after: Vec<LinkView>,
}

#[derive(Serialize)]
struct LinkView {
    text: String,
    /// Query and fragment.
    address: String,
}

/// The lines that contain a text.
#[derive(Serialize)]
struct FoundView {
    summary: String,
    matches: Vec<MatchView>,
    /// Where the search continues.
    more: Option<LinkView>,
}

#[derive(Serialize)]
struct MatchView {
    line: u64,
    text: String,
    address: String,
}

/// The outputs of an ended job.
///
/// # Errors
/// Returns a problem if an output cannot be read.
pub(super) async fn outputs(
    web: &Web,
    record: &Record,
    selection: &Selection,
) -> Result<Vec<OutputView>, Problem> {
    let streams = [
        (OutputStream::Stdout, &record.stdout),
        (OutputStream::Stderr, &record.stderr),
    ];
    let mut views = Vec::new();
    for (stream, captured) in streams {
        if let Some(captured) = captured {
            views.push(view(web, record, stream, captured, selection).await?);
        }
    }
    Ok(views)
}

async fn view(
    web: &Web,
    record: &Record,
    stream: OutputStream,
    captured: &CapturedOutput,
    selection: &Selection,
) -> Result<OutputView, Problem> {
    let output = web.outputs.open(&web.client, record, stream).await?;
    let lines = web.outputs.index(&output).await?.lines();
    let name = stream_name(stream);
    let range = selection.lines(stream);
    let range = range.filter(|range| range.first <= lines);
    let first = range.map(|range| range.first);
    // a range without an end only says where to begin
    let selected = range.filter(|range| range.last.is_some());
    let selected = selected.and_then(|range| range.of(lines, lines));
    let rows = Rows {
        web,
        job: &record.job_id,
        stream,
        output: &output,
        base: web.base_path(),
        selected: selected.clone(),
    };
    let mut windows = Vec::new();
    for window in windows_of(lines, first) {
        windows.push(WindowView {
            before: earlier(name, lines, &window),
            after: later(name, lines, &window),
            rows: rows.markup(window).await?,
        });
    }
    let search = selection
        .search
        .as_ref()
        .filter(|search| search.stream == stream);
    let found = match search {
        Some(search) => Some(found(web, &output, search).await?),
        None => None,
    };
    let mut size = format!("{}, {}", bytes(captured.bytes), count(lines, "line"));
    if let Some(gap) = output.gap() {
        size.push_str(&format!(", {} were not kept", bytes(gap.missing_bytes)));
    }
    Ok(OutputView {
        name,
        size,
        is_empty: captured.bytes == 0,
        lines,
        first: first.unwrap_or_default(),
        last: selected.map_or(0, |range| *range.end()),
        windows,
        text: search.map(|search| search.text.clone()).unwrap_or_default(),
        found,
    })
}

/// The windows of an output: around a line; else all of a short output, or the beginning and the end of a long
/// one.
fn windows_of(lines: u64, line: Option<u64>) -> Vec<RangeInclusive<u64>> {
    match line {
        _ if lines == 0 => Vec::new(),
        _ if lines <= WINDOW_LINES => vec![1..=lines],
        None => vec![1..=END_LINES, lines - END_LINES + 1..=lines],
        Some(line) => {
            let first = line.saturating_sub(LINES_BEFORE).max(1);
            let first = first.min(lines - WINDOW_LINES + 1);
            vec![first..=first + WINDOW_LINES - 1]
        }
    }
}

fn link(name: &str, text: &str, line: u64) -> LinkView {
    LinkView {
        text: text.to_owned(),
        address: format!("?{name}={line}-#{name}"),
    }
}

/// The links before a window.
fn earlier(name: &str, lines: u64, window: &RangeInclusive<u64>) -> Vec<LinkView> {
    let mut links = Vec::new();
    if *window.start() > 1 {
        let before = (window.start() - 1).saturating_sub(WINDOW_LINES - LINES_BEFORE - 1);
        let hidden = count(window.start() - 1, "earlier line");
        if *window.end() < lines {
            links.push(link(name, "First line", 1));
        }
        links.push(link(name, &hidden, before.max(1)));
    }
    links
}

/// The links after a window.
fn later(name: &str, lines: u64, window: &RangeInclusive<u64>) -> Vec<LinkView> {
    let mut links = Vec::new();
    if *window.end() < lines {
        let hidden = count(lines - window.end(), "later line");
        links.push(link(name, &hidden, window.end() + 1));
        if *window.start() > 1 {
            links.push(link(name, "Last line", lines));
        }
    }
    links
}

/// Reads rows of an output as markup.
struct Rows<'a> {
    web: &'a Web,
    job: &'a JobId,
    stream: OutputStream,
    output: &'a Output,
    /// The beginning of links to the API.
    base: &'a str,
    /// The lines to highlight.
    selected: Option<RangeInclusive<u64>>,
}

impl Rows<'_> {
    async fn markup(&self, lines: RangeInclusive<u64>) -> Result<String, Problem> {
        let rows = self.web.outputs.rows(self.output, lines).await?;
        let (base, job, name) = (self.base, self.job, stream_name(self.stream));
        let gap = self.output.gap();
        let mut ansi = AnsiText::default();
        let mut markup = String::new();
        for row in rows {
            let line = row.number;
            let whole = format!("{base}/api/jobs/{job}/{name}?plain&amp;lines={line}");
            let text = row.markup(&mut ansi, gap, &whole);
            let is_selected = self
                .selected
                .as_ref()
                .is_some_and(|range| range.contains(&line));
            let class = if is_selected { "row hit" } else { "row" };
            // The number is no text, so that it is not copied with the line. It cannot be reached by the Tab
            // key, because there are hundreds of them.
            markup.push_str(&format!(
                "<div class=\"{class}\" id=\"{name}-L{line}\"><a class=\"n\" href=\"#{name}-L{line}\" data-n=\"{line}\" aria-label=\"Line {line}\" tabindex=\"-1\"></a><span class=\"t\">{text}</span></div>"
            ));
        }
        Ok(markup)
    }
}

/// The markup of some lines, whose links begin with `base`, for a page that is no part of the dashboard.
///
/// # Errors
/// Returns a problem if the output cannot be read.
pub(super) async fn tail_rows(
    web: &Web,
    record: &Record,
    stream: OutputStream,
    output: &Output,
    lines: RangeInclusive<u64>,
    base: &str,
) -> Result<String, Problem> {
    let rows = Rows {
        web,
        job: &record.job_id,
        stream,
        output,
        base,
        selected: None,
    };
    rows.markup(lines).await
}

async fn found(web: &Web, output: &Output, search: &Search) -> Result<FoundView, Problem> {
    let needle = search.needle.clone();
    let searching = web
        .outputs
        .search(output, needle, search.from, MATCHES_SHOWN_MAX);
    let result = searching.await?;
    let name = stream_name(search.stream);
    let query = format!("?q={}&in={name}", encode(&search.text));
    let matches = result.matches.into_iter().map(|found| MatchView {
        line: found.line,
        text: escape(&found.text.replace('\t', " ")),
        address: format!("{query}&{name}={0}#{name}-L{0}", found.line),
    });
    let matches: Vec<MatchView> = matches.collect();
    let number = count(matches.len() as u64, "line");
    let summary = match result.next {
        Some(next) => format!("{number} of those before line {next}"),
        None if search.from > 1 => format!("{number} from line {} on", search.from),
        None => number,
    };
    Ok(FoundView {
        summary,
        matches,
        more: result.next.map(|next| LinkView {
            text: format!("Search from line {next}"),
            address: format!("{query}&from={next}#{name}"),
        }),
    })
}

/// Answers a script with the rows of some lines.
pub(in crate::web) async fn rows(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    query: RawQuery,
) -> Response {
    let markup = async {
        let query = Query::parse(query, &["stream", "from", "count"])?;
        let stream = query.parsed("stream", parse_stream)?;
        let first = query.parsed("from", str::parse::<LineRange>)?;
        let rows = query.parsed("count", |number| limit(number, ROWS_MAX))?;
        let first = first.map_or(1, |range| range.first);
        let last = first.saturating_add(rows.unwrap_or(100) as u64 - 1);
        let job = JobId::new(&job)?;
        let record = web.client.fetch_job(&job).await?;
        let stream = stream.unwrap_or(OutputStream::Stdout);
        let output = web.outputs.open(&web.client, &record, stream).await?;
        let rows = Rows {
            web: &web,
            job: &job,
            stream,
            output: &output,
            base: web.base_path(),
            selected: None,
        };
        rows.markup(first..=last).await
    };
    match markup.await {
        Ok(markup) => Html(markup).into_response(),
        Err(problem) => web.error_page(&problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_output_is_shown_at_both_ends_or_around_a_line() {
        assert_eq!(windows_of(0, None), [0; 0].map(|_: u64| 1..=1));
        assert_eq!(windows_of(400, None), [1..=400]);
        assert_eq!(windows_of(401, None), [1..=200, 202..=401]);
        assert_eq!(windows_of(5_000, Some(1_000)), [980..=1_379]);
        assert_eq!(windows_of(5_000, Some(5_000)), [4_601..=5_000]);
        assert_eq!(windows_of(5_000, Some(3)), [1..=400]);
    }

    proptest! {
        #[test]
        fn each_link_leads_to_a_window_with_further_lines(lines in 401_u64..100_000, line in 1_u64..100_000) {
            let line = line.min(lines);
            let window = windows_of(lines, Some(line)).remove(0);
            prop_assert!(window.contains(&line) && *window.end() <= lines);
            let target = |link: &LinkView| {
                let (range, _) = link.address.strip_prefix("?stdout=").unwrap().split_once('#').unwrap();
                range.parse::<LineRange>().unwrap().first
            };
            if let Some(link) = earlier("stdout", lines, &window).last() {
                let earlier = windows_of(lines, Some(target(link))).remove(0);
                prop_assert!(earlier.start() < window.start() && earlier.end() + 1 >= *window.start());
            }
            if let Some(link) = later("stdout", lines, &window).first() {
                let later = windows_of(lines, Some(target(link))).remove(0);
                prop_assert!(later.end() > window.end() && *later.start() <= window.end() + 1);
            }
        }
    }
}
