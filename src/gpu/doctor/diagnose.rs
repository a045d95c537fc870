//! Judges facts: from the environment through loader, drivers and render nodes to the devices. Pure; every known failure
//! is a finding with an id of its own, and tests run it on recorded facts.

use super::facts::{Facts, LinuxFacts, ManifestState, VulkanState};
use super::gather::VARIABLES;
use super::mac::{examine_mac, window_text};
use super::{Chosen, Report, Severity};
use crate::gpu::surroundings::{RenderNodes, System};
use crate::gpu::{DeviceInfo, Error, choose};

/// Lavapipe of older Mesa is several times slower and takes minutes to compile the kernels.
const MESA_MIN: u32 = 25;

/// From this version on Venus waits for a fence by an exchange with the host; before, it sleeps 160 µs and doubling.
const VENUS_EXCHANGE_MESA: u32 = 26;

/// MoltenVK offers Vulkan 1.3 from this version on (its release notes); older ones are seldom met with these kernels.
const MOLTENVK_MIN: [u32; 2] = [1, 3];

/// What `main` sets.
const OWN_VARIABLE: (&str, &str) = ("VN_PERF", "no_async_mem_alloc");

/// Judges the facts of a machine. With `allow_software` a software device counts as usable.
pub fn diagnose(facts: &Facts, allow_software: bool) -> Report {
    let mut report = Report {
        schema: facts.schema,
        hesper: facts.hesper.clone(),
        usable: false,
        device: None,
        mend_first: None,
        findings: Vec::new(),
    };
    // Hesper's own setting, made before any driver is loaded, is no news.
    for (name, value) in
        facts.environment.iter().filter(|(name, value)| (name.as_str(), value.as_str()) != OWN_VARIABLE)
    {
        let effect =
            VARIABLES.iter().find(|(known, _)| known == name).map_or("something unknown", |(_, effect)| *effect);
        report.note("variable-set", "environment", format!("{name}={value} sets {effect}"));
    }
    examine_system(&mut report, facts);
    examine_loader(&mut report, facts);
    examine_manifests(&mut report, facts);
    if let Some(linux) = &facts.linux {
        examine_render_nodes(&mut report, facts, linux);
        examine_nvidia(&mut report, facts, linux);
    }
    examine_instance(&mut report, facts);
    if let VulkanState::Open { devices, .. } = &facts.vulkan {
        examine_devices(&mut report, facts, devices);
        examine_choice(&mut report, facts, devices, allow_software);
    }
    if !report.usable {
        report.mend_first =
            report.findings.iter().find(|found| found.severity == Severity::Warning).map(|found| found.id);
    }
    // What follows is of containers, and keeps no native device from use.
    if let Some(mac) = &facts.mac {
        examine_mac(&mut report, facts, mac);
    }
    report
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// A guest of krunkit's: 64-bit ARM with a virtio GPU.
fn is_krunkit_guest(facts: &Facts) -> bool {
    facts.architecture == "aarch64" && facts.linux.as_ref().is_some_and(LinuxFacts::has_virtio_gpu)
}

fn examine_system(report: &mut Report, facts: &Facts) {
    let mut parts = Vec::new();
    if let Some(linux) = &facts.linux {
        parts.extend([linux.distribution.clone(), format!("Linux {}", linux.kernel)]);
    }
    if let Some(mac) = &facts.mac {
        parts.extend([format!("macOS {}", mac.version), mac.chip.clone()]);
    }
    parts.push(facts.architecture.clone());
    parts.extend(facts.page_bytes.map(|bytes| format!("pages of {} KiB", bytes / 1024)));
    parts.extend(facts.memory_bytes.map(gib));
    if facts.surroundings.container {
        parts.push("in a container".to_owned());
    }
    if is_krunkit_guest(facts) {
        parts.push("in a virtual machine with a virtio GPU".to_owned());
    }
    parts.retain(|part| !part.is_empty());
    report.ok("system", "system", parts.join(", "));
    if is_krunkit_guest(facts)
        && let Some(memory) = facts.memory_bytes
    {
        report.note("guest-memory", "memory", window_text(memory, None));
    }
}

fn examine_manifests(report: &mut Report, facts: &Facts) {
    if facts.manifests.is_empty() {
        let variable =
            ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find(|name| facts.environment.contains_key(*name));
        let cure = variable.map_or_else(
            || format!("Install a driver: {}.", facts.surroundings.install_command()),
            |name| format!("Unset {name}, or let it name a manifest that exists."),
        );
        report.warn("manifest-none", "drivers", "no driver manifest was found", cure);
    }
    for manifest in &facts.manifests {
        let path = &manifest.path;
        match &manifest.state {
            ManifestState::Library(library) => report.ok("manifest", "driver", format!("{path} → {library}")),
            ManifestState::LibraryMissing(library) => report.warn(
                "manifest-library-missing",
                "driver",
                format!("{path} names {library}, which does not exist"),
                "Reinstall the package that this file belongs to, or remove the file.",
            ),
            ManifestState::Broken(problem) => report.warn(
                "manifest-broken",
                "driver",
                format!("{path} cannot be used: {problem}"),
                "Reinstall the package that this file belongs to; where a variable names it, correct or unset that.",
            ),
        }
    }
}

fn examine_render_nodes(report: &mut Report, facts: &Facts, linux: &LinuxFacts) {
    let subject = "/dev/dri";
    let cure = facts.surroundings.reach_advice().unwrap_or_default();
    match &facts.surroundings.render_nodes {
        RenderNodes::NotNeeded => {}
        RenderNodes::Missing if facts.environment.get("VN_DEBUG").is_some_and(|flags| flags.contains("vtest")) => {
            let socket = facts.environment.get("VTEST_SOCKET_NAME").map_or("its default", String::as_str);
            let text =
                format!("not needed: Venus finds its far side by a socket ({socket}), since VN_DEBUG holds vtest");
            report.note("venus-socket", subject, text);
        }
        RenderNodes::Usable(nodes) => report.ok("render-node", subject, format!("{} may be opened", nodes.join(", "))),
        RenderNodes::Missing if !linux.kernel_nodes.is_empty() => report.warn(
            "render-node-not-passed",
            subject,
            format!("the kernel has {}, but it is not in /dev/dri here", linux.kernel_nodes[0].name),
            "Start the container with --device /dev/dri.",
        ),
        RenderNodes::Missing if !linux.virtio_devices.is_empty() && !linux.has_virtio_gpu() => {
            examine_guest(report, facts, linux);
        }
        RenderNodes::Missing => report.warn("render-node-missing", subject, "holds no render node", cure),
        RenderNodes::Denied(nodes) => examine_denied(report, linux, nodes, cure),
    }
}

/// A virtual machine without a virtio GPU; other GPUs may have been passed through, but then there is a render node.
fn examine_guest(report: &mut Report, facts: &Facts, linux: &LinuxFacts) {
    let text = "this virtual machine has no GPU, so there is nothing to pass on to a container";
    let apple = linux.firmware.as_ref().is_some_and(|firmware| firmware.contains("Apple"));
    let text = if apple { format!("{text}: it is one of applehv, Apple's own hypervisor") } else { text.to_owned() };
    let cure = if facts.architecture == "aarch64" {
        "On a Mac: podman machines of the kind applehv have no GPU and cannot get one; make one of the kind libkrun: \
         CONTAINERS_MACHINE_PROVIDER=libkrun podman machine init (scripts/macos does it). Elsewhere give the machine a \
         virtio-gpu with Venus."
    } else {
        "Give the machine a GPU: by passing one through, or as a virtio-gpu with Venus."
    };
    report.warn("guest-without-gpu", "/dev/dri", text, cure);
}

/// SELinux denies what the file's permissions would allow, and confines containers by the type `container_t`.
fn examine_denied(report: &mut Report, linux: &LinuxFacts, nodes: &[String], cure: String) {
    let text = format!("{} may not be opened", nodes.join(", "));
    let open_to_all = |mode: &str| u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o6 == 0o6);
    let allowed = linux.kernel_nodes.iter().any(|node| node.mode.as_deref().is_some_and(open_to_all));
    let selinux = linux.selinux.as_ref().filter(|selinux| selinux.enforcing != Some(false));
    match selinux.filter(|selinux| selinux.context.contains(":container_t:")) {
        Some(selinux) if allowed => report.warn(
            "selinux-denies",
            "/dev/dri",
            format!("{text}, though its permissions allow it: SELinux confines this process ({})", selinux.context),
            "Start the container with --security-opt=label=disable, or allow it for all: sudo setsebool -P \
             container_use_devices=true.",
        ),
        _ => report.warn("render-node-denied", "/dev/dri", text, cure),
    }
}

