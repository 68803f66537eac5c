use super::*;
use proptest::prelude::*;

fn entries() -> Vec<Entry> {
    let names = |name: &str| vec![name.to_owned(), format!("{name}.prod")];
    vec![("10.66.0.2".parse().unwrap(), names("db-2")), ("fd00::3".parse().unwrap(), names("db-3"))]
}

#[test]
fn a_block_is_added_replaced_and_removed() {
    let original = b"127.0.0.1 localhost\n# mine\n";
    let with = replace_block(original, "prod", &entries()).unwrap();
    assert_eq!(
        String::from_utf8(with.clone()).unwrap(),
        "127.0.0.1 localhost\n# mine\n\
         # tombolo prod: begin (written by the daemon; edits are lost)\n\
         10.66.0.2 db-2 db-2.prod\nfd00::3 db-3 db-3.prod\n\
         # tombolo prod: end\n"
    );
    let fewer = replace_block(&with, "prod", &entries()[..1]).unwrap();
    assert!(!String::from_utf8(fewer.clone()).unwrap().contains("db-3"));
    assert_eq!(replace_block(&fewer, "prod", &[]).unwrap(), original);
}

#[test]
fn two_networks_do_not_touch_each_other() {
    let prod = replace_block(b"", "prod", &entries()).unwrap();
    let both = replace_block(&prod, "production", &entries()[..1]).unwrap();
    assert_eq!(replace_block(&both, "production", &[]).unwrap(), prod);
}

#[test]
fn a_damaged_block_is_left_alone() {
    let with = replace_block(b"", "prod", &entries()).unwrap();
    let text = String::from_utf8(with).unwrap();
    let without_end = text.replace("# tombolo prod: end\n", "1.2.3.4 precious\n");
    assert_eq!(replace_block(without_end.as_bytes(), "prod", &[]), Err(DamagedBlock));
    assert_eq!(replace_block(b"# tombolo prod: end\n", "prod", &[]), Err(DamagedBlock));
}

#[test]
fn the_file_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    fs::write(&path, "127.0.0.1 localhost").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    update(&path, "prod", &entries()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o604);
    update(&path, "prod", &[]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"127.0.0.1 localhost\n");
}

#[test]
fn a_link_stays_a_link_and_a_file_that_cannot_be_replaced_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("hosts"));
    fs::write(&real, "127.0.0.1 localhost\n").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    update(&link, "prod", &entries()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("db-2.prod"));
    write_in_place(&real, b"short\n").unwrap();
    assert_eq!(fs::read(&real).unwrap(), b"short\n", "nothing of the longer contents is left");
}

proptest! {
    /// Whatever else stands in the file comes back byte for byte (a missing last newline is added).
    #[test]
    fn other_lines_stay(mut other in proptest::collection::vec(any::<u8>(), 0..200)) {
        if !other.is_empty() && !other.ends_with(b"\n") {
            other.push(b'\n');
        }
        let with = replace_block(&other, "prod", &entries()).unwrap();
        prop_assert_eq!(replace_block(&with, "prod", &entries()).unwrap(), with.clone());
        prop_assert_eq!(replace_block(&with, "prod", &[]).unwrap(), other);
    }
}
