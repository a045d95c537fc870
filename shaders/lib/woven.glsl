// Repacked weights for a CPU driver, loaded by vectors (lib/row_word.glsl). A tile has as many rows as a subgroup has lanes, 8
// or 16, and STRIP tiles lie side by side, so that a workgroup that owns them reads each plane from one end to the other:
//
//   quants  [strip][block][QUANT_WORDS][tile][row] uint   the low bits of 32 elements of a row
//           [strip][block][tile][column][row] uint16_t    formats of 16 bits; 32 bits likewise
//   high    [strip][block][tile][HIGH_BITS][row] uint     the bits above the fourth
//   scales  [strip][block][tile][row] uint                a pair of halves for each block, or
//           [strip][block / 2][tile][row] uint            16 bits for each of two blocks, the even one low
//   supers  [strip][block / 8][tile][row] uint
#if !defined(WOVEN_ONCE)
#define WOVEN_ONCE
const uint STRIP = 32 / TILE_ROWS;

#include "row_word.glsl"
#endif

// Vectors of four elements that share a word.
const uint WORD_FOURS = QUANT_WORDS < 8 ? 2 : 1;

#if defined(UNSCALED)
// A block of whole floats, which come from the streams of two tiles at once: faster, by measurement. As nested arrays, so that
// its loads differ by constants, which are a third of the instructions otherwise; integers gain nothing from it.
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer FloatsBy8In { RowWord v[][BLOCK_COLS][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer FloatsBy16In { RowWord v[][BLOCK_COLS][16]; };

// Where element `w` of the block at `at` stands, counted in vectors of rows.
uint quant_at(uint at, uint w) {
    return at * BLOCK_COLS + w;
}
#else
// Words of a block's low bits follow in the order in which they are read.
const uint QUANT_STEP = STRIP;

// Where word `w` of the block at `at` stands, counted in vectors of rows.
uint quant_at(uint at, uint w) {
    return at / STRIP * QUANT_WORDS * STRIP + at % STRIP + w * QUANT_STEP;
}
#endif

#if !defined(UNSCALED)
// An integer becomes a float by standing at the top of the mantissa of POWER, from bit PLACE on: POWER + the integer. Taking
// the power away is exact; a format's minimum is taken away with it, as a multiple of the scale.
const uint PLACE = 23 - QUANT_WORDS - HIGH_BITS;
const uint POWER = 1u << (23 - PLACE);
const uint MANTISSA = (150 - PLACE) << 23; // the bits of POWER

#if defined(HAS_MINIMUM)
// Where there is no scale the minimum stands alone: as a multiple of one so small that no integer changes it.
const float ALONE = 1073741824.0;
#endif
#endif

// 32 elements of one row: where they are, and the words of those that are needed next.
struct Block {
    uint at; // of whole floats, counted in blocks; otherwise its first word, in vectors of rows
    uint lane;
    uvec4 q;
#if HIGH_BITS > 0
    uint high[HIGH_BITS];
#endif
#if !defined(UNSCALED)
    // An element is (POWER + its integer − offset) × the scale of its half of the block.
    Scales scales;
#if defined(HAS_MINIMUM)
    float offset;
#endif
#endif
};

// `blocks`: blocks in a row; the lane's row is tile × TILE_ROWS + lane.
Block load_block(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
    Block b;
    const uint strip = tile / STRIP;
    const uint at = (strip * blocks + block) * STRIP + tile % STRIP;
#if defined(UNSCALED)
    b.at = at;
#else
    b.at = quant_at(at, 0);
#endif
    b.lane = lane;
#if HIGH_BITS > 0
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        b.high[h] = row_word(weight, planes.high / TILE_ROWS + at * HIGH_BITS + h, lane);
    }
#endif
    uint word = 0;
    uint super_word = 0;
#if defined(SCALE_DM)
    word = row_word(weight, planes.scales / TILE_ROWS + at, lane);
#elif !defined(UNSCALED)
    const uint pair = (strip * ((blocks + 1) / 2) + block / 2) * STRIP + tile % STRIP;
    word = (row_word(weight, planes.scales / TILE_ROWS + pair, lane) >> (16 * (block & 1u))) & 0xffffu;
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    const uint super_at = (strip * (blocks / 8) + block / 8) * STRIP + tile % STRIP;
    super_word = row_word(weight, planes.supers / TILE_ROWS + super_at, lane);
#endif
#if !defined(UNSCALED)
    b.scales = scales_of(word, super_word);
#if defined(HAS_MINIMUM)
    const vec2 scale = b.scales.scale;
    const float minimum = b.scales.minimum;
    const bool alone = scale.x == 0.0;
    b.scales.scale = alone ? vec2(minimum / ALONE) : scale;
    b.offset = float(POWER) - (alone ? ALONE : minimum / scale.x);
#endif
#endif
    return b;
}

#if defined(UNSCALED)
// The lane's element `k` of a block.
uint row_element(UintIn weight, Block b, uint k) {
    RowWord elements[16];
    [[unroll]] for (uint i = 0; i < TILE_ROWS; ++i) {
        if (TILE_ROWS == 8) {
            elements[i] = FloatsBy8In(weight).v[b.at][k][i];
        } else {
            elements[i] = FloatsBy16In(weight).v[b.at][k][i];
        }
    }
    return own_word(elements, b.lane);
}
#endif

// Loads the words of elements 4c…, of which there are WORD_FOURS fours.
void load_word(UintIn weight, inout Block b, uint c) {
#if defined(UNSCALED)
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        b.q[i] = row_element(weight, b, 4 * c + i);
    }
#else
    b.q.x = row_word(weight, b.at + c / WORD_FOURS * QUANT_STEP, b.lane);
#endif
}

// Element 4c + i, whose words are loaded, before scaling.
float quant(Block b, uint c, uint i) {
#if defined(FORMAT_F32)
    return uintBitsToFloat(b.q[i]);
#elif defined(FORMAT_F16)
    return unpackHalf2x16(b.q[i]).x;
#elif defined(FORMAT_BF16)
    return uintBitsToFloat(b.q[i] << 16);
#else
    uint fours = b.q.x;
    uint from = 8 * i + 4 * (c % WORD_FOURS);
#if HIGH_BITS > 0
    fours = with_high(fours >> (4 * (c % WORD_FOURS)), b.high[c * HIGH_BITS / 8], c);
    from = 8 * i;
#endif
    const uint n = MANTISSA | (shifted(fours, from, PLACE) & ((POWER - 1) << PLACE));
#if defined(HAS_MINIMUM)
    return uintBitsToFloat(n) - b.offset;
#else
    return uintBitsToFloat(n) - float(POWER + OFFSET);
#endif
#endif
}

// Elements 4c..4c+3, before scaling.
vec4 quants(Block b, uint c) {
    return vec4(quant(b, c, 0), quant(b, c, 1), quant(b, c, 2), quant(b, c, 3));
}
