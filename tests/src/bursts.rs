//! Datagrams that a program hands to the kernel many at a time (`UDP_SEGMENT`) and takes from it one by one or many at a time
//! (`UDP_GRO`), each checked on arrival.

use std::{
    io::IoSliceMut,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};

use crate::{Result, namespace::Namespace, transfer::Noise, wait::wait_for};

/// Datagrams in a burst.
pub const BURST: usize = 40;
/// Bytes of each: they fit into the overlay's smallest packets over both families.
const LENGTH: usize = 1200;
/// The last of a burst is shorter, as the last segment of a super-packet may be.
const LAST: usize = 77;
/// How long the rest of a burst is waited for before it is sent again.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a burst is tried.
const LIMIT: Duration = Duration::from_secs(20);

/// Sends `count` bursts from `client` to `address` in `server`, each by one call, each when the one before it has arrived: every
/// datagram, whole, with its own borders and in order. What is lost is sent again. Says how many bursts were sent.
///
/// # Errors
/// When a datagram is wrong or overtakes another one, or a burst does not arrive.
pub fn send(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
    count: u64,
    coalesced: bool,
) -> Result<u64> {
    let there = server.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    there.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&there, sockopt::UdpGroSegment, &coalesced).context("UDP_GRO")?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let here = client.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    here.connect(there.local_addr()?)?;
    setsockopt(&here, sockopt::UdpGsoSegment, &i32::try_from(LENGTH)?).context("UDP_SEGMENT")?;
    let mut sent = 0;
    for number in 0..count {
        wait_for(&format!("burst {number}"), LIMIT, || {
            sent += 1;
            let burst = burst(sent);
            here.send(&burst).with_context(|| format!("sending burst {number}"))?;
            Ok(arrives(&there, &burst)?.then_some(()))
        })?;
    }
    Ok(sent)
}

/// The bytes of a burst; each is another one.
fn burst(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; (BURST - 1) * LENGTH + LAST];
    Noise::new(seed).fill(&mut bytes);
    bytes
}

/// Whether all of a burst arrives; `false`: some of it is missing.
fn arrives(socket: &UdpSocket, burst: &[u8]) -> Result<bool> {
    let mut expected = burst.chunks(LENGTH);
    let mut buffer = vec![0; 1 << 16];
    while expected.len() > 0 {
        let Some((length, stride)) = receive(socket, &mut buffer)? else { return Ok(false) };
        for datagram in buffer[..length].chunks(stride) {
            // Those that remained of a burst that was given up are passed over, and so are the ones behind a gap.
            let ahead = expected.clone().position(|wanted| wanted == datagram);
            if let Some(ahead) = ahead {
                expected.nth(ahead);
                if ahead > 0 {
                    return Ok(false);
                }
            } else {
                let known = burst.chunks(LENGTH).any(|wanted| wanted == datagram);
                ensure!(!known, "a datagram came twice, or after one that was sent behind it");
                ensure!(matches!(datagram.len(), LENGTH | LAST), "a datagram of {} bytes", datagram.len());
            }
        }
    }
    Ok(true)
}

/// The length of one read, and of each datagram in it but the last. `None`: nothing came.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<(usize, usize)>> {
    let mut control = cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)
    {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error).context("receiving"),
    };
    let stride = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(stride) => usize::try_from(stride).ok(),
        _ => None,
    });
    Ok(Some((message.bytes, stride.unwrap_or(message.bytes).max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_differs_from_the_next_in_each_of_its_datagrams() {
        let (one, other) = (burst(1), burst(2));
        assert_eq!(one.chunks(LENGTH).len(), BURST);
        assert!(one.chunks(LENGTH).all(|datagram| other.chunks(LENGTH).all(|another| another != datagram)));
    }
}
