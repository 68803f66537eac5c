//! Everything that goes wrong with machines and lines, by chance and again and again, while connections go on. What must hold: each
//! connection advances soon where there is any way for it, no byte is lost or altered, and nothing of the overlay is on the wire.
//!
//! ```text
//!   server 192.0.2.10 ─────┐          ┌─── alpha 198.51.100.10
//!   second 100.70.1.10 ──── router ────── beta 203.0.113.10
//!                                     └─── gamma 100.80.2.10
//! ```
//!
//! `TOMBOLO_TEST_SEED` sets the seed, which is printed, and `TOMBOLO_TEST_EVENTS` how much goes wrong.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    host::Host,
    machine_wide,
    topology::Internet,
    transfer::{self, Noise, Stream},
    wait::{now, wait_until},
};

/// On a machine with other work too; with nothing else, what takes longest is that a relay which was away for long is called again.
const LIMIT: Duration = Duration::from_secs(90);
/// Bytes of a transfer that are enough to say that it goes on.
const MORE: u64 = 200_000;
const PLACES: [(&str, [u8; 4]); 5] = [
    ("server", [192, 0, 2, 0]),
    ("second", [100, 70, 1, 0]),
    ("alpha", [198, 51, 100, 0]),
    ("beta", [203, 0, 113, 0]),
    ("gamma", [100, 80, 3, 0]),
];
/// The first so many are lighthouses and relays; all others talk to each other.
const SERVERS: usize = 2;
const MEMBERS: [usize; 3] = [2, 3, 4];
/// Who sends to whom.
const PAIRS: [(usize, usize); 3] = [(2, 3), (3, 4), (4, 2)];
/// Of 100 pairs of machines, and of both address families each.
const BLOCKED: u64 = 35;

/// Numbers that are the same for the same seed.
struct Dice(Noise);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}

/// Which families do not pass between two machines: IPv4, IPv6.
type Cut = [bool; 2];

struct Chaos {
    internet: Internet,
    hosts: Vec<Host>,
    cuts: Vec<(usize, usize, Cut)>,
    away: Option<usize>,
    dice: Dice,
}

impl Chaos {
    fn new(scene: &Scene, seed: u64) -> Result<Self> {
        let mut internet = Internet::new()?;
        let hosts = PLACES.iter().map(|(name, subnet)| Host::new(scene, &mut internet, name, *subnet));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let token = hosts[0].init(&["--name", "server"])?;
        hosts[1].join("second", &hosts[0].token(&["--role", "lighthouse,relay"])?)?;
        let endpoint = hosts[1].machine.address.to_string();
        hosts[0].run(&["network", "server", "add", "second", "--endpoint", &endpoint])?;
        hosts[2].join(PLACES[2].0, &token)?;
        for number in [3, 4] {
            hosts[number].join(PLACES[number].0, &hosts[0].token(&[])?)?;
        }
        let router = &internet.router;
        router.nft("add table inet chaos")?;
        router.nft("add chain inet chaos forward { type filter hook forward priority 0 ; }")?;
        router.nft("add chain inet chaos leak { type filter hook prerouting priority -300 ; }")?;
        router.nft("add counter inet chaos leaked")?;
        for address in hosts[0].addresses()? {
            let (family, overlay) = match address {
                std::net::IpAddr::V4(address) => ("ip", format!("{address}/16")),
                std::net::IpAddr::V6(address) => ("ip6", format!("{address}/64")),
            };
            for end in ["saddr", "daddr"] {
                router.nft(&format!(
                    "add rule inet chaos leak {family} {end} {overlay} counter name leaked drop"
                ))?;
            }
        }
        Ok(Self { internet, hosts, cuts: Vec::new(), away: None, dice: Dice(Noise::new(seed)) })
    }

