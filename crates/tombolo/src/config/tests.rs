//! Each mistake with the exact text that a user reads.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use proptest::prelude::*;
use tombolo_packet::Offload;

/// Public keys that differ; any 32 bytes are one.
const KEY_A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const INTERFACE: &str = "[interface]\naddress = \"10.66.0.1/16\"\nprivate_key_file = \"prod.key\"\n";

fn peer(name: &str, key: &str, rest: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n{rest}\n")
}

/// The problems of a text, one per line, as `line:column: message`.
fn problems(text: &str) -> Vec<String> {
    let list = parse(text).expect_err("a mistake went unseen");
    list.iter().map(|problem| format!("{}:{}: {}", problem.line, problem.column, problem.message)).collect()
}

fn only(text: &str) -> String {
    let list = problems(text);
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].clone()
}

#[test]
fn a_machine_may_shorten_the_life_of_its_key_and_let_many_join_control_rules_8_and_17() {
    let membership = |rest: &str| format!("[interface]\n[membership]\n{rest}\n");
    let read = |rest: &str| parse(&membership(rest)).unwrap().membership.unwrap();
    let (plain, set) = (read(""), read("rotate_key_days = 7\njoins_per_address = 200"));
    assert_eq!((plain.rotate_key, plain.joins_per_address), (None, None));
    assert_eq!(set.rotate_key, Some(std::time::Duration::from_secs(7 * 86_400)));
    assert_eq!(set.joins_per_address, Some(200));
    // The network says how old a key gets: nobody stops that for himself.
    assert!(only(&membership("rotate_key_days = 0")).contains("rotate_key_days"));
}

#[test]
fn a_whole_configuration_is_read() {
    let text = format!(
        "[interface]\nname = \"tombolo0\"\naddress = [\"10.66.0.1/16\", \"fd00::1/64\"]\nprivate_key = \"{KEY_A}\"\n\
         listen_port = 8_663\nmtu = 1400\nfwmark = 0x2a\npersistent = false\nhosts = true\n\
         metrics = \"127.0.0.1:9662\"\ngateway_subnets = [\"192.168.9.0/24\"]\nmax_clock_ahead = 900\n\
         workers = 4\nbusy_poll = \"50us\"\nassist = \"off\"\ncopy_dscp = true\n[offload]\ntso = false\n\
         [[peer]]\nname = \"db-2\"\npublic_key = \"{KEY_B}\"\npreshared_key_file = \"db-2.psk\"\n\
         allowed_ips = [\"10.66.0.2\", \"fd00::2/128\", \"192.168.7.0/24\"]\n\
         endpoint = \"db-2.example.org:8662\"\npersistent_keepalive = 25\nrate_limit = \"200 Mbit/s\"\n"
    );
    let config = parse(&text).unwrap();
    let interface = &config.interface;
    assert_eq!(interface.name.as_deref(), Some("tombolo0"));
    assert_eq!(interface.addresses.len(), 2);
    assert_eq!((interface.listen_port, interface.mtu, interface.fwmark), (8663, Some(1400), 42));
    assert_eq!((interface.persistent, interface.hosts), (false, Some(true)));
    assert_eq!(interface.gateway_subnets, ["192.168.9.0/24".parse().unwrap()]);
    assert_eq!(interface.max_clock_ahead, Some(std::time::Duration::from_secs(900)));
    assert_eq!(interface.threads.workers, Some(4));
    assert_eq!(interface.threads.busy_poll, std::time::Duration::from_micros(50));
    assert_eq!(interface.threads.assist, tombolo_engine::Assist::Never);
    assert_eq!(interface.metrics.unwrap().to_string(), "127.0.0.1:9662");
    let off: Vec<_> = Offload::ALL.iter().filter(|offload| !config.offload.is_on(**offload)).collect();
    assert_eq!(off, [&Offload::Tso]);
    assert!(interface.copy_dscp);
    let peer = &config.peers[0];
    assert_eq!(peer.rate_limit, 200_000_000);
    assert_eq!(peer.endpoint.as_ref().unwrap().to_string(), "db-2.example.org:8662");
    assert_eq!(peer.allowed_ips[0].to_string(), "10.66.0.2/32");
    assert_eq!(NetworkConfig::peer_address(peer).unwrap().to_string(), "10.66.0.2");
    let texts = |list: Vec<IpNet>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(config.overlay()), ["10.66.0.0/16", "fd00::/64"]);
    assert_eq!(texts(config.routes()), ["10.66.0.0/16", "fd00::/64", "192.168.7.0/24"]);
}

