//! What a node may do for others.

use std::fmt;
use std::ops::BitOr;

use ciborium::Value;

use crate::cbor::{Item, Problem};

/// A set of roles. Bits that this version does not know are kept, and grant nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Roles(u32);

impl Roles {
    /// None.
    pub const NONE: Self = Self(0);
    /// Issues memberships and keeps the register. In an issuer's limits: may sign network documents too.
    pub const AUTHORITY: Self = Self(1);
    /// Remembers who is where, and introduces nodes.
    pub const LIGHTHOUSE: Self = Self(2);
    /// Forwards sealed datagrams.
    pub const RELAY: Self = Self(4);
    /// Routes a subnet behind it.
    pub const GATEWAY: Self = Self(8);
    /// All that this version knows.
    pub const ALL: Self = Self(15);

    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// All but those in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Roles {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            (Self::AUTHORITY, "authority"),
            (Self::LIGHTHOUSE, "lighthouse"),
            (Self::RELAY, "relay"),
            (Self::GATEWAY, "gateway"),
        ];
        let names: Vec<&str> =
            known.iter().filter(|(role, _)| self.contains(*role)).map(|(_, name)| *name).collect();
        formatter.pad(if names.is_empty() { "none".to_owned() } else { names.join(", ") }.as_str())
    }
}

impl Item for Roles {
    fn to_value(&self) -> Value {
        self.0.to_value()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        u32::from_value(value).map(Self)
    }
}
