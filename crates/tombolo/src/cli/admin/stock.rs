//! `node add`: stock WireGuard peers, and their wg-quick files.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use tombolo_control::frame::admin::{NodeDetail, NodeSelector, NodeSpec, Operation, Reply};
use tombolo_noise::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{ask, groups, joined, name, network, node, other, selector};
use crate::cli::args::{Cli, NodeAddArgs, WireGuardArgs};
use crate::cli::init::endpoint;
use crate::cli::{Failure, failed, print_bytes, print_line};
use crate::config::DEFAULT_PORT;
use crate::paths::Directories;
use crate::random;

/// Where the private key is to be written, which only the peer has.
const PLACE: &str = "PUT-THE-PRIVATE-KEY-OF-THIS-PEER-HERE";
/// Seconds between keepalives: the peer may be behind a NAT, and members begin to talk as well as it does.
const KEEPALIVE: u16 = 25;

pub(super) fn add(cli: &Cli, directories: &Directories, arguments: &NodeAddArgs) -> Result<(), Failure> {
    let private = match &arguments.pubkey {
        Some(_) => None,
        None => Some(PrivateKey::generate(&mut random::generator().map_err(failed)?)),
    };
    let key = match (&arguments.pubkey, &private) {
        (Some(text), _) => public_key(text)?,
        (None, Some(private)) => private.public(),
        (None, None) => return Err(Failure::Mistake("give its --pubkey, or --generate-key".to_owned())),
    };
    let spec = NodeSpec {
        key,
        name: name(&arguments.name)?,
        groups: groups(&arguments.group)?,
        presented_by: arguments.gateway.as_deref().map(selector).transpose()?,
    };
    let wireguard = &arguments.wireguard;
    // What is wrong with these is told before anything is done.
    let own = wireguard.endpoint.as_deref().map(|text| endpoint(text, DEFAULT_PORT)).transpose()?;
    if let Some(file) = wireguard.output.as_deref().filter(|file| file.exists()) {
        return Err(Failure::Mistake(format!(
            "{} is there already: choose another --output",
            file.display()
        )));
    }
    drop(own);
    let Reply::Node(detail) = ask(cli, directories, Operation::NodeAdd(spec))? else { return other() };
    print(cli, directories, &detail, private.as_ref(), wireguard, arguments.json)
}

/// The file of a peer that is there already.
pub(super) fn show(
    cli: &Cli,
    directories: &Directories,
    detail: &NodeDetail,
    wireguard: &WireGuardArgs,
    json: bool,
) -> Result<(), Failure> {
    print(cli, directories, detail, None, wireguard, json)
}

fn public_key(text: &str) -> Result<PublicKey, Failure> {
    let mistake = |error: &dyn std::fmt::Display| {
        Failure::Mistake(format!("--pubkey {text}: {error}; `wg pubkey` prints it from the private key"))
    };
    let key: PublicKey = text.trim().parse().map_err(|error| mistake(&error))?;
    if key.is_low_order() || !key.is_canonical() {
        return Err(mistake(&"nobody has the private half of this key"));
    }
    Ok(key)
}

fn print(
    cli: &Cli,
    directories: &Directories,
    detail: &NodeDetail,
    private: Option<&PrivateKey>,
    arguments: &WireGuardArgs,
    as_json: bool,
) -> Result<(), Failure> {
    let Some(presenter) = detail.presented_by else {
        let text = format!("{} is no stock WireGuard peer: it has joined with a token", detail.info.name);
        return Err(Failure::Mistake(text));
    };
    let gateway = node::show(cli, directories, NodeSelector::Node(presenter))?;
    let held = network::info(cli, directories)?;
    let endpoint = match &arguments.endpoint {
        Some(text) => Some(endpoint(text, DEFAULT_PORT)?.as_str().to_owned()),
        None => gateway.endpoints.first().map(|endpoint| endpoint.as_str().to_owned()),
    };
    let file = wg_quick(detail, private, &gateway, &joined_by_comma(&held.cidrs), endpoint.as_deref());
    if as_json {
        let mut value = node::detail_json(detail);
        value["wg_quick"] = json!(file.as_str());
        if let Some(output) = &arguments.output {
            write(output, &file)?;
        }
        return print_line(&Zeroizing::new(value.to_string()));
    }
    if endpoint.is_none() {
        eprintln!(
            "tombolo: nobody knows where {} is found from outside: write its address at Endpoint, or give --endpoint",
            gateway.info.name
        );
    }
    if private.is_some() {
        eprintln!(
            "tombolo: this file has the private key of {}, which is kept nowhere else",
            detail.info.name
        );
    }
    match &arguments.output {
        Some(output) => {
            write(output, &file)?;
            eprintln!(
                "tombolo: {} is a member, {}; {}",
                detail.info.name,
                joined(&detail.info.addresses),
                output.display()
            );
        }
        None => print_bytes(file.as_bytes())?,
    }
    if arguments.qr || (arguments.output.is_none() && std::io::stdout().is_terminal()) {
        let code = qr_code(&file)?;
        // Where it cannot be shown it is not there.
        let _ = writeln!(std::io::stderr(), "{}", *code);
    }
    Ok(())
}

