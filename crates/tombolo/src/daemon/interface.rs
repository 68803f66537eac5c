//! The overlay interface of the operating system: device, addresses, routes, rules and guard.

use std::net::IpAddr;
use std::path::Path;

use tombolo_engine::queues_for;
use tombolo_tun::guard::{Guard, GuardPlan};
use tombolo_tun::netlink::Netlink;
use tombolo_tun::{Device, DeviceError, DeviceOptions, InterfacePlan};

use super::peers;
use crate::atomic_file;
use crate::cli::{Failure, failed};
use crate::config::{NetworkConfig, OVERHEAD};

/// MTU where the path to some endpoint is not known: Ethernet's, less the tunnel's headers.
const USUAL_MTU: u32 = 1500 - OVERHEAD;

/// Everything that has to stand for the network to be up, and to be safe.
pub(super) struct Interface {
    pub(super) plan: InterfacePlan,
    netlink: Netlink,
    guard: Option<Guard>,
    guard_error: Option<String>,
}

impl Interface {
    /// Prepares the plans; changes nothing yet.
    pub(super) fn open(name: &str, config: &NetworkConfig) -> Result<Self, Failure> {
        let mut netlink = Netlink::open().map_err(failed)?;
        let mtu = match config.interface.mtu {
            Some(mtu) => mtu,
            None => automatic_mtu(&mut netlink, config),
        };
        let plan = InterfacePlan::new(name, config.interface.addresses.clone(), mtu, config.routes());
        let (guard, guard_error) = match Guard::open(&guard_plan(name, config)) {
            Ok(guard) => (Some(guard), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Self { plan, netlink, guard, guard_error })
    }

    /// Makes everything as planned, the guard first. A guard that cannot be set is told by `status`
    /// and does not keep the network down; says whether anything had to be changed.
    pub(super) fn restore(&mut self) -> Result<bool, Failure> {
        let guarded = self.restore_guard();
        let applied = self.plan.apply(&mut self.netlink).map_err(failed)?;
        for change in &applied.changes {
            tracing::debug!("{}: {change}", self.plan.interface);
        }
        Ok(guarded || !applied.changes.is_empty())
    }

    fn restore_guard(&mut self) -> bool {
        let Some(guard) = &mut self.guard else { return false };
        match guard.ensure() {
            Ok(changed) => {
                self.guard_error = None;
                changed
            }
            Err(error) => {
                let message = error.to_string();
                if self.guard_error.as_ref() != Some(&message) {
                    tracing::warn!("{message}");
                }
                self.guard_error = Some(message);
                false
            }
        }
    }

    /// Whether the guard stands now, and why not.
    pub(super) fn guard_state(&mut self) -> (bool, Option<String>) {
        let installed = match &mut self.guard {
            Some(guard) => guard.is_installed().map_err(|error| error.to_string()),
            None => Ok(false),
        };
        match installed {
            Ok(installed) => (installed, self.guard_error.clone()),
            Err(error) => (false, Some(error)),
        }
    }

    /// Packets that the guard dropped.
    pub(super) fn guard_drops(&mut self) -> Option<u64> {
        let counters = self.guard.as_mut()?.counters().ok()?;
        Some(counters.arriving.packets + counters.leaving.packets + counters.arp.packets)
    }

    /// Whether the interface is there and up.
    pub(super) fn is_up(&mut self) -> bool {
        let link = self.netlink.link_by_name(&self.plan.interface);
        link.ok().flatten().is_some_and(|link| link.up)
    }

    /// Takes away guard, rules, routes and the interface: `down --open`.
    pub(super) fn remove(&mut self) -> Result<(), Failure> {
        self.plan.remove(&mut self.netlink).map_err(failed)?;
        self.netlink.delete_link(&self.plan.interface).map_err(failed)?;
        if let Some(guard) = &mut self.guard {
            guard.remove().map_err(failed)?;
        }
        Ok(())
    }
}

fn guard_plan(name: &str, config: &NetworkConfig) -> GuardPlan {
    GuardPlan {
        interface: name.to_owned(),
        overlay: config.overlay(),
        gateway_subnets: config.interface.gateway_subnets.clone(),
        behind_others: config.accepted().to_vec(),
    }
}

/// Opens the device of a network. Before the end of a join it goes with the process, however that ends.
pub(super) fn open_device(name: &str, config: &NetworkConfig) -> Result<Device, DeviceError> {
    Device::open(&DeviceOptions {
        persistent: config.interface.persistent && !config.interface.addresses.is_empty(),
        offloads: config.offload.tun(),
        queues: queues_for(config.interface.threads.workers()),
        ..DeviceOptions::new(name)
    })
}

/// The greatest MTU of the paths to the endpoints, less the tunnel's headers: peers whose path takes less are sent smaller
/// packets. Of a path that is searched it is the device's that counts, since discovery finds out the rest.
fn automatic_mtu(netlink: &mut Netlink, config: &NetworkConfig) -> u32 {
    let mut greatest: Option<u32> = None;
    for peer in &config.peers {
        let address = peer.endpoint.as_ref().and_then(peers::literal);
        let path = address
            .and_then(|address| netlink.path_to(address.ip(), None, config.interface.fwmark).ok().flatten());
        let searched = config.interface.path_mtu_discovery && peer.tombolo;
        let mtu = path.map_or(USUAL_MTU, |path| {
            if searched { path.interface_mtu } else { path.mtu }.saturating_sub(OVERHEAD)
        });
        greatest = greatest.max(Some(mtu));
    }
    let floor = if config.interface.addresses.iter().any(|own| own.addr().is_ipv6()) { 1280 } else { 576 };
    greatest.unwrap_or(USUAL_MTU).clamp(floor, 65_535 - OVERHEAD)
}

/// The name of the interface: the configured one; or the one that this network had before; or the first
/// of tombolo0, tombolo1, … that is free, remembered for the next time.
pub(crate) fn choose_name(config: &NetworkConfig, state_directory: &Path) -> Result<String, Failure> {
    if let Some(name) = &config.interface.name {
        return Ok(name.clone());
    }
    let file = state_directory.join("interface");
    if let Ok(name) = std::fs::read_to_string(&file)
        && crate::config::valid_interface_name(name.trim())
    {
        return Ok(name.trim().to_owned());
    }
    let mut netlink = Netlink::open().map_err(failed)?;
    for number in 0..1000 {
        let name = format!("tombolo{number}");
        let taken = netlink.link_by_name(&name).map_err(failed)?;
        if taken.is_none() {
            if let Err(error) = atomic_file::write(&file, format!("{name}\n").as_bytes(), 0o600) {
                tracing::warn!("{} cannot be written: {error}", file.display());
            }
            return Ok(name);
        }
    }
    Err(Failure::Runtime("there is no free interface name: tombolo0 to tombolo999 are taken".to_owned()))
}

/// Whether a socket can be bound to an address of this machine.
pub(crate) fn is_bindable(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}
