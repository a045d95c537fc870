//! Compute pipelines, one for each kernel and set of specialization values. All share one layout: no descriptors, and as
//! many bytes of push constants as every device has. What the driver made of them may be kept in a folder for the next
//! start ([`super::kept`]).

use super::device::PUSH_BYTES;
use super::kept::{self, Identity};
use super::queue::{Raw, describe};
use crate::kernels::KERNELS;
use crate::plan::{Dispatch, ExecutorError, Kernel};
use ash::vk;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Once;
use std::time::Instant;

/// What is made for a kernel besides the driver's compilation.
pub struct Pipelines {
    raw: Arc<Raw>,
    pub layout: vk::PipelineLayout,
    made: HashMap<(&'static str, Vec<u32>), vk::Pipeline>,
    /// Null without a folder.
    cache: vk::PipelineCache,
    kept: Option<Kept>,
}

/// Where pipelines are kept, and what is there already.
struct Kept {
    folder: PathBuf,
    identity: Identity,
    data: Vec<u8>,
}

impl Pipelines {
    pub fn new(raw: Arc<Raw>) -> Result<Pipelines, ExecutorError> {
        let ranges =
            [vk::PushConstantRange { stage_flags: vk::ShaderStageFlags::COMPUTE, offset: 0, size: PUSH_BYTES }];
        let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&ranges);
        // SAFETY: the device is alive, and choosing it has checked the bytes of push constants.
        let layout = unsafe { raw.ash.create_pipeline_layout(&info, None) }
            .map_err(|code| ExecutorError::Device(format!("no pipeline layout: {}", describe(code))))?;
        Ok(Pipelines { raw, layout, made: HashMap::new(), cache: vk::PipelineCache::null(), kept: None })
    }

    /// Takes the pipelines that were kept in `folder`, and keeps those made from now on there when [`Pipelines::keep`] is
    /// called. Before any is made.
    pub fn keep_in(&mut self, folder: &Path) -> Result<(), ExecutorError> {
        let identity = identity(&self.raw);
        let path = identity.path(folder, "pipelines", "bin");
        let data = match kept::read(&path) {
            Ok(None) => Vec::new(),
            Ok(Some(file)) => match identity.unseal(&file) {
                Ok(data) => data.to_vec(),
                Err(refused) => {
                    tracing::debug!(path = %path.display(), %refused, "kept pipelines are not used");
                    Vec::new()
                }
            },
            Err(error) => {
                cannot_keep(&path, &error);
                Vec::new()
            }
        };
        tracing::debug!(path = %path.display(), bytes = data.len(), "kept pipelines");
        let info = vk::PipelineCacheCreateInfo::default().initial_data(&data);
        // SAFETY: the device is alive; the data's header is whole and names this device and driver, which gave it.
        self.cache = unsafe { self.raw.ash.create_pipeline_cache(&info, None) }
            .map_err(|code| ExecutorError::Device(format!("no pipeline cache: {}", describe(code))))?;
        self.kept = Some(Kept { folder: folder.to_owned(), identity, data });
        Ok(())
    }

    /// The folder that pipelines are kept in, and whose they are.
    pub fn kept(&self) -> Option<(&Path, &Identity)> {
        let kept = self.kept.as_ref()?;
        Some((&kept.folder, &kept.identity))
    }

    /// Writes what was made since to the folder, if there is one. That it cannot be written is said once; all works without.
    pub fn keep(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        // SAFETY: the cache is alive, and used by this thread alone.
        let data = match unsafe { self.raw.ash.get_pipeline_cache_data(self.cache) } {
            Ok(data) if data == kept.data => return,
            Ok(data) => data,
            Err(code) => {
                tracing::debug!(reason = describe(code), "the driver gives no pipelines to keep");
                return;
            }
        };
        let path = kept.identity.path(&kept.folder, "pipelines", "bin");
        match kept.identity.seal(&data) {
            Ok(file) => match kept::write(&path, &file) {
                Ok(()) => tracing::debug!(path = %path.display(), bytes = data.len(), "pipelines were kept"),
                Err(error) => cannot_keep(&path, &error),
            },
            Err(refused) => tracing::debug!(bytes = data.len(), %refused, "the driver's pipelines cannot be kept"),
        }
        kept.data = data;
    }

    /// The pipeline for a checked dispatch.
    pub fn get(&mut self, dispatch: &Dispatch) -> Result<vk::Pipeline, ExecutorError> {
        let key = (dispatch.kernel.name, dispatch.specialization.clone());
        if let Some(pipeline) = self.made.get(&key) {
            return Ok(*pipeline);
        }
        let start = Instant::now();
        let pipeline = self.compile(dispatch.kernel, &dispatch.specialization)?;
        let (kernel, specialization) = (dispatch.kernel.name, &dispatch.specialization);
        tracing::debug!(kernel, ?specialization, time_us = start.elapsed().as_micros(), "made a pipeline");
        self.made.insert(key, pipeline);
        Ok(pipeline)
    }

    fn compile(&self, kernel: &'static Kernel, specialization: &[u32]) -> Result<vk::Pipeline, ExecutorError> {
        let refused = |reason: String| ExecutorError::Pipeline { kernel: kernel.name, reason };
        let words = ash::util::read_spv(&mut Cursor::new(kernel.spirv)).map_err(|error| refused(error.to_string()))?;
        let ash = &self.raw.ash;
        let entries: Vec<_> = kernel
            .specialization
            .iter()
            .zip(0u32..)
            .map(|(info, index)| vk::SpecializationMapEntry { constant_id: info.id, offset: 4 * index, size: 4 })
            .collect();
        let values = vk::SpecializationInfo::default().map_entries(&entries).data(bytemuck::cast_slice(specialization));
        // SAFETY: the build has compiled the SPIR-V from a shader that asks for nothing beyond the required features, and
        // reflected its specialization constants; the module lives until the pipeline is made.
        unsafe {
            let module = ash
                .create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&words), None)
                .map_err(|code| refused(describe(code)))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main")
                .specialization_info(&values);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout);
            let made = ash.create_compute_pipelines(self.cache, &[info], None);
            ash.destroy_shader_module(module, None);
            made.map(|pipelines| pipelines[0]).map_err(|(_, code)| refused(describe(code)))
        }
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if self.raw.is_hung() {
            return;
        }
        // SAFETY: the executor has waited for everything submitted.
        unsafe {
            for pipeline in self.made.values() {
                self.raw.ash.destroy_pipeline(*pipeline, None);
            }
            self.raw.ash.destroy_pipeline_cache(self.cache, None);
            self.raw.ash.destroy_pipeline_layout(self.layout, None);
        }
    }
}

/// Says that pipelines are not kept, once: it is so for every model, and nothing but the next start's time depends on it.
fn cannot_keep(path: &Path, error: &io::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            path = %path.display(), %error,
            "compiled kernels cannot be kept for the next start; give a folder with --kernel-cache, or none"
        );
    });
}

fn identity(raw: &Raw) -> Identity {
    let properties = raw.device.physical_device().properties();
    let mut build = Sha256::new();
    for kernel in KERNELS {
        build.update(kernel.spirv);
    }
    Identity {
        vendor: properties.vendor_id,
        device: properties.device_id,
        cache_uuid: properties.pipeline_cache_uuid,
        driver_version: properties.driver_version,
        driver_uuid: properties.driver_uuid.unwrap_or_default(),
        venus: properties.driver_name.as_deref().is_some_and(|name| name.to_lowercase().contains("venus")),
        build: build.finalize().into(),
    }
}
