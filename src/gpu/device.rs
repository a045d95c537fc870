//! The devices of this machine: what they are called, what drives them, and whether they can run the kernels.

use super::Error;
use super::loader::{API_VERSION, Loader};
use crate::plan::DeviceLabel;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType, SubgroupFeatures};
use vulkano::device::{DeviceFeatures, QueueFlags};
use vulkano::memory::MemoryHeapFlags;
use vulkano::shader::ShaderStages;

/// What kernels may use, all of it within Vulkan 1.2. A feature not listed here is not enabled.
pub const REQUIRED_FEATURES: DeviceFeatures = DeviceFeatures {
    buffer_device_address: true,
    scalar_block_layout: true,
    shader_float16: true,
    shader_int16: true,
    shader_int8: true,
    storage_buffer16_bit_access: true,
    storage_buffer8_bit_access: true,
    timeline_semaphore: true,
    ..DeviceFeatures::empty()
};

/// Subgroup operations that kernels may use.
const REQUIRED_SUBGROUP: [(SubgroupFeatures, &str); 4] = [
    (SubgroupFeatures::BASIC, "basic"),
    (SubgroupFeatures::ARITHMETIC, "arithmetic"),
    (SubgroupFeatures::BALLOT, "ballot"),
    (SubgroupFeatures::SHUFFLE, "shuffle"),
];

/// Bytes of push constants that a kernel may have: what every Vulkan driver offers.
pub const PUSH_BYTES: u32 = 128;

/// Lanes of the largest workgroup that a kernel may have.
const WORKGROUP_LANES: u32 = 256;

/// Parts of device names that only CPU drivers have, should one not call itself a CPU.
const SOFTWARE_NAMES: [&str; 4] = ["llvmpipe", "lavapipe", "swiftshader", "microsoft basic render"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Discrete,
    Integrated,
    Virtual,
    Other,
    Cpu,
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            DeviceKind::Discrete => "discrete",
            DeviceKind::Integrated => "integrated",
            DeviceKind::Virtual => "virtual",
            DeviceKind::Other => "other",
            DeviceKind::Cpu => "CPU",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heap {
    pub bytes: u64,
    pub device_local: bool,
}

/// What is known of a device without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceInfo {
    /// Its place in Vulkan's list, which `--device` takes. Not a rank: software drivers often come first.
    pub index: usize,
    pub name: String,
    /// As `llvmpipe` or `venus`.
    pub driver: String,
    /// As `Mesa 25.0.7`.
    pub driver_info: String,
    pub kind: DeviceKind,
    /// Major, minor, patch, as the driver states it.
    pub api_version: [u32; 3],
    pub heaps: Vec<Heap>,
    pub subgroup_size: u32,
    /// Workgroups that may wait for each other ([`super::Gpu::look_side_by_side`]); 0: none, or it was not tried.
    #[serde(skip)] // what was tried, no fact of the driver
    pub side_by_side: u32,
    /// A CPU at work, however many drivers are in between.
    pub software: bool,
    /// Names of what the kernels need and it has not; empty for a usable device.
    pub missing: Vec<String>,
}

impl DeviceInfo {
    pub fn label(&self) -> DeviceLabel {
        DeviceLabel { name: self.name.clone(), driver: self.driver_text(), software: self.software }
    }

    /// The first number of Mesa's version, if that is the driver.
    pub fn mesa_major(&self) -> Option<u32> {
        mesa_major(&self.driver_info)
    }

    /// As `venus, Mesa 25.3.6`.
    pub fn driver_text(&self) -> String {
        match (self.driver.as_str(), self.driver_info.as_str()) {
            ("", info) => info.to_owned(),
            (driver, "") => driver.to_owned(),
            (driver, info) => format!("{driver}, {info}"),
        }
    }

    pub fn device_local_bytes(&self) -> u64 {
        self.heaps.iter().filter(|heap| heap.device_local).map(|heap| heap.bytes).max().unwrap_or(0)
    }
}

/// An open Vulkan library with its devices.
pub struct Vulkan {
    loader: Loader,
    physical: Vec<Arc<PhysicalDevice>>,
    devices: Vec<DeviceInfo>,
}

impl Vulkan {
    pub fn open() -> Result<Vulkan, Error> {
        let loader = Loader::open()?;
        let physical: Vec<_> = loader
            .instance
            .enumerate_physical_devices()
            .map_err(|failure| Error::Instance {
                reason: format!("its devices cannot be listed: {failure}"),
                advice: "Run `hesper doctor` for a report on this machine's drivers.".to_owned(),
            })?
            .collect();
        let devices = physical.iter().enumerate().map(|(index, device)| describe(index, device)).collect();
        Ok(Vulkan { loader, physical, devices })
    }

    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    /// The path or name of the library.
    pub fn library_path(&self) -> &str {
        &self.loader.path
    }

    /// The highest Vulkan version of the library, as `1.3.239`.
    pub fn library_version(&self) -> String {
        self.loader.library.api_version().to_string()
    }

    pub(super) fn physical(&self, index: usize) -> &Arc<PhysicalDevice> {
        &self.physical[index]
    }
}

/// Of `Mesa 26.2.6-1 (LLVM 22.1.8)`: 26.
fn mesa_major(driver_info: &str) -> Option<u32> {
    driver_info.strip_prefix("Mesa ")?.split('.').next()?.parse().ok()
}

