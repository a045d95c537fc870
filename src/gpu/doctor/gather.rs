//! Gathers the facts of this machine, each within a bounded time: files of `/proc` and `/sys`, what a few commands print,
//! and what Vulkan lists. It judges nothing.

use super::commands::{Run, run};
use super::facts::{Facts, KernelNode, LinuxFacts, MacFacts, SCHEMA, Selinux, VulkanState, machines};
use super::manifests::manifests;
use crate::gpu::{Error, Surroundings, Vulkan};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Variables that change which driver is used or how it behaves, and their effect.
pub const VARIABLES: [(&str, &str); 18] = [
    ("HESPER_VULKAN_LIBRARY", "the Vulkan library to open"),
    ("VK_DRIVER_FILES", "the only drivers that the loader considers"),
    ("VK_ICD_FILENAMES", "the only drivers that the loader considers"),
    ("VK_ADD_DRIVER_FILES", "further drivers"),
    ("VK_LOADER_DRIVERS_SELECT", "the only drivers that the loader considers"),
    ("VK_LOADER_DRIVERS_DISABLE", "drivers that the loader leaves out"),
    ("VK_INSTANCE_LAYERS", "layers between program and driver; they cost time"),
    ("VK_LOADER_LAYERS_ENABLE", "layers between program and driver; they cost time"),
    ("MESA_VK_DEVICE_SELECT", "the order of devices"),
    ("LP_NATIVE_VECTOR_WIDTH", "lavapipe's vectors"),
    ("LP_NUM_THREADS", "lavapipe's threads"),
    ("VN_DEBUG", "the Venus driver's behaviour"),
    ("VN_PERF", "the Venus driver's behaviour"),
    ("VTEST_SOCKET_NAME", "where the Venus driver finds its far side"),
    ("MVK_CONFIG_USE_METAL_ARGUMENT_BUFFERS", "MoltenVK's behaviour"),
    ("MVK_CONFIG_LOG_LEVEL", "MoltenVK's messages"),
    ("METAL_DEVICE_WRAPPER_TYPE", "Metal's validation; it costs time"),
    ("CONTAINERS_MACHINE_PROVIDER", "the kind of podman's machines"),
];

/// Packages of Homebrew's that matter here; `libkrun-efi` is what older versions of libkrun are called.
const BREW_PACKAGES: [&str; 6] = ["podman", "krunkit", "libkrun", "libkrun-efi", "molten-vk", "vulkan-loader"];

/// A driver that has not listed its devices by then hangs: seconds.
const VULKAN_SECONDS: u64 = 60;

/// Looks at everything between this process and a GPU. Takes a second or two; some minutes at most, when every part of it
/// hangs.
pub fn gather() -> Facts {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let set = |(name, _): &(&str, &str)| Some(((*name).to_owned(), variable(name)?));
    let linux = cfg!(target_os = "linux");
    let mac = cfg!(target_os = "macos");
    Facts {
        schema: SCHEMA,
        hesper: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        page_bytes: if linux {
            page_bytes(&read_bytes("/proc/self/auxv"))
        } else {
            number(run("getconf", &["PAGESIZE"]))
        },
        memory_bytes: if linux {
            memory_bytes(&read("/proc/meminfo"))
        } else {
            number(run("sysctl", &["-n", "hw.memsize"]))
        },
        surroundings: Surroundings::detect(),
        environment: VARIABLES.iter().filter_map(set).collect(),
        manifests: manifests(variable),
        vulkan: vulkan(),
        linux: linux.then(linux_facts),
        mac: mac.then(|| mac_facts(variable("CONTAINERS_MACHINE_PROVIDER"), &run)),
    }
}

fn read_bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// A small file of the kernel's, without its last newline; empty where it cannot be read.
fn read(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&read_bytes(path)).trim_end_matches(['\n', '\0']).to_owned()
}

