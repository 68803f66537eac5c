//! Network interfaces.

use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};

use super::connection::Refusal;
use super::{Netlink, NetlinkError};

// linux/if_link.h, enum IFLA_TUN_*.
const TUN_TYPE: u16 = 3;
const TUN_PERSIST: u16 = 6;
const TUN_MULTI_QUEUE: u16 = 7;
const TUN_NUM_QUEUES: u16 = 8;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Length of the transmit queue in packets.
    pub transmit_queue_length: u32,
    /// Largest super-packet in bytes, if the kernel says so.
    pub gso_max_size: Option<u32>,
    /// How it was made, if it is a TUN or TAP device.
    pub tun: Option<TunMode>,
    /// What goes into it comes out elsewhere, in other packets: a tunnel of whatever kind.
    pub tunnel: bool,
}

/// How a TUN or TAP device was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TunMode {
    /// It carries Ethernet frames.
    pub tap: bool,
    /// It outlives its descriptors.
    pub persistent: bool,
    /// It takes more than one queue.
    pub multi_queue: bool,
    /// Queues that processes hold open. Known of multi-queue devices only.
    pub queues: u32,
}

/// What to change of an interface; `None` is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkChange {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Length of the transmit queue in packets.
    pub transmit_queue_length: Option<u32>,
    /// Largest super-packet in bytes.
    pub gso_max_size: Option<u32>,
    /// Whether the kernel makes up a link-local IPv6 address, and with it solicits routers.
    pub link_local_address: Option<bool>,
}

impl Netlink {
    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(message).map_err(|refusal| refusal.during(format!("look up interface {name}")))
    }

    /// The interface of this number, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message).map_err(|refusal| refusal.during(format!("look up interface number {index}")))
    }

    fn link(&mut self, mut message: LinkMessage) -> Result<Option<Link>, Refusal> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.connection.route_request(&RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(&link)),
                _ => None,
            })),
            Err(refusal) if refusal.is(libc::ENODEV) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// [`NetlinkError`], with EINVAL for an MTU out of the device's range.
    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(change.transmit_queue_length.map(LinkAttribute::TxQueueLen));
        message.attributes.extend(change.gso_max_size.map(LinkAttribute::GsoMaxSize));
        if let Some(wanted) = change.link_local_address {
            let mode = if wanted { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
            message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(mode),
            ])]));
        }
        self.connection
            .route_request(&RouteNetlinkMessage::SetLink(message), 0)
            .map(|_| ())
            .map_err(|refusal| refusal.during(format!("change interface number {index} ({change:?})")))
    }

    /// Deletes an interface, and with it its addresses and routes. `false`: there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.connection.route_request(&RouteNetlinkMessage::DelLink(message), 0) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(libc::ENODEV) => Ok(false),
            Err(refusal) => Err(refusal.during(format!("delete interface {name}"))),
        }
    }
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            transmit_queue_length: 0,
            gso_max_size: None,
            tun: None,
            tunnel: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::TxQueueLen(length) => link.transmit_queue_length = *length,
                LinkAttribute::GsoMaxSize(size) => link.gso_max_size = Some(*size),
                LinkAttribute::LinkInfo(infos) => {
                    link.tun = TunMode::from_infos(infos);
                    link.tunnel = infos.iter().any(is_tunnel);
                }
                _ => {}
            }
        }
        link
    }
}

fn is_tunnel(info: &LinkInfo) -> bool {
    let LinkInfo::Kind(kind) = info else { return false };
    matches!(
        kind,
        InfoKind::Tun
            | InfoKind::Wireguard
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
            | InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::Gtp
    )
}

impl TunMode {
    fn from_infos(infos: &[LinkInfo]) -> Option<Self> {
        infos.iter().find(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun)))?;
        let mut mode = Self::default();
        let attributes = infos.iter().filter_map(|info| match info {
            LinkInfo::Data(InfoData::Tun(attributes)) => Some(attributes),
            _ => None,
        });
        for attribute in attributes.flatten() {
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            let byte = value.first().copied().unwrap_or_default();
            match attribute.kind() {
                TUN_TYPE => mode.tap = i32::from(byte) == libc::IFF_TAP,
                TUN_PERSIST => mode.persistent = byte != 0,
                TUN_MULTI_QUEUE => mode.multi_queue = byte != 0,
                TUN_NUM_QUEUES => {
                    mode.queues = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                }
                _ => {}
            }
        }
        Some(mode)
    }
}
