//! From a plan to a command buffer: every dispatch checked against the regions and the device's limits, then recorded once
//! with its addresses.

use super::device::PUSH_BYTES;
use crate::kernels::chains::stage_kind;
use crate::plan::{Command, Dispatch, ExecutorError, Plan, Region, STAGE_BYTES, Tensor};
use ash::vk;

/// Every operand starts at a multiple of this many bytes: the widest load that kernels make.
const OPERAND_ALIGN_BYTES: u64 = 16;

/// Where a region lies on the device.
#[derive(Clone, Copy)]
pub struct Place {
    pub address: u64,
    pub bytes: u64,
}

/// Checks everything that could make a dispatch reach outside its operands' regions or the device's limits.
pub fn check(plan: &Plan, max_groups: [u32; 3], place: impl Fn(Region) -> Option<Place>) -> Result<(), ExecutorError> {
    for (index, dispatch) in plan.dispatches().enumerate() {
        let stages = dispatch.stages.iter().try_for_each(|stage| check_dispatch(stage, max_groups, &place));
        stages.and_then(|()| check_dispatch(dispatch, max_groups, &place)).map_err(|problem| {
            let kernel = dispatch.kernel.name;
            ExecutorError::Device(format!(
                "plan {}, dispatch {index} ({kernel} {}): {problem}",
                plan.name, dispatch.label
            ))
        })?;
    }
    Ok(())
}

fn check_dispatch(
    dispatch: &Dispatch,
    max_groups: [u32; 3],
    place: &impl Fn(Region) -> Option<Place>,
) -> Result<(), String> {
    let kernel = dispatch.kernel;
    let records = dispatch.stages.len() as u64 * STAGE_BYTES;
    if records > dispatch.operands.first().map_or(0, |tensor| tensor.bytes) && !dispatch.stages.is_empty() {
        return Err(format!("{records} bytes of stages do not fit"));
    }
    let fits = |stage: &Dispatch| 8 + stage.push.len() + 4 * stage.specialization.len() <= STAGE_BYTES as usize;
    if let Some(stage) = dispatch.stages.iter().find(|stage| !fits(stage)) {
        return Err(format!("its stage {} takes more than {STAGE_BYTES} bytes", stage.kernel.name));
    }
    if dispatch.operands.len() != kernel.operands.len() {
        return Err(format!("{} operands instead of {}", dispatch.operands.len(), kernel.operands.len()));
    }
    if dispatch.specialization.len() != kernel.specialization.len() {
        let (has, needs) = (dispatch.specialization.len(), kernel.specialization.len());
        return Err(format!("{has} specialization constants instead of {needs}"));
    }
    let push_bytes = dispatch.push.len();
    if push_bytes != kernel.push_bytes as usize || !push_bytes.is_multiple_of(4) || push_bytes > PUSH_BYTES as usize {
        let declared = kernel.push_bytes;
        return Err(format!("{push_bytes} bytes of push constants; {declared} are declared, {PUSH_BYTES} allowed"));
    }
    for axis in 0..3 {
        if !(1..=max_groups[axis]).contains(&dispatch.groups[axis]) {
            return Err(format!("{:?} workgroups; the device takes 1 to {max_groups:?}", dispatch.groups));
        }
    }
    for (info, tensor) in kernel.operands.iter().zip(&dispatch.operands) {
        if info.push_offset as usize + 8 > push_bytes {
            return Err(format!("the address of {} lies outside the push constants", info.name));
        }
        check_operand(tensor, place).map_err(|problem| format!("{} = {tensor} {problem}", info.name))?;
    }
    Ok(())
}

fn check_operand(tensor: &Tensor, place: &impl Fn(Region) -> Option<Place>) -> Result<(), String> {
    let place = place(tensor.region).ok_or("lies in a region that was not allocated")?;
    let end = tensor.offset_bytes.checked_add(tensor.bytes);
    if end.is_none_or(|end| end > place.bytes) {
        return Err(format!("lies outside its region of {} bytes", place.bytes));
    }
    if !(place.address + tensor.offset_bytes).is_multiple_of(OPERAND_ALIGN_BYTES) {
        return Err(format!("is not aligned to {OPERAND_ALIGN_BYTES} bytes"));
    }
    Ok(())
}

/// The push constants of a checked dispatch, complete with addresses.
pub fn push_constants(dispatch: &Dispatch, place: impl Fn(Region) -> Option<Place>) -> Vec<u8> {
    let mut push = dispatch.push.clone();
    for (info, tensor) in dispatch.kernel.operands.iter().zip(&dispatch.operands) {
        let place = place(tensor.region).expect("the plan was checked");
        let at = info.push_offset as usize;
        push[at..at + 8].copy_from_slice(&(place.address + tensor.offset_bytes).to_le_bytes());
    }
    push
}