fn examine_nvidia(report: &mut Report, facts: &Facts, linux: &LinuxFacts) {
    let Some(version) = &linux.nvidia_driver else { return };
    let listed = facts.manifests.iter().any(|manifest| manifest.path.contains("nvidia"));
    let text = format!("NVIDIA's kernel driver {version} is loaded");
    if listed && linux.nvidia_nodes {
        report.ok("nvidia", "nvidia", text);
    } else if facts.surroundings.container {
        report.warn(
            "nvidia-without-cdi",
            "nvidia",
            format!(
                "{text}, but this container has not been given its {}",
                if listed { "devices" } else { "Vulkan driver" }
            ),
            "On the host: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; then start the container with \
             --device nvidia.com/gpu=all.",
        );
    } else {
        report.warn(
            "nvidia-without-vulkan",
            "nvidia",
            format!("{text}, but the loader finds no Vulkan driver of the same"),
            "Install the driver's Vulkan part (Debian: nvidia-vulkan-icd; Fedora: xorg-x11-drv-nvidia-libs).",
        );
    }
}

fn examine_loader(report: &mut Report, facts: &Facts) {
    let subject = "loader";
    match &facts.vulkan {
        VulkanState::Open { library, version, .. } => {
            report.ok("loader", subject, format!("{library}, Vulkan {version}"));
        }
        VulkanState::NoLoader { reason } => {
            let text = format!("no Vulkan loader was found: {reason}");
            report.warn(
                "loader-missing",
                subject,
                text,
                format!("Install it: {}.", facts.surroundings.install_command()),
            );
        }
        VulkanState::WrongLibrary { path, reason } => report.warn(
            "library-unusable",
            subject,
            format!("{path} cannot be used: {reason}"),
            "Correct HESPER_VULKAN_LIBRARY, or unset it to use the system's Vulkan loader.",
        ),
        _ => {}
    }
}

