//! The doctor's diagnosis of recorded machines: each known failure by its symptom and its cure, good machines without
//! complaint, and nothing but facts able to come out of any file.

use hesper::gpu::doctor::{Facts, Report, Severity, diagnose};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/doctor")
}

fn bytes(name: &str) -> Vec<u8> {
    let path = folder().join(name).with_extension("json");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn facts(name: &str) -> Facts {
    Facts::parse(&bytes(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"))
}

/// The ids of what a report does not find in order, in its order.
fn complaints(report: &Report) -> Vec<&str> {
    report.findings.iter().filter(|found| found.severity != Severity::Ok).map(|found| found.id).collect()
}

/// A recorded machine; is a device usable; the ids of all notes and warnings; what the text must hold.
type Case = (&'static str, bool, &'static [&'static str], &'static [&'static str]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Linux
    ("linux-radeon", true, &["device-software"], &["Radeon RX 7900 XTX", "A device is usable."]),
    ("linux-nvidia", true, &["device-software"], &["NVIDIA's kernel driver 580.65.06"]),
    ("linux-layers", true, &["variable-set"], &["VK_INSTANCE_LAYERS", "they cost time"]),
    ("linux-software", false, &["guest-without-gpu", "device-software", "software-only"], &["--allow-software"]),
    ("venus-host", false,
        &["variable-set", "variable-set", "variable-set", "venus-socket", "device-software", "software-only"],
        &["Virtio-GPU Venus (llvmpipe", "not needed", "Mend this first: choice"]),
    ("container-venus-socket-denied", false,
        &["variable-set", "variable-set", "variable-set", "venus-socket", "venus-socket-unreachable"],
        &["/run/venus.sock", "let this user connect to its socket"]),
    ("linux-no-render-node", false, &["render-node-missing", "device-software", "software-only"],
        &["holds no render node", "Mend this first: /dev/dri"]),
    ("linux-denied", false, &["render-node-denied", "device-software", "software-only"], &["usermod -aG render"]),
    ("linux-no-loader", false, &["loader-missing", "manifest-none"], &["apt install libvulkan1", "Mend this first: loader"]),
    ("linux-wrong-library", false, &["variable-set", "library-unusable"], &["Correct HESPER_VULKAN_LIBRARY"]),
    ("linux-manifest-library-missing", false, &["manifest-library-missing", "device-software", "software-only"],
        &["amdvlk64.so, which does not exist", "Reinstall the package"]),
    ("linux-manifest-broken", false, &["variable-set", "manifest-broken", "driver-none"], &["/nonexistent.json"]),
    ("linux-manifest-none", false, &["variable-set", "manifest-none", "driver-none"], &["Unset VK_DRIVER_FILES"]),
    ("linux-nvidia-without-vulkan", false, &["nvidia-without-vulkan", "device-software", "software-only"],
        &["nvidia-vulkan-icd"]),
    ("linux-mesa-old", false, &["render-node-missing", "device-software", "mesa-old", "software-only"],
        &["bookworm-backports"]),
    ("linux-device-lacks", false, &["device-lacks", "choice-none"], &["It lacks Vulkan 1.2"]),
    ("linux-instance-failed", false, &["instance-failed"], &["refused to start"]),
    // Containers
    ("container-device-not-passed", false, &["render-node-not-passed", "device-software", "software-only"],
        &["Start the container with --device /dev/dri."]),
    ("container-selinux", false, &["selinux-denies", "device-software", "software-only"],
        &["--security-opt=label=disable", "container_t"]),
    ("container-nvidia-without-cdi", false,
        &["render-node-not-passed", "nvidia-without-cdi", "device-software", "software-only"],
        &["nvidia-ctk cdi generate", "--device nvidia.com/gpu=all"]),
    // In a Mac's virtual machine
    ("krunkit", true, &["guest-memory", "venus-sleeping-waits", "device-software"],
        &["Virtio-GPU Venus (Apple M3 Max)", "patched for hosts with pages of 16 KiB", "54.0 GiB of GPU memory"]),
    ("krunkit-newer-mesa", true, &["guest-memory"], &["pages of 16 KiB"]),
    ("krunkit-stock-mesa", false, &["guest-memory", "stock-mesa-in-krunkit-guest"],
        &["VK_ERROR_OUT_OF_HOST_MEMORY", "Mesa 25.3.6-2.fc44", "Containerfile.krun", "Nothing is short of memory"]),
    ("krunkit-out-of-memory", false, &["guest-memory", "instance-out-of-memory"], &["Free memory"]),
    ("krunkit-hangs", false, &["guest-memory", "driver-hangs"], &["within 60 s", "libkrun 1.18.0"]),
    ("krunkit-llvmpipe-only", false, &["guest-memory", "venus-missing", "device-software", "software-only"],
        &["Mend this first: devices: the virtio GPU may be opened"]),
    ("krunkit-device-not-passed", false, &["guest-memory", "render-node-not-passed", "device-software", "software-only"],
        &["--device /dev/dri"]),
    ("applehv-guest", false, &["guest-without-gpu", "device-software", "software-only"],
        &["applehv, Apple's own hypervisor", "CONTAINERS_MACHINE_PROVIDER=libkrun"]),
    // Macs
    ("mac", true, &[], &["MoltenVK 1.4.2", "8.0 GiB, so 53.0 GiB of GPU memory", "krunkit 1.3.2"]),
    ("mac-kosmickrisp", true, &["kosmickrisp"], &["--device kosmickrisp"]),
    ("mac-bare", true, &["brew-missing", "podman-missing"], &["https://brew.sh", "brew install podman krunkit"]),
    ("mac-podman5-applehv", true, &["krunkit-missing", "provider-default", "machine-applehv"],
        &["brew install krunkit", "of the kind applehv, which has no GPU", "podman machine init"]),
    ("mac-podman5-libkrun", true, &["variable-set", "machine-stopped", "machine-applehv"],
        &["podman machine start podman-machine-default"]),
    ("mac-no-machine", true, &["machine-none"], &["podman machine init --memory 8192 --now"]),
    ("mac-machines-unknown", true, &["machine-unknown"], &["podman machine list"]),
    ("mac-memory-small", true, &["machine-memory-small"], &["2048 MiB", "podman machine set --memory 8192"]),
    ("mac-memory-large", true, &["machine-memory-large", "machine-stopped"], &["98304 MiB", "61440 MiB"]),
    ("mac-libkrun-old", true, &["libkrun-old"], &["libkrun 1.16.0", "brew upgrade libkrun krunkit"]),
    ("mac-old", true, &["moltenvk-old", "macos-old", "podman-missing"], &["macOS 13.7.1", "brew upgrade molten-vk"]),
    ("mac-intel", true, &["mac-intel"], &["no Apple Silicon"]),
];

#[test]
fn every_recorded_machine_is_diagnosed() {
    for (name, usable, ids, parts) in CASES {
        let report = diagnose(&facts(name), false);
        let text = report.to_string();
        assert_eq!(complaints(&report), *ids, "{name}:\n{text}");
        assert_eq!((report.usable, report.device.is_some()), (*usable, *usable), "{name}:\n{text}");
        assert_eq!(report.mend_first.is_none(), *usable, "{name}:\n{text}");
        for part in *parts {
            assert!(text.contains(part), "{name}: {part:?} is not in\n{text}");
        }
        for finding in report.findings.iter().filter(|found| found.severity == Severity::Warning) {
            // The text of `choose` names its own cure.
            assert!(finding.cure.is_some() || finding.id == "choice-none", "{name}: {} has no cure", finding.id);
        }
    }
    let names: BTreeSet<_> = CASES.iter().map(|(name, ..)| format!("{name}.json")).collect();
    let entries = std::fs::read_dir(folder()).expect("the recorded machines");
    let files = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names, files, "each file is a case");
}

#[test]
fn software_is_usable_where_it_is_allowed() {
    let report = diagnose(&facts("linux-software"), true);
    assert!(report.usable && report.device.is_some_and(|device| device.software));
    assert!(diagnose(&facts("krunkit"), true).device.is_some_and(|device| device.driver.starts_with("venus")));
}

/// Every kind of finding is documented, and everything documented is met on some recorded machine.
#[test]
fn the_documentation_lists_every_id() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md");
    let page = std::fs::read_to_string(page).expect("docs/doctor.md");
    let row = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(id, _)| id.to_owned());
    let documented: BTreeSet<String> = page.lines().filter_map(row).collect();
    let reports = CASES.iter().map(|(name, ..)| diagnose(&facts(name), false));
    let met: BTreeSet<String> = reports.flat_map(|report| report.findings).map(|found| found.id.to_owned()).collect();
    assert_eq!(documented, met);
}

#[test]
fn the_report_is_json_with_documented_fields() {
    let json = serde_json::to_value(diagnose(&facts("krunkit-stock-mesa"), false)).expect("JSON");
    let keys = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["schema", "hesper", "usable", "device", "mend_first", "findings"]);
    assert_eq!(json["schema"], 1);
    assert_eq!(json["mend_first"], "stock-mesa-in-krunkit-guest");
    let finding = json["findings"].as_array().and_then(|list| list.last()).expect("a finding");
    assert_eq!(keys(finding), ["id", "severity", "subject", "text", "cure"]);
    assert_eq!(finding["severity"], "warning");
    let json = serde_json::to_value(diagnose(&facts("krunkit"), false)).expect("JSON");
    assert_eq!(keys(&json["device"]), ["index", "name", "driver", "software", "reason"]);
}

#[test]
fn names_cannot_steer_a_terminal() {
    let mut facts = facts("linux-radeon");
    facts.hesper = "\u{1b}[2J".to_owned();
    facts.environment.insert("VN_DEBUG".to_owned(), "\u{1b}]0;title\u{7}".to_owned());
    let text = diagnose(&facts, false).to_string();
    assert!(text.contains("VN_DEBUG") && !text.contains(['\u{1b}', '\u{7}']), "{text:?}");
}

/// `hesper doctor` with these arguments, and none of the variables that would change what it does.
fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hesper"));
    command.arg("doctor").args(arguments).stdin(Stdio::null());
    // The loader and the validation layer talk on the outputs that are read here.
    command.env_remove("VK_LOADER_DEBUG").env_remove("VK_INSTANCE_LAYERS");
    for name in ["HESPER_ALLOW_SOFTWARE", "HESPER_JSON", "HESPER_FACTS", "HESPER_FROM"] {
        command.env_remove(name);
    }
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn facts_can_be_sent_and_judged_elsewhere() {
    let (code, printed, _) = doctor(&["--facts"]);
    assert_eq!(code, Some(0));
    let facts = Facts::parse(printed.as_bytes()).expect("facts");
    assert_eq!(facts.hesper, env!("CARGO_PKG_VERSION"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &printed).expect("a file");
    let path = file.path().to_str().expect("a plain path");
    for allow in [&[][..], &["--allow-software"]] {
        let (code, here, _) = doctor(&[&["--json"], allow].concat());
        let (code_there, there, _) = doctor(&[&["--json", "--from", path], allow].concat());
        assert_eq!((code, &here), (code_there, &there), "the same machine, so the same report");
        let report = diagnose(&facts, !allow.is_empty());
        assert_eq!(here, format!("{}\n", serde_json::to_string_pretty(&report).expect("JSON")));
        assert_eq!(code, Some(i32::from(!report.usable)));
        assert_eq!(doctor(&[&["--from", path], allow].concat()).1, report.to_string());
    }
}

#[test]
fn what_holds_no_facts_is_refused_in_one_paragraph() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md");
    for (path, reason) in [("/nonexistent.json", "cannot open"), (page.to_str().expect("a path"), "it is not JSON")] {
        let (code, printed, error) = doctor(&["--from", path]);
        assert_eq!((code, printed.as_str(), error.lines().count()), (Some(1), "", 1), "{error}");
        assert!(error.starts_with("error: ") && error.contains(reason) && error.contains(path), "{error}");
    }
    for wrong in [&["--facts", "--json"][..], &["--facts", "--from", "x"], &["--form", "x"]] {
        assert_eq!(doctor(wrong).0, Some(2), "{wrong:?}");
    }
}

/// Replaces a random leaf of a document by a random value.
fn mutate(value: &mut serde_json::Value, mut at: usize, new: &serde_json::Value) {
    use serde_json::Value;
    let inner: Vec<&mut Value> = match value {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(list) => list.iter_mut().collect(),
        _ => Vec::new(),
    };
    let count = inner.len();
    if count == 0 || at % 8 == 7 {
        *value = new.clone();
        return;
    }
    let chosen = inner.into_iter().nth(at % count).expect("one of them");
    at /= count;
    mutate(chosen, at, new);
}

proptest! {
    /// Any file is facts or is refused; what is facts is judged and printed without a panic.
    #[test]
    fn damaged_facts_are_refused_or_judged(
        case in 0..CASES.len(),
        places in prop::collection::vec((any::<usize>(), 0usize..7), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let news = serde_json::json!([null, u64::MAX, -1, "", "\u{1b}x", [], {"library": "x"}]);
        let mut json: serde_json::Value = serde_json::from_slice(&bytes(CASES[case].0)).expect("JSON");
        for (at, new) in places {
            mutate(&mut json, at, &news[new]);
        }
        let mut text = json.to_string().into_bytes();
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len() + 1));
        }
        if let Ok(facts) = Facts::parse(&text) {
            let report = diagnose(&facts, true);
            prop_assert!(!report.to_string().is_empty() && serde_json::to_string(&report).is_ok());
        }
    }
}