    fn leaked(&self) -> Result<u64> {
        let mut command = self.internet.router.command("nft");
        let shown =
            tombolo_tests::command::run(command.args(["list", "counter", "inet", "chaos", "leaked"]))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "packets");
        Ok(words.nth(1).context("a number of packets")?.parse()?)
    }

    /// Machines outside of the network see nothing of the overlay; one of them says something to it, so that the count is seen to count.
    fn check_counter(&mut self) -> Result {
        let stranger = self.internet.region("stranger", [100, 90, 4, 0])?;
        let target = self.hosts[2].address()?;
        stranger.namespace.enter(|| {
            std::net::UdpSocket::bind(("0.0.0.0", 0))?.send_to(b"in clear", (target, 9))?;
            Ok(())
        })?;
        ensure!(self.leaked()? == 1, "{}", self.leaked()?);
        Ok(())
    }

    /// Servers are known by their IPv4 address.
    fn serves(&self, server: usize, member: usize) -> bool {
        let cut = self.cuts.iter().find(|(a, b, _)| (*a, *b) == (server, member));
        self.away != Some(server) && !cut.is_some_and(|(_, _, cut)| cut[0])
    }

    /// Every two members are served by the same server. That a line between them is open may be what none of them can know: only
    /// lighthouses tell of addresses, and of public ones only those that answer them.
    fn has_ways(&self) -> bool {
        PAIRS.iter().all(|&(one, other)| {
            (0..SERVERS).any(|server| self.serves(server, one) && self.serves(server, other))
        })
    }

    fn draw_cuts(&mut self) {
        loop {
            self.cuts.clear();
            for one in 0..PLACES.len() {
                for other in one + 1..PLACES.len() {
                    let mut cut = || self.dice.below(100) < BLOCKED;
                    self.cuts.push((one, other, [cut(), cut()]));
                }
            }
            if self.has_ways() {
                return;
            }
        }
    }

    fn cut(&self) -> Result {
        let mut rules = String::from("flush chain inet chaos forward ;");
        for (one, other, [v4, v6]) in &self.cuts {
            let (one, other) = (&self.hosts[*one].machine, &self.hosts[*other].machine);
            for (from, to) in [(one, other), (other, one)] {
                let addresses = [
                    ("ip", *v4, from.address.to_string(), to.address.to_string()),
                    ("ip6", *v6, from.address6.to_string(), to.address6.to_string()),
                ];
                for (family, _, from, to) in addresses.into_iter().filter(|(_, cut, ..)| *cut) {
                    rules += &format!(
                        "add rule inet chaos forward {family} saddr {from} {family} daddr {to} drop ;"
                    );
                }
            }
        }
        self.internet.router.nft(&rules)
    }

    fn describe(&self, happened: &str, from: usize, to: usize) -> String {
        let status =
            |number: usize| self.hosts[number].run(&["status"]).unwrap_or_else(|error| format!("{error:#}"));
        let [sender, receiver] = [from, to].map(|number| PLACES[number].0);
        format!("{happened}: from {sender} to {receiver}\n{}\n{}", status(from), status(to))
    }

    fn member(&mut self) -> usize {
        MEMBERS[self.dice.below(MEMBERS.len() as u64) as usize]
    }

    /// Something happens. Says what.
    fn happen(&mut self) -> Result<String> {
        let name = |number: usize| PLACES[number].0;
        let what = match self.dice.below(10) {
            0..=4 => {
                self.draw_cuts();
                self.cut()?;
                let cut = self.cuts.iter().filter(|(_, _, cut)| *cut != [false; 2]);
                let cut = cut.map(|(one, other, cut)| {
                    let families: String = cut
                        .iter()
                        .zip(["4", "6"])
                        .filter(|(cut, _)| **cut)
                        .map(|(_, family)| family)
                        .collect();
                    format!("{}-{} {families}", name(*one), name(*other))
                });
                format!("cut: {}", cut.collect::<Vec<_>>().join(", "))
            }
            5 => {
                let member = self.member();
                self.hosts[member].kill()?;
                self.hosts[member].run(&["up"])?;
                format!("{} crashes", name(member))
            }
            6 => {
                let member = self.member();
                self.hosts[member].restart()?;
                format!("{} restarts", name(member))
            }
            7 => {
                let (member, last) = (self.member(), 20 + self.dice.below(200) as u8);
                self.hosts[member].machine.set_address(last)?;
                self.cut()?;
                format!("{} is at .{last}", name(member))
            }
            _ => match self.away.take() {
                Some(server) => {
                    self.hosts[server].run(&["up"])?;
                    format!("{} is back", name(server))
                }
                None => {
                    let server = self.dice.below(SERVERS as u64) as usize;
                    self.away = Some(server);
                    if !self.has_ways() {
                        self.away = None;
                        return self.happen();
                    }
                    self.hosts[server].kill()?;
                    format!("{} dies", name(server))
                }
            },
        };
        Ok(what)
    }
}

fn number(variable: &str, default: u64) -> Result<u64> {
    std::env::var(variable)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{variable}={text}")))
}

fn go_wrong(scene: &Scene, seed: u64, events: u64) -> Result {
    scene.say(&format!("seed {seed} (TOMBOLO_TEST_SEED sets it)"));
    let mut chaos = Chaos::new(scene, seed)?;
    chaos.check_counter()?;
    let mut streams = Vec::new();
    for (from, to) in PAIRS {
        let (from, to) = (&chaos.hosts[from], &chaos.hosts[to]);
        transfer::reach(from.namespace(), to.namespace(), to.address()?, LIMIT)?;
        streams.push(Stream::start(from.namespace(), to.namespace(), to.address()?)?);
    }
    let mut longest = Duration::ZERO;
    for number in 0..events {
        let mut happened = vec![chaos.happen()?];
        if chaos.dice.below(3) == 0 {
            happened.push(chaos.happen()?);
        }
        let happened = happened.join("; ");
        let start = now();
        for (stream, (from, to)) in streams.iter_mut().zip(PAIRS) {
            let advanced = stream.advance(MORE, LIMIT);
            advanced.with_context(|| chaos.describe(&format!("{number}: {happened}"), from, to))?;
        }
        longest = longest.max(now() - start);
        scene.say(&format!("{number}: {happened}: {:?}", now() - start));
    }
    scene.say(&format!("{events} events, at most {longest:?} until all connections went on"));
    chaos.cuts.clear();
    chaos.cut()?;
    if let Some(server) = chaos.away.take() {
        chaos.hosts[server].run(&["up"])?;
    }
    for (from, to) in PAIRS {
        let path = || chaos.hosts[from].path(PLACES[to].0);
        wait_until("everything is direct again", LIMIT, || path().as_deref() == Some("direct"))?;
    }
    for stream in streams {
        stream.finish()?;
    }
    ensure!(chaos.leaked()? == 1, "{} packets of the overlay were on the wire", chaos.leaked()? - 1);
    Ok(())
}

#[test]
fn connections_outlive_what_goes_wrong_and_nothing_leaks() {
    machine_wide("connections_outlive_what_goes_wrong_and_nothing_leaks", |scene| {
        go_wrong(scene, number("TOMBOLO_TEST_SEED", 1)?, number("TOMBOLO_TEST_EVENTS", 8)?)
    });
}
