//! The report in Markdown: what is wanted and what was reached, then medians with their spread, and
//! ratios within the same round.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Result;
use crate::results::{Results, Sample};
use crate::statistics::{median, spread};
use crate::tables::{Column, TABLES, Table};
use crate::wanted;

/// One sample on one line, for whoever watches.
pub fn line(sample: &Sample) -> String {
    let mut line = format!("{}: {:14}", sample.load, sample.subject);
    if let Some(error) = &sample.error {
        let _ = write!(line, " FAILED: {error}");
    }
    for (figure, value) in &sample.figures {
        let _ = write!(line, " {figure} {value:.2}");
    }
    if sample.error.is_none() && !sample.undisturbed {
        let _ =
            write!(line, " [left out: others took {:.0} % of the processors]", sample.foreign_share * 100.0);
    }
    line
}

/// The results as JSON, with what is wanted beside what was reached.
///
/// # Errors
/// Never for what [`Results`] can hold.
pub fn with_summary(results: &Results) -> Result<Value> {
    let mut value = serde_json::to_value(results)?;
    value["wanted"] = serde_json::to_value(wanted::judge(results))?;
    Ok(value)
}

/// Everything in Markdown; the ratios are to `base`.
pub fn report(results: &Results, base: &str) -> String {
    let mut text = format!(
        "\nLinux {}, {} processors {}, TCP with {}, {} rounds, {} s for each transfer. Each cell: the median of the rounds, and how far \
         they lie around it.\n",
        results.kernel,
        results.processors,
        results.processor_name,
        results.congestion_control,
        results.rounds,
        results.seconds
    );
    let judged = wanted::judge(results);
    if !judged.is_empty() {
        text += "\n### Wanted and reached\n\n";
        let rows = judged.iter().map(wanted::Judged::row);
        write_rows(&mut text, wanted::HEADINGS.map(str::to_owned).to_vec(), rows);
    }
    for table in TABLES {
        write_table(&mut text, results, table, base);
    }
    if !results.steps.is_empty() {
        text += "\n### Steps of the data path, alone\n\n";
        let rows = results.steps.iter().map(|step| {
            let times = [step.minimum_nanoseconds, step.median_nanoseconds].map(|time| format!("{time:.1}"));
            [step.name.to_owned(), step.variant.to_owned()].into_iter().chain(times).collect()
        });
        let headings = ["step", "variant", "ns, minimum", "ns, median"].map(str::to_owned).to_vec();
        write_rows(&mut text, headings, rows);
    }
    let failures: Vec<&Sample> = results.samples.iter().filter(|sample| !sample.undisturbed).collect();
    if !failures.is_empty() {
        text += "\n### Left out\n\n";
        for sample in failures {
            let _ = writeln!(text, "- round {}, {}", sample.round + 1, line(sample).replace('\n', " "));
        }
    }
    text
}

fn write_table(text: &mut String, results: &Results, table: &Table, base: &str) {
    let columns: Vec<&Column> = table
        .columns
        .iter()
        .filter(|Column(_, figure, _)| {
            results.samples.iter().any(|sample| sample.figures.contains_key(*figure))
        })
        .collect();
    if columns.is_empty() {
        return;
    }
    let cell = |values: Vec<f64>, decimals: usize| match values.len() {
        0 => "–".to_owned(),
        1 => format!("{:.decimals$}", values[0]),
        _ => format!("{:.decimals$} (±{:.0} %)", median(&values), spread(&values) * 50.0),
    };
    let rows = |decimals: Option<usize>, value: &dyn Fn(&str, &Column) -> Vec<f64>| -> Vec<Vec<String>> {
        subjects(results)
            .into_iter()
            .map(|(subject, title)| {
                let cells =
                    columns.iter().map(|column| cell(value(&subject, column), decimals.unwrap_or(column.2)));
                std::iter::once(title).chain(cells).collect::<Vec<String>>()
            })
            .filter(|row| row[1..].iter().any(|cell| cell != "–"))
            .collect()
    };
    let headings = |first: &str| {
        std::iter::once(first.to_owned()).chain(columns.iter().map(|column| column.0.to_owned())).collect()
    };
    let _ = write!(text, "\n### {}\n\n", table.title);
    write_rows(
        text,
        headings("median"),
        rows(None, &|subject, column| results.values(subject, column.1)).into_iter(),
    );
    if table.ratios && columns.iter().any(|column| results.median(base, column.1).is_some()) {
        text.push('\n');
        let ratios = rows(Some(2), &|subject, column| results.ratios(subject, base, column.1));
        write_rows(text, headings(&format!("× {base}")), ratios.into_iter());
    }
}

/// Names and titles: the contenders in their order, then whoever else has figures.
fn subjects(results: &Results) -> Vec<(String, String)> {
    let mut subjects: Vec<(String, String)> = results
        .contenders
        .iter()
        .map(|(name, version)| {
            let title = if version.is_empty() { name.clone() } else { format!("{name} ({version})") };
            (name.clone(), title)
        })
        .collect();
    for sample in &results.samples {
        if subjects.iter().all(|(name, _)| *name != sample.subject) {
            subjects.push((sample.subject.clone(), sample.subject.clone()));
        }
    }
    subjects
}

fn write_rows(text: &mut String, headings: Vec<String>, rows: impl Iterator<Item = Vec<String>>) {
    let rule = vec!["---".to_owned(); headings.len()];
    for row in [headings, rule].into_iter().chain(rows) {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn medians_with_spread_ratios_and_what_was_left_out_are_shown() {
        let mut disturbed = sample(2, "b", "tcp_gbps", 100.0);
        disturbed.undisturbed = false;
        let results = Results {
            rounds: 3,
            contenders: vec![("a".into(), String::new()), ("b".into(), "b 1.0".into())],
            samples: vec![
                sample(0, "a", "tcp_gbps", 1.0),
                sample(1, "a", "tcp_gbps", 2.0),
                sample(2, "a", "tcp_gbps", 4.0),
                sample(0, "b", "tcp_gbps", 3.0),
                disturbed,
            ],
            ..Results::default()
        };
        let text = report(&results, "a");
        for line in [
            "| median | TCP ×1 Gbit/s |",
            "| a | 2.00 (±75 %) |",
            "| b (b 1.0) | 3.00 |",
            "| b (b 1.0) | 3.00 |",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("- round 3, load: b"), "{text}");
        assert!(!text.contains("Small packets"), "{text}");
        assert!(with_summary(&results).unwrap()["samples"].is_array());
    }
}
