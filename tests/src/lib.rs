//! What the machine-wide tests and `cargo xtask demo` stand on: network namespaces, processes that
//! end with their owner, captures, and the programs that Tombolo is tested against.
//!
//! The library knows Tombolo only as a user does: by its command line, its files and its packets.
//! It uses none of the other crates, so that a wrong format cannot agree with itself.
//!
//! ```no_run
//! use tombolo_tests::{machine_wide, topology::Internet};
//!
//! machine_wide("two_machines_meet", |scene| {
//!     let mut internet = Internet::new()?;
//!     let east = internet.region("east", [192, 0, 2, 0])?;
//!     let west = internet.region("west", [198, 51, 100, 0])?;
//!     scene.say("both machines are on the Internet");
//!     east.namespace.command("ping").args(["-c1", &west.address.to_string()]);
//!     Ok(())
//! });
//! ```
//!
//! Everything here is Linux: namespaces are made with the `ip` program, and need root.

pub mod booted;
pub mod bursts;
pub mod capture;
pub mod command;
pub mod counters;
pub mod etcd;
pub mod forwarder;
pub mod host;
pub mod interrupt;
pub mod name_server;
pub mod namespace;
pub mod node;
pub mod packet_counts;
pub mod postgres;
pub mod process;
pub mod scene;
pub mod site;
pub mod terminal;
pub mod topology;
pub mod transfer;
pub mod tunnel;
pub mod wait;
pub mod wireguard_go;

pub use scene::{Scene, machine_wide, machine_wide_and_patient};

/// What the library and the tests return: the error says what was tried and what came of it.
pub type Result<T = ()> = anyhow::Result<T>;
