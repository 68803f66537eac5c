//! The story, in its order.

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use tombolo_tests::{
    Scene,
    capture::Capture,
    node::{Node, OVERLAY, mesh},
    postgres::{self, Postgres},
    process::Process,
    topology::{Internet, Machine},
    wait::{self, wait_for},
};

use super::{
    attack::{self, Outcome},
    report::Report,
};

/// 100 000 rows for each.
const SCALE: u32 = 10;
/// How long the transactions run.
const SECONDS: u64 = 24;
/// A row that is easily found on a wire, and a control that really is sent in the clear.
const MARKER: &str = "tombolo-marker-7f3a9c51e0";
const CONTROL: &str = "tombolo-control-b81d4406c2";
/// How long something may take that should take a second.
const LIMIT: Duration = Duration::from_secs(30);
/// The tables whose rows must be the same everywhere.
const TABLES: [&str; 5] =
    ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "marker"];

/// A region: a machine on the Internet, and the node on it.
struct Region {
    machine: Machine,
    node: Node,
}

/// Tells all of it; `binary` is `tombolo`.
///
/// # Errors
/// When something could not even be tried.
pub(super) fn tell(scene: &Scene, binary: &Path, report: &mut Report) -> Result<()> {
    let mut internet = Internet::new()?;
    let [mut east, mut west, mut central] = regions(scene, &mut internet, binary)?;
    let neighbour = internet.neighbour("neighbour", [192, 0, 2, 0], 66)?;
    report.step("three regions on 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 behind one router");

    let captures = captures(&internet, [&east, &west, &central])?;
    for region in [&mut east, &mut west, &mut central] {
        region.node.start(scene)?;
    }
    report.step("tombolo runs in each, and `tombolo wait` says that its own address can be bound");

    let mut primary =
        Postgres::create(scene, "us-east", &east.machine.namespace, east.node.address.into(), OVERLAY)?;
    primary.start(scene)?;
    report.step(format!("us-east: PostgreSQL primary, bound to {} and nothing else", primary.address));
    primary.load(SCALE)?;
    primary.sql("CREATE TABLE marker (told text)")?;
    report.step(format!(
        "us-east: {} rows loaded with pgbench -i",
        primary.sql("SELECT count(*) FROM pgbench_accounts")?
    ));

    let mut standbys = Vec::new();
    for (name, region) in [("us-west", &west), ("eu-central", &central)] {
        region.node.wait(&["--peer", "us-east", "--tcp", "5432", "--timeout", "30s"])?;
        let namespace = &region.machine.namespace;
        let mut standby = Postgres::copy_of(&primary, scene, name, namespace, region.node.address.into())?;
        standby.start(scene)?;
        report.step(format!(
            "{name}: `tombolo wait --peer us-east --tcp 5432`, then a standby on {}",
            standby.address
        ));
        standbys.push(standby);
    }
    primary.wait_for_standbys(standbys.len(), LIMIT)?;
    let before = primary.replication_connections()?;

    primary.sql(&format!("INSERT INTO marker VALUES ('{MARKER}')"))?;
    for standby in &standbys {
        primary.wait_until_replayed(standby, LIMIT)?;
        let told = standby.sql("SELECT told FROM marker")?;
        anyhow::ensure!(told == MARKER, "the marker row on {} is {told:?}", standby.name);
    }
    report.step("a marker row was written in us-east and read in us-west and eu-central");

    let mut transactions = primary.start_transactions(scene, &standbys[0], SECONDS)?;
    wait_for_transactions(&mut transactions, 3)?;
    report.step("us-west: pgbench runs transactions against us-east, through the tunnel");
    let awake = attack::knock(&internet, &neighbour, &east.machine, &east.node)?;
    report.step("a neighbour of us-east routed the overlay to it and knocked at the database");

    east.node.kill()?;
    report.step("us-east: the daemon was killed with -9");
    let asleep = attack::knock(&internet, &neighbour, &east.machine, &east.node)?;
    report.step("the neighbour knocked again while no daemon ran");
    let restart = wait::now();
    east.node.spawn(scene)?;
    west.node.wait_for_peer("us-east")?;
    let gap = wait::now() - restart;
    report.step(format!("us-east: restarted; it answered us-west {} ms later", gap.as_millis()));
    wait_for_more_transactions(&mut transactions)?;
    report.step("transactions go on");

    let old = central.machine.address;
    central.machine.set_address(77)?;
    let change = wait::now();
    east.node.wait_for_peer("eu-central")?;
    let gap = wait::now() - change;
    let new = central.machine.address;
    report.step(format!(
        "eu-central: public address {old} became {new}; us-east reached it {} ms later",
        gap.as_millis()
    ));

    claim_transactions(&mut transactions, report)?;
    for standby in &standbys {
        primary.wait_until_replayed(standby, LIMIT)?;
    }
    report.step("both standbys replayed everything");
    claim_same_connections(&primary, &before, report)?;
    claim_same_rows(&primary, &standbys, report)?;
    claim_silence([&east, &west, &central], &neighbour, &standbys[0], report)?;
    claim_guard(awake, asleep, report);
    claim_ciphertext([&east, &west, &central], captures, report)
}

