//! What `hesper doctor` reports: the chain from loader to device, link by link, and what to do where it is broken.

use super::choose::choose;
use super::device::{DeviceInfo, Vulkan};
use super::surroundings::{RenderNodes, Surroundings};
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// Worth knowing.
    Note,
    /// Something does not work, or works slowly.
    Warning,
}

/// One fact, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// As `loader` or `device 0`.
    pub subject: String,
    pub text: String,
    pub advice: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// A device that is not software has all that the kernels need.
    pub usable: bool,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Note => "note",
                Verdict::Warning => "warn",
            };
            writeln!(f, "{mark:<5} {:<12} {}", finding.subject, finding.text)?;
            if let Some(advice) = &finding.advice {
                writeln!(f, "{:19}→ {advice}", "")?;
            }
        }
        Ok(())
    }
}

impl Report {
    fn add(&mut self, verdict: Verdict, subject: impl Into<String>, text: impl Into<String>, advice: Option<String>) {
        self.findings.push(Finding { verdict, subject: subject.into(), text: text.into(), advice });
    }
}

/// Looks at everything between this process and a GPU.
pub fn examine() -> Report {
    let surroundings = Surroundings::detect();
    let mut report = Report { findings: Vec::new(), usable: false };
    examine_variables(&mut report, |name| std::env::var(name).ok());
    examine_manifests(&mut report, &manifests(|name| std::env::var(name).ok()), &surroundings);
    examine_render_nodes(&mut report, &surroundings);
    match Vulkan::open() {
        Err(error) => report.add(Verdict::Warning, "vulkan", error.to_string(), None),
        Ok(vulkan) => {
            let text = format!("{}, Vulkan {}", vulkan.library_path(), vulkan.library_version());
            report.add(Verdict::Good, "loader", text, None);
            examine_devices(&mut report, vulkan.devices(), &surroundings);
        }
    }
    report
}

/// Variables that change which driver is used or how it behaves.
const VARIABLES: [(&str, &str); 17] = [
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
];

fn examine_variables(report: &mut Report, variable: impl Fn(&str) -> Option<String>) {
    for (name, effect) in VARIABLES {
        if let Some(value) = variable(name) {
            report.add(Verdict::Note, "environment", format!("{name}={value} sets {effect}"), None);
        }
    }
}

/// Driver manifests that the loader reads: named by variables, or found in its folders.
fn manifests(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = variable("VK_DRIVER_FILES").or_else(|| variable("VK_ICD_FILENAMES"));
    let added = variable("VK_ADD_DRIVER_FILES").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&added).collect();
    match named {
        Some(list) => places.extend(std::env::split_paths(&list)),
        None => places.extend(folders(variable).into_iter().map(|folder| folder.join("vulkan/icd.d"))),
    }
    let mut manifests: Vec<PathBuf> = Vec::new();
    for place in places.into_iter().filter(|place| !place.as_os_str().is_empty()) {
        let mut files = match std::fs::read_dir(&place) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) if place.extension().is_some_and(|extension| extension == "json") => vec![place],
            Err(_) => Vec::new(),
        };
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        manifests.extend(files);
    }
    manifests
}

/// The folders below which the loader looks for `vulkan/icd.d`.
fn folders(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let config = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let data = variable("XDG_DATA_HOME").map_or_else(|| home.join(".local/share"), PathBuf::from);
    let shared = variable("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".to_owned());
    let mut folders = vec![config, "/etc".into(), "/usr/local/etc".into(), data];
    folders.extend(std::env::split_paths(&shared));
    if cfg!(target_os = "macos") {
        folders.extend(["/opt/homebrew/etc".into(), "/opt/homebrew/share".into()]);
    }
    let mut seen = Vec::new();
    folders.retain(|folder| !seen.contains(folder) && (seen.push(folder.clone()), true).1);
    folders
}

fn examine_manifests(report: &mut Report, manifests: &[PathBuf], surroundings: &Surroundings) {
    if manifests.is_empty() {
        let advice = Some(surroundings.driver_advice());
        report.add(Verdict::Warning, "drivers", "no driver manifest was found", advice);
    }
    for manifest in manifests {
        let path = manifest.display();
        match examine_manifest(manifest) {
            Ok(library) => report.add(Verdict::Good, "driver", format!("{path} → {library}"), None),
            Err(problem) => {
                let advice = Some("Reinstall the package that this file belongs to, or remove the file.".to_owned());
                report.add(Verdict::Warning, "driver", format!("{path}: {problem}"), advice);
            }
        }
    }
}

/// The library that a manifest names, or what is wrong with it.
fn examine_manifest(manifest: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(manifest).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let library = json["ICD"]["library_path"].as_str().ok_or("it names no ICD.library_path")?;
    // A bare name is searched for by the dynamic linker; a path is relative to the manifest.
    let target = manifest.parent().unwrap_or(Path::new("/")).join(library);
    if library.contains('/') && !target.exists() {
        return Err(format!("its library {library} does not exist"));
    }
    Ok(library.to_owned())
}

