//! Compute pipelines, one for each kernel and set of specialization values. All share one layout: no descriptors, and as
//! many bytes of push constants as every device has.

use super::device::PUSH_BYTES;
use super::queue::{Raw, describe};
use crate::plan::{Dispatch, ExecutorError, Kernel};
use ash::vk;
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Instant;

/// What is made for a kernel besides the driver's compilation.
pub struct Pipelines {
    raw: Arc<Raw>,
    pub layout: vk::PipelineLayout,
    made: HashMap<(&'static str, Vec<u32>), vk::Pipeline>,
}

impl Pipelines {
    pub fn new(raw: Arc<Raw>) -> Result<Pipelines, ExecutorError> {
        let ranges =
            [vk::PushConstantRange { stage_flags: vk::ShaderStageFlags::COMPUTE, offset: 0, size: PUSH_BYTES }];
        let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&ranges);
        // SAFETY: the device is alive, and choosing it has checked the bytes of push constants.
        let layout = unsafe { raw.ash.create_pipeline_layout(&info, None) }
            .map_err(|code| ExecutorError::Device(format!("no pipeline layout: {}", describe(code))))?;
        Ok(Pipelines { raw, layout, made: HashMap::new() })
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
            let made = ash.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
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
            self.raw.ash.destroy_pipeline_layout(self.layout, None);
        }
    }
}