fn regions(scene: &Scene, internet: &mut Internet, binary: &Path) -> Result<[Region; 3]> {
    let mut region = |name: &str, subnet, number| -> Result<Region> {
        let machine = internet.region(name, subnet)?;
        let node = Node::with_binary(scene, name, &machine.namespace, number, binary)?;
        Ok(Region { machine, node })
    };
    let regions = [
        region("us-east", [192, 0, 2, 0], 1)?,
        region("us-west", [198, 51, 100, 0], 2)?,
        region("eu-central", [203, 0, 113, 0], 3)?,
    ];
    let nodes: Vec<&Node> = regions.iter().map(|region| &region.node).collect();
    let hosts: Vec<String> = regions.iter().map(|region| region.machine.address.to_string()).collect();
    mesh(&nodes, &hosts)?;
    Ok(regions)
}

/// One on the link of each region, looking for the marker and for the control.
fn captures(internet: &Internet, regions: [&Region; 3]) -> Result<Vec<Capture>> {
    let needles = [MARKER.as_bytes(), CONTROL.as_bytes()];
    regions
        .iter()
        .map(|region| Capture::start_bulk(&internet.router, &region.machine.port, "", &needles))
        .collect()
}

fn progress_lines(transactions: &Process) -> usize {
    transactions
        .log()
        .lines()
        .filter(|line| line.starts_with("progress:") && !line.contains(" 0.0 tps"))
        .count()
}

/// Waits until pgbench has told of progress in `count` seconds.
fn wait_for_transactions(transactions: &mut Process, count: usize) -> Result<()> {
    wait_for("transactions of pgbench", LIMIT, || {
        anyhow::ensure!(transactions.is_running(), "pgbench ended early: {}", transactions.log());
        Ok((progress_lines(transactions) >= count).then_some(()))
    })
}

fn wait_for_more_transactions(transactions: &mut Process) -> Result<()> {
    let count = progress_lines(transactions) + 2;
    wait_for_transactions(transactions, count)
}

fn claim_transactions(transactions: &mut Process, report: &mut Report) -> Result<()> {
    let status = transactions.wait(Duration::from_secs(SECONDS) + LIMIT)?;
    let log = transactions.log();
    let figure =
        |name: &str| log.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    let done = figure("number of transactions actually processed:");
    let failed = figure("number of failed transactions:");
    let holds = status.success() && failed.starts_with("0 ") && !log.contains("aborted");
    report.step(format!("pgbench ended after {done} transactions"));
    report.claim(
        "clients noticed neither restart nor new address",
        holds,
        format!("{done} transactions, {failed} failed"),
    );
    Ok(())
}

fn claim_same_connections(primary: &Postgres, before: &[String], report: &mut Report) -> Result<()> {
    let after = primary.replication_connections()?;
    let evidence = match after == before {
        true => format!("standby|process|since|from|port\n{}", before.join("\n")),
        false => format!("before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n")),
    };
    report.claim("replication kept its TCP connections", after == before && before.len() == 2, evidence);
    Ok(())
}

