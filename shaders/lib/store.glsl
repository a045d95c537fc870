// k and v of a row's own position into the cache, k normalized and rotated. Who includes this says how a workgroup meets:
// MEET. Lanes take every `lanes`-th pair and word.

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
    for (uint word = lane; word < WORDS; word += lanes) {
        const uint group = word / 8;
        const float of_key = fresh_scale(group);
        const float of_value = fresh_scale(GROUPS + group);
        UintOut(keys).v[key_word(block, kv_head, word, row.position)] = fresh_quants(4 * word, of_key);
        UintOut(values).v[value_word(block, kv_head, word, row.position)] = fresh_quants(HEAD_DIM + 4 * word, of_value);
        if (word % 8 == 0) {
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
        HalfOut(keys).v[2 * key_word(block, kv_head, dims.x / 2, row.position) + dims.x % 2] = float16_t(turned.x);
        HalfOut(keys).v[2 * key_word(block, kv_head, dims.y / 2, row.position) + dims.y % 2] = float16_t(turned.y);
    }
    const uint v_first = k_first + KV_HEADS * HEAD_DIM;
    for (uint dim = lane; dim < HEAD_DIM; dim += lanes) {
        const uint word = value_word(block, kv_head, dim / 2, row.position);
        HalfOut(values).v[2 * word + dim % 2] = float16_t(FloatIn(qkv).v[v_first + dim]);
    }
}
#endif
