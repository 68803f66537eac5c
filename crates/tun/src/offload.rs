//! Which offloads of a TUN may be used, which ones the kernel has, and what became of each.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tombolo_packet::{Offload, OffloadState};

use crate::{Offloads, Reads, sys};

/// Which offloads may be used where the kernel has them. All of them by default; each is a kill
/// switch for a kernel that gets it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadSwitches {
    /// The virtio-net header itself; without it one plain packet moves with each system call.
    pub vnet_header: bool,
    /// Packets with unfinished checksums may be read; without it no super-packets are either.
    pub checksum: bool,
    /// TCP super-packets may be read.
    pub tso: bool,
    /// UDP super-packets may be read.
    pub uso: bool,
    /// TCP super-packets may be written.
    pub coalesce_tcp: bool,
    /// UDP super-packets may be written.
    pub coalesce_udp: bool,
}

impl OffloadSwitches {
    /// All of them on or all of them off.
    pub const fn all(on: bool) -> Self {
        Self { vnet_header: on, checksum: on, tso: on, uso: on, coalesce_tcp: on, coalesce_udp: on }
    }

    /// With what the others need counted in.
    const fn effective(self) -> Self {
        let checksum = self.vnet_header && self.checksum;
        Self {
            vnet_header: self.vnet_header,
            checksum,
            tso: checksum && self.tso,
            uso: checksum && self.uso,
            coalesce_tcp: self.vnet_header && self.coalesce_tcp,
            coalesce_udp: self.vnet_header && self.coalesce_udp,
        }
    }
}

impl Default for OffloadSwitches {
    fn default() -> Self {
        Self::all(true)
    }
}

/// What became of each offload of a TUN.
pub type TunOffloadStates = [(Offload, OffloadState); 6];

/// The states that follow from what was allowed, what the kernel agreed to, and how the trial writes went.
pub(crate) fn states(
    switches: OffloadSwitches,
    agreed: Offloads,
    refusals: WriteRefusals,
) -> TunOffloadStates {
    let switches = switches.effective();
    let state = |switched_on, agreed| match (switched_on, agreed) {
        (false, _) => OffloadState::SwitchedOff,
        (true, true) => OffloadState::On,
        (true, false) => OffloadState::Unsupported,
    };
    let written = |switched_on, agreed, refusal: Option<i32>| match refusal {
        Some(errno) if switched_on => OffloadState::Refused(errno),
        _ => state(switched_on, agreed),
    };
    [
        (Offload::VnetHeader, state(switches.vnet_header, agreed.vnet_header)),
        (Offload::Checksum, state(switches.checksum, agreed.checksum)),
        (Offload::Tso, state(switches.tso, agreed.tso4 && agreed.tso6)),
        (Offload::Uso, state(switches.uso, agreed.uso)),
        (Offload::CoalesceTcp, written(switches.coalesce_tcp, agreed.write_tcp, refusals.tcp)),
        (Offload::CoalesceUdp, written(switches.coalesce_udp, agreed.write_udp, refusals.udp)),
    ]
}

/// The errno with which the kernel refused a trial super-packet, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteRefusals {
    pub(crate) tcp: Option<i32>,
    pub(crate) udp: Option<i32>,
}

