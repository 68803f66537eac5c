//! The way in to a running engine from other threads.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{MembershipOptions, PublicKey};

use crate::instruction::Instruction;
use crate::options::Path;
use crate::relay::RelayPermissions;
use crate::shared::Shared;
use crate::status::EngineStatus;
use crate::transaction::{ApplyError, Transaction};

/// Instructions that wait before whoever gives more waits for them.
const INSTRUCTIONS_WAITING: usize = 512;

/// The engine has stopped and answers no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

/// Why a probe has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No such peer.
    #[error("no such peer")]
    UnknownPeer,
    /// The peer has no endpoint: it must speak first.
    #[error("the peer's endpoint is not known yet")]
    NoEndpoint,
    /// Source and destination are of different families, or the probe table is full.
    #[error("the probe could not be sent")]
    NotSent,
    /// Nothing came back in time.
    #[error("no answer in time")]
    TimedOut,
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// What the control plane may ask; the answer says whether anything was changed.
pub(crate) enum MemberCommand {
    SetMembership(Option<MembershipOptions>),
    SetTimeFloor(UnixTime),
    /// All session keys are thrown away.
    ExpireSessions,
    Reject(PublicKey),
    Revoke(PublicKey),
    PathValidated(PublicKey, SocketAddr),
    SetPath(PublicKey, Path),
    Handshake(PublicKey, Vec<Path>),
}

/// What other threads may ask of the control thread.
pub(crate) enum Command {
    Apply(Transaction, mpsc::SyncSender<Result<(), ApplyError>>),
    Status(mpsc::SyncSender<EngineStatus>),
    TakeUsed(mpsc::SyncSender<Vec<PublicKey>>),
    Probe {
        public_key: PublicKey,
        source: IpAddr,
        destination: IpAddr,
        timeout: Duration,
        reply: mpsc::SyncSender<Result<Duration, ProbeError>>,
    },
    Member(MemberCommand, mpsc::SyncSender<bool>),
    /// The reply is dropped when they were carried out.
    Instruct(Vec<Instruction>, Option<mpsc::SyncSender<()>>),
    SetOverlay(Vec<IpNet>),
    SetRelay(Option<RelayPermissions>),
    SetGateway(Vec<IpNet>),
    RefuseTunnel(IpAddr),
    SetLinkUp(bool),
    SetMtu(u16),
    ForgetSources,
}

/// A cheap, cloneable way to command a running engine. Calls block until the control thread has
/// answered, which takes microseconds when it is idle; callers on an async runtime use a blocking task.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
}

