use super::*;

use std::cell::{Cell, RefCell};
use std::num::NonZeroU16;

/// A message as the system saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    contents: Vec<u8>,
    control_len: usize,
}

/// Refuses messages as told, and keeps what it takes.
struct Scripted<F> {
    refuse: F,
    seen: RefCell<Vec<Seen>>,
    waits: Cell<u32>,
    path_mtu: Option<usize>,
    /// Messages taken in one call at most.
    appetite: usize,
}

/// Control data: 16 bytes of header and the data, each rounded up to a word.
const SOURCE: usize = 32;
const SEGMENTS: usize = 24;

impl<F: Fn(&Outgoing<'_>) -> Option<i32>> DatagramSender for Scripted<F> {
    fn send(&self, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        for message in messages.iter().take(self.appetite) {
            if let Some(error) = (self.refuse)(message) {
                if taken == 0 {
                    return Err(io::Error::from_raw_os_error(error));
                }
                break;
            }
            let control_len = message.control.as_bytes().len();
            self.seen.borrow_mut().push(Seen { contents: message.contents.to_vec(), control_len });
            taken += 1;
        }
        Ok(taken)
    }
    fn wait_writable(&self) {
        self.waits.set(self.waits.get() + 1);
    }
    fn path_mtu(&self, _destination: SocketAddr) -> Option<usize> {
        self.path_mtu
    }
    fn reaches(&self, destination: IpAddr) -> bool {
        destination.is_ipv4()
    }
}

fn scripted<F: Fn(&Outgoing<'_>) -> Option<i32>>(refuse: F) -> Scripted<F> {
    Scripted { refuse, seen: RefCell::default(), waits: Cell::new(0), path_mtu: None, appetite: usize::MAX }
}

fn transmit(contents: &[u8], segment_size: u16, source: bool) -> Transmit<'_> {
    let local = LocalAddress { address: "192.0.2.9".parse().unwrap(), interface: 0 };
    Transmit {
        source: source.then_some(local),
        segment_size: NonZeroU16::new(segment_size),
        ..Transmit::new("192.0.2.1:7".parse().unwrap(), contents)
    }
}

fn control_len(message: &Outgoing<'_>) -> usize {
    message.control.as_bytes().len()
}

fn segmented(message: &Outgoing<'_>) -> bool {
    !control_len(message).is_multiple_of(SOURCE)
}

fn sourced(message: &Outgoing<'_>) -> bool {
    control_len(message) >= SOURCE
}

