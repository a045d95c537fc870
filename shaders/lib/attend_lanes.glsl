// attend for GPUs: several subgroups that meet at barriers. Lanes stand for tokens while scores are made and for units of 8
// dimensions, of several tokens at once if there are lanes left, while values are summed.
//
// Positions before the own come from the cache in chunks, in order; the own one is in shared memory either way and comes
// first: it belongs to the first split.

// A unit is 8 dimensions of a token.
const uint UNITS = HEAD_DIM / 8;

// Where a token's first unit lies, and its first scale, if it has any.
#define Place uvec2

#if defined(KV_Q8_0)
struct Unit {
    uvec2 quants;
    float scale;
};

Place key_place(uint block, uint token) {
    return Place(key_element(block, kv_head, 0, token) / 8, key_scale(block, kv_head, 0, token));
}

Place value_place(uint block, uint token) {
    return Place(value_element(block, kv_head, 0, token) / 8, value_scale(block, kv_head, 0, token));
}

Unit load_key(Place place, uint unit) {
    const float scale = float(HalfOut(keys).v[place.y + unit / 4 * BLOCK_TOKENS]);
    return Unit(Uvec2Out(keys).v[place.x + unit * BLOCK_TOKENS], scale);
}

Unit load_value(Place place, uint unit) {
    return Unit(Uvec2Out(values).v[place.x + unit], float(HalfOut(values).v[place.y + unit / 4]));
}

// Four quants as they count; exact, as is their product with a scale. See `quants` in lib/quant.glsl.
vec4 counts(uint quants) {
    const uvec4 bytes = (uvec4(quants ^ 0x80808080u) >> uvec4(0, 8, 16, 24)) & 0xffu;
    return uintBitsToFloat(bytes | 0x4b000000u) - (8388608.0 + 128.0);
}

vec4 low_half(Unit unit) {
    return counts(unit.quants.x) * unit.scale;
}

vec4 high_half(Unit unit) {
    return counts(unit.quants.y) * unit.scale;
}
#else
#define Unit uvec4

Place key_place(uint block, uint token) {
    return Place(key_element(block, kv_head, 0, token) / 8, 0);
}

Place value_place(uint block, uint token) {
    return Place(value_element(block, kv_head, 0, token) / 8, 0);
}

Unit load_key(Place place, uint unit) {
    return keys.v[place.x + unit * BLOCK_TOKENS];
}

Unit load_value(Place place, uint unit) {
    return values.v[place.x + unit];
}

vec4 low_half(Unit unit) {
    return vec4(unpackHalf2x16(unit.x), unpackHalf2x16(unit.y));
}

vec4 high_half(Unit unit) {
    return vec4(unpackHalf2x16(unit.z), unpackHalf2x16(unit.w));
}
#endif

const uint TOKEN_LANES = LANES > UNITS ? LANES / UNITS : 1; // tokens whose values are summed side by side
const uint SPAN = LANES < BLOCK_TOKENS ? BLOCK_TOKENS / LANES : 1; // tokens that a lane scores at once
const uint SWEEPS = (UNITS + LANES - 1) / LANES; // units of a lane

shared vec4 query[QUERIES * HEAD_DIM / 4]; // scaled
// k and v of the rows' own positions, as in the cache. They pass through memory as halves, or their scales do: compilers
// may drop a rounding whose result stays in registers.
#if defined(KV_Q8_0)
shared uvec2 own_quants[2 * RUN_ROWS * UNITS]; // k of each row, then v
shared float16_t own_scales[2 * RUN_ROWS * GROUPS];
#else
shared float16_t own_key[RUN_ROWS * HEAD_DIM];
shared float16_t own_value[RUN_ROWS * HEAD_DIM];
#endif
shared float weight[2 * QUERIES * CHUNK]; // scores, then exponentials, of two chunks by turns
shared float highest[QUERIES * LANES];    // of each subgroup
shared vec4 partial[2 * TOKEN_LANES * UNITS * 2]; // sums of two queries by turns
shared float partial_total[2 * TOKEN_LANES];

// The lane's part of a split's sums: units first_unit + s × LANES of every TOKEN_LANES-th token.
uint token_lane;
uint first_unit;
float top[QUERIES];          // highest score so far, equal in all lanes
float total[QUERIES];        // Σ exp(score - top)
vec4 low[QUERIES * SWEEPS];  // Σ exp(score - top) × v
vec4 high[QUERIES * SWEEPS];

