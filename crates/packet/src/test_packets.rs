//! Packets for tests, put together byte by byte with nothing of what is tested.

use std::net::Ipv6Addr;

use crate::{GsoType, VnetHeader};

/// RFC 1071 as it stands in §1, a word at a time.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// All that a TCP segment or UDP datagram is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) ipv6: bool,
    pub(crate) tcp: bool,
    /// The last byte of each address.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) flow_label: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    /// IPv4 options, or IPv6 extension headers that begin with destination options and end before TCP or UDP.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    /// The four bits before the flags: three reserved ones, and AE (RFC 9768).
    pub(crate) reserved: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn new(ipv6: bool, tcp: bool, payload: Vec<u8>) -> Self {
        Self {
            ipv6,
            tcp,
            hosts: (1, 2),
            ports: (5432, 40_000),
            traffic_class: 0,
            hop_limit: 64,
            flow_label: 7,
            dont_fragment: true,
            identification: 1000,
            ip_options: Vec::new(),
            sequence: 5000,
            acknowledgement: 77,
            flags: 0x10,
            reserved: 0,
            window: 501,
            urgent: 0,
            tcp_options: if tcp { vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8] } else { Vec::new() },
            payload,
        }
    }

    fn addresses(&self) -> Vec<u8> {
        let host = |last: u8| -> Vec<u8> {
            if self.ipv6 {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)).octets().to_vec()
            } else {
                vec![10, 0, 0, last]
            }
        };
        [host(self.hosts.0), host(self.hosts.1)].concat()
    }

    fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// Length in bytes of the IP header with its options.
    pub(crate) fn transport_offset(&self) -> usize {
        (if self.ipv6 { 40 } else { 20 }) + self.ip_options.len()
    }

    /// Length in bytes of all headers.
    pub(crate) fn headers_len(&self) -> usize {
        self.transport_offset() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    fn pseudo_header(&self, transport_len: usize) -> Vec<u8> {
        let mut bytes = self.addresses();
        bytes.extend((transport_len as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol()]);
        bytes
    }

    fn transport(&self, checksum: impl Fn(&[u8]) -> u16) -> Vec<u8> {
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        let field = if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            let words = (20 + self.tcp_options.len()) as u8 / 4;
            bytes.extend([words << 4 | self.reserved & 0xf, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(self.urgent.to_be_bytes());
            bytes.extend(&self.tcp_options);
            16
        } else {
            bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.payload);
        let sum = checksum(&bytes);
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn packet(&self, transport: &[u8]) -> Vec<u8> {
        let mut bytes;
        if self.ipv6 {
            bytes = vec![0x60 | self.traffic_class >> 4, self.traffic_class << 4];
            bytes.extend(self.flow_label.to_be_bytes());
            bytes.extend(((self.ip_options.len() + transport.len()) as u16).to_be_bytes());
            bytes.push(if self.ip_options.is_empty() { self.protocol() } else { 60 });
            bytes.push(self.hop_limit);
            bytes.extend(self.addresses());
            bytes.extend(&self.ip_options);
        } else {
            let header_len = 20 + self.ip_options.len();
            bytes = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
            bytes.extend(((header_len + transport.len()) as u16).to_be_bytes());
            bytes.extend(self.identification.to_be_bytes());
            bytes.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.hop_limit,
                self.protocol(),
                0,
                0,
            ]);
            bytes.extend(self.addresses());
            bytes.extend(&self.ip_options);
            let sum = !slow_sum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        bytes.extend(transport);
        bytes
    }

    /// The packet with all checksums right.
    pub(crate) fn build(&self) -> Vec<u8> {
        let transport =
            self.transport(|bytes| match !slow_sum(&[&self.pseudo_header(bytes.len()), bytes].concat()) {
                0 if !self.tcp => 0xffff,
                sum => sum,
            });
        self.packet(&transport)
    }

    /// The packet as the kernel gives it to a TUN that does the checksums.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        let transport = self.transport(|bytes| slow_sum(&self.pseudo_header(bytes.len())));
        self.packet(&transport)
    }

    /// The virtio-net header for [`build_partial`](Self::build_partial), to be cut to `gso_size` bytes of payload.
    pub(crate) fn vnet_header(&self, gso_size: u16) -> VnetHeader {
        VnetHeader {
            needs_checksum: true,
            data_valid: false,
            gso_type: match (self.tcp, self.ipv6) {
                (true, false) => GsoType::Tcp4,
                (true, true) => GsoType::Tcp6,
                (false, _) => GsoType::Udp,
            },
            ecn: self.flags & 0x80 != 0,
            header_len: self.headers_len() as u16,
            gso_size,
            checksum_start: self.transport_offset() as u16,
            checksum_offset: if self.tcp { 16 } else { 6 },
        }
    }

    /// What a split into `gso_size` bytes of payload is to give: the slow oracle.
    pub(crate) fn segments(&self, gso_size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> =
            if self.payload.is_empty() { vec![&[]] } else { self.payload.chunks(gso_size).collect() };
        let count = chunks.len();
        chunks
            .into_iter()
            .enumerate()
            .map(|(index, payload)| {
                let mut segment = self.clone();
                segment.payload = payload.to_vec();
                segment.identification = self.identification.wrapping_add(index as u16);
                segment.sequence = self.sequence.wrapping_add((index * gso_size) as u32);
                if index + 1 < count {
                    segment.flags &= !0x09;
                }
                if index > 0 {
                    segment.flags &= !0x80;
                }
                segment.build()
            })
            .collect()
    }
}
