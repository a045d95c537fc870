// Repacked weights. A matrix is cut into tiles of rows and blocks of 32 columns; inside, four planes follow each other
// (src/kernels/layout.rs computes where each starts). Tiles have 32 rows, one for each lane, and
//
//   quants  [tile][block][chunk][lane] uvec4   the low bits of 32 elements of a row in QUANT_WORDS words
//   high    [tile][block][lane][HIGH_BITS] uint the bits above the fourth
//   scales  [tile][block][lane] uint           a pair of halves for each block, or
//           [tile][block / 2][lane] uint       16 bits for each of two blocks, the even one low
//   supers  [tile][block / 8][lane] uint       the K formats' super-block scales, two halves or, of Q6_K, a float
//
// so that lanes load consecutive 16-byte units, and nothing narrower than 32 bits, which lavapipe loads lane by lane.
// Four-bit elements 0..3 of a word are the low nibbles of its bytes, 4..7 the high ones. Likewise the bits above the fourth of
// elements 4c..4c+3 stand at one place in the four bytes of a word, those of the lowest c lowest, so that all four become bytes
// at once.
//
// WOVEN arranges them otherwise: lib/woven.glsl.
//
// Signed formats are stored with OFFSET added, so no bit is a sign. The formats' arithmetic is llama.cpp's (ggml-quants):
// element = d × (n − OFFSET), or d × n − m.
#if defined(FORMAT_F32)
#define QUANT_WORDS 32
#elif defined(FORMAT_F16) || defined(FORMAT_BF16)
#define QUANT_WORDS 16
#elif defined(FORMAT_Q8_0)
#define QUANT_WORDS 8
#define OFFSET 128
#define SCALE_D
#else
#define QUANT_WORDS 4
#if defined(FORMAT_Q4_0)
#define OFFSET 8
#define SCALE_D
#elif defined(FORMAT_Q4_1)
#define OFFSET 0
#define SCALE_DM
#elif defined(FORMAT_Q5_0)
#define HIGH_BITS 1
#define OFFSET 16
#define SCALE_D
#elif defined(FORMAT_Q5_1)
#define HIGH_BITS 1
#define OFFSET 0
#define SCALE_DM
#elif defined(FORMAT_Q4_K)
#define OFFSET 0
#define SCALE_K
#elif defined(FORMAT_Q5_K)
#define HIGH_BITS 1
#define OFFSET 0
#define SCALE_K
#elif defined(FORMAT_Q6_K)
#define HIGH_BITS 2
#define OFFSET 32
#define SCALE_PAIR
#else
#error "no weight format"
#endif
#endif

#ifndef HIGH_BITS
#define HIGH_BITS 0
#endif
#if defined(SCALE_DM) || defined(SCALE_K)
#define HAS_MINIMUM
#endif
#if QUANT_WORDS >= 16
#define UNSCALED
#endif
// `group_minimum` is to be applied; elsewhere `quants` has it in it.
#if defined(HAS_MINIMUM) && !defined(WOVEN)
#define MINIMUM_APART
#endif

#if !defined(QUANT_ONCE)
#define QUANT_ONCE
// Rows of a tile: 32, or with WOVEN as many as a subgroup has lanes.
layout(constant_id = 7) const uint TILE_ROWS = 32;
const uint BLOCK_COLS = 32;

// A word with what stood at bit `from` at bit `to`.
uint shifted(uint word, uint from, uint to) {
    return from < to ? word << (to - from) : word >> (from - to);
}

// Where the planes start, in words from the matrix's first; the quants start at 0.
struct Planes {
    uint high;
    uint scales;
    uint supers;
};

// Of one block: the scales of its two halves of 16 columns, and what is added to every scaled element.
struct Scales {
    vec2 scale;
    float minimum;
};
#endif

// Elements of a row that share one scale are `GROUP_FOURS` vectors of four.
#if defined(SCALE_PAIR)
const uint GROUP_FOURS = 4;
#else
const uint GROUP_FOURS = 8;
#endif

// From the block's own word or half word and its super-block's.
Scales scales_of(uint word, uint super_word) {
#if defined(SCALE_D)
    return Scales(unpackHalf2x16(word).xx, 0.0);
#elif defined(SCALE_DM)
    const vec2 pair = unpackHalf2x16(word);
    return Scales(pair.xx, pair.y);
#elif defined(SCALE_K)
    const vec2 super = unpackHalf2x16(super_word);
    return Scales(vec2(super.x * float(word & 0xffu)), -super.y * float(word >> 8));
#elif defined(SCALE_PAIR)
    const float super = uintBitsToFloat(super_word);
    return Scales(super * vec2(float(bitfieldExtract(int(word), 0, 8)), float(bitfieldExtract(int(word), 8, 8))), 0.0);
#else
    return Scales(vec2(1.0), 0.0);
#endif
}

