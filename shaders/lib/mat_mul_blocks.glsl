// What a product does with blocks of one format, as lib/quant.glsl last made them known; lib/mat_mul.glsl has the rest.

Block row_blocks[ROWS];

#if defined(WOVEN)
// Adds one block of columns to the sums. Those of a group of columns are added up by themselves and scaled at its end: fewer
// multiply-adds, and chains of them that do not wait for those of the block before.
void accumulate(uint block) {
    float group[ROWS * TOKENS];
    [[unroll]] for (uint k = 0; k < BLOCK_COLS; ++k) {
        const uint in_group = k % (4 * GROUP_FOURS);
        float q[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
            if (k % (4 * WORD_FOURS) == 0) {
                load_word(weight, row_blocks[r], k / 4);
            }
            q[r] = quant(row_blocks[r], k / 4, k % 4);
        }
        [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
            const float v = load_x(x_first[t], block, k);
            [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                const uint i = r * TOKENS + t;
#if defined(UNSCALED)
                sum[i] = fma(q[r], v, sum[i]);
#else
                group[i] = in_group == 0 ? q[r] * v : fma(q[r], v, group[i]);
                if (in_group == 4 * GROUP_FOURS - 1) {
                    sum[i] = fma(group_scale(row_blocks[r], k / 4), group[i], sum[i]);
                }
#endif
            }
        }
    }
}
#else
// Adds one block of columns to the sums.
void accumulate(uint block) {
    float group[ROWS * TOKENS];
    // Without `precise` a driver may contract the additions with load_x's product by gain into one rounding, and the bits
    // would depend on where that product is computed.
    precise float x_sum[TOKENS];
    [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
        x_sum[t] = 0.0;
    }
    [[unroll]] for (uint c = 0; c < BLOCK_COLS / 4; ++c) {
        if (c % GROUP_FOURS == 0) {
            [[unroll]] for (uint i = 0; i < ROWS * TOKENS; ++i) {
                group[i] = 0.0;
            }
        }
        vec4 v[TOKENS];
        [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
            v[t] = load_x(x_first[t], block, c);
#if defined(MINIMUM_APART)
            x_sum[t] += (v[t].x + v[t].y) + (v[t].z + v[t].w);
#endif
        }
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
            const vec4 q = quants(row_blocks[r], c);
            [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
                const uint i = r * TOKENS + t;
#if defined(UNSCALED)
                sum[i] = fma(q.w, v[t].w, fma(q.z, v[t].z, fma(q.y, v[t].y, fma(q.x, v[t].x, sum[i]))));
#else
                group[i] = fma(q.w, v[t].w, fma(q.z, v[t].z, fma(q.y, v[t].y, fma(q.x, v[t].x, group[i]))));
#endif
            }
        }
#if !defined(UNSCALED)
        if (c % GROUP_FOURS == GROUP_FOURS - 1) {
            [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
                    const uint i = r * TOKENS + t;
                    sum[i] = fma(group_scale(row_blocks[r], c), group[i], sum[i]);
                }
            }
        }
#endif
    }
#if defined(MINIMUM_APART)
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
            sum[r * TOKENS + t] = fma(group_minimum(row_blocks[r]), x_sum[t], sum[r * TOKENS + t]);
        }
    }
#endif
}
#endif

// The rows of ROWS tiles from `first_tile` on, of TOKENS tokens from `first_token` on.
void multiply(uint first_tile, uint first_token, uint part, uint lane) {
    const uint blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    const Planes planes = Planes(high, scales, supers);
    begin(first_token);
    // There are at least as many blocks as parts. The test stands at the end since lavapipe runs the body of a loop left at
    // its head once more with no lane live, and then still loads what all lanes share, from behind the matrix.
    uint block = part;
    do {
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
            row_blocks[r] = load_block(weight, planes, blocks, min(first_tile + r, tiles - 1), block, lane);
        }
        accumulate(block);
        block += PARTS;
    } while (block < blocks);
    finish(first_tile, first_token, part, lane);
}
