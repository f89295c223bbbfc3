//! Headers that may occur once.

use axum::http::{HeaderMap, HeaderValue};

/// The value of a header. `None` if it occurs several times: a proxy that appends its own header leaves that of
/// the client, and nobody knows which one is which.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    let is_list = value.as_bytes().contains(&b',');
    (values.next().is_none() && !is_list).then_some(value)
}
