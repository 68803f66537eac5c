//! Addresses, routes and rules that come back, and packets that go nowhere else.
//!
//! ```text
//!   host ── tombolo0 (10.66.0.1/16, fd66::1/64)
//!    └─ eth0 192.0.2.1 ── eth0 192.0.2.2 neighbour, the default route
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use support::{Namespace, PATIENCE, join, networks, root, wait_readable};
use tombolo_tun::netlink::{Changes, LinkState, Netlink, Watch};
use tombolo_tun::{Change, Device, DeviceOptions, InterfacePlan, table_for};

const NAME: &str = "tombolo0";

fn plan() -> InterfacePlan {
    InterfacePlan::new(
        NAME,
        networks(&["10.66.0.1/16", "fd66::1/64"]),
        1420,
        networks(&["10.66.0.0/16", "fd66::/64"]),
    )
}

fn underlay(label: &str) -> (Namespace, Namespace) {
    let (host, neighbour) = (Namespace::new(label), Namespace::new("neighbour"));
    join(&host, "eth0", &neighbour, "eth0");
    host.run("ip addr add 192.0.2.1/24 dev eth0");
    host.run("ip -6 addr add 2001:db8::1/64 dev eth0 nodad");
    neighbour.run("ip addr add 192.0.2.2/24 dev eth0");
    neighbour.run("ip -6 addr add 2001:db8::2/64 dev eth0 nodad");
    host.run("ip route add default via 192.0.2.2");
    host.run("ip -6 route add default via 2001:db8::2");
    (host, neighbour)
}

#[test]
fn applying_twice_changes_nothing_the_second_time() {
    if !root("applying_twice_changes_nothing") {
        return;
    }
    let namespace = Namespace::new("twice");
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let _device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let first = plan().apply(&mut netlink).unwrap();
        assert!(!first.interface_missing);
        assert_eq!(plan().apply(&mut netlink).unwrap().changes, []);

        let link = netlink.link_by_name(NAME).unwrap().unwrap();
        assert!(link.up);
        assert_eq!((link.mtu, link.transmit_queue_length), (1420, 2000));
        assert_eq!(link.gso_max_size, Some(tombolo_tun::gso_max_size_for(1420)));
        assert_eq!(netlink.addresses(link.index).unwrap(), plan().addresses);
        // The program that everybody looks with agrees.
        let table = format!("{}", table_for(NAME));
        let routes = namespace.run(&format!("ip route show table {table}"));
        assert!(routes.contains("10.66.0.0/16 dev tombolo0"), "{routes}");
        assert!(routes.contains("unreachable 10.66.0.0/16"), "{routes}");
        let routes = namespace.run(&format!("ip -6 route show table {table}"));
        assert!(routes.contains("fd66::/64 dev tombolo0"), "{routes}");
        assert!(routes.contains("unreachable fd66::/64"), "{routes}");
        let rules = namespace.run("ip rule");
        assert!(rules.contains(&format!("2662:\tfrom all to 10.66.0.0/16 lookup {table}")), "{rules}");
    });
}

#[test]
fn ipv6_that_is_switched_off_for_new_interfaces_is_switched_on_for_ours() {
    if !root("ipv6_that_is_switched_off_for_new_interfaces") {
        return;
    }
    let namespace = Namespace::new("noipv6");
    namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let applied = plan().apply(&mut netlink).unwrap();
        assert!(!applied.ipv6_missing);
        assert_eq!(netlink.addresses(device.index()).unwrap(), plan().addresses);
    });
}

#[test]
fn a_changed_plan_takes_away_what_the_old_one_had() {
    if !root("a_changed_plan_takes_away") {
        return;
    }
    let namespace = Namespace::new("changed");
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let _device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        plan().apply(&mut netlink).unwrap();
        let new = InterfacePlan::new(NAME, networks(&["10.77.0.1/16"]), 1280, networks(&["10.77.0.0/16"]));
        let changes = new.apply(&mut netlink).unwrap().changes;
        assert!(changes.contains(&Change::AddressRemoved("fd66::1/64".parse().unwrap())));
        assert_eq!(new.apply(&mut netlink).unwrap().changes, []);
        let link = netlink.link_by_name(NAME).unwrap().unwrap();
        assert_eq!(netlink.addresses(link.index).unwrap(), new.addresses);
        assert!(netlink.routes(new.table).unwrap().iter().all(|route| route.network == new.routed[0]));
        assert_eq!(netlink.rules().unwrap().iter().filter(|rule| rule.table == new.table).count(), 1);

        new.remove(&mut netlink).unwrap();
        assert_eq!(netlink.routes(new.table).unwrap(), []);
        assert!(netlink.rules().unwrap().iter().all(|rule| rule.table != new.table));
        assert_eq!(netlink.addresses(link.index).unwrap(), []);
        assert_eq!(new.remove(&mut netlink).unwrap(), []);
    });
}

