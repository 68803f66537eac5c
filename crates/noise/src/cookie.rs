//! mac1, mac2 and cookies: the protection of the handshake against floods (§5.3, §5.4.4, §5.4.7).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use tombolo_packet::DropReason;
use tombolo_packet::message::{COOKIE_REPLY_LEN, CookieReply, Initiation, MAC_LEN, Response, TAG_LEN};
use zeroize::Zeroizing;

use crate::clock::Instant;
use crate::crypto;
use crate::keys::{RemoteStatic, StaticIdentity};

/// The age at which the secret behind our cookies is changed (§5.3, Cookie-Secret-Max-Age).
pub const COOKIE_SECRET_MAX_AGE: Duration = Duration::from_secs(120);

/// The age up to which a received cookie is used: 5 s less than [`COOKIE_SECRET_MAX_AGE`], for the time
/// that messages are on their way (requirement 14).
pub const COOKIE_MAX_AGE: Duration = Duration::from_secs(115);

type Cookie = Zeroizing<[u8; MAC_LEN]>;

/// The second mac of a sender that holds no cookie (§5.4.4).
const NO_MAC2: [u8; MAC_LEN] = [0; MAC_LEN];

/// What initiations and responses have in common: a sender, and two macs at the end.
pub trait HandshakeMessage {
    /// The index that answers are to name.
    fn sender_index(&self) -> u32;
    /// What mac1 covers.
    fn bytes_before_mac1(&self) -> &[u8];
    /// The first mac.
    fn mac1(&self) -> &[u8; MAC_LEN];
    /// What mac2 covers.
    fn bytes_before_mac2(&self) -> &[u8];
    /// The second mac.
    fn mac2(&self) -> &[u8; MAC_LEN];
}

macro_rules! handshake_message {
    ($view:ident) => {
        impl HandshakeMessage for $view<'_> {
            fn sender_index(&self) -> u32 {
                $view::sender_index(self)
            }
            fn bytes_before_mac1(&self) -> &[u8] {
                $view::bytes_before_mac1(self)
            }
            fn mac1(&self) -> &[u8; MAC_LEN] {
                $view::mac1(self)
            }
            fn bytes_before_mac2(&self) -> &[u8] {
                $view::bytes_before_mac2(self)
            }
            fn mac2(&self) -> &[u8; MAC_LEN] {
                $view::mac2(self)
            }
        }
    };
}

handshake_message!(Initiation);
handshake_message!(Response);

/// Whether mac1 is right: whether the sender knows our public key. Always the first thing that is asked of
/// a handshake message (requirement 13). In constant time.
pub fn verify_mac1(message: &impl HandshakeMessage, identity: &StaticIdentity) -> bool {
    let expected = crypto::mac(identity.mac1_key(), &[message.bytes_before_mac1()]);
    expected.ct_eq(message.mac1()).into()
}

/// What we know of one peer's load: the cookie it gave us, if any. It writes the macs of all our
/// initiations and responses to that peer.
#[derive(Default)]
pub struct CookieJar(Option<Box<JarContents>>);

/// Of a peer that a handshake message was sent to.
#[derive(Default)]
struct JarContents {
    cookie: Option<(Cookie, Instant)>,
    /// mac1 of the last message that was sent, until a cookie reply to it comes.
    last_mac1: Option<[u8; MAC_LEN]>,
}

impl CookieJar {
    /// Without a cookie.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Writes mac1, and mac2 if there is a cookie of at most [`COOKIE_MAX_AGE`], into the last 32 bytes of
    /// an initiation or a response (§5.4.4). To be called once for each message that is sent, right
    /// before it is sent. Writes nothing if `message` is shorter than that.
    pub fn write_macs(&mut self, message: &mut [u8], remote: &RemoteStatic, now: Instant) {
        let Some(before_mac1) = message.len().checked_sub(2 * MAC_LEN) else {
            return;
        };
        let before_mac2 = before_mac1 + MAC_LEN;
        let mac1 = crypto::mac(&remote.mac1_key(), &[&message[..before_mac1]]);
        message[before_mac1..before_mac2].copy_from_slice(&mac1);
        let jar = self.0.get_or_insert_default();
        jar.last_mac1 = Some(mac1);
        jar.cookie.take_if(|(_, received)| now.saturating_duration_since(*received) > COOKIE_MAX_AGE);
        let mac2 = match &jar.cookie {
            Some((cookie, _)) => crypto::mac(cookie, &[&message[..before_mac2]]),
            None => NO_MAC2,
        };
        message[before_mac2..].copy_from_slice(&mac2);
    }

