//! Which device to run on, decided on plain data. The index a driver gives a device says nothing about its worth.

use super::{DeviceInfo, DeviceKind, Error, Surroundings};

/// A device and the reason for it, for the first line that is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Into the list chosen from.
    pub index: usize,
    /// As `the only device that is not software`.
    pub reason: String,
}

/// Chooses by `selector`: `auto`, an index, or part of a device's or driver's name, in any case. `auto` prefers discrete,
/// then integrated, then virtual devices; of equals one that MoltenVK drives before the
/// same one driven by KosmicKrisp (what runs natively is then what runs behind a virtual machine), then the one with more
/// memory, then the first. It takes
/// software only where allowed and nothing else is usable; a device named explicitly is taken as it is.
pub fn choose(
    devices: &[DeviceInfo],
    selector: &str,
    allow_software: bool,
    surroundings: &Surroundings,
) -> Result<Choice, Error> {
    if devices.is_empty() {
        return Err(Error::NoDriver { advice: surroundings.driver_advice() });
    }
    let selector = selector.trim();
    if selector.is_empty() || selector.eq_ignore_ascii_case("auto") {
        return choose_auto(devices, allow_software, surroundings);
    }
    let device = find(devices, selector)?;
    if !device.missing.is_empty() {
        return Err(lacks(device));
    }
    Ok(Choice { index: device.index, reason: format!("chosen by --device {selector}") })
}

fn choose_auto(devices: &[DeviceInfo], allow_software: bool, surroundings: &Surroundings) -> Result<Choice, Error> {
    let rank = |device: &&DeviceInfo| {
        let kind = if device.software { DeviceKind::Cpu } else { device.kind };
        (kind, is_kosmickrisp(device), std::cmp::Reverse(device.device_local_bytes()), device.index)
    };
    let complete = || devices.iter().filter(|device| device.missing.is_empty());
    let Some(device) = complete().filter(|device| allow_software || !device.software).min_by_key(rank) else {
        return Err(why_none(devices, surroundings));
    };
    let hardware = devices.iter().filter(|device| !device.software).count();
    let reason = if devices.len() == 1 {
        "the only device".to_owned()
    } else if device.software {
        "software is allowed, and no other device is usable".to_owned()
    } else if hardware == 1 {
        "the only device that is not software".to_owned()
    } else if complete().filter(|other| !other.software).count() == 1 {
        "the only device with all that the kernels need".to_owned()
    } else {
        format!("{} of {hardware}; --device chooses another", superlative(device.kind))
    };
    Ok(Choice { index: device.index, reason })
}

fn is_kosmickrisp(device: &DeviceInfo) -> bool {
    device.driver.eq_ignore_ascii_case("kosmickrisp")
}

fn superlative(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Discrete => "the largest discrete device",
        DeviceKind::Integrated => "the first integrated device",
        _ => "the first device",
    }
}

/// No device can be taken: hardware that falls short is worth more words than software that would do.
fn why_none(devices: &[DeviceInfo], surroundings: &Surroundings) -> Error {
    let hardware = devices.iter().find(|device| !device.software);
    let software = devices.iter().find(|device| device.software && device.missing.is_empty());
    match (hardware, software) {
        (None, Some(software)) => Error::OnlySoftware {
            name: software.label().to_string(),
            advice: surroundings.reach_advice().unwrap_or_else(|| {
                format!("For a GPU, install its Vulkan driver ({}).", surroundings.install_command())
            }),
        },
        (Some(hardware), _) => lacks(hardware),
        (None, None) => lacks(&devices[0]),
    }
}

fn lacks(device: &DeviceInfo) -> Error {
    Error::Lacks { name: device.label().to_string(), missing: device.missing.join(", ") }
}

fn find<'a>(devices: &'a [DeviceInfo], selector: &str) -> Result<&'a DeviceInfo, Error> {
    // A number too large to be an index may be part of a name, as in `3090`.
    if let Some(device) = selector.parse().ok().and_then(|index: usize| devices.iter().find(|d| d.index == index)) {
        return Ok(device);
    }
    let wanted = selector.to_lowercase();
    if let Some(device) = devices.iter().find(|device| device.name.to_lowercase() == wanted) {
        return Ok(device);
    }
    let matches: Vec<&DeviceInfo> = devices
        .iter()
        .filter(|device| device.name.to_lowercase().contains(&wanted) || device.driver.to_lowercase().contains(&wanted))
        .collect();
    match matches.as_slice() {
        [device] => Ok(device),
        [] => Err(Error::NoMatch { selector: selector.to_owned(), devices: listed(devices.iter()) }),
        several => Err(Error::Ambiguous { selector: selector.to_owned(), matches: listed(several.iter().copied()) }),
    }
}

