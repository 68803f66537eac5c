//! A thread that waits for the kernel's notices, and hands them to the main loop.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;
use tombolo_tun::netlink::{Changes, LinkState, Watch};

use super::generation::GenerationWatch;

/// What happened, and how the interface is since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice {
    /// Where to look; `None`: the notices could not be read, so everywhere.
    pub(crate) changes: Option<Changes>,
    /// The interface.
    pub(crate) link: LinkState,
    /// This machine is a copy from now on, or was set back.
    pub(crate) copied: bool,
}

/// Notices that wait at most; when the main loop is behind, the thread waits, and the kernel says in
/// time that it lost some.
const BACKLOG: usize = 16;

/// Starts the thread. It ends at the first notice that nobody wants any more.
pub(crate) fn start(mut watch: Watch) -> io::Result<mpsc::Receiver<Notice>> {
    let (notices, receiver) = mpsc::channel(BACKLOG);
    let generation = GenerationWatch::open();
    if let Err(error) = &generation {
        tracing::debug!("copies of this machine are not noticed by its generation id: {error}");
    }
    let generation = generation.ok();
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        loop {
            let mut readable = vec![PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)];
            readable
                .extend(generation.iter().map(|watch| PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)));
            match poll(&mut readable, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => tracing::warn!("changes of the system are not seen: {error}"),
            }
            let changed = !readable[0].revents().is_empty();
            let copied = generation.as_ref().is_some_and(GenerationWatch::read);
            if !changed && !copied {
                continue;
            }
            let changes = watch.read_changes();
            if let Err(error) = &changes {
                tracing::warn!("{error}");
            }
            let changes = changes.ok();
            if changes.is_some_and(|changes| changes.is_empty()) && !copied {
                continue;
            }
            if notices.blocking_send(Notice { changes, link: watch.link_state(), copied }).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
