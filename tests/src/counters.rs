//! In which order the messages of a session are on a wire.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::ensure;

use crate::{Result, capture::Capture, namespace::Namespace};

/// Lengths of the headers of Ethernet and UDP, and of a transport message.
const ETHERNET: usize = 14;
const UDP: usize = 8;
const MESSAGE: usize = 16;

/// A running capture that follows the counters of transport messages.
#[derive(Debug)]
pub struct Counters {
    capture: Capture,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen of the counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Transport messages, those in super-datagrams counted one by one.
    pub messages: u64,
    /// Those whose counter was not greater than that of one before, of the same session.
    pub late: u64,
    /// The last counter of each receiver index.
    last: BTreeMap<u32, u64>,
}

impl Seen {
    /// Takes a packet with its Ethernet header, IPv4 and UDP. The kernel shows super-datagrams whole: then messages lie one behind
    /// the other, and where the next one begins is told by its first 16 bytes, which follow from those of the one before.
    fn look(&mut self, packet: &[u8]) {
        let ip_header = packet.get(ETHERNET).map_or(0, |first| usize::from(first & 15) * 4);
        let Some(mut rest) = packet.get(ETHERNET + ip_header + UDP..) else { return };
        while let Some((header, body)) = rest.split_first_chunk::<MESSAGE>() {
            let [4, 0, 0, 0, index @ .., _, _, _, _, _, _, _, _] = *header else { return };
            let [.., a, b, c, d, e, f, g, h] = *header;
            let counter = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            self.messages += 1;
            let last = self.last.insert(u32::from_le_bytes(index), counter);
            self.late += u64::from(last.is_some_and(|last| counter <= last));
            let mut next = *header;
            next[8..].copy_from_slice(&(counter + 1).to_le_bytes());
            let Some(at) = memchr::memmem::find(body, &next) else { return };
            rest = &body[at..];
        }
    }
}

impl Counters {
    /// Follows what leaves the address `from` by `link`.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn start(namespace: &Namespace, link: &str, from: std::net::Ipv4Addr) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let capture =
            Capture::start_each(namespace, link, &format!("udp and src host {from}"), move |packet| {
                shared.lock().unwrap_or_else(PoisonError::into_inner).look(packet);
            })?;
        Ok(Self { capture, seen })
    }

    /// Waits until so many messages were seen, and ends.
    ///
    /// # Errors
    /// When they do not come within `limit`.
    pub fn stop(self, messages: u64, limit: Duration) -> Result<Seen> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        crate::wait::wait_until(&format!("{messages} captured messages"), limit, || {
            seen().messages >= messages
        })?;
        let seen = seen();
        ensure!(self.capture.stop()?.packets > 0, "nothing was captured");
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(messages: &[(u32, u64, usize)]) -> Vec<u8> {
        let mut packet = vec![0; ETHERNET];
        packet.push(0x45);
        packet.resize(ETHERNET + 20 + UDP, 0);
        for (index, counter, len) in messages {
            packet.extend([4, 0, 0, 0]);
            packet.extend(index.to_le_bytes());
            packet.extend(counter.to_le_bytes());
            packet.resize(packet.len() + len, 0xa5);
        }
        packet
    }

    #[test]
    fn messages_are_counted_and_those_that_come_late() {
        let mut seen = Seen::default();
        seen.look(&packet(&[(1, 7, 100), (1, 8, 100), (1, 9, 50)]));
        assert_eq!((seen.messages, seen.late), (3, 0));
        seen.look(&packet(&[(2, 0, 64)]));
        seen.look(&packet(&[(1, 12, 64)]));
        assert_eq!((seen.messages, seen.late), (5, 0));
        seen.look(&packet(&[(1, 10, 64), (1, 11, 64)]));
        assert_eq!((seen.messages, seen.late), (7, 1));
        seen.look(&packet(&[(1, 11, 64)]));
        assert_eq!((seen.messages, seen.late), (8, 2));
        for len in 0..60 {
            seen.look(&vec![0x45; len]);
        }
        assert_eq!(seen.messages, 8);
    }
}
