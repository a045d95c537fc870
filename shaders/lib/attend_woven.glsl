// attend for CPU drivers, whose workgroup is one subgroup: nothing meets at a barrier. Lanes stand for tokens while scores are
// made, and for words of dimensions while values are summed; a tile is as many tokens as there are lanes. The own position
// is read from the cache like the others.
//
// Such a driver gathers, lane by lane, whatever lanes load from addresses of their own, side by side or not. So all lanes
// load everything that lies there, from shared addresses, and each picks its own (`along`): LLVM makes one vector load of
// that, if it can see that the addresses follow each other. It does within an inner array.

#extension GL_KHR_shader_subgroup_ballot : require

layout(buffer_reference, scalar, buffer_reference_align = 16) buffer FoursOut { uint v[][4]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer EightsOut { uint v[][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer SixteensOut { uint v[][16]; };

const uint SWEEPS = (WORDS + LANES - 1) / LANES; // words of values of a lane
const uint UNROLL = WORDS % 32 == 0 ? 32 : (WORDS % 8 == 0 ? 8 : 4); // words of keys between two tests of a loop
// Sweeps whose sums fit a CPU's vector registers.
const uint SIDE_BY_SIDE = QUERIES * WORD_DIMS < 16 ? 16 / (QUERIES * WORD_DIMS) : 1;
const float LOG2_E = 1.44269504;

// Σ 2^(score - top) × v, of the dimensions of a word.
#if defined(KV_Q8_0)
#define Dims vec4
#else
#define Dims vec2
#endif
Dims sum[QUERIES * SWEEPS];
// Addresses, taken from the push constants before any loop: what a loop computes and others use becomes a variable, under a
// mask.
CacheOut key_memory;
CacheOut value_memory;
Vec4Out query_memory;
uint query_first[QUERIES]; // in vec4
float top[QUERIES];   // highest score so far, equal in all lanes
float total[QUERIES]; // Σ 2^(score - top) of the lane's own tokens

// Which lane this is; before any loop as well.
bool is_lane[16];

uint own_lane() {
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        is_lane[i] = gl_SubgroupInvocationID == i;
    }
    return gl_SubgroupInvocationID;
}

void meet() {
    subgroupMemoryBarrier();
    subgroupBarrier();
}

#define MEET meet()
#include "store.glsl"

// The lane's own of the first LANES.
uint pick(uint words[16]) {
    uint own = words[0];
    [[unroll]] for (uint i = 1; i < LANES; i++) {
        own = mix(own, words[i], is_lane[i]);
    }
    return own;
}

// The lane's own of the words from LANES × `at` on.
uint along(CacheOut cache, uint at) {
    uint words[16];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        if (LANES == 4) {
            words[i] = FoursOut(cache).v[at][i];
        } else if (LANES == 8) {
            words[i] = EightsOut(cache).v[at][i];
        } else {
            words[i] = SixteensOut(cache).v[at][i];
        }
    }
    return pick(words);
}

// The lane's own word of a token's values, in a sweep; behind the last words some others.
uint value_along(uint first, uint sweep) {
    if (WORDS % LANES == 0) {
        return along(value_memory, first / LANES + sweep);
    }
    uint words[16];
    [[unroll]] for (uint i = 0; i < LANES; i += 4) {
        const uvec4 four = value_memory.v[first / 4 + min(sweep * LANES + i, WORDS - 4) / 4];
        [[unroll]] for (uint j = 0; j < 4; j++) {
            words[i + j] = four[j];
        }
    }
    return pick(words);
}

// Four dimensions of a query. FUSED: it lies where y will. Shared memory would be slower: its loads check their bounds.
vec4 query4(uint q, uint four) {
    return query_memory.v[query_first[q] + four];
}

#if defined(KV_Q8_0)
// Scores of a tile, unscaled.
void score_tile(uint block, uint start, out float score[QUERIES]) {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        score[q] = 0.0;
    }
    const uint first = key_word(block, kv_head, 0, start) / LANES;
    const uint scales = key_scale(block, kv_head, 0, start) / 4;
    uint group = 0;
    do {
        vec2 part[QUERIES];
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            part[q] = vec2(0.0);
        }
        [[unroll]] for (uint i = 0; i < 8; i++) {
            const vec4 key = counts(along(key_memory, first + (8 * group + i) * (KEY_TOKENS / LANES)));
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                const vec4 query = query4(q, 8 * group + i);
                part[q] = fma(query.zw, key.zw, fma(query.xy, key.xy, part[q]));
            }
        }
        uint words[16];
        [[unroll]] for (uint i = 0; i < LANES; i += 4) {
            const uvec2 two = Uvec2Out(key_memory).v[scales + group * (BLOCK_TOKENS / 4) + i / 4];
            words[i] = two.x;
            words[i + 1] = two.x;
            words[i + 2] = two.y;
            words[i + 3] = two.y;
        }
        const vec2 scale_pair = unpackHalf2x16(pick(words));
        const float key_scale = lane % 2 == 0 ? scale_pair.x : scale_pair.y;
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            score[q] = fma(key_scale, part[q].x + part[q].y, score[q]);
        }
        group++;
    } while (group < GROUPS);
}

