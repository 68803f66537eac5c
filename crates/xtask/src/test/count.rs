//! Adding up the closing lines of `cargo test`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The fields of a closing line, in its order.
const FIELDS: [&str; 5] = ["passed", "failed", "ignored", "measured", "filtered out"];

/// The sum of all closing lines.
#[derive(Debug, Default)]
pub(crate) struct Count {
    fields: [AtomicU64; FIELDS.len()],
}

impl Count {
    /// Adds a line of output, if it is a closing line.
    pub(crate) fn add(&self, line: &str) {
        let Some((_, fields)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for field in fields.split("; ") {
            let Some((number, name)) = field.split_once(' ') else { continue };
            let position = FIELDS.iter().position(|known| *known == name);
            if let (Some(position), Ok(number)) = (position, number.parse()) {
                self.fields[position].fetch_add(number, Ordering::Relaxed);
            }
        }
    }

    /// The closing line of everything.
    pub(crate) fn line(&self, ok: bool, took: Duration) -> String {
        let fields: Vec<String> = FIELDS
            .iter()
            .zip(&self.fields)
            .map(|(name, number)| format!("{} {name}", number.load(Ordering::Relaxed)))
            .collect();
        let word = if ok { "ok" } else { "FAILED" };
        format!("test result: {word}. {}; finished in {:.2}s", fields.join("; "), took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up() {
        let count = Count::default();
        count.add(
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
        );
        count.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s");
        count.add("test count::tests::closing_lines_add_up ... ok");
        assert_eq!(
            count.line(false, Duration::from_millis(1500)),
            "test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.50s"
        );
    }
}
