//! Reverse proxies in front of the dashboard: what they say about a request, and who may say it.
//!
//! The other end of the connection decides whether a request comes from a trusted proxy; no header does. Headers
//! that only a proxy may send are removed from every request before anything else reads it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};

use super::base_path::BasePath;
use super::forward_auth::{ForwardAuth, ForwardedUser};
use super::single_header::single;
use naq_client::{accounts, socket_user};

/// Longest chain of proxies that is followed.
const HOPS_MAX: usize = 32;

/// Longest base path that a proxy may name, in characters.
const PREFIX_CHARS_MAX: usize = 128;

/// Time between two warnings about proxies that are not trusted.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_PREFIX: &str = "x-forwarded-prefix";

/// The headers that say from where a request comes.
const FORWARDING: &[&str] = &[
    "forwarded",
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    X_FORWARDED_PREFIX,
];

/// An address, or all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differs = u32::from(network) ^ u32::from(address);
                differs.leading_zeros() >= self.bits
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differs = u128::from(network) ^ u128::from(address);
                differs.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let wrong = || format!("`{text}` is not an address such as 10.0.0.7 or 10.0.0.0/24");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => bits_max,
            Some(bits) => bits.parse().map_err(|_| wrong())?,
        };
        if bits > bits_max {
            return Err(wrong());
        }
        if bits == 0 {
            return Err(format!("`{text}` contains every address"));
        }
        if address.to_canonical() != address {
            return Err(format!("`{text}`: write an IPv4 address as such"));
        }
        let network = Network { address, bits };
        // a mistake such as 10.0.0.7/8, which would be more than the user meant
        let has_host_bits = match address {
            IpAddr::V4(ip) => bits < 32 && u32::from(ip) << bits != 0,
            IpAddr::V6(ip) => bits < 128 && u128::from(ip) << bits != 0,
        };
        match has_host_bits {
            true => Err(format!(
                "`{text}` has bits after the first {bits}; write a single address without `/{bits}`"
            )),
            false => Ok(network),
        }
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Where a request comes from, as far as the dashboard believes it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The other end of the connection.
    pub(super) peer: IpAddr,
    /// The client: the other end of the connection, or the address that a trusted proxy names.
    pub(super) client: IpAddr,
    /// Whether a trusted proxy says that the client uses TLS.
    pub(super) is_https: bool,
    /// The base path that a trusted proxy has removed from the path.
    pub(super) prefix: Option<BasePath>,
    /// The user whom a trusted proxy has authenticated, or why the header is refused. `None` without the header.
    pub(super) user: Option<Result<ForwardedUser, String>>,
}

/// The proxies that are trusted.
#[derive(Debug, Default)]
pub struct Proxies {
    networks: Vec<Network>,
    /// Names or ids of the users of this machine who may run a proxy, besides this process's user and root.
    users: Vec<String>,
    forward_auth: Option<ForwardAuth>,
    last_warning: Mutex<Option<Instant>>,
}

impl Proxies {
    /// Trusts the proxies at these addresses. `users` are the names or ids of the users of this machine who may run
    /// one that authenticates users, besides this process's user and root.
    #[must_use]
    pub fn new(
        networks: Vec<Network>,
        users: Vec<String>,
        forward_auth: Option<ForwardAuth>,
    ) -> Proxies {
        Proxies {
            networks,
            users,
            forward_auth,
            last_warning: Mutex::default(),
        }
    }

