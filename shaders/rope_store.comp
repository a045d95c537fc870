// Before attend, in a plan that evaluates several tokens of a sequence: per row, q normalized and rotated to q, k
// normalized and rotated and v rounded into the cache, or quantized (KV_Q8_0). See lib/rope.glsl and lib/cache.glsl for the
// layouts.
//
// qkv: [rows][stride], q: [rows][heads × head_dim], rope: (cos, sin) [position][rotary / 2], gains: [head_dim],
// blocks: [sequence][max_blocks]. A row that is not live writes nothing.
// One workgroup per row (x) and head (y): the heads of q, then those of k and v; of any size.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/rope.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    Vec4In qkv;
    FloatIn q_gain;
    FloatIn k_gain;
    Vec2In rope;
    RowIn rows;
    UintIn blocks;
    FloatOut q;
#if defined(KV_Q8_0)
    CacheOut keys;
    CacheOut values;
#else
    HalfOut keys;
    HalfOut values;
#endif
    uint stride;
    uint max_blocks;
    float eps;
};

void store_query(uint row_index, uint position, uint head) {
    const uint first = row_index * stride + head * HEAD_DIM;
    const uint out_first = (row_index * HEADS + head) * HEAD_DIM;
    const float inverse = QK_NORM ? head_inverse_rms(qkv, first / 4, eps) : 1.0;
    for (uint pair = gl_LocalInvocationID.x; pair < PAIRS; pair += gl_WorkGroupSize.x) {
        const vec2 turned = rotated_pair(FloatIn(qkv), first, q_gain, inverse, rope, position, pair);
        const uvec2 dims = pair_dims(pair);
        q.v[out_first + dims.x] = turned.x;
        q.v[out_first + dims.y] = turned.y;
    }
}

#if defined(KV_Q8_0)
void store_key_and_value(uint row_index, uint position, uint block, uint kv_head) {
    const uint lane = gl_LocalInvocationID.x;
    const uint first = row_index * stride + (HEADS + kv_head) * HEAD_DIM;
    const float inverse = QK_NORM ? head_inverse_rms(qkv, first / 4, eps) : 1.0;
    for (uint pair = lane; pair < PAIRS; pair += gl_WorkGroupSize.x) {
        const vec2 turned = rotated_pair(FloatIn(qkv), first, k_gain, inverse, rope, position, pair);
        const uvec2 dims = pair_dims(pair);
        fresh[dims.x] = turned.x;
        fresh[dims.y] = turned.y;
    }
    const uint value_first = first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += gl_WorkGroupSize.x) {
        fresh[HEAD_DIM + dim] = FloatIn(qkv).v[value_first + dim];
    }
    barrier();
    const Place key = key_place(block, kv_head, position);
    const Place value = value_place(block, kv_head, position);
    for (uint unit = lane; unit < UNITS; unit += gl_WorkGroupSize.x) {
        const float key_scale = fresh_scale(unit / 4);
        store_key(keys, key, unit, unit_quants(unit, key_scale), float16_t(key_scale));
        const float value_scale = fresh_scale(GROUPS + unit / 4);
        store_value(values, value, unit, unit_quants(UNITS + unit, value_scale), float16_t(value_scale));
    }
}
#else
void store_key_and_value(uint row_index, uint position, uint block, uint kv_head) {
    const uint first = row_index * stride + (HEADS + kv_head) * HEAD_DIM;
    const float inverse = QK_NORM ? head_inverse_rms(qkv, first / 4, eps) : 1.0;
    for (uint pair = gl_LocalInvocationID.x; pair < PAIRS; pair += gl_WorkGroupSize.x) {
        const vec2 turned = rotated_pair(FloatIn(qkv), first, k_gain, inverse, rope, position, pair);
        const uvec2 dims = pair_dims(pair);
        keys.v[key_unit(block, kv_head, dims.x / 8, position) * 8 + dims.x % 8] = float16_t(turned.x);
        keys.v[key_unit(block, kv_head, dims.y / 8, position) * 8 + dims.y % 8] = float16_t(turned.y);
    }
    const uint value_first = first + KV_HEADS * HEAD_DIM;
    for (uint dim = gl_LocalInvocationID.x; dim < HEAD_DIM; dim += gl_WorkGroupSize.x) {
        const uint unit = value_unit(block, kv_head, dim / 8, position);
        values.v[unit * 8 + dim % 8] = float16_t(FloatIn(qkv).v[value_first + dim]);
    }
}
#endif

void main() {
    const uint row_index = gl_WorkGroupID.x;
    const uint head = gl_WorkGroupID.y;
    const Row row = rows.v[row_index];
    if (row.live == 0) {
        return;
    }
    if (head < HEADS) {
        store_query(row_index, row.position, head);
    } else {
        const uint block = blocks.v[row.sequence * max_blocks + row.position / BLOCK_TOKENS];
        store_key_and_value(row_index, row.position, block, head - HEADS);
    }
}
