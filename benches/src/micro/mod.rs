//! What each step of the data path costs for one packet of 1420 bytes, alone and as a part of a batch.
//! The design's budget is made of these figures. Needs root for the steps that use a device.

mod crypto;
mod device;
mod handshake;
mod socket;
mod tables;
mod timing;

use std::path::Path;

use serde::Serialize;
use tombolo_tests::interrupt;

use crate::Result;

/// Length in bytes of the packets: the overlay's MTU on Ethernet.
const PACKET: usize = 1420;
/// Packets in a super-packet: what stays under 65,507 bytes once each is 32 bytes longer.
const BATCH: usize = 44;

/// The cost of one step.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What is done.
    pub name: &'static str,
    /// In which way.
    pub variant: &'static str,
    /// Nanoseconds for each packet (look-up, handshake), the quickest of the runs: the cost without
    /// what else goes on.
    pub minimum_nanoseconds: f64,
    /// The same, the median of the runs.
    pub median_nanoseconds: f64,
}

/// What takes each step as soon as it is measured.
type Report<'a> = dyn FnMut(Step) + 'a;

/// Measures all steps, prints a table, and writes the figures to `json` if asked to.
///
/// # Errors
/// When a device or socket cannot be made, on an interruption, or when the file cannot be written.
pub fn run(json: Option<&Path>) -> Result {
    let mut steps: Vec<Step> = Vec::new();
    println!("| step | variant | ns, minimum | ns, median |\n|---|---|---|---|");
    let parts: [fn(&mut Report<'_>) -> Result; 5] =
        [crypto::measure, tables::measure, handshake::measure, device::measure, socket::measure];
    for part in parts {
        part(&mut |step| {
            println!(
                "| {} | {} | {:.1} | {:.1} |",
                step.name, step.variant, step.minimum_nanoseconds, step.median_nanoseconds
            );
            steps.push(step);
        })?;
        interrupt::check()?;
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&steps)?)?;
    }
    Ok(())
}