#[test]
fn what_others_delete_is_noticed_and_comes_back() {
    if !root("what_others_delete_is_noticed") {
        return;
    }
    let namespace = Namespace::new("back");
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let _device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let table = table_for(NAME);
        plan().apply(&mut netlink).unwrap();
        let socket = UdpSocket::bind("10.66.0.1:5432").unwrap();
        for command in [
            "ip addr del 10.66.0.1/16 dev tombolo0".to_owned(),
            "ip -6 addr del fd66::1/64 dev tombolo0".to_owned(),
            "ip addr flush dev tombolo0".to_owned(),
            format!("ip route del 10.66.0.0/16 dev tombolo0 table {table}"),
            format!("ip route del unreachable 10.66.0.0/16 table {table}"),
            format!("ip route flush table {table}"),
            format!("ip -6 route flush table {table}"),
            "ip rule del priority 2662".to_owned(),
            "ip -6 rule del priority 2662".to_owned(),
            "ip rule flush".to_owned(),
            "ip link set tombolo0 mtu 9000".to_owned(),
            "ip link set tombolo0 down".to_owned(),
            format!("ip route add 10.66.7.0/24 dev lo table {table}"),
            format!("ip route add throw 10.66.0.0/24 table {table}"),
            format!("ip -6 route add throw fd66::/80 table {table}"),
        ] {
            let mut watch = Watch::open(NAME, table).unwrap();
            assert_eq!(watch.link_state(), LinkState::Up);
            namespace.run(&command);
            let mut changes = Changes::default();
            while !changes.concern_plan() {
                assert!(wait_readable(watch.fd(), PATIENCE), "{command} went unnoticed");
                changes = watch.read_changes().unwrap();
            }
            let applied = plan().apply(&mut netlink).unwrap();
            assert!(!applied.changes.is_empty(), "{command}: nothing was put right");
            assert_eq!(plan().apply(&mut netlink).unwrap().changes, [], "{command}");
            let path = netlink.path_to([10, 66, 0, 9].into(), None, 0).unwrap().unwrap();
            let link = netlink.link_by_name(NAME).unwrap().unwrap();
            assert_eq!(path.interface, link.index, "{command}");
            assert_eq!(path.source, Some(IpAddr::from([10, 66, 0, 1])), "{command}");
        }
        drop(socket);
    });
}

#[test]
fn changes_of_others_are_told_apart() {
    if !root("changes_of_others_are_told_apart") {
        return;
    }
    let (host, _neighbour) = underlay("apart");
    host.enter(|| {
        let _device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        let mut watch = Watch::open(NAME, table_for(NAME)).unwrap();
        let mut after = |command: &str, seen: fn(&Changes) -> bool| {
            host.run(command);
            loop {
                assert!(wait_readable(watch.fd(), PATIENCE), "{command} went unnoticed");
                let changes = watch.read_changes().unwrap();
                if seen(&changes) {
                    return changes;
                }
            }
        };
        // The links may still report that they came up, so nothing is said of `links` here.
        let ours = |c: &Changes| c.own_addresses || c.own_routes || c.rules;
        let changes = after("ip route add 203.0.113.0/24 via 192.0.2.2", |c| c.other_routes);
        assert!(!ours(&changes) && changes.concern_underlay() && !changes.filters);
        let changes = after("ip addr add 192.0.2.7/24 dev eth0", |c| c.other_addresses);
        assert!(!ours(&changes) && changes.concern_underlay() && !changes.filters);
        let changes = after("nft add table inet someone", |c| c.filters);
        assert!(!ours(&changes));
    });
}

