//! Why a connection could not be opened: one kind for each cause, with a text for people.

use std::error::Error;
use std::io;

use async_nats::rustls::{AlertDescription, CertificateError, Error as TlsError};
use async_nats::{ConnectErrorKind, ServerError};

use naq_protocol::Timestamp;

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The address is invalid, or a file of credentials or certificates cannot be read.
    Options,
    /// The host name cannot be resolved.
    UnknownHost,
    /// No server accepts the connection, or the connection closes before the greeting of a server.
    Unreachable,
    /// The server did not answer in time.
    TimedOut,
    /// The listener is no NATS server.
    NotNats,
    /// Another user of this machine runs the server, and is not trusted with that.
    OtherUser,
    /// Where the managed server of this user was, another server is: it does not present the managed one's
    /// certificate, or, if that has none, belongs to another user or to one that cannot be seen.
    NotOwnServer,
    /// The certificate of the managed server cannot be read.
    OwnCertificate,
    /// The server refuses the connection for a reason other than the credentials, such as its limit
    /// of connections.
    Refused,
    /// The server requires credentials, and none are given.
    CredentialsMissing,
    /// The server refuses the credentials.
    CredentialsRefused,
    /// The server refuses the credentials, which have expired.
    CredentialsExpired,
    /// TLS is required here, and the server does not speak it.
    NoTls,
    /// The server's certificate is signed by an authority that is not trusted here.
    UnknownAuthority,
    /// The server's certificate is for other host names.
    HostMismatch,
    /// The server's certificate has expired or is not valid yet.
    CertificateExpired,
    /// The server requires a client certificate, or refuses the one that is given.
    ClientCertificate,
    /// TLS failed for another reason.
    Tls,
}

impl ConnectFailure {
    /// Whether the handshake of TLS failed.
    pub(super) fn is_tls(self) -> bool {
        use ConnectFailure::{
            CertificateExpired, ClientCertificate, HostMismatch, NoTls, Tls, UnknownAuthority,
        };
        matches!(
            self,
            NoTls | UnknownAuthority | HostMismatch | CertificateExpired | ClientCertificate | Tls
        )
    }

    /// Whether the same attempt may succeed later: the server may not have started yet, or may have too
    /// many connections.
    #[must_use]
    pub fn may_pass(self) -> bool {
        use ConnectFailure::{Refused, TimedOut, UnknownHost, Unreachable};
        matches!(self, UnknownHost | Unreachable | TimedOut | Refused)
    }
}

/// Classifies an error of the client by its cause. Returns the kind and what happened, for people.
pub(crate) fn classify(
    error: &async_nats::ConnectError,
    has_credentials: bool,
) -> (ConnectFailure, String) {
    use ConnectFailure as Failure;
    if let Some(tls) = find_cause::<TlsError>(error) {
        return classify_tls(tls);
    }
    if let Some(server) = find_cause::<ServerError>(error)
        && !matches!(server, ServerError::AuthorizationViolation)
    {
        let text = server.to_string();
        let text = text.strip_prefix("nats: ").unwrap_or(&text);
        return (
            Failure::Refused,
            format!("it refuses the connection: {text}"),
        );
    }
    let io_error = find_cause::<io::Error>(error);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            if has_credentials {
                let problem = "it refuses the credentials".to_owned();
                (Failure::CredentialsRefused, problem)
            } else {
                let problem = "it requires credentials, and none are given".to_owned();
                (Failure::CredentialsMissing, problem)
            }
        }
        ConnectErrorKind::TimedOut => (Failure::TimedOut, "no answer in time".to_owned()),
        ConnectErrorKind::Dns => (
            Failure::UnknownHost,
            match io_error {
                Some(error) => format!("the host name cannot be resolved ({error})"),
                None => "the host name cannot be resolved".to_owned(),
            },
        ),
        ConnectErrorKind::Tls => (Failure::Tls, format!("TLS failed ({error})")),
        _ => match io_error {
            // the parser of the NATS protocol refuses the first line
            Some(error) if error.kind() == io::ErrorKind::InvalidInput => {
                (Failure::NotNats, format!("it is no NATS server ({error})"))
            }
            Some(error) => (Failure::Unreachable, error.to_string()),
            None if error.to_string().contains("expected INFO, got nothing") => (
                Failure::Unreachable,
                "it closes the connection without a greeting".to_owned(),
            ),
            None => (Failure::Unreachable, error.to_string()),
        },
    }
}

/// Whether the server ended the login because it took too long.
pub(crate) fn is_login_timeout(error: &async_nats::ConnectError) -> bool {
    matches!(
        find_cause::<ServerError>(error),
        Some(ServerError::Other(text)) if text.eq_ignore_ascii_case("authentication timeout")
    )
}

