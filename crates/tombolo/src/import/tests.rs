use super::*;
use crate::config::parse;
use proptest::prelude::*;

const PRIVATE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const PUBLIC: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const OTHER: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

fn whole() -> String {
    format!(
        "[Interface]\n# this machine\nAddress = 10.66.0.1/16, fd00::1/64\nPrivateKey = {PRIVATE}\nListenPort = 51820\n\
         MTU = 1380\nFwMark = 0x2a\nDNS = 10.66.0.53\nTable = off\nPostUp = touch /tmp/x\nSaveConfig = true\n\n\
         # db-2\n[Peer]\nPublicKey = {PUBLIC} # trailing\nPresharedKey = {OTHER}\n\
         AllowedIPs = 10.66.0.2/32,fd00::2, 192.168.7.9/24\nEndpoint = db-2.example.org:51820\n\
         PersistentKeepalive = 25\n\n[peer]\npublickey={OTHER}\nallowedips=10.66.0.3/32\npersistentkeepalive=off\n"
    )
}

#[test]
fn a_whole_file_is_converted() {
    let imported = convert(&whole(), "prod").unwrap();
    assert_eq!(
        imported.toml,
        format!(
            "# Converted from a wg-quick file.\n\n[interface]\naddress = [\"10.66.0.1/16\", \"fd00::1/64\"]\n\
             private_key_file = \"prod.key\"\nlisten_port = 51820\nmtu = 1380\nfwmark = 0x2a\n\n\
             [[peer]]\nname = \"db-2\"\npublic_key = \"{PUBLIC}\"\npreshared_key_file = \"prod-db-2.psk\"\n\
             tombolo = false\nallowed_ips = [\"10.66.0.2/32\", \"fd00::2/128\", \"192.168.7.0/24\"]\n\
             endpoint = \"db-2.example.org:51820\"\npersistent_keepalive = 25\n\n\
             [[peer]]\nname = \"peer-2\"\npublic_key = \"{OTHER}\"\ntombolo = false\nallowed_ips = [\"10.66.0.3/32\"]\n\
             persistent_keepalive = 0\n"
        )
    );
    let secrets: Vec<_> = imported.secrets.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    assert_eq!(secrets, [("prod.key", PRIVATE), ("prod-db-2.psk", OTHER)]);
    let config = parse(&imported.toml).unwrap();
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.interface.fwmark, 42);
}

#[test]
fn what_is_left_out_is_told_with_the_reason() {
    let notes = convert(&whole(), "prod").unwrap().notes;
    assert_eq!(
        notes,
        [
            "line 8: `DNS = 10.66.0.53` is not supported: tombolo does not change the resolver of the machine; set it where it is managed (resolv.conf, systemd-resolved), or use `hosts = true` for the names of peers",
            "line 9: `Table = off` is not supported: the guard needs the routes of the overlay in a routing table of its own",
            "line 10: `PostUp = touch /tmp/x` is not supported: tombolo runs no commands out of its configuration; order a unit of your own with After=tombolo@NETWORK.service",
            "line 11: `SaveConfig = true` is not supported: tombolo never rewrites its configuration; what it learns (endpoints) is kept in /var/lib/tombolo",
        ]
    );
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let problems = |text: &str| -> Vec<(usize, String)> {
        convert(text, "prod")
            .unwrap_err()
            .into_iter()
            .map(|problem| (problem.line, problem.message))
            .collect()
    };
    assert_eq!(
        problems("Address = 1\n[Interface]\nColour = red\nnonsense\nPrivateKey = x\n[Peer]\nAllowedIPs = 0.0.0.0/0\n"),
        [
            (1, "`Address` stands before any section".to_owned()),
            (1, "there is no PrivateKey in [Interface]".to_owned()),
            (1, "there is no Address in [Interface]".to_owned()),
            (3, "`Colour` is not a key of [Interface]".to_owned()),
            (4, "`nonsense` is neither a section nor `Key = value`".to_owned()),
            (5, "`PrivateKey`: a key is 44 characters of base64, the last of them `=`".to_owned()),
            (6, "this [Peer] has no PublicKey".to_owned()),
            (7, "`0.0.0.0/0` in `AllowedIPs`: a default route is the work of `wg-quick` with `tombolo-wireguard` (WG_QUICK_USERSPACE_IMPLEMENTATION=tombolo-wireguard), not of a guarded network".to_owned()),
        ]
    );
}

#[test]
fn the_last_claim_to_a_prefix_wins_as_in_wg_and_is_told() {
    let text = format!(
        "[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.66.0.1/16\nListenPort = 1\n[Peer]\nPublicKey = {PUBLIC}\n\
         AllowedIPs = 10.66.0.2/32\n[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.66.0.2/32\n"
    );
    let imported = convert(&text, "prod").unwrap();
    let config = parse(&imported.toml).unwrap();
    assert!(config.peers[0].allowed_ips.is_empty());
    assert_eq!(config.peers[1].allowed_ips.len(), 1);
    assert_eq!(
        imported.notes,
        ["line 10: 10.66.0.2/32 was already claimed by peer 1; as in wg, the last one to claim it has it"]
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s)(\\[(Interface|Peer)\\]\n|[A-Za-z]{0,12} ?= ?[^\n]{0,30}\n|.{0,10}){0,10}") {
        let _ = convert(&text, "prod");
    }
}

#[test]
fn what_tombolo_would_refuse_is_told_at_once() {
    let text = "[Interface]\nPrivateKey = AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\nAddress = fd86::1/64\nMTU = 13\n";
    let problems = convert(text, "prod").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].message.contains("`mtu` in [interface] must be from 1280"),
        "{}",
        problems[0].message
    );
}
