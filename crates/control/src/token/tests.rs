use proptest::prelude::*;
use tombolo_noise::PrivateKey;

use super::*;

fn sample() -> Token {
    Token::new(
        NetworkId::from_bytes([9; 16]),
        PrivateKey::from_bytes([1; 32]).public(),
        Fingerprint::from_bytes([2; 32]),
        vec!["vpn.example.net:8662".parse().unwrap(), "[2001:db8::1]:8662".parse().unwrap()],
        SigningKey::from_seed([3; 32]),
    )
    .unwrap()
}

fn assert_same(read: &Token, sample: &Token) {
    assert_eq!(
        (read.network(), read.server_key(), read.root(), read.suite(), read.endpoints(), read.public_key()),
        (
            sample.network(),
            sample.server_key(),
            sample.root(),
            sample.suite(),
            sample.endpoints(),
            sample.public_key()
        )
    );
    assert_eq!(read.key.seed(), sample.key.seed());
}

#[test]
fn a_token_survives_copy_and_paste_control_rule_15() {
    let token = sample();
    let text = token.to_text();
    assert!(text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "one word for any terminal");
    assert!(text.len() < 300, "{}", text.len());
    let wrapped: Vec<&str> =
        text.as_bytes().chunks(60).map(|line| std::str::from_utf8(line).unwrap()).collect();
    for pasted in [
        text.to_string(),
        format!("  {}\r\n", *text),
        format!("\u{feff}\"{}\"", *text),
        wrapped.join("\n    "),
        text.to_uppercase(),
    ] {
        assert_same(&pasted.parse().unwrap(), &token);
    }
}

#[test]
fn errors_say_what_is_wrong_and_how_to_mend_it_control_rule_15() {
    let text = sample().to_text();
    let length = text.len();
    let error = |text: &str| text.parse::<Token>().unwrap_err();
    assert_eq!(error(" \n"), TokenError::Empty);
    assert_eq!(error("tskey-auth-123"), TokenError::NotAToken);
    assert_eq!(error(&text[1..]), TokenError::NotAToken);
    assert_eq!(error(&text.replacen('1', "2", 1)), TokenError::Version('2'));
    assert_eq!(error(&text[..40]), TokenError::TooShort { length: 40 });
    assert_eq!(error("tombolo"), TokenError::TooShort { length: 7 });
    assert_eq!(error(&text[..length - 1]), TokenError::Checksum { length: length - 1 });
    assert_eq!(
        error(&format!("{}{}", *text, *text)),
        TokenError::Character { character: '1', position: length + 8 }
    );
    assert_eq!(error(&"x".repeat(9000)), TokenError::TooLong);
    let mut typo = text.to_string();
    typo.replace_range(20..21, "0");
    assert_eq!(error(&typo), TokenError::Character { character: '0', position: 21 });
    assert!(
        error(&typo).to_string().contains("character 21")
            && error(&typo).to_string().contains("copy it again")
    );
}

#[test]
fn every_changed_character_is_noticed_control_rule_15() {
    let text = sample().to_text();
    for index in 8..text.len() {
        for other in ["a", "q", "7"] {
            if text[index..].starts_with(other) {
                continue;
            }
            let mut changed = text.to_string();
            changed.replace_range(index..=index, other);
            assert!(matches!(changed.parse::<Token>(), Err(TokenError::Checksum { .. })), "{index}");
        }
        let mut swapped = text.to_string().into_bytes();
        if index + 1 < text.len() && swapped[index] != swapped[index + 1] {
            swapped.swap(index, index + 1);
            assert!(String::from_utf8(swapped).unwrap().parse::<Token>().is_err());
        }
    }
}

#[test]
fn tokens_without_endpoint_or_key_are_not_made() {
    let token = sample();
    let with = |key, endpoints| {
        Token::new(token.network, key, token.root, endpoints, SigningKey::from_seed([3; 32])).map(drop)
    };
    assert_eq!(with(token.server_key, vec![]), Err(TokenError::Endpoints));
    assert_eq!(with(token.server_key, vec![token.endpoints[0].clone(); 9]), Err(TokenError::Endpoints));
    assert_eq!(with(PublicKey::from_bytes([0; 32]), token.endpoints.clone()), Err(TokenError::ServerKey));
}

#[test]
fn a_proof_is_for_one_handshake_one_key_and_one_network_control_rule_15() {
    let token = sample();
    let (hash, node_key) = ([5; 32], PrivateKey::from_bytes([6; 32]).public());
    let proof = token.prove(&hash, &node_key);
    let (public, network) = (token.public_key(), *token.network());
    assert!(proof.verify(&public, &hash, &node_key, &network));
    assert!(!proof.verify(&public, &[4; 32], &node_key, &network));
    assert!(!proof.verify(&public, &hash, token.server_key(), &network));
    assert!(!proof.verify(&public, &hash, &node_key, &NetworkId::from_bytes([8; 16])));
    assert!(!proof.verify(&SigningKey::from_seed([4; 32]).verifying_key(), &hash, &node_key, &network));
}

#[test]
fn the_secret_is_not_shown() {
    let shown = format!("{:?}", sample());
    assert!(shown.contains("vpn.example.net") && !shown.contains("seed") && !shown.contains("SigningKey"));
}

proptest! {
    #[test]
    fn any_text_is_met_without_a_panic(text in "(tombolo[0-9])?[a-z2-7 \\n]{0,400}", other in ".{0,80}") {
        prop_assert!(text.parse::<Token>().is_err());
        prop_assert!(other.parse::<Token>().is_err());
    }
}
