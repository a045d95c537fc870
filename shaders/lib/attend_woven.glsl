// attend for CPU drivers, whose workgroup is one subgroup: nothing meets at a barrier. Lanes stand for tokens while scores are
// made, and for dimensions while values are summed; a tile is as many tokens as there are lanes. The own position is read
// from the cache like the others.
//
// Such a driver gathers, lane by lane, whatever lanes load from addresses of their own, side by side or not. So all lanes
// load everything that lies there, from shared addresses, and each picks its own (`pick`): LLVM makes one vector load of
// that, if it can see that the addresses follow each other, as it can within an inner array. Such a load and the conversion
// of halves or bytes to floats are one instruction.

#extension GL_KHR_shader_subgroup_ballot : require

// What a lane loads: the bits of a half, or a word of four bytes. Of keys: [4 rows][tile within KEY_TOKENS][token]; of values [dimension].
#if defined(KV_Q8_0)
#define Element uint
const uint VALUE_DIMS = 4; // of a lane's element
#else
#define Element uint16_t // of a half: old LLVMs take minutes to compile choices among float16_t
const uint VALUE_DIMS = 1;
#endif
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer KeysBy4Out { Element v[][4][4]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer KeysBy8Out { Element v[][2][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer KeysBy16Out { Element v[][16]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer EightValuesOut { Element v[][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer ManyValuesOut { Element v[][32]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer FourScalesOut { float16_t v[][4]; };

const uint VALUES = HEAD_DIM / VALUE_DIMS;        // elements of a token's values
const uint SWEEPS = (VALUES + LANES - 1) / LANES; // elements of a lane
const uint SIDE_BY_SIDE = QUERIES * VALUE_DIMS < 16 ? 16 / (QUERIES * VALUE_DIMS) : 1; // sweeps whose sums fit registers
const float LOG2_E = 1.44269504;

// Addresses, taken from the push constants before any loop: what a loop computes and others use becomes a variable, under a
// mask.
Uvec4Out key_memory;
Uvec4Out value_memory;
Vec4Out query_memory;
uint query_first[QUERIES]; // in vec4
float top[QUERIES];        // highest score so far, equal in all lanes
float total[QUERIES];      // Σ 2^(score - top) of the lane's own tokens
float value_sum[QUERIES * SWEEPS * VALUE_DIMS]; // Σ 2^(score - top) × v

// Which lane this is; before any loop as well.
bool is_lane[16];

uint own_lane() {
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        is_lane[i] = gl_SubgroupInvocationID == i;
    }
    return gl_SubgroupInvocationID;
}

// Such a driver's lanes are those of one vector, and go on together: memory has to be in order. At a barrier lavapipe would
// suspend the workgroup, and keep in memory whatever is needed behind it, the numbers of the lanes among it.
void meet() {
    subgroupMemoryBarrier();
}

#define MEET meet()
#include "store.glsl"

// The lane's own of the first LANES.
Element pick(Element elements[16]) {
    Element own = elements[0];
    [[unroll]] for (uint i = 1; i < LANES; i++) {
        own = mix(own, elements[i], is_lane[i]);
    }
    return own;
}

// An element of the lane's own key.
Element key_element_along(uint row, uint tile) {
    Element elements[16];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        if (LANES == 4) {
            elements[i] = KeysBy4Out(key_memory).v[row][tile][i];
        } else if (LANES == 8) {
            elements[i] = KeysBy8Out(key_memory).v[row][tile][i];
        } else {
            elements[i] = KeysBy16Out(key_memory).v[row][i];
        }
    }
    return pick(elements);
}

// The lane's own element of a token's values, in a sweep; behind the last some other.
Element value_along(uint first, uint sweep) {
    Element elements[16];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        const uint at = sweep * LANES + i;
        if (VALUES % 32 == 0) {
            elements[i] = ManyValuesOut(value_memory).v[first / 32 + at / 32][at % 32];
        } else {
            elements[i] = EightValuesOut(value_memory).v[first / 8 + min(at / 8, VALUES / 8 - 1)][at % 8];
        }
    }
    return pick(elements);
}

#if defined(KV_Q8_0)
// Four bytes with sign, times 2^24: that spares a shift each.
vec4 dims_of(uint quants) {
    return vec4(ivec4((uvec4(quants) << uvec4(24, 16, 8, 0)) & 0xff000000u));
}

const float UNIT = 1.0 / 16777216.0;

// The scale of the lane's own key for dims_of. `first` counts fours of tokens.
float key_scale_along(uint first) {
    float16_t scales[16];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        scales[i] = FourScalesOut(key_memory).v[first + i / 4][i % 4];
    }
    float16_t own = scales[0];
    [[unroll]] for (uint i = 1; i < LANES; i++) {
        own = mix(own, scales[i], is_lane[i]);
    }
    return float(own) * UNIT;
}

// Likewise of the lane's values, in a sweep. A group is 8 elements.
float value_scale_along(uint first, uint sweep) {
    const uint group = sweep * LANES / 8;
    const float scale = float(HalfOut(value_memory).v[first + min(group, GROUPS - 1)]) * UNIT;
    if (LANES <= 8) {
        return scale;
    }
    const float next = float(HalfOut(value_memory).v[first + min(group + 1, GROUPS - 1)]) * UNIT;
    return mix(scale, next, lane >= 8);
}
#endif

// Four dimensions of the lane's own key.
vec4 key4(uint first, uint tile, uint four) {
#if defined(KV_Q8_0)
    return dims_of(key_element_along(first + four, tile));
#else
    vec4 key;
    [[unroll]] for (uint i = 0; i < 4; i++) {
        key[i] = unpackHalf2x16(uint(key_element_along(first + 4 * four + i, tile))).x;
    }
    return key;
#endif
}

// Four dimensions of a query. FUSED: it lies where y will. Shared memory would be slower: its loads check their bounds.
vec4 query4(uint q, uint four) {
    return query_memory.v[query_first[q] + four];
}

// Scores of a tile, not yet scaled. Sums of 8 dimensions each, which do not wait for each other.
void score_tile(uint block, uint start, out float score[QUERIES]) {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        score[q] = 0.0;
    }
    const uint first = key_element(block, kv_head, 0, start) / (KEY_DIMS * KEY_TOKENS);
    const uint tile = start % KEY_TOKENS / LANES;
    // Eight dimensions between two tests. More are no faster, and LLVM takes long: 9 s for 128 with 16 lanes.
    uint dim = 0;
    do {
        float part[QUERIES];
        [[unroll]] for (uint four = 0; four < 8; four += 4) {
            const uint from = (dim + four) / 4;
            const vec4 key = key4(first, tile, from);
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                const vec4 query = query4(q, from);
                part[q] = four == 0 ? query.x * key[0] : fma(query.x, key[0], part[q]);
                [[unroll]] for (uint i = 1; i < 4; i++) {
                    part[q] = fma(query[i], key[i], part[q]);
                }
            }
        }
#if defined(KV_Q8_0)
        const float scale = key_scale_along(key_scale(block, kv_head, dim / 32, start) / 4);
#else
        const float scale = 1.0;
#endif
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            score[q] = fma(part[q], scale, score[q]);
        }
        dim += 8;
    } while (dim < HEAD_DIM);
}

