//! Merges packets of one flow into super-packets, so that one write to the TUN carries many.
//!
//! What the kernel's GRO does, with its rules, so that splitting a super-packet again (the kernel does that when it
//! forwards) gives the very packets that went in. The one exception is the identification of
//! IPv4 packets that say "don't fragment", all alike: it has no meaning (RFC 6864 §4.1), and a super-packet counts it up.
//!
//! Payload is not copied: an output is a list of slices, the first of which holds the headers.

use std::io::IoSlice;
use std::ops::Range;

use arrayvec::ArrayVec;

use crate::checksum::{Sum, pseudo_header};
use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use crate::split::{TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET, tcp_flags};
use crate::{Fragment, GsoType, IpPacket, IpVersion, VnetHeader, checksum};

/// How many packets are merged into one at the most: as many as the kernel's UDP GRO takes, and 64 KiB of
/// Ethernet's packets are fewer.
pub const MAX_MERGED: usize = 64;

/// Open groups that are remembered at a time. Flows beyond them, or that fall on the same slot, are merged less.
const SLOTS: usize = 256;
/// The flag in byte 6 of the IPv4 header.
const IPV4_DONT_FRAGMENT: u8 = 0x40;
const NO_GROUP: u32 = u32::MAX;
const NO_PACKET: u32 = u32::MAX;

/// What a [`Coalescer`] may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceOptions {
    /// Merge TCP.
    pub tcp: bool,
    /// Merge UDP. The TUN has to know USO: Linux 6.2.
    pub udp: bool,
    /// Length in bytes of the longest output, headers included; at most 65,535.
    pub max_len: usize,
    /// Merge nothing whose own transport checksum is wrong, as the kernel's GRO does. Merging leaves the checksum to the
    /// kernel, and so would hide an error from before the packet was sealed. It costs a pass over the payload, 31 ns for
    /// 1420 bytes.
    pub verify_checksums: bool,
}

impl Default for CoalesceOptions {
    /// Merge all that is right, as far as an IP length goes.
    fn default() -> Self {
        Self { tcp: true, udp: true, max_len: usize::from(u16::MAX), verify_checksums: true }
    }
}

/// One packet that was pushed.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Where it begins in the arena.
    start: usize,
    /// Where it ends in the arena.
    end: usize,
    /// The next one of the same group.
    next: u32,
}

/// Packets that go out as one.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: u32,
    last: u32,
    count: u32,
    /// Length in bytes of all headers; zero where the group is not one of a flow.
    headers_len: u16,
    transport_offset: u16,
    /// Payload bytes of the first packet and so of all but the last.
    segment_size: u16,
    /// Length in bytes of the merged packet.
    total_len: usize,
    next_sequence: u32,
    /// Flags that the last TCP segment brought.
    last_flags: u8,
    /// IPv4: whether all identifications were equal, once there are two.
    fixed_identification: bool,
    is_tcp: bool,
    version: IpVersion,
}

/// A packet that may be merged with others of its flow.
struct Candidate<'a> {
    ip: IpPacket<'a>,
    is_tcp: bool,
    headers_len: usize,
    /// Whether others may come after it: it has no flag that wants to be seen at once.
    stays_open: bool,
}

/// Collects packets, and gives them out again as few as possible.
///
/// Packets of one flow leave in the order they came in. The memory is used again from batch to batch; it grows with the
/// greatest number of packets that one arena held.
///
/// ```
/// use tombolo_packet::{CoalesceOptions, Coalescer};
///
/// # let mut arena = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
/// # let mut written = 0;
/// let mut coalescer = Coalescer::new(CoalesceOptions::default());
/// coalescer.push(&arena, 0..20);
/// coalescer.for_each_output(&mut arena, |header, slices| {
///     // one write to the TUN
/// #   written += 1;
/// });
/// # assert_eq!(written, 1);
/// ```
#[derive(Debug)]
pub struct Coalescer {
    options: CoalesceOptions,
    members: Vec<Member>,
    groups: Vec<Group>,
    /// The open group of the flows that fall on each slot.
    slots: [u32; SLOTS],
}

impl Coalescer {
    /// An empty one.
    pub fn new(options: CoalesceOptions) -> Self {
        let options = CoalesceOptions { max_len: options.max_len.min(usize::from(u16::MAX)), ..options };
        Self { options, members: Vec::new(), groups: Vec::new(), slots: [NO_GROUP; SLOTS] }
    }

    /// What may be merged.
    pub fn options(&self) -> CoalesceOptions {
        self.options
    }

