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
    device.driver == "llvmpipe" && device.subgroup_size == LANES_DEFAULT && device.mesa_major() >= Some(MESA_MIN)
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
