//! Prometheus metrics: `GET /metrics` on loopback or an own overlay address.
//!
//! The `Host` header must be an address literal or `localhost`: a web page that resolves its own name
//! to this address (DNS rebinding) gets nothing.

mod render;
mod server;

pub use render::render;
pub use server::{host_is_literal, judge, serve};
