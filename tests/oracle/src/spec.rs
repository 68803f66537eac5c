//! Packets for tests, put together byte by byte.

use crate::{Random, VNET_HEADER_LEN, slow_sum, transmit};

/// All that a TCP segment or UDP datagram is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// IPv6, or IPv4.
    pub ipv6: bool,
    /// TCP, or UDP.
    pub tcp: bool,
    /// The last byte of each address.
    pub hosts: (u8, u8),
    /// Source and destination.
    pub ports: (u16, u16),
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Also the time to live of IPv4.
    pub hop_limit: u8,
    /// The low 16 bits of it.
    pub flow_label: u16,
    /// IPv4 only.
    pub dont_fragment: bool,
    /// IPv4 only.
    pub identification: u16,
    /// Kind of the first IPv6 extension header, where there is one.
    pub extension: u8,
    /// IPv4 options, or IPv6 extension headers that begin with one of the kind `extension` and end before TCP or UDP.
    pub ip_options: Vec<u8>,
    /// TCP only, as all that follows but the payload.
    pub sequence: u32,
    /// The next byte that is expected.
    pub acknowledgement: u32,
    /// Byte 13 of the TCP header.
    pub flags: u8,
    /// The four bits before the flags: three reserved ones, and AE (RFC 9768).
    pub reserved: u8,
    /// As it stands in the header.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// A multiple of four bytes, 40 at most.
    pub tcp_options: Vec<u8>,
    /// What is cut.
    pub payload: Vec<u8>,
}

impl Spec {
    /// An ordinary packet with a payload: TCP with time stamps.
    pub fn new(ipv6: bool, tcp: bool, payload: Vec<u8>) -> Self {
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
            extension: 60,
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

    /// Anything that may be cut: every flag, reserved bit, ECN mark and DSCP, IPv4 options and IPv6 extension headers, TCP options
    /// well-formed or not, and up to `longest` bytes of payload.
    pub fn draw(random: &mut Random, longest: usize) -> Self {
        let (ipv6, tcp) = (random.chance(2), random.chance(2));
        let payload_len = random.length(longest);
        let mut spec = Self::new(ipv6, tcp, random.bytes(payload_len));
        spec.hosts = (random.byte(), random.byte());
        spec.ports = (random.number(), random.number());
        (spec.traffic_class, spec.hop_limit) = (random.byte(), random.byte());
        (spec.flow_label, spec.identification) = (random.number(), random.number());
        spec.dont_fragment = random.chance(2);
        if random.chance(3) {
            spec.draw_ip_options(random);
        }
        if tcp {
            (spec.sequence, spec.acknowledgement) = (random.next() as u32, random.next() as u32);
            (spec.flags, spec.reserved) = (random.byte(), random.byte() & 0xf);
            (spec.window, spec.urgent) = (random.number(), random.number());
            spec.tcp_options = random.tcp_options();
        }
        spec
    }

    /// IPv4 options of any length and content, or one to three IPv6 extension headers that Linux cuts behind.
    fn draw_ip_options(&mut self, random: &mut Random) {
        if !self.ipv6 {
            let words = random.below(11);
            self.ip_options = random.bytes(4 * words);
            return;
        }
        let kinds: Vec<u8> = (0..=random.below(3)).map(|_| [0, 43, 60][random.below(3)]).collect();
        self.extension = kinds[0];
        self.ip_options.clear();
        for index in 0..kinds.len() {
            let units = random.below(5);
            self.ip_options.extend([*kinds.get(index + 1).unwrap_or(&self.protocol()), units as u8]);
            self.ip_options.extend(random.bytes(6 + 8 * units));
        }
    }

    fn addresses(&self) -> Vec<u8> {
        let host = |last: u8| -> Vec<u8> {
            if self.ipv6 { [&[0xfd][..], &[0; 14], &[last]].concat() } else { vec![10, 0, 0, last] }
        };
        [host(self.hosts.0), host(self.hosts.1)].concat()
    }

    fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// Length in bytes of the IP header with its options.
    pub fn transport_offset(&self) -> usize {
        (if self.ipv6 { 40 } else { 20 }) + self.ip_options.len()
    }

    /// Length in bytes of all headers.
    pub fn headers_len(&self) -> usize {
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
            bytes.push(if self.ip_options.is_empty() { self.protocol() } else { self.extension });
            bytes.push(self.hop_limit);
            bytes.extend(self.addresses());
            bytes.extend(&self.ip_options);
        } else {
            let header_len = 20 + self.ip_options.len();
            bytes = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
            bytes.extend(((header_len + transport.len()) as u16).to_be_bytes());
            bytes.extend(self.identification.to_be_bytes());
            let flags = if self.dont_fragment { 0x40 } else { 0 };
            bytes.extend([flags, 0, self.hop_limit, self.protocol(), 0, 0]);
            bytes.extend(self.addresses());
            bytes.extend(&self.ip_options);
            let sum = !slow_sum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        bytes.extend(transport);
        bytes
    }

    /// The packet with all checksums right.
    pub fn build(&self) -> Vec<u8> {
        let transport =
            self.transport(|bytes| match !slow_sum(&[&self.pseudo_header(bytes.len()), bytes].concat()) {
                0 if !self.tcp => 0xffff,
                sum => sum,
            });
        self.packet(&transport)
    }

    /// The packet as the kernel gives it to a TUN that does the checksums.
    pub fn build_partial(&self) -> Vec<u8> {
        let transport = self.transport(|bytes| slow_sum(&self.pseudo_header(bytes.len())));
        self.packet(&transport)
    }

    /// The virtio-net header for [`build_partial`](Self::build_partial), to be cut to `gso_size` bytes of payload; 0: not to be cut.
    pub fn vnet_header_bytes(&self, gso_size: u16) -> [u8; VNET_HEADER_LEN] {
        let gso_type = match (gso_size, self.tcp, self.ipv6) {
            (0, ..) => 0,
            (_, true, false) => 1,
            (_, true, true) => 4,
            (_, false, _) => 5,
        };
        let ecn = if gso_size != 0 && self.tcp && self.flags & 0x80 != 0 { 0x80 } else { 0 };
        let mut header = vec![1, gso_type | ecn];
        for number in [self.headers_len() as u16, gso_size, self.transport_offset() as u16] {
            header.extend(number.to_le_bytes());
        }
        header.extend([if self.tcp { 16 } else { 6 }, 0]);
        std::array::from_fn(|index| header[index])
    }

    /// What a cut into `gso_size` bytes of payload gives.
    ///
    /// # Panics
    /// Where Linux would not cut it.
    pub fn segments(&self, gso_size: usize) -> Vec<Vec<u8>> {
        transmit(&self.vnet_header_bytes(gso_size.min(0xffff) as u16), &self.build_partial())
            .expect("nothing that is refused is asked for")
    }
}
