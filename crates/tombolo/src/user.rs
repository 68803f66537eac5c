//! Users and groups of this machine, by its own lists: a static binary asks no others.

use std::io::{self, Read as _};

use rustix::process::Gid;

/// More than a list of users has that is worth looking through.
const MAX: u64 = 1 << 20;

/// The number, with the name that the list has for it.
pub(crate) fn shown(user: u32) -> String {
    match read("/etc/passwd").ok().as_deref().and_then(|list| name_in(list, user)) {
        Some(name) => format!("uid {user} ({name})"),
        None => format!("uid {user}"),
    }
}

/// Why a group is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("there is no group `{0}` in /etc/group: make it (`groupadd --system {0}`), or give its number")]
    Unknown(String),
    #[error("/etc/group cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the daemon cannot become a member of the group `{0}`, which takes CAP_SETGID: {1}")]
    Refused(String, io::Error),
}

/// Makes this thread, and those that it starts, a member of a group beside those that it is in, so that it may give files to
/// it. Takes `CAP_SETGID`, unless it is a member already.
///
/// # Errors
/// See [`GroupError`].
pub(crate) fn enter_group(name: &str) -> Result<Gid, GroupError> {
    let group = match name.parse() {
        Ok(number) => Gid::from_raw(number),
        Err(_) => group_in(&read("/etc/group")?, name).ok_or_else(|| GroupError::Unknown(name.to_owned()))?,
    };
    let mut groups = rustix::process::getgroups().map_err(io::Error::from)?;
    if rustix::process::getegid() != group && !groups.contains(&group) {
        groups.push(group);
        rustix::thread::set_thread_groups(&groups)
            .map_err(|error| GroupError::Refused(name.to_owned(), error.into()))?;
    }
    Ok(group)
}

fn read(path: &str) -> io::Result<String> {
    let mut list = String::new();
    std::fs::File::open(path)?.take(MAX).read_to_string(&mut list)?;
    Ok(list)
}

fn group_in(list: &str, name: &str) -> Option<Gid> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, number) = (fields.next()?, fields.nth(1)?);
        (found == name).then(|| number.parse().ok().map(Gid::from_raw))?
    })
}

fn name_in(list: &str, user: u32) -> Option<&str> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(user)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_where_the_list_has_him() {
        let list = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(
            (name_in(list, 0), name_in(list, 1000), name_in(list, 7)),
            (Some("root"), Some("ada"), None)
        );
    }

    #[test]
    fn a_group_has_the_number_of_the_list() {
        let list = "root:x:0:\nbroken\ntombolo:x:977:ada,mongodb\nodd:x:many:\n";
        assert_eq!(group_in(list, "tombolo"), Some(Gid::from_raw(977)));
        assert_eq!(
            (group_in(list, "tomb"), group_in(list, "odd"), group_in(list, "ada")),
            (None, None, None)
        );
        let error = enter_group("surely-not-a-group").unwrap_err().to_string();
        assert!(error.contains("surely-not-a-group") && error.contains("groupadd"), "{error}");
    }
}
