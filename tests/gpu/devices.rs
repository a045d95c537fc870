//! What is said of the devices at hand, and what the kernels ask of them.

use crate::device::gpu;
use hesper::gpu::device::{DeviceInfo, table};
use hesper::gpu::{Vulkan, doctor};
use hesper::kernels::KERNELS;

#[test]
fn the_listing_and_the_report_name_every_device() {
    let Some(gpu) = gpu() else { return };
    let vulkan = Vulkan::open().expect("there is a device, so there is a loader");
    let (table, report) = (table(vulkan.devices()), doctor::diagnose(&doctor::gather(), false));
    println!("{table}\n{report}");
    assert_eq!(table.lines().count(), 1 + vulkan.devices().len());
    for device in vulkan.devices() {
        assert!(table.contains(&device.name), "{table}");
        assert!(report.to_string().contains(&device.label().to_string()), "{report}");
    }
    let usable = |device: &DeviceInfo| !device.software && device.missing.is_empty();
    assert_eq!(report.usable, vulkan.devices().iter().any(usable));
    assert!(vulkan.devices().contains(gpu.info()));
}

/// Capabilities that the required features, Vulkan 1.2 and the required subgroup operations give.
const CAPABILITIES: [(u32, &str); 12] = [
    (0, "Matrix"),
    (1, "Shader"),
    (9, "Float16"),
    (22, "Int16"),
    (39, "Int8"),
    (61, "GroupNonUniform"),
    (63, "GroupNonUniformArithmetic"),
    (64, "GroupNonUniformBallot"),
    (65, "GroupNonUniformShuffle"),
    (4433, "StorageBuffer16BitAccess"),
    (4448, "StorageBuffer8BitAccess"),
    (5347, "PhysicalStorageBufferAddresses"),
];

/// A kernel that declares more would be refused by drivers that have all we ask for.
#[test]
fn kernels_declare_no_capability_beyond_the_required_features() {
    let mut declared = 0;
    for kernel in KERNELS {
        let words: Vec<u32> = bytemuck::allocation::pod_collect_to_vec(kernel.spirv);
        let mut at = 5;
        while at < words.len() {
            let (opcode, length) = (words[at] & 0xffff, (words[at] >> 16) as usize);
            assert!(length > 0, "{} is not SPIR-V", kernel.name);
            if opcode == 17 {
                let capability = words[at + 1];
                let known = CAPABILITIES.iter().any(|(number, _)| *number == capability);
                assert!(known, "{} declares capability {capability}", kernel.name);
                declared += 1;
            }
            at += length;
        }
    }
    assert!(declared >= KERNELS.len(), "every kernel declares at least Shader");
}
