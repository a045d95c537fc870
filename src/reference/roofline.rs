//! Twins of `shaders/read.comp`, `shaders/fma.comp` and `shaders/meet.comp`.

use super::Memory;
use crate::kernels::{fma, meet, read};

pub(super) fn read(args: &read::Resolved, memory: &mut Memory) {
    let lanes = args.spec.local_size as usize;
    for group in 0..args.groups[0] as usize {
        let units = memory.view::<[u32; 4]>(&args.x)[group * args.units as usize..][..args.units as usize].to_vec();
        let y = &mut memory.view_mut::<u32>(&args.y)[group * lanes..][..lanes];
        for (lane, y) in y.iter_mut().enumerate() {
            let (first, step) = if args.spec.broadcast { (0, 1) } else { (lane, lanes) };
            *y = units.iter().skip(first).step_by(step).flatten().fold(0u32, |sum, word| sum.wrapping_add(*word));
        }
    }
}

pub(super) fn fma(args: &fma::Resolved, memory: &mut Memory) {
    let lanes = args.groups[0] as usize * args.spec.local_size as usize;
    for (i, y) in memory.view_mut::<f32>(&args.y)[..lanes].iter_mut().enumerate() {
        let chain = |start: usize| (0..args.steps).fold(start as f32, |x, _| x * args.factor + args.addend);
        *y = (0..12).map(|number| chain(i % 8 + number)).sum();
    }
}

/// With all of them there.
pub(super) fn meet(args: &meet::Resolved, memory: &mut Memory) {
    let groups = args.groups[0];
    for round in 0..args.rounds as usize {
        memory.view_mut::<u32>(&args.arrived)[round * 16] += groups;
    }
    memory.view_mut::<u32>(&args.y)[..groups as usize].fill(args.rounds);
}
