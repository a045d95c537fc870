// Chooses the next token of each output row from its logits, exactly over the whole vocabulary, and tells of it:
// next[sequence], the count of the token where penalties are on, and, last, the running step's entry of the ring.
//
// logits: [outputs][logits_stride]; outputs: [outputs], the row whose successor is chosen (NO_ROW: nothing to do);
// rows: the rows evaluated; sampling, next: by sequence; biases: [sequence][MAX_BIAS]; masks: [sequence][vocabulary / 32]
// words, rounded up; counts: [sequence][vocabulary]; scratch: [outputs][2][vocabulary]; ring: [RING_STEPS][ring_stride],
// an entry for each output. vocabulary < 2²⁰. One workgroup owns one output.
// Outputs of one sequence stand side by side, and `next` is that of the last; more than one only where nothing is counted.
// `rows` and `next` may be the same memory if row i belongs to sequence i.
//
// In this order (see SamplingParameters):
//   bias           x += value
//   repetition     x = x > 0 ? x / r : x × r, where the token occurs in prompt or answer
//                  (Keskar et al., "CTRL", 2019; for negative logits as in transformers' logits processor)
//   presence,      x -= presence × [n > 0] + frequency × n, n times the token occurs in the answer
//   frequency      (the formula in OpenAI's API reference)
//   mask           x = -inf where the token's bit is 0
//   temperature t  0: the greatest x, the lowest id among equals. Else p = exp((x - max) / t) in units of 2⁻³¹, rounded
//   top-k          the k greatest p
//   top-p          the fewest greatest p whose sum is at least top_p × the sum of what top-k left
//                  (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020)
//   min-p          p at least min_p × the greatest (Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024)
// Tokens of equal p are ordered by id, so what a filter keeps is always a prefix of one order, greatest p first, and is
// known by its mass. The token chosen is the one at which the running mass in that order exceeds a random number below
// that mass. Where nothing filters, any order does, and another one is quicker (lib/unfiltered.glsl). NaN counts as -inf; -inf is never sampled; where nothing else is left, token 0 is chosen.
//
// Randomness is Philox with the request's seed as the key and the position of the sampled token as the counter: no
// state, so what a request draws does not depend on what else runs. Invocation l owns the tokens l, l + lanes, …: what lies in
// scratch is its own, but for adjusted logits where nothing filters.
#extension GL_GOOGLE_include_directive : require

// Before all functions: until it is declared, glslc takes gl_WorkGroupSize for a constant 1. A multiple of 4.
layout(local_size_x_id = 0) in;
// 8 or 16: the workgroup is one subgroup of so many lanes that loads logits by vectors; vocabulary and logits_stride are
// multiples of four of those.
layout(constant_id = 1) const uint TILE_ROWS = 1;

#include "lib/prelude.glsl"

// All lanes have come, and see what they have written. Those of one subgroup of a CPU driver are lanes of one vector, and go on together:
// at a barrier lavapipe would suspend the workgroup, and keep in memory whatever is needed behind it.
void meet() {
    if (TILE_ROWS == 1) {
        barrier();
    } else {
        groupMemoryBarrier();
    }
}

#include "lib/step.glsl"
#include "lib/philox.glsl"
#include "lib/wide.glsl"
#include "lib/select.glsl"
#include "lib/row_word.glsl"

layout(push_constant, scalar) uniform Push {
    FloatIn logits;
    UintIn outputs;
    RowIn rows;
    SamplingIn sampling;
    BiasIn biases;
    UintIn masks;
    UintIn clock;
    UintOut counts;
    UintOut scratch;
    RowOut next;
    UintOut ring;
    uint vocabulary;
    uint logits_stride;
    uint ring_stride;
};

// Logits are confined to ±2¹²⁶, so that no difference of two is infinite; LOWEST also stands for -inf and NaN.
const uint GREATEST_BITS = 0x7e800000u;
const uint SIGN_BIT = 0x80000000u;
const uint NEGATIVE_INFINITY_BITS = 0xff800000u;
const float LOWEST = -8.507059173023462e37;
const float BEYOND = 2.0 * LOWEST;

