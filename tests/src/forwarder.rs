//! A machine in the way of datagrams, which passes them on, or does what nobody should.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::anyhow;

use crate::{Result, namespace::Namespace, wait::now};

/// How long a thread waits for a datagram before it looks at what else there is to do.
const PAUSE: Duration = Duration::from_millis(5);
/// By how much datagrams are late.
const LATE: Duration = Duration::from_millis(300);

/// What is done with each datagram, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// It is passed on.
    None,
    /// It is gone.
    Drop,
    /// It comes late, and so in another order than those from before.
    Delay,
    /// One bit of it is another.
    Rewrite,
    /// It goes back to whoever sent it.
    Reflect,
    /// It is passed on twice, and once more when it is late.
    Repeat,
}

/// A forwarder of UDP datagrams between clients and one target, which sees it as the clients' address. It ends when it is
/// dropped.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result>>,
}

#[derive(Debug)]
struct Shared {
    mischief: Mutex<Mischief>,
    harmed: AtomicU64,
    stop: AtomicBool,
}

/// A way on: to where the socket is connected, where no address is given.
#[derive(Debug, Clone)]
struct Hop {
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
}

impl Hop {
    fn send(&self, datagram: &[u8]) {
        // A refused datagram is a lost one.
        let _ = match self.to {
            Some(to) => self.socket.send_to(datagram, to),
            None => self.socket.send(datagram),
        };
    }
}

impl Forwarder {
    /// Passes on, in a namespace, what comes to `port`, to `target`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, port: u16, target: SocketAddr) -> Result<Self> {
        let outer = namespace.enter(|| Ok(Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?)))?;
        let shared = Arc::new(Shared {
            mischief: Mutex::new(Mischief::None),
            harmed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let (inside, state) = (namespace.clone(), Arc::clone(&shared));
        // On a thread of the namespace, because sockets are made there for each client.
        let thread = thread::spawn(move || inside.enter(|| serve(&outer, target, &state)));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What it does from now on.
    pub fn set(&self, mischief: Mischief) {
        *self.shared.mischief.lock().unwrap_or_else(PoisonError::into_inner) = mischief;
    }

    /// How many datagrams were not just passed on, so far.
    pub fn harmed(&self) -> u64 {
        self.shared.harmed.load(Ordering::Relaxed)
    }

    /// Ends it, and says what went wrong with it.
    ///
    /// # Errors
    /// When a socket could not be made.
    pub fn stop(mut self) -> Result {
        self.end().unwrap_or(Ok(()))
    }

    fn end(&mut self) -> Option<Result> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(anyhow!("the forwarder panicked"))))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn serve(outer: &Arc<UdpSocket>, target: SocketAddr, shared: &Shared) -> Result {
    let mut clients: HashMap<SocketAddr, Hop> = HashMap::new();
    outer.set_read_timeout(Some(PAUSE))?;
    thread::scope(|scope| {
        let mut way = Way::new(shared);
        let mut buffer = vec![0; 1 << 16];
        while !shared.stop.load(Ordering::Relaxed) {
            way.send_late();
            let Ok((length, client)) = outer.recv_from(&mut buffer) else { continue };
            let back = Hop { socket: Arc::clone(outer), to: Some(client) };
            let on = match clients.get(&client) {
                Some(on) => on.clone(),
                None => {
                    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
                    socket.connect(target)?;
                    socket.set_read_timeout(Some(PAUSE))?;
                    let on = Hop { socket, to: None };
                    clients.insert(client, on.clone());
                    let (here, there) = (on.clone(), back.clone());
                    scope.spawn(move || {
                        let mut way = Way::new(shared);
                        let mut buffer = vec![0; 1 << 16];
                        while !shared.stop.load(Ordering::Relaxed) {
                            way.send_late();
                            let Ok(length) = here.socket.recv(&mut buffer) else { continue };
                            way.carry(&mut buffer[..length], &there, &here);
                        }
                    });
                    on
                }
            };
            way.carry(&mut buffer[..length], &on, &back);
        }
        Ok(())
    })
}

/// One direction of one thread.
struct Way<'a> {
    shared: &'a Shared,
    late: VecDeque<(Instant, Vec<u8>, Hop)>,
    bit: usize,
}

impl<'a> Way<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, late: VecDeque::new(), bit: 0 }
    }

    fn send_late(&mut self) {
        while let Some((due, datagram, hop)) = self.late.pop_front() {
            if due > now() {
                self.late.push_front((due, datagram, hop));
                return;
            }
            hop.send(&datagram);
        }
    }

    fn carry(&mut self, datagram: &mut [u8], on: &Hop, back: &Hop) {
        let mischief = *self.shared.mischief.lock().unwrap_or_else(PoisonError::into_inner);
        if mischief != Mischief::None {
            self.shared.harmed.fetch_add(1, Ordering::Relaxed);
        }
        match mischief {
            Mischief::None => on.send(datagram),
            Mischief::Drop => {}
            Mischief::Delay => self.late.push_back((now() + LATE, datagram.to_vec(), on.clone())),
            Mischief::Rewrite => {
                // Each bit of a datagram has its turn: the step has no divisor in common with any length.
                self.bit += 10_007;
                let bits = datagram.len() * 8;
                if let Some(byte) = datagram.get_mut(self.bit % bits.max(1) / 8) {
                    *byte ^= 1 << (self.bit % 8);
                }
                on.send(datagram);
            }
            Mischief::Reflect => back.send(datagram),
            Mischief::Repeat => {
                on.send(datagram);
                on.send(datagram);
                self.late.push_back((now() + LATE, datagram.to_vec(), on.clone()));
            }
        }
    }
}
