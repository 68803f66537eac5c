//! The tables that each packet is looked up in.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

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
    for (variant, length) in [("10,000 addresses", 32), ("10,000 networks /24", 24)] {
        let mut table = AllowedIps::default();
        for number in 0..ROUTES {
            table.insert(IpNet::new(address(number).into(), length)?, PeerId(number));
        }
        let routes = table.snapshot();
        // An order that is neither that of the table nor that of memory.
        let wanted: Vec<IpAddr> =
            (0..LOOKUPS as u32).map(|number| address(number.wrapping_mul(7919) % ROUTES).into()).collect();
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
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) | (number << 8) | 1)
}
