//! Opens the Vulkan library and makes an instance.

use super::error::cause;
use super::{Error, Surroundings};
use std::sync::{Arc, OnceLock};
use vulkano::instance::{Instance, InstanceCreateFlags, InstanceCreateInfo};
use vulkano::library::{DynamicLibraryLoader, LoadingError};
use vulkano::{Validated, Version, VulkanError, VulkanLibrary};

/// Names a Vulkan loader, or a driver that exports `vkGetInstanceProcAddr`, to open instead of the system's.
pub const LIBRARY_VARIABLE: &str = "HESPER_VULKAN_LIBRARY";

/// Vulkan 1.2, which is all that the kernels need and all that a guest of krunkit has. Asking for no more everywhere
/// keeps machines alike.
pub const API_VERSION: Version = Version::V1_2;

/// Where the loader is looked for, best first. Homebrew's folders are not on macOS's search path.
const LIBRARIES: &[&str] = if cfg!(target_os = "macos") {
    &[
        "libvulkan.1.dylib",
        "/opt/homebrew/lib/libvulkan.1.dylib",
        "/usr/local/lib/libvulkan.1.dylib",
        "libMoltenVK.dylib",
        "/opt/homebrew/lib/libMoltenVK.dylib",
        "/usr/local/lib/libMoltenVK.dylib",
    ]
} else if cfg!(windows) {
    &["vulkan-1.dll"]
} else {
    &["libvulkan.so.1", "libvulkan.so"]
};

/// The first instance, which is never destroyed: with the last one the loader unloads its drivers, and Mesa's Venus (25.0
/// at least) has a destructor run at the end of every thread that used it. The engine's thread, ending after it gave
/// the device back, jumped to where that code had been.
static KEEPS_DRIVERS_LOADED: OnceLock<Arc<Instance>> = OnceLock::new();

/// An open library with its instance, and the path or name under which it was found.
pub struct Loader {
    pub library: Arc<VulkanLibrary>,
    pub instance: Arc<Instance>,
    pub path: String,
}

impl Loader {
    pub fn open() -> Result<Loader, Error> {
        if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
            let path = path.to_string_lossy().into_owned();
            let library = load(&path).map_err(|reason| Error::Library { path: path.clone(), reason })?;
            let instance = instance(&library)?;
            return Ok(Loader { library, instance, path });
        }
        let attempt = |path: &str| {
            let library = load(path).map_err(|reason| Error::NoLoader { reason, advice: String::new() })?;
            let instance = instance(&library)?;
            Ok(Loader { library, instance, path: path.to_owned() })
        };
        first_working(LIBRARIES, attempt).map_err(|error| match error {
            Error::NoLoader { reason, .. } => {
                Error::NoLoader { reason, advice: Surroundings::detect().driver_advice() }
            }
            other => other,
        })
    }
}

/// Takes the first library that works. One that is absent is passed over, and so is a loader that finds no driver: on
/// macOS a driver that follows in the list does without it. When none works, what went wrong with the first that was there
/// is worth most.
fn first_working<T>(paths: &[&str], attempt: impl Fn(&str) -> Result<T, Error>) -> Result<T, Error> {
    let mut failure: Option<Error> = None;
    for path in paths {
        match attempt(path) {
            Ok(loader) => return Ok(loader),
            Err(error @ (Error::NoLoader { .. } | Error::NoDriver { .. })) => {
                let was_absent = matches!(failure, None | Some(Error::NoLoader { .. }));
                let replaces = failure.is_none() || (was_absent && matches!(error, Error::NoDriver { .. }));
                failure = if replaces { Some(error) } else { failure };
            }
            Err(error) => return Err(error),
        }
    }
    Err(failure.expect("the list of libraries is not empty"))
}

fn instance(library: &Arc<VulkanLibrary>) -> Result<Arc<Instance>, Error> {
    let create_info = InstanceCreateInfo {
        // Lists MoltenVK, which implements a subset of Vulkan; vulkano drops the flag where the loader lacks it.
        flags: InstanceCreateFlags::ENUMERATE_PORTABILITY,
        application_name: Some("hesper".to_owned()),
        max_api_version: Some(API_VERSION),
        ..Default::default()
    };
    let instance = Instance::new(library.clone(), create_info).map_err(|failure| instance_error(&failure))?;
    KEEPS_DRIVERS_LOADED.get_or_init(|| instance.clone());
    Ok(instance)
}

fn load(path: &str) -> Result<Arc<VulkanLibrary>, String> {
    let describe = |failure| match failure {
        LoadingError::LibraryLoadFailure(cause) => cause.to_string(),
        LoadingError::VulkanError(cause) => cause.to_string(),
    };
    // SAFETY: the names are those of Vulkan loaders; a library the user names is the user's to vouch for.
    let library = unsafe { DynamicLibraryLoader::new(path) }.map_err(describe)?;
    VulkanLibrary::with_loader(library).map_err(describe)
}

fn instance_error(failure: &Validated<VulkanError>) -> Error {
    let surroundings = Surroundings::detect();
    let advice = match failure {
        Validated::Error(VulkanError::IncompatibleDriver) => {
            return Error::NoDriver { advice: surroundings.driver_advice() };
        }
        // Hosts with 16 KiB pages refuse the 4 KiB-rounded blobs that unpatched Mesa asks for, and Mesa reports that so.
        Validated::Error(VulkanError::OutOfHostMemory) => {
            let advice = "In a Podman machine on Apple Silicon this is what Mesa's stock Venus driver says, whatever memory \
                there is; use the image of containerfiles/Containerfile.krun, or a guest kernel with 16 KiB pages.";
            return Error::HostMemory { advice: advice.to_owned() };
        }
        _ => surroundings.driver_advice(),
    };
    Error::Instance { reason: cause(failure), advice }
}

/// Sets variables that drivers read when they are loaded, unless the user has set them. Returns whether it could: it
/// refuses once a second thread runs, so call it first in `main`.
pub fn set_driver_environment(variables: &[(&str, &str)]) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count());
    if !matches!(threads, Ok(1)) {
        return false;
    }
    for (name, value) in variables {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the only thread, so nothing reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let failure = load("/nonexistent/libvulkan.so").expect_err("there is no such file");
        assert!(failure.contains("/nonexistent"), "{failure}");
    }

    #[test]
    fn a_loader_without_drivers_is_passed_over() {
        let absent = || Error::NoLoader { reason: "absent".to_owned(), advice: String::new() };
        let empty = || Error::NoDriver { advice: "empty".to_owned() };
        let attempt = |path: &str| match path {
            "absent" => Err(absent()),
            "empty" => Err(empty()),
            "broken" => Err(Error::HostMemory { advice: String::new() }),
            path => Ok(path.to_owned()),
        };
        let first = |paths: &[&str]| first_working(paths, attempt);
        assert_eq!(first(&["absent", "empty", "molten", "other"]).expect("one works"), "molten");
        assert!(matches!(first(&["absent", "empty", "absent"]), Err(Error::NoDriver { .. })));
        assert!(matches!(first(&["absent", "absent"]), Err(Error::NoLoader { .. })));
        assert!(matches!(first(&["broken", "molten"]), Err(Error::HostMemory { .. })), "it is not hidden");
    }

    #[test]
    fn the_environment_is_not_touched_beside_other_threads() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv());
        assert!(!set_driver_environment(&[("HESPER_TEST_OF_ENVIRONMENT", "1")]));
        assert!(std::env::var_os("HESPER_TEST_OF_ENVIRONMENT").is_none());
        drop(sender);
        thread.join().expect("the thread ends").expect_err("nothing was sent");
    }
}
