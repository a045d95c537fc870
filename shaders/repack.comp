// Blocks as a GGUF file holds them, to the planes of lib/quant.glsl.
//
// file: `rows` rows of `cols` elements, row-major; weight: the whole repacked matrix. Row i of the file becomes row
// l = first_row + i of the matrix, which lies in tile (l / TILE_ROWS) × tile_step + first_tile: so matrices are stacked
// (first_row; with WOVEN a multiple of TILE_ROWS) or their tiles interleaved (tile_step 2). One lane owns 32 columns of one
// row; missing columns become zero.
// Grid: x = blocks × rows / local_size, rounded up.
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

// Lavapipe loads lane by lane, so the wider the better. All blocks start at multiples of 2 bytes, `at` as well.
uint half_at(uint at) {
    return uint(UshortIn(file).v[at / 2]);
}

// Blocks of these formats, and so all words in them, start at multiples of 4 bytes.
#if defined(UNSCALED) || defined(SCALE_DM) || defined(SCALE_K)
uint word_at(uint at) {
    return UintIn(file).v[at / 4];
}
#else
uint word_at(uint at) {
    return half_at(at) | half_at(at + 2) << 16;
}
#endif

// One block of 32 elements of one row, as integers with OFFSET added, and its scales.
#if !defined(UNSCALED)
uint n[32];
uint scale_word;
uint super_word;

// Elements e to e + 3 from the bytes of a word.
void put_four(uint e, uint word, uint mask) {
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        n[e + i] = (word >> (8 * i)) & mask;
    }
}
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
    [[unroll]] for (uint e = 0; e < 32; e += 4) {
        put_four(e, word_at(from + 2 + e) ^ 0x80808080u, 0xffu);
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
    [[unroll]] for (uint e = 0; e < 16; e += 4) {
        const uint word = word_at(nibbles + e);
        put_four(e, word, 0xfu);
        put_four(e + 16, word >> 4, 0xfu);
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
    [[unroll]] for (uint e = 0; e < 32; e += 4) {
        uint fours = (word_at(nibbles + e) >> (4 * (sub & 1u))) & 0x0f0f0f0fu;
#if HIGH_BITS == 1
        fours |= ((word_at(from + 16 + e) >> sub) & 0x01010101u) << 4;
#endif
        put_four(e, fours, 0xffu);
    }
}
#elif defined(SCALE_PAIR)
// Q6_K, 256 elements: 128 bytes of nibbles, 64 of pairs of high bits, 16 scales of 16 elements each, d. Each half of 128
// elements: sub-blocks 0..3 are low nibbles of bytes 0..31, of 32..63, then the high nibbles.
void read_block(uint index) {
    const uint from = (index / 8) * 210;
    const uint sub = index & 7u;
    super_word = floatBitsToUint(unpackHalf2x16(half_at(from + 208)).x);
    scale_word = half_at(from + 192 + sub * 2);
    const uint quarter = sub & 3u;
    const uint nibbles = from + (sub / 4) * 64 + (quarter & 1u) * 32;
    const uint highs = from + 128 + (sub / 4) * 32;
    [[unroll]] for (uint e = 0; e < 32; e += 4) {
        const uint low = (word_at(nibbles + e) >> (4 * (quarter / 2))) & 0x0f0f0f0fu;
        put_four(e, low | ((word_at(highs + e) >> (2 * quarter)) & 0x03030303u) << 4, 0xffu);
    }
}
#endif

// Where a block of a tile stands among those of all tiles, in the order of memory.
uint tile_block(uint tile, uint blocks, uint block) {
#if defined(WOVEN)
    return (tile / STRIP * blocks + block) * STRIP + tile % STRIP;
#else
    return tile * blocks + block;
#endif
}

// Stores the words of low bits from the `w`-th to the `w` + 3rd of a row's block.
void store_quants(uint at, uint lane, uint w, uvec4 words) {
#if defined(WOVEN) && QUANT_WORDS == 16
    [[unroll]] for (uint i = 0; i < 8; ++i) {
        UshortOut(weight).v[quant_at(at, 2 * w + i) * TILE_ROWS + lane] = uint16_t(words[i / 2] >> (16 * (i % 2)));
    }
#elif defined(WOVEN)
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        weight.v[quant_at(at, w + i) * TILE_ROWS + lane] = words[i];
    }
#else
    Uvec4Out(weight).v[(at * CHUNKS + w / 4) * TILE_ROWS + lane] = words;
#endif
}

#if defined(UNSCALED)
void repack_block(uint row, uint block, uint blocks) {
    const uint target = first_row + row;
    const uint tile = (target / TILE_ROWS) * tile_step + first_tile;
    const uint element_bytes = QUANT_WORDS * 4 / 32;
    const uint from = (row * cols + block * 32) * element_bytes;
    [[unroll]] for (uint w = 0; w < QUANT_WORDS; w += 4) {
        uvec4 words;
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            // cols % 4 == 0, so a word is wholly inside the row or wholly outside.
            words[i] = block * 32 + (w + i) * 4 / element_bytes < cols ? word_at(from + (w + i) * 4) : 0;
        }
        store_quants(tile_block(tile, blocks, block), target % TILE_ROWS, w, words);
    }
}
#else
// Four bytes, or eight 4-bit values: 0..3 become low nibbles and 4..7 high ones.
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

#if HIGH_BITS > 0
void store_high(uint at, uint lane) {
    uint bits[HIGH_BITS];
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        bits[h] = 0;
    }
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        bits[e * HIGH_BITS / 32] |= (n[e] >> 4) << (8 * (e % 4) + e / 4 * HIGH_BITS % 8);
    }
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
#if defined(WOVEN)
        weight.v[high + (at * HIGH_BITS + h) * TILE_ROWS + lane] = bits[h];
#else
        weight.v[high + (at * TILE_ROWS + lane) * HIGH_BITS + h] = bits[h];
#endif
    }
}
#endif

void repack_block(uint row, uint block, uint blocks) {
    const uint target = first_row + row;
    const uint tile = (target / TILE_ROWS) * tile_step + first_tile;
    const uint lane = target % TILE_ROWS;
    const uint at = tile_block(tile, blocks, block);
    read_block(row * blocks + block);
    [[unroll]] for (uint w = 0; w < QUANT_WORDS; w += 4) {
        store_quants(at, lane, w, uvec4(packed(w), packed(w + 1), packed(w + 2), packed(w + 3)));
    }
#if HIGH_BITS > 0
    store_high(at, lane);
#endif
#if defined(SCALE_DM)
    weight.v[scales + at * TILE_ROWS + lane] = scale_word;
#else
    const uint word = tile_block(tile, (blocks + 1) / 2, block / 2) * TILE_ROWS + lane;
    UshortOut(weight).v[(scales + word) * 2 + (block & 1u)] = uint16_t(scale_word);
#endif
#if defined(SCALE_K) || defined(SCALE_PAIR)
    if ((block & 7u) == 0) {
        weight.v[supers + tile_block(tile, blocks / 8, block / 8) * TILE_ROWS + lane] = super_word;
    }
#endif
}
#endif

void main() {
    const uint blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    const uint index = gl_GlobalInvocationID.x;
    if (index < rows * blocks) {
        repack_block(index / blocks, index % blocks, blocks);
    }
}
