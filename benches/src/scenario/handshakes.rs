//! Very many genuine handshakes beside a bulk stream: data should lose what handshakes take of the
//! processors, and hardly more.
//!
//! The same packets go to the tunnel and to a closed port by turns, for a quarter of a second each, while one stream runs through it
//! all: neighbours differ by far less than two streams do, and many short pairs say more than a few long ones.

use std::thread;
use std::time::{Duration, Instant};

use tombolo_packet::message::INITIATION_LEN;
use tombolo_tests::interrupt;
use tombolo_tests::wait::now;

use super::{add_peers, west, west_key};
use crate::contender::{Entrant, OURS};
use crate::load::bulk::{Meter, Streams};
use crate::load::clients::{Clients, send_at};
use crate::load::pace::Sent;
use crate::results::{Figures, figures};
use crate::statistics::jackknife;
use crate::suite::Suite;
use crate::wire::Wire;
use crate::{Result, accounting};

/// Initiations a second, and the peers that make them in turn: each of them less often than the
/// protocol allows.
const RATE: f64 = 3000.0;
const PEERS: usize = 1000;
/// How the threads are called that carry data; every other one of the daemon works for handshakes alone.
const DATA_THREADS: [&str; 3] = ["tombolo-in", "tombolo-out", "tombolo-data"];
/// Whether a window is of the tunnel: one behind the other, so that what changes steadily meets both alike.
const ORDER: [bool; 4] = [false, true, true, false];
/// How often that is repeated with one stream, which ends before it is ten seconds old: then BBR begins to pause now and then, to learn
/// how long an empty line takes.
const REPEATED: usize = 6;
const STREAMS: usize = 4;
const WINDOW: Duration = Duration::from_millis(240);
/// What the stream gets at first, and after each change: it took 100 ms to find its new speed.
const BEGINNING: Duration = Duration::from_millis(400);
const CHANGE: Duration = Duration::from_millis(120);

/// Where fewer are answered, handshakes were not what was measured: a daemon that comes to them too late thinks itself under load, and asks
/// for cookies (requirement 13).
const ANSWERED: f64 = 0.98;

/// What went on in a window, or in several together.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    seconds: f64,
    gigabytes: f64,
    /// Processor time in seconds: of the threads that shake hands, and of all that ran on the machine.
    handshakes: f64,
    used: f64,
}

impl Window {
    fn plus(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            gigabytes: self.gigabytes + other.gigabytes,
            handshakes: self.handshakes + other.handshakes,
            used: self.used + other.used,
        }
    }

    /// From one reading of everything that only grows to another.
    fn minus(self, other: Self) -> Self {
        Self {
            seconds: self.seconds - other.seconds,
            gigabytes: self.gigabytes - other.gigabytes,
            handshakes: self.handshakes - other.handshakes,
            used: self.used - other.used,
        }
    }

    fn gigabits(self) -> f64 {
        self.gigabytes * 8.0 / self.seconds
    }

    /// Processor time of all but handshakes for each gigabyte.
    fn rest(self) -> f64 {
        (self.used - self.handshakes) / self.gigabytes
    }
}

/// Neighbouring windows.
#[derive(Clone, Copy, Debug)]
struct Pair {
    closed: Window,
    tunnel: Window,
}

/// All pairs but one, put together.
fn together(pairs: &[Pair], left_out: Option<usize>) -> Pair {
    let kept = pairs.iter().enumerate().filter(|(index, _)| Some(*index) != left_out);
    let none = Pair { closed: Window::default(), tunnel: Window::default() };
    kept.fold(none, |sum, (_, pair)| Pair {
        closed: sum.closed.plus(pair.closed),
        tunnel: sum.tunnel.plus(pair.tunnel),
    })
}

impl Pair {
    /// What the stream loses, as a share.
    fn loss(self) -> f64 {
        1.0 - self.tunnel.gigabits() / self.closed.gigabits()
    }

    /// Processors that the handshakes took: what their threads ran less what they run anyway.
    fn taken(self) -> f64 {
        self.tunnel.handshakes / self.tunnel.seconds - self.closed.handshakes / self.closed.seconds
    }

