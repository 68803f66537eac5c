//! The guard: packet filters that keep overlay packets inside the tunnel, whether the daemon runs
//! or not.
//!
//! A Linux host answers for each of its addresses on every interface, so a neighbour on the same
//! Ethernet reaches a server that is "bound to the overlay address only" by routing that
//! address to the host, at any setting of `rp_filter`. The guard drops, before routing and before
//! connections are tracked, what has an overlay source or destination and arrived neither on
//! loopback nor on the overlay interface; and what would leave by any other interface, where
//! routing rules of others (a pushed route, another VPN) should have sent it there. It also
//! leaves questions for the hardware address of an overlay address unanswered.
//!
//! A packet to one's own overlay address travels over loopback and passes; so does what a hub
//! forwards from the overlay interface back to it. On a gateway, packets between the overlay and
//! the declared subnets behind it pass too, but only forwarded ones: the gateway's own overlay
//! address is as closed there as everywhere.
//!
//! What lies behind gateways elsewhere and is reached through the tunnel is kept to it in the same way: nothing for such a
//! subnet leaves by another interface, and nothing that claims to be from it arrives by one.
//!
//! It is one nf_tables table for each interface, replaced in one transaction, that belongs to no
//! process: it outlives stop and crash, until [`Guard::remove`].

mod message;

use ipnet::IpNet;

use crate::netlink::NetlinkError;
use crate::netlink::connection::{ACK, APPEND, CREATE, Connection, DUMP, REQUEST, Refusal, encode, messages};
use message::{Chain, Condition, Family, Hook, ListedChain, ListedRule, Rule, Verdict};

/// Earlier than any filter of others: before fragments are put together (−400), raw (−300) and
/// connection tracking (−200).
const PRIORITY: i32 = -450;

/// What to guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardPlan {
    /// Name of the overlay interface, which need not exist.
    pub interface: String,
    /// The overlay's networks.
    pub overlay: Vec<IpNet>,
    /// Of a gateway: the subnets behind it that it declared. Packets between them and the overlay
    /// are forwarded.
    pub gateway_subnets: Vec<IpNet>,
    /// Subnets behind other machines of the overlay, which are reached through the interface only. This machine has no
    /// address in them.
    pub behind_others: Vec<IpNet>,
}

/// Why the guard could not be set or seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The process may not change packet filters.
    #[error(
        "not permitted to set the guard (packet filters): run as root, or grant CAP_NET_ADMIN; until then neighbours may reach overlay addresses in clear"
    )]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error(
        "this kernel has no nf_tables, which the guard needs: load the module (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET; until then neighbours may reach overlay addresses in clear"
    )]
    Unsupported,
    /// The name cannot be the name of an interface, so no packet would ever be told to be inside.
    #[error(
        "{name:?} cannot be an interface name: use 1 to 15 characters without spaces, slashes, colons or percent signs"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The kernel refused in a way that has no mend of its own.
    #[error(transparent)]
    Netlink(NetlinkError),
}

impl GuardError {
    fn of(refusal: Refusal, action: &'static str) -> Self {
        match refusal.source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Self::Unsupported,
            _ => Self::Netlink(refusal.during(action)),
        }
    }
}

/// Packets that the guard dropped since it was installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GuardCounters {
    /// Arrived on another interface than the overlay's, or for a gateway's own address.
    pub arriving: Dropped,
    /// Would have left by another interface.
    pub leaving: Dropped,
    /// Asked for the hardware address of an overlay address.
    pub arp: Dropped,
}

/// How much was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, from the network header on.
    pub bytes: u64,
}

/// The guard of one overlay interface, in the network namespace of the thread that opened it.
pub struct Guard {
    table: String,
    chains: Vec<Chain>,
    arp_chains: Vec<Chain>,
    connection: Connection,
}

impl Guard {
    /// Prepares the guard; changes nothing yet.
    ///
    /// # Errors
    /// [`GuardError::BadName`], [`GuardError::Unsupported`], or those of socket(2).
    pub fn open(plan: &GuardPlan) -> Result<Self, GuardError> {
        crate::device::check_name(&plan.interface)
            .map_err(|_| GuardError::BadName { name: plan.interface.clone() })?;
        let connection = Connection::open(netlink_sys::protocols::NETLINK_NETFILTER)
            .map_err(|error| GuardError::of(error.into(), "open a netfilter socket"))?;
        Ok(Self {
            table: table_name(&plan.interface),
            chains: chains(plan),
            arp_chains: arp_chains(plan),
            connection,
        })
    }