    /// Whether no proxy is trusted.
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(address))
    }

    /// Takes what only a proxy may say out of the headers of a request. From others it is ignored.
    pub(super) async fn receive(&self, connection: Connection, headers: &mut HeaderMap) -> Source {
        let peer = connection.peer.ip().to_canonical();
        let is_trusted = self.trusts(peer);
        let mut source = match is_trusted {
            true => self.forwarded(peer, headers),
            false => Source {
                peer,
                client: peer,
                is_https: false,
                prefix: None,
                user: None,
            },
        };
        if let Some(auth) = &self.forward_auth
            && let Some(user) = auth.user(headers)
        {
            match is_trusted && self.may_authenticate(connection).await {
                true => source.user = Some(user),
                false => self.warn(peer, auth, is_trusted),
            }
        }
        if let Some(host) = is_trusted
            .then(|| single(headers, X_FORWARDED_HOST))
            .flatten()
        {
            let host = host.clone();
            headers.insert(header::HOST, host);
        }
        for name in FORWARDING {
            headers.remove(*name);
        }
        for name in self.forward_auth.iter().flat_map(ForwardAuth::headers) {
            headers.remove(name);
        }
        source
    }

    /// What a trusted proxy says, except for the user.
    fn forwarded(&self, peer: IpAddr, headers: &HeaderMap) -> Source {
        let prefix = single(headers, X_FORWARDED_PREFIX)
            .and_then(|prefix| prefix.to_str().ok())
            .filter(|prefix| prefix.len() <= PREFIX_CHARS_MAX && !prefix.contains('.'))
            .and_then(|prefix| prefix.parse().ok());
        Source {
            peer,
            client: self.client(peer, headers),
            is_https: single(headers, X_FORWARDED_PROTO).is_some_and(|proto| proto == "https"),
            prefix,
            user: None,
        }
    }

    /// The last address of the chain that is not a trusted proxy's. Each trusted proxy appends the address that it
    /// sees; what stands before that is what the client itself has sent.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(X_FORWARDED_FOR);
        let chain: Vec<&str> = lines
            .iter()
            .flat_map(|line| line.to_str().unwrap_or("not an address").split(','))
            .collect();
        let mut client = peer;
        for hop in chain.iter().rev().take(HOPS_MAX) {
            match (self.trusts(client), parse_hop(hop.trim())) {
                (true, Some(address)) => client = address,
                _ => break,
            }
        }
        client
    }

    /// Whether the proxy at the other end of a connection from this machine belongs to a user who may run one. Any
    /// user of the machine can connect to a loopback address, so the address proves nothing.
    async fn may_authenticate(&self, connection: Connection) -> bool {
        let Connection { peer, local } = connection;
        let [peer, local] =
            [peer, local].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        if !peer.ip().is_loopback() && peer.ip() != local.ip() {
            return true;
        }
        let looking = tokio::task::spawn_blocking(move || socket_user(peer, local));
        match looking.await {
            Ok(Ok(Some(uid))) => self.may_run(uid),
            _ => false,
        }
    }

    fn may_run(&self, uid: u32) -> bool {
        uid == 0
            || uid == nix::unistd::geteuid().as_raw()
            || self.users.iter().any(|name| name.parse() == Ok(uid))
            || accounts()
                .iter()
                .any(|account| account.uid == uid && self.users.contains(&account.name))
    }

    /// Says why a header about the user was ignored, at most once a minute: any client may send it.
    fn warn(&self, peer: IpAddr, auth: &ForwardAuth, is_trusted: bool) {
        let now = Instant::now();
        let mut last = self
            .last_warning
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_some_and(|last| now.saturating_duration_since(last) < WARNING_INTERVAL) {
            return;
        }
        *last = Some(now);
        let setting = match is_trusted {
            true => "proxy_users does not name the user of this machine that sent it",
            false => "trusted_proxies does not contain the address",
        };
        tracing::warn!(%peer, header = %auth.user_header(), "ignored a header that names a user; {setting}");
    }
}

