// Blocks as a GGUF file holds them, to the planes of lib/quant.glsl.
//
// file: `rows` rows of `cols` elements, row-major; weight: the whole repacked matrix. Row i of the file becomes row
// l = first_row + i of the matrix, which lies in tile (l / TILE_ROWS) × tile_step + first_tile: so matrices are stacked
// (first_row) or their tiles interleaved (tile_step 2). One lane owns 32 columns of one row, or with WOVEN of the rows
// that share words (first_row is then a multiple of TILE_ROWS); missing columns and rows become zero.
// Grid: x = blocks × rows (WOVEN: × those of whole tiles / WORD_ROWS) / local_size, rounded up.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/quant.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    ByteIn file;
    UintOut weight;
    uint rows;
    uint cols;
    uint first_row;
    uint first_tile;
    uint tile_step;
    uint high;
    uint scales;
    uint supers;
};

uint byte_at(uint at) {
    return uint(file.v[at]);
}

uint half_at(uint at) {
    return byte_at(at) | byte_at(at + 1) << 8;
}

uint word_at(uint at) {
    return half_at(at) | half_at(at + 2) << 16;
}

// One block of 32 elements of one row, as integers with OFFSET added, and its scales.
#if !defined(UNSCALED) || defined(WOVEN)
uint n[32];
uint scale_word;
uint super_word;
#endif

#if defined(SCALE_K)
// Scale and minimum (low and high byte) of sub-block s of a Q4_K or Q5_K super-block whose 12 bytes start at `at`.
uint k_scales(uint at, uint s) {
    if (s < 4) {
        return (byte_at(at + s) & 63u) | (byte_at(at + s + 4) & 63u) << 8;
    }
    const uint low = byte_at(at + s + 4);
    const uint scale = (low & 0xfu) | (byte_at(at + s - 4) >> 6) << 4;
    const uint minimum = (low >> 4) | (byte_at(at + s) >> 6) << 4;
    return scale | minimum << 8;
}
#endif

#if defined(FORMAT_Q8_0)
// 34 bytes: d, 32 signed bytes.
void read_block(uint index) {
    const uint from = index * 34;
    scale_word = half_at(from);
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = byte_at(from + 2 + e) ^ 0x80u;
    }
}
#elif defined(SCALE_D) || defined(SCALE_DM)
// Q4_0, Q4_1, Q5_0, Q5_1: d, (m,) (4 bytes of fifth bits,) 16 bytes: elements e and e + 16 are byte e's nibbles.
void read_block(uint index) {
#if defined(SCALE_DM)
    const uint head = 4;
#else
    const uint head = 2;
#endif
    const uint from = index * (head + 4 * HIGH_BITS + 16);
    scale_word = head == 4 ? word_at(from) : half_at(from);
    const uint nibbles = from + head + 4 * HIGH_BITS;
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = (byte_at(nibbles + (e & 15u)) >> (4 * (e / 16))) & 0xfu;
    }
#if HIGH_BITS == 1
    const uint fifth = word_at(from + head);
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] |= ((fifth >> e) & 1u) << 4;
    }
#endif
}
#elif defined(SCALE_K)
// 256 elements: d, dmin, 12 bytes of scales, (Q5_K: 32 bytes of fifth bits,) 128 bytes of nibbles.
void read_block(uint index) {
    const uint from = (index / 8) * (144 + 32 * HIGH_BITS);
    const uint sub = index & 7u;
    super_word = word_at(from);
    scale_word = k_scales(from + 4, sub);
    const uint nibbles = from + 16 + 32 * HIGH_BITS + (sub / 2) * 32;
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = (byte_at(nibbles + e) >> (4 * (sub & 1u))) & 0xfu;
#if HIGH_BITS == 1
        n[e] |= ((byte_at(from + 16 + e) >> sub) & 1u) << 4;
#endif
    }
}
#elif defined(SCALE_PAIR)
// Q6_K, 256 elements: 128 bytes of nibbles, 64 of pairs of high bits, 16 scales of 16 elements each, d. Each half of 128
// elements: sub-blocks 0..3 are low nibbles of bytes 0..31, of 32..63, then the high nibbles.
void read_block(uint index) {
    const uint from = (index / 8) * 210;
    const uint sub = index & 7u;
    super_word = half_at(from + 208);
    scale_word = half_at(from + 192 + sub * 2);
    const uint quarter = sub & 3u;
    const uint nibbles = from + (sub / 4) * 64 + (quarter & 1u) * 32;
    const uint highs = from + 128 + (sub / 4) * 32;
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = (byte_at(nibbles + e) >> (4 * (quarter / 2))) & 0xfu;
        n[e] |= ((byte_at(highs + e) >> (2 * quarter)) & 3u) << 4;
    }
}
#endif

#if defined(WOVEN)
// The integers or bits of one block of a row, and its scales put where they belong: `tile_block` counts the blocks of all
// tiles, those of a strip's tiles next to each other.
void take_block(uint row, uint block, uint blocks, uint tile_block, uint super_tile_block, uint lane) {
#if defined(UNSCALED)
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        const uint col = block * 32 + e;
        const uint at = (row * cols + col) * (QUANT_WORDS / 8);
        n[e] = col >= cols ? 0 : (QUANT_WORDS == 32 ? word_at(at) : half_at(at));
    }
#else
    read_block(row * blocks + block);
#endif
#if defined(SCALE_DM)
    weight.v[scales + tile_block * TILE_ROWS + lane] = scale_word;
#elif !defined(UNSCALED)
    UshortOut(weight).v[scales * 2 + tile_block * TILE_ROWS + lane] = uint16_t(scale_word);
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    if ((block & 7u) == 0) {
        weight.v[supers + super_tile_block * TILE_ROWS + lane] = super_word;
    }
