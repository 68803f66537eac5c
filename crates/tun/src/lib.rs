//! TUN device layer of Linux: queues, addresses, routes, rules and the guard
mod device;
mod error;
pub mod memory;
mod queue;

pub use device::{Device, DeviceOptions, OffloadSwitches, TunQueue};
pub use error::DeviceError;
pub use queue::{Fault, MAX_PACKET, MAX_SLICES, Offloads, Queue};