fn send<F: Fn(&Outgoing<'_>) -> Option<i32>>(
    sender: &Scripted<F>,
    state: &SendState,
    transmits: &[Transmit<'_>],
) -> SendOutcome {
    let mut outcome = SendOutcome::default();
    send_all(sender, state, transmits, &mut outcome);
    outcome
}

/// Every byte that was taken, in order.
fn bytes<F>(sender: &Scripted<F>) -> Vec<u8> {
    sender.seen.borrow().iter().flat_map(|seen| seen.contents.clone()).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[test]
fn segments_go_as_one_message_and_a_single_one_without_the_option() {
    let contents = pattern(2500);
    let sender = scripted(|_| None);
    let outcome = send(
        &sender,
        &SendState::new(OffloadState::On, 64),
        &[transmit(&contents, 1000, false), transmit(b"x", 1000, true)],
    );
    assert_eq!(outcome.datagrams, 4);
    let seen = sender.seen.borrow();
    assert_eq!(
        seen.iter().map(|seen| (seen.contents.len(), seen.control_len)).collect::<Vec<_>>(),
        [(2500, SEGMENTS), (1, SOURCE)]
    );
}

#[test]
fn super_datagrams_are_cut_at_the_limits_of_segments_and_of_bytes() {
    let contents = pattern(200 * 10 + 3);
    let sender = scripted(|_| None);
    assert_eq!(
        send(&sender, &SendState::new(OffloadState::On, 64), &[transmit(&contents, 10, false)]).datagrams,
        201
    );
    assert!(sender.seen.borrow().iter().all(|seen| seen.contents.len() <= 640));
    assert_eq!(sender.seen.borrow().len(), 4);
    assert_eq!(bytes(&sender), contents);

    let contents = pattern(100 * 1452);
    let sender = scripted(|_| None);
    assert_eq!(
        send(&sender, &SendState::new(OffloadState::On, 128), &[transmit(&contents, 1452, false)]).datagrams,
        100
    );
    assert!(
        sender
            .seen
            .borrow()
            .iter()
            .all(|seen| seen.contents.len() <= MAX_DATAGRAM && seen.contents.len() % 1452 == 0)
    );
    assert_eq!(bytes(&sender), contents);
}

#[test]
fn a_refused_super_datagram_demotes_the_socket_and_is_replayed_from_the_first_unsent() {
    for error in [libc::EIO, libc::EINVAL] {
        let contents = pattern(5 * 100);
        let sender = scripted(|message| segmented(message).then_some(error));
        let state = SendState::new(OffloadState::On, 64);
        let outcome = send(
            &sender,
            &state,
            &[transmit(b"first", 0, false), transmit(&contents, 100, false), transmit(&contents, 100, false)],
        );
        assert!(!state.gso());
        assert_eq!((outcome.datagrams, outcome.failures.len()), (11, 0));
        assert_eq!(bytes(&sender), [b"first".as_slice(), &contents, &contents].concat());
        assert_eq!((state.counters().gso_demotions, state.counters().gso_replays), (1, 1));
    }
}

#[test]
fn a_destination_that_takes_nothing_at_all_does_not_demote_the_socket() {
    let contents = pattern(500);
    let sender = scripted(|_| Some(libc::EINVAL));
    let state = SendState::new(OffloadState::On, 64);
    let outcome = send(&sender, &state, &[transmit(&contents, 100, false)]);
    assert!(state.gso());
    assert_eq!(
        outcome.failures,
        [SendFailure { index: 0, datagrams: 5, error: SendError::System(libc::EINVAL) }]
    );
    assert_eq!(state.counters().send_errors, 5);
}

#[test]
fn segments_beyond_the_path_mtu_go_one_by_one_and_demote_nothing() {
    for (error, path_mtu) in [(libc::EMSGSIZE, None), (libc::EINVAL, Some(1280))] {
        let contents = pattern(3 * 1300);
        let sender =
            Scripted { path_mtu, ..scripted(|message: &Outgoing<'_>| segmented(message).then_some(error)) };
        let state = SendState::new(OffloadState::On, 64);
        let outcome = send(&sender, &state, &[transmit(&contents, 1300, false)]);
        assert!(state.gso());
        assert_eq!((outcome.datagrams, outcome.failures.len()), (3, 0));
        assert_eq!(bytes(&sender), contents);
    }
}

#[test]
fn a_datagram_too_big_for_its_path_is_reported_as_such_and_the_rest_still_goes() {
    let sender = scripted(|message| (message.contents.len() > 1400).then_some(libc::EMSGSIZE));
    let contents = pattern(1500);
    let outcome = send(
        &sender,
        &SendState::new(OffloadState::On, 64),
        &[transmit(&contents, 0, false), transmit(b"small", 0, false)],
    );
    assert_eq!(outcome.failures, [SendFailure { index: 0, datagrams: 1, error: SendError::TooBig }]);
    assert_eq!(bytes(&sender), b"small");
}

#[test]
fn a_stale_source_is_left_out_for_its_transmit_and_named_requirement_20() {
    for error in [libc::EINVAL, libc::ENETUNREACH, libc::EADDRNOTAVAIL] {
        let sender = scripted(|message| sourced(message).then_some(error));
        let state = SendState::new(OffloadState::On, 64);
        let contents = pattern(200 * 10);
        let outcome = send(
            &sender,
            &state,
            &[transmit(&contents, 10, true), transmit(b"y", 0, false), transmit(b"z", 0, true)],
        );
        assert_eq!(outcome.stale_sources, [0, 2]);
        assert_eq!((outcome.datagrams, outcome.failures.len()), (202, 0));
        assert!(state.gso(), "the source was to blame");
        assert_eq!(state.counters().stale_sources, 2);
        assert_eq!(bytes(&sender), [contents.as_slice(), b"yz"].concat());
    }
}

#[test]
fn a_good_source_survives_the_demotion_of_segmentation() {
    let sender = scripted(|message| segmented(message).then_some(libc::EINVAL));
    let state = SendState::new(OffloadState::On, 64);
    let contents = pattern(300);
    let outcome = send(&sender, &state, &[transmit(&contents, 100, true)]);
    assert_eq!((outcome.datagrams, outcome.stale_sources.len()), (3, 0));
    assert!(sender.seen.borrow().iter().all(|seen| seen.control_len == SOURCE));
}

#[test]
fn a_stale_source_and_a_refused_segmentation_together_are_both_found() {
    let sender = scripted(|message| (segmented(message) || sourced(message)).then_some(libc::EINVAL));
    let state = SendState::new(OffloadState::On, 64);
    let contents = pattern(300);
    let outcome = send(&sender, &state, &[transmit(&contents, 100, true)]);
    assert_eq!((outcome.datagrams, outcome.stale_sources.as_slice()), (3, &[0][..]));
    assert!(!state.gso());
    assert_eq!(bytes(&sender), contents);
}

#[test]
fn a_full_send_buffer_is_waited_for_a_few_times_and_then_everything_left_is_dropped() {
    let left = Cell::new(2);
    let sender = scripted(|_| (left.replace(left.get() - 1) > 0).then_some(libc::EAGAIN));
    let state = SendState::new(OffloadState::On, 64);
    assert_eq!(send(&sender, &state, &[transmit(b"x", 0, false)]).datagrams, 1);
    assert_eq!((sender.waits.get(), state.counters().send_waits), (2, 2));

    let sender = scripted(|_| Some(libc::EAGAIN));
    let contents = pattern(300);
    let outcome = send(&sender, &state, &[transmit(&contents, 100, false), transmit(b"x", 0, false)]);
    assert_eq!(sender.waits.get(), MAX_WAITS);
    let full = |index, datagrams| SendFailure { index, datagrams, error: SendError::BufferFull };
    assert_eq!(outcome.failures, [full(0, 3), full(1, 1)]);
    assert_eq!(state.counters().send_buffer_full, 4);
}

#[test]
fn icmp_answers_to_earlier_datagrams_lose_nothing() {
    let left = Cell::new(3);
    let sender = scripted(|_| (left.replace(left.get() - 1) > 0).then_some(libc::ECONNREFUSED));
    let outcome = send(&sender, &SendState::new(OffloadState::On, 64), &[transmit(b"x", 0, false)]);
    assert_eq!((outcome.datagrams, outcome.failures.len()), (1, 0));
    // Nor do they hold the caller for ever.
    let sender = scripted(|_| Some(libc::ECONNREFUSED));
    let outcome = send(&sender, &SendState::new(OffloadState::On, 64), &[transmit(b"x", 0, false)]);
    assert_eq!(outcome.failures.len(), 1);
}

#[test]
fn a_destination_of_the_other_family_fails_alone() {
    let sender = scripted(|_| None);
    let other = Transmit::new("[2001:db8::1]:7".parse().unwrap(), b"y");
    let outcome = send(
        &sender,
        &SendState::new(OffloadState::On, 64),
        &[transmit(b"x", 0, false), other, transmit(b"z", 0, false)],
    );
    assert_eq!(outcome.failures, [SendFailure { index: 1, datagrams: 1, error: SendError::WrongFamily }]);
    assert_eq!(bytes(&sender), b"xz");
}

#[test]
fn a_system_that_takes_few_messages_at_a_time_gets_each_once_and_in_order() {
    let contents = pattern(300 * 7);
    let sender = Scripted { appetite: 3, ..scripted(|_: &Outgoing<'_>| None) };
    let outcome = send(
        &sender,
        &SendState::new(OffloadState::SwitchedOff, 64),
        &[transmit(&contents, 7, false), transmit(&[], 7, false)],
    );
    assert_eq!(outcome.datagrams, 301);
    assert_eq!(bytes(&sender), contents);
    assert!(sender.seen.borrow().iter().all(|seen| seen.contents.len() <= 7 && seen.control_len == 0));
}
