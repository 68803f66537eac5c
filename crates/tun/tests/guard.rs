//! The guard against a neighbour that routes the overlay to us.
//!
//! ```text
//!   neighbour ── eth0 ──────── eth0 ── host (tombolo0: 10.66.0.1, fd66::1)
//!              192.0.2.2    192.0.2.1
//!          2001:db8::2    2001:db8::1
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;

use support::{Echo, Namespace, PATIENCE, SILENCE, echoes, join, networks, root, wait_readable};
use tombolo_tun::guard::{Guard, GuardCounters, GuardError, GuardPlan};
use tombolo_tun::netlink::{Changes, Netlink, Watch};
use tombolo_tun::{Device, DeviceOptions, InterfacePlan, table_for};

const NAME: &str = "tombolo0";
const OVERLAY: [&str; 2] = ["10.66.0.0/16", "fd66::/64"];
const DATABASE: [&str; 2] = ["10.66.0.1:5432", "[fd66::1]:5432"];

fn guard_plan() -> GuardPlan {
    GuardPlan {
        interface: NAME.into(),
        overlay: networks(&OVERLAY),
        gateway_subnets: Vec::new(),
        behind_others: Vec::new(),
    }
}

/// A host with the overlay's addresses, and a neighbour that routes the overlay to it.
struct Lan {
    host: Namespace,
    neighbour: Namespace,
    _device: Device,
    _echoes: Vec<Echo>,
}

impl Lan {
    fn new(label: &str) -> Self {
        let (host, neighbour) = (Namespace::new(label), Namespace::new("neighbour"));
        join(&host, "eth0", &neighbour, "eth0");
        host.run("ip addr add 192.0.2.1/24 dev eth0");
        host.run("ip -6 addr add 2001:db8::1/64 dev eth0 nodad");
        neighbour.run("ip addr add 192.0.2.2/24 dev eth0");
        neighbour.run("ip -6 addr add 2001:db8::2/64 dev eth0 nodad");
        neighbour.run("ip route add 10.66.0.0/16 via 192.0.2.1");
        neighbour.run("ip -6 route add fd66::/64 via 2001:db8::1");
        let (device, echoes) = host.enter(|| {
            let device = Device::open(&DeviceOptions::new(NAME)).unwrap();
            InterfacePlan::new(NAME, networks(&["10.66.0.1/16", "fd66::1/64"]), 1420, networks(&OVERLAY))
                .apply(&mut Netlink::open().unwrap())
                .unwrap();
            let addresses = [DATABASE[0], DATABASE[1], "192.0.2.1:7", "[2001:db8::1]:7"];
            (device, addresses.map(|address| Echo::bind(address.parse().unwrap())).into())
        });
        Self { host, neighbour, _device: device, _echoes: echoes }
    }

    /// Whether the neighbour gets answers from the overlay address, by family.
    fn neighbour_is_answered(&self, patience: std::time::Duration) -> [bool; 2] {
        self.neighbour_is_answered_by(DATABASE, patience)
    }

    fn neighbour_is_answered_by(&self, destinations: [&str; 2], patience: std::time::Duration) -> [bool; 2] {
        let sources = ["192.0.2.2:0", "[2001:db8::2]:0"];
        self.neighbour.enter(|| {
            [0, 1].map(|family| {
                let (from, to) = (sources[family], destinations[family]);
                echoes(from.parse().unwrap(), to.parse().unwrap(), patience)
            })
        })
    }

    /// Whether the host itself gets answers from its own overlay address, by family.
    fn host_is_answered(&self) -> [bool; 2] {
        let sources: [SocketAddr; 2] = ["10.66.0.1:0".parse().unwrap(), "[fd66::1]:0".parse().unwrap()];
        self.host.enter(|| {
            [0, 1].map(|family| echoes(sources[family], DATABASE[family].parse().unwrap(), PATIENCE))
        })
    }
}

