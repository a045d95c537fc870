//! [`Gpu`]: one device as an executor of plans.

use super::device::{DeviceInfo, REQUIRED_FEATURES, compute_family};
use super::error::cause;
use super::kept::Identity;
use super::memory::{self, Access, Block, access_of};
use super::pipeline::Pipelines;
use super::profile::{Stopwatch, timestamp_bits};
use super::queue::{Queue, Raw};
use super::record::{self, Place, Ready};
use super::{Error, Vulkan};
use crate::plan::{Clock, DeviceLabel, Executor, ExecutorError, Plan, PlanTimes, Prepared, Region, Ticket};
use ash::vk;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vulkano::device::physical::PhysicalDevice;
use vulkano::device::{Device, DeviceCreateInfo, QueueCreateInfo};

/// Bytes that one copy out of unmapped memory moves.
const READ_PIECE_BYTES: u64 = 1 << 20;

/// What a debug build fills memory with that has no first content: as floats of any width, NaN.
const POISON: u32 = u32::MAX;

/// Submissions of nothing whose median time is taken from that of a plan, where the device has no clock.
const EMPTY_SUBMISSIONS: usize = 9;

/// When to give up a device. Drivers reset GPUs that hang within seconds; a CPU may well take minutes for honest work.
const TIMEOUT: Duration = Duration::from_secs(60);
const SOFTWARE_TIMEOUT: Duration = Duration::from_secs(900);

/// Memory held, by whether it takes part of a virtual machine's window for mapped memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub device_bytes: u64,
    pub mapped_bytes: u64,
}

/// A device with one queue, its regions, pipelines and recorded plans. Owned by one thread at a time.
pub struct Gpu {
    pub(super) info: DeviceInfo,
    max_groups: [u32; 3],
    plans: Vec<Option<Recorded>>,
    regions: Regions,
    /// For reading unmapped memory; made when first needed.
    read_piece: Option<Block>,
    pipelines: Pipelines,
    queue: Queue,
    raw: Arc<Raw>,
}

/// A plan made ready.
struct Recorded {
    buffer: vk::CommandBuffer,
    /// Stands behind its last submission.
    fence: u64,
    /// Its [`Region::Stages`].
    stages: Option<Block>,
}

/// The blocks of all regions, found without hashing: the host polls one of them.
#[derive(Default)]
struct Regions {
    arena: Option<Block>,
    logits: Option<Block>,
    step: Option<Block>,
    output: Option<Block>,
    staging: Option<Block>,
    weights: Vec<Option<Block>>,
    cache: Vec<Option<Block>>,
}

impl Regions {
    fn get(&self, region: Region) -> Option<&Block> {
        match region {
            Region::Arena => self.arena.as_ref(),
            Region::Logits => self.logits.as_ref(),
            Region::Step => self.step.as_ref(),
            Region::Output => self.output.as_ref(),
            Region::Staging => self.staging.as_ref(),
            Region::Weights(part) => self.weights.get(usize::from(part))?.as_ref(),
            Region::Cache(part) => self.cache.get(usize::from(part))?.as_ref(),
            Region::Stages | Region::Virtual(_) => None,
        }
    }

    /// The place for a region's block; `None` for those that plans have of their own, or not yet.
    fn slot(&mut self, region: Region) -> Option<&mut Option<Block>> {
        fn part(parts: &mut Vec<Option<Block>>, index: u16) -> &mut Option<Block> {
            let index = usize::from(index);
            if parts.len() <= index {
                parts.resize_with(index + 1, || None);
            }
            &mut parts[index]
        }
        match region {
            Region::Arena => Some(&mut self.arena),
            Region::Logits => Some(&mut self.logits),
            Region::Step => Some(&mut self.step),
            Region::Output => Some(&mut self.output),
            Region::Staging => Some(&mut self.staging),
            Region::Weights(index) => Some(part(&mut self.weights, index)),
            Region::Cache(index) => Some(part(&mut self.cache, index)),
            Region::Stages | Region::Virtual(_) => None,
        }
    }

    fn place(&self, region: Region) -> Option<Place> {
        self.get(region).map(|block| Place { address: block.address, bytes: block.bytes })
    }

    fn expect(&self, region: Region) -> &Block {
        self.get(region).unwrap_or_else(|| panic!("{region:?} was not allocated"))
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        let single = [&self.arena, &self.logits, &self.step, &self.output, &self.staging];
        single.into_iter().chain(&self.weights).chain(&self.cache).flatten()
    }
}

