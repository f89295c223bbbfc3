//! The certificate of a managed server: how it is made, and the handshake that proves that a server has
//! its key, where the kernel does not show that it is the server's process.
//!
//! The key never leaves the data folder, so a program that takes the port of a server cannot present its
//! certificate, whichever user it runs as. naq's clients trust this one certificate and no authority.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use naq_client::{SMALL_FILE_BYTES_MAX, ServerProcess, read_text_file};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::data_dir::{self, DataDir};
use super::error::ServerError;

/// The names by which clients on this machine connect.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes sure that the folder has a certificate with its key. An existing pair is kept, so that clients
/// that trust it reconnect after a restart.
///
/// Call it with the folder locked, so that processes that start a server at once share one pair.
///
/// # Errors
/// Returns [`ServerError::File`] if a file cannot be read or written, and [`ServerError::DataDir`] if no
/// certificate can be made.
pub(super) fn ensure(folder: &DataDir) -> Result<(), ServerError> {
    let (certificate, key) = (folder.certificate_file(), folder.certificate_key_file());
    if is_pair(&certificate, &key)? {
        // Copying a folder may have changed the mode.
        return fs::set_permissions(&key, Permissions::from_mode(0o600))
            .map_err(ServerError::file("protect", &key));
    }
    let (new_certificate, new_key) = make().map_err(|error| ServerError::DataDir {
        path: folder.root().to_path_buf(),
        reason: format!("cannot make a certificate for its server: {error}"),
    })?;
    // The key first: after a crash in between, the old certificate does not match it, and both are made
    // again. In the other order, clients could trust a certificate whose key nobody has.
    data_dir::write_private(&key, new_key.as_bytes())?;
    data_dir::write_private(&certificate, new_certificate.as_bytes())
}

/// A certificate and its key, in PEM.
fn make() -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params
        .distinguished_name
        .push(DnType::CommonName, "naq managed server");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // From the first to the last time that X.509 knows, whatever the clock of the machine says: nobody renews
    // the certificate, and its file is what is trusted.
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Whether these files are a certificate and its key.
fn is_pair(certificate: &Path, key: &Path) -> Result<bool, ServerError> {
    let read = |path: &Path| match read_text_file(path, SMALL_FILE_BYTES_MAX) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            Ok(None)
        }
        Err(error) => Err(ServerError::file("read", path)(error)),
    };
    let (Some(certificate), Some(key)) = (read(certificate)?, read(key)?) else {
        return Ok(false);
    };
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    // A power cut may have left an empty file.
    let (Ok(certificate), Ok(key)) = (certificate, key) else {
        return Ok(false);
    };
    Ok(CertifiedKey::from_der(vec![certificate], key, &provider()).is_ok())
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The certificate that a server has to present.
pub(super) struct PinnedCertificate(Arc<ClientConfig>);

impl PinnedCertificate {
    /// Reads the file.
    ///
    /// # Errors
    /// Returns [`ServerError::Certificate`] if it cannot be read or contains no certificate.
    pub(super) fn read(path: &Path) -> Result<PinnedCertificate, ServerError> {
        let parse = || -> io::Result<ClientConfig> {
            let text = read_text_file(path, SMALL_FILE_BYTES_MAX)?;
            let invalid = |error: &dyn std::fmt::Display| {
                io::Error::new(ErrorKind::InvalidData, error.to_string())
            };
            let certificate =
                CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| invalid(&error))?;
            let mut roots = RootCertStore::empty();
            roots.add(certificate).map_err(|error| invalid(&error))?;
            let config = ClientConfig::builder_with_provider(Arc::new(provider()))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?;
            Ok(config.with_root_certificates(roots).with_no_client_auth())
        };
        let config = parse().map_err(|source| ServerError::Certificate {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(PinnedCertificate(Arc::new(config)))
    }

    /// Shakes hands with a server that has greeted.
    ///
    /// # Errors
    /// Returns an error if it does not present this certificate, or has not done so at the deadline.
    fn verify(&self, stream: &mut BoundedStream) -> io::Result<()> {
        let address = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut tls =
            ClientConnection::new(Arc::clone(&self.0), address).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(stream)?;
        }
        Ok(())
    }
}

/// What a server has to prove.
pub(super) struct RequiredProof {
    /// The certificate that it has to present.
    pub(super) certificate: PinnedCertificate,
    /// The process that need not present it, if it is known.
    pub(super) process: Option<ServerProcess>,
}

impl RequiredProof {
    /// Checks a server that has greeted, at this address. Returns whether the kernel shows that it is the process.
    ///
    /// # Errors
    /// Returns an error if the kernel does not show that it is this process, and it does not present this
    /// certificate, or has not done so at the deadline.
    pub(super) fn verify(
        &self,
        address: SocketAddr,
        stream: &mut BoundedStream,
    ) -> io::Result<bool> {
        match &self.process {
            Some(process) if process.serves(address) => Ok(true),
            _ => self.certificate.verify(stream).map(|()| false),
        }
    }
}

/// A connection whose reads end at a deadline, however slowly the bytes come.
pub(super) struct BoundedStream {
    stream: TcpStream,
    deadline: Instant,
}

impl BoundedStream {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> BoundedStream {
        BoundedStream {
            stream,
            deadline: Instant::now() + limit,
        }
    }
}

impl Read for BoundedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            read => read,
        }
    }
}

impl Write for BoundedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataDir) {
        let root = tempfile::TempDir::new().unwrap();
        let folder = DataDir::open(root.path()).unwrap();
        (root, folder)
    }

    fn files(folder: &DataDir) -> (String, String) {
        let read = |path| fs::read_to_string(path).unwrap();
        (
            read(folder.certificate_file()),
            read(folder.certificate_key_file()),
        )
    }

    #[test]
    fn a_certificate_is_kept_while_it_matches_its_key() {
        let (_root, folder) = folder();
        ensure(&folder).unwrap();
        let first = files(&folder);
        let key = folder.certificate_key_file();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        ensure(&folder).unwrap();
        assert_eq!(files(&folder), first);
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(key.clone()), 0o600);
        assert_eq!(mode(folder.certificate_file()), 0o600);

        // what a crash, a power cut, or a user may leave
        let (_root_of_other, other) = self::folder();
        ensure(&other).unwrap();
        for damage in ["missing", "empty", "of another server"] {
            let (certificate, _) = files(&folder);
            match damage {
                "missing" => fs::remove_file(&key).unwrap(),
                "empty" => fs::write(&key, "").unwrap(),
                _ => drop(fs::copy(other.certificate_key_file(), &key).unwrap()),
            }
            ensure(&folder).unwrap();
            assert_ne!(files(&folder).0, certificate, "{damage}");
            assert!(
                is_pair(&folder.certificate_file(), &key).unwrap(),
                "{damage}"
            );
        }
    }

    #[test]
    fn a_certificate_is_valid_at_any_time_that_a_clock_may_show() {
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier;
        use rustls::pki_types::UnixTime;
        let (pem, _) = make().unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
                .build()
                .unwrap();
        let years =
            |years: u64| UnixTime::since_unix_epoch(Duration::from_secs(years * 31_556_952));
        for name in NAMES {
            let name = ServerName::try_from(name).unwrap();
            for time in [years(0), years(10), years(56), years(2_000), years(8_000)] {
                verifier
                    .verify_server_cert(&certificate, &[], &name, &[], time)
                    .unwrap_or_else(|error| panic!("{name:?} at {time:?}: {error}"));
            }
        }
    }
}
