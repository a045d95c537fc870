// The cache of a layer: keys and values in blocks of BLOCK_TOKENS tokens, of one kv head after the other, so that a sequence
// whose blocks follow each other is read from one end to the other. Shared by rope_store and attend, whose push constants say
// how many blocks there are: cache_blocks.
//
// Elements are halves, or bytes (KV_Q8_0). For GPUs a lane loads a unit, 8 dimensions of a token:
//   keys:   [kv_head][block][head_dim / 8][BLOCK_TOKENS][8]
//   values: [kv_head][block][BLOCK_TOKENS][head_dim]
// WOVEN, for CPU drivers: keys of KEY_TOKENS tokens stand side by side, KEY_DIMS dimensions of each; values as above.
//   keys:   [kv_head][block][BLOCK_TOKENS / KEY_TOKENS][head_dim / KEY_DIMS][KEY_TOKENS][KEY_DIMS]
//
// KV_Q8_0 is llama.cpp's format of that name (quantize_row_q8_0_ref of ggml-quants): a group of 32 dimensions of a token has
// a scale d = max |x| / 127, rounded to a half, and x becomes n = round(x / d), a signed byte. The scales stand behind the
// bytes of a kv head's part of a block, as halves:
//   keys:   [GROUPS][BLOCK_TOKENS]
//   values: [BLOCK_TOKENS][GROUPS]
//
// Elements and halves are indexed in 32 bits with sign: a layer's keys, and its values, stay below 2^31 of them.

const uint PART_ELEMENTS = BLOCK_TOKENS * HEAD_DIM; // of a kv head's part of a block
#if defined(KV_Q8_0)
const uint KEY_DIMS = 4;
const uint GROUPS = HEAD_DIM / 32;
const uint PART_STRIDE = PART_ELEMENTS + 2 * GROUPS * BLOCK_TOKENS;
#else
const uint KEY_DIMS = 1;
const uint PART_STRIDE = PART_ELEMENTS;
#endif
const uint KEY_TOKENS = 16;

// Where a kv head's part of a block begins, in elements.
uint part_first(uint block, uint kv_head) {
    return (kv_head * cache_blocks + block) * PART_STRIDE;
}

// Where an element of a key, or of a value, lies.
uint key_element(uint block, uint kv_head, uint dim, uint token) {
    const uint t = token % BLOCK_TOKENS;
#if defined(WOVEN)
    const uint row = t / KEY_TOKENS * HEAD_DIM + dim / KEY_DIMS * KEY_DIMS;
    return part_first(block, kv_head) + row * KEY_TOKENS + t % KEY_TOKENS * KEY_DIMS + dim % KEY_DIMS;
#else
    return part_first(block, kv_head) + (dim / 8 * BLOCK_TOKENS + t) * 8 + dim % 8;
#endif
}

uint value_element(uint block, uint kv_head, uint dim, uint token) {
    return part_first(block, kv_head) + token % BLOCK_TOKENS * HEAD_DIM + dim;
}

#if defined(KV_Q8_0)
// Where scales lie, in halves.
uint key_scale(uint block, uint kv_head, uint group, uint token) {
    return (part_first(block, kv_head) + PART_ELEMENTS) / 2 + group * BLOCK_TOKENS + token % BLOCK_TOKENS;
}

uint value_scale(uint block, uint kv_head, uint group, uint token) {
    return (part_first(block, kv_head) + PART_ELEMENTS) / 2 + token % BLOCK_TOKENS * GROUPS + group;
}

// k and v of a position and a kv head, to be quantized.
shared float fresh[2 * HEAD_DIM];

// Of a group of `fresh`. It is not rounded: quants are made with more than what they will be multiplied by.
float fresh_scale(uint group) {
    float largest = 0.0;
    for (uint dim = 32 * group; dim < 32 * group + 32; dim++) {
        largest = max(largest, abs(fresh[dim]));
    }
    precise const float scale = largest / 127.0;
    return scale;
}

// Four dimensions of `fresh`, halves rounded away from zero.
ivec4 fresh_quants(uint dim, float scale) {
    precise const float inverse = scale > 0.0 ? 1.0 / scale : 0.0;
    const vec4 x = vec4(fresh[dim], fresh[dim + 1], fresh[dim + 2], fresh[dim + 3]);
    precise const vec4 scaled = x * inverse;
    const vec4 size = abs(scaled);
    const vec4 whole = floor(size);
    const vec4 rounded = whole + vec4(greaterThanEqual(size - whole, vec4(0.5)));
    return ivec4(sign(scaled) * rounded);
}
#endif
