//! An allocator that counts what the data threads of engines take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::gate::Call;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this is a thread that reads packets.
    static IS_DATA_THREAD: Cell<bool> = const { Cell::new(false) };
    /// Whether it is in a queue or socket in memory, which allocate where the system's do not.
    static IS_OUTSIDE: Cell<bool> = const { Cell::new(false) };
}

/// How often data threads have taken memory so far, outside of their queues and sockets.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}

/// Follows what a thread does: only data threads read.
pub(crate) fn watch(call: Call) {
    IS_OUTSIDE.set(call != Call::Done);
    if call == Call::Read {
        IS_DATA_THREAD.set(true);
    }
}

struct Counting;

fn note() {
    if IS_DATA_THREAD.get() && !IS_OUTSIDE.get() {
        COUNT.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: all is left to the system's allocator; what is noted beside allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
