// What attend for GPUs makes of a split's sums: SPLIT, a share in memory; otherwise it is folded into those of the splits
// before, and y is made of them all at the end.

#include "share.glsl"

#if !defined(SPLIT)
// Of the splits so far. The sums are touched once a split, and would take registers from the loops in between.
shared vec4 whole[QUERIES * HEAD_DIM / 4];
float whole_top[QUERIES];
float whole_total[QUERIES];
#endif

// Puts what each token lane has of a query's sums into shared memory; the two functions below add it up.
void gather(uint q) {
    const uint side = q % 2 * TOKEN_LANES;
    [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
        const uint unit = first_unit + s * LANES;
        if (token_lane < TOKEN_LANES && unit < UNITS) {
            const uint at = (side + token_lane) * UNITS + unit;
            partial[2 * at] = low[q * SWEEPS + s];
            partial[2 * at + 1] = high[q * SWEEPS + s];
        }
    }
    if (token_lane < TOKEN_LANES && first_unit == 0) {
        partial_total[side + token_lane] = total[q];
    }
    meet();
}

// Of four dimensions from 4 × i on.
vec4 gathered_sums(uint q, uint i) {
    const uint first = q % 2 * TOKEN_LANES * UNITS * 2 + i;
    vec4 sums = partial[first];
    for (uint other = 1; other < TOKEN_LANES; other++) {
        sums += partial[first + other * UNITS * 2];
    }
    return sums;
}

float gathered_total(uint q) {
    const uint first = q % 2 * TOKEN_LANES;
    float sum = partial_total[first];
    for (uint other = 1; other < TOKEN_LANES; other++) {
        sum += partial_total[first + other];
    }
    return sum;
}

#if defined(SPLIT)
void store_share() {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        gather(q);
        const uint first = row_of(0) * y_stride / 4 + (gl_WorkGroupID.z * HEADS + head_of(q)) * SHARE;
        for (uint i = lane; i < HEAD_DIM / 4 && wanted(q); i += LANES) {
            attended.v[first + 1 + i] = gathered_sums(q, i);
        }
        if (lane == 0 && wanted(q)) {
            attended.v[first] = vec4(top[q], gathered_total(q), 0.0, 0.0);
        }
    }
}
#else
// Folds the share of the split from `first` on into those before. A row keeps its bits at splits that lie behind it.
void fold_split(uint first) {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        gather(q);
        const float next_total = gathered_total(q);
        if (first == 0) {
            for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
                whole[q * (HEAD_DIM / 4) + i] = gathered_sums(q, i);
            }
            whole_total[q] = next_total;
            whole_top[q] = top[q];
        } else if (first < position[q / PART]) {
            const vec2 scales = fold_scales(whole_top[q], top[q]);
            for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
                const uint at = q * (HEAD_DIM / 4) + i;
                whole[at] = folded(whole[at], gathered_sums(q, i), scales);
            }
            whole_total[q] = folded(whole_total[q], next_total, scales);
            whole_top[q] = max(whole_top[q], top[q]);
        }
    }
}

void store_whole() {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        for (uint i = lane; i < HEAD_DIM / 4 && wanted(q); i += LANES) {
            attended.v[y_first(q) + i] = whole[q * (HEAD_DIM / 4) + i] / whole_total[q];
        }
    }
}
#endif