#if HIGH_BITS > 0
// Elements 4c..4c+3, a byte each: the low bits of `fours` with those of `high`, the word that has theirs. What stands in a byte
// above them is neither's.
uint with_high(uint fours, uint high, uint c) {
    return (fours & 0x0f0f0f0fu) | (shifted(high, c * HIGH_BITS % 8, 4) & 0xf0f0f0f0u);
}
#endif

#if defined(WOVEN)
#include "woven.glsl"
#else
const uint CHUNKS = QUANT_WORDS / 4;

// 32 elements of one row.
struct Block {
    uvec4 q[CHUNKS];
#if HIGH_BITS > 0
    uint high[HIGH_BITS];
#endif
    Scales scales;
};

// `blocks`: blocks in a row; the lane's row is tile × TILE_ROWS + lane.
Block load_block(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
    Block b;
    const uint at = (tile * blocks + block) * TILE_ROWS;
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        b.q[c] = Uvec4In(weight).v[at * CHUNKS + c * TILE_ROWS + lane];
    }
#if HIGH_BITS > 0
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        b.high[h] = weight.v[planes.high + (at + lane) * HIGH_BITS + h];
    }
#endif
    uint word = 0;
    uint super_word = 0;
#if defined(SCALE_DM)
    word = weight.v[planes.scales + at + lane];
#elif !defined(UNSCALED)
    const uint two = weight.v[planes.scales + (tile * ((blocks + 1) / 2) + block / 2) * TILE_ROWS + lane];
    word = (two >> (16 * (block & 1u))) & 0xffffu;
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    super_word = weight.v[planes.supers + (tile * (blocks / 8) + block / 8) * TILE_ROWS + lane];
#endif
    b.scales = scales_of(word, super_word);
    return b;
}

#if !defined(UNSCALED)
// Elements 4c..4c+3 as stored.
uvec4 integers(Block b, uint c) {
#if QUANT_WORDS == 8
    return (uvec4(b.q[c / 4][c & 3u]) >> uvec4(0, 8, 16, 24)) & 0xffu;
#else
    uint fours = b.q[0][c / 2] >> (4 * (c & 1u));
#if HIGH_BITS > 0
    fours = with_high(fours, b.high[c * HIGH_BITS / 8], c);
#endif
    return (uvec4(fours) >> uvec4(0, 8, 16, 24)) & ((1u << (4 + HIGH_BITS)) - 1);
#endif
}
#endif

// All words are there.
void load_word(UintIn weight, inout Block b, uint c) {
}

// Elements 4c..4c+3 before scaling. The integer becomes a float by standing in the low mantissa bits of 2²³: one `or` and
// one exact subtraction, where an integer-to-float conversion runs at a quarter of the rate on some GPUs.
vec4 quants(Block b, uint c) {
#if defined(FORMAT_F32)
    return uintBitsToFloat(b.q[c]);
#elif defined(FORMAT_F16)
    const uvec4 q = b.q[c / 2];
    return (c & 1u) == 0 ? vec4(unpackHalf2x16(q.x), unpackHalf2x16(q.y)) : vec4(unpackHalf2x16(q.z), unpackHalf2x16(q.w));
#elif defined(FORMAT_BF16)
    const uvec4 q = b.q[c / 2];
    const uvec2 pair = (c & 1u) == 0 ? q.xy : q.zw;
    return uintBitsToFloat(uvec4(pair.x << 16, pair.x & 0xffff0000u, pair.y << 16, pair.y & 0xffff0000u));
#else
    return uintBitsToFloat(integers(b, c) | 0x4b000000u) - (8388608.0 + float(OFFSET));
#endif
}
#endif

// The scale of the group that elements 4c… belong to.
float group_scale(Block b, uint c) {
#if defined(UNSCALED)
    return 1.0;
#else
    return c < GROUP_FOURS ? b.scales.scale.x : b.scales.scale.y;
#endif
}

// What is added to every scaled element.
float group_minimum(Block b) {
#if defined(MINIMUM_APART)
    return b.scales.minimum;
#else
    return 0.0;
#endif
}
