//! One allocation per region. Weights, cache and arena live in unmapped device memory, since a virtual machine's window
//! for mapped memory is small; only what the host reads or writes is mapped.

use super::error::cause;
use super::queue::Raw;
use crate::plan::{ExecutorError, Region};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferUsage, sys::RawBuffer};
use vulkano::memory::{DeviceMemory, MemoryAllocateFlags, MemoryAllocateInfo, MemoryMapInfo};
use vulkano::memory::{MemoryPropertyFlags, ResourceMemory};
use vulkano::{Validated, VulkanError, VulkanObject};

/// Hosts map 16 KiB or 64 KiB pages into guests.
const GRANULE_BYTES: u64 = 64 << 10;

/// Host access to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// None: device memory.
    Unmapped,
    /// The host writes a little and the device reads it often.
    Write,
    /// The host polls and reads.
    Read,
}

pub fn access_of(region: Region) -> Access {
    match region {
        Region::Step | Region::Staging | Region::Stages => Access::Write,
        Region::Output => Access::Read,
        Region::Weights(_) | Region::Cache(_) | Region::Arena | Region::Logits | Region::Virtual(_) => Access::Unmapped,
    }
}

/// A buffer with memory of its own.
pub struct Block {
    buffer: Buffer,
    pub address: u64,
    /// As asked for; the allocation may be larger.
    pub bytes: u64,
    pub allocated_bytes: u64,
    mapped: Option<NonNull<u8>>,
}

// SAFETY: the pointer is to memory that the block owns and that stays mapped as long as it lives; it is written through
// `&mut self` and read through copies and atomics.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

impl Block {
    /// Allocates, and maps unless `access` says otherwise. The content is undefined.
    pub fn new(raw: &Raw, region: Region, bytes: u64, access: Access) -> Result<Block, ExecutorError> {
        let fail = |reason: String| ExecutorError::OutOfMemory { region, bytes, reason };
        let size = bytes.max(1).checked_next_multiple_of(GRANULE_BYTES).ok_or_else(|| fail("too large".to_owned()))?;
        let limit = largest_bytes(raw);
        if size > limit {
            return Err(fail(format!("one allocation on this device holds at most {limit} bytes")));
        }
        let create_info = BufferCreateInfo {
            size,
            usage: BufferUsage::STORAGE_BUFFER
                | BufferUsage::SHADER_DEVICE_ADDRESS
                | BufferUsage::TRANSFER_SRC
                | BufferUsage::TRANSFER_DST,
            ..Default::default()
        };
        let buffer = RawBuffer::new(raw.device.clone(), create_info).map_err(|failure| fail(cause(&failure)))?;
        let memory = allocate(raw, &buffer, size, access).map_err(fail)?;
        let allocated_bytes = memory.allocation_size();
        let mapped = memory.mapping_state().map(|state| state.ptr().cast());
        let buffer = buffer
            .bind_memory(ResourceMemory::new_dedicated(memory))
            .map_err(|(failure, _, _)| fail(cause(&failure)))?;
        let address = buffer.device_address().map_err(|failure| fail(failure.to_string()))?.get();
        Ok(Block { buffer, address, bytes, allocated_bytes, mapped })
    }

    pub fn handle(&self) -> ash::vk::Buffer {
        self.buffer.handle()
    }

    pub fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// # Panics
    /// When the region is not mapped or the range lies outside it.
    fn pointer(&self, region: Region, offset_bytes: u64, bytes: u64) -> NonNull<u8> {
        let inside = offset_bytes.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "{offset_bytes}+{bytes} lies outside the {} bytes of {region:?}", self.bytes);
        let start = self.mapped.unwrap_or_else(|| panic!("{region:?} is not mapped"));
        // SAFETY: the offset lies within the mapping, and the mapping within the address space.
        unsafe { start.add(offset_bytes as usize) }
    }

    pub fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        let target = self.pointer(region, offset_bytes, bytes.len() as u64);
        // SAFETY: the range lies in the mapping, which no Rust reference covers.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }

    pub fn read(&self, region: Region, offset_bytes: u64, out: &mut [u8]) {
        let source = self.pointer(region, offset_bytes, out.len() as u64);
        // SAFETY: as in `write`; the device is done with the range.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), out.as_mut_ptr(), out.len()) };
    }

    pub fn fill_zero(&mut self, region: Region) {
        let target = self.pointer(region, 0, self.bytes);
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(target.as_ptr(), 0, self.bytes as usize) };
    }

    pub fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        assert!(offset_bytes.is_multiple_of(4), "{offset_bytes} in {region:?} is not the offset of a word");
        let word = self.pointer(region, offset_bytes, 4).cast::<u32>();
        // SAFETY: aligned, within the mapping, and only ever accessed by the host through atomics or copies made while
        // no plan writes it.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }.load(Ordering::Acquire)
    }
}

