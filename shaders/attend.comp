// y[row][head] = Σ_t softmax_t(q·k[t] / sqrt(head_dim)) × v[t] over the positions 0..=position of the row's sequence.
//
// FUSED: x is qkv; this dispatch normalizes and rotates, and writes k and v of the row's own position to the cache. No
// other row of the dispatch may belong to the same sequence. Otherwise x is q as rope_store leaves it, and the cache
// holds the own position too. Both give the same bits: positions before the own come from the cache in chunks, in order,
// the own one is in shared memory either way and comes first. So a row's bits depend neither on the other rows, nor on
// which blocks its cache lies in.
//
// x: [rows][x_stride], y: [rows][y_stride] (a row that is not live: zeros), scale: 1 / sqrt(head_dim); the rest as in
// rope_store. One workgroup per row (x) and PART heads that share a kv head (y). Lanes stand for tokens while scores are
// made and for units of 8 dimensions, of several tokens at once if there are lanes left, while values are summed.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/rope.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 7) const uint PART = 2;             // heads of a workgroup
layout(constant_id = 8) const uint CHUNK = 64;           // tokens between two rescalings; a multiple of the workgroup
layout(constant_id = 9) const bool FUSED = true;
layout(constant_id = 10) const bool ONE_SUBGROUP = false; // the driver runs the workgroup as one subgroup
layout(push_constant, scalar) uniform Push {
    Vec4In x;
    FloatIn q_gain;
    FloatIn k_gain;
    Vec2In rope;
    RowIn rows;
    UintIn blocks;
    Uvec4Out keys;
    Uvec4Out values;
    Vec4Out y;
    uint x_stride;
    uint y_stride;
    uint max_blocks;
    float scale;
    float eps;
};

const uint GROUP = HEADS / KV_HEADS;
const uint PARTS = (GROUP + PART - 1) / PART;
const uint LANES = gl_WorkGroupSize.x;
const uint TOKEN_LANES = LANES > UNITS ? LANES / UNITS : 1; // tokens whose values are summed side by side
const uint SPAN = LANES < BLOCK_TOKENS ? BLOCK_TOKENS / LANES : 1; // tokens that a lane scores at once
const uint SWEEPS = (UNITS + LANES - 1) / LANES;            // units of a lane

shared vec4 query[PART * HEAD_DIM / 4]; // scaled
shared float16_t own_key[HEAD_DIM];     // k and v of the own position, as in the cache. They pass through memory as
shared float16_t own_value[HEAD_DIM];   // halves, since compilers may drop a rounding whose result stays in registers.
shared float weight[2 * PART * CHUNK];  // scores, then exponentials, of two chunks by turns
shared float highest[PART * LANES];     // of each subgroup
shared vec4 partial[2 * LANES * 2];     // sums of two heads by turns
shared float partial_total[2 * LANES];

// Where this workgroup works.
uint row_index;
uint kv_head;
uint first_head; // within the group
uint heads_here;
uint y_first; // in vec4
uint lane;
// The lane's share of the sums: units first_unit + s × LANES of every TOKEN_LANES-th token.
uint token_lane;
uint first_unit;
float top[PART];           // highest score so far, equal in all lanes
float total[PART];         // Σ exp(score - top)
vec4 low[PART * SWEEPS];   // Σ exp(score - top) × v
vec4 high[PART * SWEEPS];

void meet() {
    if (ONE_SUBGROUP) {
        subgroupMemoryBarrierShared();
        subgroupBarrier();
    } else {
        barrier();
    }
}

// The last part of a group may be short: it computes its last head more than once, and stores it once.
uint head_of(uint h) {
    return kv_head * GROUP + min(first_head + h, GROUP - 1);
}

vec4 low_half(uvec4 unit) {
    return vec4(unpackHalf2x16(unit.x), unpackHalf2x16(unit.y));
}

vec4 high_half(uvec4 unit) {
    return vec4(unpackHalf2x16(unit.z), unpackHalf2x16(unit.w));
}

float add_product(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

uint block_of(Row row, uint token) {
    return blocks.v[row.sequence * max_blocks + token / BLOCK_TOKENS];
}

// FUSED: q, k and v of the own position from qkv into shared memory.
void rotate_into_shared(uint position) {
    const uint first = row_index * x_stride;
    for (uint h = 0; h < PART; h++) {
        const uint q_first = first + head_of(h) * HEAD_DIM;
        const float inverse = QK_NORM ? head_inverse_rms(x, q_first / 4, eps) : 1.0;
        for (uint pair = lane; pair < PAIRS; pair += LANES) {
            const vec2 turned = rotated_pair(FloatIn(x), q_first, q_gain, inverse, rope, position, pair) * scale;
            const uvec2 dims = pair_dims(pair);
            query[(h * HEAD_DIM + dims.x) / 4][dims.x % 4] = turned.x;
            query[(h * HEAD_DIM + dims.y) / 4][dims.y % 4] = turned.y;
        }
    }
    const uint k_first = first + (HEADS + kv_head) * HEAD_DIM;
    const float inverse = QK_NORM ? head_inverse_rms(x, k_first / 4, eps) : 1.0;
    for (uint pair = lane; pair < PAIRS; pair += LANES) {
        const vec2 turned = rotated_pair(FloatIn(x), k_first, k_gain, inverse, rope, position, pair);
        const uvec2 dims = pair_dims(pair);
        own_key[dims.x] = float16_t(turned.x);
        own_key[dims.y] = float16_t(turned.y);
    }
    const uint v_first = k_first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += LANES) {
        own_value[dim] = float16_t(FloatIn(x).v[v_first + dim]);
    }
}