// Below any score. Not infinite, since compilers may assume that nothing is.
const float LOWEST = -3.0e38;

uint own_lane() {
    return gl_LocalInvocationIndex;
}

void meet() {
    barrier();
}

float add_product(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

#if defined(KV_Q8_0)
#define Fresh float
#define FRESH_KEY(dim) fresh[dim]
#define FRESH_VALUE(dim) fresh[HEAD_DIM + dim]
#else
#define Fresh float16_t
#define FRESH_KEY(dim) own_key[dim]
#define FRESH_VALUE(dim) own_value[dim]
#endif

// FUSED: q, k and v of the own position from qkv into shared memory.
void rotate_into_shared() {
    const uint first = first_row * x_stride;
    for (uint h = 0; h < PART; h++) {
        const uint q_first = first + head_of(h) * HEAD_DIM;
        const float inverse = QK_NORM ? head_inverse_rms(x, q_first / 4, eps) : 1.0;
        for (uint pair = lane; pair < PAIRS; pair += LANES) {
            const vec2 turned = rotated_pair(FloatIn(x), q_first, q_gain, inverse, rope, position[0], pair) * score_scale;
            const uvec2 dims = pair_dims(pair);
            query[(h * HEAD_DIM + dims.x) / 4][dims.x % 4] = turned.x;
            query[(h * HEAD_DIM + dims.y) / 4][dims.y % 4] = turned.y;
        }
    }
    const uint k_first = first + (HEADS + kv_head) * HEAD_DIM;
    const float inverse = QK_NORM ? head_inverse_rms(x, k_first / 4, eps) : 1.0;
    for (uint pair = lane; pair < PAIRS; pair += LANES) {
        const vec2 turned = rotated_pair(FloatIn(x), k_first, k_gain, inverse, rope, position[0], pair);
        const uvec2 dims = pair_dims(pair);
        FRESH_KEY(dims.x) = Fresh(turned.x);
        FRESH_KEY(dims.y) = Fresh(turned.y);
    }
    const uint v_first = k_first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += LANES) {
        FRESH_VALUE(dim) = Fresh(FloatIn(x).v[v_first + dim]);
    }
}

#if defined(KV_Q8_0)
uint four_bytes(ivec4 quants) {
    const uvec4 bytes = uvec4(quants) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}

// FUSED: k and v of the own position as the cache has them.
void quantize_own() {
    for (uint unit = lane; unit < 2 * UNITS; unit += LANES) {
        const float scale = fresh_scale(unit / 4);
        own_quants[unit] = uvec2(four_bytes(fresh_quants(8 * unit, scale)), four_bytes(fresh_quants(8 * unit + 4, scale)));
        if (unit % 4 == 0) {
            own_scales[unit / 4] = float16_t(scale);
        }
    }
}

// FUSED: from shared memory to the cache.
void store_own() {
    const uint block = block_of(position[0]);
    const Place key = key_place(block, position[0]);
    const Place value = value_place(block, position[0]);
    for (uint unit = lane; unit < UNITS; unit += LANES) {
        Uvec2Out(keys).v[key.x + unit * BLOCK_TOKENS] = own_quants[unit];
        Uvec2Out(values).v[value.x + unit] = own_quants[UNITS + unit];
        if (unit % 4 == 0) {
            HalfOut(keys).v[key.y + unit / 4 * BLOCK_TOKENS] = own_scales[unit / 4];
            HalfOut(values).v[value.y + unit / 4] = own_scales[GROUPS + unit / 4];
        }
    }
}

// Four dimensions; `dim` counts through all keys and then all values.
vec4 own4(uint dim) {
    return counts(own_quants[dim / 8][dim / 4 % 2]) * float(own_scales[dim / 32]);
}
#else
// FUSED: k and v of the own position from shared memory to the cache.
void store_own() {
    const uint block = block_of(position[0]);
    const Place key_at = key_place(block, position[0]);
    const Place value_at = value_place(block, position[0]);
    for (uint unit = lane; unit < UNITS; unit += LANES) {
        uvec4 key;
        uvec4 value;
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint dim = 8 * unit + 2 * i;
            key[i] = packFloat2x16(f16vec2(own_key[dim], own_key[dim + 1]));
            value[i] = packFloat2x16(f16vec2(own_value[dim], own_value[dim + 1]));
        }
        keys.v[key_at.x + unit * BLOCK_TOKENS] = key;
        values.v[value_at.x + unit] = value;
    }
}
#endif

