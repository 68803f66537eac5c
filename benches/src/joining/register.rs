//! What is in a server's register before anything is measured: written while the server does not run, by the code that
//! the server itself writes it with.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tombolo_control::SigningKey;
use tombolo_control::authority::{Authority, Caller, Session, SessionId};
use tombolo_control::frame::admin::{AdminAnswer, AdminRequest, Operation, Reply, TokenSpec};
use tombolo_control::frame::{Frame, JoinAnswer, JoinRequest};
use tombolo_control::token::Token;
use tombolo_noise::PrivateKey;
use tombolo_store::Register;

use super::member::clock;
use crate::Result;

/// Decisions that are carried out with one commit.
const GROUP: usize = 128;

/// Makes tokens for one machine each, and lets `nodes` more machines in. Gives the tokens that are left, and the
/// length of the last membership.
///
/// # Errors
/// When the server runs, or something is refused.
pub fn fill(state: &Path, tokens: usize, nodes: usize) -> Result<(Vec<Token>, usize)> {
    let seed: [u8; 32] = std::fs::read(state.join("issuer"))?
        .try_into()
        .map_err(|_| anyhow!("the issuer key has not 32 bytes"))?;
    let mut register = Register::open(state)?;
    let authority = Authority::new(SigningKey::from_seed(seed), register.snapshot()?, clock())?;
    let mut filler = Filler { authority, random: ChaCha20Rng::seed_from_u64(1) };
    let mut made = Vec::new();
    let mut longest = 0;
    while made.len() < tokens + nodes {
        let keys: Vec<SigningKey> = (0..GROUP.min(tokens + nodes - made.len()))
            .map(|_| SigningKey::generate(&mut filler.random))
            .collect();
        made.extend(filler.tokens(keys, &mut register)?);
    }
    let joining = made.split_off(tokens);
    for group in joining.chunks(GROUP) {
        longest = longest.max(filler.join(group, &mut register)?);
    }
    Ok((made, longest))
}

struct Filler {
    authority: Authority,
    random: ChaCha20Rng,
}

impl Filler {
    fn settle(&mut self, register: &mut Register) {
        loop {
            let group: Vec<_> = std::iter::from_fn(|| self.authority.poll_store()).collect();
            if group.is_empty() {
                return;
            }
            for (id, outcome) in register.execute(&group) {
                self.authority.handle_store(id, outcome, clock(), &mut self.random);
            }
        }
    }

    fn tokens(&mut self, keys: Vec<SigningKey>, register: &mut Register) -> Result<Vec<Token>> {
        for (id, key) in (0..).zip(&keys) {
            let operation = Operation::TokenNew(TokenSpec::new(key.verifying_key()));
            let caller = Caller::Local { id: SessionId(id), who: "bench".to_owned() };
            self.authority.handle_request(caller, AdminRequest { id, operation }, clock(), &mut self.random);
        }
        self.settle(register);
        let mut tokens = Vec::new();
        while let Some((_, frame)) = self.authority.poll_frame() {
            let Frame::AdminAnswer(AdminAnswer { id, reply: Reply::Granted(grant) }) = frame else {
                anyhow::bail!("no token: {frame:?}")
            };
            tokens.push(grant.into_token(keys[id as usize].clone())?);
        }
        ensure!(tokens.len() == keys.len(), "some tokens are missing");
        Ok(tokens)
    }

    fn join(&mut self, tokens: &[Token], register: &mut Register) -> Result<usize> {
        for (number, token) in (0..).zip(tokens) {
            let mut key = [0; 32];
            self.random.fill_bytes(&mut key);
            let (key, handshake_hash) = (PrivateKey::from_bytes(key).public(), key);
            let session = Session { id: SessionId(number), key, handshake_hash, authorised: false };
            let proof = token.prove(&handshake_hash, &key);
            let request = Frame::JoinRequest(JoinRequest { token: token.public_key(), proof, name: None });
            self.authority.handle_frame(&session, &request, clock(), &mut self.random);
        }
        self.settle(register);
        let mut longest = 0;
        while let Some((_, frame)) = self.authority.poll_frame() {
            let Frame::JoinAnswer(JoinAnswer { outcome: Ok(membership), .. }) = frame else {
                anyhow::bail!("not let in: {frame:?}")
            };
            longest = longest.max(membership.len());
        }
        while self.authority.poll_event().is_some() {}
        Some(longest).filter(|longest| *longest > 0).context("nobody was let in")
    }
}
