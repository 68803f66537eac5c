//! What members, lighthouses and strangers who mean harm can do to a node: everything comes in well sealed, over sessions of
//! theirs, and is a lie.

#![allow(clippy::unwrap_used, reason = "what a test takes for granted is a failed test")]

#[path = "../simulation/authority.rs"]
#[allow(dead_code, reason = "the simulation's authority can do more than this needs")]
mod authority;
mod documents;
mod lighthouses;
mod victim;