fn listed<'a>(devices: impl Iterator<Item = &'a DeviceInfo>) -> String {
    devices.map(|device| format!("{}: {}", device.index, device.label())).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::Heap;
    use crate::gpu::surroundings::{RenderNodes, System};

    fn device(index: usize, name: &str, driver: &str, kind: DeviceKind) -> DeviceInfo {
        DeviceInfo {
            index,
            name: name.to_owned(),
            driver: driver.to_owned(),
            driver_info: "Mesa 25.3.6".to_owned(),
            kind,
            api_version: [1, 3, 0],
            heaps: vec![Heap { bytes: 8 << 30, device_local: true }],
            subgroup_size: 32,
            side_by_side: 0,
            software: kind == DeviceKind::Cpu,
            missing: Vec::new(),
        }
    }

    fn lavapipe(index: usize) -> DeviceInfo {
        device(index, "llvmpipe (LLVM 19.1.7, 256 bits)", "llvmpipe", DeviceKind::Cpu)
    }

    fn apple(index: usize) -> DeviceInfo {
        device(index, "Virtio-GPU Venus (Apple M3 Max)", "venus", DeviceKind::Integrated)
    }

    fn radeon(index: usize) -> DeviceInfo {
        device(index, "AMD Radeon RX 7900 XTX (RADV NAVI31)", "radv", DeviceKind::Discrete)
    }

    fn here() -> Surroundings {
        Surroundings { system: System::Debian, render_nodes: RenderNodes::Missing, container: true }
    }

    fn auto(devices: &[DeviceInfo], allow_software: bool) -> Result<Choice, Error> {
        choose(devices, "auto", allow_software, &here())
    }

    #[test]
    fn auto_passes_over_software_listed_first() {
        let choice = auto(&[lavapipe(0), apple(1)], true).expect("there is a GPU");
        assert_eq!(choice, Choice { index: 1, reason: "the only device that is not software".to_owned() });
    }

    #[test]
    fn auto_prefers_discrete_then_larger_memory() {
        let mut small = radeon(2);
        small.heaps[0].bytes = 4 << 30;
        assert_eq!(auto(&[apple(0), lavapipe(1), small, radeon(3)], false).expect("several").index, 3);
    }

    #[test]
    fn of_a_macs_two_drivers_auto_prefers_moltenvk() {
        let mut krisp = device(0, "Apple M3", "KosmicKrisp", DeviceKind::Integrated);
        krisp.heaps[0].bytes = 64 << 30;
        let mut devices = [krisp, device(1, "Apple M3", "MoltenVK", DeviceKind::Integrated)];
        assert_eq!(auto(&devices, false).expect("both are usable").index, 1);
        let named = |devices: &[DeviceInfo]| choose(devices, "kosmickrisp", false, &here()).map(|choice| choice.index);
        assert_eq!(named(&devices).expect("it is named"), 0);
        devices[1].missing = vec!["timelineSemaphore".to_owned()];
        assert_eq!(auto(&devices, false).expect("the other is usable").index, 0);
        devices[0].missing = vec!["subgroup arithmetic operations".to_owned()];
        assert!(matches!(named(&devices), Err(Error::Lacks { .. })));
    }

    #[test]
    fn auto_takes_software_only_when_allowed() {
        let text = auto(&[lavapipe(0)], false).expect_err("software only").to_string();
        assert!(text.contains("llvmpipe") && text.contains("--allow-software"), "{text}");
        assert!(text.contains("--device /dev/dri"), "{text}");
        let choice = auto(&[lavapipe(0)], true).expect("it is allowed");
        assert_eq!(choice, Choice { index: 0, reason: "the only device".to_owned() });
    }

    #[test]
    fn venus_over_a_cpu_is_software_too() {
        let venus = device(0, "Virtio-GPU Venus (llvmpipe)", "venus", DeviceKind::Cpu);
        assert!(matches!(auto(&[venus, lavapipe(1)], false), Err(Error::OnlySoftware { .. })));
    }

    #[test]
    fn what_a_device_lacks_is_named() {
        let mut old = radeon(0);
        old.missing = vec!["shaderFloat16".to_owned(), "timelineSemaphore".to_owned()];
        let text = auto(&[old.clone(), lavapipe(1)], false).expect_err("it falls short").to_string();
        assert!(text.contains("shaderFloat16, timelineSemaphore"), "{text}");
        assert_eq!(auto(&[old.clone(), lavapipe(1)], true).expect("software is allowed").index, 1);
        assert!(matches!(choose(&[old], "0", false, &here()), Err(Error::Lacks { .. })));
    }

    #[test]
    fn names_match_in_part_and_in_any_case() {
        let devices = [lavapipe(0), apple(1), radeon(2)];
        let index = |selector| choose(&devices, selector, false, &here()).map(|choice| choice.index);
        assert_eq!(index("radeon").expect("one match"), 2);
        assert_eq!(index("VENUS").expect("one match"), 1);
        assert_eq!(index("7900").expect("not an index, but part of a name"), 2);
        assert_eq!(index(" 0 ").expect("named explicitly"), 0);
        assert_eq!(index("llvm").expect("software is taken when it is named"), 0);
    }

    #[test]
    fn unclear_names_are_refused_with_the_list() {
        let devices = [radeon(0), radeon(1)];
        let text = choose(&devices, "Radeon RX", false, &here()).expect_err("two match").to_string();
        assert!(text.contains("0: AMD") && text.contains("1: AMD"), "{text}");
        let text = choose(&devices, "geforce", false, &here()).expect_err("none matches").to_string();
        assert!(text.contains("geforce") && text.contains("0: AMD"), "{text}");
        assert!(matches!(choose(&devices, "2", false, &here()), Err(Error::NoMatch { .. })));
    }

    #[test]
    fn no_device_names_the_package() {
        let text = auto(&[], true).expect_err("none").to_string();
        assert!(text.contains("apt install"), "{text}");
    }
}
