//! Many machines at once.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_control::token::Token;
use tombolo_control::{NodeId, NodeName};
use tombolo_tests::wait::now;

use super::member::{Answer, Member};
use crate::Result;

/// Each machine has an address of its own (RFC 2544's, for measurements): a server lets few strangers in from each.
pub const SOURCES: &str = "198.18.0.0/15";
/// The first one.
pub const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Look-ups that one machine has open.
const OPEN: u32 = 4;

/// Machines with a token each. All is to be called in the network namespace that [`SOURCES`] are local to.
pub struct Swarm {
    members: Vec<Member>,
    random: ChaCha20Rng,
}

impl Swarm {
    /// Machines with keys that follow from `seed`.
    pub fn new(seed: u64, tokens: impl IntoIterator<Item = (Token, Option<NodeName>)>) -> Self {
        let mut random = ChaCha20Rng::seed_from_u64(seed);
        let members = tokens.into_iter().enumerate().map(|(number, (token, name))| {
            let mut key = [0; 32];
            random.fill_bytes(&mut key);
            let source = Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + number as u32);
            Member::new(key, token, name, source)
        });
        Self { members: members.collect(), random }
    }

    /// Lets them join, so many at once, until each has an answer. `progress` is told of each as it comes; whoever
    /// has one already is not asked again.
    ///
    /// # Errors
    /// When some have none within `limit`.
    pub fn join(
        &mut self,
        at_once: usize,
        limit: Duration,
        mut progress: impl FnMut(usize, &Answer),
    ) -> Result {
        let deadline = now() + limit;
        let mut waiting: Vec<usize> =
            (0..self.members.len()).filter(|number| self.members[*number].answer().is_none()).rev().collect();
        let mut active: Vec<usize> = Vec::new();
        while !(waiting.is_empty() && active.is_empty()) {
            while active.len() < at_once
                && let Some(number) = waiting.pop()
            {
                active.push(number);
            }
            let mut any = false;
            for &number in &active {
                let member = &mut self.members[number];
                any |= member.receive(&mut self.random)?;
                member.tend(&mut self.random)?;
                if let Some(answer) = member.answer() {
                    progress(number, answer);
                }
            }
            active.retain(|number| self.members[*number].answer().is_none());
            if !any {
                self.wait(&active)?;
            }
            anyhow::ensure!(now() < deadline, "{} machines have no answer", waiting.len() + active.len());
        }
        Ok(())
    }

    fn wait(&self, active: &[usize]) -> Result {
        let sockets = active.iter().filter_map(|number| self.members[*number].socket());
        let mut all: Vec<_> =
            sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
        poll(&mut all, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }))?;
        Ok(())
    }

    /// What each was told.
    pub fn answers(&self) -> impl Iterator<Item = Option<&Answer>> {
        self.members.iter().map(Member::answer)
    }

    /// Lets go of all sessions and answers: they join again with the same keys and tokens.
    pub fn restart(&mut self) {
        for member in &mut self.members {
            member.close();
            member.forget_answer();
        }
    }

    /// Ends the sessions of all but the first `count`.
    pub fn keep(&mut self, count: usize) {
        self.members.iter_mut().skip(count).for_each(Member::close);
    }

    /// Each of the first `count` looks others of them up, as fast as the answers come. Gives how many were found in a
    /// second, after a first one to get going.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn look_ups(&mut self, count: usize, nodes: &[NodeId], span: Duration) -> Result<f64> {
        for member in self.members.iter_mut().take(count) {
            member.announce();
            // So that nothing overflows on the way.
            std::thread::sleep(Duration::from_micros(100));
        }
        let (start, settling) = (now(), Duration::from_secs(1));
        let mut before = None;
        loop {
            let elapsed = now() - start;
            if elapsed > settling && before.is_none() {
                before = Some((now(), self.found()));
            }
            if let Some((since, found)) = before
                && elapsed > settling + span
            {
                return Ok((self.found() - found) as f64 / (now() - since).as_secs_f64());
            }
            for member in self.members.iter_mut().take(count) {
                member.receive(&mut self.random)?;
                let random = &mut self.random;
                member.look_up(OPEN, || nodes[random.next_u32() as usize % nodes.len()]);
            }
        }
    }

    fn found(&self) -> u64 {
        self.members.iter().map(|member| member.found).sum()
    }
}
