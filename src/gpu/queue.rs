//! The one queue: recording, submitting and waiting. A submission carries no fence and allocates nothing; a point to wait
//! for is a submission of its own that raises a timeline semaphore.

use super::error::cause;
use crate::plan::ExecutorError;
use ash::vk;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vulkano::device::Device;
use vulkano::device::Queue as VulkanoQueue;
use vulkano::sync::semaphore::{Semaphore, SemaphoreCreateInfo, SemaphoreType};
use vulkano::{VulkanError, VulkanObject};

/// The device as both crates see it.
pub struct Raw {
    pub ash: ash::Device,
    pub device: Arc<Device>,
    /// The device no longer answers: what it may still use must not be destroyed.
    hung: AtomicBool,
}

impl Raw {
    pub fn new(device: Arc<Device>) -> Raw {
        // SAFETY: the handle is that of a live device of this instance, kept alive by the `Arc` beside it.
        let ash = unsafe { ash::Device::load(&device.instance().fns().v1_0, device.handle()) };
        Raw { ash, device, hung: AtomicBool::new(false) }
    }

    /// From here on nothing of this device is destroyed.
    pub fn give_up(&self) {
        self.hung.store(true, Ordering::Relaxed);
    }

    pub fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }
}

pub struct Queue {
    raw: Arc<Raw>,
    queue: vk::Queue,
    family: u32,
    pool: vk::CommandPool,
    timeline: ManuallyDrop<Semaphore>,
    /// The timeline's value after the last fence, and the highest that was seen.
    signalled: u64,
    completed: u64,
    /// Something was submitted after the last fence.
    unfenced: bool,
    /// Calls of `vkQueueSubmit`.
    submissions: u64,
    timeout: Duration,
}

impl Queue {
    pub fn new(raw: Arc<Raw>, queue: &VulkanoQueue) -> Result<Queue, ExecutorError> {
        let create_info = SemaphoreCreateInfo { semaphore_type: SemaphoreType::Timeline, ..Default::default() };
        let timeline = Semaphore::new(raw.device.clone(), create_info)
            .map(ManuallyDrop::new)
            .map_err(|failure| ExecutorError::Device(format!("no timeline semaphore: {}", cause(&failure))))?;
        let family = queue.queue_family_index();
        let pool_info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        // SAFETY: the family is one the device was made with.
        let pool = unsafe { raw.ash.create_command_pool(&pool_info, None) }.map_err(|code| error(&raw, code))?;
        let queue = queue.handle();
        Ok(Queue {
            raw,
            queue,
            family,
            pool,
            timeline,
            signalled: 0,
            completed: 0,
            unfenced: false,
            submissions: 0,
            timeout: Duration::MAX,
        })
    }

    pub fn family(&self) -> u32 {
        self.family
    }

    pub fn submissions(&self) -> u64 {
        self.submissions
    }

