//! What the figures are wanted to be, and whether they are.

use serde::Serialize;

use crate::contender::{BORINGTUN, DAEMON, FORWARDER, GOTATUN, OURS, PLAIN};
use crate::results::Results;
use crate::scenario::joining::{NETWORK, SERVER};
use crate::stage::AEAD;
use crate::statistics::median;

/// The columns of [`Judged::row`].
pub const HEADINGS: [&str; 5] = ["figure", "wanted", "measured", "rounds", ""];

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Wanted {
    figure: &'static str,
    bound: Bound,
    unit: &'static str,
    decimals: usize,
    /// One value for each round.
    values: fn(&Results) -> Vec<f64>,
}

/// A wanted figure beside the measured one.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What is measured.
    pub figure: String,
    /// The bound in words.
    pub wanted: String,
    /// The median of the rounds, in words.
    pub measured: String,
    /// One value for each round that counts.
    pub rounds: Vec<f64>,
    /// Whether the median keeps the bound.
    pub reached: bool,
    /// How many decimals mean something.
    #[serde(skip)]
    pub decimals: usize,
}

impl Judged {
    /// As a row of a table.
    pub fn row(&self) -> Vec<String> {
        let decimals = self.decimals;
        let rounds =
            self.rounds.iter().map(|value| format!("{value:.decimals$}")).collect::<Vec<_>>().join(", ");
        let verdict = if self.reached { "reached" } else { "**not reached**" };
        vec![self.figure.clone(), self.wanted.clone(), self.measured.clone(), rounds, verdict.to_owned()]
    }
}

/// Every wanted figure that was measured.
pub fn judge(results: &Results) -> Vec<Judged> {
    WANTED
        .iter()
        .filter_map(|wanted| {
            let rounds = (wanted.values)(results);
            let measured = (!rounds.is_empty()).then(|| median(&rounds))?;
            let (word, bound, reached) = match wanted.bound {
                Bound::AtLeast(bound) => ("≥", bound, measured >= bound),
                Bound::AtMost(bound) => ("≤", bound, measured <= bound),
            };
            let &Wanted { unit, decimals, .. } = wanted;
            Some(Judged {
                figure: wanted.figure.to_owned(),
                wanted: format!("{word} {bound} {unit}").trim().to_owned(),
                measured: format!("{measured:.decimals$} {unit}").trim().to_owned(),
                rounds,
                reached,
                decimals,
            })
        })
        .collect()
}

/// How many times the cost of the forwarder and the AEAD together ours is.
fn above_the_floor(results: &Results, subject: &str, figure: &str) -> Vec<f64> {
    results.by_round(|round| {
        let floor =
            results.in_round(round, FORWARDER, figure)? + results.in_round(round, AEAD, "aead_cpu")?;
        Some(results.in_round(round, subject, figure)? / floor)
    })
}

const fn times(figure: &'static str, at_least: f64, values: fn(&Results) -> Vec<f64>) -> Wanted {
    Wanted { figure, bound: Bound::AtLeast(at_least), unit: "×", decimals: 2, values }
}

const fn at_most(
    figure: &'static str,
    bound: f64,
    unit: &'static str,
    decimals: usize,
    values: fn(&Results) -> Vec<f64>,
) -> Wanted {
    Wanted { figure, bound: Bound::AtMost(bound), unit, decimals, values }
}

const fn at_least(
    figure: &'static str,
    bound: f64,
    unit: &'static str,
    values: fn(&Results) -> Vec<f64>,
) -> Wanted {
    Wanted { figure, bound: Bound::AtLeast(bound), unit, decimals: 0, values }
}

const fn at_least_gigabyte(figure: &'static str, values: fn(&Results) -> Vec<f64>) -> Wanted {
    Wanted { figure, bound: Bound::AtLeast(1.0), unit: "GB", decimals: 2, values }
}

