//! Twin of `shaders/norm.comp`.

use super::Memory;
use crate::kernels::{NO_ROW, norm};

/// 1 / √(mean(x²) + eps). Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019.
pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let sum: f64 = x.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    (1.0 / (sum / x.len() as f64 + f64::from(eps)).sqrt()) as f32
}

/// The same from partial sums of squares.
pub(super) fn inverse_rms_of(squares: &[f32], cols: usize, eps: f32) -> f32 {
    let sum: f64 = squares.iter().map(|&value| f64::from(value)).sum();
    (1.0 / (sum / cols as f64 + f64::from(eps)).sqrt()) as f32
}

pub(super) fn run(args: &norm::Resolved, memory: &mut Memory) {
    let cols = args.cols as usize;
    for output in 0..args.groups[0] as usize {
        let row = memory.view::<u32>(&args.select)[output];
        let (values, scale) = if row == NO_ROW {
            (vec![0.0; cols], 0.0)
        } else {
            let x = &memory.view::<f32>(&args.x)[row as usize * cols..][..cols];
            let gain = &memory.view::<f32>(&args.gain)[..cols];
            let inverse = if args.spec.ahead {
                let count = args.square_count as usize;
                inverse_rms_of(&memory.view::<f32>(&args.squares)[row as usize * count..][..count], cols, args.eps)
            } else {
                inverse_rms(x, args.eps)
            };
            (x.iter().zip(gain).map(|(x, gain)| x * gain).collect(), inverse)
        };
        memory.view_mut::<f32>(&args.y)[output * cols..][..cols].copy_from_slice(&values);
        memory.view_mut::<f32>(&args.scale)[output] = scale;
    }
}