// The filters that are searches, and the draw, which is one more.
const uint TOP_K = 0;
const uint TOP_P = 1;
const uint DRAW = 2;

const float UNITS = 2147483648.0;
const float LOG2_E = 1.4426950408889634;

// What top-k surely drops is known from the greatest logits of so many parts of the vocabulary.
const uint COLUMNS = BINS;

shared uint greatest_key;
shared uint column_key[COLUMNS];
shared uint cut_key;
shared uint chosen;
shared uint list_count;
shared uint list_low;
shared uint list_high;
shared uint min_p_low;
shared uint min_p_high;

// By bits, since compilers may assume that there are no NaN and infinities.
float confined(float x) {
    const uint bits = floatBitsToUint(x);
    const uint magnitude = bits & ~SIGN_BIT;
    if (magnitude > 0x7f800000u) return LOWEST;
    return magnitude == 0 ? 0.0 : uintBitsToFloat((bits & SIGN_BIT) | min(magnitude, GREATEST_BITS));
}

// An unsigned integer of the same order.
uint ordered(float x) {
    const uint bits = floatBitsToUint(x);
    return (bits & SIGN_BIT) != 0 ? ~bits : bits | SIGN_BIT;
}

float unordered(uint key) {
    return uintBitsToFloat((key & SIGN_BIT) != 0 ? key & ~SIGN_BIT : ~key);
}

// `count` is not 0.
float penalized(float x, uint count, Sampling how) {
    precise float y = x > 0.0 ? x / how.repetition_penalty : x * how.repetition_penalty;
    const uint answered = count & ~IN_PROMPT;
    if (answered != 0) {
        y = y - how.presence_penalty;
        y = y - how.frequency_penalty * float(answered);
    }
    return y;
}

layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer AdjustedOut { uint v[]; };

// Writes the logits with bias, penalties and mask into this output's scratch. Others read them: see sum_parts.
void adjust(uint logits_at, uint scratch_at, uint sequence, Sampling how) {
    const uint lane = gl_LocalInvocationID.x;
    for (uint i = lane; i < vocabulary; i += gl_WorkGroupSize.x) {
        AdjustedOut(scratch).v[scratch_at + i] = floatBitsToUint(logits.v[logits_at + i]);
    }
    for (uint n = 0; n < min(how.bias_count, MAX_BIAS); n++) {
        const Bias bias = biases.v[sequence * MAX_BIAS + n];
        if (bias.token < vocabulary && bias.token % gl_WorkGroupSize.x == lane) {
            const float x = confined(uintBitsToFloat(AdjustedOut(scratch).v[scratch_at + bias.token]));
            AdjustedOut(scratch).v[scratch_at + bias.token] = floatBitsToUint(x + bias.value);
        }
    }
    for (uint i = lane; i < vocabulary && how.counted != 0; i += gl_WorkGroupSize.x) {
        const uint count = counts.v[sequence * vocabulary + i];
        if (count != 0) {
            const float x = confined(uintBitsToFloat(AdjustedOut(scratch).v[scratch_at + i]));
            AdjustedOut(scratch).v[scratch_at + i] = floatBitsToUint(penalized(x, count, how));
        }
    }
    const uint mask_at = sequence * ((vocabulary + 31) / 32);
    for (uint i = lane; i < vocabulary && how.masked != 0; i += gl_WorkGroupSize.x) {
        if ((masks.v[mask_at + i / 32] >> (i % 32) & 1) == 0) {
            AdjustedOut(scratch).v[scratch_at + i] = NEGATIVE_INFINITY_BITS;
        }
    }
    memoryBarrierBuffer();
    meet();
}