// Not FUSED: the same from q and the cache.
void load_into_shared(uint r) {
    for (uint h = 0; h < PART; h++) {
        const uint first = (row_of(r) * x_stride + head_of(h) * HEAD_DIM) / 4;
        for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
            query[(r * PART + h) * (HEAD_DIM / 4) + i] = x.v[first + i] * score_scale;
        }
    }
    const uint block = block_of(position[r]);
    const Place key_at = key_place(block, position[r]);
    const Place value_at = value_place(block, position[r]);
    for (uint unit = lane; unit < UNITS; unit += LANES) {
        const Unit key = load_key(key_at, unit);
        const Unit value = load_value(value_at, unit);
#if defined(KV_Q8_0)
        own_quants[r * UNITS + unit] = key.quants;
        own_quants[(RUN_ROWS + r) * UNITS + unit] = value.quants;
        if (unit % 4 == 0) {
            own_scales[r * GROUPS + unit / 4] = float16_t(key.scale);
            own_scales[(RUN_ROWS + r) * GROUPS + unit / 4] = float16_t(value.scale);
        }
#else
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint dim = r * HEAD_DIM + 8 * unit + 2 * i;
            const f16vec2 two_of_key = unpackFloat2x16(key[i]);
            const f16vec2 two_of_value = unpackFloat2x16(value[i]);
            own_key[dim] = two_of_key.x;
            own_key[dim + 1] = two_of_key.y;
            own_value[dim] = two_of_value.x;
            own_value[dim + 1] = two_of_value.y;
        }
#endif
    }
}

float own_score(uint r, uint h) {
    float score = 0.0;
    for (uint i = 0; i < HEAD_DIM / 4; i++) {
        const uint dim = r * HEAD_DIM + 4 * i;
#if defined(KV_Q8_0)
        const vec4 key = own4(dim);
#else
        const vec4 key = vec4(own_key[dim], own_key[dim + 1], own_key[dim + 2], own_key[dim + 3]);
#endif
        score = add_product(query[(r * PART + h) * (HEAD_DIM / 4) + i], key, score);
    }
    return score;
}

vec4 own_value4(uint first) {
#if defined(KV_Q8_0)
    return own4(RUN_ROWS * HEAD_DIM + first);
#else
    return vec4(own_value[first], own_value[first + 1], own_value[first + 2], own_value[first + 3]);
#endif
}

// The sums before the tokens of a split from `first` on: of nothing, or, where it is the first, of the own positions. These
// lie with token lane 0.
void start_sums(uint first) {
    token_lane = TOKEN_LANES == 1 ? 0 : lane / UNITS;
    first_unit = TOKEN_LANES == 1 ? lane : lane % UNITS;
    const float own = first == 0 && token_lane == 0 ? 1.0 : 0.0;
    [[unroll]] for (uint r = 0; r < RUN_ROWS; r++) {
        [[unroll]] for (uint h = 0; h < PART; h++) {
            const uint q = r * PART + h;
            top[q] = LOWEST;
            if (first == 0) {
                top[q] = own_score(r, h);
            }
            total[q] = own;
            [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
                const uint dim = r * HEAD_DIM + 8 * min(first_unit + s * LANES, UNITS - 1);
                low[q * SWEEPS + s] = own_value4(dim) * own;
                high[q * SWEEPS + s] = own_value4(dim + 4) * own;
            }
        }
    }
}

