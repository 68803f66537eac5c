//! `server trust`: who may issue memberships. What changes it is signed by the root key, here, with the server stopped for
//! a moment; the members' tunnels go on meanwhile.

use serde_json::json;
use tombolo_control::authority::{Authority, Event, Published, Session, SessionId};
use tombolo_control::document::{Issuer, Membership, NetworkDocument, TrustDocument, Verified};
use tombolo_control::frame::Frame;
use tombolo_control::node::{Save, SavedDocuments};
use tombolo_control::verifier::{Overlay, Pins};
use tombolo_control::{KeyId, SigningKey};
use tombolo_engine::now;
use tombolo_noise::clock::UnixTime;
use tombolo_store::Register;

use super::args::{Cli, ListArgs, RootArgs, TrustCommand};
use super::backup::server_state;
use super::init::{commit, issuer_limits};
use super::root_key::RootFile;
use super::{Failure, failed, print_line, up};
use crate::daemon::lock::Lock;
use crate::daemon::report::unix_now;
use crate::membership::{MembershipState, from_hex};
use crate::paths::Directories;
use crate::random;

pub(super) fn run(cli: &Cli, directories: &Directories, command: &TrustCommand) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    match command {
        TrustCommand::Show(arguments) => show(directories, &network, arguments),
        TrustCommand::Drop { issuer, force, root } => {
            let id = from_hex(issuer).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            let id = id.map(KeyId::from_bytes).ok_or_else(|| {
                Failure::Mistake(format!(
                    "`{issuer}` is not the short form that `tombolo server trust show` has"
                ))
            })?;
            change(cli, directories, &network, root, |work| work.drop_issuer(id, *force))
        }
        TrustCommand::RotateIssuer { root } => change(cli, directories, &network, root, Work::rotate_issuer),
        TrustCommand::RotateRoot { root } => change(cli, directories, &network, root, Work::rotate_root),
    }
}

fn show(directories: &Directories, network: &str, arguments: &ListArgs) -> Result<(), Failure> {
    let state = MembershipState::open(&directories.state_directory(network)).map_err(failed)?;
    let own = state.issuer().map_err(failed)?.map(|issuer| issuer.verifying_key().key_id());
    let trust = state
        .trust()
        .ok_or_else(|| Failure::Mistake(format!("this machine is no member of `{network}` yet")))?;
    let days = |until: UnixTime| until.0.as_secs().saturating_sub(unix_now().as_secs()) / 86_400;
    if arguments.json {
        let issuers: Vec<_> = trust
            .issuers
            .iter()
            .map(|issuer| {
                json!({
                    "issuer": issuer.key.key_id().to_string(),
                    "this_server": Some(issuer.key.key_id()) == own,
                    "expires": issuer.limits.expires.0.as_secs(),
                    "addresses": issuer.limits.addresses,
                    "roles": issuer.limits.roles.to_string(),
                })
            })
            .collect();
        return print_line(
            &json!({
                "network": trust.network.to_string(),
                "epoch": trust.epoch,
                "issued": trust.issued.0.as_secs(),
                "root": trust.root.fingerprint().to_string(),
                "next_root": trust.next_root.to_string(),
                "issuers": issuers,
            })
            .to_string(),
        );
    }
    print_line(&format!("network    {}", trust.network))?;
    print_line(&format!("epoch      {}", trust.epoch))?;
    print_line(&format!("root key   {}", trust.root.fingerprint()))?;
    print_line(&format!("its heir   {}", trust.next_root))?;
    for issuer in &trust.issuers {
        let id = issuer.key.key_id();
        let mark = if Some(id) == own { ", this server's" } else { "" };
        print_line(&format!("issuer     {id}, good for {} days{mark}", days(issuer.limits.expires)))?;
    }
    Ok(())
}

/// A change of the trust document in the making.
struct Work {
    authority: Authority,
    issuer: SigningKey,
    root: RootFile,
    /// A new issuer key for this server.
    fresh: Option<SigningKey>,
    said: String,
}

