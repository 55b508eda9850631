//! Which addresses FlowBridge lets a participant make it call: the guard against server-side request forgery.
//!
//! A webhook address is chosen by somebody else and called from inside our network. So only `https` to public addresses
//! goes out; the name is resolved by us, every address it resolves to has to pass, and the call goes to the address that
//! passed ([`EgressPolicy::pin`]), so that a second look-up cannot answer differently. Redirects must not be followed. For
//! development, ranges of private addresses can be allowed; there also plain `http`, to a literal address.
//!
//! Odd spellings (`0x7f.1`, `2130706433`, `0177.0.0.1`) are not looked for: the `url` crate reads them as the WHATWG URL
//! standard says and the guard sees the address they mean.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use url::{Host, Url};

/// The longest address that is accepted, in bytes.
pub const URL_BYTES_MAX: usize = 2000;

/// What may be called.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    private_ranges_allowed: Vec<IpNet>,
    is_closed: bool,
}

/// Why an address is not called. Written for the person who registered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EgressRefused {
    /// No URL with a host.
    #[error("not an absolute URL of at most {URL_BYTES_MAX} bytes")]
    Malformed,
    /// Another scheme.
    #[error("the address must begin with https://")]
    Scheme,
    /// Name or password in the URL.
    #[error("the address must not contain a user name or password")]
    Credentials,
    /// A port below 1024 other than 443: mail, databases and the like are no webhook receivers.
    #[error("the port must be 443 or 1024 and above")]
    Port,
    /// It is, or resolves to, an address that is not public.
    #[error("the host does not have an address that may be called")]
    Address,
    /// The name resolves to nothing.
    #[error("the host has no address")]
    Unresolved,
}

impl EgressPolicy {
    /// Public addresses, and besides them `private_ranges_allowed` (none in production).
    pub fn new(private_ranges_allowed: Vec<IpNet>) -> Self {
        Self { private_ranges_allowed, is_closed: false }
    }

    /// Without public addresses: for a network of its own, and for tests that must not call strangers.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { is_closed: true, ..self }
    }

    /// Judges a URL as text: when an endpoint is registered, and again before each call.
    pub fn check_url(&self, text: &str) -> Result<Url, EgressRefused> {
        if text.len() > URL_BYTES_MAX {
            return Err(EgressRefused::Malformed);
        }
        let url = Url::parse(text).map_err(|_| EgressRefused::Malformed)?;
        let address = match url.host().ok_or(EgressRefused::Malformed)? {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
        };
        let is_allowed_private = address.is_some_and(|address| self.allows_private(address));
        match url.scheme() {
            "https" => {}
            "http" if is_allowed_private => {}
            _ => return Err(EgressRefused::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressRefused::Credentials);
        }
        let port = url.port_or_known_default().ok_or(EgressRefused::Port)?;
        if port != 443 && port < 1024 && !is_allowed_private {
            return Err(EgressRefused::Port);
        }
        if address.is_some_and(|address| !self.permits(address)) {
            return Err(EgressRefused::Address);
        }
        Ok(url)
    }

    /// Whether one address may be called.
    pub fn permits(&self, address: IpAddr) -> bool {
        (is_public(address) && !self.is_closed) || self.allows_private(address)
    }

    /// The address to connect to out of all that a name resolved to. One that is not permitted spoils them all: an
    /// honest receiver does not mix public and private addresses.
    pub fn pin(&self, resolved: &[SocketAddr]) -> Result<SocketAddr, EgressRefused> {
        let first = resolved.first().ok_or(EgressRefused::Unresolved)?;
        if resolved.iter().all(|address| self.permits(address.ip())) {
            Ok(*first)
        } else {
            Err(EgressRefused::Address)
        }
    }

    fn allows_private(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.private_ranges_allowed.iter().any(|range| range.contains(&address))
    }
}