impl EngineHandle {
    fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).map_err(|_| Stopped)?;
        self.shared.wake_control();
        Ok(())
    }

    /// Applies `transaction` as one.
    ///
    /// # Errors
    /// The sockets could not be bound or marked (nothing was changed then), or the engine has stopped.
    pub fn apply(&self, transaction: Transaction) -> Result<(), ApplyError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::Apply(transaction, reply)).map_err(|Stopped| ApplyError::Stopped)?;
        answer.recv().unwrap_or(Err(ApplyError::Stopped))
    }

    /// One consistent view of the engine.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn status(&self) -> Result<EngineStatus, Stopped> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::Status(reply))?;
        answer.recv().map_err(|_| Stopped)
    }

    /// Sends an ICMP echo request from `source` to `destination` through the tunnel of the peer,
    /// handshake first where there is no session, and gives the time until its answer came.
    /// Blocks for at most `timeout`.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn probe(
        &self,
        public_key: PublicKey,
        source: IpAddr,
        destination: IpAddr,
        timeout: Duration,
    ) -> Result<Duration, ProbeError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::Probe { public_key, source, destination, timeout, reply })
            .map_err(|Stopped| ProbeError::Stopped)?;
        answer.recv().unwrap_or(Err(ProbeError::Stopped))
    }

    /// Says whether the interface is up. While it is down nothing is sent (requirement 10).
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_link_up(&self, up: bool) -> Result<(), Stopped> {
        self.send(Command::SetLinkUp(up))
    }

    /// Says that the MTU of the interface is now `mtu` bytes.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Stopped> {
        self.send(Command::SetMtu(mtu))
    }

    /// Lets the kernel choose the source address of every path anew, as when routes or addresses of
    /// the underlay have changed (requirement 20). What a peer is next heard on sticks again.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn forget_sources(&self) -> Result<(), Stopped> {
        self.send(Command::ForgetSources)
    }

    /// Packets for addresses in these networks, which no peer has, wait and are announced
    /// ([`EngineEvent::TunnelWanted`](crate::EngineEvent::TunnelWanted)). At first there are none, and such packets are dropped.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_overlay(&self, networks: Vec<IpNet>) -> Result<(), Stopped> {
        self.send(Command::SetOverlay(networks))
    }

    /// Brings packets from one peer's tunnel into another's, where one of the two is a peer that this machine is the gateway of
    /// ([`PeerChange::forward`](crate::PeerChange::forward)). `own` is what is for this machine or lies behind it, and goes to the TUN; without any
    /// nothing is brought on, as at first.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_gateway(&self, own: Vec<IpNet>) -> Result<(), Stopped> {
        self.send(Command::SetGateway(own))
    }

    /// Nobody has the address, or may be talked to: what waits for it is dropped and its sender told, and so is what comes for it in the next
    /// second.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn refuse_tunnel(&self, destination: IpAddr) -> Result<(), Stopped> {
        self.send(Command::RefuseTunnel(destination))
    }

    fn member(&self, command: MemberCommand) -> Result<bool, Stopped> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::Member(command, reply))?;
        answer.recv().map_err(|_| Stopped)
    }

    /// Switches membership mode on, with these limits on strangers, or off (control rule 8).
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_membership(&self, options: Option<MembershipOptions>) -> Result<(), Stopped> {
        self.member(MemberCommand::SetMembership(options)).map(drop)
    }

    /// The wall clock cannot be earlier than `time` (control rule 18).
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_time_floor(&self, time: UnixTime) -> Result<(), Stopped> {
        self.member(MemberCommand::SetTimeFloor(time)).map(drop)
    }

    /// Throws all session keys away: this machine is a copy of another, or was set back to an earlier state, and a nonce may have been
    /// used already (control rule 19).
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn expire_sessions(&self) -> Result<(), Stopped> {
        self.member(MemberCommand::ExpireSessions).map(drop)
    }

    /// What a provisional or unverified peer showed was refused: it goes with its session. `false`: it is a member, a static
    /// peer, or gone. (The opposite is [`PeerChange::member`](crate::PeerChange::member).)
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn reject(&self, public_key: PublicKey) -> Result<bool, Stopped> {
        self.member(MemberCommand::Reject(public_key))
    }

    /// The peers with which IP packets were exchanged since this was asked last.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn take_used(&self) -> Result<Vec<PublicKey>, Stopped> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::TakeUsed(reply))?;
        answer.recv().map_err(|_| Stopped)
    }

    /// Cuts a peer off at once, unless it is a static one (control rule 16). `false`: it is, or there is none.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn revoke(&self, public_key: PublicKey) -> Result<bool, Stopped> {
        self.member(MemberCommand::Revoke(public_key))
    }

    /// A challenge that was sent to the peer at `remote` has been answered: the limit on what goes there ends. `false`: the peer
    /// is elsewhere by now.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn path_validated(&self, public_key: PublicKey, remote: SocketAddr) -> Result<bool, Stopped> {
        self.member(MemberCommand::PathValidated(public_key, remote))
    }

    /// What goes to the peer goes by this path from now on, handshakes too; sessions stay (control rule 14). What comes in does not change it, where it or
    /// the path is a relayed one. `false`: there is no such peer, or the relay is none
    /// ([`PeerChange::relay`](crate::PeerChange::relay)) or is reached by a relay itself.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_path(&self, public_key: PublicKey, path: Path) -> Result<bool, Stopped> {
        self.member(MemberCommand::SetPath(public_key, path))
    }

    /// Begins a handshake by all these paths at once, with copies of one initiation; while one is under way, it is sent by those that are new. The
    /// first response decides which path is used. `false`: there is no such peer.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn handshake(&self, public_key: PublicKey, paths: Vec<Path>) -> Result<bool, Stopped> {
        self.member(MemberCommand::Handshake(public_key, paths))
    }

    /// What this machine relays, in place of what it did; at first nothing. Pairs that are not among it are announced
    /// ([`EngineEvent::RelayWanted`](crate::EngineEvent::RelayWanted)), as long as there is a set at all.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn set_relay(&self, permissions: Option<RelayPermissions>) -> Result<(), Stopped> {
        self.send(Command::SetRelay(permissions))
    }

    /// Hands over what is to be done, in this order, and does not wait for it: one hand-over, and one system call for the frames in it,
    /// however many they are. Whoever hands over faster than the control thread works is held back.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn instruct(&self, instructions: Vec<Instruction>) -> Result<(), Stopped> {
        let count = instructions.len();
        let waiting = self.shared.instructions.fetch_add(count, Ordering::Relaxed);
        if waiting < INSTRUCTIONS_WAITING {
            return self.send(Command::Instruct(instructions, None));
        }
        let (reply, done) = mpsc::sync_channel::<()>(1);
        self.send(Command::Instruct(instructions, Some(reply)))?;
        // It ends with the reply's end.
        let _ = done.recv();
        Ok(())
    }
}