fn classify_tls(error: &TlsError) -> (ConnectFailure, String) {
    use ConnectFailure as Failure;
    match error {
        TlsError::InvalidMessage(_) => (Failure::NoTls, "it does not speak TLS".to_owned()),
        TlsError::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => (
                Failure::UnknownAuthority,
                "its certificate is signed by an authority that is not trusted here".to_owned(),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (
                    Failure::HostMismatch,
                    format!("its certificate is for another host name ({certificate})"),
                )
            }
            CertificateError::ExpiredContext { not_after, .. } => (
                Failure::CertificateExpired,
                format!("its certificate expired{}", at(not_after.as_secs())),
            ),
            CertificateError::NotValidYetContext { not_before, .. } => (
                Failure::CertificateExpired,
                format!(
                    "its certificate is not valid yet: it begins{}",
                    at(not_before.as_secs())
                ),
            ),
            CertificateError::Expired | CertificateError::NotValidYet => (
                Failure::CertificateExpired,
                "its certificate has expired or is not valid yet".to_owned(),
            ),
            _ => (
                Failure::Tls,
                format!("its certificate is not accepted ({certificate})"),
            ),
        },
        // With TLS 1.3 the server reports this after the client has finished its part.
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => (
            Failure::ClientCertificate,
            "it requires a client certificate".to_owned(),
        ),
        TlsError::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied),
        ) => (
            Failure::ClientCertificate,
            format!("it refuses the client certificate, or requires one ({alert:?})"),
        ),
        _ => (Failure::Tls, format!("TLS failed ({error})")),
    }
}

/// ` at 2020-01-01T00:00:00Z`, for a time in seconds since 1970.
fn at(unix_s: u64) -> String {
    let unix_ms = i64::try_from(unix_s)
        .ok()
        .and_then(|s| s.checked_mul(1_000));
    unix_ms
        .and_then(Timestamp::from_unix_ms)
        .map_or_else(String::new, |time| format!(" at {time}"))
}

/// The first error of a type among an error and its causes. An [`io::Error`] hides the error that it
/// contains from `source`.
fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref());
        if let Some(found) = inner.and_then(|inner| find_cause::<T>(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::ConnectError;

    fn io_cause(kind: io::ErrorKind, text: &str) -> ConnectError {
        ConnectError::from(io::Error::new(kind, text.to_owned()))
    }

    fn tls(error: TlsError) -> ConnectError {
        ConnectError::from(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn certificate(error: CertificateError) -> ConnectError {
        tls(TlsError::InvalidCertificate(error))
    }

    #[test]
    fn each_cause_of_a_failed_connection_has_a_kind_of_its_own() {
        use ConnectFailure as Failure;
        let kind = |kind: ConnectErrorKind| ConnectError::new(kind);
        let server = |text: &str| {
            ConnectError::with_source(ConnectErrorKind::Io, ServerError::Other(text.to_owned()))
        };
        for (error, has_credentials, expected) in [
            (
                io_cause(io::ErrorKind::ConnectionRefused, "refused"),
                true,
                Failure::Unreachable,
            ),
            (
                ConnectError::with_source(ConnectErrorKind::Io, "expected INFO, got nothing"),
                true,
                Failure::Unreachable,
            ),
            (kind(ConnectErrorKind::TimedOut), true, Failure::TimedOut),
            (kind(ConnectErrorKind::Dns), true, Failure::UnknownHost),
            (
                io_cause(
                    io::ErrorKind::InvalidInput,
                    "invalid server operation: 'SSH-2.0'",
                ),
                true,
                Failure::NotNats,
            ),
            (
                server("maximum connections exceeded"),
                true,
                Failure::Refused,
            ),
            (
                kind(ConnectErrorKind::AuthorizationViolation),
                true,
                Failure::CredentialsRefused,
            ),
            (
                kind(ConnectErrorKind::AuthorizationViolation),
                false,
                Failure::CredentialsMissing,
            ),
        ] {
            check(&error, has_credentials, expected);
        }
    }

    #[test]
    fn each_cause_of_a_failed_tls_handshake_has_a_kind_of_its_own() {
        use ConnectFailure as Failure;
        let alert = |alert| tls(TlsError::AlertReceived(alert));
        let no_tls = async_nats::rustls::InvalidMessage::InvalidContentType;
        for (error, expected) in [
            (tls(TlsError::InvalidMessage(no_tls)), Failure::NoTls),
            (
                certificate(CertificateError::UnknownIssuer),
                Failure::UnknownAuthority,
            ),
            (
                certificate(CertificateError::NotValidForName),
                Failure::HostMismatch,
            ),
            (
                certificate(CertificateError::Expired),
                Failure::CertificateExpired,
            ),
            (
                alert(AlertDescription::CertificateRequired),
                Failure::ClientCertificate,
            ),
            (
                alert(AlertDescription::BadCertificate),
                Failure::ClientCertificate,
            ),
            (alert(AlertDescription::ProtocolVersion), Failure::Tls),
        ] {
            check(&error, true, expected);
        }
    }

    fn check(error: &ConnectError, has_credentials: bool, expected: ConnectFailure) {
        let (failure, problem) = classify(error, has_credentials);
        assert_eq!(failure, expected, "{error:?}: {problem}");
        assert!(!problem.is_empty() && !problem.ends_with('.'), "{problem}");
    }
}
