//! One busy flow through one engine that has the machine to itself: what idle workers bring.

use std::time::Duration;

use tombolo_engine::Assist;

use crate::Result;
use crate::contender::OURS;
use crate::load::ends::{open, seal};
use crate::results::figures;
use crate::suite::Suite;

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_secs(1), Duration::from_millis(400));
    let super_packets = if suite.plan.quick { 3000 } else { 8000 };
    suite.sample("workers", OURS, || {
        let seal_one = seal(1, Assist::WhenIdle, span)?;
        let seal_two = seal(2, Assist::WhenIdle, span)?;
        let seal_unhelped = seal(2, Assist::Never, span)?;
        let open_one = open(1, Assist::WhenIdle, super_packets)?;
        let open_two = open(2, Assist::WhenIdle, super_packets)?;
        let open_unhelped = open(2, Assist::Never, super_packets)?;
        Ok(figures([
            ("seal_one_gbps", seal_one),
            ("seal_two_gbps", seal_two),
            ("seal_unhelped_gbps", seal_unhelped),
            ("seal_ratio", seal_two / seal_one),
            ("open_one_gbps", open_one),
            ("open_two_gbps", open_two),
            ("open_unhelped_gbps", open_unhelped),
            ("open_ratio", open_two / open_one),
        ]))
    })
}
