//! A small authority: signs what the simulated network needs, without a register.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tombolo_control::document::{
    GroupLimit, Head, Issuer, Limits, Membership, NetworkDocument, Policy, Revocation, Roles, Server,
    TrustDocument, Verified, Version,
};
use tombolo_control::frame::{Frame, JoinAnswer, JoinRefusal, RenewAnswer, RenewRefusal, Ticket};
use tombolo_control::token::Token;
use tombolo_control::{Fingerprint, NetworkId, NodeId, SigningKey};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

pub(crate) const DAY: u64 = 86_400;

pub(crate) struct Authority {
    root: SigningKey,
    pub(crate) issuer: SigningKey,
    token_key: SigningKey,
    pub(crate) trust: Verified<TrustDocument>,
    pub(crate) network: NetworkDocument,
    pub(crate) members: HashMap<PublicKey, Membership>,
    pub(crate) tickets: HashMap<[u8; 32], PublicKey>,
    next: u32,
    /// For how long a network document is fresh.
    pub(crate) fresh_for: Duration,
}

/// The three documents, signed.
pub(crate) struct Signed {
    pub(crate) trust: Vec<u8>,
    pub(crate) network: Vec<u8>,
    pub(crate) head: Vec<u8>,
}

fn seconds(time: UnixTime) -> UnixTime {
    UnixTime(Duration::from_secs(time.0.as_secs()))
}

impl Authority {
    pub(crate) fn new(now: UnixTime) -> Self {
        let seed = |byte| SigningKey::from_seed([byte; 32]);
        let (root, issuer, token_key) = (seed(1), seed(3), seed(5));
        let now = seconds(now);
        let limits = Limits {
            addresses: ["10.86.0.0/16".parse().unwrap()].into(),
            routes: BTreeSet::new(),
            groups: GroupLimit::Any,
            roles: Roles::ALL,
            lifetime: Duration::from_secs(14 * DAY),
            expires: UnixTime(now.0 + Duration::from_secs(700 * DAY)),
        };
        let document = TrustDocument {
            network: NetworkId::derive(&root.verifying_key()),
            epoch: 1,
            root: root.verifying_key(),
            next_root: seed(2).verifying_key().fingerprint(),
            issued: now,
            issuers: vec![Issuer { key: issuer.verifying_key(), limits }],
        };
        let bytes = document.sign(&root).unwrap();
        let pin: Fingerprint = root.verifying_key().fingerprint();
        let trust = TrustDocument::verify(&bytes, &document.network, &[pin]).unwrap();
        let network = NetworkDocument {
            network: trust.network,
            version: Version::next(None, 1, now).unwrap(),
            issued: now,
            expires: UnixTime(now.0 + Duration::from_secs(7200)),
            cidrs: ["10.86.0.0/16".parse().unwrap()].into(),
            domain: "sim.internal".parse().unwrap(),
            groups: BTreeSet::new(),
            policy: Policy::AllMembers,
            routes: BTreeSet::new(),
            servers: Vec::new(),
            revocations: BTreeSet::new(),
            audit_head: None,
            refuse_when_stale: false,
            rotation: None,
        };
        let (members, tickets) = (HashMap::new(), HashMap::new());
        Self {
            root,
            issuer,
            token_key,
            trust,
            network,
            members,
            tickets,
            next: 1,
            fresh_for: Duration::from_secs(7200),
        }
    }

    pub(crate) fn token(&self, server: PublicKey, endpoint: &str) -> Token {
        let root = self.root.verifying_key().fingerprint();
        let endpoints = vec![endpoint.parse().unwrap()];
        Token::new(self.trust.network, server, root, endpoints, self.token_key.clone()).unwrap()
    }

    pub(crate) fn add_server(&mut self, server: Server) {
        self.network.servers.push(server);
        self.network.servers.sort_by_key(|server| server.node);
    }

    pub(crate) fn sign(&mut self, now: UnixTime) -> Signed {
        let now = seconds(now);
        self.network.version = Version::next(Some(self.network.version), self.trust.epoch, now).unwrap();
        self.network.issued = now;
        self.network.expires = UnixTime(now.0 + self.fresh_for);
        let network = self.network.sign(&self.issuer, &self.trust).unwrap();
        let verified = NetworkDocument::verify(&network, &self.trust).unwrap();
        let head = Head::of(&self.trust, &verified).sign(&self.issuer, &self.trust).unwrap();
        Signed { trust: self.trust.encoded().to_vec(), network, head }
    }

    /// The root key signs a trust document of the next epoch.
    pub(crate) fn begin_epoch(&mut self) {
        let document = TrustDocument { epoch: self.trust.epoch + 1, ..TrustDocument::clone(&self.trust) };
        let (bytes, pin) = (document.sign(&self.root).unwrap(), self.root.verifying_key().fingerprint());
        self.trust = TrustDocument::verify(&bytes, &document.network, &[pin]).unwrap();
    }