const WANTED: &[Wanted] = &[
    times("TCP ×1, to gotatun", 6.0, |r| r.ratios(OURS, GOTATUN, "tcp_gbps")),
    times("TCP ×1, to boringtun-cli", 10.0, |r| r.ratios(OURS, BORINGTUN, "tcp_gbps")),
    times("TCP ×4, to gotatun", 7.0, |r| r.ratios(OURS, GOTATUN, "four_gbps")),
    times("TCP ×4, to boringtun-cli", 9.0, |r| r.ratios(OURS, BORINGTUN, "four_gbps")),
    times("TCP ×1 without USO, to gotatun", 6.0, |r| r.ratios(OURS, GOTATUN, "soft_tcp_gbps")),
    times("TCP ×1 without USO, to boringtun-cli", 10.0, |r| r.ratios(OURS, BORINGTUN, "soft_tcp_gbps")),
    times("TCP ×4 without USO, to gotatun", 7.0, |r| r.ratios(OURS, GOTATUN, "soft_four_gbps")),
    times("TCP ×4 without USO, to boringtun-cli", 9.0, |r| r.ratios(OURS, BORINGTUN, "soft_four_gbps")),
    at_most("daemons' CPU per GB, to forwarder + AEAD, ×1", 1.2, "×", 2, |r| {
        above_the_floor(r, OURS, "tcp_cpu")
    }),
    at_most("daemons' CPU per GB, to forwarder + AEAD, ×4", 1.2, "×", 2, |r| {
        above_the_floor(r, OURS, "four_cpu")
    }),
    times("TCP ×1 of `tombolo`, to boringtun-cli", 10.0, |r| r.ratios(DAEMON, BORINGTUN, "tcp_gbps")),
    times("TCP ×4 of `tombolo`, to boringtun-cli", 9.0, |r| r.ratios(DAEMON, BORINGTUN, "four_gbps")),
    at_most("CPU per GB of `tombolo`, to forwarder + AEAD, ×1", 1.2, "×", 2, |r| {
        above_the_floor(r, DAEMON, "tcp_cpu")
    }),
    at_most("CPU per GB of `tombolo`, to forwarder + AEAD, ×4", 1.2, "×", 2, |r| {
        above_the_floor(r, DAEMON, "four_cpu")
    }),
    at_most("daemons' CPU per GB without USO, to forwarder + AEAD, ×1", 1.2, "×", 2, |r| {
        above_the_floor(r, OURS, "soft_tcp_cpu")
    }),
    at_most("daemons' CPU per GB without USO, to forwarder + AEAD, ×4", 1.2, "×", 2, |r| {
        above_the_floor(r, OURS, "soft_four_cpu")
    }),
    times("64-byte UDP at ≤ 1 % loss, to gotatun", 2.0, |r| r.ratios(OURS, GOTATUN, "udp_kpps")),
    times("64-byte UDP at ≤ 1 % loss, to the forwarder", 0.85, |r| r.ratios(OURS, FORWARDER, "udp_kpps")),
    at_most("round trip p50, to the lower of forwarder and boringtun-cli", 1.25, "×", 2, |r| {
        r.by_round(|round| {
            let of = |subject| r.in_round(round, subject, "rtt_p50");
            Some(of(OURS)? / of(FORWARDER)?.min(of(BORINGTUN)?))
        })
    }),
    at_most("round trip p99 beside a bulk stream, to unloaded", 3.0, "×", 2, |r| {
        r.values(OURS, "loaded_ratio")
    }),
    at_most("memory idle, tombolo-wireguard", 12.0, "MB", 1, |r| r.values(OURS, "idle_mb")),
    at_most("memory idle, tombolo", 12.0, "MB", 1, |r| r.values(DAEMON, "idle_mb")),
    at_most("memory at full load, tombolo-wireguard", 40.0, "MB", 1, |r| r.values(OURS, "peak_mb")),
    at_most("memory at full load, tombolo", 40.0, "MB", 1, |r| r.values(DAEMON, "peak_mb")),
    at_most("memory per idle configured peer", 1000.0, "bytes", 0, |r| r.values(OURS, "idle_peer_bytes")),
    at_most("memory per active peer", 8000.0, "bytes", 0, |r| r.values(OURS, "active_peer_bytes")),
    at_most("throughput lost to 10,000 configured and 1,000 active peers", 5.0, "%", 1, |r| {
        r.values(OURS, "peers_loss")
    }),
    at_most("throughput lost to handshakes, to their share of the processors", 1.1, "×", 2, |r| {
        r.values(OURS, "handshake_loss_to_share")
    }),
    at_most("throughput lost to 50,000 junk initiations/s", 15.0, "%", 1, |r| r.values(OURS, "junk_loss")),
    at_most("the same from forged addresses", 15.0, "%", 1, |r| r.values(OURS, "forged_loss")),
    at_most("memory under that flood", 32.0, "MB", 1, |r| r.values(OURS, "junk_peak_mb")),
    times("TCP at 20 % loss, to the line without a VPN", 0.9, |r| r.ratios(OURS, PLAIN, "lossy_mbps")),
    times("TCP at 20 % reordering, to the line without a VPN", 0.9, |r| {
        r.ratios(OURS, PLAIN, "reordering_mbps")
    }),
    times("TCP at loss, reordering, duplication, to the line without a VPN", 0.9, |r| {
        r.ratios(OURS, PLAIN, "impaired_mbps")
    }),
    at_most("memory after that", 40.0, "MB", 1, |r| r.values(OURS, "impaired_peak_mb")),
    at_least_gigabyte("carried on a wire of 1280 bytes", |r| r.values(DAEMON, "u1280_gb")),
    at_least_gigabyte("carried on one that hides its 1280 bytes", |r| r.values(DAEMON, "hidden_gb")),
    // 9000 less 80: the outer headers over IPv6.
    at_least("largest packet on a wire of 9000 bytes", 8920.0, "bytes", |r| r.values(DAEMON, "u9000_mtu")),
    at_least("joins a second, one processor", 500.0, "", |r| r.values(SERVER, "joins_per_second")),
    at_least("look-ups a second, one processor", 20_000.0, "", |r| r.values(SERVER, "look_ups_per_second")),
    at_most("memory of a server with 10,000 registered nodes", 100.0, "MB", 1, |r| {
        r.values(SERVER, "registered_mb")
    }),
    at_most("a membership", 600.0, "bytes", 0, |r| r.values(SERVER, "membership_bytes")),
    at_most("from `tombolo join` to the first byte of another node", 1.0, "s", 2, |r| {
        r.values(NETWORK, "first_byte_seconds")
    }),
    times("relayed TCP ×1, to direct", 0.4, |r| r.values(NETWORK, "relayed_to_direct")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn the_median_is_held_against_the_bound_and_what_was_not_measured_is_left_out() {
        let mut samples = Vec::new();
        for (round, ours) in [5.9, 6.1, 7.0].into_iter().enumerate() {
            samples.push(sample(round as u32, OURS, "tcp_gbps", ours));
            samples.push(sample(round as u32, GOTATUN, "tcp_gbps", 1.0));
            samples.push(sample(round as u32, OURS, "idle_mb", 13.0));
        }
        let judged = judge(&Results { rounds: 3, samples, ..Results::default() });
        assert_eq!(judged.len(), 2);
        assert_eq!(judged[0].row(), ["TCP ×1, to gotatun", "≥ 6 ×", "6.10 ×", "5.90, 6.10, 7.00", "reached"]);
        assert_eq!(
            judged[1].row(),
            ["memory idle, tombolo-wireguard", "≤ 12 MB", "13.0 MB", "13.0, 13.0, 13.0", "**not reached**"]
        );
    }

    #[test]
    fn the_floor_is_the_forwarder_and_the_aead_of_the_same_round() {
        let samples = vec![
            sample(0, OURS, "tcp_cpu", 2.5),
            sample(0, FORWARDER, "tcp_cpu", 1.0),
            sample(0, AEAD, "aead_cpu", 1.0),
            sample(1, OURS, "tcp_cpu", 9.0),
        ];
        let results = Results { rounds: 2, samples, ..Results::default() };
        assert_eq!(above_the_floor(&results, OURS, "tcp_cpu"), [1.25]);
    }
}
