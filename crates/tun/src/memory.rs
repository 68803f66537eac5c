//! A TUN queue without a kernel, for tests: [`MemoryQueue`] is what the engine holds, and
//! [`MemoryHost`] plays the machine behind the device.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tombolo_packet::{IpPacket, VnetHeader};

use crate::offload::{self, TunOffloadStates, WriteRefusals};
use crate::{OffloadSwitches, Offloads, Queue, Reads};

/// Makes a queue and the host at its other end.
///
/// # Errors
/// Those of eventfd(2).
pub fn pair(offloads: Offloads) -> io::Result<(MemoryQueue, MemoryHost)> {
    let (mut queues, host) = queues(offloads, 1)?;
    let queue = queues.pop().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((queue, host))
}

/// Makes several queues of one device and the host at their other end. The host puts each flow into the
/// queue that its addresses, protocol and ports lead to.
///
/// # Errors
/// Those of eventfd(2).
pub fn queues(offloads: Offloads, count: usize) -> io::Result<(Vec<MemoryQueue>, MemoryHost)> {
    let readable = (0..count.max(1))
        .map(|_| Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let state = State { to_queues: readable.iter().map(|_| VecDeque::new()).collect(), ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), written: Condvar::new(), readable, offloads });
    let queue = |number| MemoryQueue { shared: Arc::clone(&shared), number };
    Ok(((0..shared.readable.len()).map(queue).collect(), MemoryHost(Arc::clone(&shared))))
}

struct Shared {
    state: Mutex<State>,
    written: Condvar,
    /// One for each queue.
    readable: Vec<OwnedFd>,
    offloads: Offloads,
}