impl Gpu {
    /// Opens the device at `index` of [`Vulkan::devices`], which must lack nothing.
    pub fn new(vulkan: &Vulkan, index: usize) -> Result<Gpu, Error> {
        Gpu::of(vulkan.devices()[index].clone(), vulkan.physical(index).clone())
    }

    /// The same device opened once more, with memory, plans and a queue of its own, for another thread. It takes pipelines
    /// from where this one keeps them.
    pub fn another(&self) -> Result<Gpu, Error> {
        let mut other = Gpu::of(self.info.clone(), self.raw.device.physical_device().clone())?;
        if let Some((folder, _)) = self.kept() {
            other.keep_pipelines_in(folder)?;
        }
        Ok(other)
    }

    /// Keeps compiled kernels in `folder`, and takes those that are there. Before any plan is prepared.
    pub fn keep_pipelines_in(&mut self, folder: &Path) -> Result<(), Error> {
        let name = self.label().to_string();
        self.pipelines.keep_in(folder).map_err(|failure| Error::Open { name, reason: failure.to_string() })
    }

    /// Where things are kept from one start to the next, and under whose name.
    pub(super) fn kept(&self) -> Option<(&Path, &Identity)> {
        self.pipelines.kept()
    }

    fn of(info: DeviceInfo, physical: Arc<PhysicalDevice>) -> Result<Gpu, Error> {
        let open_error = |reason: String| Error::Open { name: info.label().to_string(), reason };
        let family = compute_family(&physical).ok_or_else(|| open_error("it has no compute queue".to_owned()))?;
        let max_groups = physical.properties().max_compute_work_group_count;
        // A driver of a subset of Vulkan, as MoltenVK is, must have VK_KHR_portability_subset enabled: vulkano does that
        // wherever the device lists it (`DeviceCreateInfo::enabled_extensions`).
        let create_info = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo { queue_family_index: family, ..Default::default() }],
            enabled_features: REQUIRED_FEATURES,
            ..Default::default()
        };
        let (device, mut queues) = Device::new(physical, create_info).map_err(|failure| open_error(cause(&failure)))?;
        let queue = queues.next().ok_or_else(|| open_error("it made no queue".to_owned()))?;
        let raw = Arc::new(Raw::new(device));
        let mut queue = Queue::new(raw.clone(), &queue).map_err(|failure| open_error(failure.to_string()))?;
        queue.set_timeout(if info.software { SOFTWARE_TIMEOUT } else { TIMEOUT });
        let pipelines = Pipelines::new(raw.clone()).map_err(|failure| open_error(failure.to_string()))?;
        let regions = Regions::default();
        Ok(Gpu { info, max_groups, plans: Vec::new(), regions, read_piece: None, pipelines, queue, raw })
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub fn label(&self) -> DeviceLabel {
        self.info.label()
    }

    /// The largest region that the device can hold, in bytes; more must be split over numbered regions.
    pub fn largest_region_bytes(&self) -> u64 {
        memory::largest_bytes(&self.raw)
    }

    pub fn memory(&self) -> MemoryUse {
        let mut total = MemoryUse::default();
        let stages = self.plans.iter().flatten().filter_map(|plan| plan.stages.as_ref());
        for block in self.regions.blocks().chain(&self.read_piece).chain(stages) {
            let sum = if block.is_mapped() { &mut total.mapped_bytes } else { &mut total.device_bytes };
            *sum += block.allocated_bytes;
        }
        total
    }

    /// Forgets every region and plan, but not the pipelines, which are what takes long to make.
    pub fn forget(&mut self) -> Result<(), ExecutorError> {
        self.queue.finish()?;
        for plan in self.plans.drain(..).flatten() {
            self.queue.free(plan.buffer);
        }
        self.regions = Regions::default();
        self.read_piece = None;
        Ok(())
    }

    /// How long [`Executor::wait`] waits before it gives the device up; unless set, 60 s, and 900 s for a software
    /// device.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.queue.set_timeout(timeout);
    }

    /// Times plans as [`Executor::time`] does, by the clock that is asked for.
    pub fn time_by(&mut self, clock: Clock, plans: &[Plan]) -> Result<PlanTimes, ExecutorError> {
        let ready = plans.iter().map(|plan| self.ready(plan)).collect::<Result<Vec<_>, _>>()?;
        let (plans, _stages): (Vec<_>, Vec<_>) = ready.into_iter().unzip();
        let times_us = match clock {
            Clock::Timestamps => self.times_by_timestamps(&plans)?,
            Clock::Waits => self.times_by_waits(&plans)?,
        };
        Ok(PlanTimes { clock, times_us })
    }

    fn times_by_timestamps(&mut self, plans: &[Vec<Ready>]) -> Result<Vec<f64>, ExecutorError> {
        let watch = Stopwatch::new(self.raw.clone(), self.queue.family(), plans.len())?;
        let layout = self.pipelines.layout;
        self.queue.run_once(|ash, buffer| watch.record(ash, buffer, layout, plans))?;
        watch.times_us()
    }

    fn times_by_waits(&mut self, plans: &[Vec<Ready>]) -> Result<Vec<f64>, ExecutorError> {
        let mut nothing =
            (0..EMPTY_SUBMISSIONS).map(|_| self.submit_and_wait_us(&[])).collect::<Result<Vec<_>, _>>()?;
        nothing.sort_by(f64::total_cmp);
        let nothing_us = nothing[nothing.len() / 2];
        plans.iter().map(|commands| Ok((self.submit_and_wait_us(commands)? - nothing_us).max(0.0))).collect()
    }

    fn submit_and_wait_us(&mut self, commands: &[Ready]) -> Result<f64, ExecutorError> {
        let layout = self.pipelines.layout;
        let buffer = self.queue.record(|ash, buffer| {
            record::compute_barrier(ash, buffer);
            record::record(ash, buffer, layout, commands);
        })?;
        let start = Instant::now();
        self.queue.submit(buffer)?;
        self.queue.finish()?;
        let time = start.elapsed();
        self.queue.free(buffer);
        Ok(time.as_secs_f64() * 1e6)
    }

    /// A plan's commands, checked, with pipelines and addresses, and the memory of its stages.
    fn ready(&mut self, plan: &Plan) -> Result<(Vec<Ready>, Option<Block>), ExecutorError> {
        let (regions, pipelines) = (&self.regions, &mut self.pipelines);
        let mut stages = match plan.stages_bytes() {
            0 => None,
            bytes => Some(Block::new(&self.raw, Region::Stages, bytes, access_of(Region::Stages))?),
        };
        let own = stages.as_ref().map(|block| Place { address: block.address, bytes: block.bytes });
        let place = |region| if region == Region::Stages { own } else { regions.place(region) };
        record::check(plan, self.max_groups, place)?;
        if let Some(block) = &mut stages {
            block.fill_zero(Region::Stages);
            for (offset_bytes, records) in record::stages(plan, place) {
                block.write(Region::Stages, offset_bytes, &records);
            }
        }
        Ok((record::ready(plan, place, |dispatch| pipelines.get(dispatch))?, stages))
    }

    /// Gives a block its first content. Ends with a barrier, so that plans see it.
    fn clear(&mut self, region: Region, block: &mut Block) -> Result<(), ExecutorError> {
        if block.is_mapped() {
            block.fill_zero(region);
            return Ok(());
        }
        let word = match region.starts_as_zeros() {
            true => 0,
            false if cfg!(debug_assertions) => POISON,
            false => return Ok(()),
        };
        let handle = block.handle();
        self.queue.run_once(|ash, buffer| {
            // SAFETY: the block outlives the submission, which `run_once` waits for.
            unsafe { ash.cmd_fill_buffer(buffer, handle, 0, vk::WHOLE_SIZE, word) };
            let used = vk::AccessFlags::SHADER_READ | vk::AccessFlags::SHADER_WRITE;
            let filled = (vk::PipelineStageFlags::TRANSFER, vk::AccessFlags::TRANSFER_WRITE);
            record::barrier(ash, buffer, filled, (vk::PipelineStageFlags::COMPUTE_SHADER, used));
        })
    }

    fn read_unmapped(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        if self.read_piece.is_none() {
            self.read_piece = Some(Block::new(&self.raw, Region::Staging, READ_PIECE_BYTES, Access::Read)?);
        }
        let piece = self.read_piece.as_ref().expect("it was just made");
        let source = self.regions.expect(region).handle();
        let mut offset = offset_bytes;
        for chunk in out.chunks_mut(READ_PIECE_BYTES as usize) {
            let copy = [vk::BufferCopy { src_offset: offset, dst_offset: 0, size: chunk.len() as u64 }];
            let target = piece.handle();
            self.queue.run_once(|ash, buffer| {
                use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
                let written = (Stage::COMPUTE_SHADER, Access::SHADER_WRITE);
                record::barrier(ash, buffer, written, (Stage::TRANSFER, Access::TRANSFER_READ));
                // SAFETY: both blocks outlive the submission, and the caller has checked the range.
                unsafe { ash.cmd_copy_buffer(buffer, source, target, &copy) };
                let copied = (Stage::TRANSFER, Access::TRANSFER_WRITE);
                record::barrier(ash, buffer, copied, (Stage::HOST, Access::HOST_READ));
            })?;
            piece.read(Region::Staging, 0, chunk);
            offset += chunk.len() as u64;
        }
        Ok(())
    }
}

