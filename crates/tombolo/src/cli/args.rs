//! What can be typed. Help, man page and completions are made from this one definition.

mod administration;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use administration::{
    AuditArgs, ListArgs, NetworkCommand, NetworkServerCommand, NetworkSetArgs, NodeAddArgs, NodeCommand,
    NodeSetArgs, TokenArgs, TokenCommand, WhoisArgs, WireGuardArgs,
};
pub use server::{BackupArgs, InitArgs, RestoreArgs, RootArgs, ServerCommand, TrustCommand};

/// In the help of each command.
const GLOBAL: &str = "Options of every command";

/// An encrypted overlay network for databases.
#[derive(Debug, Parser)]
#[command(
    name = "tombolo",
    version,
    about,
    long_about = "Tombolo joins machines in different regions into one private subnet over WireGuard, so that a \
                  database can bind to its overlay address and to nothing else.\n\n\
                  Exit codes: 0 success, 1 a mistake in usage or configuration, 2 a failure at run time, \
                  3 the time of a wait ran out.",
    after_long_help = "A network with a server:\n  \
        tombolo server init --endpoint vpn.example.net        make one; prints a token\n  \
        tombolo join                                          become a member; asks for the token\n  \
        tombolo token new                                     on the server, for each further machine\n  \
        tombolo status                                        how it stands\n\n\
        Two machines without one:\n  \
        umask 077; tombolo genkey > /etc/tombolo/prod.key     make this machine's key\n  \
        tombolo pubkey < /etc/tombolo/prod.key                what the other machines need of it\n  \
        tombolo config check -n prod                          look for mistakes\n  \
        tombolo up -n prod                                    start\n  \
        tombolo wait -n prod --peer db-2 --tcp 5432           until the database of db-2 answers\n\n\
        Directories: TOMBOLO_CONFIG_DIR (/etc/tombolo), TOMBOLO_STATE_DIR (/var/lib/tombolo), \
        TOMBOLO_RUN_DIR (/run/tombolo).\n\
        Offloads, on or off: TOMBOLO_OFFLOAD_VNET_HEADER, _CHECKSUM, _TSO, _USO, _COALESCE_TCP, _COALESCE_UDP, \
        _GSO, _GRO; they beat [offload] in the configuration."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which network; may be left out where there is one. A new one is called `tombolo` where nothing is said.
    #[arg(short, long, global = true, env = "TOMBOLO_NETWORK", value_name = "NETWORK", help_heading = GLOBAL)]
    pub network: Option<String>,
    /// How log lines are written.
    #[arg(long, global = true, env = "TOMBOLO_LOG_FORMAT", help_heading = GLOBAL, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace) or a filter such as tombolo=debug.
    #[arg(long, global = true, env = "TOMBOLO_LOG", value_name = "FILTER", help_heading = GLOBAL, default_value = "info")]
    pub log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a new private key.
    #[command(after_long_help = "Example:\n  umask 077; tombolo genkey > /etc/tombolo/prod.key")]
    Genkey,
    /// Print a new preshared key.
    Genpsk,
    /// Read a private key from standard input and print its public key.
    #[command(after_long_help = "Example:\n  tombolo pubkey < /etc/tombolo/prod.key")]
    Pubkey,
    /// Start a network and return when it is ready.
    #[command(
        long_about = "Start a network and return when it is ready: interface up, own address bindable, UDP port \
                      bound, guard in place. Where systemd runs and the unit is installed, this starts \
                      tombolo@NETWORK.service; otherwise a background process with its log in the run directory.",
        after_long_help = "Examples:\n  tombolo up -n prod\n  tombolo up -f -n prod     stay in the foreground\n  \
            TOMBOLO_TOKEN_FILE=/run/secrets/token tombolo up -f     in a container: join first where there is no state\n  \
            (TOMBOLO_NODE_NAME: the name to ask for; the host's where it is not set)"
    )]
    Up(UpArgs),
    /// A network's server: make it, back it up, restore it, say who may issue.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Become a member of a network.
    #[command(
        long_about = "Become a member of a network with a token from its server (`tombolo token new`). The token is asked \
                      for without echo, or read from a file, from standard input (`-`), or from the file that \
                      TOMBOLO_TOKEN_FILE names. The machine's key is made here and never leaves.",
        after_long_help = "Examples:\n  tombolo join\n  tombolo join ./token\n  \
                           ssh server tombolo token new | tombolo join -"
    )]
    Join(JoinArgs),
    /// Give this machine another static key.
    #[command(
        long_about = "Give this machine another static key. Its membership, name and addresses stay; tunnels are opened anew \
                      within a moment, and connections through them go on. The server revokes the old key after a \
                      minute. This happens by itself when the key is as old as the network says, 30 days unless \
                      `tombolo network set --rotate-keys` says else, or sooner (`rotate_key_days` in [membership])."
    )]
    RotateKey,
    /// End the membership: remove key, interface and guard.
    #[command(
        long_about = "End the membership: the server is told, so that name and addresses are free again; key, state, \
                      configuration, interface and guard are removed. To come back takes a new token.",
        after_long_help = "Examples:\n  tombolo leave\n  tombolo leave --force    the server is gone, or this machine is it"
    )]
    Leave(LeaveArgs),
    /// Tokens, with which new machines join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Nodes: who there is, and what is changed about them.
    #[command(subcommand)]
    Node(NodeCommand),
    /// What holds in the network: groups, administrators, lifetimes, routes, servers.
    #[command(name = "network", subcommand)]
    Net(NetworkCommand),
    /// Say who is behind an overlay address.
    #[command(after_long_help = "Example:\n  tombolo whois 10.86.4.7")]
    Whois(WhoisArgs),
    /// Print who changed what, and when; on the server.
    #[command(
        long_about = "Print the audit log of the network's register: who changed what, and when. Each entry has the hash of the \
                      one before it, and the newest hash stands in the signed network document: --verify says whether anything \
                      was changed, left out or put in. Runs on the server, also while it is stopped.",
        after_long_help = "Examples:\n  tombolo audit --last 20\n  tombolo audit --verify"
    )]
    Audit(AuditArgs),
    /// Stop a network.
    #[command(
        long_about = "Stop a network. A persistent interface keeps its address, so that bound sockets stay, and the \
                      guard goes on to protect the overlay's addresses. With --open both are removed."
    )]
    Down(DownArgs),
    /// Put a network's guard in place without starting it.
    #[command(
        long_about = "Put the guard, the routing rule and the fallback routes of a network in place and return, without \
                      starting it. tombolo-guard@NETWORK.service runs this at boot before any network is up, so that \
                      nothing for the overlay leaves in clear until the daemon has started."
    )]
    Guard,
    /// Show peers, handshakes, traffic, guard and warnings.
    #[command(
        long_about = "Show this machine's addresses, its guard, its membership and servers, and its peers: STATE (idle: no session \
                      and none wanted; connecting: a handshake is not answered yet; established), PATH (direct, or relayed by \
                      whom), when the last handshake was and when anything was HEARD of it. Warnings come last.",
        after_long_help = "Examples:\n  tombolo status\n  watch -n 1 tombolo status\n  \
                           tombolo status --json | jq -r '.peers[] | select(.state != \"established\") | .name'"
    )]
    Status(StatusArgs),
    /// Wait until the overlay, or peers in it, can be used.
    #[command(
        long_about = "Wait until the own overlay address can be bound, or, with --peer, until those peers answer \
                      through the tunnel, or, with --tcp, until they accept connections on that port.\n\n\
                      A member of a cluster should wait for its own address only, or all members wait for each \
                      other at a cold start.",
        after_long_help = "Examples:\n  \
            tombolo wait                                       own address bindable\n  \
            tombolo wait --peer db-2 --peer db-3               both answer\n  \
            tombolo wait --tcp 5432 --quorum 1 --timeout 5m    any peer accepts on 5432\n\n\
            Exit codes: 0 reached, 1 no such network or peer, 3 time ran out. In a network by membership a peer that is not \
            known may join yet: it is waited for, and --tcp and --quorum want --peer."
    )]
    Wait(WaitArgs),
    /// Send echo requests to a peer through the tunnel.
    #[command(
        long_about = "Send echo requests to a peer through the tunnel, and say by which way it answers: directly, or relayed. A \
                      member to which there is no tunnel is looked up first.",
        after_long_help = "Examples:\n  tombolo ping db-2\n  tombolo ping -c 1 --timeout 5s db-2\n\n\
            Exit codes: 0 at least one answer, 1 no such peer, 2 no answer."
    )]
    Ping(PingArgs),
    /// Look at configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Convert a wg-quick file.
    #[command(
        long_about = "Convert a wg-quick file into NETWORK.toml and key files (mode 0600) in the configuration \
                      directory. Whatever has no counterpart is told with the reason.",
        after_long_help = "Example:\n  tombolo import -n prod /etc/wireguard/wg0.conf"
    )]
    Import(ImportArgs),
    /// Look for what is wrong on this machine and say what to do about it.
    #[command(after_long_help = "Exit codes: 0 nothing to mend (notes are no faults), 2 something is BAD.")]
    Doctor,
    /// Print how this machine stands, without keys, names and addresses, to be attached to a report of a bug.
    Bugreport,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff), or write those of all commands into a directory.
    Man {
        /// Directory for one page per command.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// A file with the token, or - for standard input.
    #[arg(value_name = "TOKEN-FILE")]
    pub token: Option<PathBuf>,
    /// The name that this machine would like to have; the host's where none is given.
    #[arg(long, env = "TOMBOLO_NODE_NAME", value_name = "NODE")]
    pub name: Option<String>,
    /// UDP port; the first free one from 8662 where none is given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Do not start it at boot.
    #[arg(long)]
    pub no_enable: bool,
}