    /// Their share of all that the processors could do, idle or not.
    fn share(self) -> f64 {
        self.taken() / accounting::processors()
    }

    /// Their share of the processor time that was used. Data that costs as much as ever loses just that, where handshakes leave
    /// as much idle as there was.
    fn share_in_use(self) -> f64 {
        self.taken() * self.tunnel.seconds / self.tunnel.used
    }
}

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let Some(contender) = suite.plan.contender(OURS) else { return Ok(()) };
    let entrant = contender.enter(Wire::lay()?)?;
    suite.daemons = entrant.running.pids();
    let namespace = &entrant.wire.east.namespace;
    let mut clients =
        Clients::new(namespace, west(&entrant)[0], west_key(&entrant)?, entrant.wire.west.inner, PEERS)?;
    add_peers(&entrant, 1, &clients.config())?;
    let streams = if suite.plan.quick { 1 } else { STREAMS };
    suite.sample("handshakes", OURS, || {
        let (mut pairs, mut answered) = (Vec::new(), 0);
        let mut sent = Sent { datagrams: 0, duration: Duration::ZERO };
        for _ in 0..streams {
            interrupt::check()?;
            beside_one_stream(&entrant, &mut clients, &mut pairs, &mut sent)?;
            answered += clients.count_responses();
        }
        Ok(figures_of(&pairs, sent, answered))
    })
}

/// Adds the pairs that were measured with a stream of its own, and what was sent to the tunnel.
fn beside_one_stream(
    entrant: &Entrant,
    clients: &mut Clients,
    pairs: &mut Vec<Pair>,
    sent: &mut Sent,
) -> Result {
    let each = due(CHANGE) + due(WINDOW);
    let initiations = clients.initiations(each * ORDER.len() / 2 * REPEATED)?;
    // Whatever the kernel has to say to a closed port is in what the others cost, too.
    let [tunnel, closed] = west(entrant);
    let start = now();
    Streams::connect(&entrant.wire, entrant.running.destination, 1)?.metered(|meter| {
        thread::sleep(BEGINNING);
        let clients = &*clients;
        let mut window = |target, messages: &[u8]| -> Result<Window> {
            let (first, rest) = messages.split_at(due(CHANGE) * INITIATION_LEN);
            let mut send = |messages, span| {
                let went = send_at(clients.socket(), target, messages, INITIATION_LEN as u16, RATE, span);
                if target == tunnel {
                    sent.datagrams += went.datagrams;
                    sent.duration += went.duration;
                }
            };
            send(first, CHANGE);
            let before = reading(entrant, meter, start)?;
            send(rest, WINDOW);
            Ok(reading(entrant, meter, start)?.minus(before))
        };
        let order = ORDER.repeat(REPEATED);
        // Each pair sends the same messages twice, in one order or the other.
        for (order, messages) in order.chunks(2).zip(initiations.chunks(each * INITIATION_LEN)) {
            let mut pair = Pair { closed: Window::default(), tunnel: Window::default() };
            for &to_the_tunnel in order {
                if to_the_tunnel {
                    pair.tunnel = window(tunnel, messages)?;
                } else {
                    pair.closed = window(closed, messages)?;
                }
            }
            pairs.push(pair);
        }
        Ok(())
    })
}

/// Initiations in so long a time.
fn due(span: Duration) -> usize {
    (RATE * span.as_secs_f64()).ceil() as usize
}

/// Everything that only grows, as it is now.
fn reading(entrant: &Entrant, meter: &Meter, start: Instant) -> Result<Window> {
    let west = entrant.running.daemons.last().map_or(0, |daemon| daemon.id());
    let carries_data = |name: &str| DATA_THREADS.iter().any(|data| name.starts_with(data));
    let threads = accounting::thread_times(west)?;
    let handshakes: Duration =
        threads.iter().filter(|(name, _)| !carries_data(name)).map(|(_, time)| time).sum();
    Ok(Window {
        seconds: start.elapsed().as_secs_f64(),
        gigabytes: meter.bytes() as f64 * 1e-9,
        handshakes: handshakes.as_secs_f64(),
        used: accounting::machine_time()?.as_secs_f64(),
    })
}

