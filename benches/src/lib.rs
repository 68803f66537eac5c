//! How fast Tombolo is, and beside whom.
//!
//! [`suite`] runs whole tunnels between two network namespaces, ours and those of others in turn, and
//! reports medians, ratios and spread beside what is [`wanted`]. [`micro`] measures the steps of the data
//! path one by one. Figures of this kind are about proportions: what else runs on the machine shows in
//! them, and samples that it disturbed are left out.
//!
//! Nothing here is a test: no figure fails a build.

pub mod accounting;
pub mod aead;
pub mod contender;
pub mod document;
pub mod forwarder;
pub mod joining;
pub mod line;
pub mod load;
pub mod micro;
pub mod report;
pub mod results;
pub mod scenario;
pub mod stage;
pub mod statistics;
pub mod suite;
mod tables;
pub mod wanted;
pub mod wire;

/// What everything here returns.
pub type Result<T = ()> = anyhow::Result<T>;
