//! The regions as plain host memory, and typed views of tensors in them.

use crate::plan::{ExecutorError, Region, Tensor};
use bytemuck::{AnyBitPattern, NoUninit};
use std::collections::HashMap;

/// Every region, held in 16-byte units so that any view of a tensor is aligned.
#[derive(Default)]
pub struct Memory {
    regions: HashMap<Region, Vec<u128>>,
}

impl Memory {
    pub fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        let out_of_memory = |reason: &str| ExecutorError::OutOfMemory { region, bytes, reason: reason.to_owned() };
        let units = usize::try_from(bytes.div_ceil(16)).map_err(|_| out_of_memory("it exceeds the address space"))?;
        let mut storage = Vec::new();
        storage.try_reserve_exact(units).map_err(|_| out_of_memory("the host has not that much"))?;
        // All ones are NaN, so that a plan that reads what none has written is found.
        storage.resize(units, if region.starts_as_zeros() { 0 } else { u128::MAX });
        self.regions.insert(region, storage);
        Ok(())
    }

    pub fn free(&mut self, region: Region) {
        self.regions.remove(&region).unwrap_or_else(|| panic!("{region:?} was not allocated"));
    }

    fn region(&self, region: Region) -> &[u8] {
        bytemuck::cast_slice(self.regions.get(&region).unwrap_or_else(|| panic!("{region:?} was not allocated")))
    }

    fn region_mut(&mut self, region: Region) -> &mut [u8] {
        let storage = self.regions.get_mut(&region).unwrap_or_else(|| panic!("{region:?} was not allocated"));
        bytemuck::cast_slice_mut(storage)
    }

    /// A tensor as elements. Its bytes must be a multiple of the element's, and its offset aligned.
    pub fn view<T: AnyBitPattern>(&self, tensor: &Tensor) -> &[T] {
        bytemuck::cast_slice(&self.region(tensor.region)[tensor.offset_bytes as usize..tensor.end_bytes() as usize])
    }

    pub fn view_mut<T: AnyBitPattern + NoUninit>(&mut self, tensor: &Tensor) -> &mut [T] {
        let range = tensor.offset_bytes as usize..tensor.end_bytes() as usize;
        bytemuck::cast_slice_mut(&mut self.region_mut(tensor.region)[range])
    }

    pub fn write_bytes(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        let start = offset_bytes as usize;
        self.region_mut(region)[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub fn read_bytes(&self, region: Region, offset_bytes: u64, out: &mut [u8]) {
        let start = offset_bytes as usize;
        out.copy_from_slice(&self.region(region)[start..start + out.len()]);
    }

    pub fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        let mut word = [0; 4];
        self.read_bytes(region, offset_bytes, &mut word);
        u32::from_le_bytes(word)
    }
}