#[derive(Default)]
struct State {
    /// A packet without a header is one with a header that cannot be read.
    to_queues: Vec<VecDeque<(Option<VnetHeader>, Vec<u8>)>>,
    to_host: VecDeque<(VnetHeader, Vec<u8>)>,
    write_errors: VecDeque<i32>,
    /// What is handed over unfinished, where that was limited.
    reads: Option<Reads>,
    limit_errors: VecDeque<i32>,
    gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a test that panicked spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, number: usize) -> io::Result<()> {
        match rustix::io::write(&self.readable[number], &1_u64.to_ne_bytes()) {
            // A full counter is readable all the same.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The engine's end.
pub struct MemoryQueue {
    shared: Arc<Shared>,
    number: usize,
}

impl Queue for MemoryQueue {
    fn offloads(&self) -> Offloads {
        self.shared.offloads
    }

    fn offload_states(&self) -> TunOffloadStates {
        offload::states(OffloadSwitches::default(), self.shared.offloads, WriteRefusals::default())
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        let mut state = self.shared.state();
        if state.gone {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        let Some((header, packet)) = state.to_queues[self.number].pop_front() else {
            let mut counter = [0; 8];
            match rustix::io::read(&self.shared.readable[self.number], &mut counter) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        let header = header.ok_or_else(crate::tun_queue::malformed)?;
        let target = buffer.get_mut(..packet.len()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the buffer is smaller than the packet")
        })?;
        target.copy_from_slice(&packet);
        Ok(Some((header, packet.len())))
    }

    fn limit_reads(&self, reads: Reads) -> io::Result<()> {
        let mut state = self.shared.state();
        if let Some(code) = state.limit_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(code));
        }
        state.reads = Some(reads);
        Ok(())
    }

    fn write(&self, header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()> {
        crate::queue::check_header(self.shared.offloads, &header)?;
        let mut state = self.shared.state();
        if state.gone {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        if let Some(code) = state.write_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let packet = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        state.to_host.push_back((header, packet));
        self.shared.written.notify_all();
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.readable[self.number].as_fd()
    }
}

/// The machine's end.
pub struct MemoryHost(Arc<Shared>);

impl MemoryHost {
    /// Hands a packet to the queue, as if the machine had sent it to the overlay.
    ///
    /// # Errors
    /// Those of write(2) on an eventfd; none is expected.
    pub fn send(&self, header: VnetHeader, packet: &[u8]) -> io::Result<()> {
        let number = flow_of(packet) % self.0.readable.len();
        self.0.state().to_queues[number].push_back((Some(header), packet.to_vec()));
        self.0.wake(number)
    }

    /// Hands the first queue a packet whose header is of no known kind.
    ///
    /// # Errors
    /// Those of write(2) on an eventfd; none is expected.
    pub fn send_unreadable(&self) -> io::Result<()> {
        self.0.state().to_queues[0].push_back((None, Vec::new()));
        self.0.wake(0)
    }

    /// The next packet that was written to the queue, if there is one.
    #[must_use]
    pub fn try_receive(&self) -> Option<(VnetHeader, Vec<u8>)> {
        self.0.state().to_host.pop_front()
    }

    /// Waits up to `patience` for the next packet that is written to the queue.
    #[must_use]
    pub fn receive(&self, patience: Duration) -> Option<(VnetHeader, Vec<u8>)> {
        let (mut state, _) = self
            .0
            .written
            .wait_timeout_while(self.0.state(), patience, |state| state.to_host.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.to_host.pop_front()
    }

    /// What the queue takes unfinished. The host sends what it is told to send, whatever this says.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.0.state().reads.unwrap_or(Reads::ALL)
    }

    /// Lets one later change of [`MemoryHost::reads`] fail with this errno.
    pub fn fail_limit(&self, errno: i32) {
        self.0.state().limit_errors.push_back(errno);
    }

    /// Lets one later write fail with this errno; several are used up in order.
    pub fn fail_write(&self, errno: i32) {
        self.0.state().write_errors.push_back(errno);
    }

    /// Deletes the device: every later call of the queue fails as on a real one.
    ///
    /// # Errors
    /// Those of write(2) on an eventfd; none is expected.
    pub fn delete(&self) -> io::Result<()> {
        self.0.state().gone = true;
        (0..self.0.readable.len()).try_for_each(|number| self.0.wake(number))
    }
}

/// A number of the flow that a packet is of.
fn flow_of(packet: &[u8]) -> usize {
    let Ok(packet) = IpPacket::parse(packet) else { return 0 };
    let mut hasher = DefaultHasher::new();
    let ports = packet.payload().get(..4);
    (packet.source(), packet.destination(), packet.protocol(), ports).hash(&mut hasher);
    // Any of its bits will do.
    hasher.finish() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tombolo_packet::GsoType;

    fn readable(queue: &MemoryQueue) -> bool {
        let mut descriptors = [PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn the_descriptor_is_readable_as_long_as_there_are_packets() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let mut buffer = vec![0; crate::MAX_PACKET];
        assert!(!readable(&queue));
        let header = VnetHeader { gso_type: GsoType::Tcp4, gso_size: 1000, ..VnetHeader::default() };
        host.send(header, b"first").unwrap();
        host.send(VnetHeader::default(), b"second").unwrap();
        assert!(readable(&queue));
        assert_eq!(queue.read(&mut buffer).unwrap(), Some((header, 5)));
        assert!(readable(&queue));
        assert_eq!(queue.read(&mut buffer).unwrap(), Some((VnetHeader::default(), 6)));
        assert_eq!(&buffer[..6], b"second");
        assert_eq!(queue.read(&mut buffer).unwrap(), None);
        assert!(!readable(&queue));
    }

    #[test]
    fn writes_arrive_whole_fail_as_told_and_need_the_header_they_ask_for() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let slices = [IoSlice::new(b"one "), IoSlice::new(b"packet")];
        host.fail_write(libc::EINVAL);
        let error = queue.write(VnetHeader::default(), &slices).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Refused);
        queue.write(VnetHeader::default(), &slices).unwrap();
        let packet = host.receive(Duration::from_secs(10)).unwrap();
        assert_eq!(packet, (VnetHeader::default(), b"one packet".to_vec()));
        assert_eq!(host.try_receive(), None);

        let (plain, _host) = pair(Offloads::NONE).unwrap();
        let header = VnetHeader { needs_checksum: true, ..VnetHeader::default() };
        let error = plain.write(header, &slices).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_deleted_device_is_gone_for_reader_and_writer() {
        let (queue, host) = pair(Offloads::NONE).unwrap();
        host.delete().unwrap();
        assert!(readable(&queue));
        let error = queue.read(&mut [0; 64]).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Gone);
        let error = queue.write(VnetHeader::default(), &[]).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Gone);
    }
}
