//! One run: rounds in which every load meets every contender in turn, so that what changes on the
//! machine in the meantime meets all of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use tombolo_tests::interrupt;
use tombolo_tests::wait::now;

use crate::contender::Contender;
use crate::results::{Figures, Results, Sample};
use crate::{Result, accounting, document, micro, report, scenario, stage};

/// How often a sample that others disturbed is taken again.
const RETRIES: u32 = 2;
/// How long the machine is watched for others at a time.
const WATCH: Duration = Duration::from_millis(400);
/// Share of the processors in use below which the machine counts as idle.
const IDLE: f64 = 0.08;
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// What can be chosen with `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Small questions and answers over TCP, with and without a bulk stream beside them.
    RoundTrips,
    /// TCP throughput, processor time and memory.
    Transfers,
    /// UDP datagrams of 64 bytes.
    SmallPackets,
    /// TCP throughput on a wire without UDP segmentation.
    NoUdpSegmentation,
    /// Ten thousand configured peers, a thousand of them active.
    Peers,
    /// A flood of junk initiations.
    Flood,
    /// Very many genuine handshakes.
    Handshakes,
    /// Loss, reordering and duplication.
    Impaired,
    /// Wires that carry packets of 1280 and of 9000 bytes.
    Underlays,
    /// One busy flow through one engine, with and without idle workers that help.
    Workers,
    /// Through a hub, and to it, beside a tunnel between two machines.
    Hub,
    /// Small questions and answers, with and without `busy_poll`.
    BusyPoll,
    /// A network by membership: joins, look-ups, memory, the first byte, the relay.
    Joining,
    /// The cost of each step of the data path.
    Steps,
}

/// What is to be measured, and how.
#[derive(Debug)]
pub struct Plan {
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// How often each is measured.
    pub rounds: u32,
    /// Length of each TCP transfer in seconds.
    pub seconds: u32,
    /// What is measured: everything, if empty.
    pub only: Vec<Part>,
    /// Few and short samples.
    pub quick: bool,
    /// Whom the ratios refer to.
    pub base: String,
    /// Share of the processors that others may take during a sample.
    pub max_foreign: f64,
    /// Where all figures go.
    pub json: Option<PathBuf>,
    /// Where the tables go, besides standard output.
    pub markdown: Option<PathBuf>,
    /// A document with a place for the tables.
    pub into: Option<PathBuf>,
}

impl Plan {
    /// Whether this is to be measured. A quick run leaves out what nobody asked for and few changes touch.
    pub fn includes(&self, part: Part) -> bool {
        if self.only.is_empty() { !self.quick || part != Part::Steps } else { self.only.contains(&part) }
    }

    /// The contender of this name, if it takes part.
    pub fn contender(&self, name: &str) -> Option<&Contender> {
        self.contenders.iter().find(|contender| contender.name == name)
    }

    /// `long` in a full run, `short` in a quick one.
    pub fn span(&self, long: Duration, short: Duration) -> Duration {
        if self.quick { short } else { long }
    }
}

/// A run in progress.
#[derive(Debug)]
pub struct Suite<'a> {
    /// What is to be measured.
    pub plan: &'a Plan,
    /// What was measured.
    pub results: Results,
    /// The round, from 0.
    pub round: u32,
    /// The running daemons whose processor time belongs to what is measured.
    pub daemons: Vec<u32>,
}

/// Measures, prints the tables, and writes the files. Whatever was measured before an interruption is
/// reported.
///
/// # Errors
/// On an interruption, or when a file cannot be written.
pub fn run(plan: &Plan) -> Result {
    let contenders = plan.contenders.iter().map(|contender| (contender.name.clone(), contender.version()));
    let setting =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).map(|text| text.trim().to_owned());
    let results = Results {
        kernel: setting("kernel/osrelease")?,
        congestion_control: setting("net/ipv4/tcp_congestion_control")?,
        processors: accounting::processors(),
        processor_name: accounting::processor_name(),
        rounds: plan.rounds,
        seconds: plan.seconds,
        contenders: contenders.collect(),
        ..Results::default()
    };
    let mut suite = Suite { plan, results, round: 0, daemons: Vec::new() };
    let measured = suite.rounds();
    let text = report::report(&suite.results, &plan.base);
    print!("{text}");
    suite.write_json()?;
    if let Some(path) = &plan.markdown {
        std::fs::write(path, &text)?;
    }
    if let Some(path) = &plan.into {
        document::insert(path, &text)?;
    }
    measured
}

