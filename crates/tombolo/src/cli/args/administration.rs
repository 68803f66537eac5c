//! What administrators can type.

use std::time::Duration;

use clap::{Args, Subcommand};

/// `token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it.
    #[command(
        long_about = "Make a token and print it on standard output; its short form, for `token revoke`, is printed on standard \
                      error. Nothing of it is kept here but what proves it.",
        after_long_help = "Examples:\n  tombolo token new\n  tombolo token new --name db-3 --expires 24h\n  \
                           tombolo token new --uses 20 --ephemeral 1h     for containers that come and go\n  \
                           tombolo token new --role lighthouse,relay      for a further server"
    )]
    New(TokenArgs),
    /// List tokens.
    List(ListArgs),
    /// Make a token worthless. Who has joined with it stays.
    #[command(after_long_help = "Example:\n  tombolo token revoke 0f2aac540984f565")]
    Revoke {
        /// Its short form, as `token list` shows it.
        token: String,
    },
}

/// Arguments of `token new` and `node replace`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// For how long it is good; an hour where nothing is said.
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub expires: Option<Duration>,
    /// How many machines may join with it; one where nothing is said.
    #[arg(long, value_name = "N")]
    pub uses: Option<u32>,
    /// The name that the machine gets.
    #[arg(long, value_name = "NODE")]
    pub name: Option<String>,
    /// A group that the machine gets; may be given several times.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// The group may be one of administrators.
    #[arg(long)]
    pub admin: bool,
    /// What the machine does for others: `lighthouse`, `relay`, `gateway`, separated by commas.
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<String>,
    /// The machine comes and goes: it is forgotten when it was not seen for so long.
    /// An hour where no time is given.
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration, num_args = 0..=1, default_missing_value = "1h")]
    pub ephemeral: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of lists.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes.
    List(ListArgs),
    /// All about one node.
    Show {
        /// Its name, or its id.
        node: String,
        /// Print the wg-quick file of a stock WireGuard peer, without its private key.
        #[arg(long)]
        wg_quick: bool,
        /// How the file is made and printed.
        #[command(flatten)]
        wireguard: WireGuardArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a stock WireGuard peer a member: a phone, say, or a machine with WireGuard's own program.
    #[command(
        long_about = "Make a stock WireGuard peer a member of the network, and print its wg-quick file. It has one tunnel, with the \
                      server or with the gateway that --gateway names; that one brings its packets on, so that it reaches all \
                      members, and all members reach it by name and address.",
        after_long_help = "Examples:\n  tombolo node add phone --generate-key --qr          for an app that scans\n  \
                           tombolo node add laptop --pubkey KEY > laptop.conf  the key stays on the laptop\n  \
                           tombolo node add plc-7 --pubkey KEY --gateway site-7"
    )]
    Add(NodeAddArgs),
    /// Put a node into groups, or take it out; give it roles and routes, or take them.
    #[command(after_long_help = "Examples:\n  tombolo node set db-1 --group databases\n  \
                           tombolo node set ada --group staff --admin    ada administers from her machine\n  \
                           tombolo node set site-7 --role gateway")]
    Set(NodeSetArgs),
    /// Make a token with which another machine, or another key, takes the place of a node.
    #[command(
        after_long_help = "Example:\n  tombolo node replace db-3     then, on the new machine: tombolo join"
    )]
    Replace {
        /// Its name, or its id.
        node: String,
        /// How long the token is good, and so on.
        #[command(flatten)]
        token: TokenArgs,
    },
    /// Put a node out: its tunnels are cut, at the server at once, elsewhere with the document that follows.
    #[command(after_long_help = "Example:\n  tombolo node revoke ada-laptop")]
    Revoke {
        /// Its name, or its id.
        node: String,
    },
    /// Give a node another name.
    #[command(after_long_help = "Example:\n  tombolo node rename db-3 db-4")]
    Rename {
        /// Its name, or its id.
        node: String,
        /// The new name.
        name: String,
    },
}

/// `network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// What holds in the network.
    Show(ListArgs),
    /// Lighthouses and relays beside the first server.
    #[command(subcommand)]
    Server(NetworkServerCommand),
    /// Change what holds in the network: groups, who administers, how long memberships live, routes.
    #[command(after_long_help = "Examples:\n  tombolo network set --group databases\n  \
                           tombolo network set --group staff --admin-group staff\n  \
                           tombolo network set --lifetime 7d --grace 14d")]
    Set(NetworkSetArgs),
}

/// `network server …`
#[derive(Debug, Subcommand)]
pub enum NetworkServerCommand {
    /// Have all members use a node as lighthouse and relay, by the roles that its token gave it.
    #[command(
        after_long_help = "Example:\n  tombolo network server add relay-2 --endpoint relay-2.example.net"
    )]
    Add {
        /// Its name, or its id.
        node: String,
        /// Where it is found; may be given several times.
        #[arg(long, value_name = "HOST[:PORT]", required = true)]
        endpoint: Vec<String>,
    },
    /// Have no member use it any more.
    Remove {
        /// Its name, or its id.
        node: String,
    },
}