    /// Changes what may be merged from here on, as when the kernel turned out not to take it.
    pub fn set_options(&mut self, options: CoalesceOptions) {
        self.options = CoalesceOptions { max_len: options.max_len.min(usize::from(u16::MAX)), ..options };
        self.close_all();
    }

    /// How many packets are waiting.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes the packet that lies at `range` of the arena. What follows the packet within the range, as padding
    /// does, is left out. Whoever calls must not change the arena between the pushes and
    /// [`for_each_output`](Self::for_each_output), but for adding to it.
    ///
    /// What is not a whole IP packet is let through as it is; a range outside the arena is ignored.
    #[inline]
    pub fn push(&mut self, arena: &[u8], range: Range<usize>) {
        let Some(bytes) = arena.get(range.clone()) else { return };
        match IpPacket::parse(bytes) {
            Ok(ip) => self.push_packet(arena, range.start, ip),
            Err(_) => {
                self.close_all();
                self.add_group(range, None);
            }
        }
    }

    /// As [`push`](Self::push), for whoever has parsed the packet already: `ip` begins at `start` of the arena.
    #[inline]
    pub fn push_packet(&mut self, arena: &[u8], start: usize, ip: IpPacket<'_>) {
        let range = start..start + ip.total_len();
        if !matches!(ip.protocol(), protocol::TCP | protocol::UDP) {
            self.add_group(range, None);
            return;
        }
        if ip.fragment() != Fragment::No || ip.payload().len() < 8 {
            // Whose flow it is of cannot be seen; nothing may overtake it.
            self.close_all();
            self.add_group(range, None);
            return;
        }
        let slot = slot_of(&ip);
        let Some(candidate) = self.candidate(ip) else {
            self.slots[slot] = NO_GROUP;
            self.add_group(range, None);
            return;
        };
        if let Some(group) = self.groups.get_mut(self.slots[slot] as usize)
            && let Some(first) = self.members.get(group.first as usize)
            && let Some(first) = arena.get(first.start..first.end)
            && group.takes(&candidate, first, &self.options)
        {
            let member = self.members.len() as u32;
            if let Some(last) = self.members.get_mut(group.last as usize) {
                last.next = member;
            }
            group.append(&candidate, member);
            if !candidate.stays_open
                || candidate.payload_len() < usize::from(group.segment_size)
                || group.count as usize == MAX_MERGED
            {
                self.slots[slot] = NO_GROUP;
            }
            self.members.push(Member { start: range.start, end: range.end, next: NO_PACKET });
            return;
        }
        self.slots[slot] = if candidate.stays_open { self.groups.len() as u32 } else { NO_GROUP };
        self.add_group(range, Some(&candidate));
    }

