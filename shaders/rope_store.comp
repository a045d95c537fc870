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
    Uvec4Out keys;
    Uvec4Out values;
    uint stride;
    uint max_blocks;
    uint cache_blocks; // of the layer's cache
    float eps;
};

#include "lib/cache.glsl"

#define MEET barrier()
#include "lib/store.glsl"

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
        const uint lane = gl_LocalInvocationID.x;
        store_key_and_value(qkv, row_index * stride + head * HEAD_DIM, row, block, head - HEADS, lane, gl_WorkGroupSize.x);
    }
}