#[test]
fn what_is_left_out_has_defaults() {
    let config = parse(INTERFACE).unwrap();
    assert_eq!(config.interface.listen_port, 8662);
    assert_eq!(config.interface.mtu, None);
    assert!(config.interface.persistent);
    assert_eq!(config.interface.hosts, None);
    assert_eq!(config.offload, OffloadConfig::default());
}

#[test]
fn the_overlay_of_a_spoke_is_what_its_hub_routes() {
    let spoke = INTERFACE.replace("/16", "/32") + &peer("hub", KEY_A, "allowed_ips = \"10.66.0.0/16\"");
    assert_eq!(parse(&spoke).unwrap().overlay(), ["10.66.0.0/16".parse().unwrap()]);
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    assert_eq!(
        only(&format!("{INTERFACE}lisen_port = 1\n")),
        "4:1: unknown key `lisen_port` in [interface]; did you mean `listen_port`?"
    );
    assert_eq!(
        only(&(INTERFACE.to_owned() + &peer("a", KEY_A, "  alowed_ips = []"))),
        "7:3: unknown key `alowed_ips` in [[peer]]; did you mean `allowed_ips`?"
    );
    assert_eq!(
        only(&format!("{INTERFACE}[offload]\nzzz = true\n")),
        "5:1: unknown key `zzz` in [offload]; known are: vnet_header, checksum, tso, uso, coalesce_tcp, coalesce_udp, gso, gro"
    );
    assert_eq!(
        only(&format!("{INTERFACE}[peers]\n")),
        "4:2: unknown key `peers` in the file; did you mean `peer`?"
    );
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let text = format!(
        "[interface]\naddress = \"10.66.0.1\"\nmtu = 100\n{}{}",
        peer("a b", "x", "allowed_ips = \"0.0.0.0/0\""),
        peer("c", KEY_B, "endpoint = \"c\"")
    );
    let lines: Vec<_> =
        problems(&text).iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["1", "2", "3", "5", "6", "7", "11"]);
}

#[test]
fn overlapping_allowed_ips_name_both_peers() {
    let text = INTERFACE.to_owned()
        + &peer("a", KEY_A, "allowed_ips = \"10.66.0.2\"")
        + &peer("b", KEY_B, "allowed_ips = [\"10.66.0.3/32\", \"10.66.0.2/32\"]");
    assert_eq!(
        only(&text),
        "11:32: peers `a` and `b` both claim 10.66.0.2/32 in `allowed_ips`; a prefix can lead to one peer only"
    );
    // A more specific prefix of another peer is what cryptokey routing is for.
    let nested = text.replace("10.66.0.2/32", "10.66.0.0/24");
    assert!(parse(&nested).is_ok());
}

#[test]
fn keys_are_checked() {
    let twice = INTERFACE.to_owned() + &peer("a", KEY_A, "") + &peer("b", KEY_A, "");
    assert_eq!(only(&twice), "10:14: peers `a` and `b` have the same public key");
    let bad = INTERFACE.to_owned() + &peer("a", "AQEB", "");
    assert_eq!(
        only(&bad),
        "6:14: `public_key` of peer `a`: a key is 44 characters of base64, the last of them `=`"
    );
    assert_eq!(
        only("[interface]\naddress = \"10.66.0.1/16\"\n"),
        "1:1: [interface] needs `private_key_file`; make one with `umask 077; tombolo genkey > FILE`"
    );
    assert_eq!(
        only(&format!("{INTERFACE}private_key = \"{KEY_A}\"\n")),
        "3:20: `private_key_file` and `private_key` exclude each other"
    );
}

#[test]
fn a_secret_is_never_repeated() {
    let secret = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24h";
    let text = format!("[interface]\naddress = \"10.66.0.1/16\"\nprivate_key = \"{secret}\"\n");
    assert_eq!(only(&text), "3:15: `private_key`: a key is 44 characters of base64, the last of them `=`");
}

#[test]
fn the_mtu_has_a_range() {
    let mtu = |value: u32| only(&format!("{INTERFACE}mtu = {value}\n"));
    let range = "(IPv4 needs 576; a datagram holds 65535 less 80 for the tunnel)";
    assert_eq!(mtu(575), format!("4:7: `mtu` in [interface] must be from 576 to 65455 {range}, not 575"));
    assert_eq!(mtu(65456), format!("4:7: `mtu` in [interface] must be from 576 to 65455 {range}, not 65456"));
    assert!(parse(&format!("{INTERFACE}mtu = 576\n")).is_ok());
    let v6 = INTERFACE.replace("10.66.0.1/16", "fd00::1/64");
    assert_eq!(
        only(&format!("{v6}mtu = 1279\n")),
        "4:7: `mtu` in [interface] must be from 1280 to 65455 (IPv6 needs 1280; a datagram holds 65535 less 80 for the tunnel), not 1279"
    );
}

