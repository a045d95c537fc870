//! Brings weights from the file to the device: through a small staging ring, repacked there by kernels.

use super::ModelError;
use super::dims::Dims;
use super::rope;
use super::weights::{Job, Weights};
use crate::gguf::Gguf;
use crate::kernels::layout::Layout;
use crate::kernels::matrix::{self, Placement};
use crate::kernels::{copy, policy};
use crate::plan::{Builder, Dispatch, Executor, ExecutorError, Prepared, Region, Tensor, Ticket};

/// Slots of the staging ring: one is filled while the device reads the other.
const SLOTS: usize = 2;

/// Bytes of the staging region for slots of `slot_bytes`.
pub fn staging_bytes(slot_bytes: u64) -> u64 {
    slot_bytes * SLOTS as u64
}

/// A slot must hold at least one tile of rows of any matrix and is small, since it is mapped.
pub fn slot_bytes(weights: &Weights) -> u64 {
    let tile_bytes = weights.jobs.iter().filter_map(|job| match job {
        Job::Matrix { layout, .. } => {
            let row_bytes = layout.format.row_bytes(layout.cols as usize)? as u64;
            Some(row_bytes * u64::from(layout.arrangement.tile_rows()))
        }
        _ => None,
    });
    tile_bytes.max().unwrap_or(0).max(4 << 20).next_multiple_of(65_536)
}

/// Loads everything; `progress` is told how many bytes of the file were taken each time some are.
pub fn load(
    weights: &Weights,
    dims: &Dims,
    gguf: &Gguf,
    executor: &mut dyn Executor,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ModelError> {
    let mut ring = Ring { executor, slot_bytes: slot_bytes(weights), busy: [None; SLOTS], next: 0 };
    for job in &weights.jobs {
        match job {
            Job::Matrix { name, weight, layout, placement } => {
                let info = gguf.tensor(name)?;
                ring.matrix(gguf.bytes(info), weight, layout, *placement, progress)?;
                gguf.set_aside(info);
            }
            Job::Vector { name, weight } => {
                let bytes = gguf.bytes(gguf.tensor(name)?);
                ring.floats(&vector(gguf, name)?, weight)?;
                progress(bytes.len() as u64);
            }
            Job::Rope { weight, positions, factors } => {
                let factors = factors.as_ref().map(|name| vector(gguf, name)).transpose()?;
                let table = rope::table(dims, factors.as_deref(), *positions);
                ring.floats(bytemuck::cast_slice(&table), weight)?;
            }
        }
    }
    Ok(ring.drain()?)
}

fn vector(gguf: &Gguf, name: &str) -> Result<Vec<f32>, ModelError> {
    let info = gguf.tensor(name)?;
    let mut values = vec![0f32; info.elements()];
    info.kind.dequantize(gguf.bytes(info), &mut values);
    Ok(values)
}

struct Ring<'a> {
    executor: &'a mut dyn Executor,
    slot_bytes: u64,
    busy: [Option<(Ticket, Prepared)>; SLOTS],
    next: usize,
}

impl Ring<'_> {
    /// Fills the next slot and runs one dispatch that reads it.
    fn send(&mut self, bytes: &[u8], dispatch: impl FnOnce(&Tensor) -> Dispatch) -> Result<(), ExecutorError> {
        let slot = self.next;
        self.next = (slot + 1) % SLOTS;
        self.free(slot)?;
        let offset = slot as u64 * self.slot_bytes;
        self.executor.write(Region::Staging, offset, bytes);
        // Kernels read whole words, so the tensor may end a little behind the bytes; the slot has room.
        let tensor = Tensor::new(Region::Staging, offset, (bytes.len() as u64).next_multiple_of(16));
        let mut builder = Builder::default();
        builder.push(dispatch(&tensor));
        let prepared = self.executor.prepare(&builder.finish("load"))?;
        self.executor.submit(prepared)?;
        self.busy[slot] = Some((self.executor.fence()?, prepared));
        Ok(())
    }

    fn free(&mut self, slot: usize) -> Result<(), ExecutorError> {
        if let Some((ticket, prepared)) = self.busy[slot].take() {
            self.executor.wait(ticket)?;
            self.executor.release(prepared);
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ExecutorError> {
        (0..SLOTS).try_for_each(|slot| self.free(slot))
    }

    fn matrix(
        &mut self,
        bytes: &[u8],
        weight: &Tensor,
        layout: &Layout,
        placement: Placement,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ExecutorError> {
        let row_bytes = layout.format.row_bytes(layout.cols as usize).expect("the layout was checked");
        // One submission stays short, and its count of groups within every device's limit.
        let groups_max = 65_535 * policy::REPACK_LOCAL_SIZE as usize / layout.blocks() as usize;
        let tile_rows = layout.arrangement.tile_rows() as usize;
        let rows_a_slot = (self.slot_bytes as usize / row_bytes).min(groups_max);
        // Whole tiles, and a slot holds at least one: see [`slot_bytes`].
        let rows_a_slot = (rows_a_slot / tile_rows * tile_rows).max(tile_rows);
        let mut first_row = placement.first_row;
        for piece in bytes.chunks(rows_a_slot * row_bytes) {
            let rows = (piece.len() / row_bytes) as u32;
            let placement = Placement { first_row, ..placement };
            self.send(piece, |file| matrix::repack(file, rows, &mut weight.clone(), layout, placement))?;
            first_row += rows;
            progress(piece.len() as u64);
        }
        Ok(())
    }

    fn floats(&mut self, values: &[f32], weight: &Tensor) -> Result<(), ExecutorError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut offset = 0;
        for piece in bytes.chunks(self.slot_bytes.min(65_535 * 64 * 16) as usize) {
            // Vectors are placed at multiples of 256 bytes or back to back in multiples of 16, so rounding up hits padding.
            let units = (piece.len() as u64).div_ceil(16);
            let mut target = Tensor::new(weight.region, weight.offset_bytes + offset, units * 16);
            self.send(piece, |x| {
                let args = copy::Args { x, y: &mut target, units: units as u32 };
                copy::dispatch(&copy::COPY, copy::Spec { local_size: 64 }, args, [units.div_ceil(64) as u32, 1, 1])
            })?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}
