//! Machines that join a network, as light as they can be: the protocol's own state machines over a socket each, and
//! neither a daemon nor an interface.

mod member;
pub mod register;
mod swarm;

pub use member::Answer;
pub use swarm::{FIRST_SOURCE, SOURCES, Swarm};
