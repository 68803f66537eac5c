//! Endpoints that are names: resolved in the background, and anew when a peer does not answer.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west, later 198.51.100.77
//!     its own name server on 127.0.0.1:53 (started late): west.example.test
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use tombolo_tests::{
    Result, Scene, machine_wide,
    namespace::Namespace,
    site::{Site, sites},
    transfer,
};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "west.example.test";

/// A name server that knows one name, on the loopback interface of a namespace.
struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
}

impl NameServer {
    fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let socket = namespace.enter(|| Ok(UdpSocket::bind(("127.0.0.1", 53))?))?;
        let address = Arc::new(Mutex::new(address));
        let shared = Arc::clone(&address);
        // Ends with the process; it holds nothing but its socket.
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                let current = *shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(&query[..len], current) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { address })
    }

    fn set(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// The answer to a query (RFC 1035 §4.1): the address to a question for A, no record to any other.
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let is_address = query.get(end + 1..end + 3)? == [0, 1];
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion available; one question, and one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_address {
        // The name of the question; A, IN, one second to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// `ip netns exec` shows this file to what runs in the namespace as its `/etc/resolv.conf`.
struct ResolverConfiguration(PathBuf);

impl ResolverConfiguration {
    fn write(namespace: &Namespace) -> Result<Self> {
        let folder = PathBuf::from("/etc/netns").join(namespace.name());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        Ok(Self(folder))
    }
}

impl Drop for ResolverConfiguration {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

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