// FUSED: k and v of the own position from shared memory to the cache.
void store_own(Row row) {
    const uint block = block_of(row, row.position);
    for (uint unit = lane; unit < UNITS; unit += LANES) {
        uvec4 key;
        uvec4 value;
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint dim = 8 * unit + 2 * i;
            key[i] = packFloat2x16(f16vec2(own_key[dim], own_key[dim + 1]));
            value[i] = packFloat2x16(f16vec2(own_value[dim], own_value[dim + 1]));
        }
        keys.v[key_unit(block, kv_head, unit, row.position)] = key;
        values.v[value_unit(block, kv_head, unit, row.position)] = value;
    }
}

// Not FUSED: the same from q and the cache.
void load_into_shared(Row row) {
    for (uint h = 0; h < PART; h++) {
        const uint first = (row_index * x_stride + head_of(h) * HEAD_DIM) / 4;
        for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
            query[h * (HEAD_DIM / 4) + i] = x.v[first + i] * scale;
        }
    }
    const uint block = block_of(row, row.position);
    for (uint unit = lane; unit < UNITS; unit += LANES) {
        const uvec4 key = keys.v[key_unit(block, kv_head, unit, row.position)];
        const uvec4 value = values.v[value_unit(block, kv_head, unit, row.position)];
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const f16vec2 two_of_key = unpackFloat2x16(key[i]);
            const f16vec2 two_of_value = unpackFloat2x16(value[i]);
            own_key[8 * unit + 2 * i] = two_of_key.x;
            own_key[8 * unit + 2 * i + 1] = two_of_key.y;
            own_value[8 * unit + 2 * i] = two_of_value.x;
            own_value[8 * unit + 2 * i + 1] = two_of_value.y;
        }
    }
}

float own_score(uint h) {
    float score = 0.0;
    for (uint i = 0; i < HEAD_DIM / 4; i++) {
        const vec4 key = vec4(own_key[4 * i], own_key[4 * i + 1], own_key[4 * i + 2], own_key[4 * i + 3]);
        score = add_product(query[h * (HEAD_DIM / 4) + i], key, score);
    }
    return score;
}

vec4 own_value4(uint first) {
    return vec4(own_value[first], own_value[first + 1], own_value[first + 2], own_value[first + 3]);
}

// The sums over the own position, whose score is the first `top`; they lie with token lane 0.
void start_sums() {
    token_lane = TOKEN_LANES == 1 ? 0 : lane / UNITS;
    first_unit = TOKEN_LANES == 1 ? lane : lane % UNITS;
    const float own = token_lane == 0 ? 1.0 : 0.0;
    [[unroll]] for (uint h = 0; h < PART; h++) {
        top[h] = own_score(h);
        total[h] = own;
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            const uint unit = min(first_unit + s * LANES, UNITS - 1);
            low[h * SWEEPS + s] = own_value4(8 * unit) * own;
            high[h * SWEEPS + s] = own_value4(8 * unit + 4) * own;
        }
    }
}

// Scores of `count` tokens from `start` into `weight` from `base`; `top` becomes the highest of them and itself.
void score_chunk(Row row, uint start, uint count, uint base) {
    for (uint tile = 0; tile < count; tile += LANES * SPAN) {
        uint first[SPAN];
        float score[SPAN * PART];
        [[unroll]] for (uint i = 0; i < SPAN; i++) {
            // Behind the last token it is repeated: loads stay inside, the maximum is the same, the result is not read.
            const uint token = start + min(tile + i * LANES + lane, count - 1);
            first[i] = key_unit(block_of(row, token), kv_head, 0, token);
            [[unroll]] for (uint h = 0; h < PART; h++) {
                score[i * PART + h] = 0.0;
            }
        }
        for (uint unit = 0; unit < UNITS; unit++) {
            uvec4 key[SPAN];
            [[unroll]] for (uint i = 0; i < SPAN; i++) {
                key[i] = keys.v[first[i] + unit * BLOCK_TOKENS];
            }
            [[unroll]] for (uint h = 0; h < PART; h++) {
                const vec4 query_low = query[h * (HEAD_DIM / 4) + 2 * unit];
                const vec4 query_high = query[h * (HEAD_DIM / 4) + 2 * unit + 1];
                [[unroll]] for (uint i = 0; i < SPAN; i++) {
                    const float sum = add_product(query_low, low_half(key[i]), score[i * PART + h]);
                    score[i * PART + h] = add_product(query_high, high_half(key[i]), sum);
                }
            }
        }
        [[unroll]] for (uint i = 0; i < SPAN; i++) {
            [[unroll]] for (uint h = 0; h < PART; h++) {
                weight[base + h * CHUNK + tile + i * LANES + lane] = score[i * PART + h];
                top[h] = max(top[h], score[i * PART + h]);
            }
        }
    }
    [[unroll]] for (uint h = 0; h < PART; h++) {
        top[h] = subgroupMax(top[h]);
    }
    if (ONE_SUBGROUP) {
        return;
    }
    if (subgroupElect()) {
        [[unroll]] for (uint h = 0; h < PART; h++) {
            highest[h * LANES + gl_SubgroupID] = top[h];
        }
    }
    barrier();
    for (uint i = 0; i < gl_NumSubgroups; i++) {
        [[unroll]] for (uint h = 0; h < PART; h++) {
            top[h] = max(top[h], highest[h * LANES + i]);
        }
    }
}