/// Arguments of `network set`. What is removed, is removed first.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct NetworkSetArgs {
    /// A group that nodes may be in; may be given several times.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// No group any more.
    #[arg(long, value_name = "GROUP")]
    pub remove_group: Vec<String>,
    /// Members of this group administer the network from their own machines.
    #[arg(long, value_name = "GROUP")]
    pub admin_group: Vec<String>,
    /// They do so no more.
    #[arg(long, value_name = "GROUP")]
    pub remove_admin_group: Vec<String>,
    /// How long a membership lives, ten seconds to 90 days; it is renewed daily, or thrice in its life where that is more often.
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub lifetime: Option<Duration>,
    /// For how long known peers go on when a membership could not be renewed, at most 90 days.
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub grace: Option<Duration>,
    /// Whether nodes refuse new peers while their network document is stale.
    #[arg(long, value_name = "yes|no", value_parser = parse_yes)]
    pub refuse_when_stale: Option<bool>,
    /// How old the static keys of nodes get, an hour to 3650 days; a machine may change its own sooner.
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub rotate_keys: Option<Duration>,
    /// A subnet behind the nodes that --gateway names.
    #[arg(long, value_name = "PREFIX", requires = "gateway")]
    pub route: Option<ipnet::IpNet>,
    /// A gateway of --route; may be given several times.
    #[arg(long, value_name = "NODE", requires = "route")]
    pub gateway: Vec<String>,
    /// No such subnet any more.
    #[arg(long, value_name = "PREFIX")]
    pub remove_route: Vec<ipnet::IpNet>,
}

/// Arguments of `node add`.
#[derive(Debug, Args)]
pub struct NodeAddArgs {
    /// The name that it gets.
    pub name: String,
    /// Its public key, as `wg pubkey` prints it; its private key stays where it is.
    #[arg(long, value_name = "KEY", required_unless_present = "generate_key")]
    pub pubkey: Option<String>,
    /// Make its key pair here: the private key is printed once, in the file, and kept nowhere.
    #[arg(long, conflicts_with = "pubkey")]
    pub generate_key: bool,
    /// The gateway or lighthouse that it has its tunnel with; the server where none is named.
    #[arg(long, value_name = "NODE")]
    pub gateway: Option<String>,
    /// A group that it gets; may be given several times.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// How the file is made and printed.
    #[command(flatten)]
    pub wireguard: WireGuardArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a wg-quick file is made and printed.
#[derive(Debug, Args)]
pub struct WireGuardArgs {
    /// Where the peer finds its gateway, if that is no server of the network.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub endpoint: Option<String>,
    /// Write the file there (mode 0600) rather than to standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<std::path::PathBuf>,
    /// Print it as a QR code too, on standard error.
    #[arg(long)]
    pub qr: bool,
}

/// Arguments of `node set`.
#[derive(Debug, Args)]
pub struct NodeSetArgs {
    /// Its name, or its id.
    pub node: String,
    /// A group to put it into; may be given several times.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// A group to take it out of; at once, everywhere.
    #[arg(long, value_name = "GROUP")]
    pub remove_group: Vec<String>,
    /// The group may be one of administrators.
    #[arg(long)]
    pub admin: bool,
    /// A role to give it: authority, lighthouse, relay, gateway.
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    pub role: Vec<tombolo_control::document::Roles>,
    /// A role to take.
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    pub remove_role: Vec<tombolo_control::document::Roles>,
    /// A subnet that it may route.
    #[arg(long, value_name = "PREFIX")]
    pub route: Vec<ipnet::IpNet>,
    /// One that it may route no more.
    #[arg(long, value_name = "PREFIX")]
    pub remove_route: Vec<ipnet::IpNet>,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only so many of the newest entries.
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Follow the chain of hashes from its first entry, compare its end with the network document, and print nothing else.
    #[arg(long, conflicts_with = "last")]
    pub verify: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

fn parse_role(text: &str) -> Result<tombolo_control::document::Roles, String> {
    use tombolo_control::document::Roles;
    match text {
        "authority" => Ok(Roles::AUTHORITY),
        "lighthouse" => Ok(Roles::LIGHTHOUSE),
        "relay" => Ok(Roles::RELAY),
        "gateway" => Ok(Roles::GATEWAY),
        _ => Err("expected authority, lighthouse, relay or gateway".to_owned()),
    }
}

/// Arguments of `whois`.
#[derive(Debug, Args)]
pub struct WhoisArgs {
    /// The overlay address.
    pub address: std::net::IpAddr,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