// Of all lanes. Broadcasts by constants are single instructions; lavapipe's subgroupMax goes from lane to lane.
float highest(float own) {
    float all[16];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        all[i] = subgroupBroadcast(own, i);
    }
    [[unroll]] for (uint width = LANES / 2; width > 0; width /= 2) {
        [[unroll]] for (uint i = 0; i < width; i++) {
            all[i] = all[i] > all[i + width] ? all[i] : all[i + width];
        }
    }
    return all[0];
}

// Turns scores into weights, and shrinks what was summed under lower maxima. A row's sums keep their bits in tiles and at
// tokens that lie behind it: they are multiplied by one, and get products with zero.
void weigh_tile(uint start, inout float score[QUERIES]) {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        const bool seen = start + lane <= position[q / PART];
        precise const float scaled = score[q] * (score_scale * LOG2_E);
        const float before = top[q];
        top[q] = max(before, highest(seen ? scaled : before));
        score[q] = seen ? exp2(scaled - top[q]) : 0.0;
        const float shrink = before < top[q] ? exp2(before - top[q]) : 1.0;
        total[q] = fma(total[q], shrink, score[q]);
        [[unroll]] for (uint i = 0; i < SWEEPS * VALUE_DIMS; i++) {
            value_sum[q * SWEEPS * VALUE_DIMS + i] *= shrink;
        }
    }
}