// Turns the lane's own scores into exponentials, and shrinks what was summed under the lower maxima `before`.
void exponentiate(uint count, uint base, float before[PART]) {
    for (uint t = lane; t < count; t += LANES) {
        [[unroll]] for (uint h = 0; h < PART; h++) {
            weight[base + h * CHUNK + t] = exp(weight[base + h * CHUNK + t] - top[h]);
        }
    }
    [[unroll]] for (uint h = 0; h < PART; h++) {
        const float shrink = exp(before[h] - top[h]);
        total[h] *= shrink;
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            low[h * SWEEPS + s] *= shrink;
            high[h * SWEEPS + s] *= shrink;
        }
    }
}

void add_values(Row row, uint start, uint count, uint base) {
    for (uint t = token_lane < TOKEN_LANES ? token_lane : count; t < count; t += TOKEN_LANES) {
        const uint first = value_unit(block_of(row, start + t), kv_head, 0, start + t);
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            const uvec4 value = values.v[first + min(first_unit + s * LANES, UNITS - 1)];
            [[unroll]] for (uint h = 0; h < PART; h++) {
                const vec4 p = vec4(weight[base + h * CHUNK + t]);
                low[h * SWEEPS + s] = fma(p, low_half(value), low[h * SWEEPS + s]);
                high[h * SWEEPS + s] = fma(p, high_half(value), high[h * SWEEPS + s]);
            }
        }
        [[unroll]] for (uint h = 0; h < PART; h++) {
            total[h] += weight[base + h * CHUNK + t];
        }
    }
}

void store_sums() {
    [[unroll]] for (uint h = 0; h < PART; h++) {
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            const uint unit = first_unit + s * LANES;
            if (h < heads_here && unit < UNITS) {
                y.v[y_first + h * (HEAD_DIM / 4) + 2 * unit] = low[h * SWEEPS + s] / total[h];
                y.v[y_first + h * (HEAD_DIM / 4) + 2 * unit + 1] = high[h * SWEEPS + s] / total[h];
            }
        }
    }
}

// The same where several token lanes hold shares.
void store_sums_of_shares() {
    [[unroll]] for (uint h = 0; h < PART; h++) {
        const uint side = h % 2 * LANES;
        partial[2 * (side + lane)] = low[h];
        partial[2 * (side + lane) + 1] = high[h];
        partial_total[side + lane] = total[h];
        meet();
        for (uint i = lane; i < HEAD_DIM / 4 && h < heads_here; i += LANES) {
            vec4 sum = partial[2 * side + i];
            float whole = partial_total[side];
            for (uint other = 1; other < TOKEN_LANES; other++) {
                sum += partial[2 * (side + other * UNITS) + i];
                whole += partial_total[side + other * UNITS];
            }
            y.v[y_first + h * (HEAD_DIM / 4) + i] = sum / whole;
        }
    }
}

void main() {
    row_index = gl_WorkGroupID.x;
    kv_head = gl_WorkGroupID.y / PARTS;
    first_head = gl_WorkGroupID.y % PARTS * PART;
    heads_here = min(PART, GROUP - first_head);
    y_first = (row_index * y_stride + (kv_head * GROUP + first_head) * HEAD_DIM) / 4;
    lane = ONE_SUBGROUP ? gl_SubgroupInvocationID : gl_LocalInvocationIndex;
    const Row row = rows.v[row_index];
    if (row.live == 0) {
        for (uint i = lane; i < heads_here * HEAD_DIM / 4; i += LANES) {
            y.v[y_first + i] = vec4(0.0);
        }
        return;
    }
    if (FUSED) {
        rotate_into_shared(row.position);
    } else {
        load_into_shared(row);
    }
    meet();
    if (FUSED && first_head == 0) {
        store_own(row);
    }
    start_sums();
    uint base = 0;
    for (uint start = 0; start < row.position; start += CHUNK) {
        const uint count = min(CHUNK, row.position - start);
        float before[PART];
        [[unroll]] for (uint h = 0; h < PART; h++) {
            before[h] = top[h];
        }
        score_chunk(row, start, count, base);
        exponentiate(count, base, before);
        meet();
        add_values(row, start, count, base);
        base = PART * CHUNK - base;
    }
    if (TOKEN_LANES == 1) {
        store_sums();
    } else {
        store_sums_of_shares();
    }
}