fn figures_of(pairs: &[Pair], sent: Sent, answered: usize) -> Figures {
    let all = together(pairs, None);
    let per_second = answered as f64 / sent.duration.as_secs_f64();
    let answered = answered as f64 / sent.datagrams as f64;
    let (ratio, error) = jackknife(pairs.len(), |left_out| {
        let pairs = together(pairs, left_out);
        pairs.loss() / pairs.share()
    });
    let mut figures = figures([
        ("handshake_closed_gbps", all.closed.gigabits()),
        ("handshake_tunnel_gbps", all.tunnel.gigabits()),
        ("handshakes_per_second", per_second),
        ("handshakes_answered", answered * 100.0),
        ("handshake_share", all.share() * 100.0),
        ("handshake_share_in_use", all.share_in_use() * 100.0),
        ("handshake_loss", all.loss() * 100.0),
        ("handshake_loss_to_share", ratio),
        ("handshake_loss_error", error),
        ("handshake_loss_to_share_in_use", all.loss() / all.share_in_use()),
        ("handshake_closed_rest", all.closed.rest()),
        ("handshake_tunnel_rest", all.tunnel.rest()),
        ("handshake_us", all.taken() * 1e6 / per_second),
    ]);
    if answered < ANSWERED {
        figures.retain(|name, _| !name.contains("loss"));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Sent = Sent { datagrams: 300, duration: Duration::from_secs(2) };

    fn window(gigabytes: f64, handshakes: f64, used: f64) -> Window {
        Window { seconds: 0.25, gigabytes, handshakes, used }
    }

    #[test]
    fn data_that_costs_as_much_as_ever_loses_just_the_share_of_the_handshakes() {
        // A processor second carries two gigabytes; a tenth of a second of handshakes, a hundredth of which is there anyway.
        let closed = window(2.0 * (0.44 - 0.01), 0.01, 0.44);
        let tunnel = window(2.0 * (0.44 - 0.10), 0.10, 0.44);
        let faster = Pair { closed: closed.plus(closed), tunnel: tunnel.plus(tunnel) };
        let figures = figures_of(&[Pair { closed, tunnel }, faster, Pair { closed, tunnel }], SENT, 297);
        let near = |name: &str, expected: f64| {
            let value = figures[name];
            assert!((value - expected).abs() < 1e-6, "{name}: {value}");
        };
        near("handshake_loss", 9.0 / 43.0 * 100.0);
        near("handshake_share", 9.0 / 25.0 * 100.0 / accounting::processors());
        near("handshake_share_in_use", 9.0 / 44.0 * 100.0);
        near("handshake_loss_to_share_in_use", 44.0 / 43.0);
        near("handshake_loss_error", 0.0);
        near("handshake_closed_rest", 0.5);
        near("handshake_tunnel_rest", 0.5);
        near("handshakes_per_second", 148.5);
        near("handshakes_answered", 99.0);
        near("handshake_us", 0.36e6 / 148.5);
    }

    #[test]
    fn where_few_are_answered_nothing_is_said_of_the_loss() {
        let pairs = [Pair { closed: window(1.0, 0.0, 0.5), tunnel: window(0.9, 0.1, 0.5) }; 2];
        assert!(figures_of(&pairs, SENT, 297).contains_key("handshake_loss_to_share"));
        let few = figures_of(&pairs, SENT, 270);
        assert!(!few.contains_key("handshake_loss_to_share") && few.contains_key("handshakes_answered"));
    }

    #[test]
    fn scatter_is_in_the_error() {
        let pair = |gigabytes| Pair { closed: window(1.0, 0.0, 0.5), tunnel: window(gigabytes, 0.1, 0.5) };
        let figures = figures_of(&[pair(0.7), pair(0.9)], SENT, 300);
        // A loss of 0.3 and of 0.1, and 0.4 processors taken in both.
        let of_one_processor = |name: &str| figures[name] / accounting::processors();
        assert!((of_one_processor("handshake_loss_to_share") - 0.5).abs() < 1e-6);
        assert!((of_one_processor("handshake_loss_error") - 0.25).abs() < 1e-6);
    }
}
