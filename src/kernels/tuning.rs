//! Measured geometries of `mat_mul`: which ones a device may be asked to try, and what came of it. Pure; `gpu::tune` measures.

use super::layout::{Arrangement, Layout};
use super::policy::{MatMulShape, Policy};
use crate::gguf::blocks::BlockFormat;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Tokens of the plans that geometries are chosen for; larger plans take the last one's.
pub const CLASSES: [u32; 4] = [1, 2, 4, 8];

/// Most sums of a lane that are tried: more registers than that no GPU has to spare.
const SUMS_MAX: u32 = 32;

/// Shared memory of a workgroup, in floats: what every Vulkan device has.
const SHARED_FLOATS_MAX: u32 = 4096;

/// Products of a model that share a geometry: those of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub format: BlockFormat,
    /// The matrix alternates tiles of gate and up.
    pub gate_up: bool,
}

impl Family {
    const COUNT: usize = 2 * BlockFormat::ALL.len();

    fn all() -> impl Iterator<Item = Family> {
        BlockFormat::ALL.into_iter().flat_map(|format| [false, true].map(|gate_up| Family { format, gate_up }))
    }

    fn index(self) -> usize {
        Family::all().position(|family| family == self).expect("all are listed")
    }
}

/// A matrix that a model multiplies with, and how many of its like it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub layout: Layout,
    pub gate_up: bool,
    pub count: u32,
}

impl Product {
    pub fn family(&self) -> Family {
        Family { format: self.layout.format, gate_up: self.gate_up }
    }
}

/// The geometries of a family, by [`CLASSES`]. All have as many parts, so that a token's sums are taken in one order.
pub type Shapes = [MatMulShape; CLASSES.len()];

/// What was measured on a device, by family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuning([Option<Shapes>; Family::COUNT]);

impl Tuning {
    /// Of a device that was not measured.
    pub const NONE: Tuning = Tuning([None; Family::COUNT]);

    pub fn get(&self, family: Family) -> Option<&Shapes> {
        self.0[family.index()].as_ref()
    }

    /// The geometry of a plan for so many tokens.
    pub fn shape(&self, family: Family, tokens: u32) -> Option<MatMulShape> {
        Some(self.get(family)?[class(tokens)])
    }

    pub fn set(&mut self, family: Family, shapes: Shapes) {
        self.0[family.index()] = Some(shapes);
    }

    pub fn families(&self) -> impl Iterator<Item = (Family, &Shapes)> {
        Family::all().zip(&self.0).filter_map(|(family, shapes)| Some((family, shapes.as_ref()?)))
    }
}

impl fmt::Debug for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.families()).finish()
    }
}

/// The index in [`CLASSES`] of a plan for so many tokens.
fn class(tokens: u32) -> usize {
    CLASSES.iter().position(|&most| tokens <= most).unwrap_or(CLASSES.len() - 1)
}

/// Numbers of parts to try with one token. They decide in which order sums are taken, so all classes have the same.
pub fn parts(arrangement: Arrangement) -> &'static [u32] {
    match arrangement {
        Arrangement::Lanes => &[1, 2, 4, 8],
        Arrangement::Woven { .. } => &[1],
    }
}

/// Geometries to try for a class, given the number of parts.
pub fn candidates(arrangement: Arrangement, gate_up: bool, class: usize, parts: u32) -> Vec<MatMulShape> {
    let rows: &[u32] = match arrangement {
        Arrangement::Lanes => &[1, 2, 4],
        // A workgroup reads the whole of a strip.
        Arrangement::Woven { tile_rows: 16 } => &[2],
        Arrangement::Woven { .. } => &[4],
    };
    let most = CLASSES[class];
    let tokens = [most / 4, most / 2, most].into_iter().filter(|&tokens| tokens > 0);
    let all = tokens.flat_map(|tokens| rows.iter().map(move |&rows| MatMulShape { rows, tokens, parts }));
    let fits = |shape: &MatMulShape| {
        let sums = shape.rows * shape.tokens;
        let shared = if parts > 1 { sums * parts * arrangement.tile_rows() } else { 0 };
        sums <= SUMS_MAX && shared <= SHARED_FLOATS_MAX && (!gate_up || shape.rows.is_multiple_of(2))
    };
    all.filter(fits).collect()
}

/// A tuning as it is kept in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Of the device, its driver and the kernels: [`Tuning::read`] takes no other's.
    identity: String,
    families: Vec<KeptFamily>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFamily {
    format: String,
    gate_up: bool,
    shapes: Vec<MatMulShape>,
}

