//! How many packets the kernel counts: a super-packet is one.

use std::fs;

use anyhow::Context;

use crate::{Result, namespace::Namespace};

/// Packets that an interface has received and sent. For a TUN, what the daemon has written is received, and what it reads is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// The packets of an interface until now.
///
/// # Errors
/// When there is no such interface.
pub fn of_interface(namespace: &Namespace, interface: &str) -> Result<Packets> {
    let table = read(namespace, "dev")?;
    packets_in(&table, interface).with_context(|| format!("no {interface} in\n{table}"))
}

/// Reads from UDP sockets over IPv4 that have given datagrams until now; several that came as one count as one.
///
/// # Errors
/// When the system does not tell.
pub fn udp_reads(namespace: &Namespace) -> Result<u64> {
    let table = read(namespace, "snmp")?;
    udp_reads_in(&table).with_context(|| format!("no datagrams in\n{table}"))
}

/// A table of the namespace, as proc(5) has it.
fn read(namespace: &Namespace, name: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{name}");
    namespace.enter(|| fs::read_to_string(&path).with_context(|| path.clone()))
}

fn packets_in(table: &str, interface: &str) -> Option<Packets> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    // Eight numbers of what was received, then those of what was sent; bytes, then packets.
    Some(Packets { received: *numbers.get(1)?, sent: *numbers.get(9)? })
}

fn udp_reads_in(table: &str) -> Option<u64> {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let position = names.split_whitespace().position(|name| name == "InDatagrams")?;
    numbers.split_whitespace().nth(position)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_interface_asked_for_are_read() {
        let table = "Inter-|   Receive    |  Transmit\n face |bytes    packets\n    n1: 9 8 0 0 0 0 0 0 7 6 0 0 0 0 0 0\n\
                     \x20  n12: 900 80 0 0 0 0 0 0 700 60 0 0 0 0 0 0\n";
        assert_eq!(packets_in(table, "n1"), Some(Packets { received: 8, sent: 6 }));
        assert_eq!(packets_in(table, "n12"), Some(Packets { received: 80, sent: 60 }));
        assert_eq!(packets_in(table, "n"), None);
    }

    #[test]
    fn datagrams_are_found_by_the_name_of_their_column() {
        let table = "Tcp: InSegs\nTcp: 5\nUdp: InErrors InDatagrams NoPorts\nUdp: 1 42 3\nUdpLite: InDatagrams\nUdpLite: 7\n";
        assert_eq!(udp_reads_in(table), Some(42));
        assert_eq!(udp_reads_in("Tcp: InSegs\nTcp: 5\n"), None);
    }
}
