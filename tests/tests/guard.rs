//! The guard: an overlay address is protected whether the daemon runs or not.
//!
//! ```text
//!   east 192.0.2.10 ────────┬── router ── 198.51.100.10 west
//!   overlay 10.62.0.1       │             overlay 10.62.0.2
//!   neighbour 192.0.2.66 ───┘
//! ```
//!
//! The neighbour is on the same Ethernet as east, and knows the overlay's prefix.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::ensure;
use tombolo_tests::{
    Result, Scene,
    capture::Capture,
    machine_wide,
    namespace::Namespace,
    node::{OVERLAY, OVERLAY6},
    site::{Site, sites, start_all},
    topology::{Internet, Machine},
    transfer,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(20);
/// How long an attempt waits for an answer that must not come.
const PATIENCE: Duration = Duration::from_millis(400);
const PORT: u16 = 5432;

/// East and west, running; a service on east's overlay addresses; and a neighbour of east.
struct Stage {
    internet: Internet,
    east: Site,
    west: Site,
    neighbour: Machine,
    /// Bound while the overlay was up, as a database is.
    services: Vec<TcpListener>,
}

fn stage(scene: &Scene) -> Result<Stage> {
    let (mut internet, mut sites) = sites::<2>(scene)?;
    start_all(scene, &mut sites)?;
    let [east, west] = sites;
    let neighbour = internet.neighbour("neighbour", [192, 0, 2, 0], 66)?;
    neighbour.namespace.ip(&format!("route add {OVERLAY} via {}", east.machine.address))?;
    neighbour.namespace.ip(&format!("-6 route add {OVERLAY6} via {}", east.machine.address6))?;
    let addresses = [IpAddr::from(east.node.address), east.node.address6.into()];
    let services = addresses
        .iter()
        .map(|address| east.machine.namespace.enter(|| Ok(TcpListener::bind((*address, PORT))?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Stage { internet, east, west, neighbour, services })
}

impl Stage {
    fn east_addresses(&self) -> [IpAddr; 2] {
        [self.east.node.address.into(), self.east.node.address6.into()]
    }

    /// The neighbour tries the service, and what comes back is counted: packets from the overlay.
    fn knock(&self) -> Result<u64> {
        let at_door =
            format!("(dst net {OVERLAY} or dst net {OVERLAY6}) and ether src {}", self.neighbour_mac()?);
        let door = Capture::start(&self.internet.router, &self.east.machine.port, &at_door, &[])?;
        let answers = format!("src net {OVERLAY} or src net {OVERLAY6}");
        let back = Capture::start(&self.internet.router, &self.neighbour.port, &answers, &[])?;
        for address in self.east_addresses() {
            ensure!(!connects(&self.neighbour.namespace, address)?, "the neighbour was let in at {address}");
            self.neighbour.namespace.enter(|| {
                let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                UdpSocket::bind((any, 0))?.send_to(b"hello", (address, PORT))?;
                Ok(())
            })?;
        }
        door.wait_for_packets(4, LIMIT)?;
        drop(door);
        Ok(back.stop()?.packets)
    }

    fn neighbour_mac(&self) -> Result<String> {
        let text = self.neighbour.namespace.ip("-o link show eth0")?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no address in {text}"))
    }

    /// Sends from east to west's overlay addresses, and counts the packets that leave for them in the clear.
    fn leaks(&self) -> Result<u64> {
        let clear = format!("net {OVERLAY} or net {OVERLAY6} or arp host {}", self.west.node.address);
        let link = Capture::start(&self.internet.router, &self.east.machine.port, &clear, &[])?;
        for address in [IpAddr::from(self.west.node.address), self.west.node.address6.into()] {
            let _ = connects(&self.east.machine.namespace, address)?;
            self.east.machine.namespace.enter(|| {
                let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                // Refused at once is what should happen where there is no way.
                let _ = UdpSocket::bind((any, 0))?.send_to(b"leak", (address, PORT));
                Ok(())
            })?;
        }
        Ok(link.stop()?.packets)
    }

    /// What a hostile server of the LAN hands out: routes that are more specific than the overlay's.
    fn push_routes(&self) -> Result {
        let (v4, v6) = (self.neighbour.address, self.neighbour.address6);
        let namespace = &self.east.machine.namespace;
        for network in [format!("{}/32", self.west.node.address), "10.62.0.0/25".to_owned()] {
            namespace.ip(&format!("route replace {network} via {v4} dev eth0"))?;
        }
        for network in [format!("{}/128", self.west.node.address6), "fd62:626f:6c6f::/65".to_owned()] {
            namespace.ip(&format!("-6 route replace {network} via {v6} dev eth0"))?;
        }
        Ok(())
    }
}

fn connects(from: &Namespace, address: IpAddr) -> Result<bool> {
    let target = SocketAddr::new(address, PORT);
    from.enter(|| Ok(TcpStream::connect_timeout(&target, PATIENCE).is_ok()))
}

#[test]
fn a_neighbour_who_routes_the_overlay_to_us_gets_nothing() {
    machine_wide("a_neighbour_who_routes_the_overlay_to_us_gets_nothing", |scene| {
        let mut stage = stage(scene)?;
        for address in stage.east_addresses() {
            ensure!(connects(&stage.west.machine.namespace, address)?, "a member cannot reach {address}");
        }
        ensure!(stage.knock()? == 0, "answers while the daemon runs");
        stage.east.node.kill()?;
        ensure!(stage.knock()? == 0, "answers after the daemon was killed");
        stage.east.node.start(scene)?;
        stage.east.node.run("down", &[])?;
        ensure!(stage.knock()? == 0, "answers after `down`");
        stage.east.machine.namespace.ip(&format!("link del {}", stage.east.node.interface))?;
        // Without the interface the address is gone; a machine of this kind may well have it elsewhere.
        stage.east.machine.namespace.ip(&format!("addr add {}/32 dev lo", stage.east.node.address))?;
        stage.east.machine.namespace.ip(&format!("addr add {}/128 dev lo", stage.east.node.address6))?;
        ensure!(stage.knock()? == 0, "answers after the interface was removed");
        ensure!(stage.services.len() == 2, "both services were there all the time");
        Ok(())
    });
}

/// The same knock succeeds once the guard is taken away: it is the guard that held, not the stage.
#[test]
fn down_open_takes_the_guard_away() {
    machine_wide("down_open_takes_the_guard_away", |scene| {
        let stage = stage(scene)?;
        stage.east.node.run("down", &["--open"])?;
        let namespace = &stage.east.machine.namespace;
        for address in stage.east_addresses() {
            let length = if address.is_ipv4() { 32 } else { 128 };
            namespace.ip(&format!("addr add {address}/{length} dev lo"))?;
            ensure!(connects(&stage.neighbour.namespace, address)?, "the neighbour cannot reach {address}");
        }
        Ok(())
    });
}

#[test]
fn a_more_specific_route_pulls_nothing_out_of_the_tunnel() {
    machine_wide("a_more_specific_route_pulls_nothing_out_of_the_tunnel", |scene| {
        let mut stage = stage(scene)?;
        stage.push_routes()?;
        ensure!(stage.leaks()? == 0, "packets in the clear while the daemon runs");
        let (east, west) = (&stage.east.machine.namespace, &stage.west.machine.namespace);
        for address in [IpAddr::from(stage.west.node.address), stage.west.node.address6.into()] {
            transfer::reach(east, west, address, LIMIT)?;
        }
        stage.east.node.kill()?;
        ensure!(stage.leaks()? == 0, "packets in the clear after the daemon was killed");
        Ok(())
    });
}

#[test]
fn nothing_leaves_by_the_default_route_when_the_interface_is_gone() {
    machine_wide("nothing_leaves_by_the_default_route_when_the_interface_is_gone", |scene| {
        let mut stage = stage(scene)?;
        stage.east.node.kill()?;
        stage.east.machine.namespace.ip(&format!("link del {}", stage.east.node.interface))?;
        ensure!(stage.leaks()? == 0, "packets in the clear by the default route");
        stage.push_routes()?;
        ensure!(stage.leaks()? == 0, "packets in the clear by a pushed route");
        // The control: what would leave, and be seen, without the guard.
        stage.east.node.start(scene)?;
        stage.east.node.run("down", &["--open"])?;
        let leaks = stage.leaks()?;
        let namespace = &stage.east.machine.namespace;
        let rules = namespace.ip("rule show")? + &namespace.ip("route show table all")?;
        ensure!(leaks > 0, "the capture sees nothing even without a guard:\n{rules}");
        Ok(())
    });
}

/// systemd-networkd and others remove rules and routes that are not theirs.
#[test]
fn what_others_delete_comes_back() {
    machine_wide("what_others_delete_comes_back", |scene| {
        let stage = stage(scene)?;
        let (namespace, interface) = (&stage.east.machine.namespace, &stage.east.node.interface);
        let address = stage.east.node.address.to_string();
        let look =
            |arguments: &str, wanted: &str| namespace.ip(arguments).is_ok_and(|text| text.contains(wanted));
        let back = |what: &str, arguments: &str, wanted: &str| {
            wait_until(&format!("{what} to come back"), LIMIT, || look(arguments, wanted))
        };

        namespace.ip(&format!("addr flush dev {interface} scope global"))?;
        back("the address", &format!("addr show dev {interface}"), &address)?;
        back(
            "the IPv6 address",
            &format!("addr show dev {interface}"),
            &stage.east.node.address6.to_string(),
        )?;

        let rules = namespace.ip("rule show")?;
        let ours: Vec<&str> = rules.lines().filter(|line| line.starts_with("2662:")).collect();
        ensure!(!ours.is_empty(), "no rule of priority 2662 in {rules}");
        while namespace.ip("rule del priority 2662").is_ok() {}
        for rule in ours {
            back("a rule", "rule show", rule.trim())?;
        }
        while namespace.ip("-6 rule del priority 2662").is_ok() {}
        back("an IPv6 rule", "-6 rule show", "2662:")?;

        let table = stage.table()?;
        namespace.ip(&format!("route flush table {table}"))?;
        back("the route", &format!("route show table {table}"), interface)?;
        back("the fallback", &format!("route show table {table}"), "unreachable")?;

        let mtu = namespace.ip(&format!("link show dev {interface}"))?;
        ensure!(mtu.contains("mtu 1420"), "{mtu}");
        namespace.ip(&format!("link set {interface} mtu 1300"))?;
        back("the MTU", &format!("link show dev {interface}"), "mtu 1420")?;
        namespace.ip(&format!("link set {interface} down"))?;
        back("the link", &format!("link show dev {interface}"), "UP")?;

        let flush = namespace.command("nft").args(["flush", "ruleset"]).status()?;
        ensure!(flush.success(), "nft flush ruleset");
        wait_until("the guard to come back", LIMIT, || {
            let listing = namespace.command("nft").args(["list", "ruleset"]).output();
            listing.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("10.62.0.0/24"))
        })?;
        ensure!(stage.knock()? == 0, "answers after everything came back");
        let target = stage.west.node.address.into();
        transfer::reach(namespace, &stage.west.machine.namespace, target, LIMIT).map(drop)
    });
}

impl Stage {
    /// The number of the routing table that the rules lead to.
    fn table(&self) -> Result<String> {
        let rules = self.east.machine.namespace.ip("rule show")?;
        let rule = rules.lines().find(|line| line.starts_with("2662:"));
        let table = rule.and_then(|line| line.split("lookup ").nth(1)).map(|rest| rest.trim().to_owned());
        table.ok_or_else(|| anyhow::anyhow!("no rule of ours in {rules}"))
    }
}

#[test]
fn status_says_whether_the_guard_is_in_place() {
    machine_wide("status_says_whether_the_guard_is_in_place", |scene| {
        let stage = stage(scene)?;
        let status = stage.east.node.status()?;
        ensure!(status["guard"].to_string().contains("true"), "the guard in {status}");
        Ok(())
    });
}
