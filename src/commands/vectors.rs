//! Lets Mesa's CPU driver use vectors as wide as the CPU's. The driver takes 256 bits unless a variable says otherwise, and
//! reads it when it is loaded: so the program starts once more with the variable, in the same process.

use super::flags::DeviceFlags;
use hesper::gpu::{DeviceInfo, Surroundings, Vulkan, choose};

/// Mesa's own variable; a user's value stands.
const VARIABLE: &str = "LP_NATIVE_VECTOR_WIDTH";
/// Lanes of its default, 256 bits.
const LANES_DEFAULT: u32 = 8;
/// The first major version that was measured to gain from 512 bits: Mesa 26.2 doubles prefill on a Zen 5, 25.0 gains
/// nothing and compiles twice as long (docs/performance.md).
const MESA_MIN: u32 = 26;

/// Does not return where the driver can be widened. Call it before anything is opened or printed.
pub fn widen(flags: &DeviceFlags) {
    if std::env::var_os(VARIABLE).is_some() || !cpu_has_512_bits() || !(flags.allow_software || flags.device != "auto")
    {
        return;
    }
    // What goes wrong here goes wrong again when the device is opened, and is told then.
    let Ok(vulkan) = Vulkan::open() else { return };
    let surroundings = Surroundings::detect();
    let Ok(choice) = choose(vulkan.devices(), &flags.device, flags.allow_software, &surroundings) else { return };
    if vulkan.devices().iter().any(|device| device.index == choice.index && gains(device)) {
        start_again();
    }
}

fn gains(device: &DeviceInfo) -> bool {
    device.driver == "llvmpipe"
        && device.subgroup_size == LANES_DEFAULT
        && mesa_major(&device.driver_info) >= Some(MESA_MIN)
}

/// Of `Mesa 26.2.6-1 (LLVM 22.1.8)`: 26.
fn mesa_major(driver_info: &str) -> Option<u32> {
    driver_info.strip_prefix("Mesa ")?.split('.').next()?.parse().ok()
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_512_bits() -> bool {
    // What LLVM's vectors of 512 bits of floats, integers and bytes, and masks on narrower ones, are made of.
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_has_512_bits() -> bool {
    false
}

#[cfg(unix)]
fn start_again() {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let failure = command.args(arguments).env(VARIABLE, "512").exec();
    tracing::warn!("vectors of 512 bits are not used, the program cannot start again: {failure}");
}

#[cfg(not(unix))]
fn start_again() {}

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
}
