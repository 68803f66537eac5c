//! The maximum segment size that two ends of a TCP connection tell each other, brought down to what a path
//! carries (RFC 9293 §3.7.1, RFC 6691).

use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN};
use crate::{Fragment, IpPacket, IpVersion, checksum};

const TCP_HEADER_LEN: usize = 20;
/// Kinds of TCP options (IANA).
pub(crate) mod option_kind {
    pub(crate) const END: u8 = 0;
    pub(crate) const NO_OPERATION: u8 = 1;
    pub(crate) const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    pub(crate) const MD5_SIGNATURE: u8 = 19;
    pub(crate) const AUTHENTICATION: u8 = 29;
}

/// The options of a TCP header, each as its kind and the range of its data in `options`. Ends at the first
/// one that is malformed.
pub(crate) fn walk_options(options: &[u8]) -> impl Iterator<Item = (u8, std::ops::Range<usize>)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            match *options.get(at)? {
                option_kind::END => return None,
                option_kind::NO_OPERATION => at += 1,
                kind => {
                    let len = usize::from(*options.get(at + 1)?);
                    if len < 2 || at + len > options.len() {
                        return None;
                    }
                    let data = at + 2..at + len;
                    at += len;
                    return Some((kind, data));
                }
            }
        }
    })
}

/// Brings the segment size that a SYN offers down to what fits into IP packets of `limit` bytes, and mends
/// the checksum. Says whether anything was changed. Packets that are no SYN, offer no size or a smaller one, and
/// malformed ones stay as they are.
///
/// The size is `limit` less the fixed headers: options are the sender's to subtract (RFC 6691 §2).
pub fn clamp_mss(packet: &mut [u8], limit: usize) -> bool {
    let Ok(ip) = IpPacket::parse(packet) else { return false };
    if !ip.is_tcp_syn() {
        return false;
    }
    let fixed = TCP_HEADER_LEN
        + match ip.version() {
            IpVersion::V4 => IPV4_HEADER_LEN,
            IpVersion::V6 => IPV6_HEADER_LEN,
        };
    let most = u16::try_from(limit.saturating_sub(fixed)).unwrap_or(u16::MAX);
    let (start, end) = (ip.transport_offset(), ip.total_len());
    let tcp = &mut packet[start..end];
    let header_len = usize::from(tcp[12] >> 4) * 4;
    if header_len > tcp.len() {
        return false;
    }
    let mut changed = false;
    let mut at = TCP_HEADER_LEN;
    // One option after the other, since the packet is written to in between.
    while let Some((kind, data)) = tcp.get(at..header_len).and_then(|options| walk_options(options).next()) {
        let field = at + data.start..at + data.end;
        at = field.end;
        if kind != option_kind::MAXIMUM_SEGMENT_SIZE || field.len() != 2 {
            continue;
        }
        let offered = u16::from_be_bytes([tcp[field.start], tcp[field.start + 1]]);
        if offered <= most {
            continue;
        }
        tcp[field.clone()].copy_from_slice(&most.to_be_bytes());
        // Behind an odd number of single-byte options the field lies across two words of the sum, which is
        // the same as its bytes changing places (RFC 1071 §2 B).
        let (old, new) =
            if field.start % 2 == 0 { (offered, most) } else { (offered.swap_bytes(), most.swap_bytes()) };
        let sum = checksum::update(u16::from_be_bytes([tcp[16], tcp[17]]), old, new);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        changed = true;
    }
    changed
}

