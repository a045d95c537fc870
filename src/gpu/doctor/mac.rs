//! What a Mac needs for containers that reach its GPU: macOS, podman, krunkit, and a podman machine of the kind libkrun
//! with the right amount of memory. Pure, like all of the diagnosis.

use super::facts::{Facts, MacFacts, Machine};
use super::{Report, Severity};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// krunkit's: a guest has 36 bits of addresses, less 2 GiB (its `src/context.rs`).
const ADDRESSES_MIB: u64 = 63_488;

/// krunkit refuses more memory than this (the same file).
pub const MACHINE_MIB_MAX: u64 = 61_440;

/// Below this the image, its page cache and a server leave little room.
const MACHINE_MIB_MIN: u64 = 4_096;

/// krunkit needs it (its README).
const MACOS_MIN: u32 = 14;

/// The first release after the repair, on 2026-03-24, of a race in which a guest waits for ever for a fence.
const LIBKRUN_MIN: [u32; 2] = [1, 18];

/// Bytes of GPU memory that a guest of krunkit can map at once, from the guest's memory and, where known, the Mac's:
/// min(63,488 MiB − the guest's memory rounded up to the next GiB, the Mac's memory).
pub fn window_bytes(guest_bytes: u64, mac_bytes: Option<u64>) -> u64 {
    let rounded_mib = (guest_bytes / GIB).saturating_add(1).saturating_mul(1024);
    let window = ADDRESSES_MIB.saturating_sub(rounded_mib) * MIB;
    window.min(mac_bytes.unwrap_or(u64::MAX))
}

/// Explains the window, with figures. A guest sees a little less memory than it was given.
pub fn window_text(guest_bytes: u64, mac_bytes: Option<u64>) -> String {
    let window = window_bytes(guest_bytes, mac_bytes);
    let bound = if mac_bytes.is_some() { "" } else { ", or the Mac's memory if that is less" };
    format!(
        "the virtual machine has {:.1} GiB, so {:.1} GiB of GPU memory can be mapped at once (62 GiB less the machine's \
         memory and up to 1 GiB{bound}). Weights and cache need not be mapped: they lie in the Mac's memory, outside both",
        guest_bytes as f64 / GIB as f64,
        window as f64 / GIB as f64,
    )
}

fn at_least<const N: usize>(version: &str, least: [u32; N]) -> bool {
    let number = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("").parse::<u32>().ok();
    let found: Vec<u32> = version.split('.').map_while(number).collect();
    found.as_slice() >= &least[..]
}

pub fn examine_mac(report: &mut Report, facts: &Facts, mac: &MacFacts) {
    if facts.architecture != "aarch64" || !mac.chip.starts_with("Apple") {
        report.warn(
            "mac-intel",
            "macOS",
            format!("{} is no Apple Silicon: containers cannot reach its GPU", mac.chip),
            "Run Hesper natively (docs/macos.md).",
        );
        return;
    }
    if !at_least(&mac.version, [MACOS_MIN]) {
        report.warn(
            "macos-old",
            "macOS",
            format!("macOS {} is too old for krunkit, which needs {MACOS_MIN}", mac.version),
            "Update macOS, or run Hesper natively.",
        );
    }
    if mac.brew.is_none() {
        let cure = "Install it from https://brew.sh; podman's own installer, with krunkit in it, does as well.";
        report.add(Severity::Note, "brew-missing", "homebrew", "Homebrew is not installed", Some(cure.to_owned()));
    }
    let Some(podman) = &mac.podman else {
        report.warn("podman-missing", "podman", "podman is not installed", "brew install podman krunkit");
        return;
    };
    report.ok("podman", "podman", format!("podman {podman}"));
    examine_krunkit(report, mac);
    if !at_least(podman, [6]) && mac.provider.as_deref() != Some("libkrun") {
        let text =
            format!("podman {podman} makes machines of the kind applehv unless told otherwise, and hides others");
        let cure = "export CONTAINERS_MACHINE_PROVIDER=libkrun (Podman 6 does so by itself)".to_owned();
        report.add(Severity::Note, "provider-default", "podman", text, Some(cure));
    }
    examine_machines(report, facts, mac);
}

