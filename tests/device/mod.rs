//! The device that tests run on.

use hesper::gpu::{self, Gpu};
use hesper::kernels::policy::Policy;

/// The device that HESPER_DEVICE names or the best there is; `None` only where HESPER_SKIP_GPU=1 says so.
pub fn gpu() -> Option<Gpu> {
    if std::env::var("HESPER_SKIP_GPU").is_ok_and(|value| value == "1") {
        eprintln!("SKIPPED: HESPER_SKIP_GPU=1, so nothing was run on a Vulkan device");
        return None;
    }
    let selector = std::env::var("HESPER_DEVICE").unwrap_or_else(|_| "auto".to_owned());
    match gpu::open(&selector, true) {
        Ok((gpu, choice)) => {
            eprintln!("on {}: {}", gpu.label(), choice.reason);
            Some(gpu)
        }
        Err(error) => panic!("{error} (HESPER_SKIP_GPU=1 skips the tests that need a device)"),
    }
}

/// The geometry that suits it.
#[allow(dead_code)] // not every test asks
pub fn policy(gpu: &Gpu) -> Policy {
    Policy::of(gpu.info().software, gpu.info().subgroup_size)
}