#[test]
fn packet_sizes_are_found_out_unless_switched_off() {
    let config = parse(&format!("{INTERFACE}{}", peer("a", KEY_A, ""))).unwrap();
    let interface = &config.interface;
    assert!(interface.path_mtu_discovery && interface.clamp_mss && config.peers[0].tombolo);
    assert_eq!(interface.path_mtu_interval, std::time::Duration::from_secs(60));
    let text = format!(
        "{INTERFACE}path_mtu_discovery = false\npath_mtu_interval = 5\nclamp_mss = false\n{}",
        peer("a", KEY_A, "tombolo = false")
    );
    let config = parse(&text).unwrap();
    let interface = &config.interface;
    assert!(!interface.path_mtu_discovery && !interface.clamp_mss && !config.peers[0].tombolo);
    assert_eq!(interface.path_mtu_interval, std::time::Duration::from_secs(5));
    assert!(only(&format!("{INTERFACE}path_mtu_interval = 0\n")).contains("path_mtu_interval"));
}

#[test]
fn a_default_route_is_refused_with_the_reason() {
    let reason =
        "a default route is the work of `wg-quick` with `tombolo-wireguard`, not of a guarded network";
    for prefix in ["0.0.0.0/0", "::/0"] {
        let text = INTERFACE.to_owned() + &peer("a", KEY_A, &format!("allowed_ips = \"{prefix}\""));
        assert_eq!(only(&text), format!("7:15: `{prefix}` in `allowed_ips` of peer `a`: {reason}"));
    }
}

#[test]
fn addresses_are_checked() {
    let address = |text: &str| only(&INTERFACE.replace("10.66.0.1/16", text));
    assert_eq!(
        address("10.66.0.1"),
        "2:11: `10.66.0.1` needs the length of the overlay's prefix, such as \"10.66.0.1/16\""
    );
    assert_eq!(address("x"), "2:11: `x` is not an address with a prefix length, such as \"10.66.0.1/16\"");
    assert_eq!(
        address("10.66.0.0/16"),
        "2:11: `10.66.0.0/16` is the network itself; give this machine an address in it"
    );
    assert_eq!(address("127.0.0.1/8"), "2:11: `127.0.0.1` cannot be the address of a machine");
    let own = INTERFACE.to_owned() + &peer("a", KEY_A, "allowed_ips = \"10.66.0.1\"");
    assert_eq!(only(&own), "7:15: `10.66.0.1` in `allowed_ips` of peer `a` is this machine's own address");
    let bits = INTERFACE.to_owned() + &peer("a", KEY_A, "allowed_ips = \"10.66.0.9/24\"");
    assert_eq!(
        only(&bits),
        "7:15: `10.66.0.9/24` in `allowed_ips` of peer `a` has bits beyond its prefix: `10.66.0.0/24` is the prefix, `10.66.0.9` the one address"
    );
}

#[test]
fn endpoints_are_checked() {
    let wrong = |text: &str| parse_endpoint(text).unwrap_err();
    assert_eq!(wrong("db.example"), "`db.example` has no port: write \"db.example:8662\"");
    assert_eq!(
        wrong("2001:db8::1:8662"),
        "`2001:db8::1:8662`: an IPv6 address stands in brackets, such as \"[2001:db8::1]:8662\""
    );
    assert_eq!(wrong("db:0"), "`0` is not a port from 1 to 65535");
    assert_eq!(wrong("192.0.2.1:0"), "port 0 cannot be sent to");
    assert_eq!(wrong("192.0.2.300:1"), "`192.0.2.300` is neither an address nor a host name");
    assert_eq!(wrong("a b:1"), "`a b` is neither an address nor a host name");
    for text in ["192.0.2.1:8662", "[2001:db8::1]:8662", "db-2.example.org:8662", "db_2:1", "db.example.:1"] {
        assert_eq!(parse_endpoint(text).unwrap().to_string(), text);
    }
    let inside = INTERFACE.to_owned()
        + &peer("a", KEY_A, "allowed_ips = \"10.66.0.0/24\"\nendpoint = \"10.66.0.2:1\"");
    assert_eq!(
        only(&inside),
        "8:12: the endpoint of peer `a` lies in 10.66.0.0/24, which is routed to peer `a`: the tunnel would run through itself"
    );
}

