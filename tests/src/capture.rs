//! What is on a wire: a running `tcpdump` whose packets are searched as they come, and not kept.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use rustix::process::{Signal, kill_process};

use crate::{
    Result,
    command::{kill_group, pid_of},
    namespace::Namespace,
    wait::{wait_for, wait_until},
};

/// Lengths of the file header and of a packet's header in the pcap format.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// More than any packet that a link of ours carries.
const LONGEST_PACKET: usize = 1 << 20;

/// A capture that runs until [`Capture::stop`] or until it is dropped.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    counts: Arc<Counts>,
    packets_reader: Option<JoinHandle<Result>>,
    messages_reader: Option<JoinHandle<String>>,
}

#[derive(Debug, Default)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
    matches: Arc<Vec<AtomicU64>>,
}

impl Counts {
    fn new(needles: usize) -> Self {
        Self { matches: Arc::new((0..needles).map(|_| AtomicU64::new(0)).collect()), ..Self::default() }
    }
}

/// What a capture saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Packets that passed the filter, by the kernel's count.
    pub packets: u64,
    /// Bytes of those that were searched, link headers included.
    pub bytes: u64,
    /// For each needle, the packets that held it.
    pub matches: Vec<u64>,
    /// Packets that the kernel had no room for: they were not searched. Neither were those of the last
    /// moment before the end; whoever needs to know sends a needle last, and waits for it.
    pub dropped: u64,
}

impl Capture {
    /// Captures on `link` what passes `filter` (pcap syntax; empty for everything), and counts
    /// the packets that hold each of `needles`. Returns when the capture runs. Each packet is seen at
    /// once; for floods there is [`Capture::start_bulk`].
    ///
    /// # Errors
    /// When tcpdump does not start: no such link, a wrong filter, not installed.
    pub fn start(namespace: &Namespace, link: &str, filter: &str, needles: &[&[u8]]) -> Result<Self> {
        Self::start_with(
            namespace,
            link,
            filter,
            needles,
            &["--immediate-mode", "-s", "65535", "-B", "16384"],
        )
    }

