//! Names of the offloads, and what became of each: the words in which switches, sockets, devices and `status` speak of
//! them.

use std::fmt;

macro_rules! offloads {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Work that the operating system can do for many packets at once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Offload { $($(#[doc = $doc])+ $variant,)+ }

        impl Offload {
            /// Every offload.
            pub const ALL: &'static [Offload] = &[$(Offload::$variant,)+];

            /// The offload as it stands in the configuration, in `status` and in the metrics: `snake_case`, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Offload::$variant => $name,)+ }
            }

            /// What it is, for people.
            pub const fn description(self) -> &'static str {
                match self { $(Offload::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

offloads! {
    /// The virtio-net header on the TUN, without which there is no other offload there.
    VnetHeader => "vnet_header",
    /// Packets read from the TUN with unfinished checksums.
    Checksum => "checksum",
    /// TCP super-packets read from the TUN.
    Tso => "tso",
    /// UDP super-packets read from the TUN (Linux 6.2).
    Uso => "uso",
    /// TCP super-packets written to the TUN.
    CoalesceTcp => "coalesce_tcp",
    /// UDP super-packets written to the TUN (Linux 6.2).
    CoalesceUdp => "coalesce_udp",
    /// Several datagrams sent by one call (UDP_SEGMENT).
    Gso => "gso",
    /// Several datagrams received by one call (UDP_GRO, Linux 5.12).
    Gro => "gro",
}

/// Whether an offload is in use, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffloadState {
    /// In use.
    On,
    /// The owner switched it off, or another one that it needs.
    SwitchedOff,
    /// The system does not have it.
    Unsupported,
    /// The system has it and is known to get it wrong, for this reason.
    Avoided(&'static str),
    /// A trial at start failed with this errno.
    Refused(i32),
    /// Given up at run time, when the system failed with this errno.
    Demoted(i32),
    /// Given up at run time, because the system was seen to get it wrong in this way.
    Abandoned(&'static str),
}

impl OffloadState {
    /// The state as it stands in `status` and in the metrics: `snake_case`, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::SwitchedOff => "switched_off",
            Self::Unsupported => "unsupported",
            Self::Avoided(_) => "avoided",
            Self::Refused(_) => "refused",
            Self::Demoted(_) | Self::Abandoned(_) => "demoted",
        }
    }

    /// Whether the offload is in use.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// Why it is off; nothing where it is on.
impl fmt::Display for OffloadState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = |errno: &i32| std::io::Error::from_raw_os_error(*errno);
        match self {
            Self::On => Ok(()),
            Self::SwitchedOff => formatter.write_str("switched off"),
            Self::Unsupported => formatter.write_str("this system does not have it"),
            Self::Avoided(reason) => formatter.write_str(reason),
            Self::Refused(errno) => write!(formatter, "refused at start: {}", system(errno)),
            Self::Demoted(errno) => write!(formatter, "given up at run time: {}", system(errno)),
            Self::Abandoned(reason) => write!(formatter, "given up at run time: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offload_has_a_name_of_its_own_and_every_reason_is_told() {
        let names: std::collections::HashSet<_> = Offload::ALL.iter().map(|offload| offload.name()).collect();
        assert_eq!(names.len(), Offload::ALL.len());
        assert_eq!(OffloadState::On.to_string(), "");
        assert!(OffloadState::Demoted(5).to_string().contains("os error 5"));
        assert_eq!(OffloadState::Avoided("a fault").to_string(), "a fault");
        assert_eq!(OffloadState::Abandoned("a fault").to_string(), "given up at run time: a fault");
    }
}