#[test]
fn a_neighbour_that_routes_the_overlay_address_to_us_gets_nothing() {
    if !root("a_neighbour_that_routes_the_overlay_address") {
        return;
    }
    let lan = Lan::new("guarded");
    // The threat is real: without the guard both families answer in clear.
    assert_eq!(lan.neighbour_is_answered(PATIENCE), [true, true]);
    let mut guard = lan.host.enter(|| Guard::open(&guard_plan()).unwrap());
    assert!(!guard.is_installed().unwrap());
    assert_eq!(guard.counters().unwrap(), GuardCounters::default());
    guard.install().unwrap();
    assert!(guard.is_installed().unwrap());
    assert_eq!(lan.neighbour_is_answered(SILENCE), [false, false]);
    let dropped = guard.counters().unwrap().arriving;
    assert!(dropped.packets >= 2 && dropped.bytes >= dropped.packets * 28, "{dropped:?}");
    // Its own address travels over loopback.
    assert_eq!(lan.host_is_answered(), [true, true]);
    assert_eq!(guard.counters().unwrap().leaving.packets, 0);
    // Nothing else is touched.
    assert_eq!(lan.neighbour_is_answered_by(["192.0.2.1:7", "[2001:db8::1]:7"], PATIENCE), [true, true]);
    // It belongs to no process.
    drop(guard);
    assert_eq!(lan.neighbour_is_answered(SILENCE), [false, false]);
    let mut guard = lan.host.enter(|| Guard::open(&guard_plan()).unwrap());
    assert!(guard.is_installed().unwrap());
    assert!(!guard.ensure().unwrap());
    assert!(guard.remove().unwrap());
    assert!(!guard.remove().unwrap());
    assert_eq!(lan.neighbour_is_answered(PATIENCE), [true, true]);
}

#[test]
fn an_overlay_source_from_the_neighbour_is_dropped() {
    if !root("an_overlay_source_from_the_neighbour") {
        return;
    }
    let lan = Lan::new("spoofed");
    lan.neighbour.run("ip addr add 10.66.0.9/32 dev lo");
    // The host must be willing: the neighbour's spoofed address is one that it has a route to.
    lan.host.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
    let mut guard = lan.host.enter(|| Guard::open(&guard_plan()).unwrap());
    guard.install().unwrap();
    lan.neighbour.enter(|| {
        let socket = std::net::UdpSocket::bind("10.66.0.9:0").unwrap();
        for _ in 0..5 {
            socket.send_to(b"from inside, it says", "192.0.2.1:7").unwrap();
        }
    });
    let deadline = std::time::Duration::from_millis(50);
    for _ in 0..200 {
        if guard.counters().unwrap().arriving.packets >= 5 {
            return;
        }
        std::thread::park_timeout(deadline);
    }
    panic!("{:?}", guard.counters().unwrap());
}

#[test]
fn a_hardware_address_is_not_given_away_for_an_overlay_address() {
    if !root("a_hardware_address_is_not_given_away") {
        return;
    }
    let lan = Lan::new("arp");
    lan.neighbour.run("ip route replace 10.66.0.0/16 dev eth0");
    let asks = |address: &str| {
        lan.neighbour.run("ip neigh flush all");
        let to = SocketAddr::new(address.parse().unwrap(), 5432);
        let _ = lan.neighbour.enter(|| echoes("192.0.2.2:0".parse().unwrap(), to, SILENCE));
        lan.neighbour.run(&format!("ip neigh show {address}"))
    };
    assert!(asks("10.66.0.1").contains("lladdr"));
    let mut guard = lan.host.enter(|| Guard::open(&guard_plan()).unwrap());
    guard.install().unwrap();
    assert!(!asks("10.66.0.1").contains("lladdr"));
    assert!(guard.counters().unwrap().arp.packets > 0);
    assert!(asks("192.0.2.1").contains("lladdr"));
}

#[test]
fn what_would_leave_by_another_interface_is_dropped_and_counted() {
    if !root("what_would_leave_by_another_interface") {
        return;
    }
    let lan = Lan::new("leaving");
    // A rule before ours, as another VPN might set it.
    lan.host.run("ip rule add priority 100 to 10.66.0.0/24 lookup main");
    lan.host.run("ip route add 10.66.0.0/24 via 192.0.2.2");
    lan.neighbour.run("ip addr add 10.66.0.9/32 dev lo");
    let answered = |patience| {
        lan.host.enter(|| echoes("192.0.2.1:0".parse().unwrap(), "10.66.0.9:7".parse().unwrap(), patience))
    };
    let _echo = lan.neighbour.enter(|| Echo::bind("10.66.0.9:7".parse().unwrap()));
    assert!(answered(PATIENCE), "the rule must lead out, or the test shows nothing");
    let mut guard = lan.host.enter(|| Guard::open(&guard_plan()).unwrap());
    guard.install().unwrap();
    assert!(!answered(SILENCE));
    assert!(guard.counters().unwrap().leaving.packets > 0);
}

