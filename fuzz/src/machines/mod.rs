//! The state machines of the control plane, each with sessions open to others that may say anything: a node that joins, a
//! member, and a server that is lighthouse, relay and authority.

mod papers;
mod samples;

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tombolo_control::Path;
use tombolo_control::authority::{self, Authority, Outcome, Session, SessionId};
use tombolo_control::frame::{Frame, Keepalive, Order};
use tombolo_control::lighthouse::LighthouseOptions;
use tombolo_control::node::{Event, Node, NodeOptions, Output, Saved, SavedDocuments};
use tombolo_control::relay::Permission;
use tombolo_control::verifier::{Overlay, Pins};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::Script;
use papers::{
    ADMINISTRATOR, BEGIN, ENDPOINT, JOINER, MEMBER, OTHER, OWN, Papers, SERVER, STRANGER, clock, issuer, key,
    parse,
};

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has sent its join request to the server.
    Joiner,
    /// Has verified sessions with the server and with another member, and one with a stranger.
    Member,
    /// Lighthouse, relay and authority, with a member, an administrator and a stranger.
    Server,
}

/// All of them.
pub const KINDS: [Kind; 3] = [Kind::Joiner, Kind::Member, Kind::Server];

/// Who has a session with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The server, or a member where the machine is the server.
    Server,
    /// A member.
    Member,
    /// A member of the group that administers the network.
    Administrator,
    /// Somebody without a membership.
    Stranger,
}

/// All of them.
pub const SPEAKERS: [Speaker; 4] =
    [Speaker::Server, Speaker::Member, Speaker::Administrator, Speaker::Stranger];

/// What one message may bring about at most: a new network document goes to all sessions, and is saved.
const OUTPUTS_MAX: usize = 48;
/// Calls that a second may need.
const CALLS_A_SECOND: u64 = 100;

/// One machine.
pub struct Machine {
    kind: Kind,
    node: Node,
    authority: Option<Authority>,
    permission: Option<Permission>,
    revision: u64,
    /// Nanoseconds of boot time.
    now: u64,
    rng: ChaCha20Rng,
    /// Frames that it has sent so far, the first hundred.
    sent: Vec<Frame>,
    outputs: usize,
}

fn place(number: u8) -> Path {
    let address: SocketAddr = parse(ENDPOINT);
    Path::Direct(if number == SERVER { address } else { SocketAddr::from(([192, 0, 2, 10 + number], 8662)) })
}

impl Machine {
    /// In the state that its [`Kind`] says.
    pub fn new(kind: Kind) -> Self {
        let papers = Papers::get();
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let now = clock(BEGIN);
        let mut authority = None;
        let mut permission = None;
        let node = match kind {
            Kind::Joiner => {
                Node::join(key(JOINER), papers.token.clone(), None, NodeOptions::default(), now, &mut rng)
            }
            Kind::Member => {
                let mut node = Node::restore(key(OWN), &saved(OWN), NodeOptions::default(), now, &mut rng);
                node.follow_names(Vec::new(), now);
                node
            }
            Kind::Server => {
                let options = NodeOptions { authority: true, ..NodeOptions::default() };
                let mut node = Node::restore(key(SERVER), &saved(SERVER), options, now, &mut rng);
                node.serve_lighthouse(LighthouseOptions::default(), now);
                permission = Some(Permission::new(papers.node(SERVER), 64));
                authority = Authority::new(issuer(), papers.snapshot.clone(), now).ok();
                node
            }
        };
        let (sent, outputs) = (Vec::new(), 0);
        let mut machine =
            Self { kind, node, authority, permission, revision: 1 << 32, now: BEGIN, rng, sent, outputs };
        machine.settle();
        for speaker in SPEAKERS {
            machine.establish(speaker, kind == Kind::Joiner);
            if speaker != Speaker::Stranger && kind != Kind::Joiner {
                let show = samples::show(machine.number(speaker));
                machine.say(speaker, &show);
            }
        }
        if kind == Kind::Member {
            machine.event(Event::Wanted { address: papers.address(OTHER) });
        }
        let order = Order { epoch: 1, sequence: 1 };
        let (candidates, relays) = (Vec::new(), Vec::new());
        let keepalive = Keepalive { order, candidates, relays };
        machine.say(Speaker::Member, &Frame::Keepalive(keepalive));
        machine.pass(Duration::from_millis(700));
        machine
    }

    /// The number of a speaker's key.
    fn number(&self, speaker: Speaker) -> u8 {
        match speaker {
            Speaker::Server if self.kind == Kind::Server => OTHER,
            Speaker::Server => SERVER,
            Speaker::Member => MEMBER,
            Speaker::Administrator => ADMINISTRATOR,
            Speaker::Stranger => STRANGER,
        }
    }

