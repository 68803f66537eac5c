//! Sending and receiving on real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_udp::{RECEIVE_SLOT, Received, SendOutcome, Socket, Transmit};

/// Receives until `count` datagrams came, or panics after ten seconds without one.
pub(crate) fn receive(socket: &impl Socket, count: usize) -> Vec<(Received, Vec<u8>)> {
    let (mut arena, mut received) = (vec![0; 8 * RECEIVE_SLOT], Vec::new());
    let mut all = Vec::new();
    while all.len() < count {
        let mut fds = [PollFd::from_borrowed_fd(socket.fd(), PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        assert_eq!(ready, 1, "{} of {count} datagrams came", all.len());
        while socket.receive(&mut arena, &mut received).unwrap() > 0 {
            for read in &received {
                all.extend(read.segments(&arena).map(|segment| (*read, segment.to_vec())));
            }
        }
    }
    all
}

pub(crate) fn send(socket: &impl Socket, transmit: Transmit<'_>) -> SendOutcome {
    let mut outcome = SendOutcome::default();
    socket.send(&[transmit], &mut outcome);
    outcome
}