impl Tuning {
    /// As JSON, for [`Tuning::read`].
    pub fn write(&self, identity: &str) -> String {
        let families = self.families().map(|(family, shapes)| KeptFamily {
            format: family.format.name().to_owned(),
            gate_up: family.gate_up,
            shapes: shapes.to_vec(),
        });
        let kept = Kept { identity: identity.to_owned(), families: families.collect() };
        serde_json::to_string_pretty(&kept).expect("it is plain data")
    }

    /// What [`Tuning::write`] wrote on a device of this identity, for a policy of this arrangement.
    ///
    /// # Errors
    /// Why the bytes are not used. They are not trusted: only geometries that would be tried themselves are taken.
    pub fn read(bytes: &[u8], identity: &str, policy: &Policy) -> Result<Tuning, String> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if kept.identity != identity {
            return Err("it is another driver's or another build's".to_owned());
        }
        let mut tuning = Tuning::NONE;
        for KeptFamily { format, gate_up, shapes } in kept.families {
            let known = BlockFormat::ALL.into_iter().find(|known| known.name() == format);
            let format = known.ok_or_else(|| format!("it names an unknown format, {format:?}"))?;
            let shapes: Shapes = shapes.try_into().map_err(|_| "it has another number of geometries".to_owned())?;
            let arrangement = policy.arrangement();
            let tried = |(class, shape): (usize, &MatMulShape)| {
                parts(arrangement).contains(&shape.parts)
                    && shape.parts == shapes[0].parts
                    && candidates(arrangement, gate_up, class, shape.parts).contains(shape)
            };
            if !shapes.iter().enumerate().all(tried) {
                return Err(format!("a geometry of {} is none that would be tried", format.name()));
            }
            tuning.set(Family { format, gate_up }, shapes);
        }
        Ok(tuning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const Q4_0: Family = Family { format: BlockFormat::Q4_0, gate_up: false };

    fn shapes(arrangement: Arrangement, gate_up: bool, parts: u32) -> Shapes {
        std::array::from_fn(|class| candidates(arrangement, gate_up, class, parts)[0])
    }

    #[test]
    fn every_class_has_candidates_with_any_parts() {
        let arrangements =
            [Arrangement::Lanes, Arrangement::Woven { tile_rows: 8 }, Arrangement::Woven { tile_rows: 16 }];
        for arrangement in arrangements {
            for gate_up in [false, true] {
                for &parts in parts(arrangement) {
                    for (class, &most) in CLASSES.iter().enumerate() {
                        let candidates = candidates(arrangement, gate_up, class, parts);
                        assert!(!candidates.is_empty(), "{arrangement:?} {gate_up} {class} {parts}");
                        assert!(candidates.iter().all(|shape| shape.tokens <= most));
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_kept_is_read_by_the_same_device_only() {
        let mut tuning = Tuning::NONE;
        tuning.set(Q4_0, shapes(Arrangement::Lanes, false, 8));
        tuning.set(Family { gate_up: true, ..Q4_0 }, shapes(Arrangement::Lanes, true, 2));
        let text = tuning.write("a device");
        assert_eq!(Tuning::read(text.as_bytes(), "a device", &Policy::GPU), Ok(tuning));
        Tuning::read(text.as_bytes(), "another device", &Policy::GPU).expect_err("it is another's");
        Tuning::read(text.as_bytes(), "a device", &Policy::SOFTWARE).expect_err("tiles of another arrangement");
        for (from, to) in [("\"parts\": 8", "\"parts\": 3"), ("Q4_0", "Q3_0"), ("\"rows\": 1", "\"rows\": 4000000000")]
        {
            assert!(text.contains(from));
            let wrong = text.replacen(from, to, 1);
            Tuning::read(wrong.as_bytes(), "a device", &Policy::GPU).expect_err(to);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_give_a_geometry_that_is_not_tried(
            rows: u32, tokens: u32, parts in 0u32..10, cut in 0usize..400, bytes in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = Tuning::read(&bytes, "x", &Policy::GPU);
            let shape = MatMulShape { rows, tokens, parts };
            let mut tuning = Tuning::NONE;
            tuning.set(Q4_0, [shape; CLASSES.len()]);
            let text = tuning.write("x");
            let cut = &text.as_bytes()[..cut.min(text.len())];
            for bytes in [cut, text.as_bytes()] {
                if let Ok(tuning) = Tuning::read(bytes, "x", &Policy::GPU) {
                    for (_, shapes) in tuning.families() {
                        prop_assert!(shapes.iter().all(|shape| shape.rows <= 4 && shape.tokens <= 8 && shape.parts <= 8));
                    }
                }
            }
        }
    }
}
