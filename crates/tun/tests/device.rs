//! The device against the real kernel.
//!
//! ```text
//!   namespace west                                  namespace east
//!   kernel TCP ── tun (10.66.0.1) ── this test ── tun (10.66.0.2) ── kernel TCP
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{Namespace, PATIENCE, root, wait_readable};
use tombolo_packet::{GsoType, Offload, OffloadState, VnetHeader, checksum};
use tombolo_tun::netlink::{LinkState, Netlink, Watch};
use tombolo_tun::{
    Device, DeviceError, DeviceOptions, Fault, InterfacePlan, OffloadSwitches, Offloads, Place, Queue, Reads,
};

const NAME: &str = "tombolo0";

fn persistent() -> DeviceOptions {
    DeviceOptions { persistent: true, ..DeviceOptions::new(NAME) }
}

fn plain() -> DeviceOptions {
    DeviceOptions {
        offloads: OffloadSwitches { vnet_header: false, ..OffloadSwitches::default() },
        ..DeviceOptions::new(NAME)
    }
}

fn plan(address: &str) -> InterfacePlan {
    InterfacePlan::new(NAME, vec![address.parse().unwrap()], 1420, vec!["10.66.0.0/16".parse().unwrap()])
}

/// Opens the device that this process has closed. A program that another test is about to start holds a
/// copy of the descriptor from its fork to its exec.
fn reopen(options: &DeviceOptions) -> Device {
    let mut tries = 0;
    loop {
        match Device::open(options) {
            Err(DeviceError::Busy { .. }) if tries < 1000 => tries += 1,
            other => return other.unwrap(),
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_persistent_interface_keeps_its_address_and_bound_sockets_over_a_restart() {
    if !root("a_persistent_interface_keeps_its_address") {
        return;
    }
    let namespace = Namespace::new("persist");
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let device = Device::open(&persistent()).unwrap();
        let offloads = device.offloads();
        plan("10.66.0.1/16").apply(&mut netlink).unwrap();
        let socket = UdpSocket::bind("10.66.0.1:5432").unwrap();
        drop(device);
        let link = netlink.link_by_name(NAME).unwrap().expect("the interface stays");
        assert!(link.up && link.tun.is_some_and(|mode| mode.persistent));
        // Nothing was there to be put right but what the missing reader changes by itself.
        let device = reopen(&persistent());
        assert_eq!(device.index(), link.index);
        assert_eq!(device.offloads(), offloads, "the interface was up when they were probed");
        assert_eq!(plan("10.66.0.1/16").apply(&mut netlink).unwrap().changes, []);
        socket.send_to(b"still bound", "10.66.0.9:9").unwrap();
        let packet = read_until(&device, |packet| packet.ends_with(b"still bound"));
        assert_eq!(packet[12..16], [10, 66, 0, 1]);
        device.set_persistent(false).unwrap();
        drop(device);
        assert_eq!(netlink.link_by_name(NAME).unwrap(), None);
    });
}

#[test]
fn two_daemons_cannot_hold_one_interface() {
    if !root("two_daemons_cannot_hold_one_interface") {
        return;
    }
    for queues in [1, 2] {
        let namespace = Namespace::new("busy");
        namespace.enter(|| {
            let options = DeviceOptions { queues, ..DeviceOptions::new(NAME) };
            let first = Device::open(&options).unwrap();
            assert_eq!(first.queues().len(), queues);
            let error = Device::open(&options).err().unwrap();
            assert!(matches!(error, DeviceError::Busy { .. }), "{error}");
            assert!(error.to_string().contains(NAME));
            // The refused one took nothing away.
            assert_eq!(first.place().unwrap(), Place::Here);
        });
    }
}

#[test]
fn a_name_that_is_taken_is_told_apart_by_what_took_it() {
    if !root("a_name_that_is_taken_is_told_apart") {
        return;
    }
    let namespace = Namespace::new("taken");
    namespace.run("ip link add veth9 type veth peer name veth8");
    namespace.run("ip tuntap add mode tap name tap9");
    namespace.enter(|| {
        let error = Device::open(&DeviceOptions::new("veth9")).err().unwrap();
        assert!(matches!(error, DeviceError::NameTaken { .. }), "{error}");
        let error = Device::open(&DeviceOptions::new("tap9")).err().unwrap();
        assert!(matches!(error, DeviceError::OtherMode { .. }), "{error}");
    });
}

#[test]
fn a_persistent_interface_keeps_its_queue_mode() {
    if !root("a_persistent_interface_keeps_its_queue_mode") {
        return;
    }
    let namespace = Namespace::new("mode");
    namespace.enter(|| {
        drop(Device::open(&persistent()).unwrap());
        let device = reopen(&DeviceOptions { queues: 4, ..persistent() });
        assert_eq!(device.queues().len(), 1, "made with one queue");
        device.set_persistent(false).unwrap();
        drop(device);
        drop(reopen(&DeviceOptions { queues: 4, ..persistent() }));
        let device = reopen(&persistent());
        assert_eq!(device.queues().len(), 1, "asked for one queue");
        device.set_persistent(false).unwrap();
    });
}

#[test]
fn without_privileges_the_error_names_the_capability() {
    if !root("without_privileges_the_error_names_the_capability") {
        return;
    }
    let namespace = Namespace::new("privileges");
    namespace.enter(|| {
        // Of this thread alone.
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        sets.permitted = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        let error = Device::open(&DeviceOptions::new(NAME)).err().unwrap();
        assert!(matches!(error, DeviceError::NotPermitted { .. }), "{error}");
        let mut netlink = Netlink::open().unwrap();
        let error = plan("10.66.0.1/16").apply(&mut netlink).unwrap_err();
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn the_reader_learns_that_its_interface_was_deleted() {
    if !root("the_reader_learns_that_its_interface_was_deleted") {
        return;
    }
    for options in [persistent(), plain()] {
        let namespace = Namespace::new("deleted");
        namespace.enter(|| {
            let device = Device::open(&options).unwrap();
            let queue = &device.queues()[0];
            let mut watch = Watch::open(NAME, tombolo_tun::table_for(NAME)).unwrap();
            assert_eq!(watch.link_state(), LinkState::Down);
            assert!(Netlink::open().unwrap().delete_link(NAME).unwrap());
            assert!(wait_readable(queue.fd(), PATIENCE), "the descriptor must wake its reader");
            let error = queue.read(&mut vec![0; 65_535]).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Gone, "{error}");
            assert_eq!(device.place().unwrap(), Place::Gone);
            assert!(wait_readable(watch.fd(), PATIENCE));
            assert!(watch.read_changes().unwrap().links);
            assert_eq!(watch.link_state(), LinkState::Missing);
        });
    }
}

#[test]
fn the_queues_keep_working_when_the_interface_moves_to_another_namespace() {
    if !root("the_queues_keep_working_when_the_interface_moves") {
        return;
    }
    let (here, there) = (Namespace::new("here"), Namespace::new("there"));
    here.enter(|| {
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let mut watch = Watch::open(NAME, tombolo_tun::table_for(NAME)).unwrap();
        assert_eq!(device.place().unwrap(), Place::Here);
        here.run(&format!("ip link set {NAME} netns {}", there.name));
        assert!(wait_readable(watch.fd(), PATIENCE));
        watch.read_changes().unwrap();
        assert_eq!(watch.link_state(), LinkState::Missing);
        assert_eq!(device.place().unwrap(), Place::Elsewhere);
        there.run(&format!("ip addr add 10.66.0.1/16 dev {NAME}"));
        there.run(&format!("ip link set {NAME} up"));
        there.enter(|| {
            let socket = UdpSocket::bind("10.66.0.1:0").unwrap();
            socket.send_to(b"from afar", "10.66.0.2:9").unwrap();
        });
        read_until(&device, |packet| packet.ends_with(b"from afar"));
    });
}

#[test]
fn a_descriptor_is_taken_over_with_the_offloads_it_has() {
    if !root("a_descriptor_is_taken_over") {
        return;
    }
    let namespace = Namespace::new("inherit");
    namespace.enter(|| {
        for (options, vnet_header) in [(DeviceOptions::new(NAME), true), (plain(), false)] {
            let device = reopen(&options);
            let fd = device.queues()[0].fd().try_clone_to_owned().unwrap();
            drop(device);
            let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
            let device = Device::from_inherited(number, OffloadSwitches::default()).unwrap();
            assert_eq!(device.name(), NAME);
            assert_eq!(device.offloads().vnet_header, vnet_header);
            assert_eq!(device.offloads().tso4, vnet_header);
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Device::from_fd(file.into(), OffloadSwitches::default()).err().unwrap();
        assert!(matches!(error, DeviceError::NotATun { .. }), "{error}");
        let error = Device::from_inherited(-1, OffloadSwitches::default()).err().unwrap();
        assert!(matches!(error, DeviceError::NotATun { fd: -1 }), "{error}");
    });
}

#[test]
fn each_offload_can_be_switched_off() {
    if !root("each_offload_can_be_switched_off") {
        return;
    }
    let namespace = Namespace::new("switches");
    namespace.enter(|| {
        let open = |offloads| {
            let device = reopen(&DeviceOptions { offloads, ..DeviceOptions::new(NAME) });
            let off: Vec<Offload> = device.queues()[0]
                .offload_states()
                .into_iter()
                .filter(|(_, state)| *state == OffloadState::SwitchedOff)
                .map(|(offload, _)| offload)
                .collect();
            (device.offloads(), off)
        };
        let switches = OffloadSwitches::default();
        let (all, off) = open(switches);
        assert!(all.vnet_header && all.checksum && all.tso4 && all.tso6 && all.write_tcp);
        assert_eq!(off, []);

        let no_tso = Offloads { tso4: false, tso6: false, tso_ecn: false, ..all };
        let no_checksum = Offloads { checksum: false, uso: false, ..no_tso };
        let everything = Offload::ALL[..6].to_vec();
        for (switches, offloads, off) in [
            (OffloadSwitches { tso: false, ..switches }, no_tso, vec![Offload::Tso]),
            (OffloadSwitches { uso: false, ..switches }, Offloads { uso: false, ..all }, vec![Offload::Uso]),
            (
                OffloadSwitches { checksum: false, ..switches },
                no_checksum,
                vec![Offload::Checksum, Offload::Tso, Offload::Uso],
            ),
            (
                OffloadSwitches { coalesce_tcp: false, ..switches },
                Offloads { write_tcp: false, ..all },
                vec![Offload::CoalesceTcp],
            ),
            (
                OffloadSwitches { coalesce_udp: false, ..switches },
                Offloads { write_udp: false, ..all },
                vec![Offload::CoalesceUdp],
            ),
            (OffloadSwitches { vnet_header: false, ..switches }, Offloads::NONE, everything.clone()),
            (OffloadSwitches::all(false), Offloads::NONE, everything),
        ] {
            assert_eq!(open(switches), (offloads, off), "{switches:?}");
        }
    });
}

#[test]
fn kernel_tcp_sends_super_packets_through_two_devices_and_receives_them() {
    if !root("kernel_tcp_sends_super_packets") {
        return;
    }
    let seen = transfer(&DeviceOptions::new(NAME));
    assert!(seen.super_packets > 0, "no TSO super-packet was read");
    assert!(seen.largest <= 60_000, "gso_max_size is not heeded: {}", seen.largest);
}

/// What the kernel hands over of four datagrams that a program sent by one call: segmentation, and whether a checksum is missing.
fn headers_of_four_datagrams(device: &Device) -> Vec<(GsoType, bool)> {
    let socket = UdpSocket::bind("10.66.0.1:0").unwrap();
    setsockopt(&socket, sockopt::UdpGsoSegment, &500).unwrap();
    socket.send_to(&[7; 2000], "10.66.0.2:9").unwrap();
    setsockopt(&socket, sockopt::UdpGsoSegment, &0).unwrap();
    socket.send_to(b"end", "10.66.0.2:9").unwrap();
    let (mut headers, mut buffer) = (Vec::new(), vec![0; tombolo_tun::MAX_PACKET]);
    loop {
        assert!(wait_readable(device.queues()[0].fd(), PATIENCE), "nothing comes");
        let Some((header, len)) = device.queues()[0].read(&mut buffer).unwrap() else { continue };
        let packet = &buffer[..len];
        if packet.ends_with(b"end") {
            return headers;
        }
        if packet[0] >> 4 == 4 && packet[9] == 17 {
            headers.push((header.gso_type, header.needs_checksum));
        }
    }
}

#[test]
fn what_is_no_longer_to_be_read_unfinished_is_finished_by_the_kernel_from_then_on() {
    if !root("what_is_no_longer_to_be_read_unfinished") {
        return;
    }
    let namespace = Namespace::new("limits");
    namespace.enter(|| {
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        plan("10.66.0.1/16").apply(&mut Netlink::open().unwrap()).unwrap();
        if !device.offloads().uso {
            println!("this kernel has no UDP segmentation for a TUN");
            return;
        }
        let queue = &device.queues()[0];
        assert_eq!(headers_of_four_datagrams(&device), [(GsoType::Udp, true)]);
        queue.limit_reads(Reads { uso: false, ..Reads::ALL }).unwrap();
        assert_eq!(headers_of_four_datagrams(&device), [(GsoType::None, true); 4]);
        queue.limit_reads(Reads { checksum: false, ..Reads::ALL }).unwrap();
        assert_eq!(headers_of_four_datagrams(&device), [(GsoType::None, false); 4]);
        queue.limit_reads(Reads::ALL).unwrap();
        assert_eq!(headers_of_four_datagrams(&device), [(GsoType::Udp, true)]);
    });
}

#[test]
fn a_udp_super_packet_that_is_written_arrives_as_datagrams() {
    if !root("a_udp_super_packet_that_is_written") {
        return;
    }
    let namespace = Namespace::new("uso");
    namespace.enter(|| {
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        plan("10.66.0.1/16").apply(&mut Netlink::open().unwrap()).unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let since = numbers.next().zip(numbers.next()).is_some_and(|version| version >= (6, 2));
        assert_eq!((device.offloads().uso, device.offloads().write_udp), (since, since), "{release}");
        if !since {
            println!("Linux {release} has no UDP segmentation for a TUN");
            return;
        }
        let socket = UdpSocket::bind("10.66.0.1:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (source, destination) = ([10, 66, 0, 2], [10, 66, 0, 1]);
        let payload: Vec<u8> = (0..4 * 1000 + 123).map(|at| (at / 1000) as u8).collect();
        let udp_length = 8 + payload.len();
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((20 + udp_length) as u16).to_be_bytes());
        packet[8..10].copy_from_slice(&[64, 17]);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        let sum = checksum::Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..24].copy_from_slice(&[0, 9, 0, 7]);
        packet[24..26].copy_from_slice(&(udp_length as u16).to_be_bytes());
        let sum = checksum::pseudo_header(&source, &destination, 17, udp_length).folded();
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            needs_checksum: true,
            gso_type: GsoType::Udp,
            header_len: 28,
            gso_size: 1000,
            checksum_start: 20,
            checksum_offset: 6,
            ..VnetHeader::default()
        };
        let slices = [IoSlice::new(&packet), IoSlice::new(&payload)];
        device.queues()[0].write(header, &slices).unwrap();
        let mut buffer = [0; 2000];
        for datagram in payload.chunks(1000) {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, "10.66.0.2:9".parse().unwrap());
            assert_eq!(&buffer[..length], datagram);
        }
    });
}

#[test]
fn kernel_tcp_passes_a_plain_queue_in_single_packets() {
    if !root("kernel_tcp_passes_a_plain_queue") {
        return;
    }
    let seen = transfer(&plain());
    assert_eq!(seen.super_packets, 0);
    assert!(seen.largest <= 1420, "{}", seen.largest);
}

struct Seen {
    super_packets: usize,
    largest: usize,
}

/// Carries 4 MiB of kernel TCP from west to east, and checks every byte.
fn transfer(options: &DeviceOptions) -> Seen {
    const LENGTH: usize = 4 << 20;
    let (west, east) = (Namespace::new("west"), Namespace::new("east"));
    let open = |namespace: &Namespace, address: &str| {
        namespace.enter(|| {
            let device = Device::open(options).unwrap();
            plan(address).apply(&mut Netlink::open().unwrap()).unwrap();
            device
        })
    };
    let (left, right) = (open(&west, "10.66.0.1/16"), open(&east, "10.66.0.2/16"));
    let stop = AtomicBool::new(false);
    let (super_packets, largest) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let content: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 65_535];
            let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in [(&left, &right), (&right, &left)] {
                    let (from, to) = (&from.queues()[0], &to.queues()[0]);
                    while let Some((header, length)) = from.read(&mut buffer).unwrap() {
                        largest.fetch_max(length, Ordering::Relaxed);
                        if header.gso_type != GsoType::None {
                            super_packets.fetch_add(1, Ordering::Relaxed);
                        }
                        // In small slices, more than one call may carry.
                        let slices: Vec<_> = buffer[..length].chunks(300).map(IoSlice::new).collect();
                        to.write(header, &slices).unwrap();
                    }
                }
                let mut descriptors = [&left, &right]
                    .map(|device| PollFd::from_borrowed_fd(device.queues()[0].fd(), PollFlags::IN));
                poll(&mut descriptors, Some(&pause)).unwrap();
            }
        });
        let listener = east.enter(|| TcpListener::bind("10.66.0.2:7000").unwrap());
        let receiver = scope.spawn(move || {
            let mut received = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_to_end(&mut received).map(|_| received)
        });
        let sent = west.enter(|| {
            let address: SocketAddr = "10.66.0.2:7000".parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&content)
        });
        let received = sent.map(|()| receiver.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        assert!(received.unwrap().unwrap() == content, "the content must arrive unchanged");
    });
    Seen { super_packets: super_packets.into_inner(), largest: largest.into_inner() }
}

/// Reads until a packet is as wanted. Others are what the kernel sends of itself.
fn read_until(device: &Device, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let queue = &device.queues()[0];
    let mut buffer = vec![0; 65_535];
    loop {
        match queue.read(&mut buffer).unwrap() {
            Some((_, length)) if wanted(&buffer[..length]) => return buffer[..length].to_vec(),
            Some(_) => {}
            None => assert!(wait_readable(queue.fd(), PATIENCE), "the packet never came"),
        }
    }
}

#[test]
fn a_write_to_an_interface_that_is_down_is_told_as_such() {
    if !root("a_write_to_an_interface_that_is_down") {
        return;
    }
    let namespace = Namespace::new("down");
    namespace.enter(|| {
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let mut packet = [0; 20];
        packet[0] = 0x45;
        let error = device.queues()[0].write(VnetHeader::default(), &[IoSlice::new(&packet)]).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Down, "{error}");
        assert!(!wait_readable(device.queues()[0].fd().as_fd(), std::time::Duration::ZERO));
    });
}
