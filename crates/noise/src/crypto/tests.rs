//! Published vectors for the functions of the handshake.

use blake2::digest::array::ArraySize;
use blake2::digest::consts::{U16, U20, U28, U32};
use blake2::digest::typenum::{IsLessOrEqual, True};
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s, Blake2sMac};
use proptest::prelude::*;

use super::*;
use crate::test_support::{bytes, hex};

/// The input generator of RFC 7693, appendix E.
fn sequence(len: usize, seed: u32) -> Vec<u8> {
    let mut a = 0xdead_4bad_u32.wrapping_mul(seed);
    let mut b = 1_u32;
    (0..len)
        .map(|_| {
            let next = a.wrapping_add(b);
            (a, b) = (b, next);
            (next >> 24) as u8
        })
        .collect()
}

fn plain_and_keyed<N>(input: &[u8]) -> [Vec<u8>; 2]
where
    N: ArraySize + IsLessOrEqual<U32, Output = True>,
    Blake2s<N>: Default + Update + FixedOutput,
{
    let len = N::USIZE;
    let mut plain = Blake2s::<N>::default();
    Update::update(&mut plain, input);
    let mut keyed = <Blake2sMac<N> as KeyInit>::new_from_slice(&sequence(len, len as u32)).unwrap();
    Update::update(&mut keyed, input);
    [plain.finalize_fixed().to_vec(), keyed.finalize_fixed().to_vec()]
}

