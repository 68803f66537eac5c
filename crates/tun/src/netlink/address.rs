//! Addresses of interfaces.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};

use super::connection::{CREATE, DUMP, EXCLUSIVE, Refusal};
use super::{Netlink, NetlinkError, family_of};

impl Netlink {
    /// The addresses of an interface, of both families, link-local ones included.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let answers = self
            .connection
            .route_request(&RouteNetlinkMessage::GetAddress(message), DUMP)
            .map_err(|refusal| refusal.during("list addresses"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                    address_of(message)
                }
                _ => None,
            })
            .collect())
    }

    /// The addresses of all interfaces with the numbers of these, of both families, link-local ones included.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let answers = self
            .connection
            .route_request(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), DUMP)
            .map_err(|refusal| refusal.during("list addresses"))?;
        let address = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some((message.header.index, address_of(message)?)),
            _ => None,
        };
        Ok(answers.iter().filter_map(address).collect())
    }

    /// Gives an interface an address, bindable at once, without a route to its prefix: routes
    /// are the plan's. `false`: it had it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<bool, NetlinkError> {
        let mut message = message_for(index, address);
        // Duplicate address detection would wait for neighbours that a tunnel has not.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        let request = RouteNetlinkMessage::NewAddress(message);
        match self.connection.route_request(&request, CREATE | EXCLUSIVE) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(libc::EEXIST) => Ok(false),
            Err(refusal) => Err(refusal.during(format!("add address {address}"))),
        }
    }

    /// Takes an address from an interface. `false`: it did not have it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelAddress(message_for(index, address));
        match self.connection.route_request(&request, 0) {
            Ok(_) => Ok(true),
            Err(refusal) if is_absent(&refusal) => Ok(false),
            Err(refusal) => Err(refusal.during(format!("remove address {address}"))),
        }
    }
}

fn is_absent(refusal: &Refusal) -> bool {
    refusal.is(libc::EADDRNOTAVAIL) || refusal.is(libc::ENODEV)
}

fn message_for(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

/// Of a point-to-point address, `Local` is ours and `Address` the other end's; IPv6 has
/// `Address` alone.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}
