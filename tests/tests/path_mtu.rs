//! Paths that carry less than the machines at their ends believe, or more.
//!
//! ```text
//!   east 192.0.2.10 ───────── router ───────── 198.51.100.10 west
//!   overlay 10.62.0.1    drops in silence      overlay 10.62.0.2
//!                       what is too large, and
//!                          every fragment
//! ```
//!
//! The router's links take what the machines' do: neither it nor anybody else says a word of what it drops.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use tombolo_tests::{
    Result, Scene,
    capture::Capture,
    command::{run, run_with_input},
    machine_wide,
    namespace::Namespace,
    node::{Node, PORT},
    site::{Site, sites, start_all},
    topology::Internet,
    transfer::{self, Noise},
    wait::{stays_true, wait_for, wait_until},
    wireguard_go::{KeyPair, Peer, WireGuard},
};

const LIMIT: Duration = Duration::from_secs(30);
/// Larger sizes are looked for every two seconds rather than every minute.
const EAGER: &str = "path_mtu_interval = 2";

/// Two sites whose links take `link` bytes, and a router that lets packets of `passes` bytes through.
fn two(scene: &Scene, link: u32, passes: Option<u32>, extra: &str) -> Result<(Internet, [Site; 2])> {
    let (internet, mut sites) = sites::<2>(scene)?;
    set_links(&internet, &sites.each_ref().map(|site| &site.machine.namespace), link)?;
    let hosts = sites.each_ref().map(|site| site.machine.address.to_string());
    sites[0].node.configure(extra, &[sites[1].node.entry(Some(hosts[1].clone()))])?;
    sites[1].node.configure(extra, &[sites[0].node.entry(Some(hosts[0].clone()))])?;
    narrow(&internet.router, passes)?;
    start_all(scene, &mut sites)?;
    Ok((internet, sites))
}

/// Every link is of this size. The machines cut super-datagrams themselves, so that single packets are on the wire.
fn set_links(internet: &Internet, machines: &[&Namespace], size: u32) -> Result {
    let links = internet.router.ip("-o link show")?;
    let name = |line: &str| Some(line.split(':').nth(1)?.trim().split('@').next()?.to_owned());
    for link in links.lines().filter_map(name).filter(|name| name != "lo") {
        internet.router.ip(&format!("link set {link} mtu {size}"))?;
    }
    for machine in machines {
        machine.ip(&format!("link set eth0 mtu {size}"))?;
        run(machine.command("ethtool").args(["-K", "eth0", "tx-udp-segmentation", "off"]))?;
    }
    Ok(())
}

/// The router drops what is larger than that, and every fragment, and says nothing.
fn narrow(router: &Namespace, passes: Option<u32>) -> Result {
    let rules = passes.map_or(String::new(), |size| {
        format!(
            "chain forward {{ type filter hook forward priority 0; policy accept;\n\
             meta length > {size} counter drop\nip frag-off & 0x3fff != 0 counter drop\n }}\n"
        )
    });
    let text = format!("add table inet narrow\ndelete table inet narrow\ntable inet narrow {{\n{rules}}}\n");
    run_with_input(router.command("nft").args(["-f", "-"]), &text).map(drop)
}

/// The size of packets to a node's only peer, and how it is known.
fn mtu(node: &Node) -> Result<(u64, String)> {
    let status = node.status()?;
    let peer = &status["peers"][0];
    let size = peer["mtu_bytes"].as_u64().context("mtu_bytes")?;
    Ok((size, peer["mtu_state"].as_str().context("mtu_state")?.to_owned()))
}

fn wait_for_mtu(node: &Node, sizes: std::ops::RangeInclusive<u64>) -> Result<u64> {
    wait_for(&format!("a confirmed MTU of {sizes:?} at {}", node.name), LIMIT, || {
        let (size, state) = mtu(node)?;
        Ok((state == "confirmed" && sizes.contains(&size)).then_some(size))
    })
}

/// Both ways and both families.
fn transfers(sites: &[Site; 2], bytes: usize) -> Result {
    for (from, to) in [(0, 1), (1, 0)] {
        let (client, server) = (&sites[from].machine.namespace, &sites[to].machine.namespace);
        transfer::tcp(client, server, sites[to].node.address.into(), bytes)?;
        transfer::tcp(client, server, sites[to].node.address6.into(), bytes)?;
    }
    Ok(())
}

