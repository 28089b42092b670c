//! The memory of this machine.

use std::path::Path;

use super::files;

/// The bytes of memory that a process can have: of the machine with its swap space, or the limit of the container. `None` if the
/// system does not say.
pub fn system_memory() -> Option<u64> {
    let information = files::read_text(Path::new("/proc/meminfo")).ok()?;
    let limit = files::read_text(Path::new("/sys/fs/cgroup/memory.max")).ok();
    let machine = machine(&information)?;
    Some(limit.and_then(|limit| limit.trim().parse().ok()).map_or(machine, |limit: u64| limit.min(machine)))
}

/// Memory and swap space of `/proc/meminfo`, which has kibibytes.
fn machine(information: &str) -> Option<u64> {
    let kibibytes = |name: &str| {
        let line = information.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kibibytes("MemTotal:")? + kibibytes("SwapTotal:").unwrap_or(0)) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_space_are_added() {
        assert_eq!(machine("MemTotal:       100 kB\nMemFree: 3 kB\nSwapTotal:  20 kB\n"), Some(120 << 10));
        assert_eq!(machine("MemTotal:       100 kB\n"), Some(100 << 10));
        assert_eq!(machine("MemTotal: much\n"), None);
    }
}
