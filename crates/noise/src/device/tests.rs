use super::*;
use crate::clock::UnixTime;
use crate::keys::PrivateKey;
use crate::link::Event;
use crate::test_support::seeded_rng;
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tombolo_packet::{Endpoint, Steering};

fn now(millis: u64) -> Now {
    let time = Duration::from_millis(millis + 1);
    Now { boot: Instant::default() + time, wall: UnixTime(Duration::from_secs(1_790_000_000) + time) }
}

fn endpoint(number: u16) -> Endpoint {
    Endpoint::new(([192, 0, 2, 1], number).into())
}

/// Two devices that know each other, each with its only peer.
fn pair(rng: &mut ChaCha20Rng) -> [(Device, PeerId); 2] {
    let keys = [PrivateKey::generate(rng), PrivateKey::generate(rng)];
    [0, 1].map(|side| {
        let mut device = Device::new();
        device.set_private_key(Some(keys[side].clone()), now(0), rng);
        let id = device.add_peer(keys[1 - side].public()).unwrap();
        device.set_endpoint(id, Some(endpoint(1 - side as u16)), now(0), rng);
        (device, id)
    })
}

/// Carries handshake messages both ways until there are none.
fn exchange(pair: &mut [(Device, PeerId); 2], time: Now, rng: &mut ChaCha20Rng) {
    let mut quiet = false;
    while !quiet {
        quiet = true;
        for from in 0..2 {
            while let Some(output) = pair[from].0.poll_output() {
                if let Output::Datagram { contents, .. } = output {
                    quiet = false;
                    let to = &mut pair[1 - from].0;
                    to.handle_message(&contents, endpoint(from as u16), 0, 1024, time, rng).unwrap();
                }
            }
        }
    }
}

#[test]
fn no_index_is_left_behind_requirement_23() {
    let mut rng = seeded_rng(1);
    let mut pair = pair(&mut rng);
    for round in 0..20 {
        let time = now(round * 6_000);
        let id = pair[0].1;
        pair[0].0.initiate(id, time, &mut rng);
        assert_eq!(pair[0].0.pending.len(), 1);
        exchange(&mut pair, time, &mut rng);
        assert!(pair[0].0.pending.is_empty());
        assert!(pair[0].0.index_table.len() <= 2 && pair[1].0.index_table.len() <= 2);
    }
    for (device, id) in &mut pair {
        device.remove_peer(*id);
        assert!(device.index_table.is_empty() && device.pending.is_empty());
    }
}

#[test]
fn all_sessions_of_a_peer_lead_to_its_socket_requirement_23() {
    let mut rng = seeded_rng(3);
    let mut pair = pair(&mut rng);
    let steering = Steering::new(0x1357_9bdf, std::num::NonZeroU16::new(4).unwrap());
    for (device, _) in &mut pair {
        // The peer of the test gets the fourth slot, and so socket 3.
        for _ in 0..2 {
            device.add_peer(PrivateKey::generate(&mut rng).public()).unwrap();
        }
        let key = *device.link(PeerId(0)).unwrap().public_key();
        device.remove_peer(PeerId(0));
        device.set_steering(steering);
        device.add_peer(PrivateKey::generate(&mut rng).public()).unwrap();
        let id = device.add_peer(key).unwrap();
        assert_eq!(id, PeerId(3));
    }
    for (side, (device, id)) in pair.iter_mut().enumerate() {
        *id = PeerId(3);
        device.set_endpoint(*id, Some(endpoint(1 - side as u16)), now(0), &mut rng);
    }
    let mut indices = BTreeSet::new();
    for round in 0..20 {
        let time = now(round * 6_000);
        let id = pair[(round % 2) as usize].1;
        pair[(round % 2) as usize].0.initiate(id, time, &mut rng);
        exchange(&mut pair, time, &mut rng);
        for (device, id) in &pair {
            let keypairs = &device.peer(*id).unwrap().keypairs;
            for keypair in [&keypairs.previous, &keypairs.current, &keypairs.next].into_iter().flatten() {
                assert_eq!(steering.socket_of(keypair.local_index()), 3);
                indices.insert(keypair.local_index());
            }
        }
    }
    assert!(indices.len() >= 40);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn workers_never_use_a_counter_twice_while_keys_change() {
    let mut rng = seeded_rng(2);
    let mut pair = pair(&mut rng);
    let id = pair[0].1;
    pair[0].0.initiate(id, now(0), &mut rng);
    exchange(&mut pair, now(0), &mut rng);
    let link = Arc::clone(pair[0].0.link(id).unwrap());
    let used = Mutex::new(Vec::new());
    let events = Mutex::new(Vec::<Event>::new());
    let (stop, batches) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut mine = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let reserved = link
                        .sending_keypair(now(0).boot)
                        .and_then(|keypair| keypair.reserve(3).ok().map(|first| (keypair, first)));
                    match reserved {
                        Some((keypair, first)) => {
                            batches.fetch_add(1, Ordering::Relaxed);
                            mine.extend((first..first + 3).map(|counter| (keypair.local_index(), counter)));
                            events.lock().unwrap().extend(link.note_sent(&keypair, now(0).boot, 3, 96, true));
                        }
                        None => events.lock().unwrap().extend(link.want_handshake()),
                    }
                }
                used.lock().unwrap().extend(mine);
            });
        }
        // Also when an assertion fails here, so that the scope ends.
        let _guard = StopOnDrop(&stop);
        for round in 1..=40 {
            // Past the 20 ms between two initiations, and within the life of the keys.
            let time = now(round * 25);
            pair[0].0.expire_all(time, &mut rng);
            for event in std::mem::take(&mut *events.lock().unwrap()) {
                pair[0].0.handle_event(event, time, &mut rng);
            }
            exchange(&mut pair, time, &mut rng);
            let before = batches.load(Ordering::Relaxed);
            while batches.load(Ordering::Relaxed) < before + 10 {
                std::thread::yield_now();
            }
        }
    });
    let used = used.into_inner().unwrap();
    let distinct: BTreeSet<_> = used.iter().collect();
    let keypairs: BTreeSet<u32> = used.iter().map(|used| used.0).collect();
    assert!(keypairs.len() >= 40);
    assert_eq!(distinct.len(), used.len());
}
