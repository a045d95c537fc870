// The cache of a layer: keys and values in blocks of BLOCK_TOKENS tokens. Shared by rope_store and attend.
//
// A word holds neighbouring dimensions of one token, WORD_DIMS of them. Words of keys stand with those of the other tokens,
// words of values with those of the token, so that lanes that stand for tokens, or for dimensions, load what lies side by
// side. A block of a kv head has HEAD_WORDS words:
//   keys:   [block][kv_head][BLOCK_TOKENS / KEY_TOKENS][WORDS][KEY_TOKENS]
//   values: [block][kv_head][BLOCK_TOKENS][WORDS]
//
// F16: two halves a word.
//
// KV_Q8_0, llama.cpp's format of that name (quantize_row_q8_0_ref of ggml-quants): a group of 32 dimensions of a token has
// a scale d = max |x| / 127, rounded to a half, and x becomes n = round(x / d), -127 to 127. Bytes hold n + 128, four a
// word. The scales stand behind the words of a block of a kv head, as halves:
//   keys:   [GROUPS][BLOCK_TOKENS]
//   values: [BLOCK_TOKENS][GROUPS]
//
// Words and halves are indexed in 32 bits with sign: a layer's keys, and its values, stay below 2^31 halves, 4 GiB.

#define CacheOut Uvec4Out

#if defined(KV_Q8_0)
const uint WORD_DIMS = 4;
const uint GROUPS = HEAD_DIM / 32;
#else
const uint WORD_DIMS = 2;
const uint GROUPS = 0;
#endif
const uint WORDS = HEAD_DIM / WORD_DIMS; // of a token
const uint KEY_TOKENS = 16; // as many as fill a cache line
const uint QUANT_WORDS = BLOCK_TOKENS * WORDS;
const uint HEAD_WORDS = QUANT_WORDS + BLOCK_TOKENS / 2 * GROUPS;

// Where a block of a kv head begins, in words.
uint head_first(uint block, uint kv_head) {
    return (block * KV_HEADS + kv_head) * HEAD_WORDS;
}

uint key_word(uint block, uint kv_head, uint word, uint token) {
    const uint part = token % BLOCK_TOKENS / KEY_TOKENS;
    return head_first(block, kv_head) + (part * WORDS + word) * KEY_TOKENS + token % KEY_TOKENS;
}

uint value_word(uint block, uint kv_head, uint word, uint token) {
    return head_first(block, kv_head) + token % BLOCK_TOKENS * WORDS + word;
}

#if defined(KV_Q8_0)
// Where scales lie, in halves.
uint key_scale(uint block, uint kv_head, uint group, uint token) {
    return 2 * (head_first(block, kv_head) + QUANT_WORDS) + group * BLOCK_TOKENS + token % BLOCK_TOKENS;
}

uint value_scale(uint block, uint kv_head, uint group, uint token) {
    return 2 * (head_first(block, kv_head) + QUANT_WORDS) + token % BLOCK_TOKENS * GROUPS + group;
}

// Four quants as they count; exact, as is their product with a scale. See `quants` in lib/quant.glsl.
vec4 counts(uint quants) {
    const uvec4 bytes = (uvec4(quants) >> uvec4(0, 8, 16, 24)) & 0xffu;
    return uintBitsToFloat(bytes | 0x4b000000u) - (8388608.0 + 128.0);
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

// Four dimensions of `fresh`, halves rounded away from zero, as a word.
uint fresh_quants(uint dim, float scale) {
    precise const float inverse = scale > 0.0 ? 1.0 / scale : 0.0;
    const vec4 x = vec4(fresh[dim], fresh[dim + 1], fresh[dim + 2], fresh[dim + 3]);
    precise const vec4 scaled = x * inverse;
    const vec4 size = abs(scaled);
    const vec4 whole = floor(size);
    const vec4 rounded = whole + vec4(greaterThanEqual(size - whole, vec4(0.5)));
    const uvec4 bytes = uvec4(ivec4(sign(scaled) * rounded) + 128) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}
#endif