#[test]
fn a_guard_that_others_touch_is_noticed_and_set_again() {
    if !root("a_guard_that_others_touch") {
        return;
    }
    let lan = Lan::new("touched");
    lan.host.enter(|| {
        let mut guard = Guard::open(&guard_plan()).unwrap();
        let table = guard.table().to_owned();
        for command in [
            "nft flush ruleset".to_owned(),
            format!("nft delete table inet {table}"),
            format!("nft delete table arp {table}"),
            format!("nft flush chain inet {table} arriving"),
            format!("nft flush table inet {table}"),
            format!("nft insert rule inet {table} arriving accept"),
            format!("nft add chain inet {table} other"),
            "nft -f /dev/stdin".to_owned(),
        ] {
            guard.install().unwrap();
            let mut watch = Watch::open(NAME, table_for(NAME)).unwrap();
            assert!(watch.sees_filters());
            if command.ends_with("stdin") {
                let mut nft = lan.host.command(&command).stdin(std::process::Stdio::piped()).spawn().unwrap();
                let text = format!("table inet {table} {{ flags dormant; }}\n");
                std::io::Write::write_all(&mut nft.stdin.take().unwrap(), text.as_bytes()).unwrap();
                assert!(nft.wait().unwrap().success());
            } else {
                lan.host.run(&command);
            }
            let mut changes = Changes::default();
            while !changes.filters {
                assert!(wait_readable(watch.fd(), PATIENCE), "{command} went unnoticed");
                changes = watch.read_changes().unwrap();
            }
            assert!(!guard.is_installed().unwrap(), "{command}");
            assert!(guard.ensure().unwrap(), "{command}");
            assert!(guard.is_installed().unwrap(), "{command}");
        }
        // Another plan is another guard.
        let mut other =
            Guard::open(&GuardPlan { overlay: networks(&["10.77.0.0/16"]), ..guard_plan() }).unwrap();
        assert!(!other.is_installed().unwrap());
        other.install().unwrap();
        assert!(!guard.is_installed().unwrap());
    });
    assert_eq!(lan.neighbour_is_answered(PATIENCE), [true, true], "the old networks are free");
}

#[test]
fn rules_of_others_stay_and_the_comments_can_be_read() {
    if !root("rules_of_others_stay") {
        return;
    }
    let lan = Lan::new("others");
    lan.host.run("nft add table inet someone");
    lan.host.enter(|| {
        let mut guard = Guard::open(&guard_plan()).unwrap();
        guard.install().unwrap();
        let rules = lan.host.run("nft list ruleset");
        assert!(rules.contains("table inet someone"), "{rules}");
        assert!(rules.contains("priority -450"), "{rules}");
        assert!(rules.contains("ip daddr 10.66.0.0/16"), "{rules}");
        assert!(rules.contains("ip6 saddr fd66::/64"), "{rules}");
        assert!(rules.contains("comment \"drop to 10.66.0.0/16\""), "{rules}");
        guard.remove().unwrap();
        let rules = lan.host.run("nft list ruleset");
        assert!(rules.contains("someone") && !rules.contains("tombolo"), "{rules}");
    });
}

#[test]
fn a_gateway_forwards_its_declared_subnet_and_stays_closed_itself() {
    if !root("a_gateway_forwards_its_declared_subnet") {
        return;
    }
    // neighbour is a machine of the subnet behind the gateway; the overlay member is `remote`,
    // reached through the interface tombolo9, which plays the tunnel.
    let lan = Lan::new("gateway");
    let remote = Namespace::new("remote");
    join(&lan.host, "tombolo9", &remote, "eth0");
    lan.host.run("ip route add 10.66.9.9 dev tombolo9 table 8662000");
    lan.host.run("sysctl -qw net.ipv4.ip_forward=1");
    lan.host.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tombolo9.rp_filter=0");
    remote.run("ip addr add 10.66.9.9/32 dev eth0");
    remote.run("ip route add 10.66.0.1 dev eth0");
    remote.run("ip route add 192.0.2.0/24 via 10.66.0.1 dev eth0 onlink src 10.66.9.9");
    let _echo = remote.enter(|| Echo::bind("10.66.9.9:7".parse().unwrap()));
    let forwarded = |patience| {
        lan.neighbour
            .enter(|| echoes("192.0.2.2:0".parse().unwrap(), "10.66.9.9:7".parse().unwrap(), patience))
    };
    assert!(forwarded(PATIENCE), "the forwarding must work, or the test shows nothing");
    let plan = GuardPlan { interface: "tombolo9".into(), ..guard_plan() };
    lan.host.enter(|| Guard::open(&plan).unwrap().install().unwrap());
    assert!(!forwarded(SILENCE), "not declared, not forwarded");
    let plan = GuardPlan { gateway_subnets: networks(&["192.0.2.0/24"]), ..plan };
    let mut guard = lan.host.enter(|| Guard::open(&plan).unwrap());
    guard.install().unwrap();
    assert!(guard.is_installed().unwrap());
    assert!(forwarded(PATIENCE), "declared, forwarded");
    assert_eq!(lan.neighbour_is_answered(SILENCE), [false, false], "itself closed");
    assert!(guard.counters().unwrap().arriving.packets > 0);
}

