//! Where deliveries may go: to public addresses over https, and nowhere else.
//!
//! A partner chooses the URL, so it may name a host of ours, a neighbour's, or the metadata service of a cloud. The URL is
//! judged when it is registered and again before each attempt. A name is resolved by [`GuardedResolver`] at the moment of
//! connecting, and the connection is made to the addresses that were judged and no others, so that a name which changes its
//! mind in between (rebinding) gains nothing. A name with one forbidden address is refused whole. Redirects are never
//! followed. Ranges that an operator allows (a development machine's loopback) may be reached over plain http too.

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use url::{Host, Url};

/// The longest URL that is taken.
pub const URL_BYTES_MAX: usize = 2_000;

/// Which addresses deliveries may go to.
#[derive(Debug, Clone, Default)]
pub struct TargetPolicy {
    private_ranges_allowed: Vec<IpNet>,
}

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL, or no absolute one.
    #[error("not an absolute URL")]
    NotAUrl,
    /// It is longer than [`URL_BYTES_MAX`].
    #[error("longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// Plain http, or something else altogether.
    #[error("the scheme has to be https")]
    Scheme,
    /// It carries a name and password, or a fragment.
    #[error("a user name, password or fragment has no place in it")]
    Decorated,
    /// A port below 1024 that belongs to another protocol.
    #[error("the port has to be 443, or 1024 and above")]
    Port,
    /// It leads to an address that is not public.
    #[error("it leads to an address that is not public")]
    NotPublic,
}

/// A setting that is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhooks.private_ranges_allowed: {0:?} is not a range such as 10.1.0.0/16")]
pub struct RangeError(pub String);

impl TargetPolicy {
    /// Public addresses, and these ranges (CIDR) although they are not public.
    pub fn new<T: AsRef<str>>(private_ranges_allowed: &[T]) -> Result<Self, RangeError> {
        let ranges = private_ranges_allowed
            .iter()
            .map(|range| range.as_ref().parse().map_err(|_| RangeError(range.as_ref().to_owned())));
        Ok(Self { private_ranges_allowed: ranges.collect::<Result<_, _>>()? })
    }

