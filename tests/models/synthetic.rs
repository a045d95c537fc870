//! Small models with odd shapes and random weights, the same on every machine, so that only llama.cpp's logits of them
//! need to be stored. They have no tokenizer.

use hesper::gguf::{BlockFormat, Writer};

/// What a model is made of.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Also the name of its fixture.
    pub name: String,
    pub shape: Shape,
    pub formats: Formats,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub architecture: &'static str,
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub rotary: u32,
    pub feed_forward: u32,
    pub vocabulary: u32,
    pub tied: bool,
    /// Of queries, keys and values.
    pub biases: bool,
    pub output_bias: bool,
    pub frequency_factors: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Formats {
    /// All matrices, but for those whose columns are not whole blocks: these are F16, as llama.cpp's quantizer does it.
    All(BlockFormat),
    /// What is fused elsewhere has parts of different formats.
    Mixed,
    /// As llama.cpp's Q4_K_M: Q4_K, and Q6_K for values, for what a feed forward ends with and for the vocabulary.
    #[allow(dead_code)] // llama.cpp's logits of it are not stored
    Medium,
}

/// One layer, as small as the formats allow.
#[allow(dead_code)] // not every test has one so small
pub const TINY: Shape = Shape {
    name: "tiny",
    architecture: "qwen3",
    layers: 1,
    width: 64,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    rotary: 16,
    feed_forward: 96,
    vocabulary: 70,
    tied: true,
    biases: false,
    output_bias: false,
    frequency_factors: false,
};

/// Every format.
const PLAIN: Shape = Shape {
    name: "qwen3-plain",
    architecture: "qwen3",
    layers: 2,
    width: 256,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    rotary: 64,
    feed_forward: 512,
    vocabulary: 259,
    tied: true,
    biases: false,
    output_bias: false,
    frequency_factors: false,
};

/// What real models are not: a vocabulary that fills no tile, an odd number of heads, columns that fill no block.
const ODD: &[Shape] = &[
    Shape { name: "qwen3-mqa", heads: 5, kv_heads: 1, head_dim: 40, rotary: 40, vocabulary: 2003, width: 160, ..PLAIN },
    Shape {
        name: "qwen3-wide",
        heads: 3,
        kv_heads: 3,
        head_dim: 96,
        rotary: 96,
        feed_forward: 228,
        tied: false,
        ..PLAIN
    },
    Shape { name: "qwen2-mqa", kv_heads: 1, heads: 7, head_dim: 32, rotary: 32, vocabulary: 2003, width: 224, ..QWEN2 },
    Shape { name: "qwen2-ragged", heads: 3, kv_heads: 1, head_dim: 40, rotary: 40, width: 120, tied: false, ..QWEN2 },
    LLAMA,
    Shape { name: "llama-biases", heads: 5, kv_heads: 1, biases: true, output_bias: true, width: 132, ..LLAMA },
    Shape {
        name: "llama-factors",
        head_dim: 96,
        rotary: 96,
        frequency_factors: true,
        tied: true,
        kv_heads: 1,
        ..LLAMA
    },
];

const QWEN2: Shape = Shape { architecture: "qwen2", biases: true, ..PLAIN };

const LLAMA: Shape = Shape {
    name: "llama-untied",
    architecture: "llama",
    heads: 5,
    kv_heads: 5,
    head_dim: 40,
    rotary: 40,
    width: 192,
    feed_forward: 416,
    vocabulary: 515,
    tied: false,
    ..PLAIN
};

/// Every format at a plain shape, and every odd shape in two formats.
pub fn all() -> Vec<Synthetic> {
    let plain = BlockFormat::ALL.map(|format| Synthetic::new(PLAIN, Formats::All(format)));
    let mixed = Synthetic::new(PLAIN, Formats::Mixed);
    let formats = [BlockFormat::F16, BlockFormat::Q8_0];
    let odd = ODD.iter().flat_map(|shape| formats.map(|format| Synthetic::new(*shape, Formats::All(format))));
    plain.into_iter().chain([mixed]).chain(odd).collect()
}

