//! Paths in virtual time: lossy, narrow, shrinking, growing, silent, and different each way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing { confirm: Duration::from_secs(5), raise: Duration::from_secs(60) };
const JUMBO: u16 = 8920;
const ETHERNET: u16 = 1420;

/// A path, and the peer at its end. Time goes by in steps to the next thing that happens.
struct World {
    machine: PathMtu,
    now: Instant,
    /// Largest inner packet that passes towards the peer.
    passes: u16,
    /// Largest that the first link takes; more is refused at once.
    link: u16,
    one_way: Duration,
    loss_per_mille: u64,
    answers: bool,
    used: bool,
    /// Nothing comes back at all but answers to probes.
    unanswered_since: Option<Instant>,
    under_way: BTreeMap<(Instant, u64), u16>,
    random: u64,
    probes: u64,
    bytes: u64,
}

impl World {
    fn new(ceiling: u16, passes: u16) -> Self {
        let mut world = Self {
            machine: PathMtu::new(ceiling, TIMING),
            now: Instant::from_nanos(1_000_000_000),
            passes,
            link: ceiling,
            one_way: Duration::from_millis(10),
            loss_per_mille: 0,
            answers: true,
            used: true,
            unanswered_since: None,
            under_way: BTreeMap::new(),
            random: 1,
            probes: 0,
            bytes: 0,
        };
        world.machine.begin(ceiling, None, world.now);
        world
    }

    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % 1000 < self.loss_per_mille
    }

    fn send(&mut self) {
        while let Some(Probe { id, size }) = self.machine.poll_probe(self.now) {
            self.probes += 1;
            self.bytes += u64::from(size);
            if size > self.link {
                self.machine.handle_too_big(id, self.now);
            } else if size <= self.passes && self.answers && !self.is_lost() && !self.is_lost() {
                self.under_way.insert((self.now + self.one_way * 2, id), size);
            }
            self.check();
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        assert!((BASE..=self.machine.ceiling).contains(&self.machine.limit()));
    }

    /// Lets time go by, with packets to the peer all the while, unless `used` says otherwise.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.send();
            let answer = self.under_way.keys().next().map(|key| key.0);
            let next = [answer, self.machine.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if answer == Some(next) {
                let Some(((_, id), size)) = self.under_way.pop_first() else { break };
                // An answer is something that came back.
                self.unanswered_since = self.unanswered_since.map(|_| self.now);
                self.machine.handle_answer(id, size, self.now);
            } else {
                let unanswered = self
                    .unanswered_since
                    .map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
                self.machine.handle_timeout(Traffic { sent: self.used, unanswered }, self.now);
                if self.used {
                    self.machine.wake(self.now);
                }
            }
            self.check();
        }
        self.now = end;
    }

    fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn close_to(&self, size: u16) -> bool {
        (size.saturating_sub(GRANULARITY)..=size).contains(&self.machine.limit())
    }
}

#[test]
fn an_ordinary_path_is_proven_in_two_round_trips() {
    let mut world = World::new(ETHERNET, ETHERNET);
    assert_eq!(world.machine.limit(), ETHERNET, "until then as without discovery");
    world.run(Duration::from_millis(41));
    assert!(world.machine.is_proven() && !world.machine.is_searching());
    assert_eq!(world.machine.limit(), ETHERNET);
}

#[test]
fn a_jumbo_path_is_found_whole() {
    let mut world = World::new(JUMBO, JUMBO);
    world.run(Duration::from_millis(41));
    assert!(world.machine.is_proven());
    assert_eq!(world.machine.limit(), JUMBO);
}

#[test]
fn every_narrow_path_is_found_to_within_eight_bytes() {
    for ceiling in [ETHERNET, JUMBO, 65_455] {
        for passes in (BASE..=ceiling).step_by(if ceiling > 9000 { 997 } else { 13 }) {
            let mut world = World::new(ceiling, passes);
            world.run(Duration::from_millis(240));
            assert!(world.machine.limit() <= passes, "{passes}: nothing larger is sent for longer");
            world.seconds(8);
            assert!(world.close_to(passes), "{} of {passes}", world.machine.limit());
            assert!(world.machine.is_proven() && !world.machine.is_searching());
        }
    }
}

