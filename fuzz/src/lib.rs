//! What the fuzz targets do with a string of bytes, as plain functions.
//!
//! Each takes any bytes at all and panics where an invariant does not hold. The targets in `fuzz_targets/` hand
//! them to libFuzzer; an ordinary test replays the committed seeds.
#![forbid(unsafe_code)]

mod control;
mod handshake;
pub mod machines;
mod packets;
mod register;
mod surface;
mod text;

pub use control::{control_document, control_frame, control_seeds, token};
pub use handshake::{handshake, sample_messages};
pub use machines::{control_machine, machine_seeds};
pub use packets::{coalescer, ip_packet, relayed, super_packet, wire_message};
pub use register::register;
pub use surface::{dns, local_socket, state_file, surface_seeds};
pub use text::{config, import, uapi};

/// A target: its name, which is also the name of its folder of seeds, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("wire_message", wire_message),
    ("ip_packet", ip_packet),
    ("super_packet", super_packet),
    ("coalescer", coalescer),
    ("handshake", handshake),
    ("uapi", uapi),
    ("config", config),
    ("import", import),
    ("control_frame", control_frame),
    ("control_machine", control_machine),
    ("control_document", control_document),
    ("token", token),
    ("register", register),
    ("relayed", relayed),
    ("dns", dns),
    ("local_socket", local_socket),
    ("state_file", state_file),
];

/// Runs `target` on each file named on the command line: what a target built without the fuzzer does, to look at a
/// finding with a debugger.
///
/// # Panics
/// On files that cannot be read, and where the target does.
pub fn replay_arguments(target: fn(&[u8])) {
    for path in std::env::args_os().skip(1) {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        target(&bytes);
    }
}

/// Reads a script of numbers and strings of bytes out of what the fuzzer made. At the end there are zeros
/// and empty strings.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A string with its length before it.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.number()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}