/// Stops the server, has the change signed and committed, and starts the server again if it ran.
fn change(
    cli: &Cli,
    directories: &Directories,
    network: &str,
    root: &RootArgs,
    work: impl FnOnce(&mut Work) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut state = server_state(directories, network)?;
    let issuer = state
        .issuer()
        .map_err(failed)?
        .ok_or_else(|| Failure::Runtime("the server has no issuer key".to_owned()))?;
    // Whatever a person has to type is typed while the server runs.
    let root = RootFile::open(root)?;
    let ran = Lock::is_held(&directories.lock_file(network));
    if ran {
        up::halt(directories, network)?;
    }
    let changed = (|| {
        let mut register = Register::open(&directories.state_directory(network)).map_err(failed)?;
        let authority =
            Authority::new(issuer.clone(), register.snapshot().map_err(failed)?, now()).map_err(failed)?;
        let mut item = Work { authority, issuer, root, fresh: None, said: String::new() };
        if item.root.keys.network() != item.authority.settings().network {
            return Err(Failure::Mistake(format!(
                "{} is the root key of another network",
                item.root.path().display()
            )));
        }
        item.root.keys.learn(item.authority.trust().encoded()).map_err(failed)?;
        work(&mut item)?;
        // In this order: no epoch is signed twice, and the key is there before anything needs it.
        item.root.write()?;
        if let Some(fresh) = &item.fresh {
            state.set_issuer(fresh).map_err(failed)?;
        }
        let Work { issuer, root, fresh, said, .. } = item;
        let trust = root.keys.trust().ok_or_else(|| Failure::Runtime("nothing was signed".to_owned()))?;
        let signer = fresh.as_ref().unwrap_or(&issuer).clone();
        let snapshot = register.snapshot().map_err(failed)?;
        let mut authority = Authority::new(signer, snapshot, now()).map_err(failed)?;
        if let Err(error) = install_trust(&mut authority, trust, &mut register) {
            state.set_issuer(&issuer).map_err(failed)?;
            return Err(error);
        }
        save_documents(&mut state, &authority)?;
        renew_own(&mut state, &mut authority, &mut register)?;
        Ok(said)
    })();
    let started = if ran { up::start(cli, directories, network).map(drop) } else { Ok(()) };
    print_line(&changed?)?;
    started
}

/// The authority takes a trust document, and the register has it.
pub(super) fn install_trust(
    authority: &mut Authority,
    trust: &Verified<TrustDocument>,
    register: &mut Register,
) -> Result<(), Failure> {
    let mut random = random::generator().map_err(failed)?;
    authority.install_trust(trust.encoded(), now(), &mut random).map_err(failed)?;
    carry_out(authority, register, &mut random)?;
    while let Some(event) = authority.poll_event() {
        if let Event::CannotSign(reason) = event {
            return Err(Failure::Runtime(reason));
        }
    }
    if authority.trust().hash() == trust.hash() {
        Ok(())
    } else {
        Err(Failure::Runtime("the trust document was not taken".to_owned()))
    }
}

/// The server's own membership is to be of the issuer that is now: the one before may be dropped with the next change.
fn renew_own(
    state: &mut MembershipState,
    authority: &mut Authority,
    register: &mut Register,
) -> Result<(), Failure> {
    let Some(key) = state.key().map_err(failed)? else { return Ok(()) };
    let session = Session { id: SessionId(1), key: key.public(), handshake_hash: [0; 32], authorised: true };
    let mut random = random::generator().map_err(failed)?;
    authority.handle_frame(&session, &Frame::Renew(None), now(), &mut random);
    carry_out(authority, register, &mut random)?;
    while let Some(event) = authority.poll_event() {
        if let Event::Issued { membership, .. } = event {
            state.save(Save::Membership(membership)).map_err(failed)?;
        }
    }
    Ok(())
}