// The lane's scale of a token's values, in a sweep. A group is 8 words.
float value_scale_along(uint first, uint sweep) {
    const uint group = sweep * LANES / 8;
    const float scale = float(HalfOut(value_memory).v[first + group]);
    if (LANES <= 8) {
        return scale;
    }
    const float next = float(HalfOut(value_memory).v[first + min(group + 1, GROUPS - 1)]);
    return lane < 8 ? scale : next;
}

Dims value_dims(uint word_first, uint scale_first, uint sweep) {
    return counts(value_along(word_first, sweep)) * value_scale_along(scale_first, sweep);
}
#else
void score_tile(uint block, uint start, out float score[QUERIES]) {
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        score[q] = 0.0;
    }
    const uint first = key_word(block, kv_head, 0, start) / LANES;
    uint word = 0;
    do {
        vec2 part[QUERIES];
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            part[q] = vec2(0.0);
        }
        [[unroll]] for (uint i = 0; i < UNROLL; i += 2) {
            const vec2 key = unpackHalf2x16(along(key_memory, first + (word + i) * (KEY_TOKENS / LANES)));
            const vec2 next = unpackHalf2x16(along(key_memory, first + (word + i + 1) * (KEY_TOKENS / LANES)));
            [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                const vec4 query = query4(q, word / 2 + i / 2);
                part[q] = fma(query.zw, next, fma(query.xy, key, part[q]));
            }
        }
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            score[q] += part[q].x + part[q].y;
        }
        word += UNROLL;
    } while (word < WORDS);
}

Dims value_dims(uint word_first, uint scale_first, uint sweep) {
    return unpackHalf2x16(value_along(word_first, sweep));
}
#endif

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
        precise const float scaled = score[q] * (scale * LOG2_E);
        const float before = top[q];
        top[q] = max(before, highest(seen ? scaled : before));
        score[q] = seen ? exp2(scaled - top[q]) : 0.0;
        const float shrink = before < top[q] ? exp2(before - top[q]) : 1.0;
        total[q] = fma(total[q], shrink, score[q]);
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            sum[q * SWEEPS + s] *= shrink;
        }
    }
}

// `last` is the tile's last token that the cache holds; those behind it stand for it and weigh nothing.
void add_values(uint block, uint start, uint last, float weight[QUERIES]) {
    [[unroll]] for (uint first = 0; first < SWEEPS; first += SIDE_BY_SIDE) {
        [[unroll]] for (uint i = 0; i < LANES; i++) {
            const uint token = min(start + i, last);
#if defined(KV_Q8_0)
            const uint scale_first = value_scale(block, kv_head, 0, token);
#else
            const uint scale_first = 0;
#endif
            [[unroll]] for (uint s = first; s < min(first + SIDE_BY_SIDE, SWEEPS); s++) {
                const Dims value = value_dims(value_word(block, kv_head, 0, token), scale_first, s);
                [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                    const uint at = q * SWEEPS + s;
                    sum[at] = fma(Dims(subgroupBroadcast(weight[q], i)), value, sum[at]);
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
            const uint word = s * LANES + lane;
            if (wanted(q) && word < WORDS) {
                const uint first = 4 * y_first(q) + word * WORD_DIMS;
                [[unroll]] for (uint i = 0; i < WORD_DIMS; i++) {
                    FloatOut(y).v[first + i] = sum[q * SWEEPS + s][i] * inverse;
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
            FloatOut(y).v[4 * y_first(h) + dims.x] = turned.x;
            FloatOut(y).v[4 * y_first(h) + dims.y] = turned.y;
        }
    }
    const Row row = rows.v[first_row];
    const uint k_first = first + (HEADS + kv_head) * HEAD_DIM;
    store_key_and_value(x, k_first, row, block_of(position[0]), kv_head, lane, LANES);
    meet();
}

void attend_run() {
    key_memory = keys;
    value_memory = values;
    if (FUSED) {
        query_memory = y;
    } else {
        query_memory = Vec4Out(x);
    }
    if (FUSED) {
        rotate_and_store();
    }
    uint last = 0;
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        last = max(last, position[r]);
    }
    [[unroll]] for (uint q = 0; q < QUERIES; q++) {
        query_first[q] = FUSED ? y_first(q) : (row_of(q / PART) * x_stride + head_of(q % PART) * HEAD_DIM) / 4;
        top[q] = -3.0e38;
        total[q] = 0.0;
        [[unroll]] for (uint s = 0; s < SWEEPS; s++) {
            sum[q * SWEEPS + s] = Dims(0.0);
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
