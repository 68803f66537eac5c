//! What the owner has handed over together.

use std::sync::atomic::Ordering;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;

use super::Control;
use crate::handle::MemberCommand;
use crate::instruction::Instruction;
use crate::options::SocketBinder;

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    pub(super) fn instruct(&mut self, instructions: Vec<Instruction>, now: Now) {
        self.shared.instructions.fetch_sub(instructions.len(), Ordering::Relaxed);
        for instruction in instructions {
            let member = match instruction {
                Instruction::Frame { public_key, path, frame } => {
                    // Whoever wanted it sends it again if it does not go.
                    let _ = self.send_frame(&public_key, &frame, path, now);
                    continue;
                }
                Instruction::Peer(change) => {
                    self.change_peer(*change, now);
                    continue;
                }
                Instruction::Remember(key, timestamp) => {
                    self.device.remember_timestamp(key, timestamp);
                    continue;
                }
                Instruction::RefuseTunnel(destination) => {
                    self.refuse_tunnel(destination, now);
                    continue;
                }
                Instruction::Handshake(key, paths) => MemberCommand::Handshake(key, paths),
                Instruction::SetPath(key, path) => MemberCommand::SetPath(key, path),
                Instruction::PathValidated(key, remote) => MemberCommand::PathValidated(key, remote),
                Instruction::Revoke(key) => MemberCommand::Revoke(key),
            };
            let moved = match &member {
                MemberCommand::SetPath(key, _) | MemberCommand::PathValidated(key, _) => Some(*key),
                _ => None,
            };
            self.member_command(member, now);
            if let Some(key) = moved {
                for frame in self.unproven.take(&key, now.boot) {
                    let _ = self.send_frame(&key, &frame, None, now);
                }
            }
        }
    }
}
