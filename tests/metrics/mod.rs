//! Metrics of real workers and schedulers, and the page that documents them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod alerts;
mod board;
mod page;
mod scheduler;
pub(crate) mod scrape;
mod worker;

/// The address of the log line of a process that serves metrics.
pub(crate) fn address_in(log: &str) -> String {
    let (_, rest) = log.split_once("serving metrics").unwrap();
    let (_, address) = rest.split_once("127.0.0.1:").unwrap();
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    format!("127.0.0.1:{port}")
}
