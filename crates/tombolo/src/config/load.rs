//! Reading a configuration from disk, with the key files that it names.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tombolo_noise::{KeyError, PresharedKey, PrivateKey};
use zeroize::Zeroizing;

use super::problem::{Problem, Problems};
use crate::membership;
use crate::paths::Directories;

use super::{ConfigError, NetworkConfig, SecretSource, parse};

/// Larger than any configuration of static mode: 10 000 peers are about 3 MB.
const MAX_CONFIG: u64 = 16 << 20;
/// A key file holds 44 characters; anything much larger is another file.
const MAX_KEY_FILE: u64 = 4096;

/// Reads and checks `path`, puts the keys of the key files in their places, and lets the environment switch offloads.
///
/// # Errors
/// Every problem of the file, of its key files and of `TOMBOLO_OFFLOAD_*`.
pub fn load(path: &Path) -> Result<NetworkConfig, ConfigError> {
    let failed = |problems| ConfigError { path: path.to_owned(), problems };
    let whole = |message: String| failed(vec![Problem { line: 0, column: 0, message }]);
    let text = read_bounded(path, MAX_CONFIG).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let mut config = parse(&text).map_err(failed)?;
    let mut problems = Problems::new(&text);
    for problem in config.offload.apply_environment(std::env::vars_os()) {
        problems.whole(problem);
    }
    if holds_secret(&config)
        && let Err(message) = check_private_mode(path)
    {
        problems.whole(format!("holds a key and {message}"));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    resolve(
        &mut config.interface.private_key,
        "private_key_file",
        PrivateKey::parse_base64,
        folder,
        &mut problems,
    );
    for peer in &mut config.peers {
        if let Some(secret) = &mut peer.preshared_key {
            resolve(secret, "preshared_key_file", PresharedKey::parse_base64, folder, &mut problems);
        }
    }
    if let SecretSource::Inline(private_key) = &config.interface.private_key {
        let own = private_key.public();
        for peer in config.peers.iter().filter(|peer| peer.public_key == own) {
            problems.whole(format!("the public key of peer `{}` is this machine's own", peer.name));
        }
    }
    match config.interface.threads.overridden(|name| std::env::var_os(name)) {
        Ok(threads) => config.interface.threads = threads,
        Err(message) => problems.whole(message),
    }
    if problems.is_empty() { Ok(config) } else { Err(failed(problems.into_sorted())) }
}

/// What the file itself says, for whom may not read the key files and the state directory.
///
/// # Errors
/// As [`parse`].
pub fn load_without_secrets(path: &Path) -> Result<NetworkConfig, ConfigError> {
    let failed = |problems| ConfigError { path: path.to_owned(), problems };
    let text = read_bounded(path, MAX_CONFIG).map_err(|error| {
        failed(vec![Problem { line: 0, column: 0, message: format!("cannot be read: {error}") }])
    })?;
    parse(&text).map_err(failed)
}

fn holds_secret(config: &NetworkConfig) -> bool {
    config.interface.private_key.key().is_some()
        || config
            .peers
            .iter()
            .filter_map(|peer| peer.preshared_key.as_ref())
            .any(|source| source.key().is_some())
}

fn resolve<K>(
    source: &mut SecretSource<K>,
    key: &str,
    parse: fn(&str) -> Result<K, KeyError>,
    folder: &Path,
    problems: &mut Problems<'_>,
) {
    let SecretSource::File { path, offset } = source else { return };
    let (path, offset) = (folder.join(path), *offset);
    match read_key(&path, parse) {
        Ok(secret) => *source = SecretSource::Inline(secret),
        Err(message) => problems.at(offset..offset, format!("`{key}`: {} {message}", path.display())),
    }
}

fn read_key<K>(path: &Path, parse: fn(&str) -> Result<K, KeyError>) -> Result<K, String> {
    let text = read_bounded(path, MAX_KEY_FILE).map_err(|error| format!("cannot be read: {error}"))?;
    check_private_mode(path)?;
    parse(text.trim()).map_err(|error| format!("holds no key: {error}"))
}

/// A file with a secret must be closed to group and others.
///
/// # Errors
/// A sentence with the command that mends it.
pub fn check_private_mode(path: &Path) -> Result<(), String> {
    let mode =
        fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("is open to others (mode {mode:04o}); run: chmod 600 {}", path.display()))
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(text)
}

/// [`load`], and of a network by membership what its state directory has: key and addresses.
///
/// # Errors
/// As [`load`]; and when the machine is no member yet, or its state is damaged.
pub fn load_network(directories: &Directories, network: &str) -> Result<NetworkConfig, ConfigError> {
    let path = directories.config_file(network);
    let mut config = load(&path)?;
    if config.membership.is_some() {
        let directory = directories.state_directory(network);
        membership::complete(&mut config, network, &directory).map_err(|error| {
            let message = error.to_string();
            ConfigError { path, problems: vec![Problem { line: 0, column: 0, message }] }
        })?;
    }
    Ok(config)
}
