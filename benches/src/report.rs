//! The tables: medians, ratios within the same round, and spread.

use std::fmt::Write as _;

use crate::comparison::{Outcome, Results};
use crate::measurement::Measurement;
use crate::statistics::{median, spread};

/// A column: its heading, its value in a measurement, and how many decimals to show.
struct Metric {
    heading: &'static str,
    value: fn(&Measurement) -> f64,
    decimals: usize,
}

const METRICS: [Metric; 13] = [
    Metric { heading: "TCP Gbit/s", value: |m| m.tcp.gigabits_per_second, decimals: 2 },
    Metric { heading: "reverse", value: |m| m.tcp_reverse.gigabits_per_second, decimals: 2 },
    Metric { heading: "four", value: |m| m.tcp_four.gigabits_per_second, decimals: 2 },
    Metric { heading: "daemons' CPU s/GB", value: |m| m.tcp.daemon_seconds_per_gigabyte, decimals: 2 },
    Metric { heading: "machine's CPU s/GB", value: |m| m.tcp.machine_seconds_per_gigabyte, decimals: 2 },
    Metric {
        heading: "UDP64 kpps at ≤1 % loss",
        value: |m| m.small_packets.carried_per_second / 1e3,
        decimals: 0,
    },
    Metric { heading: "UDP64 flood kpps", value: |m| m.small_packets.flood_per_second / 1e3, decimals: 0 },
    Metric { heading: "flood loss %", value: |m| m.small_packets.flood_loss * 100.0, decimals: 0 },
    Metric { heading: "round trips/s", value: |m| m.round_trips.per_second, decimals: 0 },
    Metric { heading: "median µs", value: |m| m.round_trips.median_microseconds, decimals: 0 },
    Metric { heading: "p99 µs", value: |m| m.round_trips.p99_microseconds, decimals: 0 },
    Metric { heading: "idle MiB", value: |m| m.idle_mebibytes, decimals: 1 },
    Metric { heading: "peak MiB", value: |m| m.peak_mebibytes, decimals: 1 },
];

/// One outcome on one line, for whoever watches.
pub fn line(outcome: &Outcome) -> String {
    let mut line = format!("{:14}", outcome.contender);
    match (&outcome.measurement, &outcome.error) {
        (Some(measurement), _) => {
            for metric in METRICS {
                let _ =
                    write!(line, "{} {:.*}  ", metric.heading, metric.decimals, (metric.value)(measurement));
            }
            if !outcome.undisturbed {
                let share = measurement.foreign_share * 100.0;
                let _ = write!(line, "[left out: others took {share:.0} % of the processors]");
            }
        }
        (None, error) => {
            let _ = write!(line, "FAILED: {}", error.as_deref().unwrap_or("interrupted"));
        }
    }
    line
}

/// The tables of all that counts, in Markdown; the ratios are to `base`.
pub fn tables(results: &Results, base: &str) -> String {
    let mut medians = vec![row("median (runs)", METRICS.iter().map(|metric| metric.heading.to_owned()))];
    let mut ratios = vec![row(&format!("× {base}"), METRICS.iter().map(|metric| metric.heading.to_owned()))];
    let mut spreads = vec![row("spread", METRICS.iter().map(|metric| metric.heading.to_owned()))];
    for (name, version) in &results.contenders {
        let runs: Vec<&Measurement> =
            results.rounds.iter().filter_map(|round| counted(round, name)).collect();
        if runs.is_empty() {
            continue;
        }
        let values = |metric: &Metric| runs.iter().map(|run| (metric.value)(run)).collect::<Vec<f64>>();
        let title = if version.is_empty() { name.clone() } else { format!("{name}, {version}") };
        medians.push(row(
            &format!("{title} ({})", runs.len()),
            METRICS.iter().map(|metric| format!("{:.*}", metric.decimals, median(&values(metric)))),
        ));
        spreads.push(row(
            name,
            METRICS.iter().map(|metric| format!("{:.0} %", spread(&values(metric)) * 100.0)),
        ));
        ratios.push(row(
            name,
            METRICS.iter().map(|metric| {
                let in_round: Vec<f64> = results
                    .rounds
                    .iter()
                    .filter_map(|round| Some((counted(round, name)?, counted(round, base)?)))
                    .map(|(own, base)| (metric.value)(own) / (metric.value)(base))
                    .filter(|ratio| ratio.is_finite())
                    .collect();
                if in_round.is_empty() { "–".into() } else { format!("{:.2}", median(&in_round)) }
            }),
        ));
    }
    let heading = format!(
        "Linux {}, {} processors, {} s for each TCP transfer, UDP segmentation on the wire {}",
        results.kernel,
        results.processors,
        results.seconds,
        if results.udp_segmentation { "on" } else { "off" },
    );
    let mut text = format!("\n{heading}\n\n");
    for table in [&medians, &ratios, &spreads] {
        for (index, row) in table.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}|", ["---"].repeat(row.len()).join("|"));
            }
        }
        text.push('\n');
    }
    text
}

fn row(title: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(title.to_owned()).chain(cells).collect()
}

fn counted<'a>(round: &'a [Outcome], name: &str) -> Option<&'a Measurement> {
    round.iter().find(|outcome| outcome.contender == name && outcome.undisturbed)?.measurement.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::round_trip::RoundTrips;
    use crate::load::small_packets::SmallPackets;
    use crate::load::transfer::Throughput;

    fn outcome(contender: &str, gigabits_per_second: f64, undisturbed: bool) -> Outcome {
        let transfer = Throughput {
            gigabits_per_second,
            daemon_seconds_per_gigabyte: 1.0,
            machine_seconds_per_gigabyte: 2.0,
            retransmissions: 0,
        };
        let measurement = Measurement {
            tcp: transfer,
            tcp_reverse: transfer,
            tcp_four: transfer,
            small_packets: SmallPackets { carried_per_second: 1e5, flood_per_second: 2e5, flood_loss: 0.0 },
            round_trips: RoundTrips { per_second: 1e4, median_microseconds: 90.0, p99_microseconds: 200.0 },
            idle_mebibytes: 4.0,
            peak_mebibytes: 8.0,
            foreign_share: 0.0,
        };
        Outcome { contender: contender.into(), measurement: Some(measurement), error: None, undisturbed }
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_disturbed_runs_do_not_count() {
        let failed = Outcome {
            contender: "b".into(),
            measurement: None,
            error: Some("no".into()),
            undisturbed: false,
        };
        let results = Results {
            kernel: "6.18".into(),
            processors: 2.0,
            seconds: 8,
            udp_segmentation: true,
            contenders: vec![("a".into(), String::new()), ("b".into(), "b 1.0".into())],
            rounds: vec![
                vec![outcome("a", 1.0, true), outcome("b", 3.0, true)],
                vec![outcome("a", 2.0, true), outcome("b", 100.0, false)],
                vec![outcome("a", 4.0, true), failed],
            ],
        };
        let text = tables(&results, "a");
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        assert!(line("| a (3) | 2.00 |").is_some(), "{text}");
        assert!(line("| b, b 1.0 (1) | 3.00 |").is_some(), "{text}");
        assert!(line("| b | 3.00 |").is_some(), "{text}");
        assert!(line("| a | 150 % |").is_some(), "{text}");
        let widths: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert!(widths.iter().all(|&width| width == METRICS.len() + 2), "{text}");
    }
}