    /// Judges all that a URL says by itself. What its name resolves to is judged when it is connected to.
    pub fn check(&self, text: &str) -> Result<Url, TargetError> {
        if text.len() > URL_BYTES_MAX {
            return Err(TargetError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| TargetError::NotAUrl)?;
        let plain = match url.scheme() {
            "https" => false,
            "http" if !self.private_ranges_allowed.is_empty() => true,
            _ => return Err(TargetError::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(TargetError::Decorated);
        }
        match url.port() {
            None | Some(443 | 1024..) => {}
            Some(_) => return Err(TargetError::Port),
        }
        // The parser has already turned every spelling of an IPv4 address (decimal, octal, hexadecimal) into one.
        let known = match url.host() {
            None => return Err(TargetError::NotAUrl),
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                (name == "localhost" || name.ends_with(".localhost"))
                    .then_some(IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
        };
        if known.is_some_and(|ip| !self.allows(ip, plain)) {
            return Err(TargetError::NotPublic);
        }
        Ok(url)
    }

    /// May a connection go to this address? Over `plain` http only into the ranges that are allowed by name.
    pub fn allows(&self, ip: IpAddr, plain: bool) -> bool {
        let ip = ip.to_canonical();
        self.private_ranges_allowed.iter().any(|range| range.contains(&ip)) || (!plain && is_public(ip))
    }
}

/// Is it an address of the public internet? By the special-purpose registries of IANA (RFC 6890 and its successors).
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !matches!(
        ip.octets(),
        [0 | 10 | 127 | 224.., ..] // this network, private, loopback, multicast and reserved
            | [100, 64..=127, ..] // carrier-grade NAT
            | [169, 254, ..] // link-local, with the metadata services of clouds
            | [172, 16..=31, ..] // private
            | [192, 0, 0 | 2, _] // protocol assignments, documentation
            | [192, 88, 99, _] // 6to4 relays
            | [192, 168, ..] // private
            | [198, 18 | 19, ..] // benchmarks
            | [198, 51, 100, _] // documentation
            | [203, 0, 113, _] // documentation
    )
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    // Only 2000::/3 is handed out; that leaves out loopback, mapped, NAT64, unique-local, link-local and multicast.
    let handed_out = first & 0xe000 == 0x2000;
    let special = match first {
        // Teredo, ORCHID and other protocol assignments; documentation.
        0x2001 => second < 0x0200 || second == 0x0db8,
        // 6to4, which wraps any IPv4 address.
        0x2002 => true,
        // Documentation.
        0x3fff => second < 0x1000,
        _ => false,
    };
    handed_out && !special
}

/// Resolves names for connections, and lets only addresses through that the policy allows.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver {
    pub(crate) policy: Arc<TargetPolicy>,
    /// Is it for connections over plain http?
    pub(crate) plain: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if addresses.iter().all(|address| guard.policy.allows(address.ip(), guard.plain)) {
                Ok(Box::new(addresses.into_iter()) as Addrs)
            } else {
                Err(Box::new(TargetError::NotPublic) as Box<dyn std::error::Error + Send + Sync>)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What production refuses, by the trick that each tries.
    const REFUSED: &[(&str, TargetError)] = &[
        ("http://example.com/hook", TargetError::Scheme),
        ("http://93.184.215.14/hook", TargetError::Scheme),
        ("ftp://example.com/", TargetError::Scheme),
        ("file:///etc/passwd", TargetError::Scheme),
        ("gopher://example.com/", TargetError::Scheme),
        ("unix:/run/docker.sock", TargetError::Scheme),
        ("javascript:alert(1)", TargetError::Scheme),
        ("//example.com/hook", TargetError::NotAUrl),
        ("example.com/hook", TargetError::NotAUrl),
        ("https://", TargetError::NotAUrl),
        ("https://[::1", TargetError::NotAUrl),
        ("https://user@example.com/", TargetError::Decorated),
        ("https://user:secret@example.com/", TargetError::Decorated),
        ("https://example.com@127.0.0.1/", TargetError::Decorated),
        ("https://example.com/#hook", TargetError::Decorated),
        ("https://example.com:22/", TargetError::Port),
        ("https://example.com:80/", TargetError::Port),
        ("https://example.com:0/", TargetError::Port),
        ("https://localhost/", TargetError::NotPublic),
        ("https://LOCALHOST./", TargetError::NotPublic),
        ("https://hook.localhost:8443/", TargetError::NotPublic),
        ("https://127.0.0.1/", TargetError::NotPublic),
        ("https://127.1/", TargetError::NotPublic),
        ("https://2130706433/", TargetError::NotPublic),
        ("https://0x7f000001/", TargetError::NotPublic),
        ("https://0177.0.0.1/", TargetError::NotPublic),
        ("https://127.0.0.1./", TargetError::NotPublic),
        ("https://１２７.0.0.1/", TargetError::NotPublic),
        ("https://0.0.0.0/", TargetError::NotPublic),
        ("https://10.1.2.3/", TargetError::NotPublic),
        ("https://100.64.0.1/", TargetError::NotPublic),
        ("https://169.254.169.254/latest/meta-data", TargetError::NotPublic),
        ("https://172.16.0.1/", TargetError::NotPublic),
        ("https://172.31.255.255/", TargetError::NotPublic),
        ("https://192.0.0.192/", TargetError::NotPublic),
        ("https://192.0.2.1/", TargetError::NotPublic),
        ("https://192.168.1.1/", TargetError::NotPublic),
        ("https://198.18.0.1/", TargetError::NotPublic),
        ("https://203.0.113.9/", TargetError::NotPublic),
        ("https://224.0.0.1/", TargetError::NotPublic),
        ("https://255.255.255.255/", TargetError::NotPublic),
        ("https://[::]/", TargetError::NotPublic),
        ("https://[::1]/", TargetError::NotPublic),
        ("https://[::ffff:127.0.0.1]/", TargetError::NotPublic),
        ("https://[::ffff:a9fe:a9fe]/", TargetError::NotPublic),
        ("https://[::127.0.0.1]/", TargetError::NotPublic),
        ("https://[64:ff9b::7f00:1]/", TargetError::NotPublic),
        ("https://[2001::1]/", TargetError::NotPublic),
        ("https://[2001:db8::1]/", TargetError::NotPublic),
        ("https://[2002:7f00:1::]/", TargetError::NotPublic),
        ("https://[fc00::1]/", TargetError::NotPublic),
        ("https://[fd00:ec2::254]/", TargetError::NotPublic),
        ("https://[fe80::1]/", TargetError::NotPublic),
        ("https://[ff02::1]/", TargetError::NotPublic),
    ];

    #[test]
    fn production_refuses_every_way_inside() {
        let policy = TargetPolicy::default();
        for (url, error) in REFUSED {
            assert_eq!(policy.check(url).as_ref(), Err(error), "{url}");
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(policy.check(&long), Err(TargetError::TooLong));
    }

    #[test]
    fn public_addresses_over_https_are_taken() {
        let policy = TargetPolicy::default();
        for url in [
            "https://example.com/hook?tenant=7",
            "https://example.com:8443/",
            "https://93.184.215.14/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
        ] {
            assert!(policy.check(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn an_allowed_range_opens_itself_and_nothing_else() {
        let policy = TargetPolicy::new(&["127.0.0.0/8", "::1/128"]).unwrap();
        for url in [
            "http://127.0.0.1:9000/",
            "http://localhost:9000/",
            "https://[::1]:9000/",
            "http://[::ffff:127.0.0.1]:9000/",
        ] {
            assert!(policy.check(url).is_ok(), "{url}");
        }
        assert_eq!(policy.check("http://10.0.0.1:9000/"), Err(TargetError::NotPublic));
        assert_eq!(policy.check("https://10.0.0.1/"), Err(TargetError::NotPublic));
        assert_eq!(
            policy.check("http://93.184.215.14/"),
            Err(TargetError::NotPublic),
            "plain http only within"
        );
        assert!(TargetPolicy::new(&["10.0.0.1-10.0.0.9"]).is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_when_it_is_resolved() {
        let resolver = |plain, ranges: &[&str]| GuardedResolver {
            policy: Arc::new(TargetPolicy::new(ranges).unwrap()),
            plain,
        };
        let localhost = || "localhost".parse::<Name>().unwrap();
        assert!(resolver(false, &[]).resolve(localhost()).await.is_err());
        assert!(resolver(true, &["10.0.0.0/8"]).resolve(localhost()).await.is_err());
        assert!(resolver(true, &["127.0.0.0/8", "::1/128"]).resolve(localhost()).await.is_ok());
    }
}
