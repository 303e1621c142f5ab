//! Memory of this process and of the machine, as Linux tells it.

/// The most memory that was resident at a time, in bytes; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    of("/proc/self/status", "VmHWM:").unwrap_or(0)
}

/// The memory that is resident now, in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    of("/proc/self/status", "VmRSS:").unwrap_or(0)
}

/// The memory that can be had before the system swaps or a container's limit ends the process.
pub fn available_bytes() -> Option<u64> {
    let system = of("/proc/meminfo", "MemAvailable:")?;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    // Version 2 of control groups, and version 1.
    let groups = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    let left = groups
        .iter()
        .filter_map(|(limit, used)| {
            // What was read from files counts as used but gives way.
            let stat = used
                .rsplit_once('/')
                .map_or(String::new(), |(dir, _)| dir.to_owned() + "/memory.stat");
            let text = std::fs::read_to_string(stat).unwrap_or_default();
            let cache = text.lines().find_map(|l| l.strip_prefix("inactive_file "));
            let cache = cache.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
            Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(cache)))
        })
        .min();
    Some(left.map_or(system, |left| left.min(system)))
}

/// A line of kibibytes, in bytes.
fn of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_uses_memory() {
        assert!(super::peak_bytes() > 100_000);
    }

    #[test]
    fn what_is_resident_is_below_the_peak() {
        assert!(super::resident_bytes() <= super::peak_bytes());
    }
}