fn examine_render_nodes(report: &mut Report, surroundings: &Surroundings) {
    let advice = surroundings.reach_advice();
    match &surroundings.render_nodes {
        RenderNodes::NotNeeded => {}
        RenderNodes::Usable(nodes) => {
            report.add(Verdict::Good, "/dev/dri", format!("{} may be opened", nodes.join(", ")), None);
        }
        RenderNodes::Missing => report.add(Verdict::Warning, "/dev/dri", "holds no render node", advice),
        RenderNodes::Denied(nodes) => {
            report.add(Verdict::Warning, "/dev/dri", format!("{} may not be opened", nodes.join(", ")), advice);
        }
    }
}

fn examine_devices(report: &mut Report, devices: &[DeviceInfo], surroundings: &Surroundings) {
    for device in devices {
        let subject = format!("device {}", device.index);
        let [major, minor, patch] = device.api_version;
        let text = format!(
            "{}: {}, Vulkan {major}.{minor}.{patch}, subgroups of {}, {:.1} GiB",
            device.label(),
            device.kind,
            device.subgroup_size,
            device.device_local_bytes() as f64 / f64::from(1 << 30)
        );
        if !device.missing.is_empty() {
            let advice = Some(format!("It lacks {}; a newer driver may have it.", device.missing.join(", ")));
            report.add(Verdict::Warning, subject, text, advice);
        } else if device.software {
            report.add(Verdict::Note, subject, text, software_advice(device, surroundings));
        } else {
            report.add(Verdict::Good, subject, text, None);
        }
    }
    report.usable = devices.iter().any(|device| !device.software && device.missing.is_empty());
    match choose(devices, "auto", false, surroundings) {
        Ok(choice) => {
            let text = format!("{}, {}", devices[choice.index].label(), choice.reason);
            report.add(Verdict::Good, "choice", text, None);
        }
        Err(error) => report.add(Verdict::Warning, "choice", error.to_string(), None),
    }
}

fn software_advice(device: &DeviceInfo, surroundings: &Surroundings) -> Option<String> {
    let old = mesa_major(&device.driver_info).is_some_and(|major| major < 25);
    let newer = match surroundings.system {
        super::surroundings::System::Debian => {
            " Its Mesa is old and slow; Debian 12's backports have a newer one: \
             sudo apt install -t bookworm-backports mesa-vulkan-drivers"
        }
        _ => " Its Mesa is old and slow: update it.",
    };
    Some(format!("Runs on the CPU; used only with --allow-software.{}", if old { newer } else { "" }))
}

/// 25 of `Mesa 25.0.7`.
fn mesa_major(driver_info: &str) -> Option<u32> {
    driver_info.strip_prefix("Mesa ")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report { findings: Vec::new(), usable: false }
    }

    #[test]
    fn manifests_are_read_and_their_libraries_looked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let bare = write("bare.json", r#"{"ICD": {"library_path": "libvulkan_x.so"}}"#);
        assert_eq!(examine_manifest(&bare), Ok("libvulkan_x.so".to_owned()));
        let beside = write("beside.json", r#"{"ICD": {"library_path": "./bare.json"}}"#);
        assert_eq!(examine_manifest(&beside), Ok("./bare.json".to_owned()));
        let absent = write("absent.json", r#"{"ICD": {"library_path": "/nowhere/libvulkan_x.so"}}"#);
        assert!(examine_manifest(&absent).expect_err("it is not there").contains("/nowhere"));
        examine_manifest(&write("empty.json", "{}")).expect_err("it names nothing");
        examine_manifest(&write("broken.json", "{")).expect_err("it is not JSON");
    }

    #[test]
    fn variables_replace_the_folders_and_are_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.json");
        std::fs::write(&file, "{}").expect("a file");
        std::fs::write(folder.path().join("readme"), "").expect("a file");
        let variable = |name: &str| (name == "VK_DRIVER_FILES").then(|| folder.path().display().to_string());
        assert_eq!(manifests(variable), [file]);
        let mut report = report();
        examine_variables(&mut report, variable);
        assert_eq!(report.findings.len(), 1);
        assert!(report.findings[0].text.starts_with("VK_DRIVER_FILES="), "{report}");
    }

    #[test]
    fn software_alone_is_not_usable() {
        use crate::gpu::device::DeviceKind;
        use crate::gpu::surroundings::System;
        let surroundings =
            Surroundings { system: System::Debian, render_nodes: RenderNodes::Missing, container: false };
        let mut device = DeviceInfo {
            index: 0,
            name: "llvmpipe".to_owned(),
            driver: "llvmpipe".to_owned(),
            driver_info: "Mesa 22.3.6".to_owned(),
            kind: DeviceKind::Cpu,
            api_version: [1, 3, 0],
            heaps: Vec::new(),
            subgroup_size: 8,
            software: true,
            missing: Vec::new(),
        };
        let mut found = report();
        examine_devices(&mut found, std::slice::from_ref(&device), &surroundings);
        assert!(!found.usable);
        let text = found.to_string();
        assert!(text.contains("backports") && text.contains("--allow-software"), "{text}");
        device.software = false;
        let mut found = report();
        examine_devices(&mut found, &[device], &surroundings);
        assert!(found.usable && found.to_string().contains("the only device"), "{found}");
    }
}
