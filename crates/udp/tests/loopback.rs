//! Real sockets on loopback: both families, every combination of offloads, and what the outer
//! header carries.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod support;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_packet::{LocalAddress, Steering};
use tombolo_udp::{
    BindError, BindOptions, Family, RECEIVE_SLOT, SendError, SendOutcome, Socket, Transmit, UdpSocket,
    bind_pair, bind_pairs,
};

use support::{receive, send};

fn steering(sockets: u16) -> Steering {
    Steering::new(0x2545_f491, NonZeroU16::new(sockets).unwrap())
}

fn options(gso: bool, gro: bool) -> BindOptions {
    BindOptions { gso, gro, ..BindOptions::default() }
}

fn loopback(socket: &UdpSocket) -> SocketAddr {
    let address: IpAddr = match socket.family() {
        Family::V4 => "127.0.0.1".parse().unwrap(),
        Family::V6 => "::1".parse().unwrap(),
    };
    SocketAddr::new(address, socket.local_port())
}

/// Payloads of `sizes`, each filled with its number.
fn payloads(sizes: &[usize]) -> Vec<u8> {
    sizes.iter().enumerate().flat_map(|(number, &size)| vec![number as u8; size]).collect()
}

#[test]
fn both_families_share_a_port_and_do_not_mix() {
    let pair = bind_pair(0, &BindOptions::default()).unwrap();
    let v6 = pair.v6.expect("this system has IPv6");
    assert_ne!(pair.v4.local_port(), 0);
    assert_eq!(pair.v4.local_port(), v6.local_port());
    for socket in [&pair.v4, &v6] {
        assert_eq!(send(socket, Transmit::new(loopback(socket), b"own family")).datagrams, 1);
        let all = receive(socket, 1);
        assert_eq!(all[0].1, b"own family");
        assert_eq!(all[0].0.source, loopback(socket));
    }
    let outcome = send(&v6, Transmit::new(loopback(&pair.v4), b"other family"));
    assert_eq!(outcome.failures[0].error, SendError::WrongFamily);
    assert!(v6.reaches("::1".parse().unwrap()) && !v6.reaches("127.0.0.1".parse().unwrap()));
}

