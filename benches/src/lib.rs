//! How fast Tombolo is, and beside whom.
//!
//! [`comparison`] runs whole tunnels between two network namespaces, ours and those of others in
//! turn, and reports medians, ratios and spread. [`micro`] measures the steps of the data path one by
//! one. Figures of this kind are about proportions: what else runs on the machine shows in them,
//! and runs that it disturbed are left out.
//!
//! Nothing here is a test: no figure fails a build.

pub mod accounting;
pub mod comparison;
pub mod contender;
pub mod forwarder;
pub mod load;
pub mod measurement;
pub mod micro;
pub mod report;
pub mod statistics;
pub mod wire;

/// What everything here returns.
pub type Result<T = ()> = anyhow::Result<T>;
