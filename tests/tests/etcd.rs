//! A cluster of three etcd members across the regions, bound to overlay addresses only.
//!
//! ```text
//!   east 192.0.2.10 ────┐          ┌──── 198.51.100.10 west
//!   10.62.0.1           ├─ router ─┤     10.62.0.2
//!                       │          └──── 203.0.113.10 central
//!                       │                10.62.0.3
//! ```

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, ensure};
use tombolo_tests::{
    Result, Scene,
    etcd::{Member, State},
    machine_wide,
    site::{Site, sites},
    topology::Internet,
    wait::{stays_true, wait_for},
};

const LIMIT: Duration = Duration::from_secs(60);

struct Cluster {
    internet: Internet,
    sites: [Site; 3],
    members: Vec<Member>,
}

/// All cold and at once: each member starts when its own address can be bound, and waits for nobody.
fn cold_start(scene: &Scene) -> Result<Cluster> {
    let (internet, mut sites) = sites::<3>(scene)?;
    for site in &mut sites {
        site.node.spawn(scene)?;
    }
    let list: Vec<(String, IpAddr)> =
        sites.iter().map(|site| (site.node.name.clone(), site.node.address.into())).collect();
    let mut members = Vec::new();
    for site in &sites {
        site.node.wait(&["--timeout", "20s"])?;
        let mut member =
            Member::new(scene, &site.node.name, &site.machine.namespace, site.node.address.into());
        member.start(scene, &list)?;
        members.push(member);
    }
    let cluster = Cluster { internet, sites, members };
    cluster.wait_for_leader(&[0, 1, 2])?;
    Ok(cluster)
}

impl Cluster {
    /// Waits until the members at these positions follow one leader among them; its position and the term.
    fn wait_for_leader(&self, positions: &[usize]) -> Result<(usize, u64)> {
        wait_for("one leader", LIMIT, || {
            let mut states = Vec::new();
            for &position in positions {
                match self.members[position].state()? {
                    Some(state) => states.push((position, state)),
                    None => return Ok(None),
                }
            }
            Ok(common_leader(&states))
        })
    }

    fn cut(&self, position: usize, state: &str) -> Result {
        let port = &self.sites[position].machine.port;
        self.internet.router.ip(&format!("link set {port} {state}")).map(drop)
    }

    fn put_and_get(&self, through: usize, at: usize, value: &str) -> Result {
        wait_for(&format!("a write of {value:?}"), LIMIT, || {
            Ok(self.members[through].put("key", value).ok())
        })?;
        let found = self.members[at].get("key").with_context(|| format!("reading {value:?}"))?;
        ensure!(found == value, "{found:?} was read, not {value:?}");
        Ok(())
    }
}

fn common_leader(states: &[(usize, State)]) -> Option<(usize, u64)> {
    let (_, first) = states.first()?;
    let agreed = states.iter().all(|(_, state)| state.leader == first.leader && state.term == first.term);
    let position = states.iter().find(|(_, state)| state.member == first.leader)?.0;
    agreed.then_some((position, first.term))
}

#[test]
fn a_cluster_started_cold_and_at_once_finds_a_leader() {
    machine_wide("a_cluster_started_cold_and_at_once_finds_a_leader", |scene| {
        let cluster = cold_start(scene)?;
        cluster.put_and_get(0, 2, "written in the east")
    });
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_comes_back() {
    machine_wide("a_leader_that_is_cut_off_is_replaced_and_comes_back", |scene| {
        let cluster = cold_start(scene)?;
        let (leader, term) = cluster.wait_for_leader(&[0, 1, 2])?;
        let others: Vec<usize> = (0..3).filter(|position| *position != leader).collect();
        cluster.cut(leader, "down")?;
        let (_, next_term) = cluster.wait_for_leader(&others)?;
        ensure!(next_term > term, "no election: term {term}, then {next_term}");
        cluster.put_and_get(others[0], others[1], "written without the old leader")?;
        cluster.cut(leader, "up")?;
        cluster.wait_for_leader(&[0, 1, 2])?;
        cluster.put_and_get(leader, others[0], "written by the old leader")
    });
}

#[test]
fn restarts_of_tombolo_cause_no_election() {
    machine_wide("restarts_of_tombolo_cause_no_election", |scene| {
        let mut cluster = cold_start(scene)?;
        let before = cluster.wait_for_leader(&[0, 1, 2])?;
        for position in 0..3 {
            let node = &mut cluster.sites[position].node;
            node.kill()?;
            node.spawn(scene)?;
            node.wait(&["--timeout", "20s"])?;
            cluster.put_and_get(position, (position + 1) % 3, &format!("after restart {position}"))?;
        }
        // Longer than an election timeout (1 s): an election that was due would have been held.
        stays_true("one leader, one term", Duration::from_secs(2), || {
            cluster.wait_for_leader(&[0, 1, 2]).is_ok_and(|now| now == before)
        })
    });
}