    /// Takes the cookie out of a reply to the last message that was sent. Each message is good for one
    /// reply.
    ///
    /// # Errors
    /// [`DropReason::UnexpectedResponse`] if no message waits for a cookie,
    /// [`DropReason::InvalidCookieReply`] if it does not authenticate, which leaves everything as it was.
    pub fn consume_reply(
        &mut self,
        reply: &CookieReply<'_>,
        remote: &RemoteStatic,
        now: Instant,
    ) -> Result<(), DropReason> {
        let jar = self.0.as_deref_mut().ok_or(DropReason::UnexpectedResponse)?;
        let mac1 = jar.last_mac1.as_ref().ok_or(DropReason::UnexpectedResponse)?;
        let mut cookie = Cookie::default();
        crypto::open_extended(
            &remote.cookie_key(),
            reply.nonce(),
            mac1,
            reply.encrypted_cookie(),
            cookie.as_mut_slice(),
        )
        .map_err(|_| DropReason::InvalidCookieReply)?;
        jar.cookie = Some((cookie, now));
        jar.last_mac1 = None;
        Ok(())
    }

    /// Forgets cookie and mac1: the peer's or our own static key has changed, or the peer's key material
    /// is wiped (requirement 9).
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

impl fmt::Debug for CookieJar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cookie = self.0.as_ref().and_then(|jar| jar.cookie.as_ref());
        let received = cookie.map(|(_, received)| received);
        formatter.debug_struct("CookieJar").field("received", &received).finish_non_exhaustive()
    }
}

/// The cookies that we give while we are under load. One per device.
#[derive(Default)]
pub struct CookieChecker {
    secret: Option<(Zeroizing<[u8; 32]>, Instant)>,
    /// The cookie given last, and to whom: many messages may come from one place.
    last: Option<(SocketAddr, Cookie)>,
}

impl CookieChecker {
    /// Without a secret: the first reply makes one.
    pub const fn new() -> Self {
        Self { secret: None, last: None }
    }

    /// Whether the sender holds a cookie of ours for the address and port it sends from
    /// (requirement 14). In constant time.
    pub fn verify_mac2(&self, message: &impl HandshakeMessage, source: SocketAddr, now: Instant) -> bool {
        // Half of the hashing that a flood without cookies would cost. What is compared is no secret.
        if *message.mac2() == NO_MAC2 {
            return false;
        }
        let Some(secret) = self.current_secret(now) else {
            return false;
        };
        let cookie = cookie_of(secret, source);
        let expected = crypto::mac(&cookie, &[message.bytes_before_mac2()]);
        expected.ct_eq(message.mac2()).into()
    }

    /// The reply to a handshake message with a valid mac1 that came from `source` (§5.4.7).
    pub fn create_reply(
        &mut self,
        identity: &StaticIdentity,
        message: &impl HandshakeMessage,
        source: SocketAddr,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> [u8; COOKIE_REPLY_LEN] {
        if self.current_secret(now).is_none() {
            let mut secret = Zeroizing::new([0; 32]);
            rng.fill_bytes(secret.as_mut_slice());
            self.secret = Some((secret, now));
            self.last = None;
        }
        let cookie = match (self.last.take(), &self.secret) {
            (Some((known, cookie)), _) if known == source => cookie,
            (_, Some((secret, _))) => cookie_of(secret, source),
            (_, None) => Cookie::default(),
        };
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let mut sealed = [0; MAC_LEN + TAG_LEN];
        sealed[..MAC_LEN].copy_from_slice(cookie.as_slice());
        crypto::seal_extended(identity.cookie_key(), &nonce, message.mac1(), &mut sealed);
        self.last = Some((source, cookie));
        CookieReply::write(message.sender_index(), &nonce, &sealed)
    }

    /// The secret, if it is younger than [`COOKIE_SECRET_MAX_AGE`] (requirement 14).
    fn current_secret(&self, now: Instant) -> Option<&[u8; 32]> {
        let (secret, born) = self.secret.as_ref()?;
        (now.saturating_duration_since(*born) < COOKIE_SECRET_MAX_AGE).then_some(secret)
    }
}

impl fmt::Debug for CookieChecker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let born = self.secret.as_ref().map(|(_, born)| born);
        formatter.debug_struct("CookieChecker").field("born", &born).finish_non_exhaustive()
    }
}

/// The cookie of a source: a mac over its address *and port* (requirement 14), so that those who share an
/// address do not share a cookie.
fn cookie_of(secret: &[u8; 32], source: SocketAddr) -> Cookie {
    let port = source.port().to_be_bytes();
    let cookie = match source.ip().to_canonical() {
        IpAddr::V4(address) => crypto::mac(secret, &[&address.octets(), &port]),
        IpAddr::V6(address) => crypto::mac(secret, &[&address.octets(), &port]),
    };
    Zeroizing::new(cookie)
}

#[cfg(test)]
mod tests;