#[test]
fn names_are_checked() {
    let named = |name: &str| only(&(INTERFACE.to_owned() + &peer(name, KEY_A, "")));
    assert_eq!(named("a b"), "5:8: `a b` cannot be the name of a peer: 1 to 63 letters, digits and hyphens");
    assert_eq!(named("-a"), "5:8: `-a` cannot be the name of a peer: 1 to 63 letters, digits and hyphens");
    let twice = INTERFACE.to_owned() + &peer("a", KEY_A, "") + &peer("A", KEY_B, "");
    assert_eq!(only(&twice), "9:8: two peers are called `A`");
    assert_eq!(
        only(&format!("{INTERFACE}name = \"../x\"\n")),
        "4:8: `../x` cannot be the name of an interface: 1 to 15 letters, digits, - or _"
    );
}

#[test]
fn metrics_stay_on_loopback_or_the_overlay() {
    let with = |address: &str| format!("{INTERFACE}metrics = \"{address}\"\n");
    assert!(parse(&with("[::1]:9662")).is_ok());
    assert!(parse(&with("10.66.0.1:9662")).is_ok());
    for address in ["0.0.0.0", "192.0.2.1"] {
        assert_eq!(
            only(&with(&format!("{address}:9662"))),
            format!(
                "4:11: metrics are served on loopback or on an own overlay address only, not on {address}"
            )
        );
    }
}

#[test]
fn types_are_checked() {
    assert_eq!(
        only(&format!("{INTERFACE}hosts = \"yes\"\n")),
        "4:9: `hosts` in [interface] must be true or false, not string"
    );
    assert_eq!(
        only(&format!("{INTERFACE}listen_port = 70000\n")),
        "4:15: `listen_port` in [interface] must be from 0 to 65535, not 70000"
    );
    assert_eq!(
        only("peer = 1\n[interface]\naddress = \"10.66.0.1/16\"\nprivate_key_file = \"k\"\n"),
        "1:8: write [[peer]], with two brackets: there can be several"
    );
    assert_eq!(only(""), "0:0: there is no [interface] section");
}

#[test]
fn text_that_is_not_toml_is_placed() {
    assert!(problems("[interface\n")[0].starts_with("1:"), "{:?}", problems("[interface\n"));
}

/// A folder with a configuration and its key file.
fn folder(config: &str, key: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("prod.toml", config), ("prod.key", key)] {
        fs::write(folder.path().join(name), text).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = folder.path().join("prod.toml");
    (folder, path)
}

#[test]
fn a_key_file_is_read_beside_the_configuration() {
    let (_folder, path) = folder(INTERFACE, &format!("{KEY_A}\n"));
    let config = load(&path).unwrap();
    assert_eq!(config.interface.private_key.key().unwrap().as_bytes(), &[1; 32]);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_mend() {
    let (folder, path) = folder(INTERFACE, KEY_A);
    let key = folder.path().join("prod.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (path_text, key_text) = (path.display(), key.display());
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{path_text}:3:20: `private_key_file`: {key_text} is open to others (mode 0644); run: chmod 600 {key_text}"
        )
    );
}

#[test]
fn a_configuration_with_a_key_in_it_is_a_secret_too() {
    let inline = INTERFACE.replace("private_key_file = \"prod.key\"", &format!("private_key = \"{KEY_A}\""));
    let (_folder, path) = folder(&inline, "");
    assert!(load(&path).is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let path_text = path.display();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{path_text}: holds a key and is open to others (mode 0640); run: chmod 600 {path_text}")
    );
}

#[test]
fn key_files_that_are_none_are_named() {
    let (folder, path) = folder(INTERFACE, "hello\n");
    let key = folder.path().join("prod.key");
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{}:3:20: `private_key_file`: {} holds no key: a key is 44 characters of base64, the last of them `=`",
            path.display(),
            key.display()
        )
    );
    fs::remove_file(&key).unwrap();
    let message = load(&path).unwrap_err().to_string();
    assert!(message.contains("prod.key cannot be read: No such file or directory"), "{message}");
}

#[test]
fn the_own_key_is_no_peer() {
    let own = PrivateKey::from_bytes([1; 32]).public().to_string();
    let (_folder, path) = folder(&(INTERFACE.to_owned() + &peer("me", &own, "")), KEY_A);
    let message = load(&path).unwrap_err().to_string();
    assert!(message.ends_with("the public key of peer `me` is this machine's own"), "{message}");
}

proptest! {
    /// Whatever stands in the file, it is read or refused.
    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,300}") {
        let _ = parse(&text);
    }

    /// Nor one that is nearly right.
    #[test]
    fn no_value_makes_it_panic(key in "[a-z_]{1,20}", value in "[-0-9a-fx\"\\[\\]:./=, ]{0,40}") {
        let _ = parse(&format!("{INTERFACE}{key} = {value}\n[[peer]]\n{key} = {value}\n"));
    }
}