// This invocation's four logits of the 4 × lanes from the token `first` on, loaded together since one workgroup alone
// cannot hide a load's latency; BEYOND past the vocabulary's end. Loops over them test at their end: see mat_mul.comp.
vec4 next_logits(bool adjusted, uint logits_at, uint scratch_at, uint first) {
    const uint lane = gl_LocalInvocationID.x;
    vec4 x;
    [[unroll]] for (uint c = 0; c < 4; c++) {
        const uint i = first + c * gl_WorkGroupSize.x + lane;
        if (TILE_ROWS > 1 && !adjusted) {
            const uint word = row_word(UintIn(logits), (logits_at + first) / TILE_ROWS + c, gl_SubgroupInvocationID);
            x[c] = confined(uintBitsToFloat(word));
        } else if (i >= vocabulary) {
            x[c] = BEYOND;
        } else if (adjusted) {
            x[c] = confined(uintBitsToFloat(scratch.v[scratch_at + i]));
        } else {
            x[c] = confined(logits.v[logits_at + i]);
        }
    }
    return x;
}

// The greatest logit; leaves the lowest token that has it in `chosen`, and what columns have in `column_key`.
float find_greatest(bool adjusted, uint logits_at, uint scratch_at) {
    const uint lane = gl_LocalInvocationID.x;
    for (uint i = lane; i < COLUMNS; i += gl_WorkGroupSize.x) {
        column_key[i] = 0;
    }
    if (lane == 0) {
        greatest_key = 0;
        chosen = vocabulary;
    }
    vec4 greatest = vec4(BEYOND);
    uvec4 token = uvec4(vocabulary);
    uint first = 0;
    do {
        const vec4 x = next_logits(adjusted, logits_at, scratch_at, first);
        [[unroll]] for (uint c = 0; c < 4; c++) {
            token[c] = x[c] > greatest[c] ? first + c * gl_WorkGroupSize.x + lane : token[c];
            greatest[c] = max(x[c], greatest[c]);
        }
        first += 4 * gl_WorkGroupSize.x;
    } while (first < vocabulary);
    meet();
    [[unroll]] for (uint c = 0; c < 4; c++) {
        atomicMax(greatest_key, ordered(greatest[c]));
        atomicMax(column_key[(c * gl_WorkGroupSize.x + lane) % COLUMNS], ordered(greatest[c]));
    }
    meet();
    [[unroll]] for (uint c = 0; c < 4; c++) {
        if (greatest_key == ordered(greatest[c])) {
            atomicMin(chosen, token[c]);
        }
    }
    meet();
    return unordered(greatest_key);
}

// Leaves a key in `cut_key` that at least `count` tokens reach: the one that so many columns' greatest reach, or 0.
void find_cut(uint count) {
    if (gl_LocalInvocationID.x == 0) {
        cut_key = 0;
    }
    meet();
    for (uint i = gl_LocalInvocationID.x; i < COLUMNS && count > 0 && count <= COLUMNS; i += gl_WorkGroupSize.x) {
        uint reach = 0;
        for (uint other = 0; other < COLUMNS; other++) {
            reach += column_key[other] >= column_key[i] ? 1 : 0;
        }
        if (reach >= count) {
            atomicMax(cut_key, column_key[i]);
        }
    }
    meet();
}

float temperature_scale(Sampling how) {
    return min(LOG2_E / how.temperature, 1e30);
}

// p in units, 0 for what is never sampled. `scale` is that of the temperature.
float units_of(float x, float greatest, float scale) {
    precise const float exponent = (x - greatest) * scale;
    const float units = roundEven(exp2(exponent) * UNITS);
    return exponent <= -33.0 || x <= LOWEST ? 0.0 : (x == greatest ? UNITS : units);
}

void clear_sums() {
    if (gl_LocalInvocationID.x == 0) {
        list_count = 0;
        list_low = 0;
        list_high = 0;
        min_p_low = 0;
        min_p_high = 0;
    }
    clear_bins(0);
    meet();
}

