//! A plan: a list of dispatches and barriers over tensors in named regions of memory. It is plain data: it can be
//! printed, compared and checked without a device, and is run by whatever implements [`Executor`]. This module knows
//! neither Vulkan nor models.

pub mod arena;
mod display;
pub mod executor;
pub mod hazards;
pub mod profile;

pub use executor::{Clock, DeviceLabel, Executor, ExecutorError, PlanTimes, Prepared, Ticket};

/// Where a tensor lives. Executors give every region one contiguous allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Repacked weights and constant tables; device memory, never mapped. Numbered, since one allocation is bounded.
    Weights(u16),
    /// Keys and values; device memory, never mapped. Numbered as [`Region::Weights`].
    Cache(u16),
    /// Activations; device memory, never mapped, shared by all plans.
    Arena,
    /// Raw logits of the last plan, at one place so that the host can ask for them; device memory, never mapped.
    Logits,
    /// What changes from token to token: written by the host between plans, read and advanced by kernels. Mapped.
    Step,
    /// What the host polls: the ring of sampled tokens. Mapped.
    Output,
    /// Bytes of the file on their way to the device, at load. Mapped.
    Staging,
    /// What the stages of a plan's dispatches are, and where their workgroups wait for each other: each plan has its own, and
    /// its executor writes it when the plan is prepared. Mapped.
    Stages,
    /// A tensor whose place in the arena is not chosen yet; none is left in a finished [`Plan`].
    Virtual(u32),
}

impl Region {
    /// Whether it starts as zeros. Weights and the cache are too large to be written twice: no kernel reads of them what
    /// none has written.
    pub fn starts_as_zeros(self) -> bool {
        !matches!(self, Region::Weights(_) | Region::Cache(_))
    }
}

/// A range of bytes in a region. Shape and element type belong to the kernel that uses it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    pub region: Region,
    pub offset_bytes: u64,
    pub bytes: u64,
}

impl Tensor {
    pub fn new(region: Region, offset_bytes: u64, bytes: u64) -> Tensor {
        Tensor { region, offset_bytes, bytes }
    }

    /// The part that starts `offset_bytes` into this tensor.
    ///
    /// # Panics
    /// When the part does not lie inside: a defect in the code that lays out memory.
    pub fn part(&self, offset_bytes: u64, bytes: u64) -> Tensor {
        assert!(
            offset_bytes.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "part {offset_bytes}+{bytes} of {self:?}"
        );
        Tensor::new(self.region, self.offset_bytes + offset_bytes, bytes)
    }

    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.bytes
    }

    /// The two share at least one byte.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        self.region == other.region && self.offset_bytes < other.end_bytes() && other.offset_bytes < self.end_bytes()
    }
}

/// The type of a push or specialization constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    U32,
    I32,
    F32,
    Bool,
}

/// A pointer in a kernel's push constants.
#[derive(Debug)]
pub struct OperandInfo {
    pub name: &'static str,
    /// Where its 64-bit address stands in the push constants.
    pub push_offset: u32,
    /// False where the shader declares the buffer `readonly`.
    pub writable: bool,
}

/// A scalar in a kernel's push constants.
#[derive(Debug)]
pub struct ConstantInfo {
    pub name: &'static str,
    pub push_offset: u32,
    pub scalar: Scalar,
}

/// A specialization constant.
#[derive(Debug)]
pub struct SpecInfo {
    pub name: &'static str,
    pub id: u32,
    pub scalar: Scalar,
}

/// One compiled shader variant, as reflected from its SPIR-V at build time.
#[derive(Debug)]
pub struct Kernel {
    /// Shader and variant, as `mat_mul_q4_0`.
    pub name: &'static str,
    /// The shader it is compiled from, as `mat_mul`; its twin in `reference` has this name.
    pub family: &'static str,
    /// What it is compiled with (`shaders/variants`).
    pub defines: &'static [&'static str],
    pub spirv: &'static [u8],
    pub push_bytes: u32,
    pub operands: &'static [OperandInfo],
    pub constants: &'static [ConstantInfo],
    pub specialization: &'static [SpecInfo],
}

/// What a kernel must do at least, whatever its code: for bandwidth and arithmetic figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of memory that it reads and writes, each operand once.
    pub bytes: u64,
    /// Floating-point operations of its formula; a multiply-add is two.
    pub flops: u64,
    /// Attention's work grows with its sequences: bytes for each token that they have in the cache.
    pub bytes_a_token: u64,
    /// And operations for each pair of a row and a token that it sees.
    pub flops_a_pair: u64,
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            bytes: self.bytes + other.bytes,
            flops: self.flops + other.flops,
            bytes_a_token: self.bytes_a_token + other.bytes_a_token,
            flops_a_pair: self.flops_a_pair + other.flops_a_pair,
        }
    }
}