    /// [`Capture::start`] for millions of packets: they are handed over in blocks, up to a second late.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn start_bulk(namespace: &Namespace, link: &str, filter: &str, needles: &[&[u8]]) -> Result<Self> {
        Self::start_with(namespace, link, filter, needles, &["-s", "0", "-B", "65536"])
    }

    /// [`Capture::start_bulk`] that shows `look` each packet, with its link header.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn start_each(
        namespace: &Namespace,
        link: &str,
        filter: &str,
        look: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        Self::start_looking(namespace, link, filter, &["-s", "0", "-B", "65536"], Counts::new(0), look)
    }

    fn start_with(
        namespace: &Namespace,
        link: &str,
        filter: &str,
        needles: &[&[u8]],
        options: &[&str],
    ) -> Result<Self> {
        let finders: Vec<_> = needles.iter().map(|needle| memmem::Finder::new(needle).into_owned()).collect();
        let counts = Counts::new(needles.len());
        let matches = Arc::clone(&counts.matches);
        Self::start_looking(namespace, link, filter, options, counts, move |packet| {
            count_matches(packet, &finders, &matches);
        })
    }

    fn start_looking(
        namespace: &Namespace,
        link: &str,
        filter: &str,
        options: &[&str],
        counts: Counts,
        look: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let mut child = namespace
            .command("tcpdump")
            .args(["-i", link, "-U", "-n", "-w", "-"])
            .args(options)
            .args(filter.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting tcpdump")?;
        let counts = Arc::new(counts);
        let packets_reader = child.stdout.take().map(|stdout| {
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || look_at_each(BufReader::with_capacity(1 << 20, stdout), &counts, look))
        });
        let mut messages = BufReader::new(child.stderr.take().context("tcpdump's messages")?);
        let mut capture = Self { child, counts, packets_reader, messages_reader: None };
        let mut first = String::new();
        while !first.contains("listening on") {
            let before = first.len();
            messages.read_line(&mut first)?;
            if first.len() == before {
                bail!("tcpdump on {link} of {}: {first}", namespace.name());
            }
        }
        capture.messages_reader = Some(std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = messages.read_to_string(&mut rest);
            rest
        }));
        Ok(capture)
    }

    /// How many packets passed the filter so far.
    pub fn packets(&self) -> u64 {
        self.counts.packets.load(Ordering::Acquire)
    }

    /// For each needle, how many packets held it so far.
    pub fn matches(&self) -> Vec<u64> {
        self.counts.matches.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }

    /// Waits until at least `count` packets were seen.
    ///
    /// # Errors
    /// When they do not come within `limit`.
    pub fn wait_for_packets(&self, count: u64, limit: Duration) -> Result {
        wait_until(&format!("{count} captured packets"), limit, || self.packets() >= count)
    }

    /// Waits until at least one packet with the needle of that position was seen.
    ///
    /// # Errors
    /// When none comes within `limit`.
    pub fn wait_for_match(&self, needle: usize, limit: Duration) -> Result {
        wait_until("a captured packet with the needle", limit, || self.matches().get(needle) > Some(&0))
    }

    /// Ends the capture and says what it saw; packets that were still on their way to us are counted
    /// but not searched.
    ///
    /// # Errors
    /// When tcpdump does not end, or its output made no sense.
    pub fn stop(mut self) -> Result<Report> {
        kill_process(pid_of(&self.child)?, Signal::INT).context("ending tcpdump")?;
        wait_for("the end of tcpdump", Duration::from_secs(20), || Ok(self.child.try_wait()?))?;
        if let Some(Ok(result)) = self.packets_reader.take().map(JoinHandle::join) {
            result?;
        }
        let messages = self.messages_reader.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Report {
            packets: closing_number(&messages, "received by filter")?,
            bytes: self.counts.bytes.load(Ordering::Acquire),
            matches: self.matches(),
            dropped: closing_number(&messages, "dropped by kernel")?,
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// Reads packets until the end of the stream.
fn look_at_each(mut stream: impl Read, counts: &Counts, mut look: impl FnMut(&[u8])) -> Result {
    let mut header = [0; FILE_HEADER];
    if stream.read_exact(&mut header).is_err() {
        return Ok(());
    }
    let mut packet = Vec::new();
    let mut header = [0; PACKET_HEADER];
    while stream.read_exact(&mut header).is_ok() {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        ensure!(length <= LONGEST_PACKET, "a captured packet of {length} bytes");
        packet.resize(length, 0);
        if stream.read_exact(&mut packet).is_err() {
            break;
        }
        look(&packet);
        counts.bytes.fetch_add(length as u64, Ordering::AcqRel);
        counts.packets.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}

fn count_matches(packet: &[u8], finders: &[memmem::Finder<'_>], matches: &[AtomicU64]) {
    for (finder, count) in finders.iter().zip(matches) {
        if finder.find(packet).is_some() {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Reads the number of "N packets …" in tcpdump's closing lines. Those "received by filter" include, on
/// Linux, those "dropped by kernel" and those that were not read any more.
fn closing_number(messages: &str, ending: &str) -> Result<u64> {
    messages
        .lines()
        .find_map(|line| line.strip_suffix(ending))
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("tcpdump did not say how many packets were {ending}: {messages}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(packets: &[&[u8]]) -> Vec<u8> {
        let mut stream = vec![0; FILE_HEADER];
        for packet in packets {
            let length = u32::try_from(packet.len()).expect("short packets").to_ne_bytes();
            stream.extend([0; 8]);
            stream.extend(length);
            stream.extend(length);
            stream.extend(*packet);
        }
        stream
    }

    #[test]
    fn needles_are_found_and_everything_is_counted() {
        let counts = Counts::new(2);
        let contents = stream(&[b"nothing here", b"xx needle xx", b"needleneedle"]);
        let finders = [memmem::Finder::new(b"needle"), memmem::Finder::new(b"other")];
        look_at_each(contents.as_slice(), &counts, |packet| count_matches(packet, &finders, &counts.matches))
            .expect("a good stream");
        assert_eq!(counts.packets.load(Ordering::Acquire), 3);
        assert_eq!(counts.matches[0].load(Ordering::Acquire), 2);
        assert_eq!(counts.matches[1].load(Ordering::Acquire), 0);
        assert_eq!(counts.bytes.load(Ordering::Acquire), 36);
    }

    #[test]
    fn the_counts_of_the_kernel_are_read() {
        let messages = "7 packets captured\n9 packets received by filter\n2 packets dropped by kernel\n";
        assert_eq!(closing_number(messages, "received by filter").expect("a number"), 9);
        assert_eq!(closing_number(messages, "dropped by kernel").expect("a number"), 2);
        assert!(closing_number("nothing", "dropped by kernel").is_err());
    }
}
