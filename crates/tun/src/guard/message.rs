//! Messages of nf_tables (linux/netfilter/nf_tables.h): tables, chains, and rules made of the few
//! expressions that the guard needs.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::attribute::{find, iterate, push, push_nested, push_text, push_u32};

/// Message numbers carry the subsystem in their upper byte.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
pub(super) const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
pub(super) const GET_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_GETTABLE as u16;
pub(super) const DELETE_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_GETCHAIN as u16;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
pub(super) const GET_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_GETRULE as u16;
pub(super) const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
pub(super) const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// Registers: the verdict, and the first of those that hold 16 bytes.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const NETWORK_HEADER: u32 = 1;
const EQUAL: u32 = 0;

/// A comment in the user data of a rule, as the `nft` program writes and shows it: type 0, the
/// length, the text with its terminating zero.
const COMMENT: u8 = 0;

/// Families of tables (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6.
    Inet,
    Arp,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Arp => 3,
        }
    }
}

/// Where in the path of a packet a chain is called (`NF_INET_*`, `NF_ARP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Arriving,
    Delivering,
    Leaving,
    ArpArriving,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Arriving | Self::ArpArriving => 0,
            Self::Delivering => 1,
            Self::Leaving => 4,
        }
    }
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    InInterface(String),
    OutInterface(String),
    From(IpNet),
    To(IpNet),
    /// An ARP request or answer that is about an address of this IPv4 network.
    ArpTarget(IpNet),
}

/// What becomes of a packet that meets all conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No further rule of this chain sees it; other chains do.
    Pass,
    /// Counted, and gone.
    Drop,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) rules: Vec<Rule>,
}

/// The header after the netlink header (`struct nfgenmsg`).
pub(super) fn prefix(family: Family) -> Vec<u8> {
    vec![family.number(), 0, 0, 0]
}

/// The payload of the messages around a batch.
pub(super) fn batch_mark() -> Vec<u8> {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    vec![libc::AF_UNSPEC as u8, 0, subsystem[0], subsystem[1]]
}

pub(super) fn table(family: Family, name: &str) -> Vec<u8> {
    let mut bytes = prefix(family);
    push_text(&mut bytes, TABLE_NAME, name);
    bytes
}

pub(super) fn new_table(family: Family, name: &str) -> Vec<u8> {
    let mut bytes = table(family, name);
    push_u32(&mut bytes, TABLE_FLAGS, 0);
    bytes
}

pub(super) fn rules_of(family: Family, table: &str) -> Vec<u8> {
    let mut bytes = prefix(family);
    push_text(&mut bytes, RULE_TABLE, table);
    bytes
}

impl Chain {
    pub(super) fn message(&self, family: Family, table: &str) -> Vec<u8> {
        let mut bytes = prefix(family);
        push_text(&mut bytes, CHAIN_TABLE, table);
        push_text(&mut bytes, CHAIN_NAME, self.name);
        push_nested(&mut bytes, CHAIN_HOOK, |hook| {
            push_u32(hook, HOOK_NUMBER, self.hook.number());
            push_u32(hook, HOOK_PRIORITY, self.priority.cast_unsigned());
        });
        push_u32(&mut bytes, CHAIN_POLICY, ACCEPT);
        push_text(&mut bytes, CHAIN_TYPE, "filter");
        bytes
    }

    /// Whether a chain of the kernel is this one.
    pub(super) fn is(&self, listed: &ListedChain) -> bool {
        listed.name == self.name
            && listed.hook == Some(self.hook.number())
            && listed.priority == Some(self.priority)
            && listed.policy == Some(ACCEPT)
    }
}

impl Rule {
    pub(super) fn message(&self, family: Family, table: &str, chain: &str) -> Vec<u8> {
        let mut bytes = prefix(family);
        push_text(&mut bytes, RULE_TABLE, table);
        push_text(&mut bytes, RULE_CHAIN, chain);
        push_nested(&mut bytes, RULE_EXPRESSIONS, |list| {
            for condition in &self.conditions {
                condition.push(list);
            }
            if self.verdict == Verdict::Drop {
                push_expression(list, "counter", |data| {
                    push(data, COUNTER_BYTES, &[0; 8]);
                    push(data, COUNTER_PACKETS, &[0; 8]);
                });
            }
            push_expression(list, "immediate", |data| {
                push_u32(data, 1, VERDICT);
                push_nested(data, 2, |value| {
                    push_nested(value, 2, |verdict| {
                        push_u32(
                            verdict,
                            1,
                            match self.verdict {
                                Verdict::Pass => ACCEPT,
                                Verdict::Drop => DROP,
                            },
                        );
                    });
                });
            });
        });
        let mut comment = self.comment().into_bytes();
        comment.push(0);
        // Two IPv6 networks and a few words: the length fits its byte.
        let mut user_data = vec![COMMENT, comment.len() as u8];
        user_data.append(&mut comment);
        push(&mut bytes, RULE_USER_DATA, &user_data);
        bytes
    }

    /// Says in the rule itself what it is for, and lets it be known again: two rules with the
    /// same comment are the same rule.
    pub(super) fn comment(&self) -> String {
        let mut text = match self.verdict {
            Verdict::Pass => String::from("pass"),
            Verdict::Drop => String::from("drop"),
        };
        for condition in &self.conditions {
            match condition {
                Condition::InInterface(name) => text.push_str(&format!(" in {name}")),
                Condition::OutInterface(name) => text.push_str(&format!(" out {name}")),
                Condition::From(network) => text.push_str(&format!(" from {network}")),
                Condition::To(network) => text.push_str(&format!(" to {network}")),
                Condition::ArpTarget(network) => text.push_str(&format!(" arp {network}")),
            }
        }
        text
    }
}