// `last` is the last token that the cache holds; those behind it stand for it and weigh nothing.
void add_values(uint block, uint start, uint last, float weight[QUERIES]) {
    [[unroll]] for (uint first = 0; first < SWEEPS; first += SIDE_BY_SIDE) {
        [[unroll]] for (uint i = 0; i < LANES; i++) {
            const uint token = min(start + i, last);
            const uint at = value_element(block, kv_head, 0, token) / VALUE_DIMS;
            [[unroll]] for (uint s = first; s < min(first + SIDE_BY_SIDE, SWEEPS); s++) {
#if defined(KV_Q8_0)
                const vec4 value = dims_of(value_along(at, s));
                const float scale = value_scale_along(value_scale(block, kv_head, 0, token), s);
#else
                const vec4 value = vec4(unpackHalf2x16(uint(value_along(at, s))).x, 0.0, 0.0, 0.0);
                const float scale = 1.0;
#endif
                [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                    const float p = subgroupBroadcast(weight[q], i) * scale;
                    [[unroll]] for (uint d = 0; d < VALUE_DIMS; d++) {
                        const uint of = (q * SWEEPS + s) * VALUE_DIMS + d;
                        value_sum[of] = fma(p, value[d], value_sum[of]);
                    }
                }
            }
        }
    }
}

void store_sums() {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        float whole = subgroupBroadcast(total[q], 0);
        [[unroll]] for (uint i = 1; i < LANES; i++) {
            whole += subgroupBroadcast(total[q], i);
        }
        const float inverse = 1.0 / whole;
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            const uint element = s * LANES + lane;
            if (wanted(q) && element < VALUES) {
                [[unroll]] for (uint d = 0; d < VALUE_DIMS; d++) {
                    const uint dim = element * VALUE_DIMS + d;
                    FloatOut(attended).v[4 * y_first(q) + dim] = value_sum[(q * SWEEPS + s) * VALUE_DIMS + d] * inverse;
                }
            }
        }
    }
}

// FUSED: q to where y will be, k and v to the cache. Parts of one group store the same.
void rotate_and_store() {
    const uint first = first_row * x_stride;
    for (uint h = 0; h < PART; h++) {
        const uint q_first = first + head_of(h) * HEAD_DIM;
        const float inverse = QK_NORM ? head_inverse_rms(x, q_first / 4, eps) : 1.0;
        for (uint pair = lane; pair < PAIRS; pair += LANES) {
            const vec2 turned = rotated_pair(FloatIn(x), q_first, q_gain, inverse, rope, position[0], pair);
            const uvec2 dims = pair_dims(pair);
            FloatOut(attended).v[4 * y_first(h) + dims.x] = turned.x;
            FloatOut(attended).v[4 * y_first(h) + dims.y] = turned.y;
        }
    }
    const Row row = step_rows.v[first_row];
    const uint k_first = first + (HEADS + kv_head) * HEAD_DIM;
    store_key_and_value(x, k_first, row, block_of(position[0]), kv_head, lane, LANES);
    meet();
}

void attend_run() {
    key_memory = keys;
    value_memory = values;
    if (FUSED) {
        query_memory = attended;
    } else {
        query_memory = Vec4Out(x);
    }
    if (FUSED) {
        rotate_and_store();
    }
    uint last = 0;
    [[unroll]] for (uint r = 0; r < RUN_ROWS; r++) {
        last = max(last, position[r]);
    }
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        query_first[q] = FUSED ? y_first(q) : (row_of(q / PART) * x_stride + head_of(q % PART) * HEAD_DIM) / 4;
        top[q] = -3.0e38;
        total[q] = 0.0;
        [[unroll]] for (uint i = 0; i < SWEEPS * VALUE_DIMS; i++) {
            value_sum[q * SWEEPS * VALUE_DIMS + i] = 0.0;
        }
    }
    uint start = 0;
    do {
        const uint block = block_of(start);
        float weight[QUERIES];
        score_tile(block, start, weight);
        weigh_tile(start, weight);
        add_values(block, start, last, weight);
        start += LANES;
    } while (start <= last);
    store_sums();
}