#[test]
fn a_silent_hop_of_1280_bytes_is_found_and_crossed_both_ways() {
    machine_wide("a_silent_hop_of_1280_bytes", |scene| {
        let (_internet, sites) = two(scene, 1500, Some(1280), "")?;
        for site in &sites {
            let size = wait_for_mtu(&site.node, 1212..=1220)?;
            scene.say(&format!("{} found {size} bytes", site.node.name));
        }
        transfers(&sites, 20_000_003)?;
        let [east, west] = &sites;
        let (here, there) = (&east.machine.namespace, &west.machine.namespace);
        refused_and_sent_smaller(here, there, west.node.address.into())?;
        refused_and_sent_smaller(there, here, east.node.address.into())?;
        let refused = east.node.status()?["drops"]["packet_too_big"].as_u64().context("packet_too_big")?;
        ensure!((1..50).contains(&refused), "{refused} packets were refused");
        Ok(())
    });
}

/// Linux marks datagrams as not to be fragmented. The first large one is refused with the size that passes, and the next goes
/// as fragments of that size: without the refusal none would ever arrive.
fn refused_and_sent_smaller(client: &Namespace, server: &Namespace, address: IpAddr) -> Result {
    const MESSAGE_TOO_LONG: i32 = 90;
    let there = server.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    there.set_read_timeout(Some(Duration::from_millis(100)))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let here = client.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    here.connect(there.local_addr()?)?;
    let payload = [7; 1372];
    let mut refused = false;
    wait_for("a large datagram", LIMIT, || match here.send(&payload) {
        Ok(_) => Ok(there.recv(&mut [0; 1500]).is_ok_and(|length| length == payload.len()).then_some(())),
        Err(error) if error.raw_os_error() == Some(MESSAGE_TOO_LONG) => {
            refused = true;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    })?;
    ensure!(refused, "it arrived without having been refused");
    Ok(())
}

/// A stream at no great pace, whose every byte is checked, until told to stop.
struct Stream<'a> {
    stop: &'a AtomicBool,
    received: &'a AtomicU64,
}

impl Stream<'_> {
    fn run(&self, client: &Namespace, server: &Namespace, address: IpAddr) -> Result {
        const CHUNK: usize = 1 << 15;
        let listener = server.enter(|| TcpListener::bind((address, 0)).context("binding the server"))?;
        let mut sender = transfer::connect(client, listener.local_addr()?, LIMIT)?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(LIMIT))?;
        thread::scope(|scope| {
            let sending = scope.spawn(move || -> Result {
                let (mut noise, mut chunk) = (Noise::new(7), vec![0; CHUNK]);
                while !self.stop.load(Ordering::Relaxed) {
                    noise.fill(&mut chunk);
                    sender.write_all(&chunk).context("sending")?;
                    // The pace: there are others on this machine.
                    thread::park_timeout(Duration::from_millis(2));
                }
                Ok(())
            });
            let (mut noise, mut chunk, mut expected) = (Noise::new(7), vec![0; CHUNK], vec![0; CHUNK]);
            while receiver.read_exact(&mut chunk).is_ok() {
                noise.fill(&mut expected);
                ensure!(chunk == expected, "wrong bytes");
                self.received.fetch_add(CHUNK as u64, Ordering::Relaxed);
            }
            sending.join().map_err(|_| anyhow!("the sender panicked"))?
        })
    }
}