// The running mass that the token sampled at a position reaches: random, from 1 to `mass`.
uvec2 drawn_mass(uvec2 mass, Sampling how, uint position) {
    const uvec4 random = philox4x32_10(uvec4(position, 0, 0, 0), uvec2(how.seed_low, how.seed_high));
    return wide_add(wide_product_high(random.xy, mass), uvec2(1, 0));
}

#include "lib/unfiltered.glsl"

// In parts of 2²⁴.
uint top_p_fraction(Sampling how) {
    return min(uint(round(max(how.top_p, 0.0) * 16777216.0)), 16777216u);
}

// Whether top-p is what bounds the list, by a share of all tokens.
bool top_p_alone(Sampling how) {
    return how.top_k == 0 && how.top_p < 1.0;
}

// Units that top-p surely drops: all tokens of fewer have less in sum than it leaves out of `all`.
float surely_dropped(uvec2 all, Sampling how) {
    const float left_out = float(16777216u - top_p_fraction(how)) / 16777216.0;
    const float units = float(all.y) * 4294967296.0 + float(all.x);
    return floor(0.999 * left_out * units / float(vocabulary));
}

// Fills this invocation's part of the list with the tokens that may be kept, and the sums and top digits over the whole
// list; where top-p alone chooses them, the sums are those of all tokens, `all`. Returns the number of entries. The list
// overwrites adjusted logits, but no slot lies behind the token it is from.
uint list_probabilities(uvec2 all, bool adjusted, uint logits_at, uint scratch_at, float greatest, Sampling how) {
    clear_sums();
    find_cut(how.top_k);
    const float min_p = how.min_p > 0.0 ? min(how.min_p, 1.0) * UNITS : 0.0;
    // What min-p drops still counts for top-p.
    const float keep_from = max(top_p_alone(how) ? surely_dropped(all, how) : (how.top_p < 1.0 ? 0.0 : min_p), 1.0);
    const float scale = temperature_scale(how);
    uint held = 0;
    uvec2 mass = uvec2(0);
    uvec2 min_p_mass = uvec2(0);
    uint first = 0;
    do {
        const vec4 x = next_logits(adjusted, logits_at, scratch_at, first);
        [[dont_unroll]] for (uint c = 0; c < 4; c++) {
            if (ordered(x[c]) < cut_key) continue;
            const float probability = units_of(x[c], greatest, scale);
            if (probability < keep_from) continue;
            const uint slot = held * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
            scratch.v[scratch_at + slot] = floatBitsToUint(probability);
            scratch.v[scratch_at + vocabulary + slot] =
                first + c * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
            held++;
            const uint units = uint(probability);
            mass = wide_add(mass, uvec2(units, 0));
            min_p_mass = wide_add(min_p_mass, uvec2(probability >= min_p ? units : 0, 0));
            add_to_bin(key_of(probability) >> (KEY_BITS - DIGIT_BITS), units);
        }
        first += 4 * gl_WorkGroupSize.x;
    } while (first < vocabulary);
    atomicAdd(list_count, held);
    if (top_p_alone(how)) {
        mass = gl_LocalInvocationID.x == 0 ? all : uvec2(0);
    }
    uint old = atomicAdd(list_low, mass.x);
    atomicAdd(list_high, mass.y + (old + mass.x < old ? 1 : 0));
    old = atomicAdd(min_p_low, min_p_mass.x);
    atomicAdd(min_p_high, min_p_mass.y + (old + min_p_mass.x < old ? 1 : 0));
    meet();
    return held;
}

// What the search of a phase looks for in a list of which `kept` is left; count and mass 0 where it keeps everything.
Share target_of(uint phase, uvec2 kept, Sampling how, uint position) {
    if (phase == TOP_K) {
        return Share(how.top_k < list_count ? how.top_k : 0, uvec2(0));
    }
    if (phase == TOP_P) {
        if (!(how.top_p < 1.0)) return Share(0, uvec2(0));
        const uvec2 target = wide_scale(kept, top_p_fraction(how));
        return Share(0, wide_less(target, uvec2(1, 0)) ? uvec2(1, 0) : target);
    }
    return Share(0, drawn_mass(wide_min(kept, uvec2(min_p_low, min_p_high)), how, position));
}

