//! PostgreSQL between two regions, bound to overlay addresses only.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!   primary 10.62.0.1            standby 10.62.0.2
//! ```
//!
//! `cargo xtask demo` does the same with three regions and more rows; here the faults are harder.

use std::time::Duration;

use anyhow::ensure;
use tombolo_tests::{
    Result, Scene,
    command::{ip, run},
    machine_wide_and_patient,
    node::OVERLAY,
    postgres::Postgres,
    site::{Site, sites},
    topology::Internet,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);
const TABLES: [&str; 3] = ["pgbench_accounts", "pgbench_tellers", "pgbench_history"];

struct Replication {
    internet: Internet,
    east: Site,
    west: Site,
    primary: Postgres,
    standby: Postgres,
}

fn replication(scene: &Scene) -> Result<Replication> {
    let (internet, [mut east, mut west]) = sites::<2>(scene)?;
    // Each database starts as soon as its own address can be bound.
    east.node.start(scene)?;
    let mut primary =
        Postgres::create(scene, "primary", &east.machine.namespace, east.node.address.into(), OVERLAY)?;
    primary.start(scene)?;
    primary.load(2)?;
    west.node.start(scene)?;
    west.node.wait(&["--peer", "east", "--tcp", "5432", "--timeout", "20s"])?;
    let mut standby =
        Postgres::copy_of(&primary, scene, "standby", &west.machine.namespace, west.node.address.into())?;
    standby.start(scene)?;
    primary.wait_for_standbys(1, LIMIT)?;
    Ok(Replication { internet, east, west, primary, standby })
}

impl Replication {
    fn has_same_rows(&self) -> Result {
        self.primary.wait_until_replayed(&self.standby, LIMIT)?;
        for table in TABLES {
            let (expected, found) = (self.primary.checksum(table)?, self.standby.checksum(table)?);
            ensure!(expected == found, "{table}: {expected} in the primary, {found} in the standby");
        }
        Ok(())
    }
}

#[test]
fn replication_survives_kills_on_both_sides_over_one_connection() {
    machine_wide_and_patient("replication_survives_kills_on_both_sides_over_one_connection", |scene| {
        let mut stage = replication(scene)?;
        let before = stage.primary.replication_connections()?;
        let mut transactions = stage.primary.start_transactions(scene, &stage.standby, 6)?;
        transactions.wait_for_log("progress: 1", LIMIT)?;
        for site in [&mut stage.east, &mut stage.west] {
            site.node.kill()?;
            site.node.spawn(scene)?;
        }
        stage.west.node.wait_for_peer("east")?;
        stage.east.machine.set_address(99)?;
        let status = transactions.wait(LIMIT)?;
        ensure!(status.success(), "pgbench ended with {status}: {}", transactions.log());
        stage.has_same_rows()?;
        let after = stage.primary.replication_connections()?;
        ensure!(before == after, "connections before: {before:?}, after: {after:?}");
        Ok(())
    });
}

#[test]
fn a_region_that_was_cut_off_catches_up() {
    machine_wide_and_patient("a_region_that_was_cut_off_catches_up", |scene| {
        let stage = replication(scene)?;
        let port = &stage.west.machine.port;
        stage.internet.router.ip(&format!("link set {port} down"))?;
        stage.primary.sql("UPDATE pgbench_tellers SET tbalance = tid")?;
        let behind = stage.standby.sql("SELECT sum(tbalance) FROM pgbench_tellers")?;
        ensure!(behind == "0", "the standby is not cut off: {behind}");
        stage.internet.router.ip(&format!("link set {port} up"))?;
        stage.has_same_rows()
    });
}

/// The database is bound to the overlay and to nothing else; and when Tombolo stops for good, the
/// database goes on to run, and is not reachable in another way.
#[test]
fn the_database_listens_on_the_overlay_only_and_outlives_tombolo() {
    machine_wide_and_patient("the_database_listens_on_the_overlay_only", |scene| {
        let mut stage = replication(scene)?;
        let sockets = run(stage.east.machine.namespace.command("ss").args(["-Hltn"]))?;
        let listening: Vec<&str> = sockets
            .lines()
            .filter(|line| line.contains(":5432"))
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        ensure!(listening == ["10.62.0.1:5432"], "PostgreSQL listens on {listening:?}");

        stage.east.node.run("down", &[])?;
        ensure!(stage.primary.is_running(), "the primary noticed");
        ensure!(stage.primary.sql("SELECT 1")? == "1", "the primary no longer answers at its own address");
        stage.east.node.start(scene)?;
        stage.primary.sql("UPDATE pgbench_tellers SET tbalance = 7")?;
        stage.has_same_rows()?;
        wait_until("the namespace to still have the primary", LIMIT, || {
            ip(&format!("netns pids {}", stage.east.machine.namespace.name()))
                .is_ok_and(|pids| !pids.is_empty())
        })
    });
}