impl Suite<'_> {
    fn rounds(&mut self) -> Result {
        let start = now();
        for round in 0..self.plan.rounds {
            self.round = round;
            stage::run(self)?;
            for (part, scenario) in scenario::ALL {
                if self.plan.includes(part) {
                    self.daemons.clear();
                    if let Err(error) = scenario(self) {
                        interrupt::check()?;
                        let name = part.to_possible_value().map(|value| value.get_name().to_owned());
                        self.fail(&name.unwrap_or_default(), "set-up", &error);
                    }
                }
            }
            eprintln!("round {} of {} ended after {:.0?}", round + 1, self.plan.rounds, start.elapsed());
        }
        if self.plan.includes(Part::Steps) {
            micro::measure(&mut self.results.steps)?;
        }
        Ok(())
    }

    /// Takes a sample until others leave the machine alone, a few times at most, and keeps the quietest.
    ///
    /// # Errors
    /// On an interruption alone: a failure of `job` is noted in the results.
    pub fn sample(&mut self, load: &str, subject: &str, mut job: impl FnMut() -> Result<Figures>) -> Result {
        let mut best: Option<Sample> = None;
        for _ in 0..=RETRIES {
            if self.plan.max_foreign < 1.0 {
                wait_for_idle_machine()?;
            }
            let (start, all, ours) = (now(), accounting::machine_time()?, self.related_time()?);
            let outcome = job();
            let ours = self.related_time()?.saturating_sub(ours);
            let foreign = (accounting::machine_time()? - all).saturating_sub(ours);
            let share = foreign.as_secs_f64() / start.elapsed().as_secs_f64() / accounting::processors();
            interrupt::check()?;
            match outcome {
                Ok(figures) => {
                    let undisturbed = share < self.plan.max_foreign;
                    if best.as_ref().is_none_or(|best| best.error.is_some() || share < best.foreign_share) {
                        best = Some(self.entry(load, subject, figures, share, undisturbed));
                    }
                    if undisturbed {
                        break;
                    }
                }
                // What does not work will not work the next time.
                Err(error) if best.is_none() => {
                    self.fail(load, subject, &error);
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        best.into_iter().for_each(|sample| self.add(sample));
        Ok(())
    }

    /// Adds figures that others cannot disturb.
    pub fn note(&mut self, load: &str, subject: &str, figures: Result<Figures>) {
        match figures {
            Ok(figures) => self.add(self.entry(load, subject, figures, 0.0, true)),
            Err(error) => self.fail(load, subject, &error),
        }
    }

    /// Notes why there are no figures.
    pub fn fail(&mut self, load: &str, subject: &str, error: &anyhow::Error) {
        let sample = self.entry(load, subject, Figures::new(), 0.0, false);
        self.add(Sample { error: Some(format!("{error:#}")), ..sample });
    }

    fn entry(
        &self,
        load: &str,
        subject: &str,
        figures: Figures,
        foreign_share: f64,
        undisturbed: bool,
    ) -> Sample {
        let (load, subject) = (load.to_owned(), subject.to_owned());
        Sample { round: self.round, load, subject, figures, foreign_share, undisturbed, error: None }
    }

    fn add(&mut self, sample: Sample) {
        eprintln!("round {} of {}: {}", self.round + 1, self.plan.rounds, report::line(&sample));
        self.results.samples.push(sample);
    }

    /// Processor time of everything that belongs to the measurement.
    fn related_time(&self) -> Result<Duration> {
        // A daemon that ended is among our own children that did.
        let daemons: Duration = self.daemons.iter().flat_map(|&pid| accounting::process_time(pid)).sum();
        Ok(daemons + accounting::own_time()? + accounting::packet_thread_time())
    }

    fn write_json(&self) -> Result {
        if let Some(path) = &self.plan.json {
            let value = report::with_summary(&self.results)?;
            std::fs::write(path, serde_json::to_vec_pretty(&value)?)?;
        }
        Ok(())
    }
}

/// Waits for other work on the machine to end, for half a minute at most: what is still disturbed then
/// is told from the foreign share.
fn wait_for_idle_machine() -> Result {
    let start = now();
    while start.elapsed() < IDLE_LIMIT {
        interrupt::check()?;
        let before = accounting::machine_time()?;
        std::thread::sleep(WATCH);
        let busy = (accounting::machine_time()? - before).as_secs_f64() / WATCH.as_secs_f64();
        if busy / accounting::processors() < IDLE {
            break;
        }
    }
    Ok(())
}
