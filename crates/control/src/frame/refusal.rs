//! Why an answer is no.

use ciborium::Value;

use crate::cbor::{Item, Problem};

macro_rules! refusal_codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A reason that this version does not know.
            Other(u8),
        }

        impl $name {
            /// The number that travels.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(code) => code,
                }
            }

            /// The reason of a number.
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl Item for $name {
            fn to_value(&self) -> Value {
                self.code().to_value()
            }

            fn from_value(value: Value) -> Result<Self, Problem> {
                u8::from_value(value).map(Self::from_code)
            }
        }
    };
}

refusal_codes! {
    /// Why a node is not let in. A token that is unknown and a proof that does not hold look alike.
    JoinRefusal {
        /// There is no such token, or it was not proven to be held.
        UnknownToken = 1,
        /// Another node has spent it.
        Spent = 2,
        /// Its time is over.
        Expired = 3,
        /// The wanted name is another node's, or reserved.
        NameTaken = 4,
        /// There is no address left.
        Full = 5,
        /// Not now; to be tried again.
        Busy = 6,
        /// The session's key is revoked: another is to be made.
        Revoked = 7,
    }
}

refusal_codes! {
    /// Why there is no other membership.
    RenewRefusal {
        /// The session's key is no member's.
        NotAMember = 1,
        /// The node, or its key, is revoked.
        Revoked = 2,
        /// No such ticket, or not any more: another is to be asked for over the old key.
        UnknownTicket = 3,
        /// The asker does not present this node.
        NotPresented = 4,
        /// Not now; to be tried again.
        Busy = 5,
    }
}

refusal_codes! {
    /// Why an administrator's request is not carried out. The text beside it says more.
    AdminRefusal {
        /// The asker is in no admin group.
        NotAllowed = 1,
        /// No such node, token, group, route or server.
        NotFound = 2,
        /// The name is another node's.
        NameTaken = 3,
        /// There is no address left.
        Full = 4,
        /// It is there already.
        Exists = 5,
        /// The issuer's limits, set by the root key, do not allow it.
        Limit = 6,
        /// What is asked for contradicts itself, or what is.
        Invalid = 7,
        /// Not now; to be tried again.
        Busy = 8,
        /// The register could not be written.
        Store = 9,
    }
}

refusal_codes! {
    /// Why a membership is not taken. Nothing that only members may know follows from it.
    ShowRefusal {
        /// It does not verify, or is of another key or network.
        Invalid = 1,
        /// It has expired.
        Expired = 2,
        /// It begins later.
        NotYet = 3,
        /// It is revoked.
        Revoked = 4,
        /// What it claims is another node's.
        Owned = 5,
        /// The receiver lacks documents for it; to be shown again.
        Later = 6,
        /// The receiver's network document is stale, and no new peers are taken then.
        Stale = 7,
    }
}