    /// How long to wait for the device before giving it up.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// A command buffer with what `record` puts into it, to be submitted any number of times.
    pub fn record(
        &self,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<vk::CommandBuffer, ExecutorError> {
        let ash = &self.raw.ash;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        let begin = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
        // SAFETY: the pool is alive and, as `&self` is not shared between threads while recording, used by one thread;
        // what `record` refers to is kept alive by the executor until the buffer is freed.
        unsafe {
            let buffer = ash.allocate_command_buffers(&info).map_err(|code| error(&self.raw, code))?[0];
            ash.begin_command_buffer(buffer, &begin).map_err(|code| error(&self.raw, code))?;
            record(ash, buffer);
            ash.end_command_buffer(buffer).map_err(|code| error(&self.raw, code))?;
            Ok(buffer)
        }
    }

    /// Frees a command buffer that no longer runs.
    pub fn free(&mut self, buffer: vk::CommandBuffer) {
        // SAFETY: it came from this pool, and the caller has waited for it.
        unsafe { self.raw.ash.free_command_buffers(self.pool, &[buffer]) };
    }

    /// Records, submits and waits.
    pub fn run_once(&mut self, record: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<(), ExecutorError> {
        let buffer = self.record(record)?;
        self.submit(buffer)?;
        self.finish()?;
        self.free(buffer);
        Ok(())
    }

    #[inline]
    pub fn submit(&mut self, buffer: vk::CommandBuffer) -> Result<(), ExecutorError> {
        let buffers = [buffer];
        let info = [vk::SubmitInfo::default().command_buffers(&buffers)];
        self.unfenced = true;
        self.submissions += 1;
        // SAFETY: the buffer is recorded for simultaneous use, and this struct alone submits to the queue.
        let result = unsafe { self.raw.ash.queue_submit(self.queue, &info, vk::Fence::null()) };
        result.map_err(|code| error(&self.raw, code))
    }

    /// Marks the end of everything submitted and returns the timeline's value that stands for it.
    pub fn fence(&mut self) -> Result<u64, ExecutorError> {
        let value = self.signalled + 1;
        let (values, semaphores) = ([value], [self.timeline.handle()]);
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = [vk::SubmitInfo::default().signal_semaphores(&semaphores).push_next(&mut timeline)];
        self.submissions += 1;
        // SAFETY: values of the timeline only grow, and this struct alone signals it.
        let result = unsafe { self.raw.ash.queue_submit(self.queue, &info, vk::Fence::null()) };
        result.map_err(|code| error(&self.raw, code))?;
        self.signalled = value;
        self.unfenced = false;
        Ok(value)
    }

    pub fn wait(&mut self, value: u64) -> Result<(), ExecutorError> {
        if value <= self.completed {
            return Ok(());
        }
        let (values, semaphores) = ([value], [self.timeline.handle()]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let timeout_ns = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the semaphore is alive and a timeline.
        match unsafe { self.raw.ash.wait_semaphores(&info, timeout_ns) } {
            Ok(()) => {
                self.completed = value;
                Ok(())
            }
            Err(vk::Result::TIMEOUT) => {
                self.raw.give_up();
                Err(ExecutorError::TimedOut { waited_s: self.timeout.as_secs() })
            }
            Err(code) => Err(error(&self.raw, code)),
        }
    }

    /// The value of the next fence, which stands behind everything submitted so far.
    #[inline]
    pub fn next_fence(&self) -> u64 {
        self.signalled + 1
    }

    /// Waits for a fence that may not have been made yet: at most the next.
    pub fn reach(&mut self, value: u64) -> Result<(), ExecutorError> {
        if value > self.signalled {
            self.fence()?;
        }
        self.wait(value)
    }

    /// Waits for everything submitted.
    pub fn finish(&mut self) -> Result<(), ExecutorError> {
        if self.unfenced {
            self.fence()?;
        }
        self.wait(self.signalled)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.raw.is_hung() {
            // The device, the semaphore and the pool must not be destroyed under running work.
            std::mem::forget(self.raw.clone());
            return;
        }
        // SAFETY: the executor has waited for everything submitted, and the semaphore is not used again.
        unsafe {
            self.raw.ash.destroy_command_pool(self.pool, None);
            ManuallyDrop::drop(&mut self.timeline);
        }
    }
}

/// What a failed call means.
fn error(raw: &Raw, code: vk::Result) -> ExecutorError {
    if code == vk::Result::ERROR_DEVICE_LOST {
        raw.give_up();
        return ExecutorError::DeviceLost(
            "the driver gave up on a submission: it ran too long, touched memory it should not, or the driver crashed; \
             the system's log may say which"
                .to_owned(),
        );
    }
    ExecutorError::Device(describe(code))
}

/// The driver's answer in words.
pub fn describe(code: vk::Result) -> String {
    let text = VulkanError::from(code).to_string();
    if code == vk::Result::ERROR_OUT_OF_HOST_MEMORY {
        // Mesa's Venus driver answers so when it cannot map a piece of its command stream.
        return format!(
            "{text}; in a virtual machine its window for mapped GPU memory may be full: give it a larger one"
        );
    }
    text
}