#[test]
fn the_path_to_an_endpoint_has_the_smallest_mtu_that_is_known() {
    if !root("the_path_to_an_endpoint") {
        return;
    }
    let (host, _neighbour) = underlay("path");
    host.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let eth0 = netlink.link_by_name("eth0").unwrap().unwrap().index;
        let path = netlink.path_to([203, 0, 113, 9].into(), None, 0).unwrap().unwrap();
        assert_eq!((path.interface, path.mtu), (eth0, 1500));
        assert_eq!(path.source, Some([192, 0, 2, 1].into()));
        assert_eq!(path.gateway, Some([192, 0, 2, 2].into()));
        host.run("ip route add 203.0.113.0/24 via 192.0.2.2 mtu 1400");
        let path = netlink.path_to([203, 0, 113, 9].into(), None, 0).unwrap().unwrap();
        assert_eq!(path.mtu, 1400);
        host.run("ip -6 route add 2001:db8:9::/48 via 2001:db8::2 mtu 1300");
        let path = netlink.path_to("2001:db8:9::1".parse().unwrap(), None, 0).unwrap().unwrap();
        assert_eq!((path.interface, path.mtu), (eth0, 1300));
        host.run("ip route add unreachable 198.51.100.0/24");
        assert_eq!(netlink.path_to([198, 51, 100, 1].into(), None, 0).unwrap(), None);
        // By mark, as wg-quick's policy routing does it.
        host.run("ip rule add fwmark 51820 lookup 51820");
        host.run("ip route add default dev lo table 51820");
        let path = netlink.path_to([203, 0, 113, 9].into(), None, 51820).unwrap().unwrap();
        assert_ne!(path.interface, eth0);
    });
}

#[test]
fn with_the_interface_missing_no_overlay_packet_leaves_by_any_route_of_others() {
    if !root("with_the_interface_missing_no_overlay_packet_leaves") {
        return;
    }
    let (host, neighbour) = underlay("missing");
    // More specific than the overlay, as a DHCP server might push them (CVE-2024-3661).
    host.run("ip route add 10.66.0.0/24 via 192.0.2.2");
    host.run("ip -6 route add fd66::/80 via 2001:db8::2");
    let destinations: [SocketAddr; 2] = ["10.66.0.9:9".parse().unwrap(), "[fd66::9]:9".parse().unwrap()];
    let try_to_send = || {
        host.enter(|| {
            for destination in destinations {
                let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                let sent = socket.send_to(b"marker-of-the-overlay", destination);
                println!("to {destination}: {sent:?}");
            }
        });
    };
    // Without the plan they do leave: the capture can see them.
    assert_eq!(captured(&neighbour, try_to_send), 2);
    let applied = host.enter(|| plan().apply(&mut Netlink::open().unwrap()).unwrap());
    assert!(applied.interface_missing);
    assert_eq!(captured(&neighbour, try_to_send), 0);
    host.enter(|| {
        for destination in destinations {
            let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let error = UdpSocket::bind(any).unwrap().send_to(b"x", destination).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
        }
        // With the interface, all of it goes there.
        let mut netlink = Netlink::open().unwrap();
        let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
        plan().apply(&mut netlink).unwrap();
        for destination in destinations {
            let path = netlink.path_to(destination.ip(), None, 0).unwrap().unwrap();
            assert_eq!(path.interface, device.index());
        }
        assert_eq!(captured(&neighbour, try_to_send), 0);
        // The daemon stops, and the interface persists: nobody reads, and nothing leaves.
        device.set_persistent(true).unwrap();
        drop(device);
        assert_eq!(captured(&neighbour, try_to_send), 0);
        // Set down, its routes go; the fallback stays.
        host.run("ip link set tombolo0 down");
        assert_eq!(captured(&neighbour, try_to_send), 0);
        // Deleted under us, it is missing again.
        netlink.delete_link(NAME).unwrap();
        assert_eq!(captured(&neighbour, try_to_send), 0);
    });
}

/// How many packets with the marker reach the neighbour while `action` runs. A packet of our own
/// that follows says that all before it were seen.
fn captured(neighbour: &Namespace, action: impl FnOnce()) -> usize {
    let mut tcpdump =
        neighbour.listen("tcpdump -i eth0 -n -l -U --immediate-mode -A udp port 9 or udp port 7777");
    action();
    // From the neighbour's own side: it follows the others through the same device.
    neighbour.enter(|| {
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(b"end-of-the-capture", "192.0.2.1:7777").unwrap();
    });
    let mut markers = 0;
    let lines = std::io::BufReader::new(tcpdump.stdout.take().unwrap());
    for line in std::io::BufRead::lines(lines) {
        let line = line.unwrap();
        markers += usize::from(line.contains("marker-of-the-overlay"));
        if line.contains("end-of-the-capture") {
            break;
        }
    }
    tcpdump.kill().unwrap();
    tcpdump.wait().unwrap();
    markers
}
