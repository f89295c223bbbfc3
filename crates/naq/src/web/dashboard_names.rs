//! The names and colours of this dashboard and of others, to which its pages lead: people who look after several
//! installations must not mistake one for another.

use std::str::FromStr;

use serde::Serialize;

/// Maximum number of characters of a name.
const NAME_CHARS_MAX: usize = 40;

/// Maximum number of characters of an address.
const ADDRESS_CHARS_MAX: usize = 500;

/// A colour that marks a dashboard. Style sheets define it for light and dark pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Grey,
}

const COLOURS: [(&str, Colour); 7] = [
    ("red", Colour::Red),
    ("orange", Colour::Orange),
    ("yellow", Colour::Yellow),
    ("green", Colour::Green),
    ("blue", Colour::Blue),
    ("purple", Colour::Purple),
    ("grey", Colour::Grey),
];

impl FromStr for Colour {
    type Err = String;

    fn from_str(text: &str) -> Result<Colour, String> {
        let found = COLOURS.iter().find(|(name, _)| *name == text);
        found.map(|(_, colour)| *colour).ok_or_else(|| {
            let names = COLOURS.map(|(name, _)| name).join(", ");
            format!("`{}` is none of the colours {names}", text.escape_debug())
        })
    }
}

/// A text, and the colour after its last comma.
fn with_colour(text: &str) -> Result<(&str, Option<Colour>), String> {
    match text.rsplit_once(',') {
        Some((before, colour)) => Ok((before, Some(colour.parse()?))),
        None => Ok((text, None)),
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_name = !text.trim().is_empty()
        && text.chars().count() <= NAME_CHARS_MAX
        && !text.chars().any(char::is_control);
    match is_name {
        true => Ok(text.trim().to_owned()),
        false => Err(format!(
            "the name of a dashboard has 1 to {NAME_CHARS_MAX} printable characters"
        )),
    }
}

/// The name of this dashboard, with a colour: `production,red`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DashboardTitle {
    name: String,
    colour: Option<Colour>,
}

impl FromStr for DashboardTitle {
    type Err = String;

    fn from_str(text: &str) -> Result<DashboardTitle, String> {
        let (text, colour) = with_colour(text)?;
        Ok(DashboardTitle {
            name: name(text)?,
            colour,
        })
    }
}

/// Another dashboard: `staging=https://staging.example.com/naq,green`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherDashboard {
    name: String,
    address: String,
    colour: Option<Colour>,
}

impl FromStr for OtherDashboard {
    type Err = String;

    fn from_str(text: &str) -> Result<OtherDashboard, String> {
        let pair = text.split_once('=');
        let (text, address) = pair.ok_or("expected NAME=URL or NAME=URL,COLOUR")?;
        let (address, colour) = with_colour(address)?;
        match is_web_address(address) {
            true => Ok(OtherDashboard {
                name: name(text)?,
                address: address.to_owned(),
                colour,
            }),
            false => Err(format!(
                "`{}` is not the address of a dashboard, such as https://staging.example.com/naq",
                address.escape_debug()
            )),
        }
    }
}

/// Whether a text is an address of HTTP or HTTPS with a host and perhaps a path. Others, such as `javascript:`, would run
/// in the page that links to them, and a user in an address would hide its host.
fn is_web_address(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest.filter(|_| text.len() <= ADDRESS_CHARS_MAX) else {
        return false;
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
    let is_path =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '/' | '%');
    !host.is_empty() && host.chars().all(is_host) && path.chars().all(is_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashboard_has_a_name_an_address_and_perhaps_a_colour() {
        let other: OtherDashboard = "staging=https://s.example.com/naq,green".parse().unwrap();
        assert_eq!(other.name, "staging");
        assert_eq!(other.address, "https://s.example.com/naq");
        assert_eq!(other.colour, Some(Colour::Green));
        let plain: OtherDashboard = "here=http://[::1]:8081/".parse().unwrap();
        assert_eq!(
            (plain.address.as_str(), plain.colour),
            ("http://[::1]:8081/", None)
        );
        let title: DashboardTitle = "production,red".parse().unwrap();
        assert_eq!(
            (title.name.as_str(), title.colour),
            ("production", Some(Colour::Red))
        );
    }

    #[test]
    fn an_address_that_a_browser_would_run_or_mistake_is_refused() {
        for address in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "//evil.example.com",
            "https:/evil.example.com",
            "https://",
            "https:///naq",
            "https://naq.example.com@evil.example.com/",
            "https://naq.example.com/\"><script>",
            "https://naq.example.com/?next=x",
            "https://naq.example.com\\@evil.example.com",
            "ftp://naq.example.com/",
            " https://naq.example.com/",
            "staging.example.com",
        ] {
            let parsed = format!("x={address}").parse::<OtherDashboard>();
            assert!(parsed.is_err(), "{address}: {parsed:?}");
        }
        for text in [
            "https://a.example.com/",
            "=https://a.example.com/",
            "x=https://a/,pink",
        ] {
            assert!(text.parse::<OtherDashboard>().is_err(), "{text}");
        }
        for text in ["", ",red", "a\u{1b}[31m", "x,pink", &"x".repeat(41)] {
            assert!(text.parse::<DashboardTitle>().is_err(), "{text:?}");
        }
    }
}