/// Asks for less and less, until the kernel agrees.
pub(crate) fn negotiate(fd: &OwnedFd, switches: OffloadSwitches) -> io::Result<Offloads> {
    const TCP: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    const UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let switches = switches.effective();
    let tcp = if switches.tso { TCP } else { 0 };
    let ecn = if switches.tso { libc::TUN_F_TSO_ECN } else { 0 };
    let udp = if switches.uso { UDP } else { 0 };
    let checksum = if switches.checksum { libc::TUN_F_CSUM } else { 0 };
    let attempts = [checksum | tcp | ecn | udp, checksum | tcp | ecn, checksum | tcp, checksum, 0];
    let mut result = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for features in attempts {
        result = sys::set_offload(fd.as_fd(), features).map(|()| Offloads {
            vnet_header: true,
            checksum: features & libc::TUN_F_CSUM != 0,
            tso4: features & libc::TUN_F_TSO4 != 0,
            tso6: features & libc::TUN_F_TSO6 != 0,
            tso_ecn: features & libc::TUN_F_TSO_ECN != 0,
            uso: features & UDP == UDP,
            write_tcp: switches.coalesce_tcp,
            write_udp: switches.coalesce_udp,
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The set of `TUN_F_*` for what was agreed to, less what is no longer wanted.
pub(crate) fn features(agreed: Offloads, reads: Reads) -> u32 {
    let checksum = agreed.checksum && reads.checksum;
    let (tso, uso) = (checksum && reads.tso, checksum && reads.uso);
    [
        (checksum, libc::TUN_F_CSUM),
        (tso && agreed.tso4, libc::TUN_F_TSO4),
        (tso && agreed.tso6, libc::TUN_F_TSO6),
        (tso && agreed.tso_ecn, libc::TUN_F_TSO_ECN),
        (uso && agreed.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |all, (_, feature)| all | feature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(states: TunOffloadStates, wanted: Offload) -> OffloadState {
        states.iter().find(|(offload, _)| *offload == wanted).unwrap().1
    }

    #[test]
    fn what_was_switched_off_what_is_missing_and_what_was_refused_are_told_apart() {
        let none = WriteRefusals::default();
        let on = states(OffloadSwitches::default(), Offloads::ALL, none);
        assert!(on.iter().all(|(_, state)| state.is_on()), "{on:?}");

        let old = Offloads { uso: false, write_udp: false, ..Offloads::ALL };
        let refused = WriteRefusals { udp: Some(libc::EINVAL), ..none };
        let states_of_old = states(OffloadSwitches::default(), old, refused);
        assert_eq!(state_of(states_of_old, Offload::Uso), OffloadState::Unsupported);
        assert_eq!(state_of(states_of_old, Offload::CoalesceUdp), OffloadState::Refused(libc::EINVAL));
        assert_eq!(state_of(states_of_old, Offload::Tso), OffloadState::On);

        let switches = OffloadSwitches { tso: false, ..OffloadSwitches::default() };
        let without = states(switches, Offloads { tso4: false, tso6: false, ..Offloads::ALL }, none);
        assert_eq!(state_of(without, Offload::Tso), OffloadState::SwitchedOff);
        assert_eq!(state_of(without, Offload::CoalesceTcp), OffloadState::On);
    }

    #[test]
    fn what_is_given_up_is_asked_for_no_longer_and_checksums_take_all_along() {
        const TSO: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        assert_eq!(features(Offloads::ALL, Reads::ALL), libc::TUN_F_CSUM | TSO | USO);
        assert_eq!(features(Offloads::ALL, Reads { tso: false, ..Reads::ALL }), libc::TUN_F_CSUM | USO);
        assert_eq!(features(Offloads::ALL, Reads { uso: false, ..Reads::ALL }), libc::TUN_F_CSUM | TSO);
        assert_eq!(features(Offloads::ALL, Reads { checksum: false, ..Reads::ALL }), 0);
        let old = Offloads { uso: false, tso_ecn: false, ..Offloads::ALL };
        assert_eq!(features(old, Reads::ALL), libc::TUN_F_CSUM | TSO & !libc::TUN_F_TSO_ECN);
    }

    #[test]
    fn what_needs_a_switched_off_offload_is_switched_off_with_it() {
        let without = |switches| states(switches, Offloads::NONE, WriteRefusals::default());
        let all = OffloadSwitches::default();
        let no_header = without(OffloadSwitches { vnet_header: false, ..all });
        assert!(no_header.iter().all(|(_, state)| *state == OffloadState::SwitchedOff), "{no_header:?}");
        let no_checksum = without(OffloadSwitches { checksum: false, ..all });
        for offload in [Offload::Checksum, Offload::Tso, Offload::Uso] {
            assert_eq!(state_of(no_checksum, offload), OffloadState::SwitchedOff);
        }
        assert_eq!(state_of(no_checksum, Offload::CoalesceTcp), OffloadState::Unsupported);
    }
}
