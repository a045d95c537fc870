//! What is known of a machine, as plain data: all that a diagnosis is made from. It can be written to a file on the
//! machine that has the trouble (`hesper doctor --facts`) and read on another one (`--from`).

use crate::gpu::{DeviceInfo, Surroundings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts the changes of [`Facts`] that an older or newer Hesper cannot read.
pub const SCHEMA: u32 = 1;

/// A file of facts is a few KiB; a larger one is something else.
const FILE_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    pub schema: u32,
    /// Version of the Hesper that gathered them.
    pub hesper: String,
    /// Of the processor, as `aarch64` or `x86_64`.
    pub architecture: String,
    pub page_bytes: Option<u64>,
    /// Of the machine, or of the virtual machine that this is.
    pub memory_bytes: Option<u64>,
    pub surroundings: Surroundings,
    /// The variables that change which driver is used or how it behaves, where they are set.
    pub environment: BTreeMap<String, String>,
    pub manifests: Vec<Manifest>,
    pub vulkan: VulkanState,
    /// `None` off Linux.
    pub linux: Option<LinuxFacts>,
    /// `None` off macOS.
    pub mac: Option<MacFacts>,
}

/// A file by which the Vulkan loader finds a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub path: String,
    pub state: ManifestState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestState {
    /// It names this library, which is there or is searched for by the dynamic linker.
    Library(String),
    /// It names this library, which is not there.
    LibraryMissing(String),
    /// It cannot be read, for this reason.
    Broken(String),
}

/// How far opening Vulkan came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum VulkanState {
    NoLoader {
        reason: String,
    },
    /// The library that `HESPER_VULKAN_LIBRARY` names cannot be used.
    WrongLibrary {
        path: String,
        reason: String,
    },
    NoDriver,
    /// `vkCreateInstance` answered `VK_ERROR_OUT_OF_HOST_MEMORY`.
    OutOfHostMemory,
    Failed {
        reason: String,
    },
    TimedOut {
        seconds: u64,
    },
    Open {
        library: String,
        version: String,
        devices: Vec<DeviceInfo>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxFacts {
    pub kernel: String,
    pub distribution: String,
    /// Vendor and product that the firmware names.
    pub firmware: Option<String>,
    /// Numbers of the devices on the virtio bus; [`LinuxFacts::VIRTIO_GPU`] is a GPU.
    pub virtio_devices: Vec<u32>,
    /// Render nodes that the kernel has, whether or not `/dev/dri` shows them here.
    pub kernel_nodes: Vec<KernelNode>,
    pub selinux: Option<Selinux>,
    /// The version of NVIDIA's kernel driver, where it is loaded.
    pub nvidia_driver: Option<String>,
    /// `/dev/nvidiactl` is here.
    pub nvidia_nodes: bool,
    /// Files of the Container Device Interface that name NVIDIA's devices.
    pub cdi_files: Vec<String>,
    /// Version and release of the package `mesa-vulkan-drivers`.
    pub mesa_package: Option<String>,
}

impl LinuxFacts {
    /// Device type 16 of the virtio specification, section 5.
    pub const VIRTIO_GPU: u32 = 16;

    pub fn has_virtio_gpu(&self) -> bool {
        self.virtio_devices.contains(&Self::VIRTIO_GPU)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelNode {
    /// As `renderD128`.
    pub name: String,
    /// The kernel's driver, as `virtio_gpu` or `amdgpu`.
    pub driver: Option<String>,
    /// Permission bits of the file in `/dev/dri` in octal, as `666`; `None` where there is no such file.
    pub mode: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selinux {
    /// Unknown in containers that hide it.
    pub enforcing: Option<bool>,
    /// This process's context, as `system_u:system_r:container_t:s0:c1,c2`.
    pub context: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacFacts {
    /// As `15.5`.
    pub version: String,
    /// As `Apple M3 Max`.
    pub chip: String,
    /// Version of Homebrew.
    pub brew: Option<String>,
    /// Versions of the packages that Homebrew installed, of those that matter.
    pub packages: BTreeMap<String, String>,
    pub podman: Option<String>,
    pub krunkit: Option<String>,
    /// What `CONTAINERS_MACHINE_PROVIDER` says.
    pub provider: Option<String>,
    /// `None` where podman cannot list them.
    pub machines: Option<Vec<Machine>>,
}

/// A virtual machine of podman's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub name: String,
    /// As `libkrun` or `applehv`.
    pub provider: String,
    pub memory_bytes: u64,
    pub running: bool,
    pub default: bool,
}

impl Facts {
    /// Reads facts that `hesper doctor --facts` wrote. The error is one sentence on what is wrong and what to do.
    pub fn parse(bytes: &[u8]) -> Result<Facts, String> {
        const REMEDY: &str = "give a file that `hesper doctor --facts` wrote";
        if bytes.len() > FILE_BYTES_MAX {
            return Err(format!("it has {} bytes, and facts have at most {FILE_BYTES_MAX}; {REMEDY}", bytes.len()));
        }
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON ({error}); {REMEDY}"))?;
        match json["schema"].as_u64() {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => {
                return Err(format!(
                    "its schema is {schema} and this Hesper reads {SCHEMA}; use the Hesper that wrote it"
                ));
            }
            None => return Err(format!("it has no number named schema; {REMEDY}")),
        }
        // From the bytes, whose errors name a line.
        serde_json::from_slice(bytes).map_err(|error| format!("it does not hold facts ({error}); {REMEDY}"))
    }
}

/// What `podman machine list --format json` prints; memory is a string of bytes there.
pub fn machines(json: &str) -> Option<Vec<Machine>> {
    let list: Vec<serde_json::Value> = serde_json::from_str(json).ok()?;
    let machine = |entry: &serde_json::Value| {
        let memory = &entry["Memory"];
        Some(Machine {
            name: entry["Name"].as_str()?.trim_end_matches('*').to_owned(),
            provider: entry["VMType"].as_str()?.to_owned(),
            memory_bytes: memory.as_u64().or_else(|| memory.as_str()?.parse().ok())?,
            running: entry["Running"].as_bool()?,
            default: entry["Default"].as_bool().unwrap_or(false),
        })
    };
    list.iter().map(machine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_read_as_podman_lists_them() {
        let json = r#"[{"Name": "podman-machine-default", "Default": true, "Created": "2026-07-06T21:39:30Z",
            "Running": true, "LastUp": "", "Stream": "default", "VMType": "libkrun", "CPUs": 4,
            "Memory": "8589934592", "DiskSize": "107374182400"}]"#;
        let machine = Machine {
            name: "podman-machine-default".to_owned(),
            provider: "libkrun".to_owned(),
            memory_bytes: 8 << 30,
            running: true,
            default: true,
        };
        assert_eq!(machines(json), Some(vec![machine]));
        assert_eq!(machines("[]"), Some(Vec::new()));
        for wrong in ["", "{}", "[{}]", &json.replace("8589934592", "8GiB")] {
            assert_eq!(machines(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wrong_files_are_refused_with_the_reason() {
        let refuse = |bytes: &[u8]| Facts::parse(bytes).expect_err("it holds no facts");
        assert!(refuse(b"hello").contains("not JSON"));
        assert!(refuse(b"[]").contains("schema"));
        assert!(refuse(br#"{"schema": 2}"#).contains("its schema is 2"));
        assert!(refuse(br#"{"schema": 1, "hesper": 3}"#).contains("line 1"));
        assert!(refuse(&vec![b' '; FILE_BYTES_MAX + 1]).contains("at most"));
    }
}