#[test]
fn what_lies_behind_a_gateway_elsewhere_neither_leaves_nor_arrives_in_clear() {
    if !root("what_lies_behind_a_gateway_elsewhere") {
        return;
    }
    // The neighbour plays the subnet, as anybody on the way to the default route may.
    let lan = Lan::new("behind");
    lan.neighbour.run("ip addr add 192.168.7.20/32 dev lo");
    lan.host.run("ip route add 192.168.7.0/24 via 192.0.2.2");
    let _echo = lan.neighbour.enter(|| Echo::bind("192.168.7.20:7".parse().unwrap()));
    let from_host = |patience| {
        lan.host.enter(|| echoes("192.0.2.1:0".parse().unwrap(), "192.168.7.20:7".parse().unwrap(), patience))
    };
    let from_subnet = |patience| {
        lan.neighbour
            .enter(|| echoes("192.168.7.20:0".parse().unwrap(), "192.0.2.1:7".parse().unwrap(), patience))
    };
    assert!(from_host(PATIENCE) && from_subnet(PATIENCE), "the threat is real");
    let plan = GuardPlan { behind_others: networks(&["192.168.7.0/24"]), ..guard_plan() };
    let mut guard = lan.host.enter(|| Guard::open(&plan).unwrap());
    guard.install().unwrap();
    assert!(guard.is_installed().unwrap());
    assert!(!from_host(SILENCE) && !from_subnet(SILENCE));
    let counters = guard.counters().unwrap();
    assert!(counters.leaving.packets > 0 && counters.arriving.packets > 0, "{counters:?}");
    assert_eq!(lan.neighbour_is_answered_by(["192.0.2.1:7", "[2001:db8::1]:7"], PATIENCE), [true, true]);
    guard.remove().unwrap();
    assert!(from_host(PATIENCE) && from_subnet(PATIENCE));
}

#[test]
fn a_hub_forwards_between_members_through_the_interface() {
    if !root("a_hub_forwards_between_members") {
        return;
    }
    // The interface is a veth here, so that two kernels can talk through it: in and out again.
    let (hub, members) = (Namespace::new("hub"), Namespace::new("members"));
    join(&hub, "tombolo9", &members, "eth0");
    hub.run("ip addr add 10.66.0.1/16 dev tombolo9");
    hub.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0");
    hub.run("sysctl -qw net.ipv4.conf.tombolo9.send_redirects=0");
    members.run("ip addr add 10.66.0.2/32 dev eth0");
    members.run("ip route add 10.66.0.1 dev eth0 src 10.66.0.2");
    members.run("ip route add 10.66.0.3 via 10.66.0.1 dev eth0 onlink src 10.66.0.2");
    let plan = GuardPlan { interface: "tombolo9".into(), ..guard_plan() };
    let mut guard = hub.enter(|| Guard::open(&plan).unwrap());
    guard.install().unwrap();
    let tcpdump =
        members.listen("timeout 20 tcpdump -i eth0 -n -l -c 2 --immediate-mode udp and dst 10.66.0.3");
    // To the hub, and back to the same wire: two copies.
    members.run("ip neigh add 10.66.0.3 lladdr 02:00:00:00:00:03 dev eth0");
    hub.run("ip neigh add 10.66.0.3 lladdr 02:00:00:00:00:03 dev tombolo9");
    members.enter(|| {
        let socket = std::net::UdpSocket::bind("10.66.0.2:0").unwrap();
        socket.send_to(b"to another member", "10.66.0.3:9").unwrap();
    });
    let output = tcpdump.wait_with_output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert_eq!(guard.counters().unwrap(), GuardCounters::default());
}

#[test]
fn without_privileges_the_error_says_what_is_open() {
    if !root("without_privileges_the_error_says_what_is_open") {
        return;
    }
    let namespace = Namespace::new("unprivileged");
    namespace.enter(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        sets.permitted = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        let error = Guard::open(&guard_plan()).and_then(|mut guard| guard.install()).unwrap_err();
        assert!(matches!(error, GuardError::NotPermitted), "{error}");
        assert!(error.to_string().contains("in clear"));
    });
}
