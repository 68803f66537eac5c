//! The names of peers in /etc/hosts, between two marks. Everything else stays byte for byte.

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::atomic_file;

/// The file, unless a test says otherwise.
pub const HOSTS_FILE: &str = "/etc/hosts";

/// The marks are not as this program writes them: rather than guess where a block ends, nothing is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the block of this network has a begin without an end, or an end without a begin; remove those lines by hand"
)]
pub struct DamagedBlock;

fn begin_mark(network: &str) -> String {
    format!("# tombolo {network}: begin (written by the daemon; edits are lost)")
}

fn end_mark(network: &str) -> String {
    format!("# tombolo {network}: end")
}

/// An address with its names, the first of which is the one that it is called by.
pub type Entry = (IpAddr, Vec<String>);

/// The contents of a hosts file with the network's block replaced by these entries, or without a block
/// if there are none.
///
/// # Errors
/// [`DamagedBlock`].
pub fn replace_block(current: &[u8], network: &str, entries: &[Entry]) -> Result<Vec<u8>, DamagedBlock> {
    let (begin, end) = (begin_mark(network), end_mark(network));
    let mut result = Vec::with_capacity(current.len() + 64 * entries.len());
    let mut inside = false;
    let mut position = None;
    for line in current.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if text == begin.as_bytes() {
            if inside {
                return Err(DamagedBlock);
            }
            inside = true;
            position.get_or_insert(result.len());
        } else if text == end.as_bytes() {
            if !inside {
                return Err(DamagedBlock);
            }
            inside = false;
        } else if !inside {
            result.extend_from_slice(line);
        }
    }
    if inside {
        return Err(DamagedBlock);
    }
    if entries.is_empty() {
        return Ok(result);
    }
    let mut block = Vec::new();
    let position = position.unwrap_or(result.len());
    if position == result.len() && !result.is_empty() && !result.ends_with(b"\n") {
        block.push(b'\n');
    }
    for line in std::iter::once(begin)
        .chain(entries.iter().map(|(address, names)| format!("{address} {}", names.join(" "))))
        .chain(std::iter::once(end))
    {
        block.extend_from_slice(line.as_bytes());
        block.push(b'\n');
    }
    result.splice(position..position, block);
    Ok(result)
}

/// Rewrites the network's block in a file, if that changes anything. Mode and owner of the file stay.
///
/// # Errors
/// The file cannot be read or written, or its block is damaged.
pub fn update(path: &Path, network: &str, entries: &[Entry]) -> io::Result<()> {
    let current = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let wanted = replace_block(&current, network, entries).map_err(io::Error::other)?;
    if wanted == current {
        return Ok(());
    }
    // A link stays a link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let metadata = fs::metadata(path).ok();
    let mode = metadata.as_ref().map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
    match atomic_file::write(path, &wanted, mode) {
        // A container, or the unit, gives us the file itself: it can be written, but nothing can be
        // made beside it or renamed over it.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::CrossesDevices
            ) =>
        {
            write_in_place(path, &wanted)
        }
        Ok(()) => match metadata {
            Some(before) => restore_owner(path, &before),
            None => Ok(()),
        },
        other => other,
    }
}

/// The file of another owner than ours is given back.
fn restore_owner(path: &Path, before: &fs::Metadata) -> io::Result<()> {
    let now = fs::metadata(path)?;
    if (now.uid(), now.gid()) == (before.uid(), before.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid()))
}

/// A reader never sees an empty file, and sees a torn one only within the block that moves.
fn write_in_place(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(contents)?;
    file.set_len(contents.len() as u64)?;
    file.sync_all()
}
