//! `tombolo server …`: what makes, saves, restores and re-keys a server.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ListArgs, parse_duration};

/// `server …`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Make a network: root key, issuer, register; start it, and print a token.
    #[command(
        long_about = "Make a network: a root key (encrypted with a passphrase, written where you say, to be kept \
                      elsewhere), an issuer key, the register; start it and print a first token. All members of \
                      the network may talk to each other.",
        after_long_help = "Example:\n  tombolo server init --endpoint vpn.example.net"
    )]
    Init(InitArgs),
    /// Write the register and the server's own key, encrypted, while the server runs.
    #[command(
        long_about = "Write the register and the server's own key into a file, encrypted to age recipients or with a \
                      passphrase, while the server runs. Neither the issuer key nor the root key is in it.",
        after_long_help = "Examples:\n  \
            tombolo server backup --recipient age1… /var/backups/tombolo.age\n  \
            tombolo server backup --recipient age1… - | ssh elsewhere 'cat > tombolo.age'"
    )]
    Backup(BackupArgs),
    /// Make this machine the server again, from a backup or from the root key alone.
    #[command(
        long_about = "Make this machine the server again. All tokens are void; the server takes the newest document that \
                      nodes hold, and takes nodes in again that show a membership, before it issues anything; it has a \
                      new issuer key, for which the root key signs.",
        after_long_help = "Examples:\n  \
            tombolo server restore tombolo.age --identity key.txt --root-key office-root.age\n  \
            tombolo server restore --without-backup --root-key office-root.age"
    )]
    Restore(RestoreArgs),
    /// Who may issue memberships: what the root key has signed.
    #[command(subcommand)]
    Trust(TrustCommand),
}

/// `server trust …`
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Show the trust document: root key, its heir, issuers.
    Show(ListArgs),
    /// Drop an issuer: all that it signed is void at once.
    #[command(
        after_long_help = "Example:\n  tombolo server trust drop f40755d20237ddfc --root-key office-root.age"
    )]
    Drop {
        /// Its short form, as `server trust show` has it.
        issuer: String,
        /// Also while nodes have memberships that it signed: they are cut off, and have to join anew.
        #[arg(long)]
        force: bool,
        /// The root key.
        #[command(flatten)]
        root: RootArgs,
    },
    /// Give this server a new issuer key. The former one stays in the trust document until it is dropped.
    #[command(after_long_help = "Example:\n  tombolo server trust rotate-issuer --root-key office-root.age")]
    RotateIssuer {
        /// The root key.
        #[command(flatten)]
        root: RootArgs,
    },
    /// Let the root key's heir take over, and make a new heir.
    #[command(after_long_help = "Example:\n  tombolo server trust rotate-root --root-key office-root.age")]
    RotateRoot {
        /// The root key.
        #[command(flatten)]
        root: RootArgs,
    },
}

/// Arguments of `server init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where this server is found from outside: name or address, and a port unless it is the usual one; may be
    /// given several times.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub endpoint: Vec<String>,
    /// This machine's name in the network; the host's where none is given.
    #[arg(long, value_name = "NODE")]
    pub name: Option<String>,
    /// The overlay's prefix; a free 10.x.0.0/16 where none is given. A prefix of IPv6 is added.
    #[arg(long, value_name = "PREFIX")]
    pub cidr: Vec<ipnet::IpNet>,
    /// The domain of the names; NETWORK.internal where none is given.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Where the encrypted root key is written; ./NETWORK-root.age where nothing is said.
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// A file with the passphrase of the root key.
    #[arg(long, env = "TOMBOLO_ROOT_PASSPHRASE_FILE", value_name = "FILE")]
    pub root_passphrase_file: Option<PathBuf>,
    /// UDP port; the first free one from 8662 where none is given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Do not start it at boot.
    #[arg(long)]
    pub no_enable: bool,
    /// Do not start it now.
    #[arg(long)]
    pub no_start: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `server backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write, or - for standard output.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For whom it is encrypted (age1…); may be given several times. A passphrase is asked for where there is none.
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// A file with the passphrase that it is encrypted with.
    #[arg(long, env = "TOMBOLO_BACKUP_PASSPHRASE_FILE", value_name = "FILE", conflicts_with = "recipient")]
    pub passphrase_file: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `server restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup, or - for standard input.
    #[arg(
        value_name = "FILE",
        required_unless_present = "without_backup",
        conflicts_with = "without_backup"
    )]
    pub file: Option<PathBuf>,
    /// There is no backup: what the nodes have and the root key must do.
    #[arg(long)]
    pub without_backup: bool,
    /// The age identity that opens the backup (a file as age-keygen writes it). A passphrase is asked for where there
    /// is none.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// A file with the passphrase that opens the backup.
    #[arg(long, env = "TOMBOLO_BACKUP_PASSPHRASE_FILE", value_name = "FILE", conflicts_with = "identity")]
    pub passphrase_file: Option<PathBuf>,
    /// The root key.
    #[command(flatten)]
    pub root: RootArgs,
    /// Where this server is found from now on, if not where it was; may be given several times.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub endpoint: Vec<String>,
    /// UDP port; the one that the server had where none is given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// For how long nodes are waited for before anything is issued.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub gather: Duration,
    /// Move the state that is here aside.
    #[arg(long)]
    pub replace: bool,
    /// Do not start it at boot.
    #[arg(long)]
    pub no_enable: bool,
    /// Do not start it now.
    #[arg(long)]
    pub no_start: bool,
}

/// Where the root key is.
#[derive(Debug, Args)]
pub struct RootArgs {
    /// The encrypted root key; it is written anew with what it signs.
    #[arg(long, env = "TOMBOLO_ROOT_KEY", value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// A file with the passphrase of the root key.
    #[arg(long, env = "TOMBOLO_ROOT_PASSPHRASE_FILE", value_name = "FILE")]
    pub root_passphrase_file: Option<PathBuf>,
}