/// The largest region that the device can hold, in bytes.
pub fn largest_bytes(raw: &Raw) -> u64 {
    let properties = raw.device.physical_device().properties();
    let buffer = properties.max_buffer_size.unwrap_or(u64::MAX);
    let memory = properties.max_memory_allocation_size.unwrap_or(u64::MAX);
    let limit = buffer.min(memory);
    limit - limit % GRANULE_BYTES
}

/// Tries the suitable memory types, best first.
fn allocate(raw: &Raw, buffer: &RawBuffer, size: u64, access: Access) -> Result<DeviceMemory, String> {
    let requirements = buffer.memory_requirements();
    let types = &raw.device.physical_device().memory_properties().memory_types;
    let flags: Vec<_> = types.iter().map(|kind| kind.property_flags).collect();
    let candidates = suitable_types(&flags, requirements.memory_type_bits, access);
    let allocation_size = requirements.layout.size().max(size).next_multiple_of(GRANULE_BYTES);
    let mut failure = "the device has no memory of the needed kind".to_owned();
    for memory_type_index in candidates {
        let info = MemoryAllocateInfo {
            allocation_size,
            memory_type_index,
            flags: MemoryAllocateFlags::DEVICE_ADDRESS,
            ..Default::default()
        };
        match allocate_mapped(raw, info, access) {
            Ok(memory) => return Ok(memory),
            Err(error) => failure = cause(&error),
        }
    }
    Err(failure)
}

fn allocate_mapped(
    raw: &Raw,
    info: MemoryAllocateInfo<'_>,
    access: Access,
) -> Result<DeviceMemory, Validated<VulkanError>> {
    let mut memory = DeviceMemory::allocate(raw.device.clone(), info)?;
    if access != Access::Unmapped {
        memory.map(MemoryMapInfo { size: memory.allocation_size(), ..Default::default() })?;
    }
    Ok(memory)
}

/// Indices of the memory types to try, given the properties of all. Memory that is not on the device never stands in for device memory where there is
/// some: that would be a silent loss of speed.
fn suitable_types(types: &[MemoryPropertyFlags], allowed_bits: u32, access: Access) -> Vec<u32> {
    use MemoryPropertyFlags as Flags;
    let exotic = Flags::LAZILY_ALLOCATED | Flags::PROTECTED | Flags::DEVICE_UNCACHED;
    let any_on_device = types.iter().any(|flags| flags.intersects(Flags::DEVICE_LOCAL));
    let needed = match access {
        Access::Unmapped if any_on_device => Flags::DEVICE_LOCAL,
        Access::Unmapped => Flags::empty(),
        Access::Write | Access::Read => Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
    };
    // Lower is better.
    let penalty = |flags: &Flags| match access {
        Access::Unmapped => u32::from(flags.intersects(Flags::HOST_VISIBLE)),
        Access::Write => u32::from(!flags.intersects(Flags::DEVICE_LOCAL)),
        Access::Read => u32::from(!flags.intersects(Flags::HOST_CACHED)),
    };
    let mut found: Vec<(u32, u32)> = types
        .iter()
        .zip(0u32..)
        .filter(|(_, index)| allowed_bits & (1 << index) != 0)
        .filter(|(flags, _)| flags.contains(needed) && !flags.intersects(exotic))
        .map(|(flags, index)| (penalty(flags), index))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: MemoryPropertyFlags = MemoryPropertyFlags::DEVICE_LOCAL;
    const HOST: MemoryPropertyFlags = MemoryPropertyFlags::HOST_VISIBLE.union(MemoryPropertyFlags::HOST_COHERENT);
    const CACHED: MemoryPropertyFlags = HOST.union(MemoryPropertyFlags::HOST_CACHED);

    #[test]
    fn a_discrete_device_keeps_what_is_not_mapped_and_shows_what_is() {
        let types = [HOST, CACHED, DEVICE.union(HOST), DEVICE, DEVICE.union(MemoryPropertyFlags::LAZILY_ALLOCATED)];
        assert_eq!(suitable_types(&types, !0, Access::Unmapped), [3, 2]);
        assert_eq!(suitable_types(&types, !0, Access::Write), [2, 0, 1]);
        assert_eq!(suitable_types(&types, !0, Access::Read), [1, 0, 2]);
        assert_eq!(suitable_types(&types, 0b00101, Access::Unmapped), [2]);
    }

    #[test]
    fn one_kind_of_memory_serves_everything() {
        for access in [Access::Unmapped, Access::Write, Access::Read] {
            assert_eq!(suitable_types(&[DEVICE.union(CACHED)], 1, access), [0]);
        }
    }

    #[test]
    fn host_memory_stands_in_only_where_there_is_no_other() {
        assert_eq!(suitable_types(&[CACHED], !0, Access::Unmapped), [0]);
        assert_eq!(suitable_types(&[CACHED, DEVICE], 0b01, Access::Unmapped), [] as [u32; 0]);
        assert_eq!(suitable_types(&[MemoryPropertyFlags::HOST_VISIBLE, DEVICE], !0, Access::Read), [] as [u32; 0]);
    }
}
