//! Why there is no device to run on. Each text is one paragraph that says what is missing and what to do.

use vulkano::Validated;

/// Why a call failed, in words. The text of `Validated` itself only says that something did.
pub fn cause<E: std::error::Error>(failure: &Validated<E>) -> String {
    match failure {
        Validated::Error(error) => error.to_string(),
        Validated::ValidationError(error) => error.to_string(),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no Vulkan loader was found ({reason}). {advice}")]
    NoLoader { reason: String, advice: String },
    #[error(
        "the Vulkan library {path}, which HESPER_VULKAN_LIBRARY names, cannot be used: {reason}. Correct the path, or \
         unset the variable to use the system's Vulkan loader. Of drivers only those that export vkGetInstanceProcAddr, as \
         libMoltenVK.dylib does, can be opened without the loader; for others set VK_DRIVER_FILES to their manifest."
    )]
    Library { path: String, reason: String },
    #[error("the Vulkan loader is installed but found no driver that works here. {advice}")]
    NoDriver { advice: String },
    #[error("the Vulkan driver refused to start: it reports that host memory is exhausted. {advice}")]
    HostMemory { advice: String },
    #[error("the Vulkan driver refused to start: {reason}. {advice}")]
    Instance { reason: String, advice: String },
    #[error(
        "the only usable Vulkan device is a software driver, {name}, which runs on the CPU and is slow. Pass \
         --allow-software (or --device with its name) to use it all the same. {advice}"
    )]
    OnlySoftware { name: String, advice: String },
    #[error(
        "{name} lacks what the kernels need: {missing}. A newer driver may have it; otherwise choose another device \
         with --device (`hesper devices` lists them)."
    )]
    Lacks { name: String, missing: String },
    #[error(
        "no Vulkan device matches --device {selector:?}. There are: {devices}. Give an index, part of a name, or auto."
    )]
    NoMatch { selector: String, devices: String },
    #[error("--device {selector:?} matches several devices: {matches}. Give more of the name, or the index.")]
    Ambiguous { selector: String, matches: String },
    #[error("{name} cannot be opened: {reason}. Run `hesper doctor` for a report on this machine's drivers.")]
    Open { name: String, reason: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use vulkano::VulkanError;

    #[test]
    fn a_cause_is_the_drivers_own() {
        let text = cause(&Validated::Error(VulkanError::OutOfDeviceMemory));
        assert_eq!(text, VulkanError::OutOfDeviceMemory.to_string());
        assert!(text.contains("device memory"), "{text}");
    }
}