// Filters the list and draws from what is left. Leaves the token in `chosen`.
void draw(uint scratch_at, uint held, Sampling how, uint position) {
    uvec2 kept = uvec2(list_low, list_high);
    // Elements kept of those that equal the least probability kept.
    uint ties = 0;
    [[dont_unroll]] for (uint phase = TOP_K; phase <= DRAW; phase++) {
        const Share target = target_of(phase, kept, how, position);
        if (target.count == 0 && target.mass == uvec2(0)) continue;
        select_probability(scratch, scratch_at, held, target);
        const uint units = uint(probability_of(found_key));
        ties = phase == TOP_K ? target.count - found_above.count
                              : needed(wide_subtract(target.mass, found_above.mass), units);
        kept = wide_add(found_above.mass, wide_product(ties, units));
    }
    if (found_equal.count > 1) {
        const uint token = select_token(scratch, scratch_at, scratch_at + vocabulary, held, ties);
        if (gl_LocalInvocationID.x == 0) {
            chosen = token;
        }
    } else {
        for (uint n = 0; n < held; n++) {
            const uint slot = n * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
            if (key_of(uintBitsToFloat(scratch.v[scratch_at + slot])) == found_key) {
                chosen = scratch.v[scratch_at + vocabulary + slot];
            }
        }
    }
    meet();
}

bool filters(Sampling how) {
    return (how.top_k > 0 && how.top_k < vocabulary) || how.top_p < 1.0 || how.min_p > 0.0;
}

// Whether the next output is of the same sequence.
bool is_followed(uint output_row, uint sequence) {
    if (output_row + 1 == gl_NumWorkGroups.x || outputs.v[output_row + 1] == NO_ROW) return false;
    const Row following = rows.v[outputs.v[output_row + 1]];
    return following.live != 0 && following.sequence == sequence;
}

void advance(uint output_row, uint sequence, uint position, uint token, bool counted, bool goes_on) {
    if (counted) {
        counts.v[sequence * vocabulary + token] += 1;
    }
    if (!goes_on) {
        next.v[sequence] = Row(token, position, sequence, 1);
    }
    memoryBarrierBuffer();
    ring.v[clock.v[CLOCK_RUNNING] * ring_stride + output_row] = token;
}

void main() {
    const uint output_row = gl_WorkGroupID.x;
    if (outputs.v[output_row] == NO_ROW) return;
    const Row row = rows.v[outputs.v[output_row]];
    if (row.live == 0) return;
    const Sampling how = sampling.v[row.sequence];
    const uint logits_at = output_row * logits_stride;
    const uint scratch_at = output_row * vocabulary * 2;
    const bool adjusted = how.bias_count != 0 || how.counted != 0 || how.masked != 0;
    if (adjusted) {
        adjust(logits_at, scratch_at, row.sequence, how);
    }
    const float greatest = find_greatest(adjusted, logits_at, scratch_at);
    if (how.temperature > 0.0 && greatest > LOWEST) {
        const bool listed = filters(how);
        uvec2 all = uvec2(0);
        if (!listed || top_p_alone(how)) {
            all = sum_residues(adjusted, logits_at, scratch_at, greatest, temperature_scale(how));
        }
        if (listed) {
            const uint held = list_probabilities(all, adjusted, logits_at, scratch_at, greatest, how);
            draw(scratch_at, held, how, row.position + 1);
        } else {
            draw_unfiltered(all, adjusted, logits_at, scratch_at, greatest, how, row.position + 1);
        }
    }
    if (gl_LocalInvocationID.x == 0) {
        const bool goes_on = is_followed(output_row, row.sequence);
        advance(output_row, row.sequence, row.position + 1, chosen, how.counted != 0, goes_on);
    }
}