#[test]
fn a_hop_that_shrinks_under_a_transfer_and_recovers_is_followed() {
    machine_wide("a_hop_that_shrinks_under_a_transfer", |scene| {
        let (internet, sites) = two(scene, 1500, None, EAGER)?;
        let [east, west] = &sites;
        wait_for_mtu(&east.node, 1420..=1420)?;
        let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
        let stream = Stream { stop: &stop, received: &received };
        let flows = |what: &str| {
            let goal = received.load(Ordering::Relaxed) + 3_000_000;
            wait_until(what, LIMIT, || received.load(Ordering::Relaxed) >= goal)
        };
        let (client, server) = (&east.machine.namespace, &west.machine.namespace);
        let address: IpAddr = west.node.address.into();
        thread::scope(|scope| {
            let running = scope.spawn(|| stream.run(client, server, address));
            let result = (|| -> Result {
                flows("the stream to begin")?;
                narrow(&internet.router, Some(1300))?;
                let size = wait_for_mtu(&east.node, 1232..=1240)?;
                flows("the stream to go on")?;
                let large =
                    Capture::start(&internet.router, &west.machine.port, "udp and greater 1400", &[])?;
                narrow(&internet.router, None)?;
                wait_for_mtu(&east.node, 1420..=1420)?;
                flows("the stream to go on at the old size")?;
                // It is used, not only known: 1420 bytes and what is around them.
                large.wait_for_packets(100, LIMIT)?;
                ensure!(size < 1300);
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            let stream = running.join().map_err(|_| anyhow!("the stream panicked"))?;
            result.and(stream)
        })
    });
}

#[test]
fn a_jumbo_underlay_is_used() {
    machine_wide("a_jumbo_underlay_is_used", |scene| {
        let (internet, sites) = two(scene, 9000, None, "")?;
        for site in &sites {
            wait_for_mtu(&site.node, 8920..=8920)?;
        }
        let capture =
            Capture::start_bulk(&internet.router, &sites[1].machine.port, "udp and greater 8900", &[])?;
        transfers(&sites, 20_000_003)?;
        // Two transfers of 20 MB went each way: 9000 packets, most of them full.
        capture.wait_for_packets(6000, LIMIT)
    });
}

#[test]
fn a_9000_byte_card_with_a_silent_hop_of_1500_behind_it_sends_1500() {
    machine_wide("a_9000_byte_card_with_a_hop_of_1500", |scene| {
        let (internet, sites) = two(scene, 9000, Some(1500), "")?;
        for site in &sites {
            // Over IPv4 there is room for 1440.
            wait_for_mtu(&site.node, 1432..=1440)?;
        }
        let large = Capture::start(
            &internet.router,
            &sites[0].machine.port,
            &format!("udp port {PORT} and greater 1600 and src {}", sites[0].machine.address),
            &[],
        )?;
        transfers(&sites, 10_000_003)?;
        // Probes for the rest of the device's size, but no data.
        ensure!(large.packets() < 100, "{} large datagrams", large.packets());
        Ok(())
    });
}

/// What the user says holds, whatever the path carries.
#[test]
fn a_configured_mtu_is_the_most_that_is_used() {
    machine_wide("a_configured_mtu_is_the_most", |scene| {
        let (_internet, sites) = two(scene, 9000, None, "mtu = 1350")?;
        for site in &sites {
            wait_for_mtu(&site.node, 1350..=1350)?;
        }
        transfers(&sites, 1_000_003)
    });
}

#[test]
fn without_discovery_the_route_decides_and_nothing_is_probed() {
    machine_wide("without_discovery_the_route_decides", |scene| {
        let (_internet, sites) = two(scene, 1400, None, "path_mtu_discovery = false")?;
        for site in &sites {
            ensure!(mtu(&site.node)? == (1320, "route".to_owned()), "{:?}", mtu(&site.node)?);
        }
        transfers(&sites, 1_000_003)
    });
}

/// Debian's wireguard-go knows no probes: what is too large for the path goes in fragments, as it always did.
#[test]
fn a_stock_wireguard_peer_behind_1280_bytes_is_left_as_it_is() {
    machine_wide("a_stock_wireguard_peer_behind_1280_bytes", |scene| {
        let mut internet = Internet::new()?;
        let east = internet.region("east", [192, 0, 2, 0])?;
        let west = internet.region("west", [198, 51, 100, 0])?;
        for machine in [&east, &west] {
            run(machine.namespace.command("ethtool").args(["-K", "eth0", "tx-udp-segmentation", "off"]))?;
        }
        // The router fragments what leaves it by either side.
        internet.router.ip("link set lan2 mtu 1280")?;
        internet.router.ip("link set lan100 mtu 1280")?;
        let mut node = Node::new(scene, "east", &east.namespace, 1)?;
        let other = Node::new(scene, "west", &west.namespace, 2)?;
        let keys = KeyPair::generate()?;
        let mut entry = other.entry(None);
        entry.endpoint = Some(format!("{}:51820", west.address));
        entry.public_key = &keys.public;
        entry.extra = "tombolo = false";
        node.configure("", &[entry])?;
        let stock = WireGuard::start(scene, &west.namespace, Path::new("wireguard-go"))?;
        let addresses = [format!("{}/24", other.address), format!("{}/64", other.address6)];
        stock.configure(scene, &keys, 51820, &[&addresses[0], &addresses[1]])?;
        stock.set_peer(&Peer {
            public_key: &node.keys.public,
            endpoint: Some(format!("{}:{PORT}", east.address)),
            allowed_ips: &format!("{}/32,{}/128", node.address, node.address6),
            ..Peer::default()
        })?;
        node.start(scene)?;
        node.wait_for_peer("west")?;
        ensure!(mtu(&node)? == (1420, "route".to_owned()), "{:?}", mtu(&node)?);
        for (from, to, address) in
            [(&east, &west, IpAddr::from(other.address)), (&west, &east, node.address6.into())]
        {
            transfer::tcp(&from.namespace, &to.namespace, address, 5_000_003)?;
        }
        stays_true("a route's size", Duration::from_secs(1), || {
            mtu(&node).is_ok_and(|found| found == (1420, "route".to_owned()))
        })
    });
}
