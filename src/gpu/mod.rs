//! Vulkan: finds the devices of this machine, chooses one, and runs plans on it. It knows regions, plans and kernels,
//! but neither models nor tokens. `vulkano` makes what is made once and checks it (instance, device, memory, buffers and
//! their addresses, the timeline); `ash`, of the same version, makes pipelines from the SPIR-V that the build has already
//! reflected, and records and submits, with nothing in between.

mod abort;
pub mod choose;
mod cores;
pub mod device;
pub mod doctor;
mod error;
mod executor;
pub mod kept;
mod loader;
mod memory;
mod pipeline;
mod profile;
mod queue;
mod record;
mod roofline;
mod side_by_side;
pub mod surroundings;
mod tune;

pub use abort::start_again_on_abort;
pub use choose::{Choice, choose};
pub use device::{DeviceInfo, DeviceKind, Vulkan};
pub use error::Error;
pub use executor::{Gpu, MemoryUse};
pub use loader::set_driver_environment;
pub use roofline::measure as measure_roofline;
pub use surroundings::Surroundings;
pub use tune::tune;

/// Opens the device that `selector` names: `auto`, an index, or part of a name (see [`choose`]), and says why it was
/// taken.
pub fn open(selector: &str, allow_software: bool) -> Result<(Gpu, Choice), Error> {
    let vulkan = Vulkan::open()?;
    let choice = choose(vulkan.devices(), selector, allow_software, &Surroundings::detect())?;
    let gpu = Gpu::new(&vulkan, choice.index)?;
    Ok((gpu, choice))
}
