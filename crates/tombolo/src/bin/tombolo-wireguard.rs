//! The `tombolo-wireguard` program: a userspace WireGuard interface, driven by `wg` and `wg-quick`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tombolo::wireguard::main()
}