impl IpPacket<'_> {
    /// Whether this opens a TCP connection or answers one that does: SYN, with or without ACK.
    #[inline]
    pub fn is_tcp_syn(&self) -> bool {
        const SYN: u8 = 0x02;
        self.protocol() == crate::ip::protocol::TCP
            && self.fragment() == Fragment::No
            && self.payload().get(..TCP_HEADER_LEN).is_some_and(|tcp| tcp[13] & SYN != 0)
    }

    /// Whether this is a TCP acknowledgement that carries no data, and neither opens a connection nor ends one.
    #[inline]
    pub fn is_bare_acknowledgement(&self) -> bool {
        const ACK: u8 = 0x10;
        const FIN_SYN_RST_PSH_ACK_URG: u8 = 0x3f;
        self.protocol() == crate::ip::protocol::TCP
            && self.fragment() == Fragment::No
            && self.payload().get(..TCP_HEADER_LEN).is_some_and(|tcp| {
                tcp[13] & FIN_SYN_RST_PSH_ACK_URG == ACK
                    && usize::from(tcp[12] >> 4) * 4 == self.payload().len()
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_packets::Spec;

    const SYN: u8 = 0x02;

    fn syn(ipv6: bool, options: &[u8]) -> Spec {
        let mut spec = Spec::new(ipv6, true, Vec::new());
        spec.flags = SYN;
        spec.tcp_options = options.to_vec();
        spec
    }

    fn offer(mss: u16) -> [u8; 4] {
        let [high, low] = mss.to_be_bytes();
        [2, 4, high, low]
    }

    #[test]
    fn only_an_acknowledgement_alone_is_bare() {
        for ipv6 in [false, true] {
            let is_bare = |tcp: bool, flags: u8, options: &[u8], payload: &[u8]| {
                let mut spec = Spec::new(ipv6, tcp, payload.to_vec());
                spec.flags = flags;
                spec.tcp_options = options.to_vec();
                IpPacket::parse(&spec.build()).unwrap().is_bare_acknowledgement()
            };
            assert!(is_bare(true, 0x10, &[], &[]));
            assert!(is_bare(true, 0x10 | 0x40, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], &[]));
            for flag in [0x01, 0x02, 0x04, 0x08, 0x20] {
                assert!(!is_bare(true, 0x10 | flag, &[], &[]));
            }
            assert!(!is_bare(true, 0, &[], &[]));
            assert!(!is_bare(true, 0x10, &[], &[7]));
            assert!(!is_bare(false, 0x10, &[], &[]));
        }
    }

    #[test]
    fn a_syn_offers_what_fits_and_its_answer_too() {
        for (ipv6, limit, most) in [(false, 1420, 1380), (true, 1420, 1360), (false, 1200, 1160)] {
            for flags in [SYN, SYN | 0x10] {
                let mut spec = syn(ipv6, &offer(1460));
                spec.flags = flags;
                let mut packet = spec.build();
                assert!(clamp_mss(&mut packet, limit));
                spec.tcp_options = offer(most).to_vec();
                assert_eq!(packet, spec.build());
                assert!(!clamp_mss(&mut packet, limit), "once is enough");
            }
        }
    }

    #[test]
    fn what_is_no_syn_or_offers_less_stays() {
        let mut data = syn(false, &offer(1460));
        data.flags = 0x18;
        let mut fragment = syn(false, &offer(1460)).build();
        fragment[6] = 0x20;
        for packet in [
            syn(false, &offer(536)).build(),
            syn(false, &[]).build(),
            data.build(),
            Spec::new(false, false, vec![2; 40]).build(),
            fragment,
        ] {
            let mut clamped = packet.clone();
            assert!(!clamp_mss(&mut clamped, 1200));
            assert_eq!(clamped, packet);
        }
    }

    #[test]
    fn malformed_options_end_the_walk() {
        for options in [
            &[3, 0, 2, 4, 5, 180, 0, 0][..], // a length of zero
            &[3, 1, 2, 4, 5, 180, 0, 0],     // shorter than itself
            &[3, 40, 2, 4, 5, 180, 0, 0],    // beyond the header
            &[0, 2, 4, 5, 180, 0, 0, 0],     // behind the end
            &[1, 1, 1, 2],                   // no room for a length
            &[2, 3, 5, 1],                   // another length than a segment size has
        ] {
            let mut packet = syn(true, options).build();
            assert!(!clamp_mss(&mut packet, 1200), "{options:?}");
            assert_eq!(packet, syn(true, options).build());
        }
    }

    proptest! {
        /// The oracle builds the packet anew with the smaller offer, at every alignment.
        #[test]
        fn a_clamped_packet_equals_one_built_anew(
            ipv6 in any::<bool>(), before in 0..8_usize, mss in any::<u16>(), limit in 100..9000_usize,
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let most = (limit - if ipv6 { 60 } else { 40 }) as u16;
            let build = |mss: u16| {
                let mut options = vec![1; before];
                options.extend(offer(mss));
                options.resize(12, 0);
                let mut spec = syn(ipv6, &options);
                spec.payload = payload.clone();
                spec.build()
            };
            let mut packet = build(mss);
            prop_assert_eq!(clamp_mss(&mut packet, limit), mss > most);
            prop_assert_eq!(packet, build(mss.min(most)));
        }

        #[test]
        fn hostile_packets_are_met_without_a_panic(
            mut packet in prop::collection::vec(any::<u8>(), 0..100), ipv6 in any::<bool>(),
            options in prop::collection::vec(any::<u8>(), 40), words in 0..16_u8, limit in 0..2000_usize,
        ) {
            clamp_mss(&mut packet, limit);
            let mut near = syn(ipv6, &options).build();
            let at = if ipv6 { 40 } else { 20 };
            near[at + 12] = words << 4;
            let before = near.clone();
            clamp_mss(&mut near, limit);
            prop_assert_eq!(&near[..at + 16], &before[..at + 16], "only options and checksum change");
        }
    }
}
