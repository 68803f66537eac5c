//! The TUN device layer of Linux: queues of packets, the addresses, routes and rules around them,
//! and the guard that keeps overlay packets inside.
//!
//! The crate knows nothing of peers, keys or sockets. It has no runtime, no threads and no clock:
//! descriptors are given out to be waited on, and calls do not block for longer than the kernel
//! needs to answer. It runs no programs.
//!
//! ```no_run
//! use tombolo_tun::guard::{Guard, GuardPlan};
//! use tombolo_tun::netlink::{Netlink, Watch};
//! use tombolo_tun::{Device, DeviceOptions, InterfacePlan, Queue};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let overlay: Vec<ipnet::IpNet> = vec!["10.66.0.0/16".parse()?];
//! // Fails closed first: neither needs the interface.
//! let mut guard = Guard::open(&GuardPlan {
//!     interface: "tombolo0".into(),
//!     overlay: overlay.clone(),
//!     gateway_subnets: Vec::new(),
//!     behind_others: Vec::new(),
//! })?;
//! guard.ensure()?;
//! let plan = InterfacePlan::new("tombolo0", vec!["10.66.0.1/16".parse()?], 1420, overlay);
//! let mut netlink = Netlink::open()?;
//! let mut watch = Watch::open("tombolo0", plan.table)?;
//! plan.apply(&mut netlink)?;
//!
//! let device = Device::open(&DeviceOptions { persistent: true, ..DeviceOptions::new("tombolo0") })?;
//! plan.apply(&mut netlink)?;
//! let mut buffer = vec![0; tombolo_tun::MAX_PACKET];
//! if let Some((header, length)) = device.queues()[0].read(&mut buffer)? {
//!     println!("{length} bytes, {:?}", header.gso_type);
//! }
//! // Whenever `watch.fd()` is readable:
//! let changes = watch.read_changes()?;
//! if changes.concern_plan() {
//!     plan.apply(&mut netlink)?;
//! }
//! if changes.filters {
//!     guard.ensure()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Numbers shared with other programs
//!
//! A host has one space of routing tables, rule priorities and packet filters for all programs.
//!
//! | what | ours | theirs |
//! |---|---|---|
//! | routing table | 8662000 and the interface's number for `tombolo0` to `tombolo999`; 8663000 to 9662999 by a hash of the name for others ([`table_for`]) | wg-quick 51820 and up, Tailscale 52, Cilium 2004 and 2005, Calico 1 to 250, cloud agents mostly their interface's number or 1000 and up, systemd-networkd's VRFs what their author chose |
//! | rule priority | 2662 ([`RULE_PRIORITY`]) | `local` 0 (Cilium moves it to 100), Cilium 9 to 111, VRFs 1000, **ours**, Tailscale 5210 to 5270, Amazon's agent 10000 and up, wg-quick just below 32766, `main` 32766 |
//! | route protocol | 86 | iproute2's `rt_protos` has none of this number |
//! | packet filters | tables `tombolo_INTERFACE` of the families `inet` and `arp`, priority −450 | each program its own tables; nothing of ours is in another's |
//! | firewall marks | none here | kube-proxy 0x4000 and 0x8000, Cilium 0x0f00, Tailscale 0xff0000 |
//!
//! The priority comes after `local`, so that a host's own overlay address stays its own; and
//! before all that may hold a default route (Tailscale's exit node, wg-quick's `0.0.0.0/0`) or one
//! that a DHCP server pushed (CVE-2024-3661). The rules choose by destination alone, so they
//! touch nothing but overlay packets, and need no mark. systemd-networkd removes rules and routes
//! that it did not set when it reconfigures (`ManageForeignRoutingPolicyRules=`): they come back
//! with the next [`InterfacePlan::apply`].

mod device;
mod error;
pub mod guard;
pub mod memory;
pub mod netlink;
mod offload;
mod plan;
mod queue;
mod sys;
mod tun_queue;

pub use device::{Device, DeviceOptions, MAX_MTU, MIN_MTU, Place};
pub use error::DeviceError;
pub use offload::{OffloadSwitches, TunOffloadStates};
pub use plan::{
    Applied, Change, InterfacePlan, RULE_PRIORITY, TRANSMIT_QUEUE_LENGTH, gso_max_size_for, table_for,
};
pub use queue::{Fault, MAX_PACKET, MAX_SLICES, Offloads, Queue, Reads};
pub use tun_queue::TunQueue;