#[test]
fn a_link_that_refuses_at_once_is_no_matter_of_waiting() {
    for link in [BASE, 1300, ETHERNET, 4000] {
        let mut world = World::new(JUMBO, JUMBO);
        world.link = link;
        world.run(Duration::from_millis(400));
        assert!(world.close_to(link), "{} of {link}", world.machine.limit());
    }
}

/// RFC 8899 §4.3.
#[test]
fn a_black_hole_is_noticed_within_three_seconds_of_silence_and_left_behind() {
    let mut world = World::new(ETHERNET, ETHERNET);
    world.seconds(10);
    world.passes = 1240;
    // A bulk transfer: all packets are as large as the limit, so that nothing comes back.
    world.unanswered_since = Some(world.now);
    world.run(Duration::from_millis(2500));
    assert!(world.machine.limit() <= 1240);
    world.seconds(5);
    assert!(world.close_to(1240), "{}", world.machine.limit());
}

#[test]
fn a_black_hole_beside_other_traffic_is_noticed_by_the_clock() {
    let mut world = World::new(JUMBO, JUMBO);
    world.seconds(10);
    world.passes = ETHERNET;
    world.seconds(6);
    assert!(world.machine.limit() <= ETHERNET);
    world.seconds(5);
    assert!(world.close_to(ETHERNET));
}

#[test]
fn a_path_that_recovers_is_used_again_within_the_raise_interval() {
    let mut world = World::new(ETHERNET, ETHERNET);
    world.seconds(3);
    world.passes = 1240;
    world.seconds(20);
    assert!(world.close_to(1240));
    world.passes = ETHERNET;
    world.run(TIMING.raise + Duration::from_secs(2));
    assert_eq!(world.machine.limit(), ETHERNET);
}

#[test]
fn a_dead_path_is_no_small_path() {
    let mut world = World::new(ETHERNET, ETHERNET);
    world.seconds(10);
    world.answers = false;
    world.unanswered_since = Some(world.now);
    world.seconds(100);
    assert_eq!(world.machine.limit(), ETHERNET);
    world.answers = true;
    world.passes = 1300;
    world.seconds(10);
    assert!(world.close_to(1300), "and it is looked at as soon as it lives");
}

#[test]
fn a_peer_that_knows_no_probes_gets_few_of_them_and_keeps_the_routes_size() {
    let mut world = World::new(ETHERNET, ETHERNET);
    world.answers = false;
    world.seconds(4);
    assert!(world.machine.is_silent());
    assert_eq!((world.machine.limit(), world.probes), (ETHERNET, 3), "only the base, three times");
    world.seconds(24 * 3600);
    assert!(world.probes < 3 * 150, "{} probes in a day of traffic", world.probes);
    assert_eq!(world.machine.limit(), ETHERNET);
    // It was given another program.
    world.answers = true;
    world.machine.note_speaks(world.now);
    world.seconds(2);
    assert!(world.machine.is_proven());
}

#[test]
fn a_peer_that_moves_is_searched_anew_and_the_old_size_holds_meanwhile() {
    let mut world = World::new(JUMBO, JUMBO);
    world.seconds(5);
    world.passes = 1340;
    world.machine.begin(JUMBO, None, world.now);
    assert_eq!(world.machine.limit(), JUMBO);
    assert!(!world.machine.is_proven());
    world.seconds(5);
    assert!(world.close_to(1340));
    world.passes = JUMBO;
    world.machine.begin(JUMBO, None, world.now);
    world.run(Duration::from_millis(21));
    assert_eq!(world.machine.limit(), JUMBO, "a round trip is enough");
}

#[test]
fn an_idle_tunnel_is_silent_and_wakes_with_the_first_packet() {
    let mut world = World::new(ETHERNET, 1300);
    world.used = false;
    world.seconds(10);
    let probes = world.probes;
    world.seconds(7 * 24 * 3600);
    assert_eq!(world.probes, probes);
    assert_eq!(world.machine.poll_timeout(), None);
    world.used = true;
    world.machine.wake(world.now);
    world.passes = 1250;
    world.seconds(5);
    assert!(world.close_to(1250), "what happened meanwhile is found out");
}

