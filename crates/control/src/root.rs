//! The root key: made once, kept encrypted outside of the state directory, never loaded by the daemon (control rule 1).
//!
//! There are two: the one that signs, and the next one, whose fingerprint each trust document names. Whoever takes
//! the first one cannot choose its heir. Both are in one file, with the newest trust document, so that a network can go
//! on from this file alone (control rule 21). [`RootKeys::to_bytes`] is what is to be encrypted.

use rand_core::CryptoRng;
use tombolo_noise::clock::UnixTime;
use zeroize::Zeroizing;

use crate::cbor::{self, CborError, FieldError, Fields, MapBuilder};
use crate::document::{DocumentError, Issuer, TrustDocument, Verified};
use crate::{Domain, HostEndpoint, NetworkId, SigningKey};

/// More than any file of ours.
const FILE_MAX: usize = 16 << 10;

/// The root key, its heir, and what it signed last.
pub struct RootKeys {
    network: NetworkId,
    root: SigningKey,
    next: SigningKey,
    trust: Option<Verified<TrustDocument>>,
    server: Option<KnownServer>,
}

/// The server as it was when the file was written. Nodes know it by its static key: with it a server that is made anew
/// from this file alone is the one that they look for.
#[derive(Clone)]
pub struct KnownServer {
    /// Its static private key.
    pub key: Zeroizing<[u8; 32]>,
    /// A membership that it had, signed.
    pub membership: Vec<u8>,
    /// Where it was found.
    pub endpoints: Vec<HostEndpoint>,
    /// The domain of the network's names.
    pub domain: Domain,
}

/// Why a root key file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Not the content of a root key file.
    #[error("this is not the content of a root key file: {0}")]
    Cbor(#[from] CborError),
    /// A field is missing or malformed.
    #[error("this is not the content of a root key file: {0}")]
    Field(#[from] FieldError),
    /// Its trust document is not its own, or what is to be signed is not valid.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is nothing to sign anew.
    #[error("this root key has signed no trust document yet")]
    NothingSigned,
    /// The epoch is used up.
    #[error("the trust document's epoch is used up")]
    Epoch,
}

impl RootKeys {
    /// Of a new network.
    pub fn create(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let (root, next) = (SigningKey::generate(rng), SigningKey::generate(rng));
        Self { network: NetworkId::derive(&root.verifying_key()), root, next, trust: None, server: None }
    }

    /// Which network.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// What nodes pin.
    pub fn fingerprint(&self) -> crate::Fingerprint {
        self.root.verifying_key().fingerprint()
    }

    /// The server, where one was noted.
    pub fn server(&self) -> Option<&KnownServer> {
        self.server.as_ref()
    }

    /// Notes which server nodes know.
    pub fn set_server(&mut self, server: KnownServer) {
        self.server = Some(server);
    }

    /// Takes over a trust document that this root key has signed and this file, an older copy, does not know: no epoch
    /// is to be used twice.
    ///
    /// # Errors
    /// When another root key has signed it.
    pub fn learn(&mut self, trust: &[u8]) -> Result<(), RootError> {
        let document = TrustDocument::verify(trust, &self.network, &[self.fingerprint()])?;
        if self.trust.as_ref().is_none_or(|held| held.epoch < document.epoch) {
            self.trust = Some(document);
        }
        Ok(())
    }

    /// The newest trust document, if one was signed.
    pub fn trust(&self) -> Option<&Verified<TrustDocument>> {
        self.trust.as_ref()
    }

    /// Signs who may issue from now on: all others are dead, with all that they signed. The file is to be written
    /// again before the document is given away, so that no epoch is used twice.
    ///
    /// # Errors
    /// When a verifier would refuse the document.
    pub fn sign(
        &mut self,
        issuers: Vec<Issuer>,
        now: UnixTime,
    ) -> Result<&Verified<TrustDocument>, RootError> {
        let epoch =
            self.trust.as_ref().map_or(Some(1), |held| held.epoch.checked_add(1)).ok_or(RootError::Epoch)?;
        let issued = self.trust.as_ref().map_or(now, |held| now.max(held.issued));
        let document = TrustDocument {
            network: self.network,
            epoch,
            root: self.root.verifying_key(),
            next_root: self.next.verifying_key().fingerprint(),
            issued,
            issuers,
        };
        let bytes = document.sign(&self.root)?;
        let verified = TrustDocument::verify(&bytes, &self.network, &[self.fingerprint()])?;
        Ok(self.trust.insert(verified))
    }

    /// Signs the same issuers, but for those that `keep` does not want, and `add` beside them.
    ///
    /// # Errors
    /// As [`RootKeys::sign`]; and when nothing was signed yet.
    pub fn reissue(
        &mut self,
        keep: impl Fn(&Issuer) -> bool,
        add: Vec<Issuer>,
        now: UnixTime,
    ) -> Result<&Verified<TrustDocument>, RootError> {
        let held = self.trust.as_ref().ok_or(RootError::NothingSigned)?;
        let added = |issuer: &&Issuer| !add.iter().any(|new| new.key == issuer.key);
        let mut issuers: Vec<Issuer> =
            held.issuers.iter().filter(|issuer| keep(issuer)).filter(added).cloned().collect();
        issuers.extend(add);
        self.sign(issuers, now)
    }

    /// The next root key takes over, and a new next one is made. It signs the same issuers.
    ///
    /// # Errors
    /// As [`RootKeys::reissue`].
    pub fn rotate(
        &mut self,
        now: UnixTime,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<&Verified<TrustDocument>, RootError> {
        if self.trust.is_none() {
            return Err(RootError::NothingSigned);
        }
        let next = SigningKey::generate(rng);
        self.root = std::mem::replace(&mut self.next, next);
        self.reissue(|_| true, Vec::new(), now)
    }

    /// What is to be encrypted, and to be kept where no server is.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let trust = self.trust.as_ref().map(|held| held.encoded().to_vec());
        let map = MapBuilder::default()
            .put(1, &self.network)
            .put(2, &*self.root.seed())
            .put(3, &*self.next.seed())
            .put_some(4, trust.as_ref())
            .put_some(5, self.server.as_ref().map(|server| &*server.key))
            .put_some(6, self.server.as_ref().map(|server| &server.membership))
            .put_list(7, self.server.as_ref().map_or(&[], |server| &server.endpoints))
            .put_some(8, self.server.as_ref().map(|server| &server.domain));
        Zeroizing::new(cbor::encode(&map.build()))
    }

    /// Reads what [`RootKeys::to_bytes`] gave.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RootError> {
        let mut fields = Fields::from_value(cbor::decode(bytes, FILE_MAX)?, "root key file")?;
        let network = fields.required(1, "network")?;
        let root = SigningKey::from_seed(fields.required(2, "root")?);
        let next = SigningKey::from_seed(fields.required(3, "next_root")?);
        let trust: Option<Vec<u8>> = fields.optional(4, "trust")?;
        let fingerprint = root.verifying_key().fingerprint();
        let trust = trust.map(|trust| TrustDocument::verify(&trust, &network, &[fingerprint])).transpose()?;
        let key: Option<[u8; 32]> = fields.optional(5, "server_key")?;
        let server = match key.map(Zeroizing::new) {
            Some(key) => Some(KnownServer {
                key,
                membership: fields.required(6, "server_membership")?,
                endpoints: fields.list(7, "server_endpoints", 8)?,
                domain: fields.required(8, "domain")?,
            }),
            None => None,
        };
        Ok(Self { network, root, next, trust, server })
    }
}