fn describe(index: usize, device: &PhysicalDevice) -> DeviceInfo {
    let properties = device.properties();
    let kind = match properties.device_type {
        PhysicalDeviceType::DiscreteGpu => DeviceKind::Discrete,
        PhysicalDeviceType::IntegratedGpu => DeviceKind::Integrated,
        PhysicalDeviceType::VirtualGpu => DeviceKind::Virtual,
        PhysicalDeviceType::Cpu => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    };
    let name = properties.device_name.clone();
    let driver = properties.driver_name.clone().unwrap_or_default();
    let version = properties.api_version;
    let heap = |heap: &vulkano::memory::MemoryHeap| Heap {
        bytes: heap.size,
        device_local: heap.flags.intersects(MemoryHeapFlags::DEVICE_LOCAL),
    };
    DeviceInfo {
        index,
        software: is_software(kind, &name, &driver),
        name,
        driver,
        driver_info: properties.driver_info.clone().unwrap_or_default(),
        kind,
        api_version: [version.major, version.minor, version.patch],
        heaps: device.memory_properties().memory_heaps.iter().map(heap).collect(),
        subgroup_size: properties.subgroup_size.unwrap_or(0),
        side_by_side: 0,
        missing: missing(device),
    }
}

/// Venus passes on the device type of the far side, so lavapipe behind it is a CPU driven by `venus`; the name catches
/// layers that do not.
fn is_software(kind: DeviceKind, name: &str, driver: &str) -> bool {
    let (name, driver) = (name.to_lowercase(), driver.to_lowercase());
    kind == DeviceKind::Cpu || SOFTWARE_NAMES.iter().any(|part| name.contains(part) || driver.contains(part))
}

fn missing(device: &PhysicalDevice) -> Vec<String> {
    let properties = device.properties();
    if properties.api_version < API_VERSION || device.api_version() < API_VERSION {
        let version = properties.api_version.min(device.api_version());
        return vec![format!("Vulkan {}.{} (it has {version})", API_VERSION.major, API_VERSION.minor)];
    }
    let absent = REQUIRED_FEATURES.difference(device.supported_features());
    let mut missing: Vec<String> =
        absent.into_iter().filter(|(_, absent)| *absent).map(|(name, _)| name.to_owned()).collect();
    let operations = properties.subgroup_supported_operations.unwrap_or(SubgroupFeatures::empty());
    let stages = properties.subgroup_supported_stages.unwrap_or(ShaderStages::empty());
    for (operation, name) in REQUIRED_SUBGROUP {
        if !operations.contains(operation) || !stages.contains(ShaderStages::COMPUTE) {
            missing.push(format!("subgroup {name} operations in compute shaders"));
        }
    }
    if properties.max_push_constants_size < PUSH_BYTES {
        missing.push(format!("{PUSH_BYTES} bytes of push constants"));
    }
    if properties.max_compute_work_group_invocations < WORKGROUP_LANES
        || properties.max_compute_work_group_size[0] < WORKGROUP_LANES
    {
        missing.push(format!("workgroups of {WORKGROUP_LANES}"));
    }
    if compute_family(device).is_none() {
        missing.push("a compute queue".to_owned());
    }
    missing
}

/// The first queue family that computes.
pub(super) fn compute_family(device: &PhysicalDevice) -> Option<u32> {
    let families = device.queue_family_properties();
    let index = families.iter().position(|family| family.queue_flags.intersects(QueueFlags::COMPUTE))?;
    u32::try_from(index).ok()
}

/// A table of devices, one line each, for `hesper devices`.
pub fn table(devices: &[DeviceInfo]) -> String {
    let names = devices.iter().map(|device| device.name.chars().count()).max().unwrap_or(0).max(4);
    let drivers = devices.iter().map(|device| device.driver_text().chars().count()).max().unwrap_or(0).max(6);
    let mut text =
        format!("{:>5}  {:names$}  {:drivers$}  {:10}  {:>10}  usable\n", "index", "name", "driver", "type", "memory");
    for device in devices {
        let usable = match (device.missing.is_empty(), device.software) {
            (true, false) => "yes".to_owned(),
            (true, true) => "with --allow-software".to_owned(),
            (false, _) => format!("no, lacks {}", device.missing.join(", ")),
        };
        let memory = format!("{:.1} GiB", device.device_local_bytes() as f64 / f64::from(1 << 30));
        text += &format!(
            "{:>5}  {:names$}  {:drivers$}  {:10}  {memory:>10}  {usable}\n",
            device.index,
            device.name,
            device.driver_text(),
            device.kind
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesas_version_is_read() {
        assert_eq!(mesa_major("Mesa 26.2.6-1 (LLVM 22.1.8)"), Some(26));
        assert_eq!(mesa_major("Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)"), Some(25));
        assert_eq!(mesa_major("MoltenVK 1.3"), None);
        assert_eq!(mesa_major(""), None);
    }

    #[test]
    fn software_is_seen_by_type_and_by_name() {
        assert!(is_software(DeviceKind::Cpu, "Virtio-GPU Venus (llvmpipe)", "venus"));
        assert!(is_software(DeviceKind::Virtual, "Virtio-GPU Venus (llvmpipe (LLVM 19.1.7, 256 bits))", "venus"));
        assert!(is_software(DeviceKind::Other, "unknown", "SwiftShader driver"));
        assert!(!is_software(DeviceKind::Integrated, "Virtio-GPU Venus (Apple M3)", "venus"));
    }
}