impl Condition {
    fn push(&self, list: &mut Vec<u8>) {
        match self {
            Self::InInterface(name) => push_interface(list, META_IIFNAME, name),
            Self::OutInterface(name) => push_interface(list, META_OIFNAME, name),
            Self::From(network) => {
                push_family(list, *network);
                push_network(list, *network, if network.addr().is_ipv4() { 12 } else { 8 });
            }
            Self::To(network) => {
                push_family(list, *network);
                push_network(list, *network, if network.addr().is_ipv4() { 16 } else { 24 });
            }
            // Hardware type, protocol type, lengths, operation, then sender and target, for
            // Ethernet and IPv4 (RFC 826).
            Self::ArpTarget(network) => push_network(list, *network, 24),
        }
    }
}

fn push_expression(list: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    push_nested(list, LIST_ELEMENT, |element| {
        push_text(element, EXPRESSION_NAME, name);
        push_nested(element, EXPRESSION_DATA, fill);
    });
}

fn push_meta(list: &mut Vec<u8>, key: u32) {
    push_expression(list, "meta", |data| {
        push_u32(data, 1, REGISTER);
        push_u32(data, 2, key);
    });
}

fn push_compare(list: &mut Vec<u8>, value: &[u8]) {
    push_expression(list, "cmp", |data| {
        push_u32(data, 1, REGISTER);
        push_u32(data, 2, EQUAL);
        push_nested(data, 3, |operand| push(operand, 1, value));
    });
}

fn push_interface(list: &mut Vec<u8>, key: u32, name: &str) {
    let mut padded = [0; libc::IFNAMSIZ];
    for (target, byte) in padded.iter_mut().zip(name.bytes()) {
        *target = byte;
    }
    push_meta(list, key);
    push_compare(list, &padded);
}

fn push_family(list: &mut Vec<u8>, network: IpNet) {
    push_meta(list, META_NFPROTO);
    // NFPROTO_IPV4 and NFPROTO_IPV6.
    push_compare(list, &[if network.addr().is_ipv4() { 2 } else { 10 }]);
}

fn push_network(list: &mut Vec<u8>, network: IpNet, offset: u32) {
    let (address, mask) = (octets(network.network()), octets(network.netmask()));
    // 4 or 16.
    let length = address.len() as u32;
    push_expression(list, "payload", |data| {
        push_u32(data, 1, REGISTER);
        push_u32(data, 2, NETWORK_HEADER);
        push_u32(data, 3, offset);
        push_u32(data, 4, length);
    });
    push_expression(list, "bitwise", |data| {
        push_u32(data, 1, REGISTER);
        push_u32(data, 2, REGISTER);
        push_u32(data, 3, length);
        push_nested(data, 4, |operand| push(operand, 1, &mask));
        push_nested(data, 5, |operand| push(operand, 1, &vec![0; mask.len()]));
    });
    push_compare(list, &address);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A chain as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedChain {
    pub(super) table: String,
    pub(super) name: String,
    hook: Option<u32>,
    priority: Option<i32>,
    policy: Option<u32>,
}

impl ListedChain {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(4..)?;
        let hook = find(attributes, CHAIN_HOOK).unwrap_or_default();
        Some(Self {
            table: text(find(attributes, CHAIN_TABLE)?),
            name: text(find(attributes, CHAIN_NAME)?),
            hook: number(hook, HOOK_NUMBER),
            priority: number(hook, HOOK_PRIORITY).map(u32::cast_signed),
            policy: number(attributes, CHAIN_POLICY),
        })
    }
}

/// A rule as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedRule {
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) comment: Option<String>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl ListedRule {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(4..)?;
        let mut rule = Self {
            table: text(find(attributes, RULE_TABLE)?),
            chain: text(find(attributes, RULE_CHAIN)?),
            comment: find(attributes, RULE_USER_DATA).and_then(comment),
            packets: 0,
            bytes: 0,
        };
        let expressions = find(attributes, RULE_EXPRESSIONS).unwrap_or_default();
        for (_, expression) in iterate(expressions) {
            if find(expression, EXPRESSION_NAME).is_some_and(|name| text(name) == "counter") {
                let data = find(expression, EXPRESSION_DATA).unwrap_or_default();
                let wide = |kind| {
                    find(data, kind)
                        .and_then(<[u8]>::first_chunk)
                        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
                };
                rule.packets = rule.packets.saturating_add(wide(COUNTER_PACKETS));
                rule.bytes = rule.bytes.saturating_add(wide(COUNTER_BYTES));
            }
        }
        Some(rule)
    }
}

/// The flags of a table as the kernel lists it: not zero is one that is not in force.
pub(super) fn table_flags(payload: &[u8]) -> Option<u32> {
    number(payload.get(4..)?, TABLE_FLAGS)
}

fn comment(mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        user_data = &rest[value.len()..];
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::connection::any_payloads;

    #[test]
    fn no_list_of_the_kernel_panics() {
        for mut payload in any_payloads() {
            let _ = (ListedChain::parse(&payload), table_flags(&payload), comment(&payload));
            // With the attributes that are wanted, so that the rest is looked at.
            let mut rule = vec![0; 4];
            push_text(&mut rule, RULE_TABLE, "tombolo");
            push_text(&mut rule, RULE_CHAIN, "input");
            push(&mut rule, RULE_USER_DATA, &payload);
            push_nested(&mut rule, RULE_EXPRESSIONS, |list| {
                push_expression(list, "counter", |data| data.append(&mut payload));
            });
            assert!(ListedRule::parse(&rule).is_some());
        }
    }
}
