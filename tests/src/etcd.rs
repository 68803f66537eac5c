//! etcd as Debian packages it: members of one cluster, each bound to its overlay address.

use std::{net::IpAddr, path::PathBuf, process::Command, time::Duration};

use crate::{
    Result, Scene,
    command::{output, run},
    namespace::Namespace,
    process::Process,
};

/// How long `etcdctl` may take: an answer needs a round trip, an election a second or two.
const LIMIT: Duration = Duration::from_secs(10);

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its overlay address.
    pub address: IpAddr,
    namespace: Namespace,
    data: PathBuf,
    process: Option<Process>,
}

/// What `etcdctl endpoint status` says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The number of the member that it follows; zero for none.
    pub leader: u64,
    /// Its own number.
    pub member: u64,
    /// The term: it grows with every election.
    pub term: u64,
}

impl Member {
    /// A member that was never started.
    pub fn new(scene: &Scene, name: &str, namespace: &Namespace, address: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            namespace: namespace.clone(),
            data: scene.path(&format!("etcd-{name}")),
            process: None,
        }
    }

    /// Starts the member of a cluster whose members are `members`, and does not wait: it is ready only
    /// when most of them run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, scene: &Scene, members: &[(String, IpAddr)]) -> Result {
        let cluster: Vec<String> =
            members.iter().map(|(name, address)| format!("{name}=http://{}", at(*address, 2380))).collect();
        let mut command = self.namespace.command("etcd");
        command.args(["--name", &self.name, "--data-dir"]).arg(&self.data);
        for (option, port) in [
            ("--listen-peer-urls", 2380),
            ("--initial-advertise-peer-urls", 2380),
            ("--listen-client-urls", 2379),
            ("--advertise-client-urls", 2379),
        ] {
            command.args([option, &format!("http://{}", at(self.address, port))]);
        }
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "tombolo"]);
        self.process = Some(Process::spawn(scene, &format!("etcd-{}", self.name), &mut command)?);
        Ok(())
    }

    /// Writes a key through this member; only a cluster with a leader does that.
    ///
    /// # Errors
    /// When it has no leader or does not answer.
    pub fn put(&self, key: &str, value: &str) -> Result {
        run(&mut self.command(&["put", key, value])).map(drop)
    }

    /// The value of a key, confirmed by most members; empty when there is none.
    ///
    /// # Errors
    /// As [`Member::put`].
    pub fn get(&self, key: &str) -> Result<String> {
        Ok(run(&mut self.command(&["get", key, "--print-value-only"]))?.trim().to_owned())
    }

    /// Who leads, as this member sees it; `None` while it does not answer.
    ///
    /// # Errors
    /// When `etcdctl` cannot be started.
    pub fn state(&self) -> Result<Option<State>> {
        let output = output(&mut self.command(&["endpoint", "status", "-w", "json"]), LIMIT)?;
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return Ok(None) };
        let status = &json[0]["Status"];
        let number = |value: &serde_json::Value| value.as_u64();
        Ok(number(&status["header"]["member_id"]).map(|member| State {
            leader: number(&status["leader"]).unwrap_or(0),
            member,
            term: number(&status["raftTerm"]).unwrap_or(0),
        }))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://{}", at(self.address, 2379)));
        command.args(["--command-timeout=3s", "--dial-timeout=2s"]).args(arguments);
        command
    }
}

fn at(address: IpAddr, port: u16) -> std::net::SocketAddr {
    (address, port).into()
}
