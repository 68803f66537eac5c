//! Processor time and memory, from `/proc` (`proc(5)`).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;

use crate::Result;

/// The length of a tick in `/proc`: `USER_HZ`, 100 on all architectures that Tombolo runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process, its threads included, in user and kernel mode.
///
/// # Errors
/// When there is no such process.
pub fn process_time(pid: u32) -> Result<Duration> {
    stat_times(&pid.to_string(), 2)
}

/// Processor time of this process and of its children that ended.
///
/// # Errors
/// Without `/proc`.
pub fn own_time() -> Result<Duration> {
    stat_times("self", 4)
}

/// The first `fields` of utime, stime, cutime and cstime: fields 14 to 17 of `/proc/PID/stat`.
fn stat_times(pid: &str, fields: usize) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The second field is a name in parentheses that may hold anything.
    let after_name = text.rsplit_once(')').context("a stat file without a name")?.1;
    let ticks: u32 = after_name.split_whitespace().skip(11).take(fields).flat_map(str::parse::<u32>).sum();
    Ok(TICK * ticks)
}

/// Time that all processors together were busy, interrupts included, since the machine started.
///
/// # Errors
/// Without `/proc`.
pub fn machine_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let fields: Vec<u32> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; steal is not ours to count.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum::<u32>();
    Ok(TICK * busy)
}

/// Time of the kernel's threads that deliver packets when interrupts cannot keep up: part of what is
/// measured, whoever it is booked to.
pub fn packet_thread_time() -> Duration {
    let Ok(processes) = fs::read_dir("/proc") else { return Duration::ZERO };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
        })
        .filter_map(|pid| stat_times(&pid, 2).ok())
        .sum()
}

/// Processor time of the threads of a process by their names, to the nanosecond
/// (`/proc/PID/task/TID/schedstat`). Threads of one name count together.
///
/// # Errors
/// When there is no such process.
pub fn thread_times(pid: u32) -> Result<BTreeMap<String, Duration>> {
    let folder = format!("/proc/{pid}/task");
    let mut times = BTreeMap::<_, Duration>::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))?.flatten() {
        // Of a thread that has just ended there is nothing to read.
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let nanoseconds = read("schedstat").split_whitespace().next().and_then(|text| text.parse().ok());
        *times.entry(read("comm").trim().to_owned()).or_default() +=
            Duration::from_nanos(nanoseconds.unwrap_or(0));
    }
    Ok(times)
}

/// What the processors call themselves, with family and model, which tell the generation where a virtual machine hides the name.
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or_default().trim().to_owned()
    };
    format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model"))
}

/// Number of processors.
pub fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

/// Resident memory of a process in MB (10^6 bytes): `VmRSS` for now, `VmHWM` for the most it ever was.
///
/// # Errors
/// When there is no such process.
pub fn resident_megabytes(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .map(|kib: f64| kib * 1024.0 / 1e6)
        .with_context(|| format!("no {field} in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_time_and_memory() {
        let own = std::process::id();
        assert!(process_time(own).unwrap() <= own_time().unwrap());
        assert!(own_time().unwrap() <= machine_time().unwrap());
        let (now, most) =
            (resident_megabytes(own, "VmRSS").unwrap(), resident_megabytes(own, "VmHWM").unwrap());
        assert!(now > 0.0 && most > 0.0);
        assert!(resident_megabytes(own, "VmNothing").is_err());
        assert!(process_time(u32::MAX).is_err());
        let thread = fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(thread_times(own).unwrap()[thread.trim()] > Duration::ZERO);
        assert!(thread_times(u32::MAX).is_err());
    }
}