/// Whether an address is one of a host on the public internet: not private, local, shared, reserved, documentation,
/// benchmark, multicast or unspecified (IANA special-purpose registries, RFC 6890), and not an IPv6 form that carries such
/// an IPv4 address inside.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a == 10
        || a == 127
        || (a == 100 && b & 0xc0 == 64)
        || (a == 169 && b == 254)
        || (a == 172 && b & 0xf0 == 16)
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113)
        || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // IPv4-mapped: what a dual-stack socket calls an IPv4 address.
        [0, 0, 0, 0, 0, 0xffff, high, low] => inner(high, low),
        // NAT64 (RFC 6052) and 6to4: a gateway takes the IPv4 address out and calls it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        // Teredo, benchmark, ORCHID and the rest of 2001::/23; documentation in 2001:db8::/32 and 3fff::/20.
        [0x2001, second, ..] => second > 0x1ff && second != 0xdb8,
        [0x3fff, second, ..] => second > 0xfff,
        // Only 2000::/3 is given out at all. Loopback, link-local, unique-local, site-local, multicast, IPv4-compatible and
        // local NAT64 lie outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "2001:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "3ffe::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn an_address_is_refused_for_its_own_reason_however_it_is_spelt() {
        let production = EgressPolicy::default();
        for (url, expected) in [
            ("https://hooks.example.com/in", Ok(())),
            ("https://hooks.example.com:8443/in?a=b", Ok(())),
            ("https://8.8.8.8/", Ok(())),
            ("http://hooks.example.com/", Err(EgressRefused::Scheme)),
            ("file:///etc/passwd", Err(EgressRefused::Malformed)),
            ("gopher://hooks.example.com/", Err(EgressRefused::Scheme)),
            ("hooks.example.com", Err(EgressRefused::Malformed)),
            ("https://", Err(EgressRefused::Malformed)),
            ("https://user@hooks.example.com/", Err(EgressRefused::Credentials)),
            ("https://:secret@hooks.example.com/", Err(EgressRefused::Credentials)),
            ("https://hooks.example.com:25/", Err(EgressRefused::Port)),
            ("https://hooks.example.com:80/", Err(EgressRefused::Port)),
            ("https://127.0.0.1/", Err(EgressRefused::Address)),
            ("https://2130706433/", Err(EgressRefused::Address)),
            ("https://0x7f000001/", Err(EgressRefused::Address)),
            ("https://0177.0.0.1/", Err(EgressRefused::Address)),
            ("https://127.1/", Err(EgressRefused::Address)),
            ("https://①②⑦.0.0.1/", Err(EgressRefused::Address)),
            ("https://[::1]/", Err(EgressRefused::Address)),
            ("https://[::ffff:169.254.169.254]/", Err(EgressRefused::Address)),
            ("http://127.0.0.1:8080/", Err(EgressRefused::Scheme)),
        ] {
            assert_eq!(production.check_url(url).map(|_| ()), expected, "{url}");
        }
        let long = format!("https://hooks.example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(production.check_url(&long), Err(EgressRefused::Malformed));
    }

    #[test]
    fn an_allowed_private_range_opens_that_range_and_no_other() {
        let dev = EgressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(dev.check_url("http://127.0.0.1:9000/").is_ok());
        assert!(dev.check_url("http://[::ffff:127.0.0.1]:80/").is_ok());
        assert_eq!(dev.check_url("https://10.0.0.1/"), Err(EgressRefused::Address));
        assert_eq!(dev.check_url("http://localhost:9000/"), Err(EgressRefused::Scheme));
        assert_eq!(dev.check_url("http://8.8.8.8/"), Err(EgressRefused::Scheme));
        let closed = dev.clone().closed();
        assert_eq!(closed.check_url("https://8.8.8.8/"), Err(EgressRefused::Address));
        assert_eq!(closed.pin(&["8.8.8.8:443".parse().unwrap()]), Err(EgressRefused::Address));
        assert!(
            closed.check_url("http://127.0.0.1:9000/").is_ok() && dev.check_url("https://8.8.8.8/").is_ok()
        );
    }

    #[test]
    fn one_private_address_among_those_resolved_spoils_them_all() {
        let production = EgressPolicy::default();
        let (public, private): (SocketAddr, SocketAddr) =
            ("8.8.8.8:443".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
        assert_eq!(production.pin(&[public]), Ok(public));
        assert_eq!(production.pin(&[public, private]), Err(EgressRefused::Address));
        assert_eq!(production.pin(&[]), Err(EgressRefused::Unresolved));
    }
}