fn number(output: Run) -> Option<u64> {
    output.ok()?.trim().parse().ok()
}

/// Entry 6 of the auxiliary vector, a list of pairs of native words (`man getauxval`).
fn page_bytes(auxv: &[u8]) -> Option<u64> {
    const AT_PAGESZ: usize = 6;
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).ok();
    let mut pairs = auxv.chunks_exact(2 * WORD);
    let value = pairs.find_map(|pair| (word(&pair[..WORD])? == AT_PAGESZ).then(|| word(&pair[WORD..])).flatten());
    value.map(|bytes| bytes as u64)
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kib: u64 =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Opens Vulkan in a thread of its own, which is left behind if the driver hangs.
fn vulkan() -> VulkanState {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let state = match Vulkan::open() {
            Ok(vulkan) => VulkanState::Open {
                library: vulkan.library_path().to_owned(),
                version: vulkan.library_version(),
                devices: vulkan.devices().to_vec(),
            },
            Err(error) => failed(error),
        };
        // Nobody waits any more when it took too long.
        let _ = sender.send(state);
    });
    receiver
        .recv_timeout(Duration::from_secs(VULKAN_SECONDS))
        .unwrap_or(VulkanState::TimedOut { seconds: VULKAN_SECONDS })
}

fn failed(error: Error) -> VulkanState {
    match error {
        Error::NoLoader { reason, .. } => VulkanState::NoLoader { reason },
        Error::Library { path, reason } => VulkanState::WrongLibrary { path, reason },
        Error::NoDriver { .. } => VulkanState::NoDriver,
        Error::HostMemory { .. } => VulkanState::OutOfHostMemory,
        Error::Instance { reason, .. } => VulkanState::Failed { reason },
        other => VulkanState::Failed { reason: other.to_string() },
    }
}

fn linux_facts() -> LinuxFacts {
    let os_release = read("/etc/os-release");
    let distribution = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let firmware = format!("{} {}", read("/sys/class/dmi/id/sys_vendor"), read("/sys/class/dmi/id/product_name"));
    LinuxFacts {
        kernel: read("/proc/sys/kernel/osrelease"),
        distribution: distribution.unwrap_or_default().trim_matches('"').to_owned(),
        firmware: Some(firmware.trim().to_owned()).filter(|text| !text.is_empty()),
        virtio_devices: virtio_devices(Path::new("/sys/bus/virtio/devices")),
        kernel_nodes: kernel_nodes(Path::new("/sys/class/drm"), Path::new("/dev/dri")),
        selinux: selinux(&read("/proc/self/attr/current"), &read("/sys/fs/selinux/enforce")),
        nvidia_driver: nvidia_driver(&read("/proc/driver/nvidia/version")),
        nvidia_nodes: Path::new("/dev/nvidiactl").exists(),
        cdi_files: ["/etc/cdi", "/var/run/cdi"].iter().flat_map(|folder| cdi_files(Path::new(folder))).collect(),
        mesa_package: mesa_package(),
    }
}

/// Names in a folder, sorted; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn virtio_devices(folder: &Path) -> Vec<u32> {
    let number = |name: &String| {
        let text = read(folder.join(name).join("device"));
        u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    names(folder).iter().filter_map(number).collect()
}

fn kernel_nodes(kernel: &Path, devices: &Path) -> Vec<KernelNode> {
    let node = |name: String| {
        let driver = std::fs::read_link(kernel.join(&name).join("device/driver")).ok();
        let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        let mode = mode(&devices.join(&name));
        KernelNode { name, driver, mode }
    };
    names(kernel).into_iter().filter(|name| name.starts_with("renderD")).map(node).collect()
}

#[cfg(unix)]
fn mode(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(file).ok()?;
    Some(format!("{:o}", metadata.permissions().mode() & 0o7777))
}

#[cfg(not(unix))]
fn mode(_file: &Path) -> Option<String> {
    None
}

