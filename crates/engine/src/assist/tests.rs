use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tombolo_noise::clock::Instant;

use super::desk::Desk;
use super::*;
use crate::shared::Waker;

const PATIENCE: Duration = Duration::from_secs(20);

/// A job that counts, and does what the test says on threads of helpers.
struct Count {
    number: usize,
    done: usize,
    owner: thread::ThreadId,
    panics: bool,
    hold: Option<mpsc::Receiver<()>>,
}

impl Count {
    fn boxed(number: usize) -> Box<Self> {
        Box::new(Self { number, done: 0, owner: thread::current().id(), panics: false, hold: None })
    }
}

impl Work for Count {
    fn work(&mut self) {
        let helps = thread::current().id() != self.owner;
        if let Some(hold) = self.hold.take().filter(|_| helps) {
            hold.recv_timeout(PATIENCE).unwrap();
        }
        // Not `panic!`, whose message would stand in the test's output.
        if self.panics && helps {
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
        self.done += 1;
    }
}

pub(super) fn pool_of(workers: usize) -> Arc<Pool> {
    let wakers: Vec<_> = (0..workers).map(|_| Arc::new(Waker::new().unwrap())).collect();
    for waker in &wakers {
        waker.prepare();
    }
    Arc::new(Pool::new(&wakers, Assist::Always))
}

fn line() -> (Line<Count>, Arc<Desk<Count>>) {
    let pool = pool_of(4);
    let desk = Arc::new(Desk::new(pool.depth()));
    (Line::new(pool, 0, Arc::clone(&desk)), desk)
}

/// Runs `helpers` threads at the desk while `body` runs.
fn with_helpers(helpers: usize, desk: &Desk<Count>, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let helped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| desk.help()));
                    if helped.is_ok_and(|helped| !helped) {
                        thread::yield_now();
                    }
                }
            });
        }
        body();
        stop.store(true, Ordering::SeqCst);
    });
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = crate::clock::boot() + PATIENCE;
    while !holds() {
        assert!(crate::clock::boot() < limit, "never happened: {what}");
        thread::yield_now();
    }
}

#[test]
fn jobs_come_back_done_once_and_in_order_with_and_without_helpers() {
    for helpers in 0..4 {
        let (mut line, desk) = line();
        with_helpers(helpers, &desk, || {
            let (mut offered, mut expected) = (0, 0);
            let mut check = |finished: line::Finished<Count>| {
                assert_eq!((finished.job.number, finished.job.done), (expected, 1));
                expected += 1;
            };
            while offered < 2000 {
                while line.len() >= line.depth() {
                    check(line.next().unwrap());
                }
                if offered % 7 == 3 {
                    let mut done = Count::boxed(offered);
                    done.work();
                    line.append_done(done);
                } else {
                    line.offer(Count::boxed(offered));
                }
                offered += 1;
                if let Some(finished) = line.next_done() {
                    check(finished);
                }
            }
            while let Some(finished) = line.next() {
                check(finished);
            }
            assert_eq!(expected, offered);
            assert!(line.is_empty());
        });
    }
}

#[test]
fn what_a_helper_does_slowly_holds_up_what_is_behind_and_nothing_else() {
    let (mut line, desk) = line();
    with_helpers(1, &desk, || {
        let (let_go, hold) = mpsc::channel();
        let mut slow = Count::boxed(0);
        slow.hold = Some(hold);
        line.offer(slow);
        until("the helper begins", || desk.offers() == 0);
        line.offer(Count::boxed(1));
        assert!(line.work(), "the owner does the next one meanwhile");
        assert!(line.next_done().is_none(), "but it does not come first");
        let_go.send(()).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        assert_eq!(order.iter().map(|finished| finished.job.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(order.iter().map(|finished| finished.helped).collect::<Vec<_>>(), [true, false]);
    });
}

#[test]
fn what_a_helper_could_not_do_is_done_by_its_owner() {
    let (mut line, desk) = line();
    with_helpers(2, &desk, || {
        for number in 0..100 {
            let mut job = Count::boxed(number);
            job.panics = number % 3 == 0;
            line.offer(job);
            if number % 3 == 0 {
                until("a helper tries", || desk.offers() == 0);
            }
            while line.len() >= line.depth() {
                line.work();
                if line.next_done().is_none() {
                    break;
                }
            }
            if line.len() >= line.depth() {
                drop(line.next());
            }
        }
        while let Some(finished) = line.next() {
            assert_eq!(finished.job.done, 1);
            assert!(!(finished.helped && finished.job.panics));
        }
    });
}

#[test]
fn workers_are_woken_when_there_is_more_to_do_than_workers_that_do_it() {
    let pool = pool_of(3);
    let helpers: Vec<_> = (1..3).map(|seat| Helper::new(Arc::clone(&pool), seat)).collect();
    assert!(pool.somebody_has_time(0));
    assert!(!pool_of(1).somebody_has_time(0));
    let mut line = pool.sealing_line(0);
    assert_eq!(line.depth(), 6);
    let awake = || pool.seats_awake();
    assert_eq!(awake(), [false; 3]);
    line.offer(sealing::Sealing::nothing());
    assert_eq!(awake(), [false, true, false]);
    line.offer(sealing::Sealing::nothing());
    assert_eq!(awake(), [false, true, true]);
    line.offer(sealing::Sealing::nothing());
    assert!(helpers.iter().all(Helper::is_wanted));
    assert!(!Helper::new(Arc::clone(&pool), 0).is_wanted(), "nobody helps himself");
    helpers[0].help();
    helpers[1].help();
    helpers[0].help();
    assert!(!helpers[0].is_wanted());
    assert_eq!(std::iter::from_fn(|| line.next()).filter(|finished| finished.helped).count(), 3);
    drop(helpers);
    assert_eq!(awake(), [false; 3], "who rests or ends is not counted on");
}

#[test]
fn nobody_is_asked_where_nobody_may_help() {
    let wakers: Vec<_> = (0..4).map(|_| Arc::new(Waker::new().unwrap())).collect();
    for (wakers, assist) in [(&wakers[..1], Assist::Always), (&wakers[..], Assist::Never)] {
        let pool = Arc::new(Pool::new(wakers, assist));
        let mut load = Load::default();
        (0..100).for_each(|_| load.found());
        assert!(!pool.sealing_line(0).wants_help(&load, Instant::from_nanos(1)));
    }
    // Everybody is busy.
    let pool = Arc::new(Pool::new(&wakers, Assist::Always));
    assert!(!pool.sealing_line(0).wants_help(&Load::default(), Instant::from_nanos(1)));
}