    /// Gives out everything in order and is empty afterwards. Each call of `write` is one packet for the TUN: its
    /// virtio-net header, and the slices that it consists of. Headers are changed in the arena.
    pub fn for_each_output(&mut self, arena: &mut [u8], mut write: impl FnMut(VnetHeader, &[IoSlice<'_>])) {
        for group in &self.groups {
            let Some(first) = self.members.get(group.first as usize) else { continue };
            let mut header = VnetHeader::default();
            if group.count > 1
                && let Some(packet) = arena.get_mut(first.start..first.end)
            {
                header = group.write_headers(packet);
            }
            let mut slices = ArrayVec::<IoSlice<'_>, MAX_MERGED>::new();
            let mut next = Some(first);
            let mut skip = 0;
            while let Some(member) = next {
                if let Some(bytes) = arena.get(member.start + skip..member.end)
                    && !slices.is_full()
                {
                    slices.push(IoSlice::new(bytes));
                }
                skip = usize::from(group.headers_len);
                next = self.members.get(member.next as usize);
            }
            if !slices.is_empty() {
                write(header, &slices);
            }
        }
        self.clear();
    }

    /// Forgets what is waiting.
    pub fn clear(&mut self) {
        self.close_all();
        self.members.clear();
        self.groups.clear();
    }

    fn close_all(&mut self) {
        self.slots.fill(NO_GROUP);
    }

    fn add_group(&mut self, range: Range<usize>, candidate: Option<&Candidate<'_>>) {
        let member = self.members.len() as u32;
        self.members.push(Member { start: range.start, end: range.end, next: NO_PACKET });
        self.groups.push(Group::of(member, range.len(), candidate));
    }

    /// `ip`, if its kind is to be merged and nothing in it speaks against it.
    #[inline]
    fn candidate<'a>(&self, ip: IpPacket<'a>) -> Option<Candidate<'a>> {
        let bytes = ip.as_bytes();
        match ip.version() {
            // Options are to be acted on per packet; a wrong checksum is to stay wrong.
            IpVersion::V4 => {
                if ip.transport_offset() != IPV4_HEADER_LEN || !Sum::of(&bytes[..IPV4_HEADER_LEN]).is_valid()
                {
                    return None;
                }
            }
            IpVersion::V6 => {
                if ip.transport_offset() != IPV6_HEADER_LEN {
                    return None;
                }
            }
        }
        let payload = ip.payload();
        let candidate = if ip.protocol() == protocol::TCP {
            let tcp = payload.first_chunk::<20>()?;
            let tcp_header_len = usize::from(tcp[12] >> 4) * 4;
            let mergeable_flags = tcp_flags::CWR | tcp_flags::ECE | tcp_flags::PSH | tcp_flags::FIN;
            if !self.options.tcp || tcp_header_len < 20 || tcp[13] & !mergeable_flags != tcp_flags::ACK {
                return None;
            }
            let stays_open = tcp[13] & (tcp_flags::PSH | tcp_flags::FIN) == 0;
            Candidate { ip, is_tcp: true, headers_len: ip.transport_offset() + tcp_header_len, stays_open }
        } else {
            let udp = payload.first_chunk::<8>()?;
            // Without a checksum there is nothing that a split could put in its place.
            if !self.options.udp
                || usize::from(u16::from_be_bytes([udp[4], udp[5]])) != payload.len()
                || udp[6..8] == [0, 0]
            {
                return None;
            }
            Candidate { ip, is_tcp: false, headers_len: ip.transport_offset() + 8, stays_open: true }
        };
        // No payload, nothing to merge: a bare acknowledgement, a header that leaves the packet.
        if bytes.len() <= candidate.headers_len || bytes.len() > self.options.max_len {
            return None;
        }
        if self.options.verify_checksums {
            let (source, destination) = ip.address_bytes().split_at(ip.address_bytes().len() / 2);
            let sum = pseudo_header(source, destination, ip.protocol(), payload.len());
            if !sum.add_bytes(payload).is_valid() {
                return None;
            }
        }
        Some(candidate)
    }
}

impl Candidate<'_> {
    #[inline]
    fn payload_len(&self) -> usize {
        self.ip.total_len() - self.headers_len
    }

    #[inline]
    fn sequence(&self) -> u32 {
        self.ip
            .payload()
            .get(4..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |field| u32::from_be_bytes(*field))
    }

    #[inline]
    fn flags(&self) -> u8 {
        if self.is_tcp { self.ip.payload().get(13).copied().unwrap_or(0) } else { 0 }
    }
}

impl Group {
    fn of(member: u32, total_len: usize, candidate: Option<&Candidate<'_>>) -> Self {
        let mut group = Self {
            first: member,
            last: member,
            count: 1,
            headers_len: 0,
            transport_offset: 0,
            segment_size: 0,
            total_len,
            next_sequence: 0,
            last_flags: 0,
            fixed_identification: false,
            is_tcp: false,
            version: IpVersion::V4,
        };
        if let Some(candidate) = candidate {
            group.headers_len = candidate.headers_len as u16;
            group.transport_offset = candidate.ip.transport_offset() as u16;
            group.segment_size = candidate.payload_len() as u16;
            group.next_sequence = candidate.sequence().wrapping_add(candidate.payload_len() as u32);
            group.last_flags = candidate.flags();
            group.is_tcp = candidate.is_tcp;
            group.version = candidate.ip.version();
        }
        group
    }

    fn append(&mut self, candidate: &Candidate<'_>, member: u32) {
        self.last = member;
        self.count += 1;
        self.total_len += candidate.payload_len();
        self.next_sequence = self.next_sequence.wrapping_add(candidate.payload_len() as u32);
        self.last_flags = candidate.flags();
    }

    /// Whether `candidate` is the very packet that a split would make next out of the group, of which `first`
    /// is the first packet.
    #[inline]
    fn takes(&mut self, candidate: &Candidate<'_>, first: &[u8], options: &CoalesceOptions) -> bool {
        let packet = candidate.ip.as_bytes();
        let payload_len = candidate.payload_len();
        if self.is_tcp != candidate.is_tcp
            || self.version != candidate.ip.version()
            || usize::from(self.headers_len) != candidate.headers_len
            || payload_len > usize::from(self.segment_size)
            || self.total_len + payload_len > options.max_len
        {
            return false;
        }
        let (Some(ours), Some(theirs)) =
            (first.get(..candidate.headers_len), packet.get(..candidate.headers_len))
        else {
            return false;
        };
        let transport = candidate.ip.transport_offset();
        let transport_matches = if self.is_tcp {
            self.continues_tcp(&ours[transport..], &theirs[transport..])
        } else {
            ours[transport..transport + 4] == theirs[transport..transport + 4]
        };
        transport_matches && self.continues_ip(ours, theirs)
    }