    /// Name of the table in `nft list ruleset`, families `inet` and `arp`.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Sets the guard, in place of an older one, without a moment between. Counters start at 0.
    ///
    /// # Errors
    /// [`GuardError`]; then the older one stands.
    pub fn install(&mut self) -> Result<(), GuardError> {
        self.replace(Family::Inet, self.chains.clone())?;
        if self.arp_chains.is_empty() {
            return self.delete(Family::Arp).map(|_| ());
        }
        match self.replace(Family::Arp, self.arp_chains.clone()) {
            Ok(()) => Ok(()),
            // ARP alone may be missing from a kernel. Its answers give away that an address is
            // here, and nothing else.
            Err(GuardError::Unsupported | GuardError::Netlink(_)) => {
                self.arp_chains.clear();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sets the guard unless it stands as planned; `true` if it had to be set.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn ensure(&mut self) -> Result<bool, GuardError> {
        if self.is_installed()? {
            return Ok(false);
        }
        self.install()?;
        Ok(true)
    }

    /// Whether the guard stands as planned: every chain in its place, every rule in order, and
    /// none between.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn is_installed(&mut self) -> Result<bool, GuardError> {
        Ok(self.stands(Family::Inet, &self.chains.clone())?
            && (self.arp_chains.is_empty() || self.stands(Family::Arp, &self.arp_chains.clone())?))
    }

    /// What the guard dropped; all zero when it is not installed.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn counters(&mut self) -> Result<GuardCounters, GuardError> {
        let mut counters = GuardCounters::default();
        for family in [Family::Inet, Family::Arp] {
            for rule in self.rules(family)? {
                let sum = match (family, rule.chain.as_str()) {
                    (Family::Inet, "arriving" | "delivering") => &mut counters.arriving,
                    (Family::Inet, "leaving") => &mut counters.leaving,
                    (Family::Arp, _) => &mut counters.arp,
                    _ => continue,
                };
                sum.packets += rule.packets;
                sum.bytes += rule.bytes;
            }
        }
        Ok(counters)
    }

    /// Takes the guard away; `false` if there was none.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn remove(&mut self) -> Result<bool, GuardError> {
        let removed = self.delete(Family::Inet)?;
        Ok(self.delete(Family::Arp)? || removed)
    }

    fn replace(&mut self, family: Family, chains: Vec<Chain>) -> Result<(), GuardError> {
        let table = self.table.clone();
        // Made first, so that there is one to delete.
        let mut batch = vec![
            (message::NEW_TABLE, CREATE, message::new_table(family, &table)),
            (message::DELETE_TABLE, 0, message::table(family, &table)),
            (message::NEW_TABLE, CREATE, message::new_table(family, &table)),
        ];
        for chain in &chains {
            batch.push((message::NEW_CHAIN, CREATE, chain.message(family, &table)));
            for rule in &chain.rules {
                let rule = rule.message(family, &table, chain.name);
                batch.push((message::NEW_RULE, CREATE | APPEND, rule));
            }
        }
        self.transact(&batch).map_err(|refusal| GuardError::of(refusal, "set the guard"))
    }

    fn delete(&mut self, family: Family) -> Result<bool, GuardError> {
        let batch = [(message::DELETE_TABLE, 0, message::table(family, &self.table))];
        match self.transact(&batch) {
            Ok(()) => Ok(true),
            Err(refusal)
                if refusal.is(libc::ENOENT) || (family == Family::Arp && refusal.is(libc::EAFNOSUPPORT)) =>
            {
                Ok(false)
            }
            Err(refusal) => Err(GuardError::of(refusal, "remove the guard")),
        }
    }

    /// All of the messages, or none. The kernel deals with a batch before `send` returns.
    fn transact(&mut self, batch: &[(u16, u16, Vec<u8>)]) -> Result<(), Refusal> {
        let first = self.connection.next_sequence();
        let mut bytes = encode(message::BATCH_BEGIN, REQUEST, first, &message::batch_mark());
        let mut last = first;
        for (at, (kind, flags, payload)) in batch.iter().enumerate() {
            last = self.connection.next_sequence();
            let acknowledge = if at + 1 == batch.len() { ACK } else { 0 };
            bytes.extend(encode(*kind, REQUEST | flags | acknowledge, last, payload));
        }
        let end = self.connection.next_sequence();
        bytes.extend(encode(message::BATCH_END, REQUEST, end, &message::batch_mark()));
        self.connection.send(&bytes)?;
        let ours = first..=end;
        loop {
            for answer in messages(self.connection.receive()?) {
                if i32::from(answer.kind) != libc::NLMSG_ERROR || !ours.contains(&answer.sequence) {
                    continue;
                }
                // What failed is told before the last message's acknowledgement.
                match Refusal::parse(&answer) {
                    Some(refusal) => return Err(refusal),
                    None if answer.sequence == last => return Ok(()),
                    None => {}
                }
            }
        }
    }

