//! Where a server is: a DNS name or an address, and a UDP port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Why a text is no endpoint. The message says how to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No port, or one that is no number of 1 to 65535.
    #[error("an endpoint ends with a colon and a port of 1 to 65535, as in vpn.example.net:8662")]
    Port,
    /// Neither a DNS name nor an address, or a second spelling of one.
    #[error(
        "an endpoint begins with a DNS name in lower case, an IPv4 address, or an IPv6 address in brackets"
    )]
    Host,
    /// Longer than 255 bytes.
    #[error("an endpoint has at most 255 characters")]
    TooLong,
}

/// A DNS name or an address, and a UDP port. Names are resolved anew at each try.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostEndpoint {
    text: Box<str>,
    port_at: usize,
}

impl HostEndpoint {
    /// Greatest length of the text in bytes.
    pub const MAX: usize = 255;

    /// The DNS name, or the address without brackets.
    pub fn host(&self) -> &str {
        self.text[..self.port_at - 1].trim_start_matches('[').trim_end_matches(']')
    }

    /// The UDP port; never 0.
    pub fn port(&self) -> u16 {
        self.text[self.port_at..].parse().expect("the port was parsed when the endpoint was made")
    }

    /// The address, where there is nothing to resolve.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host().parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port()))
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for HostEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.len() > Self::MAX {
            return Err(EndpointError::TooLong);
        }
        let (host, port_text) = text.rsplit_once(':').ok_or(EndpointError::Port)?;
        let port: u16 = port_text.parse().map_err(|_| EndpointError::Port)?;
        // One spelling: no leading zeros, no plus sign.
        if port == 0 || port.to_string() != port_text {
            return Err(EndpointError::Port);
        }
        let canonical = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.to_string() == v6),
            None => match host.parse::<std::net::Ipv4Addr>() {
                Ok(_) => true,
                Err(_) => is_dns_name(host),
            },
        };
        if !canonical {
            return Err(EndpointError::Host);
        }
        Ok(Self { text: text.into(), port_at: host.len() + 1 })
    }
}

/// Underscores stand in real names of hosts, though not in the standard.
fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    // A last label of digits only is a mistyped IPv4 address.
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for HostEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read() {
        let name: HostEndpoint = "vpn.example.net:8662".parse().unwrap();
        assert_eq!((name.host(), name.port(), name.address()), ("vpn.example.net", 8662, None));
        let v4: HostEndpoint = "192.0.2.1:1".parse().unwrap();
        assert_eq!(v4.address(), Some("192.0.2.1:1".parse().unwrap()));
        let v6: HostEndpoint = "[2001:db8::1]:65535".parse().unwrap();
        assert_eq!((v6.host(), v6.address()), ("2001:db8::1", Some("[2001:db8::1]:65535".parse().unwrap())));
        assert_eq!(v6.to_string(), "[2001:db8::1]:65535");
    }

    #[test]
    fn what_is_no_endpoint_is_told_why() {
        for (text, error) in [
            ("vpn.example.net", EndpointError::Port),
            ("a:0", EndpointError::Port),
            ("a:08", EndpointError::Port),
            ("a:+8", EndpointError::Port),
            ("a:65536", EndpointError::Port),
            (":1", EndpointError::Host),
            ("2001:db8::1:1", EndpointError::Host),
            ("[2001:DB8::1]:1", EndpointError::Host),
            ("192.0.2.256:1", EndpointError::Host),
            ("VPN.example:1", EndpointError::Host),
            ("a b:1", EndpointError::Host),
            ("a..b:1", EndpointError::Host),
        ] {
            assert_eq!(text.parse::<HostEndpoint>(), Err(error), "{text}");
        }
    }
}
