// A product of a repacked matrix with rows of x, tile by tile: what mat_mul does in a workgroup, and chain in many
// turns. What includes this has the members of PRODUCT at hand under their names, and defines, as constants or not,
//
//   NORM      0: x as it is. 1: normalize x here. 2: x was multiplied by its gain, `scale` holds the rest. 3: likewise, `scale`
//             holds `square_count` sums of squares for each token.
//   GAINED    whether NORM is 1: a constant, since it is asked for every element
//   EPILOGUE  0: store. 1: add to other[t][row]. 2: silu(other[t][row]) × the sum. 3: tiles alternate between gate and up,
//             store silu(gate) × up.
//   BIAS, AHEAD   whether bias is added; whether the rows are prepared for the norm that comes next

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const uint TOKENS = 1;
// cols or x_stride is no multiple of 32: the last block is ragged.
layout(constant_id = 6) const bool RAGGED = false;

#if defined(WOVEN)
const uint PARTS = 1;
#else
const uint PARTS = gl_WorkGroupSize.x / TILE_ROWS;
#endif
#if defined(WOVEN)
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer BlocksIn { float v[][BLOCK_COLS]; };
#else
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer BlocksIn { vec4 v[][BLOCK_COLS / 4]; };
#endif
shared float partial_sums[gl_WorkGroupSize.x > TILE_ROWS ? gl_WorkGroupSize.x * ROWS * TOKENS : 1];

// A lane's state. At file scope, since arrays sized by specialization constants cannot be passed to functions.
uint x_first[TOKENS];
float sum[ROWS * TOKENS];

float silu(float v) {
    return v / (1.0 + exp(-v));
}

#if defined(WOVEN)
// Element k of a block of columns of the row of x at `first`. One at a time, since whatever is loaded together holds
// registers from then on.
float load_x(uint first, uint block, uint k) {
    float v;
    if (RAGGED) {
        const uint at = block * BLOCK_COLS + k;
        v = FloatIn(x).v[4 * first + at];
        if (at >= cols) {
            v = 0.0;
        }
    } else {
        // One address for all of the block, and constants.
        v = BlocksIn(x).v[first / (BLOCK_COLS / 4) + block][k];
    }
    if (GAINED) {
        v *= FloatIn(gain).v[min(block * BLOCK_COLS + k, cols - 1)];
    }
    return v;
}

#else
// Elements 4c..4c+3 of a block of columns of the row of x at `first`.
vec4 load_x(uint first, uint block, uint c) {
    const uint k4 = block * (BLOCK_COLS / 4) + c;
    vec4 v;
    if (RAGGED) {
        v = x.v[first + k4];
        if (k4 * 4 >= cols) {
            v = vec4(0.0);
        }
    } else {
        // One address for all of the block, and constants.
        v = BlocksIn(x).v[first / (BLOCK_COLS / 4) + block][c];
    }
    if (GAINED) {
        v *= RAGGED && k4 * 4 >= cols ? vec4(0.0) : gain.v[k4];
    }
    return v;
}
#endif

// Adds the parts' sums, in order, into part 0's.
void combine(uint part, uint lane) {
    [[unroll]] for (uint i = 0; i < ROWS * TOKENS; ++i) {
        partial_sums[(part * ROWS * TOKENS + i) * TILE_ROWS + lane] = sum[i];
    }
    barrier();
    for (uint other_part = 1; other_part < PARTS; ++other_part) {
        [[unroll]] for (uint i = 0; i < ROWS * TOKENS; ++i) {
            sum[i] += partial_sums[(other_part * ROWS * TOKENS + i) * TILE_ROWS + lane];
        }
    }
}

// What is stored, or 0 outside of y.
float store(uint tile, uint lane, uint token, float value, float next_value) {
    const uint row = (EPILOGUE == 3 ? tile / 2 : tile) * TILE_ROWS + lane;
    if (row >= rows || token >= tokens) {
        return 0.0;
    }
    const uint at = token * y_stride + row;
    if (BIAS) {
        value += bias.v[row];
    }
    if (EPILOGUE == 1) {
        value += other.v[at];
    } else if (EPILOGUE == 2) {
        value *= silu(other.v[at]);
    } else if (EPILOGUE == 3) {
        value = silu(value) * next_value;
    }
    y.v[at] = value;
    if (AHEAD) {
        normed.v[at] = value * FloatIn(gain).v[row];
    }
    return value;
}

// What x's token is still to be multiplied by. Taken behind the loop, where it does not hold registers.
float norm_factor(uint token, uint first) {
    if (GAINED) {
        return inverse_rms(x, first, cols, eps);
    }
    if (NORM == 3) {
        return inverse_rms_of(scale, token * square_count, square_count, cols, eps);
    }
    return NORM == 2 ? scale.v[token] : 1.0;
}

// Starts a product with TOKENS rows of x from `first_token` on.
void begin(uint first_token) {
    // Beyond the last token the last one is computed again, and not stored.
    [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
        x_first[t] = min(first_token + t, tokens - 1) * (x_stride / 4);
    }
    [[unroll]] for (uint i = 0; i < ROWS * TOKENS; ++i) {
        sum[i] = 0.0;
    }
}

// Stores the rows of ROWS tiles from `first_tile` on, whose products are summed.
void finish(uint first_tile, uint first_token, uint part, uint lane) {
    if (PARTS > 1) {
        combine(part, lane);
        if (part > 0) {
            return;
        }
    }
    float factor[TOKENS];
    [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
        factor[t] = norm_factor(min(first_token + t, tokens - 1), x_first[t]);
    }
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        if (EPILOGUE == 3 && r % 2 == 1) {
            continue; // it went with the tile before
        }
        [[unroll]] for (uint t = 0; t < TOKENS; ++t) {
            const uint pair = min(r + 1, ROWS - 1);
            const float next = factor[t] * sum[pair * TOKENS + t];
            const float value = store(first_tile + r, lane, first_token + t, factor[t] * sum[r * TOKENS + t], next);
            if (AHEAD) {
                const float square = subgroupAdd(value * value);
                if (lane == 0 && first_tile + r < tiles && first_token + t < tokens) {
                    squares.v[(first_token + t) * tiles + first_tile + r] = square;
                }
            }
        }
    }
}
