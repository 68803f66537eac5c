//! A name server of a namespace's own.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::{Result, namespace::Namespace};

/// A name server that knows one address, whatever the name is, on the loopback interface of a namespace.
#[derive(Debug)]
pub struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
}

impl NameServer {
    /// Starts it.
    ///
    /// # Errors
    /// When port 53 is taken there.
    pub fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
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

    /// From now on it gives this address.
    pub fn set(&self, address: Ipv4Addr) {
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

/// Sends the resolvers of a namespace to its loopback interface: `ip netns exec` shows this file to what runs in the
/// namespace as its `/etc/resolv.conf`.
#[derive(Debug)]
pub struct ResolverConfiguration(PathBuf);

impl ResolverConfiguration {
    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(namespace: &Namespace) -> Result<Self> {
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
