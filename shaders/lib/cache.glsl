// The cache of a layer: keys and values in blocks of BLOCK_TOKENS tokens. Shared by rope_store and attend. A unit is 8
// dimensions of a token.
//
// F16, in halves; a unit is 16 bytes:
//   keys:   [block][kv_head][head_dim / 8][BLOCK_TOKENS][8]
//   values: [block][kv_head][BLOCK_TOKENS][head_dim]
//
// KV_Q8_0, llama.cpp's format of that name (quantize_row_q8_0_ref of ggml-quants): a group of 32 dimensions of a token has
// a scale d = max |x| / 127, rounded to a half, and x becomes n = round(x / d), -127 to 127. Bytes hold n + 128, so a unit
// is 8 of them. A block of a kv head, 34 × head_dim bytes, holds them as above, and the scales behind:
//   keys:   [head_dim / 32][BLOCK_TOKENS]
//   values: [BLOCK_TOKENS][head_dim / 32]
//
// Units and halves are indexed in 32 bits with sign: a layer's keys, and its values, stay below 2^31 halves, 4 GiB.

#if defined(KV_Q8_0)
#define CacheOut Uvec2Out
const uint GROUPS = HEAD_DIM / 32;
const uint QUANT_UNITS = UNITS * BLOCK_TOKENS;                 // of a block of a kv head
const uint HEAD_UNITS = QUANT_UNITS + GROUPS * BLOCK_TOKENS / 4; // the same with its scales

// Where a token's units and scales begin: in units, and in halves.
#define Place uvec2

// What a unit holds.
struct Unit {
    uvec2 quants;
    float scale;
};

Place place_of(uint block, uint kv_head, uint unit, uint scale) {
    const uint head = (block * KV_HEADS + kv_head) * HEAD_UNITS;
    return Place(head + unit, (head + QUANT_UNITS) * 4 + scale);
}

Place key_place(uint block, uint kv_head, uint token) {
    return place_of(block, kv_head, token % BLOCK_TOKENS, token % BLOCK_TOKENS);
}

Place value_place(uint block, uint kv_head, uint token) {
    return place_of(block, kv_head, token % BLOCK_TOKENS * UNITS, token % BLOCK_TOKENS * GROUPS);
}

Unit load_key(CacheOut keys, Place place, uint unit) {
    const float scale = float(HalfOut(keys).v[place.y + unit / 4 * BLOCK_TOKENS]);
    return Unit(keys.v[place.x + unit * BLOCK_TOKENS], scale);
}

Unit load_value(CacheOut values, Place place, uint unit) {
    return Unit(values.v[place.x + unit], float(HalfOut(values).v[place.y + unit / 4]));
}

void store_key(CacheOut keys, Place place, uint unit, uvec2 quants, float16_t scale) {
    keys.v[place.x + unit * BLOCK_TOKENS] = quants;
    if (unit % 4 == 0) {
        HalfOut(keys).v[place.y + unit / 4 * BLOCK_TOKENS] = scale;
    }
}

void store_value(CacheOut values, Place place, uint unit, uvec2 quants, float16_t scale) {
    values.v[place.x + unit] = quants;
    if (unit % 4 == 0) {
        HalfOut(values).v[place.y + unit / 4] = scale;
    }
}

// Four quants as they count; exact, as is their product with a scale. See `quants` in lib/quant.glsl.
vec4 dequantized(uint quants, float scale) {
    const uvec4 bytes = (uvec4(quants) >> uvec4(0, 8, 16, 24)) & 0xffu;
    return (uintBitsToFloat(bytes | 0x4b000000u) - (8388608.0 + 128.0)) * scale;
}

vec4 low_half(Unit unit) {
    return dequantized(unit.quants.x, unit.scale);
}

vec4 high_half(Unit unit) {
    return dequantized(unit.quants.y, unit.scale);
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
uint four_quants(uint dim, float inverse) {
    const vec4 x = vec4(fresh[dim], fresh[dim + 1], fresh[dim + 2], fresh[dim + 3]);
    precise const vec4 scaled = x * inverse;
    const vec4 size = abs(scaled);
    const vec4 whole = floor(size);
    const vec4 rounded = whole + vec4(greaterThanEqual(size - whole, vec4(0.5)));
    const uvec4 bytes = uvec4(ivec4(sign(scaled) * rounded) + 128) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}

// The unit-th unit of `fresh`, whose group has this scale.
uvec2 unit_quants(uint unit, float scale) {
    precise const float inverse = scale > 0.0 ? 1.0 / scale : 0.0;
    return uvec2(four_quants(8 * unit, inverse), four_quants(8 * unit + 4, inverse));
}
#else
#define CacheOut Uvec4Out
#define Place uint
#define Unit uvec4

// Where a unit of keys lies, in units.
uint key_unit(uint block, uint kv_head, uint unit, uint token) {
    return ((block * KV_HEADS + kv_head) * UNITS + unit) * BLOCK_TOKENS + token % BLOCK_TOKENS;
}

// Where a unit of values lies, in units.
uint value_unit(uint block, uint kv_head, uint unit, uint token) {
    return ((block * KV_HEADS + kv_head) * BLOCK_TOKENS + token % BLOCK_TOKENS) * UNITS + unit;
}

// Macros, so that this format's SPIR-V does not depend on there being another.
#define key_place(block, kv_head, token) key_unit(block, kv_head, 0, token)
#define value_place(block, kv_head, token) value_unit(block, kv_head, 0, token)
#define load_key(keys, place, unit) keys.v[place + unit * BLOCK_TOKENS]
#define load_value(values, place, unit) values.v[place + unit]
#endif
