//! Writes the seeds anew: `cargo run -p tombolo-fuzz --bin write-fuzz-seeds`.

use std::fs;
use std::path::Path;

use tombolo_fuzz::machines::Kind;
use tombolo_packet::checksum::{Sum, pseudo_header};
use tombolo_packet::message::MessageType;
use tombolo_packet::relay::{self, Direction};
use tombolo_packet::{CoalesceOptions, Coalescer, VnetHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn main() -> std::io::Result<()> {
    for (name, message) in tombolo_fuzz::sample_messages() {
        assert!(MessageType::classify(&message).is_ok(), "{name}");
        write("wire_message", name, &message)?;
        let mut reserved = message;
        reserved[2] = 1;
        write("wire_message", &format!("{name}_reserved"), &reserved)?;
    }
    for (target, name, seed) in tombolo_fuzz::control_seeds() {
        write(target, &name, &seed)?;
    }
    for (name, seed) in tombolo_fuzz::machine_seeds() {
        write("control_machine", &name, &seed)?;
    }
    for frame in tombolo_fuzz::machines::Machine::new(Kind::Member).samples() {
        let bytes = frame.to_bytes().expect("a sample fits");
        write("control_frame", &format!("type_{:03}", bytes[1]), &bytes)?;
    }
    for (target, name, seed) in tombolo_fuzz::surface_seeds() {
        write(target, name, &seed)?;
    }
    relayed()?;
    ip_packets()?;
    super_packets()?;
    batches()?;
    scripts()?;
    texts()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// Each WireGuard message, to a relay and from it.
fn relayed() -> std::io::Result<()> {
    for (name, message) in tombolo_fuzz::sample_messages() {
        for (way, direction) in [("to", Direction::ToRelay), ("from", Direction::FromRelay)] {
            let mut header = [0; relay::HEADER_LEN];
            relay::write_header(&mut header, direction, &[7; 16], message.len() as u16);
            write("relayed", &format!("{name}_{way}"), &[&header[..], &message, &[0; 4]].concat())?;
        }
    }
    Ok(())
}

/// An IP packet around `payload`, of which `next` is the kind. IPv4 packets say "don't fragment".
fn ip(ipv6: bool, next: u8, identification: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes;
    if ipv6 {
        bytes = vec![0x60, 0, 0, 7];
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([next, 64]);
        for host in [1, 2] {
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
    } else {
        bytes = vec![0x45, 2];
        bytes.extend((20 + payload.len() as u16).to_be_bytes());
        bytes.extend(identification.to_be_bytes());
        bytes.extend([0x40, 0, 64, next, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = Sum::of(&bytes).checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// TCP or UDP header and payload, with the right checksum.
fn transport(ipv6: bool, protocol: u8, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x15, 0x38, 0x9c, 0x40];
    let field = if protocol == TCP {
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 77, 0x80, flags, 1, 0xf5, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        16
    } else {
        bytes.extend((8 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        6
    };
    bytes.extend(payload);
    let header = ip(ipv6, protocol, 0, &[]);
    let addresses = if ipv6 { &header[8..40] } else { &header[12..20] };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let sum = pseudo_header(source, destination, protocol, bytes.len()).add_bytes(&bytes).checksum_not_zero();
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Packets that follow each other, the last one shorter and, with TCP, pushed.
fn train(ipv6: bool, protocol: u8, count: u16) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let last = index + 1 == count;
            let payload = vec![index as u8; if last { 33 } else { 120 }];
            let flags = if last { 0x18 } else { 0x10 };
            let segment = transport(ipv6, protocol, 120 * u32::from(index), flags, &payload);
            ip(ipv6, protocol, 1000 + index, &segment)
        })
        .collect()
}

fn kinds() -> [(&'static str, bool, u8); 4] {
    [("tcp4", false, TCP), ("tcp6", true, TCP), ("udp4", false, UDP), ("udp6", true, UDP)]
}

fn ip_packets() -> std::io::Result<()> {
    for (name, ipv6, protocol) in kinds() {
        for outer in 0..4_u8 {
            let packet = ip(ipv6, protocol, 5, &transport(ipv6, protocol, 9, 0x10, b"payload"));
            write("ip_packet", &format!("{name}_outer{outer}"), &[&[outer][..], &packet].concat())?;
        }
    }
    let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0, 43, 1];
    chain.extend([0; 14]);
    chain.extend([44, 0, 0, 0, 0, 0, 0, 0, TCP, 0, 0, 1, 0, 0, 0, 9]);
    chain.extend(transport(true, TCP, 1, 0x10, b"chain"));
    write("ip_packet", "extension_headers", &[&[0][..], &ip(true, 0, 0, &chain)].concat())?;
    write("ip_packet", "cut_chain", &[&[0][..], &ip(true, 0, 0, &chain[..30])].concat())?;
    write(
        "ip_packet",
        "later_fragment6",
        &[&[3][..], &ip(true, 44, 0, &[6, 0, 0, 8, 0, 0, 0, 1, 9, 9])].concat(),
    )?;
    let mut fragment = ip(false, UDP, 1, &[0; 24]);
    fragment[6..8].copy_from_slice(&[0x20, 3]);
    write("ip_packet", "fragment4", &[&[1][..], &fragment].concat())?;
    write("ip_packet", "icmp_padded", &[&[2][..], &ip(false, 1, 1, &[8, 0, 0, 0]), &[0; 8]].concat())
}

fn super_packets() -> std::io::Result<()> {
    for (name, ipv6, protocol) in kinds() {
        let mut arena = Vec::new();
        let mut coalescer = Coalescer::new(CoalesceOptions::default());
        for packet in train(ipv6, protocol, 12) {
            let start = arena.len();
            arena.extend(packet);
            coalescer.push(&arena, start..arena.len());
        }
        let mut outputs = Vec::new();
        coalescer.for_each_output(&mut arena, |header, slices| {
            let packet: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            outputs.push((header, packet));
        });
        let [(header, packet)] = &outputs[..] else { panic!("a train is merged") };
        write("super_packet", name, &[&header.to_bytes()[..], packet].concat())?;
        let tiny = VnetHeader { gso_size: 1, header_len: u16::MAX, ..*header };
        write("super_packet", &format!("{name}_tiny"), &[&tiny.to_bytes()[..], packet].concat())?;
        let single = VnetHeader { gso_type: Default::default(), gso_size: 0, ..*header };
        write("super_packet", &format!("{name}_single"), &[&single.to_bytes()[..], packet].concat())?;
    }
    Ok(())
}

fn batches() -> std::io::Result<()> {
    let script = |switches: u8, max_len: u16, packets: &[Vec<u8>]| {
        let mut bytes = vec![switches];
        bytes.extend(max_len.to_le_bytes());
        for packet in packets {
            bytes.extend((packet.len() as u16).to_le_bytes());
            bytes.extend(packet);
        }
        bytes
    };
    for (name, ipv6, protocol) in kinds() {
        write("coalescer", name, &script(0, 0, &train(ipv6, protocol, 8)))?;
        write("coalescer", &format!("{name}_bounded"), &script(4, 400, &train(ipv6, protocol, 8)))?;
    }
    let mut mixed: Vec<Vec<u8>> = Vec::new();
    for index in 0..5 {
        for (_, ipv6, protocol) in kinds() {
            mixed.push(train(ipv6, protocol, 6)[index].clone());
        }
    }
    write("coalescer", "mixed", &script(0, 0, &mixed))?;
    mixed[9][6] = 0x20;
    mixed.insert(12, ip(false, TCP, 9, &transport(false, TCP, 240, 0x10, b"")));
    mixed.insert(13, b"nothing".to_vec());
    write("coalescer", "mixed_disturbed", &script(0, 0, &mixed))
}

fn scripts() -> std::io::Result<()> {
    // Steps as `handshake` reads them: 2 initiates, 11 delivers all, 3 sends data, 0 and 1 let time pass.
    let session = [2, 11, 11, 11, 3, 4, 0, b'd', b'a', b't', b'a', 11, 0x83, 2, 0, b'o', b'k', 11];
    write("handshake", "session", &session)?;
    write(
        "handshake",
        "rekeys",
        &[&session[..], &[1, 121], &session[4..], &[11, 11, 1, 181], &session].concat(),
    )?;
    write("handshake", "idle", &[&session[..], &[1, 11, 11, 1, 200, 1, 255, 1, 255, 11]].concat())?;
    write("handshake", "given_up", &[2, 1, 5, 12, 1, 6, 1, 6, 1, 90, 12, 1, 200])?;
    write("handshake", "cookie", &[2, 6, 0, 11, 12, 1, 6, 11, 11, 11, 3, 1, 0, 9, 11])?;
    write("handshake", "repeated", &[2, 5, 0, 5, 0, 11, 5, 1, 5, 0, 5, 1, 11, 11])?;
    write("handshake", "both_initiate", &[2, 0x82, 11, 11, 11, 3, 1, 0, 1, 0x83, 1, 0, 2, 11, 11])?;
    write(
        "handshake",
        "damaged",
        &[2, 7, 0, 9, 0, 1, 8, 0, 40, 0, 255, 8, 0, 100, 0, 1, 11, 8, 0, 50, 0, 7, 11],
    )?;
    write(
        "handshake",
        "suspended",
        &[&session[..], &[13, 0x8d, 11, 11, 14, 1, 14, 0, 11, 15, 0, 0, 1, 6], &session].concat(),
    )?;
    for (name, message) in tombolo_fuzz::sample_messages() {
        let len = (message.len() as u16).to_le_bytes();
        write(
            "handshake",
            &format!("made_up_{name}"),
            &[&[0x89][..], &len, &message, &[0x8a], &len, &message].concat(),
        )?;
    }
    Ok(())
}

fn texts() -> std::io::Result<()> {
    let hex = "0123456789abcdef".repeat(4);
    write("uapi", "get", b"get=1\n")?;
    write(
        "uapi",
        "set_everything",
        format!(
            "set=1\nprivate_key={hex}\nlisten_port=8662\nfwmark=51820\nreplace_peers=true\npublic_key={hex}\n\
             preshared_key={hex}\nendpoint=[fe80::1%eth0]:8662\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\nprotocol_version=1\n\
             public_key={}\nremove=true\nupdate_only=true\n",
            "f".repeat(64)
        )
        .as_bytes(),
    )?;
    write(
        "uapi",
        "endpoints",
        format!("set=1\npublic_key={hex}\nendpoint=192.0.2.1:1\nendpoint=[::1]:65535\n").as_bytes(),
    )?;
    write("uapi", "wrong", format!("set=1\nprivate_key={}\nlisten_port=65536\n", &hex[1..]).as_bytes())?;
    write("uapi", "no_value", b"set=1\npublic_key\n")?;
    let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    write(
        "config",
        "full",
        format!(
            "[interface]\nname = \"tombolo0\"\naddress = [\"10.86.0.1/16\", \"fd86::1/64\"]\nprivate_key = \"{key}\"\n\
             listen_port = 8662\nmtu = 1420\nfwmark = 7\npersistent = true\nhosts = true\n\n\
             [offload]\ntso = false\nuso = true\ngso = true\ngro = false\n\n[[peer]]\nname = \"west\"\n\
             public_key = \"{key}\"\nallowed_ips = [\"10.86.0.2/32\"]\nendpoint = \"west.example.com:8662\"\n\
             persistent_keepalive = 25\n"
        )
        .as_bytes(),
    )?;
    write("config", "unknown_key", b"[interface]\naddres = \"10.0.0.1/8\"\n[[peer]]\nallowed_ip = []\n")?;
    write("config", "wrong_types", b"interface = 1\npeer = \"x\"\n[offload]\ntso = \"no\"\n")?;
    write("config", "overlap", format!("[interface]\naddress = \"10.0.0.1/8\"\nprivate_key = \"{key}\"\n[[peer]]\npublic_key = \"{key}\"\nallowed_ips = \"10.0.0.0/8\"\n[[peer]]\npublic_key = \"{key}\"\nallowed_ips = [\"10.0.0.0/8\", \"1.2.3.4/33\"]\n").as_bytes())?;
    write("config", "broken", b"[interface\naddress = \"\n")?;
    write(
        "import",
        "full",
        format!(
            "[Interface]\nPrivateKey = {key}\nAddress = 10.86.0.1/16, fd86::1/64\nListenPort = 51820\nMTU = 1380\n\
             DNS = 10.86.0.53\nTable = off\nPostUp = true\nFwMark = 0xca6c\n\n# west\n[Peer]\nPublicKey = {key}\n\
             PresharedKey = {key}\nAllowedIPs = 10.86.0.2/32, fd86::2/128\nEndpoint = west.example.com:51820\n\
             PersistentKeepalive = 25\n"
        )
        .as_bytes(),
    )?;
    write("import", "off", format!("[interface]\naddress=1.2.3.4\nprivatekey={key}\nfwmark=off\n[peer]\npublickey={key}\nallowedips=\npersistentkeepalive=off\n").as_bytes())?;
    write(
        "import",
        "wrong",
        b"[Interface]\nPrivateKey = short\nAddress = 300.1.1.1\nMTU = 5\n[Peer]\nWhat = 1\nloose\n",
    )
}
