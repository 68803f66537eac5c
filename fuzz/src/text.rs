//! The targets of the parsers of text: what programs and people write.

use tombolo::uapi::Request;

/// One operation of the WireGuard configuration protocol.
pub fn uapi(data: &[u8]) {
    let scope = |name: &str| (name == "eth0").then_some(2);
    if let Ok(Request::Set(transaction)) = tombolo::uapi::parse_request(data, &scope) {
        let lines = data.split(|&byte| byte == b'\n').count();
        let allowed: usize = transaction.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        assert!(transaction.peers.len() + allowed <= lines);
    }
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match tombolo::config::parse(text) {
        Ok(config) => {
            // What the daemon computes at once from what it reads.
            let _ = (config.overlay(), config.routes());
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
}

/// A `wg-quick` file.
pub fn import(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match tombolo::import::convert(text, "fuzz") {
        // The result is a file that this program reads.
        Ok(imported) => {
            if let Err(problems) = tombolo::config::parse(&imported.toml) {
                panic!("{problems:?} in {}", imported.toml);
            }
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_full_seeds_are_accepted() {
        let set = include_bytes!("../seeds/uapi/set_everything");
        assert_eq!(tombolo::uapi::parse_request(set, &|_| Some(2)).err(), None);
        assert_eq!(tombolo::config::parse(include_str!("../seeds/config/full")).err(), None);
        assert_eq!(tombolo::import::convert(include_str!("../seeds/import/full"), "fuzz").err(), None);
    }
}
