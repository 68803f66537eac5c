//! From the bytes of one operation to a [`Transaction`].

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use tombolo_engine::{AllowedIpChange, PeerChange, Transaction};
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey};

/// Bytes of one operation at most: about 60 000 peers.
pub const MAX_REQUEST: usize = 16 << 20;
/// Bytes of one line at most; the longest meaningful one has under 100.
const MAX_LINE: usize = 1024;

/// One operation.
pub enum Request {
    /// `get=1`
    Get,
    /// `set=1`
    Set(Transaction),
}

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UapiError {
    /// The framing is broken: a line without `=`, not text, too long.
    #[error("the request does not follow the protocol")]
    Protocol,
    /// A key that does not exist here, or a value that it cannot have.
    #[error("the request has a key or a value that is not valid")]
    Invalid,
    /// The port of `listen_port` is taken.
    #[error("the UDP port is in use")]
    PortInUse,
    /// Peers are members here: `wg` may look, and change nothing (control rule 22).
    #[error("the peers of this network are its members, and no others")]
    ReadOnly,
    /// Anything that the system refused.
    #[error("the change could not be made")]
    Io,
}

impl UapiError {
    /// The errno that stands for it, as a positive number.
    pub fn errno(self) -> i32 {
        match self {
            Self::Protocol => rustix::io::Errno::PROTO,
            Self::Invalid => rustix::io::Errno::INVAL,
            Self::PortInUse => rustix::io::Errno::ADDRINUSE,
            Self::ReadOnly => rustix::io::Errno::PERM,
            Self::Io => rustix::io::Errno::IO,
        }
        .raw_os_error()
    }
}

/// Reads one operation: all lines before the empty line that ends it. `scope` gives the index of an
/// interface for `fe80::1%eth0`.
///
/// # Errors
/// [`UapiError::Protocol`] or [`UapiError::Invalid`]; then nothing of the operation is to be applied.
pub fn parse_request(bytes: &[u8], scope: &dyn Fn(&str) -> Option<u32>) -> Result<Request, UapiError> {
    if bytes.len() > MAX_REQUEST {
        return Err(UapiError::Protocol);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| UapiError::Protocol)?;
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") => match lines.next() {
            None => Ok(Request::Get),
            Some(_) => Err(UapiError::Invalid),
        },
        Some("set=1") => {
            let mut transaction = Transaction::default();
            for line in lines {
                if line.len() > MAX_LINE {
                    return Err(UapiError::Protocol);
                }
                let (key, value) = line.split_once('=').ok_or(UapiError::Protocol)?;
                apply_line(&mut transaction, key, value, scope)?;
            }
            Ok(Request::Set(transaction))
        }
        _ => Err(UapiError::Protocol),
    }
}

fn apply_line(
    transaction: &mut Transaction,
    key: &str,
    value: &str,
    scope: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), UapiError> {
    if key == "public_key" {
        let public_key = PublicKey::from_hex(value).map_err(|_| UapiError::Invalid)?;
        transaction.peers.push(PeerChange::new(public_key));
        return Ok(());
    }
    let Some(peer) = transaction.peers.last_mut() else {
        match key {
            "private_key" => {
                let key = PrivateKey::from_hex(value).map_err(|_| UapiError::Invalid)?;
                // All zeros means: have none.
                transaction.private_key = Some((!key.is_zero()).then_some(key));
            }
            "listen_port" => transaction.listen_port = Some(number(value)?),
            "fwmark" => transaction.firewall_mark = Some(number(value)?),
            "replace_peers" => transaction.replace_peers = truth(value)?,
            _ => return Err(UapiError::Invalid),
        }
        return Ok(());
    };
    match key {
        "remove" => peer.remove = truth(value)?,
        "update_only" => peer.update_only = truth(value)?,
        "preshared_key" => {
            peer.preshared_key = Some(PresharedKey::from_hex(value).map_err(|_| UapiError::Invalid)?)
        }
        "endpoint" => peer.endpoint = Some(endpoint(value, scope)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = truth(value)?,
        "allowed_ip" => {
            let (remove, text) = match value.strip_prefix('-') {
                Some(text) => (true, text),
                None => (false, value),
            };
            let network: IpNet = text.parse().map_err(|_| UapiError::Invalid)?;
            peer.allowed_ips.push(AllowedIpChange { network: network.trunc(), remove });
        }
        "protocol_version" if value == "1" => {}
        _ => return Err(UapiError::Invalid),
    }
    Ok(())
}

/// Flags can only be raised: `true` is the one value that the protocol has.
fn truth(value: &str) -> Result<bool, UapiError> {
    if value == "true" { Ok(true) } else { Err(UapiError::Invalid) }
}

/// A decimal number without sign.
fn number<T: std::str::FromStr>(value: &str) -> Result<T, UapiError> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UapiError::Invalid);
    }
    value.parse().map_err(|_| UapiError::Invalid)
}

fn endpoint(value: &str, scope: &dyn Fn(&str) -> Option<u32>) -> Result<SocketAddr, UapiError> {
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    // `[fe80::1%eth0]:51820`
    let scoped = || {
        let (address, rest) = value.strip_prefix('[')?.split_once('%')?;
        let (interface, port) = rest.split_once("]:")?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = number(port).ok()?;
        Some(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope(interface)?)))
    };
    scoped().ok_or(UapiError::Invalid)
}