impl std::fmt::Debug for RootKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RootKeys").field("network", &self.network).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::test_support::*;
    use crate::verifier::{Pins, Verifier};

    fn of(key: &SigningKey) -> Issuer {
        Issuer { key: key.verifying_key(), limits: limits() }
    }

    #[test]
    fn issuers_come_and_go_and_the_root_passes_to_its_heir_control_rule_1() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut keys = RootKeys::create(&mut rng);
        let pins = Pins { network: keys.network(), root: keys.fingerprint(), overlay: None };
        let mut verifier = Verifier::new(pins, None);
        assert_eq!(keys.rotate(day(TODAY), &mut rng).map(drop), Err(RootError::NothingSigned));
        keys.sign(vec![of(&issuer())], day(TODAY)).unwrap();
        verifier.install_trust(keys.trust().unwrap().encoded()).unwrap();
        keys.reissue(|held| held.key != issuer().verifying_key(), vec![of(&stranger())], day(TODAY)).unwrap();
        verifier.install_trust(keys.trust().unwrap().encoded()).unwrap();
        let trust = verifier.trust().unwrap();
        assert_eq!((trust.epoch, trust.issuers.len()), (2, 1));
        assert!(trust.issuer(stranger().verifying_key().key_id()).is_some());
        let first = keys.fingerprint();
        keys.rotate(day(TODAY + 1), &mut rng).unwrap();
        verifier.install_trust(keys.trust().unwrap().encoded()).unwrap();
        assert_ne!(verifier.pins().root, first);
        assert_eq!(verifier.pins().root, keys.fingerprint());
        // The time of a machine that is set back signs no earlier.
        keys.reissue(|_| true, vec![], day(1)).unwrap();
        assert_eq!(keys.trust().unwrap().issued, day(TODAY + 1));
    }

    #[test]
    fn the_file_is_all_that_is_needed_control_rule_21() {
        let mut keys = RootKeys::create(&mut ChaCha20Rng::seed_from_u64(2));
        keys.sign(vec![of(&issuer())], day(TODAY)).unwrap();
        let mut again = RootKeys::from_bytes(&keys.to_bytes()).unwrap();
        assert_eq!((again.network(), again.trust()), (keys.network(), keys.trust()));
        // An older copy learns of what was signed since, and uses no epoch twice.
        let mut copy = RootKeys::from_bytes(&keys.to_bytes()).unwrap();
        keys.reissue(|_| true, vec![], day(TODAY)).unwrap();
        copy.learn(keys.trust().unwrap().encoded()).unwrap();
        assert_eq!(copy.reissue(|_| true, vec![], day(TODAY)).unwrap().epoch, 3);
        let other = RootKeys::create(&mut ChaCha20Rng::seed_from_u64(3));
        assert!(
            RootKeys::from_bytes(&other.to_bytes()).unwrap().learn(keys.trust().unwrap().encoded()).is_err()
        );
        let known = KnownServer {
            key: Zeroizing::new([9; 32]),
            membership: vec![1, 2, 3],
            endpoints: vec!["vpn.example.net:8662".parse().unwrap()],
            domain: "office.internal".parse().unwrap(),
        };
        copy.set_server(known);
        let read = RootKeys::from_bytes(&copy.to_bytes()).unwrap();
        let read = read.server().unwrap();
        assert_eq!((*read.key, &read.membership[..], read.endpoints.len()), ([9; 32], &[1, 2, 3][..], 1));
        assert_eq!(again.reissue(|_| true, vec![], day(TODAY)).unwrap().epoch, 2);
        assert!(RootKeys::from_bytes(b"something else").is_err());
        assert!(!format!("{keys:?}").contains("SigningKey"));
    }
}
