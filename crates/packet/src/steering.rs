//! Which of several sockets of one port a datagram is for.

use std::num::NonZeroU16;

/// Spreads transport messages over the sockets of one port, by their receiver index: all messages of a
/// session, and with indices that were chosen to fit all sessions of a peer, go to one socket. What one worker reads
/// stays in order.
///
/// It is a hint, computed by the kernel for each datagram in a classic BPF program: what comes to another
/// socket all the same is as good.
///
/// ```
/// use std::num::NonZeroU16;
/// use tombolo_packet::Steering;
///
/// let steering = Steering::new(0x5bd1_e995, NonZeroU16::new(4).ok_or("none")?);
/// assert!(steering.socket_of(0x1234_5678) < 4);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    multiplier: u32,
    sockets: NonZeroU16,
}

impl Steering {
    /// `secret` keeps those who see indices on the wire from telling which peer one belongs to.
    pub fn new(secret: u32, sockets: NonZeroU16) -> Self {
        // An even number would lose bits of the index.
        Self { multiplier: secret | 1, sockets }
    }

    /// The number of sockets.
    pub fn sockets(&self) -> u16 {
        self.sockets.get()
    }

    /// An odd number: see [`socket_of`](Self::socket_of).
    pub fn multiplier(&self) -> u32 {
        self.multiplier
    }

    /// The socket of a receiver index: its bytes on the wire, read in network order as the kernel's program
    /// does, times the multiplier; the upper half of that, modulo the number of sockets.
    pub fn socket_of(&self, receiver_index: u32) -> u16 {
        let mixed = receiver_index.swap_bytes().wrapping_mul(self.multiplier) >> 16;
        // Less than the number of sockets.
        (mixed % u32::from(self.sockets.get())) as u16
    }

    /// The socket for all that comes from the peer of this number.
    pub fn socket_of_peer(&self, peer: u32) -> u16 {
        (peer % u32::from(self.sockets.get())) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_spread_evenly_whatever_the_secret() {
        for secret in [0, 1, 0x8000_0000, 0x9e37_79b9, u32::MAX] {
            for sockets in [1, 2, 3, 7, 32] {
                let steering = Steering::new(secret, NonZeroU16::new(sockets).unwrap());
                let mut hits = vec![0_u32; usize::from(sockets)];
                let mut index = 1_u32;
                for _ in 0..32_000 {
                    // Marsaglia's xorshift (Journal of Statistical Software 8/14, 2003).
                    index ^= index << 13;
                    index ^= index >> 17;
                    index ^= index << 5;
                    hits[usize::from(steering.socket_of(index))] += 1;
                }
                let fair = 32_000 / u32::from(sockets);
                assert!(hits.iter().all(|hits| (fair * 3 / 4..=fair * 5 / 4).contains(hits)), "{hits:?}");
            }
        }
    }
}