/// What stands in [`Region::Stages`] for the stages of a checked plan's dispatches: the bytes, and where they go.
pub fn stages(plan: &Plan, place: impl Fn(Region) -> Option<Place>) -> Vec<(u64, Vec<u8>)> {
    let with_stages = plan.dispatches().filter(|dispatch| !dispatch.stages.is_empty());
    with_stages
        .map(|dispatch| {
            let mut records = Vec::new();
            for stage in &dispatch.stages {
                let end = records.len() + STAGE_BYTES as usize;
                records.extend([stage_kind(dispatch.kernel, stage.kernel), 0].map(u32::to_le_bytes).as_flattened());
                records.extend(push_constants(stage, &place));
                records.extend(stage.specialization.iter().flat_map(|word| word.to_le_bytes()));
                records.resize(end, 0);
            }
            (dispatch.operands[0].offset_bytes, records)
        })
        .collect()
}

/// A command as the driver takes it.
pub enum Ready {
    Dispatch { pipeline: vk::Pipeline, push: Vec<u8>, groups: [u32; 3] },
    Barrier,
}

/// What a plan's commands become, in order; `pipeline` finds or compiles.
pub fn ready(
    plan: &Plan,
    place: impl Fn(Region) -> Option<Place>,
    mut pipeline: impl FnMut(&Dispatch) -> Result<vk::Pipeline, ExecutorError>,
) -> Result<Vec<Ready>, ExecutorError> {
    plan.commands
        .iter()
        .map(|command| match command {
            Command::Barrier => Ok(Ready::Barrier),
            Command::Dispatch(dispatch) => Ok(Ready::Dispatch {
                pipeline: pipeline(dispatch)?,
                push: push_constants(dispatch, &place),
                groups: dispatch.groups,
            }),
        })
        .collect()
}

/// Records a plan's commands, and behind them a barrier that lets the host see what they wrote.
pub fn record(ash: &ash::Device, buffer: vk::CommandBuffer, layout: vk::PipelineLayout, ready: &[Ready]) {
    commands(ash, buffer, layout, ready);
    let written = (vk::PipelineStageFlags::COMPUTE_SHADER, vk::AccessFlags::SHADER_WRITE);
    barrier(ash, buffer, written, (vk::PipelineStageFlags::HOST, vk::AccessFlags::HOST_READ));
}

pub fn commands(ash: &ash::Device, buffer: vk::CommandBuffer, layout: vk::PipelineLayout, ready: &[Ready]) {
    let mut bound = vk::Pipeline::null();
    for command in ready {
        match command {
            Ready::Barrier => compute_barrier(ash, buffer),
            Ready::Dispatch { pipeline, push, groups: [x, y, z] } => {
                // SAFETY: pipelines, layout and the memory behind the addresses live as long as the recording; groups and
                // push constants were checked.
                unsafe {
                    if *pipeline != bound {
                        ash.cmd_bind_pipeline(buffer, vk::PipelineBindPoint::COMPUTE, *pipeline);
                        bound = *pipeline;
                    }
                    if !push.is_empty() {
                        ash.cmd_push_constants(buffer, layout, vk::ShaderStageFlags::COMPUTE, 0, push);
                    }
                    ash.cmd_dispatch(buffer, *x, *y, *z);
                }
            }
        }
    }
}

/// What dispatches before have written is seen by those behind.
pub fn compute_barrier(ash: &ash::Device, buffer: vk::CommandBuffer) {
    let stage = vk::PipelineStageFlags::COMPUTE_SHADER;
    let (written, used) = (vk::AccessFlags::SHADER_WRITE, vk::AccessFlags::SHADER_READ | vk::AccessFlags::SHADER_WRITE);
    barrier(ash, buffer, (stage, written), (stage, used));
}

/// One barrier over all memory: `to` sees what `from` did.
pub fn barrier(
    ash: &ash::Device,
    buffer: vk::CommandBuffer,
    from: (vk::PipelineStageFlags, vk::AccessFlags),
    to: (vk::PipelineStageFlags, vk::AccessFlags),
) {
    let memory = [vk::MemoryBarrier::default().src_access_mask(from.1).dst_access_mask(to.1)];
    // SAFETY: the buffer is being recorded.
    unsafe { ash.cmd_pipeline_barrier(buffer, from.0, to.0, vk::DependencyFlags::empty(), &memory, &[], &[]) };
}