    /// One well-formed frame of each type, some several times, with what fits the machine's state.
    pub fn samples(&self) -> Vec<Frame> {
        samples::all(&self.sent)
    }

    /// A decrypted message of the session with a speaker. Gives how many outputs it has caused.
    ///
    /// # Panics
    /// Where it brings about more than is sensible.
    pub fn message(&mut self, from: Speaker, message: &[u8]) -> usize {
        let number = self.number(from);
        self.event(Event::Message { from: key(number), path: place(number), message })
    }

    fn say(&mut self, from: Speaker, frame: &Frame) {
        let bytes = frame.to_bytes().expect("frames of ours fit");
        self.message(from, &bytes);
    }

    fn establish(&mut self, with: Speaker, initiator: bool) {
        let number = self.number(with);
        let (peer, path) = (key(number), place(number));
        // A joiner signs the hash of its own handshake.
        let handshake_hash = [if self.kind == Kind::Joiner { JOINER } else { number }; 32];
        self.event(Event::Established { peer, path, initiator, handshake_hash });
    }

    fn event(&mut self, event: Event<'_>) -> usize {
        self.node.handle_event(event, clock(self.now), &mut self.rng);
        self.settle()
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// Where something is due again and again.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + u64::try_from(time.as_nanos()).unwrap_or(0);
        let mut calls = 0;
        while let Some(at) = self.node.poll_timeout().filter(|at| at.as_nanos() <= until) {
            self.now = self.now.max(at.as_nanos());
            self.node.handle_timeout(clock(self.now), &mut self.rng);
            self.settle();
            calls += 1;
            assert!(calls < CALLS_A_SECOND * (2 + time.as_secs()), "{calls} calls in {time:?}");
        }
        self.now = until;
        if let Some(authority) = &mut self.authority {
            authority.handle_timeout(clock(until), &mut self.rng);
        }
        self.settle();
    }

    /// Does what the machine says, as the daemon does.
    fn settle(&mut self) -> usize {
        self.outputs = 0;
        loop {
            while let Some(output) = self.node.poll_output() {
                self.outputs += 1;
                assert!(self.outputs <= OUTPUTS_MAX, "{output:?} and {OUTPUTS_MAX} more of one cause");
                self.carry_out(output);
            }
            if !self.work_authority() {
                break;
            }
        }
        if let (Some(permission), Kind::Server) = (&mut self.permission, self.kind) {
            let times = self.node.times(clock(self.now));
            let destination = Papers::get().node(MEMBER);
            let path = self.node.path_to(&key(MEMBER));
            let verifier = self.node.verifier();
            let _ = permission.authorise(
                verifier,
                (&key(STRANGER), place(STRANGER)),
                (&destination, path),
                times,
            );
            permission.retire(verifier, times, |_| true);
            assert!(permission.len() <= 64);
        }
        self.outputs
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(outgoing) => {
                let bytes = outgoing.frame.to_bytes().expect("what a machine sends fits into a frame");
                // Times travel in whole seconds.
                let read = Frame::parse(&bytes).and_then(|read| read.to_bytes());
                assert_eq!(read, Ok(bytes), "{:?}", outgoing.frame);
                if self.sent.len() < 100 {
                    self.sent.push(outgoing.frame);
                }
            }
            Output::Authority { from, handshake_hash, frame } => {
                let now = clock(self.now);
                let authorised = self.node.verifier().authorised(&from, self.node.times(now)).is_some();
                let id = (0..=JOINER).find(|number| key(*number) == from).unwrap_or(SERVER);
                let session = Session { id: SessionId(id.into()), key: from, handshake_hash, authorised };
                if let Some(authority) = &mut self.authority {
                    authority.handle_frame(&session, &frame, now, &mut self.rng);
                }
            }
            _ => {}
        }
    }

    /// Whether there was something to do.
    fn work_authority(&mut self) -> bool {
        let Some(authority) = &mut self.authority else { return false };
        let now = clock(self.now);
        let mut worked = false;
        while let Some(transaction) = authority.poll_store() {
            self.revision += 1;
            let outcome = Outcome::Committed { revision: self.revision, audit: None };
            authority.handle_store(transaction.id, outcome, now, &mut self.rng);
            worked = true;
        }
        while let Some(event) = authority.poll_event() {
            worked = true;
            match event {
                authority::Event::Published(published) => {
                    let trust = authority.trust().encoded().to_vec();
                    let head = published.head.unwrap_or_default();
                    let taken = self.node.install(&trust, &published.network, &head, now, &mut self.rng);
                    taken.expect("what the authority signs is taken by its own node");
                }
                authority::Event::Issued { membership, .. } => {
                    let _ = self.node.admit(&membership, now, &mut self.rng);
                }
                _ => {}
            }
        }
        while let Some((SessionId(id), frame)) = authority.poll_frame() {
            worked = true;
            self.node.send(key(u8::try_from(id).unwrap_or(SERVER)), frame);
        }
        worked
    }

    /// All that the node knows and means to do, but for how many messages it has dropped.
    pub fn state(&self) -> String {
        let text = format!("{:?}", self.node);
        let (before, after) = text.rsplit_once("dropped: ").expect("a node counts what it drops");
        format!("{before}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()))
    }

    /// Whether a speaker's key is a member's.
    pub fn believes(&self, speaker: Speaker) -> bool {
        let peer: PublicKey = key(self.number(speaker));
        self.node.verifier().authorised(&peer, self.node.times(clock(self.now))).is_some()
    }

    /// Hash of the network document that is held.
    pub fn document(&self) -> Option<tombolo_control::DocumentHash> {
        self.node.verifier().network().map(|network| network.hash())
    }
}