impl Synthetic {
    pub fn new(shape: Shape, formats: Formats) -> Synthetic {
        let suffix = match formats {
            Formats::All(format) => format.variant(),
            Formats::Mixed => "mixed",
            Formats::Medium => "medium",
        };
        Synthetic { name: format!("{}-{suffix}", shape.name), shape, formats }
    }

    /// Quantized weights are compared with a wider bound.
    pub fn is_quantized(&self) -> bool {
        !matches!(self.formats, Formats::All(BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16))
    }

    /// The model's file.
    pub fn gguf(&self) -> Vec<u8> {
        let mut file = File { writer: Writer::new(), random: Random::new(7), formats: self.formats };
        file.metadata(&self.shape);
        file.tensors(&self.shape);
        file.writer.finish()
    }
}

struct File {
    writer: Writer,
    random: Random,
    formats: Formats,
}

impl File {
    fn metadata(&mut self, shape: &Shape) {
        let architecture = shape.architecture;
        self.writer.string("general.architecture", architecture).string("tokenizer.ggml.model", "no_vocab");
        for (key, value) in [
            ("block_count", shape.layers),
            ("context_length", 4096),
            ("embedding_length", shape.width),
            ("feed_forward_length", shape.feed_forward),
            ("attention.head_count", shape.heads),
            ("attention.head_count_kv", shape.kv_heads),
            ("attention.key_length", shape.head_dim),
            ("attention.value_length", shape.head_dim),
            ("rope.dimension_count", shape.rotary),
            ("vocab_size", shape.vocabulary),
        ] {
            self.writer.u32(&format!("{architecture}.{key}"), value);
        }
        self.writer.f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6);
        self.writer.f32(&format!("{architecture}.rope.freq_base"), 10_000.0);
    }

    fn tensors(&mut self, shape: &Shape) {
        let Shape { width, head_dim, feed_forward, vocabulary, .. } = *shape;
        let (queries, keys) = (shape.heads * head_dim, shape.kv_heads * head_dim);
        self.matrix("token_embd.weight", vocabulary, width, 0.5);
        self.vector("output_norm.weight", width, 1.0);
        if !shape.tied {
            self.matrix("output.weight", vocabulary, width, spread(width));
        }
        if shape.frequency_factors {
            let factors: Vec<f32> = (0..shape.rotary / 2).map(|i| 1.0 + (i % 9) as f32 * 0.875).collect();
            self.writer.f32_tensor("rope_freqs.weight", &[factors.len()], &factors);
        }
        for layer in 0..shape.layers {
            let name = |suffix: &str| format!("blk.{layer}.{suffix}");
            self.vector(&name("attn_norm.weight"), width, 1.0);
            self.vector(&name("ffn_norm.weight"), width, 1.0);
            for (part, rows) in [("q", queries), ("k", keys), ("v", keys)] {
                self.matrix(&name(&format!("attn_{part}.weight")), rows, width, spread(width));
                if shape.biases {
                    self.vector(&name(&format!("attn_{part}.bias")), rows, 0.0);
                }
                if shape.architecture == "qwen3" && part != "v" {
                    self.vector(&name(&format!("attn_{part}_norm.weight")), head_dim, 1.0);
                }
            }
            self.matrix(&name("attn_output.weight"), width, queries, spread(queries));
            if shape.output_bias {
                self.vector(&name("attn_output.bias"), width, 0.0);
            }
            self.matrix(&name("ffn_gate.weight"), feed_forward, width, spread(width));
            self.matrix(&name("ffn_up.weight"), feed_forward, width, spread(width));
            self.matrix(&name("ffn_down.weight"), width, feed_forward, spread(feed_forward));
        }
    }

    fn vector(&mut self, name: &str, count: u32, middle: f32) {
        let values: Vec<f32> = (0..count).map(|_| middle + 0.2 * self.random.float()).collect();
        self.writer.f32_tensor(name, &[values.len()], &values);
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32, deviation: f32) {
        let format = self.format(name, cols);
        let elements = (rows * cols) as usize;
        let blocks = elements / format.block_elements();
        let mut bytes = Vec::with_capacity(blocks * format.block_bytes());
        match format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {
                push_floats(&mut bytes, format, elements, deviation, &mut self.random);
            }
            _ => (0..blocks).for_each(|_| push_block(&mut bytes, format, deviation, &mut self.random)),
        }
        self.writer.tensor(name, format, &[cols as usize, rows as usize], &bytes);
    }

    fn format(&self, name: &str, cols: u32) -> BlockFormat {
        let wanted = match self.formats {
            Formats::All(format) => format,
            Formats::Mixed if name.contains("attn_v") || name.contains("ffn_down") => BlockFormat::Q6_K,
            Formats::Mixed if name.contains("ffn_up") || name.contains("token") => BlockFormat::Q5_0,
            Formats::Mixed if name.contains("attn_output") => BlockFormat::BF16,
            Formats::Mixed => BlockFormat::Q4_K,
            Formats::Medium if ["attn_v", "ffn_down", "token"].iter().any(|part| name.contains(part)) => {
                BlockFormat::Q6_K
            }
            Formats::Medium => BlockFormat::Q4_K,
        };
        if (cols as usize).is_multiple_of(wanted.block_elements()) { wanted } else { BlockFormat::F16 }
    }
}