#endif
}

// The rows that share words one after another, each adding its bits to the words of all columns.
void repack_block(uint first, uint block, uint blocks) {
    const uint tile = ((first_row + first) / TILE_ROWS) * tile_step + first_tile;
    const uint strip = tile / STRIP;
    const uint strip_block = strip * blocks + block;
    const uint first_lane = first % TILE_ROWS;
    uint words[32];
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        words[e] = 0;
    }
#if HIGH_BITS > 0
    uint bits[32];
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        bits[e] = 0;
    }
#endif
    for (uint i = 0; i < WORD_ROWS && first + i < rows; ++i) {
        const uint super_block = strip * (blocks / 8) + block / 8;
        take_block(first + i, block, blocks, strip_block * STRIP + tile % STRIP, super_block * STRIP + tile % STRIP,
                   first_lane + i);
        [[unroll]] for (uint e = 0; e < 32; ++e) {
#if HIGH_BITS > 0
            words[e] |= (n[e] & 0xfu) << (QUANT_WORDS * i);
            bits[e] |= (n[e] >> 4) << (HIGH_BITS * i);
#else
            words[e] |= n[e] << (QUANT_WORDS * i);
#endif
        }
    }
#if defined(UNSCALED)
    const uint top = 0;
#else
    const uint top = 0x80000000u;
#endif
    [[unroll]] for (uint c = 0; c < 8; ++c) {
        const uint at = (strip_block * 8 + c) * STRIP + tile % STRIP;
        Uvec4Out(weight).v[at * UNITS + first_lane / WORD_ROWS] =
            uvec4(words[4 * c], words[4 * c + 1], words[4 * c + 2], words[4 * c + 3]) ^ top;
#if HIGH_BITS > 0
        [[unroll]] for (uint column = 0; column < 4; ++column) {
            const uint unit = (high * 4 + at * (TILE_ROWS / 2 * HIGH_BITS)) / HIGH_BITS + (column * TILE_ROWS + first_lane) / 8;
#if HIGH_BITS == 1
            ByteOut(weight).v[unit] = uint8_t(bits[4 * c + column]);
#else
            UshortOut(weight).v[unit] = uint16_t(bits[4 * c + column]);
#endif
        }
#endif
    }
}
#elif defined(UNSCALED)
void repack_block(uint row, uint block, uint blocks) {
    const uint target = first_row + row;
    const uint tile = (target / TILE_ROWS) * tile_step + first_tile;
    const uint at = (tile * blocks + block) * TILE_ROWS * CHUNKS + target % TILE_ROWS;
    const uint element_bytes = QUANT_WORDS * 4 / 32;
    const uint from = (row * cols + block * 32) * element_bytes;
    uint words[QUANT_WORDS];
    [[unroll]] for (uint w = 0; w < QUANT_WORDS; ++w) {
        // cols % 4 == 0, so a word is wholly inside the row or wholly outside.
        words[w] = block * 32 + w * 4 / element_bytes < cols ? word_at(from + w * 4) : 0;
    }
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        Uvec4Out(weight).v[at + c * TILE_ROWS] =
            uvec4(words[c * 4], words[c * 4 + 1], words[c * 4 + 2], words[c * 4 + 3]);
    }
}
#else
// Four bytes, or eight 4-bit values of which 0..3 become low nibbles and 4..7 high ones.
uint packed(uint word) {
    uint value = 0;
#if QUANT_WORDS == 8
    [[unroll]] for (uint e = 0; e < 4; ++e) {
        value |= n[word * 4 + e] << (8 * e);
    }
#else
    [[unroll]] for (uint e = 0; e < 8; ++e) {
        value |= (n[word * 8 + e] & 0xfu) << ((e & 3u) * 8 + (e / 4) * 4);
    }
#endif
    return value;
}

void repack_block(uint row, uint block, uint blocks) {
    const uint target = first_row + row;
    const uint tile = (target / TILE_ROWS) * tile_step + first_tile;
    const uint lane = target % TILE_ROWS;
    const uint at = (tile * blocks + block) * TILE_ROWS;
    read_block(row * blocks + block);
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        Uvec4Out(weight).v[at * CHUNKS + c * TILE_ROWS + lane] =
            uvec4(packed(c * 4), packed(c * 4 + 1), packed(c * 4 + 2), packed(c * 4 + 3));
    }
#if HIGH_BITS > 0
    uint bits[HIGH_BITS];
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        bits[h] = 0;
    }
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        bits[e * HIGH_BITS / 32] |= (n[e] >> 4) << ((e * HIGH_BITS) % 32);
    }
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        weight.v[high + (at + lane) * HIGH_BITS + h] = bits[h];
    }
#endif
#if defined(SCALE_DM)
    weight.v[scales + at + lane] = scale_word;
#else
    const uint word = (tile * ((blocks + 1) / 2) + block / 2) * TILE_ROWS + lane;
    UshortOut(weight).v[(scales + word) * 2 + (block & 1u)] = uint16_t(scale_word);
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    if ((block & 7u) == 0) {
        weight.v[supers + (tile * (blocks / 8) + block / 8) * TILE_ROWS + lane] = super_word;
    }
#endif
}
#endif

void main() {
    const uint blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    const uint index = gl_GlobalInvocationID.x;
#if defined(WOVEN)
    // The last tile is filled up with zeros.
    const uint step = WORD_ROWS;
    const uint end = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
#else
    const uint step = 1;
    const uint end = rows;
#endif
    const uint row = index / blocks * step;
    if (row < end) {
        repack_block(row, index % blocks, blocks);
    }
}