fn saved(number: u8) -> Saved {
    let papers = Papers::get();
    let trust = &papers.trust;
    let overlay =
        Overlay { cidrs: [parse("10.86.0.0/16"), parse("fd86::/64")].into(), domain: parse("fuzz.internal") };
    let documents = SavedDocuments {
        pins: Pins { network: trust.network, root: trust.root.fingerprint(), overlay: Some(overlay) },
        floor: None,
        trust: Some(trust.encoded().to_vec()),
        network: Some(papers.published.network.clone()),
        head: papers.published.head.clone(),
    };
    let membership = papers.membership(number).to_vec();
    Saved { documents, membership, time: UnixTime::default(), epoch: 0, peers: Vec::new() }
}

/// A script for one machine: what others say to it, well-formed frames that are then altered among it, and what else
/// happens. Nothing panics, brings about much, or makes a member of a stranger where no authority is.
pub fn control_machine(data: &[u8]) {
    let mut script = Script(data);
    let kind = KINDS[usize::from(script.byte()) % KINDS.len()];
    let mut machine = Machine::new(kind);
    let samples = machine.samples();
    for _ in 0..64 {
        if script.is_empty() {
            break;
        }
        let (step, who) = (script.byte(), script.byte());
        let speaker = SPEAKERS[usize::from(who) % SPEAKERS.len()];
        let peer = key(machine.number(speaker));
        match step % 10 {
            0 => drop(machine.message(speaker, script.bytes())),
            1 | 2 => {
                let mut bytes =
                    samples[usize::from(script.byte()) % samples.len()].to_bytes().expect("a sample");
                for _ in 0..script.byte() % 4 {
                    let place = usize::from(script.number()) % bytes.len();
                    bytes[place] ^= script.byte();
                }
                machine.message(speaker, &bytes);
            }
            3 => machine.pass(Duration::from_millis(10 * u64::from(script.number()))),
            4 => machine.establish(speaker, who & 4 != 0),
            5 => drop(machine.event(Event::Ended { peer })),
            6 => drop(machine.event(Event::Traffic { peer })),
            7 => {
                let address = [10, 86, script.byte(), script.byte()].into();
                machine.event(Event::Wanted { address });
            }
            8 => {
                let address = SocketAddr::from(([192, 0, 2, script.byte()], 8662));
                machine.event(Event::Moved { peer, address });
            }
            _ => {
                let addresses = vec![SocketAddr::from(([198, 51, 100, script.byte()], 8662))];
                machine.event(Event::Local { addresses, forbidden: Vec::new() });
            }
        }
        assert!(kind == Kind::Server || !machine.believes(Speaker::Stranger));
    }
}

/// Name and content of each seed: what each machine is told of each type, by each speaker.
pub fn machine_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (kind, name) in ["joiner", "member", "server"].into_iter().enumerate() {
        for (speaker, voice) in ["server", "member", "administrator", "stranger"].into_iter().enumerate() {
            let samples = Machine::new(KINDS[kind]).samples();
            for part in 0..samples.len().div_ceil(16) {
                let mut seed = vec![kind as u8];
                for sample in (0..samples.len()).skip(16 * part).take(16) {
                    seed.extend([1, speaker as u8, sample as u8, 0]);
                }
                // A minute later.
                seed.extend([3, 0, 0x70, 0x17]);
                seeds.push((format!("{name}_{voice}_{part}"), seed));
            }
        }
    }
    seeds
}