/// `current` is AppArmor's where that is in force; a context of SELinux has three colons or more.
fn selinux(current: &str, enforce: &str) -> Option<Selinux> {
    (current.matches(':').count() >= 3)
        .then(|| Selinux { enforcing: enforce.parse::<u8>().ok().map(|flag| flag == 1), context: current.to_owned() })
}

/// 580.65.06 of `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 …`.
fn nvidia_driver(version: &str) -> Option<String> {
    let words = version.lines().next()?.split_whitespace();
    words
        .skip_while(|word| *word != "Module")
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn cdi_files(folder: &Path) -> Vec<String> {
    let nvidia = names(folder).into_iter().filter(|name| name.contains("nvidia"));
    nvidia.map(|name| folder.join(name).display().to_string()).collect()
}

fn mesa_package() -> Option<String> {
    let package = "mesa-vulkan-drivers";
    let rpm = || run("rpm", &["-q", "--queryformat", "%{VERSION}-%{RELEASE}", package]).ok();
    let dpkg = || run("dpkg-query", &["--show", "--showformat", "${Version}", package]).ok();
    rpm().or_else(dpkg).map(|version| version.trim().to_owned()).filter(|version| !version.is_empty())
}

/// `run` runs a command for its output, so that recorded outputs can stand in for a Mac.
fn mac_facts(provider: Option<String>, run: &dyn Fn(&str, &[&str]) -> Run) -> MacFacts {
    let print = |program: &str, arguments: &[&str]| {
        run(program, arguments).ok().map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    // As `podman version 5.7.1`, `Homebrew 6.0.1`, `krunkit 1.2.0`.
    let version = |program: &str| {
        let text = run(program, &["--version"]).ok()?;
        text.lines()
            .next()?
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
    };
    let podman = version("podman");
    let mut list = vec!["machine", "list", "--format", "json"];
    // Podman 6 lists the machines of every kind; before, it must be asked to.
    if podman.as_ref().is_some_and(|version| version.starts_with("5.")) {
        list.push("--all-providers");
    }
    let brew = [&["list", "--versions"], &BREW_PACKAGES[..]].concat();
    // It fails where a package is absent, and prints the others all the same.
    let packages = run("brew", &brew).unwrap_or_else(|failure| failure.output);
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.last()?.to_owned()))
    };
    MacFacts {
        version: print("sw_vers", &["-productVersion"]),
        chip: print("sysctl", &["-n", "machdep.cpu.brand_string"]),
        brew: version("brew"),
        packages: packages.lines().filter_map(package).collect::<BTreeMap<_, _>>(),
        machines: podman.as_ref().and_then(|_| machines(&run("podman", &list).ok()?)),
        podman,
        // Podman's own installer puts it where PATH does not lead.
        krunkit: version("krunkit").or_else(|| version("/opt/podman/bin/krunkit")),
        provider,
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands::Failure;
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(memory_bytes("MemTotal:       16308308 kB\nMemFree: 1 kB\n"), Some(16_308_308 * 1024));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        let words = [33usize, 1, 6, 16384, 0, 0];
        let auxv: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(page_bytes(&auxv), Some(16384));
        assert_eq!(page_bytes(&auxv[..20]), None);
        let enforcing = selinux("system_u:system_r:container_t:s0:c1,c2", "1").expect("a context");
        assert_eq!(enforcing.enforcing, Some(true));
        assert_eq!(selinux("u:r:t:s0", "").expect("a context").enforcing, None);
        assert_eq!(selinux("docker-default (enforce)", ""), None, "that is AppArmor's");
        let nvidia =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:41 UTC 2025\nGCC version:  x";
        assert_eq!(nvidia_driver(nvidia).as_deref(), Some("580.65.06"));
        assert_eq!(nvidia_driver(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_facts_that_can_be_read_back() {
        let facts = gather();
        assert!(facts.page_bytes.is_some_and(|bytes| bytes >= 4096 && bytes.is_power_of_two()));
        assert!(facts.memory_bytes.is_some_and(|bytes| bytes > 1 << 28));
        assert!(facts.linux.as_ref().is_some_and(|linux| linux.kernel.contains('.')));
        let json = serde_json::to_string_pretty(&facts).expect("facts are JSON");
        assert_eq!(Facts::parse(json.as_bytes()), Ok(facts));
    }

    #[cfg(unix)]
    #[test]
    fn folders_of_devices_are_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (kernel, devices) = (folder.path().join("drm"), folder.path().join("dri"));
        std::fs::create_dir_all(kernel.join("renderD128/device")).expect("a folder");
        std::fs::create_dir_all(kernel.join("card0")).expect("a folder");
        std::os::unix::fs::symlink("/drivers/virtio_gpu", kernel.join("renderD128/device/driver")).expect("a link");
        let node = |mode: Option<&str>| KernelNode {
            name: "renderD128".to_owned(),
            driver: Some("virtio_gpu".to_owned()),
            mode: mode.map(str::to_owned),
        };
        assert_eq!(kernel_nodes(&kernel, &devices), [node(None)]);
        std::fs::create_dir(&devices).expect("a folder");
        std::fs::write(devices.join("renderD128"), "").expect("a file");
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(devices.join("renderD128"), mode).expect("its owner may");
        assert_eq!(kernel_nodes(&kernel, &devices), [node(Some("640"))]);
        std::fs::create_dir_all(folder.path().join("virtio/virtio3")).expect("a folder");
        std::fs::write(folder.path().join("virtio/virtio3/device"), "0x0010\n").expect("a file");
        assert_eq!(virtio_devices(&folder.path().join("virtio")), [LinuxFacts::VIRTIO_GPU]);
        assert_eq!(virtio_devices(&folder.path().join("absent")), [] as [u32; 0]);
        std::fs::write(folder.path().join("nvidia.yaml"), "").expect("a file");
        assert_eq!(cdi_files(folder.path()).len(), 1);
    }

    #[test]
    fn a_macs_commands_are_understood() {
        let answer = |program: &str, arguments: &[&str]| -> Run {
            Ok(match (program, arguments) {
                ("sw_vers", _) => "15.5\n",
                ("sysctl", _) => "Apple M3 Max\n",
                ("podman", ["--version"]) => "podman version 5.7.1\n",
                ("podman", ["machine", "list", "--format", "json", "--all-providers"]) => "[]",
                ("brew", ["--version"]) => "Homebrew 6.0.1\nHomebrew/homebrew-core N/A\n",
                ("brew", ["list", "--versions", ..]) => {
                    let output = "podman 5.7.0 5.7.1\nlibkrun 1.18.0\n".to_owned();
                    return Err(Failure { reason: "exit status: 1".to_owned(), output });
                }
                ("/opt/podman/bin/krunkit", ["--version"]) => "krunkit 1.2.0\n",
                _ => return Err(Failure { reason: "not found".to_owned(), output: String::new() }),
            }
            .to_owned())
        };
        let mac = mac_facts(Some("libkrun".to_owned()), &answer);
        assert_eq!((mac.version.as_str(), mac.chip.as_str()), ("15.5", "Apple M3 Max"));
        assert_eq!((mac.podman.as_deref(), mac.brew.as_deref()), (Some("5.7.1"), Some("6.0.1")));
        assert_eq!((mac.krunkit.as_deref(), mac.machines), (Some("1.2.0"), Some(Vec::new())));
        assert_eq!(mac.packages["podman"], "5.7.1", "the newest of several");
        assert_eq!(mac.packages.len(), 2);
        let nothing = mac_facts(None, &|_, _| Err(Failure { reason: "not found".to_owned(), output: String::new() }));
        assert_eq!((nothing.podman, nothing.machines), (None, None));
    }
}
