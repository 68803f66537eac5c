use super::*;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn readable(socket: &MemorySocket) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

fn drain(socket: &MemorySocket) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut arena, mut received) = (vec![0; 2 * RECEIVE_SLOT], Vec::new());
    let mut all = Vec::new();
    while socket.receive(&mut arena, &mut received).unwrap() > 0 {
        for read in &received {
            all.extend(read.segments(&arena).map(|segment| (read.source, segment.to_vec())));
        }
    }
    all
}

fn numbered(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_be_bytes).collect()
}

fn send_numbered(from: &MemorySocket, to: &str, count: u32) -> SendOutcome {
    let contents = numbered(count);
    let segment_size = std::num::NonZeroU16::new(4);
    let transmit = Transmit { segment_size, ..Transmit::new(to.parse().unwrap(), &contents) };
    let mut outcome = SendOutcome::default();
    from.send(&[transmit], &mut outcome);
    outcome
}

#[test]
fn datagrams_arrive_in_order_and_the_event_follows_the_queue() {
    let network = MemoryNetwork::new(1);
    let (east, west) = (
        network.socket(&["10.0.0.1".parse().unwrap()], 1),
        network.socket(&["10.0.0.2".parse().unwrap()], 2),
    );
    assert!(!readable(&west));
    assert_eq!(send_numbered(&east, "10.0.0.2:2", 300).datagrams, 300);
    assert!(readable(&west));
    let all = drain(&west);
    assert!(!readable(&west));
    assert!(all.iter().all(|(source, _)| *source == "10.0.0.1:1".parse().unwrap()));
    assert_eq!(all.concat_contents(), numbered(300));
}

trait Contents {
    fn concat_contents(&self) -> Vec<u8>;
}

impl Contents for Vec<(SocketAddr, Vec<u8>)> {
    fn concat_contents(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, contents)| contents.clone()).collect()
    }
}

#[test]
fn the_same_seed_brings_the_same_faults() {
    let run = |seed| {
        let network = MemoryNetwork::new(seed);
        let east = network.socket(&["10.0.0.1".parse().unwrap()], 1);
        let west = network.socket(&["10.0.0.2".parse().unwrap()], 2);
        network.set_faults(Faults {
            loss_per_mille: 100,
            duplication_per_mille: 50,
            reordering_per_mille: 200,
            ..Faults::default()
        });
        send_numbered(&east, "10.0.0.2:2", 1000);
        (drain(&west).concat_contents(), network.lost())
    };
    assert_eq!(run(5), run(5));
    let (contents, lost) = run(5);
    assert_ne!(run(6).0, contents);
    assert!((50..200).contains(&lost), "{lost}");
    let order: Vec<u32> =
        contents.chunks(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())).collect();
    assert!(!order.is_sorted());
    let mut distinct = order.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len() as u64, 1000 - lost);
    assert!(order.len() > distinct.len(), "nothing was duplicated");
}

#[test]
fn a_host_that_moved_is_found_at_its_new_address_and_forgets_its_old_source() {
    let network = MemoryNetwork::new(1);
    let east = network.socket(&["10.0.0.1".parse().unwrap()], 1);
    let west = network.socket(&["10.0.0.2".parse().unwrap()], 2);
    west.move_to(&["10.0.9.9".parse().unwrap()], 7);
    send_numbered(&east, "10.0.0.2:2", 1);
    assert_eq!(drain(&west), []);
    assert_eq!(network.lost(), 1);

    let old = LocalAddress { address: "10.0.0.2".parse().unwrap(), interface: 0 };
    let transmit = Transmit { source: Some(old), ..Transmit::new("10.0.0.1:1".parse().unwrap(), b"x") };
    let mut outcome = SendOutcome::default();
    west.send(&[transmit], &mut outcome);
    assert_eq!((outcome.stale_sources.as_slice(), outcome.datagrams), (&[0][..], 1));
    assert_eq!(drain(&east), [("10.0.9.9:7".parse().unwrap(), b"x".to_vec())]);
}

#[test]
fn a_family_without_an_address_cannot_be_sent_from() {
    let network = MemoryNetwork::new(1);
    let east = network.socket(&["10.0.0.1".parse().unwrap()], 1);
    let outcome = send_numbered(&east, "[2001:db8::1]:1", 3);
    assert_eq!(
        outcome.failures,
        [SendFailure { index: 0, datagrams: 3, error: SendError::System(libc::ENETUNREACH) }]
    );
}

#[test]
fn without_coalescing_each_datagram_arrives_by_itself() {
    let network = MemoryNetwork::new(1);
    let east = network.socket(&["10.0.0.1".parse().unwrap()], 1);
    let west = network.socket(&["10.0.0.2".parse().unwrap()], 2);
    let (mut arena, mut received) = (vec![0; 4 * RECEIVE_SLOT], Vec::new());
    for (gro, reads) in [(true, 1), (false, 3)] {
        west.set_offloads(true, gro);
        send_numbered(&east, "10.0.0.2:2", 3);
        assert_eq!(west.receive(&mut arena, &mut received).unwrap(), reads);
    }
}

#[test]
fn what_is_too_large_for_the_path_passes_in_fragments_or_not_at_all() {
    let network = MemoryNetwork::new(1);
    let east = network.socket(&["192.0.2.1".parse().unwrap()], 1);
    let west = network.socket(&["192.0.2.2".parse().unwrap()], 2);
    let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
    for (len, drops_fragments, whole, passes) in [
        (1252, true, true, true),
        (1252, true, false, true),
        (1253, false, true, false),
        (1253, false, false, true),
        (1253, true, false, false),
    ] {
        network.set_faults(Faults { path_mtu: 1280, drops_fragments, ..Faults::default() });
        let contents = vec![7; len];
        let transmit = Transmit::new("192.0.2.2:2".parse().unwrap(), &contents);
        if whole {
            east.send_unfragmented(&transmit).unwrap();
        } else {
            east.send(&[transmit], &mut SendOutcome::default());
        }
        let count = west.receive(&mut arena, &mut received).unwrap();
        assert_eq!(count == 1, passes, "{len} {drops_fragments} {whole}");
    }
}
