// Repacked weights for a driver to which gathered loads are dear and a load that all lanes share is cheap: a CPU's. A tile
// has as many rows as a subgroup has lanes, 8 or 16, and a word holds one column of WORD_ROWS rows, the lowest row in the
// lowest bits; lanes load it together, and each takes its own bits. STRIP tiles lie side by side, so that a workgroup that
// owns them reads each plane from one end to the other:
//
//   quants  [strip][block][four columns][tile][WORD_ROWS rows] uvec4     the low bits of four columns
//   high    [strip][block][four columns][tile][column][row] bits         HIGH_BITS of each, lowest first
//   scales  [strip][block][tile][row] half                               or uint where there are pairs of halves
//   supers  [strip][block / 8][tile][row] uint
//
// A lane's bits become a float where they stand in the word, its scale makes up for their place. The word's top bit is
// stored inverted: so a signed conversion, the only one that every CPU has, gives the topmost row what it would be less
// half of its range.
const uint STRIP = 4;
const uint WORD_ROWS = 32 / QUANT_WORDS;
// Units of 16 bytes that hold four columns of a tile.
const uint UNITS = TILE_ROWS / WORD_ROWS;

// 32 elements of one row: where they are, and what becomes of them.
struct Block {
    uint at;
    uint high_at;
    uint lane;
#if !defined(UNSCALED)
    // Of the block's two halves: an element is low bits as they stand × scale + high bits × high_scale + offset.
    vec2 scale;
    vec2 high_scale;
    vec2 offset;
#endif
};

// The lane's bits of a word start here.
uint word_shift(uint lane) {
    return QUANT_WORDS * (lane % WORD_ROWS);
}

// The lane's word of a plane that has one for each row.
uint lane_word(UintIn weight, uint first, uint lane) {
    uint word = 0;
    [[unroll]] for (uint i = 0; i < TILE_ROWS; i += 4) {
        const uvec4 four = Uvec4In(weight).v[(first + i) / 4];
        const uvec2 two = (lane & 2u) == 0 ? four.xy : four.zw;
        word = lane >= i ? ((lane & 1u) == 0 ? two.x : two.y) : word;
    }
    return word;
}

// The lane's 16 bits of a plane that has a half for each row.
uint lane_half(UintIn weight, uint first, uint lane) {
    uint word = 0;
    [[unroll]] for (uint i = 0; i < TILE_ROWS; i += 8) {
        const uvec4 four = Uvec4In(weight).v[(first + i / 2) / 4];
        const uvec2 two = (lane & 4u) == 0 ? four.xy : four.zw;
        word = lane >= i ? ((lane & 2u) == 0 ? two.x : two.y) : word;
    }
    return (word >> (16 * (lane & 1u))) & 0xffffu;
}

// `blocks`: blocks in a row; the lane's row is tile × TILE_ROWS + lane.
Block load_block(UintIn weight, Planes planes, uint blocks, uint tile, uint block, uint lane) {
    Block b;
    const uint strip_block = (tile / STRIP) * blocks + block;
    const uint in_strip = tile % STRIP;
    b.at = (strip_block * 8 * STRIP + in_strip) * UNITS;
    b.high_at = planes.high + (strip_block * 8 * STRIP + in_strip) * (TILE_ROWS * HIGH_BITS / 8);
    b.lane = lane;
    uint word = 0;
    uint super_word = 0;
#if defined(SCALE_DM)
    word = lane_word(weight, planes.scales + (strip_block * STRIP + in_strip) * TILE_ROWS, lane);
#elif !defined(UNSCALED)
    word = lane_half(weight, planes.scales + (strip_block * STRIP + in_strip) * (TILE_ROWS / 2), lane);
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    const uint super_block = (tile / STRIP) * (blocks / 8) + block / 8;
    super_word = lane_word(weight, planes.supers + (super_block * STRIP + in_strip) * TILE_ROWS, lane);
#endif
#if !defined(UNSCALED)
    const Scales scales = scales_of(word, super_word);
    const float offset = float(-OFFSET) + (lane % WORD_ROWS == WORD_ROWS - 1 ? float(1 << (QUANT_WORDS - 1)) : 0.0);
    b.scale = scales.scale * uintBitsToFloat((127 - word_shift(lane)) << 23);
    b.high_scale = scales.scale * 16.0;
    b.offset = fma(scales.scale, vec2(offset), vec2(scales.minimum));
#endif
    return b;
}

#if HIGH_BITS > 0
// The bits above the fourth of elements 4c..4c+3, as numbers.
vec4 high_quants(UintIn weight, Block b, uint c) {
    const uint first = b.high_at + c * STRIP * (TILE_ROWS * HIGH_BITS / 8);
    vec4 high;
    [[unroll]] for (uint column = 0; column < 4; ++column) {
        const uint at = column * TILE_ROWS * HIGH_BITS;
        const uint shift = at % 32 + b.lane * HIGH_BITS;
        high[column] = float(int((weight.v[first + at / 32] >> shift) & ((1u << HIGH_BITS) - 1)));
    }
    return high;
}
#endif

// Elements 4c..4c+3.
vec4 quants(UintIn weight, Block b, uint c) {
    const uint at = b.at + c * STRIP * UNITS;
    uvec4 n = Uvec4In(weight).v[at];
    [[unroll]] for (uint u = 1; u < UNITS; ++u) {
        // Loaded before the choice, or the load would stand in a branch.
        const uvec4 next = Uvec4In(weight).v[at + u];
        n = b.lane >= u * WORD_ROWS ? next : n;
    }
#if defined(FORMAT_F32)
    return uintBitsToFloat(n);
#elif defined(FORMAT_F16)
    n >>= word_shift(b.lane);
    return vec4(unpackHalf2x16(n.x).x, unpackHalf2x16(n.y).x, unpackHalf2x16(n.z).x, unpackHalf2x16(n.w).x);
#elif defined(FORMAT_BF16)
    return uintBitsToFloat((n << (16 - word_shift(b.lane))) & 0xffff0000u);
#else
    const vec4 low = vec4(ivec4(n & (((1u << QUANT_WORDS) - 1) << word_shift(b.lane))));
    const bool first = c < GROUP_FOURS;
    vec4 rest = vec4(first ? b.offset.x : b.offset.y);
#if HIGH_BITS > 0
    rest = fma(high_quants(weight, b, c), vec4(first ? b.high_scale.x : b.high_scale.y), rest);
#endif
    return fma(low, vec4(first ? b.scale.x : b.scale.y), rest);
#endif
}
