//! Rounds in which every contender has its turn, so that what changes on the machine in the
//! meantime meets all of them.

use std::path::PathBuf;

use serde::Serialize;
use tombolo_tests::interrupt;

use crate::contender::Contender;
use crate::measurement::{Measurement, measure};
use crate::{Result, report};

/// How often a run that others disturbed is repeated.
const RETRIES: u32 = 2;

/// What is to be compared, and how.
#[derive(Debug)]
pub struct Plan {
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// How often each is measured.
    pub rounds: u32,
    /// Length of each TCP transfer.
    pub seconds: u32,
    /// Whom the ratios refer to.
    pub base: String,
    /// Whether the wire carries UDP super-datagrams whole.
    pub udp_segmentation: bool,
    /// Share of the processors that others may take during a run.
    pub max_foreign: f64,
    /// Where all figures go.
    pub json: Option<PathBuf>,
    /// Where the tables go, besides standard output.
    pub markdown: Option<PathBuf>,
}

/// All figures, as they are written to the JSON file.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The running kernel.
    pub kernel: String,
    /// Number of processors.
    pub processors: f64,
    /// Length of each TCP transfer in seconds.
    pub seconds: u32,
    /// Whether the wire carried UDP super-datagrams whole.
    pub udp_segmentation: bool,
    /// Name and version of each contender, in the order of the tables.
    pub contenders: Vec<(String, String)>,
    /// For each round, what came of each contender.
    pub rounds: Vec<Vec<Outcome>>,
}

/// What came of one contender in one round.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub contender: String,
    /// The figures, if it got through.
    pub measurement: Option<Measurement>,
    /// Why it did not.
    pub error: Option<String>,
    /// Whether the figures count: others left the machine alone.
    pub undisturbed: bool,
}

/// Measures, and prints the tables. Whatever was measured before an interruption is reported.
///
/// # Errors
/// On an interruption, or when a file cannot be written.
pub fn run(plan: &Plan) -> Result {
    let mut results = Results {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: crate::accounting::processors(),
        seconds: plan.seconds,
        udp_segmentation: plan.udp_segmentation,
        contenders: plan
            .contenders
            .iter()
            .map(|contender| (contender.name.clone(), contender.version()))
            .collect(),
        rounds: Vec::new(),
    };
    for round in 0..plan.rounds {
        results.rounds.push(Vec::new());
        // Each round begins elsewhere, so that nobody is always the one after the greatest heat.
        let first = round as usize * plan.contenders.len() / plan.rounds.max(1) as usize;
        let (before, after) = plan.contenders.split_at(first);
        for contender in after.iter().chain(before) {
            let outcome = take_turn(plan, contender);
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, report::line(&outcome));
            if let Some(outcomes) = results.rounds.last_mut() {
                outcomes.push(outcome);
            }
            if let Some(path) = &plan.json {
                std::fs::write(path, serde_json::to_vec_pretty(&results)?)?;
            }
            if interrupt::check().is_err() {
                print!("{}", report::tables(&results, &plan.base));
                return interrupt::check();
            }
        }
    }
    let tables = report::tables(&results, &plan.base);
    print!("{tables}");
    if let Some(path) = &plan.markdown {
        std::fs::write(path, tables)?;
    }
    Ok(())
}

/// Measures until others leave the machine alone, a few times at most, and keeps the quietest run.
fn take_turn(plan: &Plan, contender: &Contender) -> Outcome {
    let mut best: Option<Measurement> = None;
    let mut error = None;
    for _ in 0..=RETRIES {
        match measure(contender, plan.seconds, plan.udp_segmentation, plan.max_foreign) {
            Ok(measurement) => {
                let quiet = measurement.foreign_share < plan.max_foreign;
                if best.as_ref().is_none_or(|best| measurement.foreign_share < best.foreign_share) {
                    best = Some(measurement);
                }
                if quiet {
                    break;
                }
            }
            Err(failure) => error = Some(format!("{failure:#}")),
        }
        if interrupt::requested() {
            break;
        }
    }
    let undisturbed = best.as_ref().is_some_and(|best| best.foreign_share < plan.max_foreign);
    let error = error.filter(|_| best.is_none());
    Outcome { contender: contender.name.clone(), measurement: best, error, undisturbed }
}