#[test]
fn blake2s_passes_the_self_test_of_rfc_7693() {
    let mut grand = Vec::new();
    for digest_len in [16, 20, 28, 32] {
        for input_len in [0, 3, 64, 65, 255, 1024] {
            let input = sequence(input_len, input_len as u32);
            let [plain, keyed] = match digest_len {
                16 => plain_and_keyed::<U16>(&input),
                20 => plain_and_keyed::<U20>(&input),
                28 => plain_and_keyed::<U28>(&input),
                _ => plain_and_keyed::<U32>(&input),
            };
            // What the crate uses is one case of each kind, given in two parts.
            let (head, tail) = input.split_at(input_len / 3);
            match digest_len {
                16 => assert_eq!(mac(&bytes::<16>(&sequence(16, 16)), &[head, tail])[..], keyed),
                32 => assert_eq!(hash(&[head, tail])[..], plain),
                _ => {}
            }
            grand.extend(plain);
            grand.extend(keyed);
        }
    }
    assert_eq!(hash(&[&grand])[..], hex("6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe"));
    // Appendix B.
    assert_eq!(hash(&[b"abc"])[..], hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"));
}

#[test]
fn key_derivation_gives_the_values_of_wireguard_go() {
    // device/kdf_test.go. HMAC pads keys with zeros, so that the shorter keys there may be padded here.
    for (key, input, outputs) in [
        (
            "746573742d6b6579",
            "746573742d696e707574",
            [
                "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
                "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
                "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
            ],
        ),
        (
            "776972656775617264",
            "776972656775617264",
            [
                "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
                "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
                "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
            ],
        ),
    ] {
        let mut chaining_key = [0; 32];
        chaining_key[..key.len() / 2].copy_from_slice(&hex(key));
        let input = hex(input);
        let (first, second, third) = kdf3(&chaining_key, &input);
        assert_eq!([first.to_vec(), second.to_vec(), third.to_vec()], outputs.map(hex));
        assert_eq!(kdf2(&chaining_key, &input), (first.clone(), second));
        assert_eq!(kdf1(&chaining_key, &input), first);
    }
}

#[test]
fn x25519_gives_the_values_of_rfc_7748() {
    // Section 5.2.
    for (scalar, coordinate, output) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        let shared = AgreementKey::new(&bytes(&hex(scalar))).agree(&bytes(&hex(coordinate))).unwrap();
        assert_eq!(shared.as_bytes()[..], hex(output));
    }

    // The iterated test of the same section.
    let mut scalar = [0; 32];
    scalar[0] = 9;
    let mut coordinate = scalar;
    for round in 1..=1000 {
        let output = *AgreementKey::new(&scalar).agree(&coordinate).unwrap().as_bytes();
        (scalar, coordinate) = (output, scalar);
        match round {
            1 => assert_eq!(
                scalar[..],
                hex("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
            ),
            1000 => assert_eq!(
                scalar[..],
                hex("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")
            ),
            _ => {}
        }
    }

    // Section 6.1.
    let alice =
        AgreementKey::new(&bytes(&hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")));
    let bob =
        AgreementKey::new(&bytes(&hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")));
    let (alice_public, bob_public) = (alice.public(), bob.public());
    assert_eq!(alice_public[..], hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
    assert_eq!(bob_public[..], hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(alice.agree(&bob_public).unwrap().as_bytes()[..], shared);
    assert_eq!(bob.agree(&alice_public).unwrap().as_bytes()[..], shared);
}

proptest! {
    /// The oracle is another implementation altogether. Every 32 bytes are a private and a public key, also
    /// unclamped and not reduced (RFC 7748 §5).
    #[test]
    fn x25519_agrees_with_dalek(private in any::<[u8; 32]>(), public in any::<[u8; 32]>()) {
        let secret = x25519_dalek::StaticSecret::from(private);
        let key = AgreementKey::new(&private);
        prop_assert_eq!(key.public(), x25519_dalek::PublicKey::from(&secret).to_bytes());
        let expected = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public));
        prop_assert_eq!(key.agree(&public).map(|shared| *shared.as_bytes()), Some(*expected.as_bytes()));
    }
}

/// RFC 8439, section 2.8.2, and the draft's appendix A.3.1 seal the same text.
const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
    future, sunscreen would be it.";

#[test]
fn chacha20_poly1305_opens_the_example_of_rfc_8439() {
    // Appendix A.5, whose nonce begins with four zero bytes as all of WireGuard's do.
    let key = bytes(&hex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"));
    let associated_data = hex("f33388860000000000004e91");
    let sealed = hex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
         bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
         9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
         9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
         0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
         305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38",
    );
    let expected = "Internet-Drafts are draft documents valid for a maximum of six months and may be \
        updated, replaced, or obsoleted by other documents at any time. It is inappropriate to use \
        Internet-Drafts as reference material or to cite them other than as /\u{201c}work in progress./\u{201d}";
    let counter = 0x0807_0605_0403_0201;
    let mut plaintext = vec![0; sealed.len() - 16];
    open(&key, counter, &associated_data, &sealed, &mut plaintext).unwrap();
    assert_eq!(plaintext, expected.as_bytes());

    let mut buffer = [expected.as_bytes(), &[0; 16]].concat();
    seal(&key, counter, &associated_data, &mut buffer);
    assert_eq!(buffer, sealed);
}

#[test]
fn xchacha20_poly1305_gives_the_example_of_the_draft() {
    // draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    let key = std::array::from_fn(|i| 0x80 + i as u8);
    let nonce = std::array::from_fn(|i| 0x40 + i as u8);
    let associated_data = hex("50515253c0c1c2c3c4c5c6c7");
    let sealed = hex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39\
         ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
         21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49",
    );
    let mut buffer = [SUNSCREEN, &[0; 16]].concat();
    seal_extended(&key, &nonce, &associated_data, &mut buffer);
    assert_eq!(buffer, sealed);
    let mut plaintext = vec![0; SUNSCREEN.len()];
    open_extended(&key, &nonce, &associated_data, &sealed, &mut plaintext).unwrap();
    assert_eq!(plaintext, SUNSCREEN);
}

#[test]
fn what_is_too_short_or_changed_does_not_open() {
    let key = [7; 32];
    let mut sealed = [1_u8; 40];
    seal(&key, 5, b"data", &mut sealed);
    let mut plaintext = [0; 24];
    assert_eq!(open(&key, 5, b"data", &sealed, &mut plaintext), Ok(()));
    assert_eq!(plaintext, [1; 24]);
    assert_eq!(open(&key, 6, b"data", &sealed, &mut plaintext), Err(NotAuthentic));
    assert_eq!(open(&key, 5, b"Data", &sealed, &mut plaintext), Err(NotAuthentic));
    assert_eq!(open(&[8; 32], 5, b"data", &sealed, &mut plaintext), Err(NotAuthentic));
    for len in 0..40 {
        assert_eq!(open(&key, 5, b"data", &sealed[..len], &mut plaintext), Err(NotAuthentic));
    }
    for bit in 0..40 * 8 {
        let mut changed = sealed;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key, 5, b"data", &changed, &mut plaintext), Err(NotAuthentic), "bit {bit}");
    }
}