#[test]
fn a_port_that_is_taken_in_either_family_is_named() {
    for family in [Family::V4, Family::V6] {
        let holder = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
        let port = holder.local_port();
        match bind_pair(port, &BindOptions::default()) {
            Err(BindError::PortInUse { port: named }) => assert_eq!(named, port),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_port_that_workers_share_is_closed_to_whoever_comes_later() {
    let options = BindOptions::default();
    let bound = bind_pairs(0, &options, steering(3)).unwrap();
    let pairs = &bound.lanes;
    let port = pairs[0].port();
    assert_eq!(pairs.len(), 3);
    for pair in pairs {
        assert_eq!((pair.v4.local_port(), pair.v6.as_ref().unwrap().local_port()), (port, port));
    }
    for result in [bind_pairs(port, &options, steering(3)), bind_pairs(port, &options, steering(1))] {
        assert!(matches!(result, Err(BindError::PortInUse { port: named }) if named == port));
    }
    drop(bound);
    let alone = bind_pair(port, &options).unwrap();
    assert!(matches!(bind_pairs(port, &options, steering(3)), Err(BindError::PortInUse { .. })));
    drop(alone);
    assert!(bind_pairs(port, &options, steering(3)).is_ok());
}

#[test]
fn the_kernel_steers_as_we_compute_and_brings_handshakes_to_a_socket_of_their_own() {
    for count in [1, 2, 5] {
        let steering = steering(count);
        let bound = bind_pairs(0, &BindOptions::default(), steering).unwrap();
        let pairs = &bound.lanes;
        assert_eq!(bound.handshakes.len(), 2);
        for (family, handshakes) in [Family::V4, Family::V6].into_iter().zip(&bound.handshakes) {
            assert_eq!(handshakes.family(), family);
            let sender = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
            let sockets: Vec<&UdpSocket> = pairs
                .iter()
                .map(|pair| if family == Family::V4 { &pair.v4 } else { pair.v6.as_ref().unwrap() })
                .collect();
            let target = loopback(sockets[0]);
            let mut expected = vec![0; usize::from(count)];
            for number in 0..100_u32 {
                let index = number.wrapping_mul(0x9e37_79b9);
                let mut message = [0; 32];
                message[0] = 4;
                message[4..8].copy_from_slice(&index.to_le_bytes());
                assert_eq!(send(&sender, Transmit::new(target, &message)).datagrams, 1);
                expected[usize::from(steering.socket_of(index))] += 1;
            }
            for (socket, expected) in sockets.iter().zip(expected) {
                assert!(expected > 0);
                for (_, message) in receive(*socket, expected) {
                    let index = u32::from_le_bytes(message[4..8].try_into().unwrap());
                    assert_eq!(
                        sockets[usize::from(steering.socket_of(index))].fd().as_raw_fd(),
                        socket.fd().as_raw_fd()
                    );
                }
            }
            let others =
                [&[1, 0, 0, 0, 7, 7, 7, 7][..], &[2, 0, 0, 0], &[3, 0, 0, 0], &[4, 0, 0, 1], &[0; 148]];
            for contents in others {
                assert_eq!(send(&sender, Transmit::new(target, contents)).datagrams, 1);
            }
            let received = receive(handshakes, others.len());
            assert!(received.iter().map(|(_, message)| &message[..]).eq(others));
            // What is shorter than any message comes to the first: the program ends where there is nothing to read.
            for contents in [&[4][..], &[4, 0, 0, 0]] {
                assert_eq!(send(&sender, Transmit::new(target, contents)).datagrams, 1);
            }
            assert_eq!(receive(sockets[0], 2).len(), 2);
        }
    }
}

/// The same datagrams arrive with all offloads on, each off, and all off.
#[test]
fn offloads_change_nothing_but_the_speed() {
    let sizes = [1_usize, 64, 148, 1000, 1452, 8000];
    for family in [Family::V4, Family::V6] {
        let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
        for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let sender = UdpSocket::bind(family, 0, &options(gso, gro)).unwrap();
            let receiver = UdpSocket::bind(family, 0, &options(gso, gro)).unwrap();
            assert_eq!((sender.capabilities().gso, receiver.capabilities().gro), (gso, gro));
            let mut arrived = Vec::new();
            for size in sizes {
                // Full segments and a short one; exactly full; a single short one.
                for len in [size * 5 + size / 2, size * 7, size.div_ceil(2)] {
                    let contents: Vec<u8> = (0..len).map(|index| (index % 253) as u8).collect();
                    let transmit = Transmit {
                        segment_size: NonZeroU16::new(size as u16),
                        traffic_class: 0x02,
                        ..Transmit::new(loopback(&receiver), &contents)
                    };
                    let outcome = send(&sender, transmit);
                    assert!(outcome.failures.is_empty(), "{size} {len} {gso} {gro}: {outcome:?}");
                    assert_eq!(outcome.datagrams as usize, transmit.datagrams());
                    for (read, datagram) in receive(&receiver, transmit.datagrams()) {
                        assert_eq!((read.source, read.traffic_class), (loopback(&sender), 0x02));
                        arrived.push(datagram);
                    }
                }
            }
            seen.push(arrived);
            assert_eq!(sender.counters().gso_demotions, 0);
        }
        assert!(seen.iter().all(|arrived| *arrived == seen[0]));
    }
}

#[test]
fn more_segments_than_one_super_datagram_holds_are_sent_as_several() {
    for gso in [true, false] {
        let sender = UdpSocket::bind(Family::V4, 0, &options(gso, true)).unwrap();
        let receiver = UdpSocket::bind(Family::V4, 0, &options(gso, true)).unwrap();
        let contents = payloads(&[96; 250]);
        let segment_size = NonZeroU16::new(96);
        let transmit = Transmit { segment_size, ..Transmit::new(loopback(&receiver), &contents) };
        assert_eq!(send(&sender, transmit).datagrams, 250);
        let arrived: Vec<u8> = receive(&receiver, 250).into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(arrived, contents);
    }
}

#[test]
fn segmentation_and_coalescing_really_take_place() {
    let sender = UdpSocket::bind(Family::V4, 0, &options(true, true)).unwrap();
    let receiver = UdpSocket::bind(Family::V4, 0, &options(true, true)).unwrap();
    let contents = payloads(&[1000, 1000, 1000, 300]);
    let segment_size = NonZeroU16::new(1000);
    send(&sender, Transmit { segment_size, ..Transmit::new(loopback(&receiver), &contents) });
    let all = receive(&receiver, 4);
    // Loopback carries the super-datagram whole, so it is one read, with the stride and the short end.
    assert!(all.iter().all(|(read, _)| (read.stride, read.len) == (1000, 3300)), "{all:?}");
    assert_eq!(all.iter().map(|(_, datagram)| datagram.len()).collect::<Vec<_>>(), [1000, 1000, 1000, 300]);
}

#[test]
fn the_traffic_class_goes_there_and_back_requirement_21() {
    for family in [Family::V4, Family::V6] {
        let sender = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
        let receiver = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
        for traffic_class in [0x00, 0x01, 0x02, 0x03, 0x88, 0x8b, 0xfc, 0xff] {
            let transmit = Transmit { traffic_class, ..Transmit::new(loopback(&receiver), b"marked") };
            assert!(send(&sender, transmit).failures.is_empty());
            assert_eq!(receive(&receiver, 1)[0].0.traffic_class, traffic_class, "{family:?}");
        }
    }
}

#[test]
fn a_sticky_source_is_sent_from_and_a_reply_finds_the_address_that_was_asked_requirement_20() {
    let east = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let west = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    // All of 127/8 is ours. Asked at .5, the answer comes from .5.
    let asked = SocketAddr::new("127.0.0.5".parse().unwrap(), west.local_port());
    send(&east, Transmit::new(asked, b"question"));
    let (question, _) = receive(&west, 1)[0].clone();
    assert_eq!(question.local.map(|local| local.address), Some(asked.ip()));
    let endpoint = question.endpoint();
    let answer = Transmit { source: endpoint.local, ..Transmit::new(endpoint.remote, b"answer") };
    assert!(send(&west, answer).stale_sources.is_empty());
    assert_eq!(receive(&east, 1)[0].0.source, asked);
}

#[test]
fn a_source_that_is_gone_is_left_out_and_named_requirement_20() {
    for (family, gone) in [(Family::V4, "192.0.2.200"), (Family::V6, "2001:db8::200")] {
        let sender = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
        let receiver = UdpSocket::bind(family, 0, &BindOptions::default()).unwrap();
        let source = Some(LocalAddress { address: gone.parse().unwrap(), interface: 0 });
        let contents = payloads(&[500, 500, 20]);
        let segment_size = NonZeroU16::new(500);
        let transmit = Transmit { source, segment_size, ..Transmit::new(loopback(&receiver), &contents) };
        let outcome = send(&sender, transmit);
        assert_eq!((outcome.datagrams, outcome.stale_sources.as_slice()), (3, &[0][..]));
        assert_eq!(receive(&receiver, 3).len(), 3);
        assert!(sender.capabilities().gso, "segmentation was not to blame");
    }
}

#[test]
fn a_closed_port_at_the_other_end_disturbs_neither_direction() {
    let socket = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let closed = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let nobody = loopback(&closed);
    drop(closed);
    for _ in 0..10 {
        assert!(send(&socket, Transmit::new(nobody, b"anyone?")).failures.is_empty());
    }
    let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
    assert_eq!(socket.receive(&mut arena, &mut received).unwrap(), 0);
    assert_eq!(send(&socket, Transmit::new(loopback(&socket), b"self")).datagrams, 1);
    assert_eq!(receive(&socket, 1)[0].1, b"self");
}

#[test]
fn the_largest_datagram_passes_and_a_larger_one_is_too_big() {
    let socket = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let contents = vec![7; tombolo_udp::MAX_DATAGRAM + 1];
    let largest = Transmit::new(loopback(&socket), &contents[..tombolo_udp::MAX_DATAGRAM]);
    assert_eq!(send(&socket, largest).datagrams, 1);
    assert_eq!(receive(&socket, 1)[0].1, largest.contents);
    let outcome = send(&socket, Transmit::new(loopback(&socket), &contents));
    assert_eq!(outcome.failures[0].error, SendError::TooBig);
}

#[test]
fn empty_datagrams_arrive_as_such() {
    for gro in [true, false] {
        let socket = UdpSocket::bind(Family::V4, 0, &options(true, gro)).unwrap();
        assert_eq!(send(&socket, Transmit::new(loopback(&socket), b"")).datagrams, 1);
        let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
        let mut fds = [PollFd::from_borrowed_fd(socket.fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap(), 1);
        assert_eq!(socket.receive(&mut arena, &mut received).unwrap(), 1);
        assert_eq!((received[0].len, received[0].stride), (0, 1));
    }
}

#[test]
fn an_arena_without_room_for_one_read_is_refused() {
    let socket = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let error = socket.receive(&mut [0; 100], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn two_batches_on_one_socket_from_two_threads_lose_nothing() {
    let sender = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let receiver = UdpSocket::bind(Family::V4, 0, &BindOptions::default()).unwrap();
    let contents = payloads(&[200; 20]);
    let transmit =
        Transmit { segment_size: NonZeroU16::new(200), ..Transmit::new(loopback(&receiver), &contents) };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut outcome = SendOutcome::default();
                sender.send(&[transmit; 5], &mut outcome);
                assert_eq!(outcome.datagrams, 100);
            });
        }
    });
    assert_eq!(receive(&receiver, 200).len(), 200);
}
