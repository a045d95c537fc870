// k and v of a row's own position into the cache, k normalized and rotated. Who includes this says how a workgroup meets:
// MEET. Lanes take every `lanes`-th pair and dimension.

#if defined(KV_Q8_0)
void store_key_and_value(Vec4In qkv, uint k_first, Row row, uint block, uint kv_head, uint lane, uint lanes) {
    const float inverse = QK_NORM ? head_inverse_rms(qkv, k_first / 4, eps) : 1.0;
    for (uint pair = lane; pair < PAIRS; pair += lanes) {
        const vec2 turned = rotated_pair(FloatIn(qkv), k_first, k_gain, inverse, rope, row.position, pair);
        const uvec2 dims = pair_dims(pair);
        fresh[dims.x] = turned.x;
        fresh[dims.y] = turned.y;
    }
    const uint v_first = k_first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += lanes) {
        fresh[HEAD_DIM + dim] = FloatIn(qkv).v[v_first + dim];
    }
    MEET;
    for (uint four = lane; four < HEAD_DIM / 4; four += lanes) {
        const uint group = four / 8;
        const float of_key = fresh_scale(group);
        const float of_value = fresh_scale(GROUPS + group);
        const ivec4 key = fresh_quants(4 * four, of_key);
        const ivec4 value = fresh_quants(HEAD_DIM + 4 * four, of_value);
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint dim = 4 * four + i;
            SignedByteOut(keys).v[key_element(block, kv_head, dim, row.position)] = int8_t(key[i]);
            SignedByteOut(values).v[value_element(block, kv_head, dim, row.position)] = int8_t(value[i]);
        }
        if (four % 8 == 0) {
            HalfOut(keys).v[key_scale(block, kv_head, group, row.position)] = float16_t(of_key);
            HalfOut(values).v[value_scale(block, kv_head, group, row.position)] = float16_t(of_value);
        }
    }
}
#else
void store_key_and_value(Vec4In qkv, uint k_first, Row row, uint block, uint kv_head, uint lane, uint lanes) {
    const float inverse = QK_NORM ? head_inverse_rms(qkv, k_first / 4, eps) : 1.0;
    for (uint pair = lane; pair < PAIRS; pair += lanes) {
        const vec2 turned = rotated_pair(FloatIn(qkv), k_first, k_gain, inverse, rope, row.position, pair);
        const uvec2 dims = pair_dims(pair);
        HalfOut(keys).v[key_element(block, kv_head, dims.x, row.position)] = float16_t(turned.x);
        HalfOut(keys).v[key_element(block, kv_head, dims.y, row.position)] = float16_t(turned.y);
    }
    const uint v_first = k_first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += lanes) {
        const float16_t value = float16_t(FloatIn(qkv).v[v_first + dim]);
        HalfOut(values).v[value_element(block, kv_head, dim, row.position)] = value;
    }
}
#endif