/// By which Venus reaches its far side where it is told to do without a GPU device.
fn venus_socket(facts: &Facts) -> Option<&str> {
    facts.environment.get("VN_DEBUG").filter(|flags| flags.contains("vtest"))?;
    Some(facts.environment.get("VTEST_SOCKET_NAME").map_or("/tmp/.virgl_test", String::as_str))
}

/// What went wrong between the loader and the devices.
fn examine_instance(report: &mut Report, facts: &Facts) {
    let install = facts.surroundings.install_command();
    let subject = "vulkan";
    match (&facts.vulkan, venus_socket(facts)) {
        (VulkanState::NoDriver | VulkanState::Failed { .. }, Some(socket)) => report.warn(
            "venus-socket-unreachable",
            subject,
            format!("no driver starts, and Venus is told to reach its far side by the socket {socket}"),
            "Start the far side (scripts/venus-host up), and let this user connect to its socket; in a container the socket \
             must be mounted.",
        ),
        (VulkanState::NoDriver, None) => {
            let text = "the loader found no driver that works here";
            report.warn("driver-none", subject, text, format!("Install one: {install}."));
        }
        (VulkanState::OutOfHostMemory, _) => examine_out_of_memory(report, facts),
        (VulkanState::Failed { reason }, None) => {
            let cure = format!("If the driver is new or changed, reinstall it: {install}.");
            report.warn("instance-failed", subject, format!("the driver refused to start: {reason}"), cure);
        }
        (VulkanState::TimedOut { seconds }, _) => report.warn(
            "driver-hangs",
            subject,
            format!("the driver listed no devices within {seconds} s"),
            "Restart what it talks to: in a podman machine, podman machine stop and start, with libkrun 1.18.0 or newer on \
             the Mac (older ones can lose a fence and hang); elsewhere, the machine.",
        ),
        _ => {}
    }
}

