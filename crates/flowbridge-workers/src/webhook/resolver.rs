//! Names of receivers, resolved at the moment of connecting and judged before a connection is made.
//!
//! The connection goes to the addresses that were judged here and to no others, so a name that changes its mind between a
//! check and the call (rebinding) gains nothing. Addresses written into a URL never come by here: they were judged with it.

use flowbridge_security::egress::EgressPolicy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;

/// Resolves a name only to addresses that may be called.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver(pub(crate) EgressPolicy);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let resolved: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // All have passed when one is named: a host with two protocols keeps both.
            policy.pin(&resolved)?;
            Ok(Box::new(resolved.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowbridge_security::egress::EgressRefused;

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_unless_its_range_is_allowed() {
        let localhost = || "localhost".parse::<Name>().unwrap();
        let production = GuardedResolver(EgressPolicy::default());
        let refused = production.resolve(localhost()).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.downcast_ref(), Some(&EgressRefused::Address));
        let ranges = ["127.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap());
        let development = GuardedResolver(EgressPolicy::new(ranges.to_vec()));
        assert!(development.resolve(localhost()).await.is_ok());
    }
}