/// Arguments of `leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Also where the server cannot be told.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Stay in the foreground; log to standard error.
    #[arg(short, long)]
    pub foreground: bool,
    /// Started in the background by another `tombolo up`.
    #[arg(long, hide = true, requires = "foreground")]
    pub background_child: bool,
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Also remove the interface and the guard: packets for the overlay's addresses are no longer stopped.
    #[arg(long)]
    pub open: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON (docs/status-schema.md).
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// A peer that must answer; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub peer: Vec<String>,
    /// A TCP port that the peers must accept connections on.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub tcp: Option<u16>,
    /// How many of the peers are enough; without it all of them.
    #[arg(long, value_name = "N")]
    pub quorum: Option<usize>,
    /// For how long at most: a number with s, m or h.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// Name of the peer.
    pub name: String,
    /// How many requests.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// How long to wait for each answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the file of a network, or a file, and print every problem.
    #[command(
        after_long_help = "Examples:\n  tombolo config check -n prod\n  tombolo config check ./prod.toml"
    )]
    Check {
        /// A file, rather than the network's own.
        file: Option<PathBuf>,
    },
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The wg-quick file; its name is the network's name unless -n says otherwise.
    pub file: PathBuf,
    /// Write the result there rather than into the configuration directory.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Overwrite files that are there.
    #[arg(long)]
    pub force: bool,
}

/// Reads `60`, `60s`, `500ms`, `5m` or `2h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| "expected a number with ms, s, m, h or d, such as 60s".to_owned())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return Err(format!("unknown unit `{unit}`: use ms, s, m, h or d")),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse_duration("2w"), Err("unknown unit `w`: use ms, s, m, h or d".to_owned()));
        assert!(parse_duration("s").is_err());
        assert!(parse_duration("99999999999999999999h").is_err());
        assert_eq!(parse_duration("18446744073709551615h"), Err("too long".to_owned()));
    }
}