impl Executor for Gpu {
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        if self.regions.get(region).is_some() || self.regions.slot(region).is_none() {
            return Err(ExecutorError::Device(format!("{region:?} cannot be allocated, or is allocated already")));
        }
        let mut block = Block::new(&self.raw, region, bytes, access_of(region))?;
        self.clear(region, &mut block)?;
        *self.regions.slot(region).expect("it was just there") = Some(block);
        Ok(())
    }

    fn free(&mut self, region: Region) -> Result<(), ExecutorError> {
        self.queue.finish()?;
        self.regions.slot(region).and_then(Option::take).unwrap_or_else(|| panic!("{region:?} was not allocated"));
        Ok(())
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let (commands, stages) = self.ready(plan)?;
        let layout = self.pipelines.layout;
        let buffer = self.queue.record(|ash, buffer| record::record(ash, buffer, layout, &commands))?;
        self.plans.push(Some(Recorded { buffer, fence: 0, stages }));
        Ok(Prepared(self.plans.len() - 1))
    }

    fn keep(&mut self) {
        self.pipelines.keep();
    }

    fn release(&mut self, prepared: Prepared) {
        let plan = self.plans.get_mut(prepared.0).and_then(Option::take).expect("the plan is prepared");
        // It may still run if nobody waited; where waiting fails the device is lost and the buffer is left alone. What was
        // submitted behind it goes on.
        match self.queue.reach(plan.fence) {
            Ok(()) => self.queue.free(plan.buffer),
            Err(_) => std::mem::forget(plan.stages),
        }
    }

    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError> {
        let plan = self.plans.get_mut(prepared.0).and_then(Option::as_mut).expect("the plan is prepared");
        plan.fence = self.queue.next_fence();
        self.queue.submit(plan.buffer)
    }

    fn fence(&mut self) -> Result<Ticket, ExecutorError> {
        self.queue.fence().map(Ticket)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<(), ExecutorError> {
        self.queue.wait(ticket.0)
    }

    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        let block = self.regions.slot(region).and_then(Option::as_mut);
        block.unwrap_or_else(|| panic!("{region:?} was not allocated")).write(region, offset_bytes, bytes);
    }

    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        self.regions.expect(region).load_u32(region, offset_bytes)
    }

    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        let block = self.regions.expect(region);
        let end = offset_bytes.checked_add(out.len() as u64);
        let held = block.bytes;
        assert!(end.is_some_and(|end| end <= held), "{offset_bytes}+{} lies outside {region:?} of {held}", out.len());
        self.queue.finish()?;
        let block = self.regions.expect(region);
        if block.is_mapped() {
            block.read(region, offset_bytes, out);
            return Ok(());
        }
        self.read_unmapped(region, offset_bytes, out)
    }

    fn time(&mut self, plans: &[Plan]) -> Result<PlanTimes, ExecutorError> {
        let has_timestamps = timestamp_bits(&self.raw, self.queue.family()) > 0;
        self.time_by(if has_timestamps { Clock::Timestamps } else { Clock::Waits }, plans)
    }

    fn submissions(&self) -> Option<u64> {
        Some(self.queue.submissions())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Nothing may be destroyed while the device uses it. One that no longer answers keeps what it has.
        if self.raw.is_hung() || self.queue.finish().is_err() {
            self.raw.give_up();
            std::mem::forget(std::mem::take(&mut self.regions));
            std::mem::forget(std::mem::take(&mut self.plans));
            std::mem::forget(self.read_piece.take());
        }
    }
}