/// One launch of a kernel. Made by the generated `dispatch` functions of [`crate::kernels`] only, so that operands and
/// constants match the shader.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub kernel: &'static Kernel,
    /// What it computes, as `layer 3 qkv`; empty until [`Plan`]'s builder names it.
    pub label: String,
    /// In the order of [`Kernel::specialization`]; floats as bits, booleans as 0 and 1.
    pub specialization: Vec<u32>,
    /// In the order of [`Kernel::operands`].
    pub operands: Vec<Tensor>,
    /// The push constants, zero where addresses go.
    pub push: Vec<u8>,
    pub groups: [u32; 3],
    pub work: Work,
    /// What a kernel that does several dispatches one behind another does, in order; of all others empty. Such a kernel's own
    /// operands are in [`Region::Stages`]: the [records](STAGE_BYTES) of its stages, and words that start as zeros.
    pub stages: Vec<Dispatch>,
}

/// Bytes that a stage takes in [`Region::Stages`]: two words, the first of which says what it is to the chain's kernel, its push
/// constants, complete with addresses, and its specialization constants, a word each in the order of their numbers. As many as
/// the largest takes (`shaders/chain.comp`).
pub const STAGE_BYTES: u64 = 168;

impl Dispatch {
    /// Its label without the number of its layer: as `qkv`.
    pub fn part(&self) -> &str {
        let behind_number = self.label.strip_prefix("layer ").and_then(|rest| rest.split_once(' '));
        behind_number.map_or(self.label.as_str(), |(_, part)| part)
    }

    /// The dispatches whose operands this one's kernel works on: its stages, or itself.
    pub fn parts(&self) -> &[Dispatch] {
        if self.stages.is_empty() { std::slice::from_ref(self) } else { &self.stages }
    }

    fn parts_mut(&mut self) -> &mut [Dispatch] {
        if self.stages.is_empty() { std::slice::from_mut(self) } else { &mut self.stages }
    }

    pub fn named(mut self, label: impl Into<String>) -> Dispatch {
        self.label = label.into();
        self
    }

    pub fn traffic(mut self, bytes: u64) -> Dispatch {
        self.work.bytes = bytes;
        self
    }

    pub fn flops(mut self, flops: u64) -> Dispatch {
        self.work.flops = flops;
        self
    }

    /// Each operand and what the shader says of it; of stages, theirs.
    pub fn accesses(&self) -> impl Iterator<Item = (&Tensor, &'static OperandInfo)> {
        self.parts().iter().flat_map(|part| part.operands.iter().zip(part.kernel.operands))
    }
}

#[derive(Clone, Debug)]
pub enum Command {
    Dispatch(Dispatch),
    /// All writes of the dispatches before are visible to all dispatches behind.
    Barrier,
}

/// A list of work, complete with barriers, every tensor at its place.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As `decode rows=1`.
    pub name: String,
    pub commands: Vec<Command>,
    /// Bytes of the arena that it uses.
    pub arena_bytes: u64,
}

impl Plan {
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Barrier => None,
        })
    }

    pub fn barriers(&self) -> usize {
        self.commands.iter().filter(|command| matches!(command, Command::Barrier)).count()
    }

    /// Bytes of [`Region::Stages`] that it needs.
    pub fn stages_bytes(&self) -> u64 {
        let tensors = self.dispatches().flat_map(|dispatch| &dispatch.operands);
        tensors.filter(|tensor| tensor.region == Region::Stages).map(Tensor::end_bytes).max().unwrap_or(0)
    }

    /// What it moves at least, without what attention reads of the cache.
    pub fn traffic_bytes(&self) -> u64 {
        self.dispatches().map(|dispatch| dispatch.work.bytes).sum()
    }
}

/// Collects dispatches; [`Builder::finish`] places the scratch tensors and the barriers.
#[derive(Debug, Default)]
pub struct Builder {
    dispatches: Vec<Dispatch>,
    virtuals: Vec<u64>,
}

impl Builder {
    /// A tensor of the arena, alive from its first to its last use in the plan. Its content before the first write is
    /// undefined.
    pub fn scratch(&mut self, bytes: u64) -> Tensor {
        let id = u32::try_from(self.virtuals.len()).expect("a plan has few tensors");
        self.virtuals.push(bytes);
        Tensor::new(Region::Virtual(id), 0, bytes)
    }

    pub fn push(&mut self, dispatch: Dispatch) {
        self.dispatches.push(dispatch);
    }

    /// Puts other dispatches, which do the same, in the place of those pushed so far.
    pub fn replace(&mut self, with: impl FnOnce(Vec<Dispatch>) -> Vec<Dispatch>) {
        self.dispatches = with(std::mem::take(&mut self.dispatches));
    }

    pub fn finish(mut self, name: impl Into<String>) -> Plan {
        let arena_bytes = arena::assign(&mut self.dispatches, &self.virtuals);
        arena::assign_stages(&mut self.dispatches);
        Plan { name: name.into(), commands: hazards::with_barriers(self.dispatches), arena_bytes }
    }
}
