//! What each step of the data path costs for one packet of 1420 bytes, alone and as a part of a batch.
//! The design's budget is made of these figures. Needs root for the steps that use a device.

mod aeads;
mod crypto;
mod device;
mod handshake;
mod socket;
mod tables;
mod timing;

use serde::Serialize;
use tombolo_tests::interrupt;

use crate::Result;

/// Length in bytes of the packets: the overlay's MTU on Ethernet.
const PACKET: usize = 1420;
/// Packets in a super-packet: what stays under 65,507 bytes once each is 32 bytes longer.
const BATCH: usize = 44;

/// The cost of one step.
#[derive(Clone, Debug, Serialize)]
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

/// Measures all steps, and shows each on standard error as soon as it is known.
///
/// # Errors
/// When a device or socket cannot be made, or on an interruption.
pub fn measure(steps: &mut Vec<Step>) -> Result {
    let parts: [fn(&mut Report<'_>) -> Result; 6] = [
        crypto::measure,
        aeads::measure,
        tables::measure,
        handshake::measure,
        device::measure,
        socket::measure,
    ];
    for part in parts {
        part(&mut |step| {
            let Step { name, variant, minimum_nanoseconds, median_nanoseconds } = &step;
            eprintln!(
                "{name}, {variant}: {minimum_nanoseconds:.1} ns at least, {median_nanoseconds:.1} in the median"
            );
            steps.push(step);
        })?;
        interrupt::check()?;
    }
    Ok(())
}
