//! Policy routing rules.

use ipnet::IpNet;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::connection::{CREATE, DUMP, EXCLUSIVE};
use super::route::PROTOCOL;
use super::{Netlink, NetlinkError, family_of, without_host_bits};

/// A rule that sends packets to a network to a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Rules with a smaller number are tried earlier.
    pub priority: u32,
    /// Destination.
    pub to: IpNet,
    /// Table to look in.
    pub table: u32,
}

impl Netlink {
    /// The rules of both families that choose a table by destination alone.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers = self
                .connection
                .route_request(&RouteNetlinkMessage::GetRule(message), DUMP)
                .map_err(|refusal| refusal.during("list routing rules"))?;
            rules.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => rule_of(message),
                _ => None,
            }));
        }
        Ok(rules)
    }

    /// Adds a rule. `false`: it was there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::NewRule(message_for(rule));
        match self.connection.route_request(&request, CREATE | EXCLUSIVE) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(libc::EEXIST) => Ok(false),
            Err(refusal) => Err(refusal.during(format!("add the routing rule for {}", rule.to))),
        }
    }

    /// Removes a rule. `false`: there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelRule(message_for(rule));
        match self.connection.route_request(&request, 0) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(libc::ENOENT) => Ok(false),
            Err(refusal) => Err(refusal.during(format!("remove the routing rule for {}", rule.to))),
        }
    }
}

fn message_for(rule: &Rule) -> RuleMessage {
    let to = without_host_bits(rule.to);
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: family_of(to.addr()),
        dst_len: to.prefix_len(),
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL));
    if to.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Destination(to.addr()));
    }
    message
}

/// A rule with any further condition is not one of ours: it would not hold every packet.
fn rule_of(message: &RuleMessage) -> Option<Rule> {
    if message.header.action != RuleAction::ToTable
        || message.header.src_len != 0
        || message.header.tos != 0
        || !message.header.flags.is_empty()
    {
        return None;
    }
    let mut priority = 0;
    let mut to = None;
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Destination(address) => to = Some(*address),
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::L3MDev(true) => return None,
            // A suppressed default route (wg-quick's rule) lets packets through to the next rule.
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => return None,
            _ => {}
        }
    }
    let unspecified = match message.header.family {
        AddressFamily::Inet => std::net::IpAddr::from([0_u8; 4]),
        AddressFamily::Inet6 => std::net::IpAddr::from([0_u8; 16]),
        _ => return None,
    };
    let to = IpNet::new(to.unwrap_or(unspecified), message.header.dst_len).ok()?;
    Some(Rule { priority, to, table })
}
