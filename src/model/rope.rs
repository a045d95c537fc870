//! The table of rotary angles. Su et al., "RoFormer", 2021. Computed once in double precision, since a GPU's sine of a
//! large argument is not to be trusted.

use super::dims::Dims;

/// (cos, sin) of position × base^(−2i / rotary) / (factor_i × rope_factor) at `[position][i]`, for `positions` positions
/// and i < rotary / 2. `factors`: Llama 3's divisors, one for each i, or none.
pub fn table(dims: &Dims, factors: Option<&[f32]>, positions: u32) -> Vec<[f32; 2]> {
    let pairs = (dims.rotary / 2) as usize;
    let frequencies: Vec<f64> = (0..pairs)
        .map(|i| {
            let exponent = -2.0 * i as f64 / f64::from(dims.rotary);
            let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
            f64::from(dims.rope_base).powf(exponent) / factor / f64::from(dims.rope_factor)
        })
        .collect();
    (0..positions)
        .flat_map(|position| {
            frequencies.iter().map(move |frequency| {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                [cos as f32, sin as f32]
            })
        })
        .collect()
}

/// Bytes of [`table`].
pub fn table_bytes(dims: &Dims, positions: u32) -> u64 {
    u64::from(positions) * u64::from(dims.rotary / 2) * 8
}
