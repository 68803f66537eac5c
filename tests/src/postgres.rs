//! PostgreSQL as Debian packages it: a primary, and standbys that stream from it.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::{
    Result, Scene,
    command::{run, run_within},
    namespace::Namespace,
    process::Process,
    wait::{wait_for, wait_in_cleanup},
};

/// The port of every server here.
pub const PORT: u16 = 5432;

/// How long a copy of the whole database, or a load of it, may take.
const BULK_LIMIT: Duration = Duration::from_secs(180);

/// A server that listens on one address only.
#[derive(Debug)]
pub struct Postgres {
    /// Its name, and its `application_name` when it streams from a primary.
    pub name: String,
    /// The address that it is bound to.
    pub address: IpAddr,
    namespace: Namespace,
    programs: PathBuf,
    data: PathBuf,
    process: Option<Process>,
}

impl Postgres {
    /// A new, empty database cluster, not started. Clients in `trusted`, a CIDR, need no password: the
    /// overlay has told already who they are.
    ///
    /// # Errors
    /// When PostgreSQL is not installed.
    pub fn create(
        scene: &Scene,
        name: &str,
        namespace: &Namespace,
        address: IpAddr,
        trusted: &str,
    ) -> Result<Self> {
        let server = Self::prepare(scene, name, namespace, address)?;
        run(server.program("initdb").args(["--no-sync", "--auth=trust", "-D"]).arg(&server.data))?;
        let settings = "unix_socket_directories = ''\nmax_wal_senders = 8\nwal_keep_size = 2GB\nmax_wal_size = 4GB\n\
             shared_buffers = 256MB\nhot_standby_feedback = on\nwal_receiver_status_interval = 1s\n";
        append(&server.data.join("postgresql.conf"), settings)?;
        let access = format!("host all all {trusted} trust\nhost replication all {trusted} trust\n");
        append(&server.data.join("pg_hba.conf"), &access)?;
        server.bind()?;
        Ok(server)
    }

    /// A standby of `primary`, copied from it through the network, not started.
    ///
    /// # Errors
    /// When the primary cannot be reached.
    pub fn copy_of(
        primary: &Self,
        scene: &Scene,
        name: &str,
        namespace: &Namespace,
        address: IpAddr,
    ) -> Result<Self> {
        let server = Self::prepare(scene, name, namespace, address)?;
        let source = format!("host={} port={PORT} user=postgres application_name={name}", primary.address);
        let mut command = server.program("pg_basebackup");
        command.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]);
        run_within(command.args(["-d", &source, "-D"]).arg(&server.data), BULK_LIMIT)?;
        server.bind()?;
        Ok(server)
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not start, with its log.
    pub fn start(&mut self, scene: &Scene) -> Result {
        let log = format!("postgres-{}", self.name);
        let process = Process::spawn(scene, &log, self.program("postgres").arg("-D").arg(&self.data))?;
        let process = self.process.insert(process);
        process.wait_for_log("ready to accept", Duration::from_secs(60))
    }

    /// Runs SQL as the superuser and returns the rows, unaligned, fields separated by `|`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let mut command = self.client("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]);
        Ok(run_within(&mut command, BULK_LIMIT)?.trim().to_owned())
    }

    /// Fills the tables of pgbench: 100 000 accounts for each unit of `scale`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn load(&self, scale: u32) -> Result {
        let mut command = self.client("pgbench");
        command.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]);
        run_within(&mut command, BULK_LIMIT).map(drop)
    }

    /// Starts pgbench's transactions against this server, from `client`, for `seconds`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_transactions(&self, scene: &Scene, client: &Self, seconds: u64) -> Result<Process> {
        let mut command = client.program("pgbench");
        command.args(["-h", &self.address.to_string(), "-U", "postgres", "-c", "4", "-j", "1", "-n"]);
        command.args(["-P", "1", "-T", &seconds.to_string(), "postgres"]);
        Process::spawn(scene, "pgbench", &mut command)
    }

    /// One line for each standby that streams from this server: name, process number, start and TCP port of its connection.
    /// Equal lines mean the same connection.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn replication_connections(&self) -> Result<Vec<String>> {
        let rows = self.sql(
            "SELECT application_name, pid, backend_start, client_addr, client_port FROM pg_stat_replication \
             WHERE state = 'streaming' ORDER BY application_name",
        )?;
        Ok(rows.lines().map(str::to_owned).collect())
    }

    /// Waits until `count` standbys stream from this server.
    ///
    /// # Errors
    /// When they do not within `limit`.
    pub fn wait_for_standbys(&self, count: usize, limit: Duration) -> Result {
        wait_for(&format!("{count} streaming standbys"), limit, || {
            Ok((self.replication_connections()?.len() == count).then_some(()))
        })
    }

    /// Waits until `standby` has replayed all that this server has written so far.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub fn wait_until_replayed(&self, standby: &Self, limit: Duration) -> Result {
        let position = self.sql("SELECT pg_current_wal_lsn()")?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn");
        wait_for(&format!("{} to replay up to {position}", standby.name), limit, || {
            Ok((standby.sql(&question)? == "t").then_some(()))
        })
    }

    /// A line with the number of rows and a checksum of all rows of `table`, whatever their order.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn checksum(&self, table: &str) -> Result<String> {
        self.sql(&format!(
            "SELECT count(*) || ' rows, ' || to_hex(coalesce(bit_xor(hashtextextended(t::text, 0)), 0)) FROM {table} t"
        ))
    }

    /// Ends the server at once, as a crash does, and waits.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::QUIT)?;
            process.wait(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Whether the server has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    fn prepare(scene: &Scene, name: &str, namespace: &Namespace, address: IpAddr) -> Result<Self> {
        let data = scene.path(&format!("postgres-{name}"));
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        run(Command::new("chown").arg("postgres:postgres").arg(&data))?;
        Ok(Self {
            name: name.to_owned(),
            address,
            namespace: namespace.clone(),
            programs: programs()?,
            data,
            process: None,
        })
    }

    /// Binds the server to its own address and to nothing else; of two values the later one counts.
    fn bind(&self) -> Result {
        let settings = format!("listen_addresses = '{}'\nport = {PORT}\n", self.address);
        append(&self.data.join("postgresql.conf"), &settings)
    }

    /// A program of PostgreSQL, as its own user: it refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = self.namespace.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
        command.arg(self.programs.join(name)).current_dir("/");
        command
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.program(name);
        command.args(["-h", &self.address.to_string(), "-U", "postgres"]);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An orderly end gives the shared memory back; a process that lingers is killed by its owner.
        if let Some(process) = &mut self.process {
            let _ = process.signal(Signal::QUIT);
            wait_in_cleanup(Duration::from_secs(5), || !process.is_running());
        }
    }
}

/// The folder of the newest installed version.
///
/// # Errors
/// When there is none.
pub fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    versions
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .max()
        .map(|(_, path)| path.join("bin"))
        .context("PostgreSQL is not installed")
}

fn append(path: &Path, text: &str) -> Result {
    let mut contents = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(!contents.is_empty(), "{} is empty", path.display());
    contents.push_str(text);
    // Written in place: the file keeps its owner.
    fs::write(path, contents)?;
    Ok(())
}
