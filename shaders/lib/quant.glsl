// Repacked weights. A matrix is cut into tiles of rows and blocks of 32 columns; inside, four planes follow each other
// (src/kernels/layout.rs computes where each starts). Tiles have 32 rows, one for each lane, and
//
//   quants  [tile][block][chunk][lane] uvec4   the low bits of 32 elements of a row in QUANT_WORDS words
//   high    [tile][block][lane][HIGH_BITS] uint the bits above the fourth, element 0 lowest
//   scales  [tile][block][lane] uint           a pair of halves for each block, or
//           [tile][block / 2][lane] uint       16 bits for each of two blocks, the even one low
//   supers  [tile][block / 8][lane] uint       the K formats' super-block scales, one or two halves
//
// so that lanes load consecutive 16-byte units, and nothing narrower than 32 bits, which lavapipe loads lane by lane.
// Four-bit elements 0..3 of a word are the low nibbles of its bytes, 4..7 the high ones.
//
// WOVEN suits a driver with vectors of 8 lanes, to which 8 gathered loads are dear and one broadcast load is cheap. Tiles
// have 8 rows, and words hold the same column of all of them:
//
//   quants  [tile][block][column] uint         4 bits of each row, row 0 lowest; or 8 bits of each, in two words
//   high    [tile][block][column][row] bits    HIGH_BITS of each, lowest first
//   scales  [tile][block][row] half, or uint where there are pairs of halves
//   supers  [tile][block / 8][row] uint
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

#if defined(WOVEN)
const uint TILE_ROWS = 8;
#else
const uint TILE_ROWS = 32;
#endif
const uint BLOCK_COLS = 32;
const uint CHUNKS = QUANT_WORDS / 4;

// Where the planes start, in words from the matrix's first; the quants start at 0.
struct Planes {
    uint high;
    uint scales;
    uint supers;
};

// Elements of a row that share one scale are `GROUP_FOURS` vectors of four.
#if defined(SCALE_PAIR)
const uint GROUP_FOURS = 4;
#else
const uint GROUP_FOURS = 8;
#endif

// 32 elements of one row, or where they are.
struct Block {
#if defined(WOVEN)
    uint at;
    uint lane;
    uint high_at;
#else
    uvec4 q[CHUNKS];
#if HIGH_BITS > 0
    uint high[HIGH_BITS];
#endif
#endif
#if defined(SCALE_PAIR)
    vec2 scale;
#elif !defined(UNSCALED)
    float scale;
#endif
#if defined(HAS_MINIMUM)
    float minimum;
#endif
};

#if defined(WOVEN)
// The lane's word of eight, loaded by broadcast.
uint pick_word(UintIn weight, uint first, uint lane) {
    const uvec4 low = Uvec4In(weight).v[first / 4];
    const uvec4 high = Uvec4In(weight).v[first / 4 + 1];
    const uvec4 four = (lane & 4u) == 0 ? low : high;
    const uvec2 two = (lane & 2u) == 0 ? four.xy : four.zw;
    return (lane & 1u) == 0 ? two.x : two.y;
}

// The lane's 16 bits of eight.
uint pick_half(UintIn weight, uint first, uint lane) {
    const uvec4 four = Uvec4In(weight).v[first / 4];
    const uvec2 two = (lane & 4u) == 0 ? four.xy : four.zw;
    return (((lane & 2u) == 0 ? two.x : two.y) >> (16 * (lane & 1u))) & 0xffffu;
}
#endif

// A block's 16 bits of scales, in formats that have no more.
uint scale_bits(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
#if defined(WOVEN)
    return pick_half(weight, planes.scales + (tile * blocks + block) * (TILE_ROWS / 2), lane);
#else
    const uint two = weight.v[planes.scales + (tile * ((blocks + 1) / 2) + block / 2) * TILE_ROWS + lane];
    return (two >> (16 * (block & 1u))) & 0xffffu;
#endif
}

// The lane's word of a plane that has one for each row, from `first` on.
uint lane_word(UintIn weight, uint first, uint lane) {
#if defined(WOVEN)
    return pick_word(weight, first, lane);
#else
    return weight.v[first + lane];
#endif
}

