//! Socket addresses and control messages, as bytes in the layout of the Linux system call interface
//! (`cmsg(3)`, `ip(7)`, `ipv6(7)`, `udp(7)`). Written and read with bounds, without pointers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use tombolo_packet::LocalAddress;

const WORD: usize = size_of::<usize>();
/// Length of `struct cmsghdr`: a length of one word, a level and a type.
const HEADER: usize = WORD + 8;

/// Control data of one datagram to send: at most source, traffic class and segment size.
#[repr(C, align(8))]
pub(crate) struct ControlBuffer {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl ControlBuffer {
    /// An `in6_pktinfo` (40 bytes with its header), a traffic class (24) and a segment size (24).
    const CAPACITY: usize = 96;

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let start = self.len;
        let end = start + HEADER + data.len();
        self.bytes[start..start + WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        self.bytes[start + WORD..start + WORD + 4].copy_from_slice(&level.to_ne_bytes());
        self.bytes[start + WORD + 4..start + HEADER].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + HEADER..end].copy_from_slice(data);
        self.len = end.next_multiple_of(WORD);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The control data for one datagram, or for one super-datagram where `segment_size` is given.
/// A source of another family than the destination is left out.
pub(crate) fn encode(
    destination: IpAddr,
    source: Option<LocalAddress>,
    traffic_class: u8,
    segment_size: Option<u16>,
) -> ControlBuffer {
    let mut control = ControlBuffer { bytes: [0; ControlBuffer::CAPACITY], len: 0 };
    match (destination, source) {
        (IpAddr::V4(_), Some(LocalAddress { address: IpAddr::V4(address), .. })) => {
            // The interface stays 0: with an interface given, Linux takes any destination that it has
            // no route to on that interface for a neighbour, and sends into the void.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&address.octets());
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        (IpAddr::V6(to), Some(LocalAddress { address: IpAddr::V6(address), interface })) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&address.octets());
            if address.is_unicast_link_local() || to.is_unicast_link_local() {
                info[16..].copy_from_slice(&interface.to_ne_bytes());
            }
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => {}
    }
    if traffic_class != 0 {
        let (level, kind) = match destination {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        control.push(level, kind, &i32::from(traffic_class).to_ne_bytes());
    }
    if let Some(size) = segment_size {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    control
}

/// What the control data of a received datagram says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedControl {
    pub(crate) local: Option<LocalAddress>,
    pub(crate) traffic_class: u8,
    /// Length of each datagram of a coalesced read (`UDP_GRO`).
    pub(crate) stride: Option<usize>,
    /// There was such a length, and it was none.
    pub(crate) stride_is_wrong: bool,
}

/// Reads control data; what is not understood or does not fit is skipped.
pub(crate) fn decode(mut control: &[u8]) -> ReceivedControl {
    let mut result = ReceivedControl::default();
    while let Some((length, rest)) = control.split_first_chunk::<WORD>() {
        let length = usize::from_ne_bytes(*length);
        let Some(body) = length.checked_sub(WORD).and_then(|length| rest.get(..length)) else { break };
        let (Some(level), Some(kind), Some(data)) = (int(body, 0), int(body, 4), body.get(8..)) else {
            break;
        };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let (Some(interface), Some(address)) = (int(data, 0), array::<4>(data, 4)) {
                    let address = IpAddr::V4(Ipv4Addr::from(address));
                    result.local = Some(LocalAddress { address, interface: interface.cast_unsigned() });
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(address), Some(interface)) = (array::<16>(data, 0), int(data, 16)) {
                    let address = IpAddr::V6(Ipv6Addr::from(address));
                    result.local = Some(LocalAddress { address, interface: interface.cast_unsigned() });
                }
            }
            // One byte for IPv4, an int for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => result.traffic_class = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                result.traffic_class = int(data, 0).map_or(0, |value| value.to_le_bytes()[0]);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                result.stride = int(data, 0)
                    .and_then(|size| u16::try_from(size).ok())
                    .filter(|&size| size > 0)
                    .map(usize::from);
                result.stride_is_wrong = result.stride.is_none();
            }
            _ => {}
        }
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    result
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

/// A `struct sockaddr_in` or `struct sockaddr_in6`.
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl RawAddress {
    /// Length of `struct sockaddr_in6`, the longer of the two.
    pub(crate) const CAPACITY: usize = 28;

    pub(crate) fn encode(address: SocketAddr) -> Self {
        let mut raw = Self { bytes: [0; Self::CAPACITY], len: 0 };
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let family = match address {
            SocketAddr::V4(v4) => {
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                raw.len = 16;
                libc::AF_INET
            }
            SocketAddr::V6(v6) => {
                raw.bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                raw.len = 28;
                libc::AF_INET6
            }
        };
        raw.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        raw
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// `None`: neither an IPv4 nor an IPv6 address.
    pub(crate) fn decode(bytes: &[u8]) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
        let port = u16::from_be_bytes(array(bytes, 2)?);
        match family {
            libc::AF_INET => Some(SocketAddrV4::new(array::<4>(bytes, 4)?.into(), port).into()),
            libc::AF_INET6 => {
                let scope = u32::from_ne_bytes(array(bytes, 24)?);
                // The flow label is the sender's affair and must not make two endpoints of one.
                Some(SocketAddrV6::new(array::<16>(bytes, 8)?.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_encoding() {
        for text in ["192.0.2.7:8662", "[2001:db8::7]:1", "[fe80::1%3]:51820"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::decode(RawAddress::encode(address).as_bytes()), Some(address));
        }
        assert_eq!(RawAddress::decode(&[]), None);
        assert_eq!(RawAddress::decode(&[0; 28]), None);
        assert_eq!(
            RawAddress::decode(&RawAddress::encode("[::1]:5".parse().unwrap()).as_bytes()[..27]),
            None
        );
    }

    #[test]
    fn a_full_set_of_control_messages_fits_and_is_read_back() {
        let v6 = LocalAddress { address: "fe80::1".parse().unwrap(), interface: 4 };
        let control = encode("fe80::2".parse().unwrap(), Some(v6), 0x8b, Some(1452));
        let decoded = decode(control.as_bytes());
        let expected = ReceivedControl { local: Some(v6), traffic_class: 0x8b, ..ReceivedControl::default() };
        assert_eq!(decoded, expected);
    }

    #[test]
    fn the_interface_is_given_for_link_local_addresses_only() {
        let v6 = LocalAddress { address: "2001:db8::1".parse().unwrap(), interface: 4 };
        let decoded = decode(encode("2001:db8::2".parse().unwrap(), Some(v6), 0, None).as_bytes());
        assert_eq!(decoded.local, Some(LocalAddress { interface: 0, ..v6 }));
        let v4 = LocalAddress { address: "192.0.2.1".parse().unwrap(), interface: 4 };
        let control = encode("192.0.2.2".parse().unwrap(), Some(v4), 0, None);
        assert_eq!(decode(control.as_bytes()).local, Some(LocalAddress { interface: 0, ..v4 }));
    }

    #[test]
    fn a_source_of_the_other_family_is_left_out() {
        let v4 = LocalAddress { address: "192.0.2.1".parse().unwrap(), interface: 4 };
        assert!(encode("2001:db8::2".parse().unwrap(), Some(v4), 0, None).as_bytes().is_empty());
    }

    #[test]
    fn no_truncation_or_length_of_control_data_panics() {
        let v6 = LocalAddress { address: "fe80::1".parse().unwrap(), interface: 4 };
        let control = encode("fe80::2".parse().unwrap(), Some(v6), 0x8b, Some(1452));
        for end in 0..control.as_bytes().len() {
            decode(&control.as_bytes()[..end]);
        }
        let mut bytes = control.as_bytes().to_vec();
        for length in [0, 1, WORD - 1, WORD, HEADER - 1, HEADER, HEADER + 1, 1 << 40, usize::MAX] {
            bytes[..WORD].copy_from_slice(&length.to_ne_bytes());
            decode(&bytes);
        }
    }
}