    fn stands(&mut self, family: Family, chains: &[Chain]) -> Result<bool, GuardError> {
        let failed = |refusal| GuardError::of(refusal, "look whether the guard stands");
        let table = message::table(family, &self.table);
        match self.connection.request(message::GET_TABLE, 0, &table) {
            Ok(answers) => {
                let in_force = answers
                    .iter()
                    .find_map(|(_, payload)| message::table_flags(payload))
                    .is_none_or(|flags| flags == 0);
                if !in_force {
                    return Ok(false);
                }
            }
            Err(refusal) if refusal.is(libc::ENOENT) => return Ok(false),
            Err(refusal) => return Err(failed(refusal)),
        }
        let listed: Vec<ListedChain> = self
            .connection
            .request(message::GET_CHAIN, DUMP, &message::prefix(family))
            .map_err(failed)?
            .iter()
            .filter_map(|(_, payload)| ListedChain::parse(payload))
            .filter(|chain| chain.table == self.table)
            .collect();
        let same_chains = listed.len() == chains.len()
            && chains.iter().all(|chain| listed.iter().any(|listed| chain.is(listed)));
        let rules = self.rules(family)?;
        Ok(same_chains
            && chains.iter().all(|chain| {
                let wanted = chain.rules.iter().map(|rule| Some(rule.comment()));
                rules
                    .iter()
                    .filter(|rule| rule.chain == chain.name)
                    .map(|rule| rule.comment.clone())
                    .eq(wanted)
            }))
    }

    fn rules(&mut self, family: Family) -> Result<Vec<ListedRule>, GuardError> {
        let request = message::rules_of(family, &self.table);
        let answers = match self.connection.request(message::GET_RULE, DUMP, &request) {
            Ok(answers) => answers,
            Err(refusal) if refusal.is(libc::ENOENT) => Vec::new(),
            Err(refusal) => return Err(GuardError::of(refusal, "read the guard's rules")),
        };
        Ok(answers
            .iter()
            .filter_map(|(_, payload)| ListedRule::parse(payload))
            .filter(|rule| rule.table == self.table)
            .collect())
    }
}

/// The name of an interface's table.
#[must_use]
fn table_name(interface: &str) -> String {
    format!("tombolo_{interface}")
}

fn pass(conditions: Vec<Condition>) -> Rule {
    Rule { conditions, verdict: Verdict::Pass }
}

fn drop(condition: Condition) -> Rule {
    Rule { conditions: vec![condition], verdict: Verdict::Drop }
}

fn chains(plan: &GuardPlan) -> Vec<Chain> {
    let overlay: Vec<IpNet> = plan.overlay.iter().map(IpNet::trunc).collect();
    let inside = |condition: fn(String) -> Condition| {
        vec![pass(vec![condition("lo".to_owned())]), pass(vec![condition(plan.interface.clone())])]
    };
    // Pairs of a declared subnet and an overlay network of the same family.
    let gateway: Vec<(IpNet, IpNet)> = plan
        .gateway_subnets
        .iter()
        .flat_map(|subnet| overlay.iter().map(|network| (subnet.trunc(), *network)))
        .filter(|(subnet, network)| subnet.addr().is_ipv4() == network.addr().is_ipv4())
        .collect();
    let either = |network: &IpNet| [drop(Condition::To(*network)), drop(Condition::From(*network))];

    let mut arriving = inside(Condition::InInterface);
    arriving.extend(
        gateway.iter().map(|(subnet, network)| pass(vec![Condition::From(*subnet), Condition::To(*network)])),
    );
    arriving.extend(overlay.iter().flat_map(either));
    let behind_others = plan.behind_others.iter().map(IpNet::trunc);
    arriving.extend(behind_others.clone().map(|subnet| drop(Condition::From(subnet))));

    let mut leaving = inside(Condition::OutInterface);
    leaving.extend(
        gateway.iter().map(|(subnet, network)| pass(vec![Condition::From(*network), Condition::To(*subnet)])),
    );
    leaving.extend(overlay.iter().flat_map(either));
    leaving.extend(behind_others.map(|subnet| drop(Condition::To(subnet))));

    let mut chains = vec![
        Chain { name: "arriving", hook: Hook::Arriving, priority: PRIORITY, rules: arriving },
        Chain { name: "leaving", hook: Hook::Leaving, priority: PRIORITY, rules: leaving },
    ];
    if !gateway.is_empty() {
        // What a declared subnet sends passes the first chain, and may be forwarded; to the
        // gateway itself it may not be delivered.
        let mut delivering = inside(Condition::InInterface);
        delivering.extend(overlay.iter().map(|network| drop(Condition::To(*network))));
        chains.push(Chain {
            name: "delivering",
            hook: Hook::Delivering,
            priority: PRIORITY,
            rules: delivering,
        });
    }
    chains
}

fn arp_chains(plan: &GuardPlan) -> Vec<Chain> {
    let overlay = plan.overlay.iter().filter(|network| network.addr().is_ipv4());
    let drops: Vec<Rule> = overlay.map(|network| drop(Condition::ArpTarget(network.trunc()))).collect();
    if drops.is_empty() {
        return Vec::new();
    }
    let mut rules = vec![pass(vec![Condition::InInterface(plan.interface.clone())])];
    rules.extend(drops);
    vec![Chain { name: "arriving", hook: Hook::ArpArriving, priority: PRIORITY, rules }]
}