    pub(crate) fn issue(&mut self, key: PublicKey, roles: Roles, now: UnixTime) -> Vec<u8> {
        let now = seconds(now);
        let fresh = !self.members.contains_key(&key);
        let number = self.next;
        self.next += u32::from(fresh);
        let version = self.network.version;
        let membership = self.members.entry(key).or_insert_with(|| {
            let mut node = [0; 16];
            node[..4].copy_from_slice(&number.to_be_bytes());
            let [_, _, high, low] = number.to_be_bytes();
            Membership {
                network: self.trust.network,
                node: NodeId::from_bytes(node),
                serial: 0,
                key,
                name: format!("node-{number}").parse().unwrap(),
                addresses: [IpAddr::from([10, 86, high, low])].into(),
                groups: BTreeSet::new(),
                routes: BTreeSet::new(),
                roles,
                not_before: now,
                not_after: now,
                grace: Duration::from_secs(30 * DAY),
                network_version: version,
                presenter: None,
            }
        });
        membership.serial += 1;
        membership.not_before = now;
        membership.not_after = UnixTime(now.0 + Duration::from_secs(14 * DAY));
        membership.network_version = version;
        membership.sign(&self.issuer, &self.trust).unwrap()
    }

    pub(crate) fn revoke(&mut self, node: NodeId) {
        self.network.revocations.insert(Revocation::Node(node));
    }

    pub(crate) fn is_revoked(&self, node: &NodeId) -> bool {
        self.network.revocations.contains(&Revocation::Node(*node))
    }

    /// Revokes who has a key, and gives its address to another key, in one document.
    pub(crate) fn replace(&mut self, old: &PublicKey, new: PublicKey) {
        let mut membership = self.members.remove(old).unwrap();
        self.revoke(membership.node);
        let mut node = [0; 16];
        node[..4].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        (membership.node, membership.serial, membership.key) = (NodeId::from_bytes(node), 0, new);
        self.members.insert(new, membership);
    }

    /// The answer to a frame, and the membership to admit.
    pub(crate) fn handle(
        &mut self,
        from: PublicKey,
        handshake_hash: &[u8; 32],
        frame: &Frame,
        now: UnixTime,
    ) -> (Option<Frame>, Option<Vec<u8>>) {
        match frame {
            Frame::JoinRequest(request) => {
                let token = self.token_key.verifying_key();
                let proven = request.proof.verify(&token, handshake_hash, &from, &self.trust.network);
                if !proven || request.token != token {
                    let outcome = Err(JoinRefusal::UnknownToken);
                    return (Some(Frame::JoinAnswer(JoinAnswer { time: now, outcome })), None);
                }
                let membership = self.issue(from, Roles::NONE, now);
                let answer = JoinAnswer { time: now, outcome: Ok(membership.clone()) };
                (Some(Frame::JoinAnswer(answer)), Some(membership))
            }
            Frame::Renew(None) => {
                let known = self.members.contains_key(&from);
                let outcome = if known {
                    Ok(self.issue(from, Roles::NONE, now))
                } else {
                    Err(RenewRefusal::NotAMember)
                };
                let admitted = outcome.clone().ok();
                (Some(Frame::RenewAnswer(RenewAnswer { time: now, node: None, outcome })), admitted)
            }
            Frame::AskTicket if !self.members.contains_key(&from) => {
                let outcome = Err(RenewRefusal::Revoked);
                (Some(Frame::RenewAnswer(RenewAnswer { time: now, node: None, outcome })), None)
            }
            Frame::AskTicket => {
                let ticket = [7; 32];
                self.tickets.insert(ticket, from);
                (Some(Frame::Ticket(Ticket { ticket, expires: now })), None)
            }
            Frame::Rotate(ticket) => {
                let Some(old) = self.tickets.remove(ticket) else {
                    // A retry of what was lost.
                    let outcome =
                        self.members.contains_key(&from).then(|| self.issue(from, Roles::NONE, now));
                    let outcome = outcome.ok_or(RenewRefusal::UnknownTicket);
                    let admitted = outcome.clone().ok();
                    return (
                        Some(Frame::RenewAnswer(RenewAnswer { time: now, node: None, outcome })),
                        admitted,
                    );
                };
                let mut membership = self.members.remove(&old).unwrap();
                membership.key = from;
                self.members.insert(from, membership);
                let bytes = self.issue(from, Roles::NONE, now);
                let answer = RenewAnswer { time: now, node: None, outcome: Ok(bytes.clone()) };
                (Some(Frame::RenewAnswer(answer)), Some(bytes))
            }
            Frame::Leave => (Some(Frame::Left(now)), None),
            _ => (None, None),
        }
    }
}
