//! Names of endpoints to addresses, with a resolver of our own: a static binary has no NSS.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are read anew for each question, since a laptop changes them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::config::{EndpointHost, EndpointName};

/// Time for one name server to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves an endpoint. `attempt` counts the tries for this peer: where a name has several addresses,
/// each try takes the next one that this machine has a route to.
///
/// # Errors
/// Why there is no address, as a sentence.
pub async fn resolve(endpoint: &EndpointName, attempt: usize) -> Result<SocketAddr, String> {
    let name = match &endpoint.host {
        EndpointHost::Address(address) => return Ok(SocketAddr::new(*address, endpoint.port)),
        EndpointHost::Name(name) => name,
    };
    let resolver = build()?;
    let lookup = resolver.lookup_ip(name.as_str()).await.map_err(|error| format!("{name}: {error}"))?;
    let addresses: Vec<IpAddr> = lookup.iter().collect();
    choose(&addresses, endpoint.port, attempt, has_route).ok_or_else(|| format!("{name} has no address"))
}

/// All addresses of a host, name or literal, those with a route first.
///
/// # Errors
/// Why there is none, as a sentence.
pub async fn resolve_all(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let lookup = build()?.lookup_ip(host).await.map_err(|error| format!("{host}: {error}"))?;
    let mut addresses: Vec<SocketAddr> =
        lookup.iter().map(|address| SocketAddr::new(address, port)).collect();
    addresses.sort_by_key(|address| (!has_route(*address), address.is_ipv4(), address.ip()));
    addresses.dedup();
    if addresses.is_empty() { Err(format!("{host} has no address")) } else { Ok(addresses) }
}

fn build() -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        // No resolv.conf: /etc/hosts still answers.
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = TIMEOUT;
    options.attempts = 2;
    builder.build().map_err(|error| error.to_string())
}

/// The address to try: those with a route first, IPv6 before IPv4 (RFC 6724 prefers it, and NAT is
/// rarer there), then around the circle.
fn choose(
    addresses: &[IpAddr],
    port: u16,
    attempt: usize,
    has_route: impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let mut candidates: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .filter(|address| has_route(*address))
        .collect();
    if candidates.is_empty() {
        candidates = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    }
    candidates.sort_by_key(|candidate| (candidate.is_ipv4(), candidate.ip()));
    candidates.dedup();
    let count = candidates.len();
    (count > 0).then(|| candidates[attempt % count])
}

/// Connecting a UDP socket sends nothing; it fails where there is no route.
fn has_route(address: SocketAddr) -> bool {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    UdpSocket::bind(any).and_then(|socket| socket.connect(address)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_go_around_and_prefer_what_can_be_reached() {
        let addresses: Vec<IpAddr> =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse().unwrap()).to_vec();
        let chosen = |attempt, only_v4: bool| {
            choose(&addresses, 7, attempt, |address| !only_v4 || address.is_ipv4()).unwrap().to_string()
        };
        assert_eq!(chosen(0, false), "[2001:db8::1]:7");
        assert_eq!(chosen(1, false), "192.0.2.1:7");
        assert_eq!(chosen(3, false), "[2001:db8::1]:7");
        assert_eq!(chosen(0, true), "192.0.2.1:7");
        assert_eq!(chosen(1, true), "192.0.2.2:7");
        assert_eq!(choose(&addresses, 7, 0, |_| false).unwrap().to_string(), "[2001:db8::1]:7");
        assert_eq!(choose(&[], 7, 0, |_| true), None);
    }

    #[test]
    fn a_literal_needs_no_resolver() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = crate::config::parse_endpoint("[2001:db8::9]:1234").unwrap();
        let resolved = runtime.block_on(resolve(&endpoint, 5)).unwrap();
        assert_eq!(resolved.to_string(), "[2001:db8::9]:1234");
    }
}