/// An address of the header `X-Forwarded-For`, which may have a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|end| end.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let found = address.or_else(with_port).or_else(in_brackets)?;
    Some(found.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::web::access::Right;

    fn proxies(networks: &[&str], with_auth: bool) -> Proxies {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        let auth = with_auth.then(|| {
            let rights = [("anna".to_owned(), "operate".to_owned())];
            ForwardAuth::new("X-Forwarded-User", None, rights).unwrap()
        });
        Proxies::new(networks, Vec::new(), auth)
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    async fn receive(proxies: &Proxies, peer: &str, pairs: &[(&str, &str)]) -> (Source, HeaderMap) {
        let mut headers = headers(pairs);
        let connection = Connection {
            peer: SocketAddr::new(peer.parse().unwrap(), 1),
            local: "10.9.9.9:2".parse().unwrap(),
        };
        let source = proxies.receive(connection, &mut headers).await;
        (source, headers)
    }

    #[test]
    fn a_network_is_an_address_or_its_first_bits() {
        let within = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.128/25", "::ffff:10.0.0.200", "10.0.0.127"),
            ("fd00::/8", "fd12::1", "fe00::"),
            ("::1", "::1", "::2"),
            ("128.0.0.0/1", "200.0.0.1", "127.0.0.1"),
        ] {
            assert!(within(network, inside), "{network} {inside}");
            assert!(!within(network, outside), "{network} {outside}");
        }
        for wrong in [
            "",
            "proxy",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.7/8",
            "0.0.0.0/0",
            "::/0",
            "fd00::1/8",
            "::ffff:10.0.0.1",
            "10.0.0.1/",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_not_trusted_says_nothing() {
        let all = [
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Prefix", "/naq"),
            ("X-Forwarded-Host", "jobs.example.com"),
            ("X-Forwarded-User", "anna"),
            ("Forwarded", "for=192.0.2.7"),
            ("Host", "localhost"),
        ];
        for networks in [&[][..], &["10.0.0.2"]] {
            let (source, left) = receive(&proxies(networks, true), "10.0.0.1", &all).await;
            assert_eq!(source.client, source.peer);
            assert!(!source.is_https && source.prefix.is_none() && source.user.is_none());
            assert_eq!(left, headers(&[("Host", "localhost")]), "{networks:?}");
        }
        let (source, left) = receive(&proxies(&["10.0.0.1"], true), "10.0.0.1", &all).await;
        assert_eq!(source.client.to_string(), "192.0.2.7");
        assert!(source.is_https);
        assert_eq!(source.prefix.unwrap().as_str(), "/naq");
        let user = source.user.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.right), ("anna", Right::Operate));
        assert_eq!(left, headers(&[("Host", "jobs.example.com")]));
    }

    #[tokio::test]
    async fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let proxies = proxies(&["10.0.0.0/8"], false);
        for (chain, expected) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.7"], "192.0.2.7"),
            // what the client itself has sent stands before what the proxy adds
            (&["127.0.0.1, 10.0.0.5, 192.0.2.7"], "192.0.2.7"),
            (&["192.0.2.7, 10.0.0.5, 10.0.0.6"], "192.0.2.7"),
            (&["192.0.2.7", "10.0.0.5"], "192.0.2.7"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            // what cannot be read ends the chain
            (&["192.0.2.7, unknown"], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.0.0.5"], "10.0.0.5"),
            (&["192.0.2.7, "], "10.0.0.1"),
            (&["é"], "10.0.0.1"),
            (&["10.0.0.4, 10.0.0.5"], "10.0.0.4"),
        ] {
            let pairs: Vec<_> = chain
                .iter()
                .map(|line| ("X-Forwarded-For", *line))
                .collect();
            let mut headers = HeaderMap::new();
            for (_, line) in pairs {
                headers.append(
                    X_FORWARDED_FOR,
                    HeaderValue::from_bytes(line.as_bytes()).unwrap(),
                );
            }
            let client = proxies.client("10.0.0.1".parse().unwrap(), &headers);
            assert_eq!(client.to_string(), expected, "{chain:?}");
        }
    }

    #[tokio::test]
    async fn a_prefix_is_a_plain_path() {
        let proxies = proxies(&["10.0.0.1"], false);
        let long = format!("/{}", "a".repeat(PREFIX_CHARS_MAX));
        for (prefix, expected) in [
            ("/naq", Some("/naq")),
            ("/tools/naq/", Some("/tools/naq")),
            ("/", Some("")),
            ("//evil.example", None),
            ("https://evil.example", None),
            ("/a//b", None),
            ("/..", None),
            ("/a.b", None),
            ("/a/../b", None),
            ("/%2e%2e", None),
            ("/a b", None),
            ("/a\"", None),
            ("/a;b", None),
            ("/a?b", None),
            ("naq", None),
            ("/a, /b", None),
            (long.as_str(), None),
        ] {
            let (source, _) =
                receive(&proxies, "10.0.0.1", &[("X-Forwarded-Prefix", prefix)]).await;
            let found = source.prefix.as_ref().map(BasePath::as_str);
            assert_eq!(found, expected, "{prefix}");
        }
        let twice = [("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b")];
        assert!(
            receive(&proxies, "10.0.0.1", &twice)
                .await
                .0
                .prefix
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_user_is_named_by_one_header_of_exactly_this_name() {
        let proxies = proxies(&["10.0.0.1"], true);
        for (pairs, expected) in [
            (&[("X-Forwarded-User", "anna")][..], Some(true)),
            (&[("x-forwarded-user", "anna")], Some(true)),
            (&[("X_Forwarded_User", "anna")], None),
            (&[("X-Forwarded_User", "anna")], None),
            (
                &[("X-Forwarded-User", "anna"), ("X-Forwarded-User", "anna")],
                Some(false),
            ),
            (&[("X-Forwarded-User", "anna, bert")], Some(false)),
            (&[("X-Forwarded-User", "")], Some(false)),
        ] {
            let (source, _) = receive(&proxies, "10.0.0.1", pairs).await;
            assert_eq!(source.user.map(|user| user.is_ok()), expected, "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn another_user_of_this_machine_is_no_proxy() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(local).await.unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        let proxies = proxies(&["127.0.0.1"], true);
        let user = |peer| {
            let mut headers = headers(&[("X-Forwarded-User", "anna")]);
            let proxies = &proxies;
            async move {
                let connection = Connection { peer, local };
                proxies.receive(connection, &mut headers).await.user
            }
        };
        // this process runs the test's proxy
        assert!(user(peer).await.is_some());
        // nobody has a socket with this address: its user cannot be seen
        assert!(user("127.0.0.1:1".parse().unwrap()).await.is_none());
        drop(client);
        assert!(!proxies.may_run(61_234));
        let named = Proxies::new(Vec::new(), vec!["61234".to_owned()], None);
        assert!(named.may_run(61_234) && named.may_run(0) && !named.may_run(61_235));
    }
}
