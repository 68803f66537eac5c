//! What nobody can avoid: to seal each packet at one end and to open it at the other.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tombolo_noise::aead::AeadKey;
use tombolo_packet::message::TAG_LEN;

use crate::Result;
use crate::statistics::median;

/// Bytes of a packet that fills the overlay's MTU on Ethernet.
const PACKET: usize = 1420;
/// What of it is payload: less the headers of IPv4 and TCP, with timestamps.
const PAYLOAD: usize = PACKET - 20 - 32;
const PACKETS: usize = 2000;
const RUNS: usize = 60;

/// Processor seconds to seal and to open the packets that carry a GB of TCP payload: the median of
/// many runs on one processor.
///
/// # Errors
/// When a packet does not open.
pub fn seconds_per_gigabyte() -> Result<f64> {
    let key = AeadKey::new(&[7; 32]);
    let mut packets = vec![vec![0; PACKET + TAG_LEN]; PACKETS];
    let mut runs = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        runs.push(seal_and_open(&key, &mut packets)?.as_secs_f64());
    }
    let packets_per_gigabyte = 1e9 / PAYLOAD as f64;
    Ok(median(&runs) / PACKETS as f64 * packets_per_gigabyte)
}

/// Processor time of this thread: what others take meanwhile is not in it.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

fn seal_and_open(key: &AeadKey, packets: &mut [Vec<u8>]) -> Result<Duration> {
    let start = thread_time();
    for (counter, message) in packets.iter_mut().enumerate() {
        let (packet, tag) = message.split_at_mut(PACKET);
        key.seal_in_place(counter as u64, packet, tag.try_into()?);
    }
    let mut opened = 0;
    for (counter, message) in packets.iter_mut().enumerate() {
        opened += usize::from(black_box(key.open_in_place(counter as u64, message)).is_ok());
    }
    let duration = thread_time().saturating_sub(start);
    anyhow::ensure!(opened == packets.len(), "{opened} of {} packets opened", packets.len());
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens() {
        let key = AeadKey::new(&[7; 32]);
        let mut packets = vec![vec![1; PACKET + TAG_LEN]; 3];
        assert!(seal_and_open(&key, &mut packets).unwrap() > Duration::ZERO);
        assert!(packets.iter().all(|packet| packet[..PACKET] == [1; PACKET]));
    }
}
