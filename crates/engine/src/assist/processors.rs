//! Whether a processor is free. A worker that sleeps says nothing about that: whoever wakes it where all processors are busy
//! takes its time from somebody else, who may be the other end of the very connection.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::available_parallelism;

use tombolo_noise::clock::Instant;

/// Time between two looks, in nanoseconds. One costs about two microseconds.
const INTERVAL: u64 = 2_000_000;

/// A look that finds all processors busy weighs so much more than one that finds a free one: help is given where
/// three of four looks do.
const WEIGHT_OF_BUSY: i32 = 3;
/// The score from which on help is given, and the highest one: two looks that find all processors busy end it.
const ENOUGH: i32 = 8;
const HIGHEST: i32 = 12;

/// What the kernel says about who runs.
pub(super) struct Processors {
    /// `None`: nothing is known, and a processor counts as free.
    runnable: Option<Runnable>,
    looked: AtomicU64,
    score: AtomicI32,
}

struct Runnable {
    load: File,
    processors: u32,
}

impl Processors {
    pub(super) fn new() -> Self {
        Self { runnable: Runnable::open(), looked: AtomicU64::new(0), score: AtomicI32::new(0) }
    }

    /// Whether a processor has mostly been free of late. `helped`: a helper is awake, and counts among those who run.
    pub(super) fn one_is_free(&self, helped: bool, now: Instant) -> bool {
        let Some(runnable) = &self.runnable else { return true };
        let looked = self.looked.load(Ordering::Relaxed);
        let now = now.as_nanos();
        if now.saturating_sub(looked) >= INTERVAL
            && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let running = runnable.count().unwrap_or(0) + u32::from(!helped);
            let score = self.score.load(Ordering::Relaxed);
            self.score.store(next_score(score, running <= runnable.processors), Ordering::Relaxed);
        }
        self.score.load(Ordering::Relaxed) >= ENOUGH
    }
}

fn next_score(score: i32, free: bool) -> i32 {
    (score + if free { 1 } else { -WEIGHT_OF_BUSY }).clamp(0, HIGHEST)
}

impl Runnable {
    /// `None`: it cannot be known, or says nothing about us, who may use some processors only.
    fn open() -> Option<Self> {
        let processors = online(&fs::read_to_string("/sys/devices/system/cpu/online").ok()?)?;
        let ours = available_parallelism().ok()?.get();
        let load = File::open("/proc/loadavg").ok()?;
        (u32::try_from(ours).ok()? == processors).then_some(Self { load, processors })
    }

    /// How many threads run or want to.
    fn count(&self) -> Option<u32> {
        let mut text = [0; 64];
        let len = self.load.read_at(&mut text, 0).ok()?;
        runnable(std::str::from_utf8(&text[..len]).ok()?)
    }
}

/// The fourth field of `/proc/loadavg`, up to its slash (proc_loadavg(5)).
fn runnable(load: &str) -> Option<u32> {
    load.split_ascii_whitespace().nth(3)?.split('/').next()?.parse().ok()
}

/// How many numbers a list such as `0-3,8` names.
fn online(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(runnable("0.42 0.50 0.61 3/211 4711\n"), Some(3));
        assert_eq!(online("0\n"), Some(1));
        assert_eq!(online("0-3,8,10-11\n"), Some(7));
        for wrong in ["", "a", "3-1", "1,,2", "0-4294967295"] {
            assert_eq!(online(wrong), None, "{wrong}");
        }
        for wrong in ["", "0.1 0.2 0.3", "0.1 0.2 0.3 x/9"] {
            assert_eq!(runnable(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn three_of_four_looks_must_find_one_free() {
        let after = |looks: &mut dyn Iterator<Item = bool>| looks.fold(0, next_score);
        assert!(after(&mut std::iter::repeat_n(true, 8)) >= ENOUGH);
        assert!(after(&mut (0..400).map(|look| look % 5 != 0)) >= ENOUGH);
        assert!(after(&mut (0..400).map(|look| look % 3 != 0)) < ENOUGH);
    }

    #[test]
    fn where_nothing_is_known_one_is_free() {
        let processors = Processors { runnable: None, ..Processors::new() };
        assert!(processors.one_is_free(false, Instant::from_nanos(1)));
    }
}