// Scores of `tokens` tokens from `start` into `weight` from `base`; `top` becomes the highest of them and itself.
void score_chunk(uint start, uint tokens, uint base) {
    for (uint tile = 0; tile < tokens; tile += LANES * SPAN) {
        uint token[SPAN];
        Place first[SPAN];
        float score[SPAN * QUERIES];
        [[unroll]] for (uint i = 0; i < SPAN; i++) {
            // Behind the last token it is repeated: loads stay inside, the maximum is the same, the result is not read.
            token[i] = start + min(tile + i * LANES + lane, tokens - 1);
            first[i] = key_place(block_of(token[i]), token[i]);
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                score[i * QUERIES + q] = 0.0;
            }
        }
        for (uint unit = 0; unit < UNITS; unit++) {
            Unit key[SPAN];
            [[unroll]] for (uint i = 0; i < SPAN; i++) {
                key[i] = load_key(first[i], unit);
            }
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                const vec4 query_low = query[q * (HEAD_DIM / 4) + 2 * unit];
                const vec4 query_high = query[q * (HEAD_DIM / 4) + 2 * unit + 1];
                [[unroll]] for (uint i = 0; i < SPAN; i++) {
                    const float sum = add_product(query_low, low_half(key[i]), score[i * QUERIES + q]);
                    score[i * QUERIES + q] = add_product(query_high, high_half(key[i]), sum);
                }
            }
        }
        [[unroll]] for (uint i = 0; i < SPAN; i++) {
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                weight[base + q * CHUNK + tile + i * LANES + lane] = score[i * QUERIES + q];
                top[q] = token[i] < position[q / PART] ? max(top[q], score[i * QUERIES + q]) : top[q];
            }
        }
    }
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        top[q] = subgroupMax(top[q]);
    }
    if (subgroupElect()) {
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            highest[q * LANES + gl_SubgroupID] = top[q];
        }
    }
    meet();
    for (uint i = 0; i < gl_NumSubgroups; i++) {
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            top[q] = max(top[q], highest[q * LANES + i]);
        }
    }
}

// Turns the lane's own scores into exponentials, and shrinks what was summed under the lower maxima `before`. A row's sums
// keep their bits in chunks and at tokens that lie behind it: they are multiplied by one, and get products with zero.
void exponentiate(uint start, uint tokens, uint base, float before[QUERIES]) {
    for (uint t = lane; t < tokens; t += LANES) {
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            const float p = exp(weight[base + q * CHUNK + t] - top[q]);
            weight[base + q * CHUNK + t] = start + t < position[q / PART] ? p : 0.0;
        }
    }
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        const float shrink = before[q] < top[q] ? exp(before[q] - top[q]) : 1.0;
        precise const float shrunk = total[q] * shrink; // Never one operation with the sum that follows.
        total[q] = shrunk;
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            low[q * SWEEPS + s] *= shrink;
            high[q * SWEEPS + s] *= shrink;
        }
    }
}

void add_values(uint start, uint tokens, uint base) {
    for (uint t = token_lane < TOKEN_LANES ? token_lane : tokens; t < tokens; t += TOKEN_LANES) {
        const Place first = value_place(block_of(start + t), start + t);
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            const Unit value = load_value(first, min(first_unit + s * LANES, UNITS - 1));
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                const vec4 p = vec4(weight[base + q * CHUNK + t]);
                low[q * SWEEPS + s] = fma(p, low_half(value), low[q * SWEEPS + s]);
                high[q * SWEEPS + s] = fma(p, high_half(value), high[q * SWEEPS + s]);
            }
        }
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            total[q] += weight[base + q * CHUNK + t];
        }
    }
}

// The share of the split from `first` on: of its tokens before `end`, and of the own positions.
void sum_split(uint first, uint end) {
    start_sums(first);
    uint base = 0;
    for (uint start = first; start < end; start += CHUNK) {
        const uint tokens = min(CHUNK, end - start);
        float before[QUERIES];
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            before[q] = top[q];
        }
        score_chunk(start, tokens, base);
        exponentiate(start, tokens, base, before);
        meet();
        add_values(start, tokens, base);
        base = QUERIES * CHUNK - base;
    }
}

#include "attend_shares.glsl"

void attend_run() {
    if (FUSED) {
        rotate_into_shared();
#if defined(KV_Q8_0)
        meet();
        quantize_own();
#endif
    } else {
        for (uint r = 0; r < RUN_ROWS; r++) {
            load_into_shared(r);
        }
    }
    meet();
    if (FUSED && first_head == 0 && gl_WorkGroupID.z == 0) {
        store_own();
    }
    uint end = 0;
    [[unroll]] for (uint r = 0; r < RUN_ROWS; r++) {
        end = max(end, position[r]);
    }
#if defined(SPLIT)
    const uint first = end == 0 ? 0 : gl_WorkGroupID.z * split_tokens; // See main: without work it looks at position 0.
    sum_split(first, min(end, first + split_tokens));
    store_share();
#else
    uint first = 0;
    do {
        sum_split(first, min(end, first + split_tokens));
        fold_split(first);
        first += split_tokens;
    } while (first < end);
    store_whole();
#endif
}
