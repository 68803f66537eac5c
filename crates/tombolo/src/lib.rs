//! The daemon and the command line of Tombolo, as a library so that tests and fuzzers reach its parsers.
//!
//! This is the one crate with a tokio runtime, and the one that knows of files, names, sockets of other
//! programs and the service manager. Packets never pass through it: it configures
//! [`tombolo_engine::Engine`], whose own threads carry them.
#![forbid(unsafe_code)]

pub mod atomic_file;
mod background;
pub mod cli;
pub mod config;
pub mod control;
mod daemon;
pub mod hosts;
pub mod import;
pub mod machine;
pub mod membership;
pub mod metrics;
pub mod names;
pub mod paths;
pub mod random;
pub mod report;
pub mod resolver;
pub mod state;
pub mod threads;
pub mod uapi;
mod user;
pub mod wireguard;
