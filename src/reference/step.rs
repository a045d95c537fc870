//! Twins of `shaders/begin.comp` and `shaders/finish.comp`.

use super::Memory;
use crate::kernels::{CLOCK_NEXT, CLOCK_RUNNING, RING_STEPS, Row, SAMPLED_LAST, begin, finish};

pub(super) fn begin(args: &begin::Resolved, memory: &mut Memory) {
    let clock = memory.view_mut::<u32>(&args.clock);
    let step = clock[CLOCK_NEXT as usize];
    let at = step % RING_STEPS;
    clock[CLOCK_NEXT as usize] = step.wrapping_add(1);
    clock[CLOCK_RUNNING as usize] = at;
    for index in 0..args.row_count as usize {
        let mut row = memory.view::<Row>(&args.row_ring)[(at * args.row_stride) as usize + index];
        if row.token == SAMPLED_LAST {
            let last = memory.view::<Row>(&args.next)[row.sequence as usize];
            row = Row { token: last.token, position: last.position, ..row };
        }
        memory.view_mut::<Row>(&args.rows)[index] = row;
    }
    for index in 0..args.output_count as usize {
        let output = memory.view::<u32>(&args.output_ring)[(at * args.output_stride) as usize + index];
        memory.view_mut::<u32>(&args.outputs)[index] = output;
    }
}

pub(super) fn finish(args: &finish::Resolved, memory: &mut Memory) {
    let step = memory.view::<u32>(&args.clock)[CLOCK_RUNNING as usize];
    memory.view_mut::<u32>(&args.ring)[(step * args.ring_stride) as usize] = 0;
}
