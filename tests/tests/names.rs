//! Endpoints that are names: resolved in the background, and anew when a peer does not answer.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west, later 198.51.100.77
//!     its own name server on 127.0.0.1:53 (started late): west.example.test
//! ```

use std::fs;
use std::time::Duration;

use tombolo_tests::{
    Result, Scene, machine_wide,
    name_server::{NameServer, ResolverConfiguration},
    site::{Site, sites},
    transfer,
};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "west.example.test";

/// East knows west by name only; west does not know where east is.
fn east_calls_west(scene: &Scene, east: &mut Site, west: &mut Site) -> Result {
    east.node.configure("", &[west.node.entry(Some(NAME.to_owned()))])?;
    west.node.configure("", &[east.node.entry(None)])?;
    west.node.start(scene)
}

#[test]
fn a_late_name_server_delays_the_peer_but_not_the_start() {
    machine_wide("a_late_name_server_delays_the_peer_but_not_the_start", |scene| {
        let (_internet, [mut east, mut west]) = sites::<2>(scene)?;
        let _configuration = ResolverConfiguration::write(&east.machine.namespace)?;
        east_calls_west(scene, &mut east, &mut west)?;
        east.node.start(scene)?;
        let _server = NameServer::start(&east.machine.namespace, west.machine.address)?;
        east.node.wait(&["--peer", "west", "--timeout", "60s"])
    });
}

#[test]
fn a_peer_that_moved_silently_is_found_by_its_name() {
    machine_wide("a_peer_that_moved_silently_is_found_by_its_name", |scene| {
        let (_internet, [mut east, mut west]) = sites::<2>(scene)?;
        let _configuration = ResolverConfiguration::write(&east.machine.namespace)?;
        let server = NameServer::start(&east.machine.namespace, west.machine.address)?;
        east_calls_west(scene, &mut east, &mut west)?;
        east.node.start(scene)?;
        east.node.wait_for_peer("west")?;
        // West comes back elsewhere and without a memory: it cannot call.
        west.node.kill()?;
        fs::remove_dir_all(west.node.directory().join("state"))?;
        west.machine.set_address(77)?;
        server.set(west.machine.address);
        west.node.start(scene)?;
        let (here, there) = (&east.machine.namespace, &west.machine.namespace);
        transfer::reach(here, there, west.node.address.into(), LIMIT)?;
        let status = east.node.status()?;
        let endpoint = status["peers"][0]["endpoint"].as_str().unwrap_or_default().to_owned();
        assert!(endpoint.starts_with("198.51.100.77:"), "{endpoint}");
        Ok(())
    });
}