fn claim_same_rows(primary: &Postgres, standbys: &[Postgres], report: &mut Report) -> Result<()> {
    let mut evidence = Vec::new();
    let mut holds = true;
    for table in TABLES {
        let expected = primary.checksum(table)?;
        for standby in standbys {
            let found = standby.checksum(table)?;
            if found != expected {
                holds = false;
                evidence.push(format!("{table} on {}: {found}, not {expected}", standby.name));
            }
        }
        evidence.push(format!("{table}: {expected}"));
    }
    report.step("the rows of all three databases were compared");
    report.claim("both standbys hold the same rows", holds, evidence.join("\n"));
    Ok(())
}

/// Nobody answers at a public address; a member of the network is answered at the overlay address.
fn claim_silence(
    regions: [&Region; 3],
    neighbour: &Machine,
    standby: &Postgres,
    report: &mut Report,
) -> Result<()> {
    let member = attack::connects(&regions[0].machine.namespace, standby.address)?;
    let (mut tried, mut answered) = (0, Vec::new());
    for target in regions {
        for from in regions.iter().map(|region| &region.machine).chain([neighbour]) {
            for address in [IpAddr::from(target.machine.address), target.machine.address6.into()] {
                tried += 1;
                if attack::connects(&from.namespace, address)? {
                    answered.push(format!("{address} answers {}", from.address));
                }
            }
        }
    }
    report.step(format!("port {} was tried at every public address", postgres::PORT));
    let evidence = format!(
        "{tried} attempts over IPv4 and IPv6, none accepted; at its overlay address a member was answered"
    );
    let holds = answered.is_empty() && member;
    report.claim(
        "no public address answers on port 5432",
        holds,
        if holds { evidence } else { format!("member answered: {member}; {}", answered.join("; ")) },
    );
    Ok(())
}

fn claim_guard(awake: Outcome, asleep: Outcome, report: &mut Report) {
    let silent = |outcome: Outcome| outcome.arrived > 0 && outcome.answers == 0 && outcome.connections == 0;
    let told = |outcome: Outcome| format!("{} packets in, {} answers", outcome.arrived, outcome.answers);
    let evidence = format!("daemon running: {}; daemon killed: {}", told(awake), told(asleep));
    report.claim(
        "a neighbour who routes the overlay gets nothing",
        silent(awake) && silent(asleep),
        evidence,
    );
}

/// Sends the control in the clear, sees it found, and then reads what else was found.
fn claim_ciphertext(regions: [&Region; 3], captures: Vec<Capture>, report: &mut Report) -> Result<()> {
    let [east, west, central] = regions.map(|region| &region.machine);
    for (from, to) in [(east, west), (west, central), (central, east)] {
        let target = (to.address, postgres::PORT);
        from.namespace.enter(|| {
            UdpSocket::bind(("0.0.0.0", 0))?
                .send_to(CONTROL.as_bytes(), target)
                .context("sending the control")?;
            Ok(())
        })?;
    }
    let (mut packets, mut bytes, mut dropped, mut marked, mut blind) = (0, 0, 0, 0, 0);
    for capture in captures {
        blind += usize::from(capture.wait_for_match(1, LIMIT).is_err());
        let seen = capture.stop()?;
        packets += seen.packets;
        bytes += seen.bytes;
        dropped += seen.dropped;
        marked += seen.matches[0];
    }
    report.step("every packet on every link was searched for the marker row");
    let evidence = format!(
        "{packets} packets, {} MB on 3 links: {marked} with the marker, {dropped} not searched;\n\
         a control that was sent in the clear was found on each",
        bytes / 1_000_000
    );
    let holds = marked == 0 && dropped == 0 && blind == 0;
    let evidence = if blind == 0 { evidence } else { format!("{blind} captures did not find the control") };
    report.claim("the marker row never crossed in the clear", holds, evidence);
    Ok(())
}
