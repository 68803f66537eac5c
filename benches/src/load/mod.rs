//! What is sent through a tunnel to see how it fares.

pub mod bulk;
pub mod clients;
pub mod ends;
pub mod pace;
pub mod round_trip;
pub mod small_packets;
pub mod transfer;
