//! The targets of `tombolo-control`.

use std::sync::LazyLock;
use std::time::Duration;

use tombolo_control::document::{
    GroupLimit, Head, Issuer, Limits, Membership, NetworkDocument, Roles, TrustDocument, Verified,
};
use tombolo_control::frame::{Frame, is_frame};
use tombolo_control::token::Token;
use tombolo_control::{NetworkId, SigningKey};
use tombolo_noise::clock::UnixTime;

/// Whose test vectors are the seeds.
const PAGE: &str = include_str!("../../docs/control-protocol.md");

/// One decrypted message: a frame that is read is written again as one that is read the same.
pub fn control_frame(data: &[u8]) {
    let parsed = Frame::parse(data);
    if !is_frame(data) {
        assert!(parsed.is_err());
    }
    if let Ok(frame) = parsed {
        let bytes = frame.to_bytes().expect("what came in one message goes into one");
        assert_eq!(Frame::parse(&bytes), Ok(frame));
    }
}

/// A text that somebody pasted.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Token>() {
        Ok(token) => {
            let again: Token = token.to_text().parse().expect("a token is read as it was written");
            assert_eq!(again.public_key(), token.public_key());
            assert_eq!(again.endpoints(), token.endpoints());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A signed document, or (from 4 on in the first byte) the payload of one, well signed: so that what only a broken
/// issuer could say is met too.
pub fn control_document(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    let Some(world) = &*WORLD else { return };
    let bytes = if selector & 4 == 0 { data.to_vec() } else { world.sign(selector & 3, data) };
    match selector & 3 {
        0 => drop(TrustDocument::verify(&bytes, &world.trust.network, &[world.trust.root.fingerprint()])),
        1 => drop(NetworkDocument::verify(&bytes, &world.trust)),
        2 => drop(Head::verify(&bytes, &world.trust)),
        _ => {
            let Ok(membership) = Membership::verify(&bytes, &world.trust) else { return };
            // Unknown fields are lost, so that it may be shorter, but it says the same.
            let again = membership.sign(&world.issuer, &world.trust).expect("what was taken can be signed");
            assert!(again.len() <= bytes.len());
            let again = Membership::verify(&again, &world.trust).expect("what was signed is taken");
            assert_eq!(*again, *membership);
        }
    }
}

static WORLD: LazyLock<Option<World>> = LazyLock::new(World::new);

/// The network of the test vectors.
struct World {
    root: SigningKey,
    issuer: SigningKey,
    trust: Verified<TrustDocument>,
}

impl World {
    fn new() -> Option<Self> {
        let (root, issuer) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([3; 32]));
        let limits = Limits {
            addresses: ["10.86.0.0/16".parse().ok()?, "fd86::/64".parse().ok()?].into(),
            routes: ["192.168.0.0/16".parse().ok()?].into(),
            groups: GroupLimit::Any,
            roles: Roles::ALL,
            lifetime: Duration::from_secs(1_209_600),
            expires: UnixTime(Duration::from_secs(1_820_016_000)),
        };
        let document = TrustDocument {
            network: NetworkId::derive(&root.verifying_key()),
            epoch: 1,
            root: root.verifying_key(),
            next_root: SigningKey::from_seed([2; 32]).verifying_key().fingerprint(),
            issued: UnixTime(Duration::from_secs(1_788_480_000)),
            issuers: vec![Issuer { key: issuer.verifying_key(), limits }],
        };
        let bytes = document.sign(&root).ok()?;
        let trust = TrustDocument::verify(&bytes, &document.network, &[document.root.fingerprint()]).ok()?;
        Some(Self { root, issuer, trust })
    }

    /// A COSE_Sign1 around any payload, put together by hand.
    fn sign(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let (name, key) = match kind {
            0 => ("trust", &self.root),
            1 => ("network", &self.issuer),
            2 => ("head", &self.issuer),
            _ => ("membership", &self.issuer),
        };
        let content_type = text(&format!("application/vnd.tombolo.{name}+cbor"));
        let key_id = key.verifying_key().key_id();
        let protected =
            bytes(&[&[0xa3, 1, 0x32, 3], &content_type[..], &[4], &bytes(key_id.as_bytes())].concat());
        let external = bytes(&[&[0x82], &bytes(self.trust.network.as_bytes())[..], &content_type].concat());
        let payload = bytes(payload);
        let to_sign = [&[0x84], &text("Signature1")[..], &protected, &external, &payload].concat();
        let signature = bytes(key.sign(&to_sign).as_bytes());
        [&[0xd2, 0x84], &protected[..], &[0xa0], &payload, &signature].concat()
    }
}

/// A CBOR head of the shortest form.
fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..24 => vec![major << 5 | length as u8],
        24..256 => vec![major << 5 | 24, length as u8],
        _ => [&[major << 5 | 25], &(length as u16).to_be_bytes()[..]].concat(),
    }
}

fn bytes(content: &[u8]) -> Vec<u8> {
    // Whatever is longer than two bytes can say is cut: no document is.
    let content = &content[..content.len().min(usize::from(u16::MAX))];
    [&head(2, content.len()), content].concat()
}

fn text(content: &str) -> Vec<u8> {
    [&head(3, content.len()), content.as_bytes()].concat()
}

/// Target, name and content of each seed: the published test vectors.
///
/// # Panics
/// When the page does not have the form that its own test demands.
pub fn control_seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```vector ") else { continue };
        let vector: String = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(name) = name.strip_prefix("frame-") {
            seeds.push(("control_frame", name.to_owned(), from_hex(&vector)));
        } else if name == "token" {
            seeds.push((
                "token",
                "wrapped".to_owned(),
                format!("\"{}\n {}\"", &vector[..70], &vector[70..]).into(),
            ));
            seeds.push(("token", "typing_error".to_owned(), vector.replacen('a', "0", 1).into()));
            seeds.push(("token", "cut".to_owned(), vector[..100].into()));
            seeds.push(("token", name.to_owned(), vector.into()));
        } else if let Some(selector) = ["trust-document", "network-document", "head", "membership"]
            .iter()
            .position(|known| *known == name)
        {
            let document = from_hex(&vector);
            let payload = payload(&document);
            seeds.push((
                "control_document",
                format!("{name}_payload"),
                [&[selector as u8 | 4], payload].concat(),
            ));
            seeds.push(("control_document", name.to_owned(), [&[selector as u8], &document[..]].concat()));
        }
    }
    seeds
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Behind tag, array, protected header (a length of one byte) and empty map stands the payload; behind that 66
/// bytes of signature.
fn payload(document: &[u8]) -> &[u8] {
    let start = 4 + usize::from(document[3]) + 1;
    let head = if document[start] == 0x58 { 2 } else { 3 };
    &document[start + head..document.len() - 66]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the target would look at nothing but refused signatures.
    #[test]
    fn payloads_are_signed_as_the_documents_are() {
        let world = World::new().unwrap();
        for (target, name, seed) in control_seeds() {
            let Some(selector) =
                seed.first().filter(|_| target == "control_document" && name.ends_with("_payload"))
            else {
                continue;
            };
            let vector = name.trim_end_matches("_payload").to_owned();
            let (_, _, document) = control_seeds().into_iter().find(|(_, name, _)| *name == vector).unwrap();
            assert_eq!(world.sign(selector & 3, &seed[1..]), document[1..], "{vector}");
        }
    }
}
