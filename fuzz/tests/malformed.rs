//! Control frames of every malformed shape, through the machines of node, lighthouse and authority (control rule 11): what
//! cannot be read changes nothing and is not answered; what can be read, though somebody has altered it, brings about
//! little, and makes nobody a member or a document newer.

#![allow(clippy::unwrap_used, reason = "what a test takes for granted is a failed test")]

use std::collections::BTreeSet;

use tombolo_control::frame::{Frame, FrameError};
use tombolo_fuzz::machines::{KINDS, Kind, Machine, SPEAKERS, Speaker};

/// Length of what comes before the body; the last two bytes of it are the body's length.
const HEADER: usize = 4;

fn with_length(frame: &[u8], length: u16) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes[2..HEADER].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Every way in which a frame is cut, lengthened or altered in one place.
fn damaged(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let body = u16::try_from(frame.len() - HEADER).unwrap();
    let cut = (0..frame.len()).map(|length| frame[..length].to_vec());
    // Cut, with a length that fits: what is in it ends too early.
    let fitted = (HEADER..frame.len())
        .map(move |length| with_length(&frame[..length], u16::try_from(length - HEADER).unwrap()));
    let lengths = [0, body.wrapping_sub(1), body + 1, 1020, 1021, 0x7fff, u16::MAX]
        .map(|length| with_length(frame, length));
    let longer = [
        [frame, &[0; 16]].concat(),
        [frame, &[1]].concat(),
        [&with_length(frame, body + 1), &[0][..]].concat(),
        [&with_length(frame, 1021), &[0; 1021][..]].concat(),
    ];
    // One more and one less than a byte says: each length and each number within the body among them.
    let altered = (0..frame.len()).flat_map(move |place| {
        [1, 0x20, 0x80, 0xff]
            .map(|bits| frame[place] ^ bits)
            .into_iter()
            .chain([frame[place].wrapping_add(1), frame[place].wrapping_sub(1)])
            .map(move |byte| {
                let mut bytes = frame.to_vec();
                bytes[place] = byte;
                bytes
            })
    });
    // A byte too many or too few within, with the length of the whole made right.
    let moved = (HEADER..frame.len()).flat_map(move |place| {
        let (mut more, mut less) = (with_length(frame, body + 1), with_length(frame, body - 1));
        more.insert(place, frame[place]);
        less.remove(place);
        [more, less]
    });
    cut.chain(fitted).chain(lengths).chain(longer).chain(altered).chain(moved)
}

#[test]
fn the_samples_are_of_every_type() {
    let known = |kind: &u8| Frame::parse(&[0xf1, *kind, 0, 1, 0xa0]) != Err(FrameError::Type(*kind));
    let samples = Machine::new(Kind::Member).samples();
    let kinds: BTreeSet<u8> = samples.iter().map(|frame| frame.to_bytes().unwrap()[1]).collect();
    assert_eq!(kinds, (0..=255).filter(known).collect());
}

#[test]
fn what_cannot_be_read_changes_nothing_and_is_not_answered_control_rule_11() {
    let mut count = 0;
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut machine = Machine::new(kind);
        for (index, sample) in machine.samples().into_iter().enumerate() {
            let speaker = SPEAKERS[(number + index) % SPEAKERS.len()];
            let before = machine.state();
            for message in damaged(&sample.to_bytes().unwrap()) {
                if Frame::parse(&message).is_err() {
                    assert_eq!(
                        machine.message(speaker, &message),
                        0,
                        "{kind:?} answers {message:02x?} of {sample:?}"
                    );
                    count += 1;
                }
            }
            assert_eq!(machine.state(), before, "{kind:?}, {speaker:?}, {sample:?}");
        }
    }
    println!("{count} messages");
    assert!(count > 50_000);
}

/// One of so many altered frames.
fn altered(one_of: usize) {
    for kind in KINDS {
        for (index, sample) in Machine::new(kind).samples().into_iter().enumerate() {
            for (number, speaker) in SPEAKERS.into_iter().enumerate() {
                let mut machine = Machine::new(kind);
                let (document, stranger) = (machine.document(), machine.believes(Speaker::Stranger));
                assert!(!stranger);
                for message in damaged(&sample.to_bytes().unwrap()).skip(index + number).step_by(one_of) {
                    // How much it may bring about, and that it can be sent, the machine looks after.
                    machine.message(speaker, &message);
                    // Who administers, or holds a token, changes what it may.
                    if kind != Kind::Server {
                        assert!(!machine.believes(Speaker::Stranger), "{message:02x?} of {sample:?}");
                        assert_eq!(machine.document(), document, "{message:02x?} of {sample:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn altered_frames_bring_about_little_and_make_nobody_a_member_control_rules_3_and_11() {
    altered(97);
}

#[test]
#[ignore = "each altered frame, from everybody: cargo xtask test --long"]
fn each_altered_frame_brings_about_little_and_makes_nobody_a_member_control_rules_3_and_11() {
    altered(1);
}
