//! Who may ask what (control rule 22).

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use rustix::process::{Gid, Uid};
use tokio::sync::mpsc;

use super::*;

/// Neither root nor anybody who owns a file.
const SOMEBODY: u32 = 60_123;
const GROUP: u32 = 60_124;

#[test]
fn requests_have_one_form() {
    let text = r#"{"request":"probe","peer":"db-2","timeout_milliseconds":1000}"#;
    let request: Request = serde_json::from_str(text).unwrap();
    assert_eq!(request, Request::Probe { peer: "db-2".to_owned(), timeout_milliseconds: 1000 });
    assert_eq!(serde_json::to_string(&request).unwrap(), text);
    assert!(serde_json::from_str::<Request>(r#"{"request":"format_disk"}"#).is_err());
    assert!(
        serde_json::from_str::<Request>(r#"{"request":"probe","peer":"a","timeout_milliseconds":1,"x":1}"#)
            .is_err()
    );
}

/// Does something on a thread that has another user and groups, as the kernel tells who asks.
fn as_somebody<T: Send>(groups: &[u32], job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let body = || {
            let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
            rustix::thread::set_thread_groups(&groups).unwrap();
            let nobody = Gid::from_raw(SOMEBODY);
            rustix::thread::set_thread_res_gid(nobody, nobody, nobody).unwrap();
            let user = Uid::from_raw(SOMEBODY);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            job()
        };
        scope.spawn(body).join().unwrap()
    })
}

/// A socket behind which everything that gets through is done.
fn served(group: Option<Gid>) -> (tempfile::TempDir, Client, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("prod.sock");
    let (bound, ready) = std::sync::mpsc::channel();
    let socket = path.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (calls, mut received) = mpsc::channel::<Call>(8);
            let serving = serve(&socket, group, calls).unwrap();
            tokio::spawn(serving);
            bound.send(()).unwrap();
            while let Some(call) = received.recv().await {
                let _ = call.reply.send(Answer::Done);
            }
        });
    });
    ready.recv().unwrap();
    (directory, Client::new(&path), path)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: it asks as another user, which only root can become");
    }
    root
}

#[test]
fn others_than_root_may_look_and_change_nothing_control_rule_22() {
    if !is_root() {
        return;
    }
    let (_directory, client, _) = served(Some(Gid::from_raw(GROUP)));
    let look = [
        Request::Status,
        Request::Probe { peer: "db-2".to_owned(), timeout_milliseconds: 1 },
        Request::Whois { address: [10, 86, 0, 1].into(), timeout_milliseconds: 1 },
    ];
    let change = [
        Request::Admin { frame: "f0".to_owned() },
        Request::Leave,
        Request::RotateKey,
        Request::Down,
        Request::Reload,
    ];
    for request in &look {
        let answer = as_somebody(&[GROUP], || client.ask(request));
        assert!(matches!(answer, Ok(Answer::Done)), "{request:?}: {answer:?}");
    }
    for request in &change {
        let answer = as_somebody(&[GROUP], || client.ask(request));
        let Ok(Answer::Error { message }) = answer else { panic!("{request:?}: {answer:?}") };
        assert_eq!(message, "only root may ask for this");
    }
    for request in look.iter().chain(&change) {
        assert!(matches!(client.ask(request), Ok(Answer::Done)), "{request:?} of root");
    }
}

#[test]
fn only_root_and_the_group_may_connect_control_rule_22() {
    if !is_root() {
        return;
    }
    let (_directory, client, path) = served(Some(Gid::from_raw(GROUP)));
    let stranger = as_somebody(&[GROUP + 1], || client.ask(&Request::Status));
    assert!(matches!(stranger, Err(ClientError::NotPermitted(_))), "{stranger:?}");
    assert!(as_somebody(&[GROUP], || UnixStream::connect(&path)).is_ok());
    // Without a group it is root's alone.
    let (_directory, client, _) = served(None);
    let stranger = as_somebody(&[GROUP], || client.ask(&Request::Status));
    assert!(matches!(stranger, Err(ClientError::NotPermitted(_))), "{stranger:?}");
}
