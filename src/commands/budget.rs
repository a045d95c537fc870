//! How much of a device's memory may be used where the user does not say.

use hesper::gpu::{DeviceInfo, DeviceKind};

/// Bytes to use of `device`, of a machine whose memory has `available` bytes left (`None`: not known).
///
/// A card's memory is its own: nine tenths leave room for the display and the driver. Other devices take theirs from the
/// machine, beside everything else that runs there, so they get three quarters of what they report and of what is free,
/// the lesser. Behind Venus the machine is another one, the host, of whose memory the guest sees only the report.
pub fn default_bytes(device: &DeviceInfo, available: Option<u64>) -> u64 {
    let heap = device.device_local_bytes();
    if device.kind == DeviceKind::Discrete && !device.software {
        return heap / 10 * 9;
    }
    let elsewhere = device.driver.to_lowercase().contains("venus") && !device.software;
    let available = available.filter(|_| !elsewhere).unwrap_or(u64::MAX);
    heap.min(available) / 4 * 3
}

/// Bytes of this machine's memory that a process may still take, by Linux's account and its control group's limit.
pub fn available_bytes() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_of(&text));
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max")
        .and_then(|limit| Some(limit.saturating_sub(number("/sys/fs/cgroup/memory.current")?)));
    memory.into_iter().chain(limit).min()
}

fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hesper::gpu::device::Heap;

    const GIB: u64 = 1 << 30;

    fn device(kind: DeviceKind, driver: &str) -> DeviceInfo {
        DeviceInfo {
            index: 0,
            name: "a device".to_owned(),
            driver: driver.to_owned(),
            driver_info: String::new(),
            kind,
            api_version: [1, 2, 0],
            heaps: vec![Heap { bytes: 40 * GIB, device_local: true }],
            subgroup_size: 32,
            side_by_side: 0,
            software: kind == DeviceKind::Cpu,
            missing: Vec::new(),
        }
    }

    #[test]
    fn only_a_card_has_memory_of_its_own() {
        assert_eq!(default_bytes(&device(DeviceKind::Discrete, "radv"), Some(GIB)), 36 * GIB);
        assert_eq!(default_bytes(&device(DeviceKind::Integrated, "radv"), Some(4 * GIB)), 3 * GIB);
        assert_eq!(default_bytes(&device(DeviceKind::Integrated, "radv"), None), 30 * GIB);
        assert_eq!(default_bytes(&device(DeviceKind::Cpu, "llvmpipe"), Some(4 * GIB)), 3 * GIB);
    }

    #[test]
    fn a_guests_memory_does_not_bound_its_hosts_gpu() {
        assert_eq!(default_bytes(&device(DeviceKind::Integrated, "venus"), Some(4 * GIB)), 30 * GIB);
        assert_eq!(default_bytes(&device(DeviceKind::Cpu, "venus"), Some(4 * GIB)), 3 * GIB);
    }

    #[test]
    fn linux_says_what_is_available() {
        assert_eq!(available_of("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_of("MemTotal: 9 kB\n"), None);
    }
}
