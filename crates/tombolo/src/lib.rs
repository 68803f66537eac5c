//! Tombolo: an encrypted overlay network for databases. Daemon and command line
