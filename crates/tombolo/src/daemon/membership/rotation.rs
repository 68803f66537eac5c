//! Another static key for this machine: by the clock, or when somebody asks for it (control rule 17).

use std::time::Duration;

use tokio::sync::oneshot;
use tombolo_engine::{Transaction, now};
use tombolo_noise::clock::Instant;
use tombolo_noise::{PrivateKey, PublicKey};

use super::super::Daemon;
use super::Member;
use crate::cli::{Failure, failed};
use crate::config::SecretSource;
use crate::control::Answer;
use crate::state::StateStore;

/// So long somebody who has asked waits for the end of it.
const PATIENCE: Duration = Duration::from_secs(25);

/// Who waits for another key.
pub(super) struct Waiting {
    reply: oneshot::Sender<Answer>,
    until: Instant,
}

impl Member {
    /// What the last run did not bring to its end.
    pub(super) fn resume_rotation(&mut self) -> Result<(), Failure> {
        let next = self.state.next_key().map_err(failed)?;
        if let Some(next) = next.filter(|_| self.state.is_member()) {
            tracing::info!("the change of this machine's key goes on");
            self.node.rotate(next.public(), now());
        }
        Ok(())
    }

    fn begin_rotation(&mut self) -> Result<(), String> {
        if self.server.is_some() {
            return Err(
                "this machine is the network's server: its key stands in every token, and is not changed"
                    .to_owned(),
            );
        }
        if !self.attached.is_empty() {
            return Err("stock WireGuard peers know this machine, their gateway, by its key, and learn of no other: it is not changed"
                .to_owned());
        }
        if !self.state.is_member() {
            return Err("this machine is no member yet".to_owned());
        }
        if self.node.rotating_to().is_some() {
            return Ok(());
        }
        // On the disk before anybody hears of it.
        let new = PrivateKey::generate(&mut self.random);
        self.state.set_next_key(&new).map_err(|error| error.to_string())?;
        tracing::info!("this machine's key is to be {}", new.public());
        self.node.rotate(new.public(), now());
        Ok(())
    }

    /// Somebody at this machine wants another key.
    pub(in super::super) fn rotate_key(&mut self, reply: oneshot::Sender<Answer>) {
        match self.begin_rotation() {
            Ok(()) => self.rotating = Some(Waiting { reply, until: now().boot + PATIENCE }),
            Err(message) => {
                // The client may have gone.
                let _ = reply.send(Answer::Error { message });
            }
        }
    }

    /// Changes the key when it is old enough. Machines that joined together do not change together.
    /// The network says how old keys get; `sooner` is what this machine's file says.
    pub(in super::super) fn tend_key(&mut self, sooner: Option<Duration>) {
        // Stock WireGuard peers learn of no other key.
        if self.server.is_some() || !self.attached.is_empty() {
            return;
        }
        let Some(network) = self.node.verifier().network() else { return };
        let every = network.rotation_of(sooner);
        let confirmed = self.node.times(now()).confirmed.0;
        let Some(own) = self.node.membership() else { return };
        let share = u32::from(own.key.as_bytes()[0]);
        let age = confirmed.saturating_sub(self.state.key_since().unwrap_or(own.not_before.0));
        // Between nine and eleven tenths of it.
        if age < every * 9 / 10 + every * share / (5 * 255) || !self.is_connected() {
            return;
        }
        if let Err(error) = self.begin_rotation() {
            self.alarm("key", format!("this machine's key cannot be changed: {error}"));
        }
    }

    pub(super) fn rotation_deadline(&self) -> Option<Instant> {
        self.rotating.as_ref().map(|waiting| waiting.until)
    }

    pub(super) fn check_rotation(&mut self) {
        if let Some(waiting) = self.rotating.take_if(|waiting| waiting.until <= now().boot) {
            let message = "the server has not answered yet; the key is changed as soon as it does".to_owned();
            let _ = waiting.reply.send(Answer::Error { message });
        }
    }
}

impl Daemon {
    /// The engine takes the new key, or the old one back; both are on the disk.
    pub(super) fn change_key(&mut self, member: &mut Member, public: PublicKey) {
        let keys = [member.state.key(), member.state.next_key()];
        let key = keys.into_iter().filter_map(|key| key.ok().flatten()).find(|key| key.public() == public);
        let Some(key) = key else {
            return member.alarm("key", format!("the key {public} is not on the disk any more"));
        };
        self.apply(Transaction { private_key: Some(Some(key.clone())), ..Transaction::default() });
        self.config.interface.private_key = SecretSource::Inline(key);
        member.sessions.clear();
        member.node.change_key(public, now(), &mut member.random);
    }

    /// The new key is a member's, and the only one on the disk.
    pub(super) fn key_changed(&mut self, member: &mut Member, key: PublicKey) {
        tracing::info!("this machine's key is {key} from now on");
        let confirmed = member.node.times(now()).confirmed.0;
        if let Err(error) = member.state.set_key_since(confirmed) {
            member.alarm("disk", error.to_string());
        }
        let directory = self.directories.state_directory(&self.network);
        match StateStore::open(&directory, key) {
            Ok(store) => self.store = store,
            Err(error) => member.alarm("disk", error.to_string()),
        }
        self.save_wanted = true;
        if let Some(waiting) = member.rotating.take() {
            // The client may have gone.
            let _ = waiting.reply.send(Answer::Done);
        }
    }
}