fn examine_krunkit(report: &mut Report, mac: &MacFacts) {
    let Some(krunkit) = &mac.krunkit else {
        report.warn(
            "krunkit-missing",
            "krunkit",
            "krunkit, which runs machines of the kind libkrun, is not installed; Homebrew's podman does not bring it",
            "brew install krunkit (on macOS 14: brew tap libkrun/krun first, and brew trust libkrun/krun)",
        );
        return;
    };
    report.ok("krunkit", "krunkit", format!("krunkit {krunkit}"));
    let libkrun = mac.packages.get("libkrun").or_else(|| mac.packages.get("libkrun-efi"));
    if let Some(libkrun) = libkrun.filter(|version| !at_least(version, LIBKRUN_MIN)) {
        report.warn(
            "libkrun-old",
            "krunkit",
            format!("libkrun {libkrun} is older than 1.18.0: a guest can lose a fence and wait for ever"),
            "brew upgrade libkrun krunkit, then podman machine stop and start",
        );
    }
}

fn examine_machines(report: &mut Report, facts: &Facts, mac: &MacFacts) {
    let Some(machines) = &mac.machines else {
        let cure = "Run it yourself: podman machine list".to_owned();
        report.add(Severity::Warning, "machine-unknown", "podman", "podman does not list its machines", Some(cure));
        return;
    };
    let init = "CONTAINERS_MACHINE_PROVIDER=libkrun podman machine init --memory 8192 --now (scripts/macos does it)";
    if machines.is_empty() {
        report.warn("machine-none", "podman", "there is no podman machine", init);
    }
    for machine in machines {
        let subject = format!("machine {}", machine.name);
        if machine.provider != "libkrun" {
            let text = format!("is of the kind {}, which has no GPU", machine.provider);
            let cure = format!("Its kind cannot be changed. Make another: {init}");
            let only = machines.iter().all(|machine| machine.provider != "libkrun");
            let severity = if only { Severity::Warning } else { Severity::Note };
            report.add(severity, "machine-applehv", subject, text, Some(cure));
            continue;
        }
        examine_memory(report, facts, machine, &subject);
        if !machine.running {
            let cure = format!("podman machine start {}", machine.name);
            report.add(Severity::Note, "machine-stopped", subject, "is not running", Some(cure));
        }
    }
}

fn examine_memory(report: &mut Report, facts: &Facts, machine: &Machine, subject: &str) {
    let mib = machine.memory_bytes / MIB;
    let set = |mib: u64| {
        let name = &machine.name;
        format!("podman machine stop {name}; podman machine set --memory {mib} {name}; podman machine start {name}")
    };
    if mib > MACHINE_MIB_MAX {
        let text = format!("has {mib} MiB, and krunkit starts none with more than {MACHINE_MIB_MAX} MiB");
        report.warn("machine-memory-large", subject, text, set(8192));
    } else if mib < MACHINE_MIB_MIN {
        let text = format!("has {mib} MiB, which is little for a server and its files' cache");
        report.warn("machine-memory-small", subject, text, set(8192));
    } else {
        report.ok("machine", subject, window_text(machine.memory_bytes, facts.memory_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_what_krunkit_computes() {
        // 8 GiB counts as 9: krunkit rounds up even what is whole.
        assert_eq!(window_bytes(8 * GIB, None), (63_488 - 9 * 1024) * MIB);
        assert_eq!(window_bytes(8 * GIB - 1, None), (63_488 - 8 * 1024) * MIB);
        assert_eq!(window_bytes(8 * GIB, Some(16 * GIB)), 16 * GIB);
        assert_eq!(window_bytes(MACHINE_MIB_MAX * MIB, None), 1024 * MIB);
        assert_eq!(window_bytes(u64::MAX, None), 0);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(
            at_least("14.0", [14]) && at_least("26.1", [14]) && at_least("1.18.0", [1, 18]) && at_least("6.0.1", [6])
        );
        assert!(!at_least("13.7.1", [14]) && !at_least("1.9.8", [1, 18]) && !at_least("", [14]) && !at_least("x", [1]));
    }
}
