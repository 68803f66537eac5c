//! What the demonstration prints: a line for each step, and a table of claims at the end.

use std::time::Instant;

use tombolo_tests::wait;

/// The claims so far, and when the story began.
#[derive(Debug)]
pub(super) struct Report {
    start: Instant,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    text: &'static str,
    holds: bool,
    evidence: String,
}

impl Report {
    /// An empty report; the clock runs.
    pub(super) fn start() -> Self {
        Self { start: wait::now(), claims: Vec::new() }
    }

    /// A line of progress.
    pub(super) fn step(&self, line: impl AsRef<str>) {
        println!("[{:5.1} s] {}", (wait::now() - self.start).as_secs_f64(), line.as_ref());
    }

    /// Notes whether a claim holds, and how one can tell.
    pub(super) fn claim(&mut self, text: &'static str, holds: bool, evidence: impl Into<String>) {
        self.claims.push(Claim { text, holds, evidence: evidence.into() });
    }

    /// Prints the table, and says whether every claim holds.
    pub(super) fn close(&self) -> bool {
        let width = self.claims.iter().map(|claim| claim.text.chars().count()).max().unwrap_or(0);
        println!();
        for claim in &self.claims {
            let word = if claim.holds { "holds" } else { "FAILS" };
            let mut lines = claim.evidence.lines();
            println!("{word}  {:<width$}  {}", claim.text, lines.next().unwrap_or_default());
            for line in lines {
                println!("       {:<width$}  {line}", "");
            }
        }
        let failed = self.claims.iter().filter(|claim| !claim.holds).count();
        let seconds = (wait::now() - self.start).as_secs_f64();
        match failed {
            0 => println!("\nAll {} claims hold, after {seconds:.0} s.", self.claims.len()),
            _ => println!("\n{failed} of {} claims FAIL, after {seconds:.0} s.", self.claims.len()),
        }
        failed == 0 && !self.claims.is_empty()
    }
}
