//! What the process gives up before it opens anything to the network.
//!
//! `CAP_NET_ADMIN` stays: it makes and repairs the interface, routes, rules and packet filters, marks
//! sockets and raises their buffers past the system's limit; all of that also happens long after the
//! start. `CAP_NET_BIND_SERVICE` stays only for ports below 1024. Files are reached as their owner, root.

use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Gives up all but what is needed. To be called while there is one thread: capabilities belong to
/// threads. What cannot be given up (a container without `CAP_SETPCAP`) is logged and no error.
pub(crate) fn reduce(low_port: bool) {
    let mut keep = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    if low_port {
        keep.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    note("the bounding set", caps::clear(None, CapSet::Bounding));
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let keep: CapsHashSet = keep.intersection(&held).copied().collect();
    note("ambient capabilities", caps::clear(None, CapSet::Ambient));
    note("inheritable capabilities", caps::clear(None, CapSet::Inheritable));
    note("effective capabilities", caps::set(None, CapSet::Effective, &keep));
    note("permitted capabilities", caps::set(None, CapSet::Permitted, &keep));
    note("new privileges", rustix::thread::set_no_new_privs(true));
    harden_memory();
}

/// No core dump and no debugger of the same user reads the keys out of memory.
pub(crate) fn harden_memory() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    note("core dumps", rustix::process::setrlimit(Resource::Core, none));
    note("dumps", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
}

fn note<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::debug!("{what} could not be given up: {error}");
    }
}