// `blocks`: blocks in a row; the lane's row is tile × TILE_ROWS + lane.
Block load_block(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
    Block b;
    const uint at = (tile * blocks + block) * TILE_ROWS;
#if defined(WOVEN)
    b.at = at;
    b.lane = lane;
    b.high_at = planes.high + at * HIGH_BITS;
#else
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        b.q[c] = Uvec4In(weight).v[at * CHUNKS + c * TILE_ROWS + lane];
    }
#if HIGH_BITS > 0
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        b.high[h] = weight.v[planes.high + (at + lane) * HIGH_BITS + h];
    }
#endif
#endif
#if defined(SCALE_D)
    b.scale = unpackHalf2x16(scale_bits(weight, planes, blocks, tile, block, lane)).x;
#elif defined(SCALE_DM)
    const vec2 pair = unpackHalf2x16(lane_word(weight, planes.scales + at, lane));
    b.scale = pair.x;
    b.minimum = pair.y;
#elif defined(SCALE_K) || defined(SCALE_PAIR)
    const uint scales = scale_bits(weight, planes, blocks, tile, block, lane);
    const uint super_at = planes.supers + (tile * (blocks / 8) + block / 8) * TILE_ROWS;
    const vec2 super = unpackHalf2x16(lane_word(weight, super_at, lane));
#if defined(SCALE_K)
    b.scale = super.x * float(scales & 0xffu);
    b.minimum = -super.y * float(scales >> 8);
#else
    b.scale = super.x * vec2(float(bitfieldExtract(int(scales), 0, 8)), float(bitfieldExtract(int(scales), 8, 8)));
#endif
#endif
    return b;
}

#if !defined(UNSCALED)
// Elements 4c..4c+3 as stored.
uvec4 integers(UintIn weight, Block b, uint c) {
#if defined(WOVEN)
#if QUANT_WORDS == 8
    const uvec4 first = Uvec4In(weight).v[b.at * 2 + 2 * c];
    const uvec4 second = Uvec4In(weight).v[b.at * 2 + 2 * c + 1];
    const uvec4 words = b.lane < 4 ? uvec4(first.xz, second.xz) : uvec4(first.yw, second.yw);
    return (words >> (8 * (b.lane & 3u))) & 0xffu;
#else
    uvec4 n = (Uvec4In(weight).v[b.at + c] >> (4 * b.lane)) & 0xfu;
#if HIGH_BITS == 1
    n |= ((uvec4(weight.v[b.high_at + c]) >> (uvec4(0, 8, 16, 24) + b.lane)) & 1u) << 4;
#elif HIGH_BITS == 2
    const uvec2 pairs = uvec2(weight.v[b.high_at + 2 * c], weight.v[b.high_at + 2 * c + 1]);
    n |= ((pairs.xxyy >> (uvec4(0, 16, 0, 16) + 2 * b.lane)) & 3u) << 4;
#endif
    return n;
#endif
#elif QUANT_WORDS == 8
    return (uvec4(b.q[c / 4][c & 3u]) >> uvec4(0, 8, 16, 24)) & 0xffu;
#else
    uvec4 n = (uvec4(b.q[0][c / 2] >> (4 * (c & 1u))) >> uvec4(0, 8, 16, 24)) & 0xfu;
#if HIGH_BITS == 1
    n |= ((uvec4(b.high[0] >> (4 * c)) >> uvec4(0, 1, 2, 3)) & 1u) << 4;
#elif HIGH_BITS == 2
    n |= ((uvec4(b.high[c / 4] >> (8 * (c & 3u))) >> uvec4(0, 2, 4, 6)) & 3u) << 4;
#endif
    return n;
#endif
}
#endif

// Elements 4c..4c+3 before scaling. The integer becomes a float by standing in the low mantissa bits of 2²³: one `or` and
// one exact subtraction, where an integer-to-float conversion runs at a quarter of the rate on some GPUs.
vec4 quants(UintIn weight, Block b, uint c) {
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
    return uintBitsToFloat(integers(weight, b, c) | 0x4b000000u) - (8388608.0 + float(OFFSET));
#endif
}

// The scale of the group that elements 4c… belong to.
float group_scale(Block b, uint c) {
#if defined(UNSCALED)
    return 1.0;
#elif defined(SCALE_PAIR)
    return c < GROUP_FOURS ? b.scale.x : b.scale.y;
#else
    return b.scale;
#endif
}

// What is added to every scaled element.
float group_minimum(Block b) {
#if defined(HAS_MINIMUM)
    return b.minimum;
#else
    return 0.0;
#endif
}
