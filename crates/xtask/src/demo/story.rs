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
    host::Host,
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

/// A region's machine with Tombolo on it.
struct Region {
    name: &'static str,
    host: Host,
}

/// The network's prefixes, as its server shows them, and that server's addresses.
pub(super) struct Overlay {
    pub(super) v4: String,
    pub(super) v6: String,
    pub(super) server: Vec<IpAddr>,
}

/// Tells all of it; `binary` is `tombolo`.
///
/// # Errors
/// When something could not even be tried.
pub(super) fn tell(scene: &Scene, binary: &Path, report: &mut Report) -> Result<()> {
    let mut internet = Internet::new()?;
    let [east, west, mut central] = regions(scene, &mut internet, binary)?;
    let neighbour = internet.neighbour("neighbour", [192, 0, 2, 0], 66)?;
    let stranger = Host::on(scene, internet.neighbour("stranger", [192, 0, 2, 0], 67)?, "stranger", binary)?;
    report.step("three regions on 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 behind one router");

    let captures = captures(&internet, [&east, &west, &central])?;
    let overlay = join_all(&east, [&west, &central], &stranger, report)?;

    let mut primary =
        Postgres::create(scene, east.name, east.host.namespace(), east.host.address()?, &overlay.v4)?;
    primary.start(scene)?;
    report.step(format!("us-east: PostgreSQL primary, bound to {} and nothing else", primary.address));
    primary.load(SCALE)?;
    primary.sql("CREATE TABLE marker (told text)")?;
    report.step(format!(
        "us-east: {} rows loaded with pgbench -i",
        primary.sql("SELECT count(*) FROM pgbench_accounts")?
    ));

    let mut standbys = Vec::new();
    for Region { name, host } in [&west, &central] {
        host.run(&["wait", "--peer", "us-east", "--tcp", "5432", "--timeout", "30s"])?;
        let mut standby = Postgres::copy_of(&primary, scene, name, host.namespace(), host.address()?)?;
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
    let awake = attack::knock(&internet, &neighbour, &east.host, &overlay)?;
    report.step("a neighbour of us-east routed the overlay to it and knocked at the database");

    east.host.kill()?;
    report.step("us-east: the daemon, which is the network's server too, was killed with -9");
    let asleep = attack::knock(&internet, &neighbour, &east.host, &overlay)?;
    report.step("the neighbour knocked again while no daemon ran");
    let restart = wait::now();
    east.host.run(&["up"])?;
    west.host.wait_for_peer(east.name)?;
    let gap = wait::now() - restart;
    report.step(format!("us-east: restarted; it answered us-west {} ms later", gap.as_millis()));
    wait_for_more_transactions(&mut transactions)?;
    report.step("transactions go on");

    let old = central.host.machine.address;
    central.host.machine.set_address(77)?;
    let change = wait::now();
    east.host.wait_for_peer(central.name)?;
    let gap = wait::now() - change;
    let new = central.host.machine.address;
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
    let mut region = |name, subnet| -> Result<Region> {
        let machine = internet.region(name, subnet)?;
        Ok(Region { name, host: Host::on(scene, machine, name, binary)? })
    };
    Ok([
        region("us-east", [192, 0, 2, 0])?,
        region("us-west", [198, 51, 100, 0])?,
        region("eu-central", [203, 0, 113, 0])?,
    ])
}

/// Makes the network in the first region and lets the others join it; the stranger tries a token that was used.
fn join_all(server: &Region, others: [&Region; 2], stranger: &Host, report: &mut Report) -> Result<Overlay> {
    let mut token = server.host.init(&["--name", server.name])?;
    let network = server.host.json(&["network", "show", "--json"])?;
    let prefix = |position: usize| {
        network["cidrs"][position].as_str().map(str::to_owned).context("the prefixes of the network")
    };
    let (mut v4, mut v6) = (prefix(0)?, prefix(1)?);
    if v4.contains(':') {
        std::mem::swap(&mut v4, &mut v6);
    }
    report.step(format!("us-east: `tombolo server init` made a network, {v4} and {v6}, and a token"));

    let mut evidence = Vec::new();
    for Region { name, host } in others {
        let start = wait::now();
        host.join(name, &token)?;
        host.wait_for_peer(server.name)?;
        let took = (wait::now() - start).as_millis();
        report.step(format!("{name}: `tombolo join`; {took} ms later us-east answered {}", host.address()?));
        let (code, said) = stranger.refusal("stranger", &token)?;
        let said = said.split(['\n', ';']).next().unwrap_or_default();
        evidence.push((code == 1 && said.contains("spent"), format!("{name}'s, tried again: {said}")));
        token = server.host.token(&[])?;
    }
    let [west, central] = others;
    west.host.wait_for_peer(central.name)?;
    let path = west.host.path(central.name).unwrap_or_default();
    report.step(format!("us-west and eu-central, which nobody has introduced by hand, talk: {path}"));
    let holds = evidence.iter().all(|(refused, _)| *refused);
    let evidence: Vec<String> = evidence.into_iter().map(|(_, line)| line).collect();
    report.claim("a token lets one machine in, and only once", holds, evidence.join("\n"));
    Ok(Overlay { v4, v6, server: server.host.addresses()? })
}

/// One on the link of each region, looking for the marker and for the control.
fn captures(internet: &Internet, regions: [&Region; 3]) -> Result<Vec<Capture>> {
    let needles = [MARKER.as_bytes(), CONTROL.as_bytes()];
    regions
        .iter()
        .map(|region| Capture::start_bulk(&internet.router, &region.host.machine.port, "", &needles))
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
    let member = attack::connects(regions[0].host.namespace(), standby.address)?;
    let (mut tried, mut answered) = (0, Vec::new());
    for target in regions {
        for from in regions.iter().map(|region| &region.host.machine).chain([neighbour]) {
            for address in [IpAddr::from(target.host.machine.address), target.host.machine.address6.into()] {
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
    let [east, west, central] = regions.map(|region| &region.host.machine);
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