fn joined_by_comma<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

/// The file as wg-quick reads it.
fn wg_quick(
    detail: &NodeDetail,
    private: Option<&PrivateKey>,
    gateway: &NodeDetail,
    overlay: &str,
    endpoint: Option<&str>,
) -> Zeroizing<String> {
    let addresses = detail.info.addresses.iter().map(|address| ipnet::IpNet::from(*address));
    // With room for all, so that no copy of the key is left behind by growing.
    let mut file = Zeroizing::new(String::with_capacity(2048));
    let private = private.map(PrivateKey::to_base64);
    // Writing to a String cannot fail.
    let _ = write!(
        file,
        "# {}\n[Interface]\nPrivateKey = {}\nAddress = {}\n\n\
         # {}: brings everything on\n[Peer]\nPublicKey = {}\nAllowedIPs = {overlay}\n",
        detail.info.name,
        private.as_ref().map_or(PLACE, |key| key.as_str()),
        joined_by_comma(addresses),
        gateway.info.name,
        gateway.key,
    );
    let _ = match endpoint {
        Some(endpoint) => writeln!(file, "Endpoint = {endpoint}"),
        None => writeln!(file, "# Endpoint = ADDRESS-OF-{}:PORT", gateway.info.name.as_str().to_uppercase()),
    };
    let _ = writeln!(file, "PersistentKeepalive = {KEEPALIVE}");
    file
}

/// As light on dark, which is what most terminals are; apps take either.
fn qr_code(file: &str) -> Result<Zeroizing<String>, Failure> {
    let code = QrCode::with_error_correction_level(file.as_bytes(), EcLevel::L)
        .map_err(|error| Failure::runtime("the QR code cannot be made", error))?;
    let image = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(Zeroizing::new(image))
}

/// A new file that only its owner can read.
fn write(path: &Path, file: &str) -> Result<(), Failure> {
    let failed = |error| Failure::runtime(format!("cannot write {}", path.display()), error);
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut made = made.map_err(failed)?;
    made.write_all(file.as_bytes()).and_then(|()| made.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_control::NodeId;
    use tombolo_control::document::Roles;
    use tombolo_control::frame::admin::NodeInfo;
    use tombolo_noise::clock::UnixTime;

    fn detail(name: &str, number: u8) -> NodeDetail {
        let info = NodeInfo {
            node: NodeId::from_bytes([number; 16]),
            name: name.parse().unwrap(),
            addresses: [[10, 86, 0, number].into()].into(),
            roles: Roles::NONE,
            not_after: UnixTime::default(),
            last_seen: None,
            ephemeral: false,
        };
        NodeDetail {
            info,
            key: PrivateKey::from_bytes([number; 32]).public(),
            serial: 1,
            groups: [].into(),
            routes: [].into(),
            joined: UnixTime::default(),
            token: None,
            presented_by: None,
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn the_file_is_what_wg_quick_reads_and_our_own_import_takes() {
        let (phone, hub) = (detail("phone", 7), detail("hub", 1));
        let file = wg_quick(&phone, None, &hub, "10.86.0.0/16", Some("vpn.example.net:8662"));
        let lines = [
            &format!("PrivateKey = {PLACE}"),
            "Address = 10.86.0.7/32",
            &format!("PublicKey = {}", hub.key),
            "AllowedIPs = 10.86.0.0/16",
            "Endpoint = vpn.example.net:8662",
            "PersistentKeepalive = 25",
        ];
        for line in lines {
            assert!(file.lines().any(|held| held == line), "{line} in {}", *file);
        }
        let key = PrivateKey::from_bytes([7; 32]);
        let whole = wg_quick(&phone, Some(&key), &hub, "10.86.0.0/16", None);
        assert!(
            whole.contains(key.to_base64().as_str()) && whole.contains("# Endpoint = ADDRESS-OF-HUB:PORT")
        );
        let code = qr_code(&whole).unwrap();
        let widths: std::collections::BTreeSet<usize> =
            code.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 1, "a square: {widths:?}");
    }

    #[test]
    fn a_key_that_is_none_is_told_apart() {
        for (text, why) in [
            ("abc", "44 characters"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "nobody has the private half"),
        ] {
            let Err(Failure::Mistake(told)) = public_key(text) else { panic!("{text} was taken") };
            assert!(told.contains(why) && told.contains("wg pubkey"), "{told}");
        }
    }
}