#[test]
fn steady_use_costs_little() {
    let mut world = World::new(JUMBO, 1440);
    world.seconds(20);
    let before = world.bytes;
    world.seconds(3600);
    let rate = (world.bytes - before) / 3600;
    assert!(rate < 3000, "{rate} bytes a second");
}

#[test]
fn answers_to_nothing_and_of_another_size_change_nothing() {
    let mut world = World::new(JUMBO, JUMBO);
    let probe = world.machine.poll_probe(world.now).unwrap();
    world.machine.handle_answer(probe.id + 1, JUMBO, world.now);
    world.machine.handle_answer(probe.id, JUMBO, world.now);
    world.machine.handle_answer(probe.id, probe.size - 1, world.now);
    world.machine.handle_too_big(99, world.now);
    assert_eq!(world.machine.proven, 0);
    world.machine.handle_answer(probe.id, probe.size, world.now);
    assert_eq!(world.machine.proven, BASE);
}

#[test]
fn nothing_brings_the_limit_below_the_base() {
    let mut world = World::new(300, 300);
    assert_eq!(world.machine.limit(), BASE);
    world.link = 200;
    world.seconds(100);
    world.machine.set_ceiling(100, world.now);
    assert_eq!(world.machine.limit(), BASE);
}

#[test]
fn a_device_that_takes_more_is_tried_at_once_and_one_that_takes_less_is_obeyed() {
    let mut world = World::new(ETHERNET, JUMBO);
    world.seconds(3);
    world.link = JUMBO;
    world.machine.set_ceiling(JUMBO, world.now);
    world.seconds(2);
    assert_eq!(world.machine.limit(), JUMBO);
    world.machine.set_ceiling(1300, world.now);
    assert_eq!(world.machine.limit(), 1300);
}

proptest! {
    /// A fifth of all probes and answers lost: a limit that is too large holds for seconds at most, and one that is too
    /// small until the next attempts to raise it.
    #[test]
    fn loss_delays_but_does_not_deceive(seed in any::<u64>(), passes in BASE..JUMBO, loss in 0..200_u64) {
        let mut world = World::new(JUMBO, passes);
        world.random = seed | 1;
        world.loss_per_mille = loss;
        world.seconds(15);
        prop_assert!(world.machine.limit() <= passes || !world.machine.is_proven());
        let mut best = 0;
        for _ in 0..30 {
            world.seconds(20);
            prop_assert!(world.machine.limit() <= passes || !world.machine.is_proven());
            best = best.max(world.machine.limit());
        }
        prop_assert!(best + GRANULARITY >= passes, "{best} of {passes}");
    }

    /// Whatever comes in whatever order, the limit stays between base and ceiling and nothing panics.
    #[test]
    fn any_order_of_events_is_met(events in prop::collection::vec((0..7_u8, any::<u16>(), 0..40_u64), 0..300)) {
        let mut now = Instant::from_nanos(1);
        let mut machine = PathMtu::new(ETHERNET, TIMING);
        for (kind, number, id) in events {
            match kind {
                0 => machine.begin(number, None, now),
                1 => machine.handle_answer(id, number, now),
                2 => machine.handle_too_big(id, now),
                3 => machine.set_ceiling(number, now),
                4 => machine.wake(now),
                5 => machine.handle_timeout(
                    Traffic { sent: number % 2 == 0, unanswered: Duration::from_millis(number.into()) },
                    now,
                ),
                _ => {
                    while let Some(probe) = machine.poll_probe(now) {
                        prop_assert!(probe.size >= BASE);
                        if number % 3 == 0 {
                            machine.handle_answer(probe.id, probe.size, now);
                        }
                    }
                    now = machine.poll_timeout().map_or(now, |deadline| deadline.max(now));
                    now = now + Duration::from_millis(number.into());
                }
            }
            prop_assert!((BASE..=machine.ceiling.max(BASE)).contains(&machine.limit()));
        }
    }
}
