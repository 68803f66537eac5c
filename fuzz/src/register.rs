//! The target of what a server reads from its own disk, and from backups: records, root key files, headers.

use tombolo_control::authority::{Key, Record};
use tombolo_control::root::RootKeys;
use tombolo_store::Header;

/// By the first byte: a backup's header, a root key file's content, or a key of the register (as long as the second
/// byte says) and its record. What is read is written again as it was.
pub fn register(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector & 3 {
        0 => {
            let Ok((header, rest)) = Header::read(data) else { return };
            let mut again = Vec::new();
            header.write(&mut again);
            assert_eq!([&again, rest].concat(), data);
        }
        1 => {
            let Ok(keys) = RootKeys::from_bytes(data) else { return };
            let again = RootKeys::from_bytes(&keys.to_bytes()).expect("what was written is read");
            assert_eq!((again.network(), again.fingerprint()), (keys.network(), keys.fingerprint()));
        }
        _ => {
            let Some((&length, data)) = data.split_first() else { return };
            let Some((key, value)) = data.split_at_checked(usize::from(length)) else { return };
            let Ok(key) = Key::from_bytes(key) else { return };
            let Ok(record) = Record::from_bytes(&key, value) else { return };
            let again = Record::from_bytes(&key, &record.to_bytes()).expect("what was written is read");
            assert_eq!(again, record);
            assert_eq!(Key::from_bytes(&key.to_bytes()).expect("what was written is read"), key);
        }
    }
}
