// Repacked weights for a CPU driver, loaded by vectors (lib/row_word.glsl). A tile has as many rows as a subgroup has lanes, 8
// or 16, and STRIP tiles lie side by side, so that a workgroup that owns them reads each plane from one end to the other:
//
//   quants  [strip][block][tile][QUANT_WORDS][row] uint   the low bits of 32 elements of a row, element 0 lowest
//           [strip][block][tile][column][row] uint16_t    formats of 16 bits
//   high    [strip][block][tile][HIGH_BITS][row] uint     the bits above the fourth
//   scales  [strip][block][tile][row] uint                a pair of halves for each block, or
//           [strip][block / 2][tile][row] uint            16 bits for each of two blocks, the even one low
//   supers  [strip][block / 8][tile][row] uint
const uint STRIP = 32 / TILE_ROWS;
// Vectors of four elements that share a word.
const uint WORD_FOURS = QUANT_WORDS < 8 ? 2 : 1;

#include "row_word.glsl"

#if !defined(UNSCALED)
// An integer becomes a float by standing at the top of the mantissa of POWER, from bit PLACE on: POWER + the integer. The
// multiply-add that scales it takes the power away: exactly, since the scale leaves bits enough, but where a minimum is added
// to the power's share and rounded with it.
const uint PLACE = 23 - QUANT_WORDS - HIGH_BITS;
const uint POWER = 1u << (23 - PLACE);
const uint MANTISSA = (150 - PLACE) << 23; // the bits of POWER

// A word with what stood at bit `from` at bit `to`.
uint shifted(uint word, uint from, uint to) {
    return from < to ? word << (to - from) : word >> (from - to);
}
#endif

// 32 elements of one row: where they are, and the words of those that are needed next.
struct Block {
    uint at;
    uint lane;
    uvec4 q;
#if HIGH_BITS > 0
    uint high[HIGH_BITS];
#endif
#if !defined(UNSCALED)
    // Of the block's two halves: an element is (POWER + its integer) × scale + offset.
    vec2 scale;
    vec2 offset;
#endif
};

// `blocks`: blocks in a row; the lane's row is tile × TILE_ROWS + lane.
Block load_block(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
    Block b;
    const uint strip = tile / STRIP;
    const uint at = (strip * blocks + block) * STRIP + tile % STRIP;
#if defined(UNSCALED)
    b.at = at * BLOCK_COLS;
#else
    b.at = at * QUANT_WORDS;
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
    const Scales scales = scales_of(word, super_word);
    b.scale = scales.scale;
    b.offset = fma(scales.scale, vec2(-float(OFFSET + POWER)), vec2(scales.minimum));
#endif
    return b;
}

// Loads the words of elements 4c…, of which there are WORD_FOURS fours.
void load_word(UintIn weight, inout Block b, uint c) {
#if defined(UNSCALED)
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        b.q[i] = row_word(weight, b.at + 4 * c + i, b.lane);
    }
#else
    b.q.x = row_word(weight, b.at + c / WORD_FOURS, b.lane);
#endif
}

// Element 4c + i, whose words are loaded.
float quant(Block b, uint c, uint i) {
#if defined(FORMAT_F32)
    return uintBitsToFloat(b.q[i]);
#elif defined(FORMAT_F16)
    return unpackHalf2x16(b.q[i]).x;
#elif defined(FORMAT_BF16)
    return uintBitsToFloat(b.q[i] << 16);
#else
    const uint from = ((c % WORD_FOURS) * 4 + i) * QUANT_WORDS;
    uint n = MANTISSA | (shifted(b.q.x, from, PLACE) & (((1u << QUANT_WORDS) - 1) << PLACE));
#if HIGH_BITS > 0
    const uint bit = (4 * c + i) * HIGH_BITS;
    n |= shifted(b.high[bit / 32], bit % 32, PLACE + 4) & (((1u << HIGH_BITS) - 1) << (PLACE + 4));
#endif
    const bool low = c < GROUP_FOURS;
    return fma(uintBitsToFloat(n), low ? b.scale.x : b.scale.y, low ? b.offset.x : b.offset.y);
#endif
}

// Elements 4c..4c+3.
vec4 quants(Block b, uint c) {
    return vec4(quant(b, c, 0), quant(b, c, 1), quant(b, c, 2), quant(b, c, 3));
}
