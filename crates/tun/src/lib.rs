//! TUN device layer of Linux: queues, addresses, routes, rules and the guard
mod device;
mod error;
pub mod guard;
pub mod memory;
pub mod netlink;
mod plan;
mod queue;
mod sys;
mod tun_queue;

pub use device::{Device, DeviceOptions, MAX_MTU, MIN_MTU, OffloadSwitches, Place};
pub use error::DeviceError;
pub use plan::{
    Applied, Change, InterfacePlan, RULE_PRIORITY, TRANSMIT_QUEUE_LENGTH, gso_max_size_for, table_for,
};
pub use queue::{Fault, MAX_PACKET, MAX_SLICES, Offloads, Queue};
pub use tun_queue::TunQueue;
