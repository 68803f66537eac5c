//! The system calls. All `unsafe` of the crate is here.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use arrayvec::ArrayVec;
use tombolo_packet::Steering;

use crate::control::{ControlBuffer, RawAddress};

/// Messages that go to the system in one call at most.
pub(crate) const BATCH: usize = 64;

/// One message to send.
pub(crate) struct Outgoing<'a> {
    pub(crate) destination: RawAddress,
    pub(crate) control: ControlBuffer,
    pub(crate) contents: &'a [u8],
}

/// Sends the first [`BATCH`] of `messages` at most; returns how many of them were taken. An error is
/// that of the first message.
pub(crate) fn send_messages(socket: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut vectors: ArrayVec<libc::iovec, BATCH> = ArrayVec::new();
    let mut headers: ArrayVec<libc::mmsghdr, BATCH> = ArrayVec::new();
    for message in messages.iter().take(BATCH) {
        vectors.push(libc::iovec {
            iov_base: message.contents.as_ptr().cast_mut().cast(),
            iov_len: message.contents.len(),
        });
    }
    for (message, vector) in messages.iter().zip(&mut vectors) {
        let (name, control) = (message.destination.as_bytes(), message.control.as_bytes());
        let mut header = empty_header();
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len() as libc::socklen_t;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        if !control.is_empty() {
            header.msg_hdr.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_controllen = control.len() as _;
        }
        headers.push(header);
    }
    // SAFETY: each header points to a name, an I/O vector and control data of the stated lengths, all of
    // which outlive the call (`messages` and `vectors` are borrowed until after it). The system only
    // reads through these pointers; it writes `msg_len` of the headers, which are ours.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// One message as it came.
pub(crate) struct Incoming<'a> {
    /// Which slot of the arena it lies in.
    pub(crate) slot: usize,
    /// Bytes in that slot.
    pub(crate) len: usize,
    /// The message was longer than the slot.
    pub(crate) truncated: bool,
    /// The control data was longer than its buffer.
    pub(crate) control_truncated: bool,
    /// The sender, as a `struct sockaddr_*`.
    pub(crate) name: &'a [u8],
    /// The control data.
    pub(crate) control: &'a [u8],
}

/// Room for what [`crate::control::decode`] reads (88 bytes), and for an option or two that a
/// newer system may add.
const CONTROL_LEN: usize = 128;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ReceiveSlot {
    name: [u8; RawAddress::CAPACITY],
    control: [u8; CONTROL_LEN],
}

/// Receives without blocking, each message into its own `slot_len` bytes of the arena, at most
/// [`BATCH`], and hands each to `each`. Returns how many there were.
pub(crate) fn receive_messages(
    socket: BorrowedFd<'_>,
    arena: &mut [u8],
    slot_len: usize,
    mut each: impl FnMut(Incoming<'_>),
) -> io::Result<usize> {
    let empty = ReceiveSlot { name: [0; RawAddress::CAPACITY], control: [0; CONTROL_LEN] };
    let mut slots: ArrayVec<ReceiveSlot, BATCH> = ArrayVec::new();
    let mut vectors: ArrayVec<libc::iovec, BATCH> = ArrayVec::new();
    let mut headers: ArrayVec<libc::mmsghdr, BATCH> = ArrayVec::new();
    for part in arena.chunks_exact_mut(slot_len).take(BATCH) {
        vectors.push(libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
        slots.push(empty);
    }
    for (vector, slot) in vectors.iter_mut().zip(&mut slots) {
        let mut header = empty_header();
        header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = slot.name.len() as libc::socklen_t;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = slot.control.len() as _;
        headers.push(header);
    }
    // SAFETY: each header points to a name, an I/O vector and control space of the stated lengths; they
    // lie in `slots`, `vectors` and `arena`, which outlive the call and which nothing else reads or
    // writes during it. No timeout is given.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (index, (header, slot)) in headers.iter().zip(&slots).take(count).enumerate() {
        let name_len = (header.msg_hdr.msg_namelen as usize).min(slot.name.len());
        #[allow(clippy::unnecessary_cast, reason = "a u32 with musl")]
        let control_len = (header.msg_hdr.msg_controllen as usize).min(slot.control.len());
        each(Incoming {
            slot: index,
            len: (header.msg_len as usize).min(slot_len),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            control_truncated: header.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0,
            name: &slot.name[..name_len],
            control: &slot.control[..control_len],
        });
    }
    Ok(count)
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` consists of integers and pointers, for which zero is valid. (It cannot be
    // written as a literal: musl gives it private padding.)
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Sets a socket option whose value is an int.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int of that size which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gets a socket option whose value is an int.
pub(crate) fn get_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the system writes at most `len` bytes into `value`, and the length it wrote into `len`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Lets a classic BPF program choose among the sockets that share the port of this one, as
/// [`Steering::socket_of`] does for transport messages; all else comes to the one behind these. A socket's number is the order in
/// which it was bound; where there is none of a number, the kernel's own hash of the flow chooses. Needs no privilege.
pub(crate) fn attach_steering(socket: BorrowedFd<'_>, steering: Steering) -> io::Result<()> {
    /// The first word of a transport message as the program reads it: type 4, and three zeros.
    const TRANSPORT: u32 = 0x0400_0000;
    /// Where the receiver index lies (§5.4.6). The program begins behind the UDP header.
    const RECEIVER_INDEX: u32 = 4;
    let instruction = |code: u32, jump_if_true, jump_if_false, k| libc::sock_filter {
        code: code as u16,
        jt: jump_if_true,
        jf: jump_if_false,
        k,
    };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, TRANSPORT),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, steering.sockets().into()),
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RECEIVER_INDEX),
        instruction(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, 0, 0, steering.multiplier()),
        instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 0, 16),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, steering.sockets().into()),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the system copies the description and the `len` instructions that it points to, all of
    // which outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The release of the running kernel, such as `6.18.44-1`; empty where it cannot be told.
pub(crate) fn kernel_release() -> String {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the system fills the structure that it is given.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return String::new();
    }
    // SAFETY: `uname` succeeded; the structure is an array of bytes, and was zeroed before that.
    let name = unsafe { name.assume_init() };
    // SAFETY: `uname` ends each of its fields with a zero byte.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}