/// Hosts with pages of 16 KiB refuse the blobs, multiples of 4 KiB, that unpatched Mesa asks for; Mesa reports that so
/// (github.com/containers/krunkit/issues/114).
fn examine_out_of_memory(report: &mut Report, facts: &Facts) {
    let subject = "vulkan";
    let symptom = "creating an instance fails with VK_ERROR_OUT_OF_HOST_MEMORY";
    let package = facts.linux.as_ref().and_then(|linux| linux.mesa_package.as_deref());
    let small_pages = facts.page_bytes.is_none_or(|bytes| bytes < 16 << 10);
    if is_krunkit_guest(facts) && small_pages && !package.is_some_and(is_patched_mesa) {
        let mesa = package.map_or_else(|| "Mesa".to_owned(), |version| format!("Mesa {version}"));
        report.warn(
            "stock-mesa-in-krunkit-guest",
            subject,
            format!("{symptom}: {mesa} asks the Mac for memory in multiples of 4 KiB, and Macs have pages of 16 KiB"),
            "Nothing is short of memory. Use the image of containerfiles/Containerfile.krun, whose Mesa is patched \
             (Fedora's copr slp/mesa-libkrun-vulkan), or a guest kernel with pages of 16 KiB.",
        );
    } else {
        report.warn(
            "instance-out-of-memory",
            subject,
            symptom,
            "Free memory, or give the container or virtual machine more. If there is plenty, a driver is at fault: name \
             another one in VK_DRIVER_FILES.",
        );
    }
}

/// The copr counts its releases from 100, as 25.3.6-102.fc44; Fedora's own stay in single digits.
fn is_patched_mesa(package: &str) -> bool {
    let release = package.rsplit_once('-').map_or("", |(_, release)| release);
    let (number, distribution) = release.split_once('.').unwrap_or((release, ""));
    distribution.starts_with("fc") && number.parse::<u32>().is_ok_and(|number| number >= 100)
}

fn examine_devices(report: &mut Report, facts: &Facts, devices: &[DeviceInfo]) {
    let reachable = matches!(facts.surroundings.render_nodes, RenderNodes::Usable(_));
    let has_gpu = facts.linux.as_ref().is_some_and(LinuxFacts::has_virtio_gpu);
    if reachable && has_gpu && devices.iter().all(|device| device.driver != "venus") {
        report.warn(
            "venus-missing",
            "devices",
            "the virtio GPU may be opened, but no device is driven by Venus, Mesa's driver for it",
            "In a container on a Mac, use the image of containerfiles/Containerfile.krun, and set no variable that leaves \
             out its virtio_icd manifest. Elsewhere the machine's virtio-gpu must offer Venus.",
        );
    }
    for device in devices {
        let subject = format!("device {}", device.index);
        let [major, minor, patch] = device.api_version;
        let text = format!(
            "{}: {}, Vulkan {major}.{minor}.{patch}, subgroups of {}, {}",
            device.label(),
            device.kind,
            device.subgroup_size,
            gib(device.device_local_bytes())
        );
        if !device.missing.is_empty() {
            let lacks = format!("It lacks {}; a newer driver may have it.", device.missing.join(", "));
            report.warn("device-lacks", &subject, text, lacks);
        } else if device.software {
            let cure = "Runs on the CPU; used only with --allow-software.".to_owned();
            report.add(Severity::Note, "device-software", &subject, text, Some(cure));
        } else {
            report.ok("device", &subject, text);
        }
        examine_driver(report, facts, device, &subject);
    }
}