    /// Same ports, acknowledgement, window and options, the next sequence number, and no flag but on the
    /// packet where a split would put it.
    #[inline]
    fn continues_tcp(&self, ours: &[u8], theirs: &[u8]) -> bool {
        let elsewhere = tcp_flags::CWR | tcp_flags::PSH | tcp_flags::FIN;
        theirs[4..8] == self.next_sequence.to_be_bytes()
            && theirs[13] & tcp_flags::CWR == 0
            && (ours[13] ^ theirs[13]) & !elsewhere == 0
            && ours[..4] == theirs[..4]
            && ours[8..13] == theirs[8..13]
            && ours[14..16] == theirs[14..16]
            && ours[18..] == theirs[18..]
    }

    /// Same addresses, traffic class, hop limit and flow label, and the next identification.
    #[inline]
    fn continues_ip(&mut self, ours: &[u8], theirs: &[u8]) -> bool {
        if self.version == IpVersion::V6 {
            return ours[..4] == theirs[..4] && ours[6..40] == theirs[6..40];
        }
        if ours[..2] != theirs[..2] || ours[6..10] != theirs[6..10] || ours[12..20] != theirs[12..20] {
            return false;
        }
        let first_identification = u16::from_be_bytes([ours[4], ours[5]]);
        let identification = u16::from_be_bytes([theirs[4], theirs[5]]);
        let counts_up = identification == first_identification.wrapping_add(self.count as u16);
        let fixed = identification == first_identification && ours[6] & IPV4_DONT_FRAGMENT != 0;
        if self.count == 1 {
            self.fixed_identification = fixed;
            counts_up || fixed
        } else if self.fixed_identification {
            fixed
        } else {
            counts_up
        }
    }

    /// Makes the headers of the first packet those of the whole. Its checksum field then holds the sum of the
    /// pseudo-header, and the rest is left to whoever needs it.
    fn write_headers(&self, packet: &mut [u8]) -> VnetHeader {
        let transport_offset = usize::from(self.transport_offset);
        let transport_len = self.total_len - transport_offset;
        let Some((ip, transport)) = packet.split_at_mut_checked(transport_offset) else {
            return VnetHeader::default();
        };
        let addresses = match self.version {
            IpVersion::V4 => {
                let old_len = u16::from_be_bytes([ip[2], ip[3]]);
                let sum = u16::from_be_bytes([ip[10], ip[11]]);
                let sum = checksum::update(sum, old_len, self.total_len as u16);
                ip[2..4].copy_from_slice(&(self.total_len as u16).to_be_bytes());
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                &ip[12..20]
            }
            IpVersion::V6 => {
                ip[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
                &ip[8..40]
            }
        };
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        let protocol = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        let sum = pseudo_header(source, destination, protocol, transport_len).folded().to_be_bytes();
        let mut header = VnetHeader {
            needs_checksum: true,
            header_len: self.headers_len,
            gso_size: self.segment_size,
            checksum_start: self.transport_offset,
            ..VnetHeader::default()
        };
        if self.is_tcp {
            header.gso_type = if self.version == IpVersion::V4 { GsoType::Tcp4 } else { GsoType::Tcp6 };
            header.checksum_offset = TCP_CHECKSUM_OFFSET;
            header.ecn = transport[13] & tcp_flags::CWR != 0;
            transport[13] |= self.last_flags & (tcp_flags::PSH | tcp_flags::FIN);
            transport[16..18].copy_from_slice(&sum);
        } else {
            header.gso_type = GsoType::Udp;
            header.checksum_offset = UDP_CHECKSUM_OFFSET;
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            transport[6..8].copy_from_slice(&sum);
        }
        header
    }
}

/// The slot of a packet's flow: of its addresses, protocol and ports.
#[inline]
fn slot_of(ip: &IpPacket<'_>) -> usize {
    let ports = ip.payload().first_chunk().map_or(0, |ports| u32::from_ne_bytes(*ports));
    let mut hash = u64::from(ports) | u64::from(ip.protocol()) << 32;
    for word in ip.address_bytes().as_chunks::<8>().0 {
        hash = (hash ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    (hash >> 56) as usize % SLOTS
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
