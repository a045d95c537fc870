// Blocks as a GGUF file holds them, to the planes of lib/quant.glsl.
//
// file: `rows` rows of `cols` elements, row-major, from file_offset bytes on; weight: the whole repacked matrix.
// Row i of the file becomes row l = first_row + i of the matrix, which lies in tile (l / 32) × tile_step + first_tile:
// so matrices are stacked (first_row) or their tiles interleaved (tile_step 2).
// One lane owns 32 columns of one row, missing ones zero. Grid: x = blocks × rows / local_size, rounded up.
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

// Stores a block's 16 bits of scales: its half of the word that it shares with its neighbour.
void store_scales(uint tile, uint blocks, uint block, uint lane, uint value) {
    const uint word = (tile * ((blocks + 1) / 2) + block / 2) * TILE_ROWS + lane;
    UshortOut(weight).v[(scales + word) * 2 + (block & 1u)] = uint16_t(value);
}

// Packs eight 4-bit values: 0..3 in low nibbles, 4..7 in high ones.
uint pack_nibbles(uint n[32], uint word) {
    uint packed = 0;
    [[unroll]] for (uint e = 0; e < 8; ++e) {
        packed |= (n[word * 8 + e] & 0xfu) << ((e & 3u) * 8 + (e / 4) * 4);
    }
    return packed;
}

// Element e of a legacy block whose 16 bytes of nibbles start at `at`: byte e % 16, low nibbles first.
uint legacy_nibble(uint at, uint e) {
    return (byte_at(at + (e & 15u)) >> (4 * (e / 16))) & 0xfu;
}

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

void main() {
    const uint blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    const uint index = gl_GlobalInvocationID.x;
    if (index >= rows * blocks) {
        return;
    }
    const uint row = index / blocks;
    const uint block = index % blocks;
    const uint target = first_row + row;
    const uint tile = (target / TILE_ROWS) * tile_step + first_tile;
    const uint lane = target % TILE_ROWS;
    const uint at = (tile * blocks + block) * TILE_ROWS;

#if defined(UNSCALED)
    uint words[QUANT_WORDS];
    const uint element_bytes = QUANT_WORDS * 4 / 32;
    const uint from = (row * cols + block * 32) * element_bytes;
    [[unroll]] for (uint w = 0; w < QUANT_WORDS; ++w) {
        // cols % 4 == 0, so a word is wholly inside the row or wholly outside.
        words[w] = block * 32 + w * 4 / element_bytes < cols ? word_at(from + w * 4) : 0;
    }
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        Uvec4Out(weight).v[at * CHUNKS + c * TILE_ROWS + lane] =
            uvec4(words[c * 4], words[c * 4 + 1], words[c * 4 + 2], words[c * 4 + 3]);
    }
#elif defined(FORMAT_Q8_0)
    const uint from = index * 34;
    store_scales(tile, blocks, block, lane, half_at(from));
    [[unroll]] for (uint c = 0; c < CHUNKS; ++c) {
        uvec4 words;
        [[unroll]] for (uint w = 0; w < 4; ++w) {
            words[w] = word_at(from + 2 + c * 16 + w * 4) ^ 0x80808080u;
        }
        Uvec4Out(weight).v[at * CHUNKS + c * TILE_ROWS + lane] = words;
    }
#else
    uint n[32];
    uint high_words[2] = uint[2](0, 0);
#if defined(FORMAT_Q4_0) || defined(FORMAT_Q5_0) || defined(FORMAT_Q4_1) || defined(FORMAT_Q5_1)
#if defined(SCALE_DM)
    const uint head = 4;
    const uint from = index * (20 + 4 * HIGH_BITS);
    weight.v[scales + at + lane] = word_at(from);
#else
    const uint head = 2;
    const uint from = index * (18 + 4 * HIGH_BITS);
    store_scales(tile, blocks, block, lane, half_at(from));
#endif
#if HIGH_BITS == 1
    high_words[0] = word_at(from + head);
#endif
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = legacy_nibble(from + head + 4 * HIGH_BITS, e);
    }
#elif defined(SCALE_K)
    // 256 elements: d, dmin, 12 bytes of scales, (Q5_K: 32 bytes of fifth bits,) 128 bytes of nibbles.
    const uint sub = block & 7u;
    const uint from = (index / 8) * (144 + 32 * HIGH_BITS);
    store_scales(tile, blocks, block, lane, k_scales(from + 4, sub));
    if (sub == 0) {
        weight.v[supers + (tile * (blocks / 8) + block / 8) * TILE_ROWS + lane] = word_at(from);
    }
    const uint nibbles = from + 16 + 32 * HIGH_BITS + (sub / 2) * 32;
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = (byte_at(nibbles + e) >> (4 * (sub & 1u))) & 0xfu;
#if HIGH_BITS == 1
        high_words[0] |= ((byte_at(from + 16 + e) >> sub) & 1u) << e;
#endif
    }
#else
    // Q6_K, 256 elements: 128 bytes of nibbles, 64 of pairs of high bits, 16 scales of 16 elements each, d.
    const uint sub = block & 7u;
    const uint from = (index / 8) * 210;
    const uint scale_at = from + 192 + sub * 2;
    store_scales(tile, blocks, block, lane, half_at(scale_at));
    if (sub == 0) {
        weight.v[supers + (tile * (blocks / 8) + block / 8) * TILE_ROWS + lane] = half_at(from + 208);
    }
    // Each half of 128 elements: sub-blocks 0..3 are low nibbles of bytes 0..31, of 32..63, then the high nibbles.
    const uint quarter = sub & 3u;
    const uint nibbles = from + (sub / 4) * 64 + (quarter & 1u) * 32;
    const uint highs = from + 128 + (sub / 4) * 32;
    [[unroll]] for (uint e = 0; e < 32; ++e) {
        n[e] = (byte_at(nibbles + e) >> (4 * (quarter / 2))) & 0xfu;
        high_words[e / 16] |= ((byte_at(highs + e) >> (2 * quarter)) & 3u) << (2 * (e & 15u));
    }
#endif
    Uvec4Out(weight).v[at + lane] =
        uvec4(pack_nibbles(n, 0), pack_nibbles(n, 1), pack_nibbles(n, 2), pack_nibbles(n, 3));
    [[unroll]] for (uint h = 0; h < HIGH_BITS; ++h) {
        weight.v[high + (at + lane) * HIGH_BITS + h] = high_words[h];
    }
#endif
}
