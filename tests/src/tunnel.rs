//! Two ends of one WireGuard tunnel, each driven by the standard `wg`.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!        2001:db8:2::a           2001:db8:64::a
//!   10.9.0.1, fd09::1 ═ tunnel ═ 10.9.0.2, fd09::2
//! ```

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;

use crate::{
    Result, Scene, scene,
    topology::{Internet, Machine},
    wait::wait_for,
    wireguard_go::{KeyPair, Peer, WireGuard},
};

/// The port of both ends.
pub const PORT: u16 = 51820;

/// One end.
#[derive(Debug)]
pub struct End {
    /// Where it is.
    pub machine: Machine,
    /// Its keys.
    pub keys: KeyPair,
    /// The running implementation.
    pub wireguard: WireGuard,
    /// Its addresses inside the tunnel.
    pub inside: [IpAddr; 2],
}

/// Both ends, and the Internet between them.
#[derive(Debug)]
pub struct Tunnel {
    /// What lies between.
    pub internet: Internet,
    /// The end at `east`.
    pub east: End,
    /// The end at `west`.
    pub west: End,
}

/// How the ends know each other.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// A preshared key of each end, in base64: they should be equal.
    pub preshared_keys: Option<[String; 2]>,
    /// The ends know each other's endpoint: east, west.
    pub knows_endpoint: [bool; 2],
    /// The tunnel runs over IPv6.
    pub over_ipv6: bool,
    /// Seconds between keepalives of the eastern end.
    pub keepalive: Option<u16>,
    /// The MTU of both ends; 1420 unless told.
    pub mtu: Option<u16>,
}

impl Tunnel {
    /// Two configured ends, run by the programs `east` and `west`. Nothing is sent yet, unless there is
    /// a keepalive.
    ///
    /// # Errors
    /// When one does not start.
    pub fn new(scene: &Scene, east: &Path, west: &Path, options: &Options) -> Result<Self> {
        let mut internet = Internet::new()?;
        let east = End::new(scene, internet.region("east", [192, 0, 2, 0])?, east, 1)?;
        let west = End::new(scene, internet.region("west", [198, 51, 100, 0])?, west, 2)?;
        let tunnel = Self { internet, east, west };
        for (position, end, other) in [(0, &tunnel.east, &tunnel.west), (1, &tunnel.west, &tunnel.east)] {
            if let Some(mtu) = options.mtu {
                end.machine.namespace.ip(&format!("link set {} mtu {mtu}", end.wireguard.interface))?;
            }
            let file =
                options.preshared_keys.as_ref().map(|keys| end.secret(scene, &keys[position])).transpose()?;
            let endpoint = match options.over_ipv6 {
                true => format!("[{}]:{PORT}", other.machine.address6),
                false => format!("{}:{PORT}", other.machine.address),
            };
            end.wireguard.set_peer(&Peer {
                public_key: &other.keys.public,
                endpoint: options.knows_endpoint[position].then_some(endpoint),
                allowed_ips: &match options.mtu {
                    // Linux takes IPv6 off an interface that cannot carry its least packet.
                    Some(mtu) if mtu < 1280 => format!("{}/32", other.inside[0]),
                    _ => format!("{}/32,{}/128", other.inside[0], other.inside[1]),
                },
                preshared_key: file.as_deref(),
                keepalive: options.keepalive.filter(|_| position == 0),
            })?;
        }
        Ok(tunnel)
    }
}

impl End {
    fn new(scene: &Scene, machine: Machine, program: &Path, number: u16) -> Result<Self> {
        let keys = KeyPair::generate()?;
        let wireguard = WireGuard::start(scene, &machine.namespace, program)?;
        let inside =
            [IpAddr::from([10, 9, 0, number as u8]), IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, number])];
        wireguard.configure(
            scene,
            &keys,
            PORT,
            &[&format!("{}/32", inside[0]), &format!("{}/128", inside[1])],
        )?;
        Ok(Self { machine, keys, wireguard, inside })
    }

    fn secret(&self, scene: &Scene, key: &str) -> Result<PathBuf> {
        scene.write(&format!("{}.psk", self.wireguard.interface), key)
    }

    /// Whether a datagram to `other` arrives there, inside the tunnel. Sends again until `limit`.
    ///
    /// # Errors
    /// When none arrives.
    pub fn reaches(&self, other: &Self, family: usize, limit: Duration) -> Result {
        let address = other.inside[family];
        let target = other.machine.namespace.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
        target.set_read_timeout(Some(Duration::from_millis(50)))?;
        let port = target.local_addr()?.port();
        let source = self.machine.namespace.enter(|| Ok(UdpSocket::bind((self.inside[family], 0))?))?;
        wait_for(&format!("a datagram from {} at {address}", self.inside[family]), limit, || {
            // Refused while there is no session: that is what the wait is for.
            let _ = source.send_to(b"are you there", (address, port));
            let mut buffer = [0; 64];
            match target.recv_from(&mut buffer) {
                Ok((_, from)) => {
                    ensure!(from.ip() == self.inside[family], "a datagram from {from}");
                    Ok(Some(()))
                }
                Err(_) => Ok(None),
            }
        })
    }
}

/// Runs `test` twice: with `ours` in the east and the reference in the west, and the other way around.
///
/// # Errors
/// The first error of either, after a line that says which it was.
pub fn both_ways(
    scene: &Scene,
    ours: &Path,
    reference: &Path,
    options: &Options,
    test: impl Fn(&scene::Scene, Tunnel) -> Result,
) -> Result {
    use anyhow::Context;
    test(scene, Tunnel::new(scene, ours, reference, options)?).context("ours in the east")?;
    test(scene, Tunnel::new(scene, reference, ours, options)?).context("ours in the west")
}
