// Heads of a row of qkv made ready for attention: root-mean-square norm per head, and rotary position embedding. Shared by
// rope_store and attend, so that both get the same bits: no lane needs another's result, every product that feeds a sum
// stands in an explicit fma, and the rest is `precise`.
//
// A row of qkv: [heads][head_dim] of q, then [kv_heads][head_dim] of k, then as many of v.

// The specialization constants' numbers, where they are not these.
#if !defined(ATTENTION_ID)
#define ATTENTION_ID(number) number
#endif
layout(constant_id = ATTENTION_ID(1)) const uint HEAD_DIM = 128; // a multiple of 8
layout(constant_id = ATTENTION_ID(2)) const uint HEADS = 16;
layout(constant_id = ATTENTION_ID(3)) const uint KV_HEADS = 8;
layout(constant_id = ATTENTION_ID(4)) const uint ROTARY = 128;     // dimensions that rotate, even; those behind pass
layout(constant_id = ATTENTION_ID(5)) const bool NEOX = true;      // pairs are (i, i + ROTARY/2), else (2i, 2i + 1)
layout(constant_id = ATTENTION_ID(6)) const bool QK_NORM = true;   // q and k are normalized per head before they rotate

const uint PAIRS = HEAD_DIM / 2;

// The two dimensions of a head that are its pair-th pair: first those that rotate together, then the rest by twos.
uvec2 pair_dims(uint pair) {
    return NEOX && pair < ROTARY / 2 ? uvec2(pair, pair + ROTARY / 2) : uvec2(2 * pair, 2 * pair + 1);
}

// 1 / sqrt(mean(x²) + eps) over the head at x4[first4…]. Every lane sums all of it: a head is short.
float head_inverse_rms(Vec4In x, uint first4, float eps) {
    vec4 sum = vec4(0.0);
    for (uint i = 0; i < HEAD_DIM / 4; i++) {
        const vec4 v = x.v[first4 + i];
        sum = fma(v, v, sum);
    }
    precise const float total = (sum.x + sum.y) + (sum.z + sum.w);
    precise const float mean = total / float(HEAD_DIM) + eps;
    return 1.0 / sqrt(mean);
}

// The pair-th pair of the head at x[first…], normalized with the result of head_inverse_rms, then rotated.
vec2 rotated_pair(FloatIn x, uint first, FloatIn gain, float inverse, Vec2In rope, uint position, uint pair) {
    const uvec2 dims = pair_dims(pair);
    precise vec2 v = vec2(x.v[first + dims.x], x.v[first + dims.y]);
    if (QK_NORM) {
        v *= inverse;
        v *= vec2(gain.v[dims.x], gain.v[dims.y]);
    }
    if (pair >= ROTARY / 2) {
        return v;
    }
    const vec2 turn = rope.v[position * (ROTARY / 2) + pair];
    precise const vec2 crossed = vec2(-v.y * turn.y, v.x * turn.y);
    return fma(v, turn.xx, crossed);
}
