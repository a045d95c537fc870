//! A device, and small kernels compiled on the spot.

use hesper::gpu::Gpu;
use hesper::plan::{
    ConstantInfo, Dispatch, Executor, Kernel, OperandInfo, Plan, Region, Scalar, SpecInfo, Tensor, Work,
};
use std::process::Command;
use std::sync::LazyLock;

const SCALE: &str = r"
layout(local_size_x_id = 0) in;
layout(constant_id = 1) const float FACTOR = 1.0;
layout(constant_id = 2) const bool NEGATE = false;
layout(constant_id = 3) const int OFFSET = 0;
layout(push_constant, scalar) uniform Push { In x; Out y; uint count; float bias; };
void main() {
    const uint i = gl_GlobalInvocationID.x;
    if (i < count) {
        const float value = x.v[i] * FACTOR + bias + float(OFFSET);
        y.v[i] = NEGATE ? -value : value;
    }
}
";

const COUNT: &str = r"
layout(local_size_x = 1) in;
layout(push_constant, scalar) uniform Push { Words counter; Words copy; };
void main() {
    counter.v[0] += 1;
    copy.v[1] = counter.v[0] * 7;
    memoryBarrierBuffer();
    copy.v[0] = counter.v[0];
}
";

const SPIN: &str = r"
layout(local_size_x = 1) in;
layout(push_constant, scalar) uniform Push { Words state; uint turns; };
void main() {
    uint x = state.v[0] | 1;
    for (uint i = 0; i < turns; ++i) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; }
    state.v[0] = x;
}
";

const PREAMBLE: &str = r"#version 460
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_scalar_block_layout : require
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer In { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Out { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Words { uint v[]; };
";

fn compile(name: &str, source: &str) -> &'static [u8] {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join(format!("{name}.comp")), folder.path().join("out.spv"));
    std::fs::write(&input, format!("{PREAMBLE}{source}")).expect("a file");
    let compiler = std::env::var("GLSLC").unwrap_or_else(|_| "glslc".to_owned());
    let status = Command::new(&compiler).args(["--target-env=vulkan1.2", "-O", "-o"]).arg(&output).arg(&input).status();
    assert!(status.unwrap_or_else(|error| panic!("{compiler}: {error}")).success(), "{name} does not compile");
    Box::leak(std::fs::read(&output).expect("its output").into_boxed_slice())
}

const fn operand(name: &'static str, push_offset: u32, writable: bool) -> OperandInfo {
    OperandInfo { name, push_offset, writable }
}

pub static SCALE_KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel {
    name: "scale",
    family: "scale",
    defines: &[],
    spirv: compile("scale", SCALE),
    push_bytes: 24,
    operands: const { &[operand("x", 0, false), operand("y", 8, true)] },
    constants: &[
        ConstantInfo { name: "count", push_offset: 16, scalar: Scalar::U32 },
        ConstantInfo { name: "bias", push_offset: 20, scalar: Scalar::F32 },
    ],
    specialization: &[
        SpecInfo { name: "local_size_x", id: 0, scalar: Scalar::U32 },
        SpecInfo { name: "NEGATE", id: 2, scalar: Scalar::Bool },
        SpecInfo { name: "FACTOR", id: 1, scalar: Scalar::F32 },
        SpecInfo { name: "OFFSET", id: 3, scalar: Scalar::I32 },
    ],
});

pub static COUNT_KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel {
    name: "count",
    family: "count",
    defines: &[],
    spirv: compile("count", COUNT),
    push_bytes: 16,
    operands: const { &[operand("counter", 0, true), operand("copy", 8, true)] },
    constants: &[],
    specialization: &[],
});

pub static SPIN_KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel {
    name: "spin",
    family: "spin",
    defines: &[],
    spirv: compile("spin", SPIN),
    push_bytes: 12,
    operands: const { &[operand("state", 0, true)] },
    constants: &[ConstantInfo { name: "turns", push_offset: 8, scalar: Scalar::U32 }],
    specialization: &[],
});

/// Arguments of the kernel `scale`: y = ±(x × factor + bias + offset).
#[derive(Clone, Copy)]
pub struct Scale {
    pub workgroup: u32,
    pub factor: f32,
    pub bias: f32,
    pub offset: i32,
    pub negate: bool,
}

impl Default for Scale {
    fn default() -> Self {
        Scale { workgroup: 32, factor: 1.0, bias: 0.0, offset: 0, negate: false }
    }
}

pub fn scale(x: Tensor, y: Tensor, arguments: Scale) -> Dispatch {
    let count = (x.bytes / 4) as u32;
    let mut push = vec![0; 24];
    push[16..20].copy_from_slice(&count.to_le_bytes());
    push[20..24].copy_from_slice(&arguments.bias.to_le_bytes());
    Dispatch {
        kernel: &SCALE_KERNEL,
        label: "test".to_owned(),
        specialization: vec![
            arguments.workgroup,
            u32::from(arguments.negate),
            arguments.factor.to_bits(),
            arguments.offset as u32,
        ],
        operands: vec![x, y],
        push,
        groups: [count.div_ceil(arguments.workgroup), 1, 1],
        work: Work::default(),
        stages: vec![],
    }
}

/// Increments `counter[0]`, then copies it to `copy[0]`, and seven times it to `copy[1]` before that.
pub fn count(counter: Tensor, copy: Tensor) -> Dispatch {
    simple(&COUNT_KERNEL, vec![counter, copy], vec![0; 16])
}

/// Keeps one lane busy for `turns` steps.
pub fn spin(state: Tensor, turns: u32) -> Dispatch {
    let mut push = vec![0; 12];
    push[8..].copy_from_slice(&turns.to_le_bytes());
    simple(&SPIN_KERNEL, vec![state], push)
}

fn simple(kernel: &'static Kernel, operands: Vec<Tensor>, push: Vec<u8>) -> Dispatch {
    Dispatch {
        kernel,
        label: "test".to_owned(),
        specialization: vec![],
        operands,
        push,
        groups: [1, 1, 1],
        work: Work::default(),
        stages: vec![],
    }
}

pub fn plan(dispatches: Vec<Dispatch>) -> Plan {
    Plan { name: "test".to_owned(), commands: hesper::plan::hazards::with_barriers(dispatches), arena_bytes: 0 }
}

/// Prepares, runs once and waits.
pub fn run(gpu: &mut Gpu, dispatches: Vec<Dispatch>) {
    let prepared = gpu.prepare(&plan(dispatches)).expect("a valid plan");
    gpu.submit(prepared).expect("it is submitted");
    let ticket = gpu.fence().expect("a fence");
    gpu.wait(ticket).expect("it ends");
    gpu.release(prepared);
}

pub fn read_floats(gpu: &mut Gpu, region: Region, offset_bytes: u64, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    gpu.read(region, offset_bytes, &mut bytes).expect("it is readable");
    bytemuck::allocation::pod_collect_to_vec(&bytes)
}
