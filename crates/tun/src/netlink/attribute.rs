//! Netlink attributes: length, kind, value, padded to four bytes.

const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// Kinds and values of a run of attributes. Ends at the first that is cut short.
pub(crate) fn iterate(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub(crate) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    iterate(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Appends an attribute. Values of ours are far below the limit of 65 531 bytes.
pub(crate) fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends a number in network byte order, as the netfilter families have them.
pub(crate) fn push_u32(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    push(bytes, kind, &value.to_be_bytes());
}

/// Appends a string with its terminating zero.
pub(crate) fn push_text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut text = value.as_bytes().to_vec();
    text.push(0);
    push(bytes, kind, &text);
}

/// Appends an attribute that consists of attributes.
pub(crate) fn push_nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    if let Some(header) = bytes.get_mut(start..start + 4) {
        header[..2].copy_from_slice(&length.to_ne_bytes());
        header[2..].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        push(&mut bytes, 1, &[7]);
        push_nested(&mut bytes, 2, |inner| {
            push_u32(inner, 3, 0x0102_0304);
            push_text(inner, 4, "lo");
        });
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 1), Some(&[7][..]));
        let inner = find(&bytes, 2).unwrap();
        assert_eq!(find(inner, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(find(inner, 4), Some(&b"lo\0"[..]));
        assert_eq!(find(inner, 5), None);
    }

    #[test]
    fn a_run_that_is_cut_short_ends() {
        for bytes in [&[][..], &[9, 0, 1, 0, 5][..], &[3, 0, 1, 0][..], &[1][..]] {
            assert_eq!(iterate(bytes).count(), 0, "{bytes:?}");
        }
    }
}
