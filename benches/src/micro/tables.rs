//! The tables that each packet is looked up in.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tombolo_noise::ReplayWindow;
use tombolo_packet::PeerId;
use tombolo_route::AllowedIps;

use super::Report;
use super::timing::{sample, time};
use crate::Result;

const RUNS: usize = 20;
const LOOKUPS: usize = 100_000;
const ROUTES: u32 = 10_000;

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    for (variant, address, length) in [
        ("10,000 addresses", v4 as fn(u32) -> IpAddr, 32),
        ("10,000 networks /24", v4, 24),
        ("10,000 addresses, IPv6", v6, 128),
        ("10,000 networks /64", v6, 64),
    ] {
        let mut table = AllowedIps::default();
        for number in 0..ROUTES {
            table.insert(IpNet::new(address(number), length)?, PeerId(number));
        }
        let routes = table.snapshot();
        // An order that is neither that of the table nor that of memory.
        let wanted: Vec<IpAddr> =
            (0..LOOKUPS as u32).map(|number| address(number.wrapping_mul(7919) % ROUTES)).collect();
        report(sample("route look-up", variant, RUNS, || {
            let (duration, found) = time(|| {
                wanted.iter().filter(|&&address| black_box(routes.lookup(address)).is_some()).count()
            });
            Ok((duration, found))
        })?);
    }
    report(sample("replay window", "in order", RUNS, || {
        let mut window = ReplayWindow::new();
        let (duration, accepted) =
            time(|| (0..LOOKUPS as u64).filter(|&counter| window.accept(black_box(counter))).count());
        Ok((duration, accepted))
    })?);
    Ok(())
}

/// Different for each number also in the first 24 bits.
fn v4(number: u32) -> IpAddr {
    Ipv4Addr::from((10 << 24) | (number << 8) | 1).into()
}

/// Different for each number also in the first 64 bits, and as far apart as sites are, not side by side.
fn v6(number: u32) -> IpAddr {
    let site = u128::from(number.wrapping_mul(0x9e37_79b1));
    Ipv6Addr::from(0xfd << 120 | site << 64 | 1).into()
}