/// What is known of a driver's version.
fn examine_driver(report: &mut Report, facts: &Facts, device: &DeviceInfo, subject: &str) {
    let package = facts.linux.as_ref().and_then(|linux| linux.mesa_package.as_deref());
    let mesa = version(device.driver_info.strip_prefix("Mesa ").unwrap_or("")).first().copied();
    match device.driver.to_lowercase().as_str() {
        "llvmpipe" if mesa.is_some_and(|major| major < MESA_MIN) => {
            let newer = match facts.surroundings.system {
                System::Debian => {
                    "Debian 12's backports have a newer one: sudo apt install -t bookworm-backports mesa-vulkan-drivers"
                }
                _ => "Update Mesa.",
            };
            let text = format!("{} is old: its software driver is slow", device.driver_info);
            report.add(Severity::Note, "mesa-old", subject, text, Some(newer.to_owned()));
        }
        "venus" => {
            if let Some(package) = package.filter(|package| is_patched_mesa(package)) {
                report.ok("mesa-patched", subject, format!("Mesa {package} is patched for hosts with pages of 16 KiB"));
            }
            if mesa.is_some_and(|major| major < VENUS_EXCHANGE_MESA) {
                let text =
                    format!("{} sleeps 160 µs and longer when it waits; Hesper seldom waits", device.driver_info);
                report.note("venus-sleeping-waits", subject, text);
            }
        }
        "moltenvk" => {
            let found = version(&device.driver_info);
            if !found.is_empty() && found < MOLTENVK_MIN.to_vec() {
                let text = format!("MoltenVK {} is old", device.driver_info);
                report.add(Severity::Note, "moltenvk-old", subject, text, Some("brew upgrade molten-vk".to_owned()));
            } else {
                report.ok("moltenvk", subject, format!("MoltenVK {}", device.driver_info));
            }
        }
        "kosmickrisp" => {
            let text = "KosmicKrisp drives this GPU too; auto takes it only where MoltenVK cannot be taken, --device \
                        kosmickrisp takes it at once";
            report.note("kosmickrisp", subject, text);
        }
        _ => {}
    }
}

/// The leading numbers of a version, as [1, 2, 9] of `1.2.9`.
fn version(text: &str) -> Vec<u32> {
    let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    text.split('.').map_while(digits).collect()
}

fn examine_choice(report: &mut Report, facts: &Facts, devices: &[DeviceInfo], allow_software: bool) {
    match choose(devices, "auto", allow_software, &facts.surroundings) {
        Ok(choice) => {
            // `choose` gives what `--device` takes, which facts from elsewhere may not number from 0.
            let Some(device) = devices.iter().find(|device| device.index == choice.index) else { return };
            report.ok("choice", "choice", format!("{}, {}", device.label(), choice.reason));
            report.usable = true;
            report.device = Some(Chosen {
                index: device.index,
                name: device.name.clone(),
                driver: device.driver_text(),
                software: device.software,
                reason: choice.reason,
            });
        }
        Err(Error::OnlySoftware { name, .. }) => report.warn(
            "software-only",
            "choice",
            format!("the only usable device is a software driver, {name}, which runs on the CPU and is slow"),
            "Mend what is broken above to use a GPU; pass --allow-software to use this all the same.",
        ),
        Err(error) => report.add(Severity::Warning, "choice-none", "choice", error.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patched_builds_are_told_by_their_release() {
        assert!(is_patched_mesa("25.3.6-102.fc44") && is_patched_mesa("25.0.7-100.fc42"));
        for stock in ["25.3.6-2.fc44", "25.0.7-2~bpo12+1", "25.3.6", "", "25.3.6-102", "1-1000.el9"] {
            assert!(!is_patched_mesa(stock), "{stock}");
        }
    }

    #[test]
    fn versions_are_read_as_far_as_they_are_numbers() {
        assert_eq!(version("1.2.9"), [1, 2, 9]);
        assert_eq!(version("26.0.5 (git-abc)"), [26, 0, 5]);
        assert_eq!(version("25.1.0-devel"), [25, 1, 0]);
        assert!(version("").is_empty() && version("devel").is_empty());
    }
}
