//! Seal and open, with the bulk AEAD.

use std::hint::black_box;

use tombolo_noise::aead::AeadKey;
use tombolo_packet::message::TAG_LEN;

use super::timing::{sample, time};
use super::{PACKET, Report};
use crate::Result;

const RUNS: usize = 20;
const PACKETS: usize = 2000;

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    let key = AeadKey::new(&[7; 32]);
    for (length, variant) in [(PACKET, "1420 bytes"), (64, "64 bytes")] {
        let mut sealed = vec![vec![0; length + TAG_LEN]; PACKETS];
        let seal_all = |sealed: &mut Vec<Vec<u8>>| {
            for (counter, message) in sealed.iter_mut().enumerate() {
                let (packet, tag) = message.split_at_mut(length);
                if let Ok(tag) = <&mut [u8; TAG_LEN]>::try_from(tag) {
                    key.seal_in_place(counter as u64, packet, tag);
                }
            }
        };
        report(sample("seal", variant, RUNS, || Ok((time(|| seal_all(&mut sealed)).0, PACKETS)))?);
        report(sample("open", variant, RUNS, || {
            sealed.iter_mut().for_each(|message| message.fill(0));
            seal_all(&mut sealed);
            let (duration, opened) = time(|| {
                let open = |(counter, message): (usize, &mut Vec<u8>)| {
                    black_box(key.open_in_place(counter as u64, message)).is_ok()
                };
                sealed.iter_mut().enumerate().map(open).filter(|&opened| opened).count()
            });
            Ok((duration, opened))
        })?);
    }
    Ok(())
}