fn carry_out(
    authority: &mut Authority,
    register: &mut Register,
    random: &mut rand_chacha::ChaCha20Rng,
) -> Result<(), Failure> {
    while let Some(transaction) = authority.poll_store() {
        let outcome = commit(register, &transaction)?;
        authority.handle_store(transaction.id, outcome, now(), random);
    }
    Ok(())
}

/// The server's own node is to know what its authority has.
pub(super) fn save_documents(state: &mut MembershipState, authority: &Authority) -> Result<(), Failure> {
    let (settings, trust) = (authority.settings(), authority.trust());
    let verified = |published: &Published| NetworkDocument::verify(&published.network, trust).ok();
    let published = authority.published().and_then(|published| Some((published, verified(published)?)));
    let documents = SavedDocuments {
        pins: Pins {
            network: settings.network,
            root: settings.root,
            overlay: Some(Overlay { cidrs: settings.cidrs.clone(), domain: settings.domain.clone() }),
        },
        floor: published.as_ref().map(|(_, document)| (document.version, document.hash())),
        trust: Some(trust.encoded().to_vec()),
        network: published.as_ref().map(|(published, _)| published.network.clone()),
        head: published.and_then(|(published, _)| published.head.clone()),
    };
    state.save(Save::Documents(documents)).map_err(failed)
}

impl Work {
    fn drop_issuer(&mut self, id: KeyId, force: bool) -> Result<(), Failure> {
        if id == self.issuer.verifying_key().key_id() {
            return Err(Failure::Mistake(
                "this is the server's own issuer: give the server another one first, with `tombolo server trust \
                 rotate-issuer`"
                    .to_owned(),
            ));
        }
        let trust = self.authority.trust();
        if trust.issuer(id).is_none() {
            return Err(Failure::Mistake(format!("the trust document has no issuer {id}")));
        }
        let signed = |node: &&tombolo_control::authority::NodeRecord| {
            Membership::verify(&node.membership, trust).is_ok_and(|membership| membership.signer() == id)
        };
        let carried = self.authority.nodes().filter(signed).count();
        if carried > 0 && !force {
            return Err(Failure::Mistake(format!(
                "{carried} nodes have memberships that this issuer signed: they renew within a day; with --force they are \
                 cut off at once, and have to join anew"
            )));
        }
        self.root.keys.reissue(|held| held.key.key_id() != id, Vec::new(), self.time()).map_err(failed)?;
        self.said = format!("the issuer {id} is dropped; all that it signed is void");
        Ok(())
    }

    fn rotate_issuer(&mut self) -> Result<(), Failure> {
        let mut random = random::generator().map_err(failed)?;
        let fresh = SigningKey::generate(&mut random);
        let time = self.time();
        let limits = issuer_limits(self.authority.settings().cidrs.iter().copied(), time);
        let added = Issuer { key: fresh.verifying_key(), limits };
        self.root.keys.reissue(|held| held.limits.expires > time, vec![added], time).map_err(failed)?;
        self.said = format!(
            "the server's issuer is {} now; once all nodes have renewed, within a day, drop the former one:\n\
             tombolo server trust drop {}",
            fresh.verifying_key().key_id(),
            self.issuer.verifying_key().key_id()
        );
        self.fresh = Some(fresh);
        Ok(())
    }

    fn rotate_root(&mut self) -> Result<(), Failure> {
        let mut random = random::generator().map_err(failed)?;
        let time = self.time();
        self.root.keys.rotate(time, &mut random).map_err(failed)?;
        self.said = format!(
            "the root key is {} now, and {} has a new heir; tokens that were made before name the former root: make \
             new ones",
            self.root.keys.fingerprint(),
            self.root.path().display()
        );
        Ok(())
    }

    fn time(&self) -> UnixTime {
        UnixTime(std::time::Duration::from_secs(now().wall.0.as_secs()))
    }
}