/// The standard deviation that keeps a product's size.
fn spread(cols: u32) -> f32 {
    (cols as f32).powf(-0.5)
}

/// Appends floats of random sign and mantissa, and a size between a quarter and twice the deviation.
fn push_floats(bytes: &mut Vec<u8>, format: BlockFormat, count: usize, deviation: f32, random: &mut Random) {
    // The random bits of a value and what is added to them: one less than the deviation's exponent.
    let (bits, mask, base) = match format {
        BlockFormat::F32 => (32, 0x80ff_ffff, (deviation.to_bits() & 0x7f80_0000) - 0x0080_0000),
        BlockFormat::F16 => (16, 0x87ff, u32::from(half::f16::from_f32(deviation).to_bits() & 0x7c00) - 0x0400),
        _ => (16, 0x80ff, u32::from(half::bf16::from_f32(deviation).to_bits() & 0x7f80) - 0x0080),
    };
    let repeat = if bits == 32 { 0x1_0000_0001 } else { 0x0001_0001_0001_0001 };
    let (mask, base) = (mask * repeat, u64::from(base) * repeat);
    for _ in 0..count * bits / 64 {
        bytes.extend(((random.next() & mask) + base).to_le_bytes());
    }
}

/// Appends a block of random bits, but for the scales, which give the values about this standard deviation and a mean of
/// about zero.
fn push_block(bytes: &mut Vec<u8>, format: BlockFormat, deviation: f32, random: &mut Random) {
    // Where the scale stands, the deviation of what it scales, and the minimum, behind it, as a multiple of the scale.
    let (scale_at, unit, minimum) = match format {
        BlockFormat::Q4_0 => (0, 4.6, None),
        BlockFormat::Q4_1 => (0, 4.6, Some(-7.5)),
        BlockFormat::Q5_0 => (0, 9.2, None),
        BlockFormat::Q5_1 => (0, 9.2, Some(-15.5)),
        BlockFormat::Q8_0 => (0, 74.0, None),
        BlockFormat::Q4_K => (0, 258.0, Some(7.5)),
        BlockFormat::Q5_K => (0, 525.0, Some(15.5)),
        BlockFormat::Q6_K => (208, 1370.0, None),
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => unreachable!("floats have no blocks"),
    };
    let first = bytes.len();
    let end = first + format.block_bytes();
    while bytes.len() < end {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(end);
    // Scales of either sign: the signed formats reach one further below zero than above, and would else have a mean.
    let magnitude = deviation / unit * (1.0 + 0.5 * random.float());
    let scale = half::f16::from_f32(magnitude.copysign(random.float()));
    bytes[first + scale_at..][..2].copy_from_slice(&scale.to_le_bytes());
    if let Some(multiple) = minimum {
        bytes[first + 2..][..2].copy_from_slice(&half::f16::from_f32(scale.to_f32() * multiple).to_le_bytes());
    }
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in -1..1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
