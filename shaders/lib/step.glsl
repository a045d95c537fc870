// The step: what changes from token to token, at fixed addresses. The host writes steps into a ring, ahead of the device;
// `begin` takes the next one, `sample` tells what came of it. Rust's structs of the same names are generated from these.

// One token to evaluate.
struct Row {
    uint token;    // id, or SAMPLED_LAST
    uint position; // in its sequence, from 0
    uint sequence; // which block table, sampling parameters, mask and counts it belongs to
    uint live;     // 0: kernels must not touch the cache or the ring for this row
};

// A row's token and position are those that were sampled last for its sequence: the host need not know them yet.
const uint SAMPLED_LAST = 0xffffffffu;

// How the next token of one sequence is chosen; see SamplingParameters in src/engine/request.rs.
struct Sampling {
    float temperature;
    uint top_k;
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint seed_low;
    uint seed_high;
    uint bias_count; // entries of this sequence in the bias table
    uint counted;    // 1: penalties are on, `counts` is read and advanced
    uint masked;     // 1: only tokens whose bits are set in the sequence's mask may be sampled
};

// An entry of a sequence's table of logit biases.
struct Bias {
    uint token;
    float value;
};

// Tokens in one block of the cache; also the width of a tile of keys.
const uint BLOCK_TOKENS = 32;

// Bias entries that the step holds for each sequence.
const uint MAX_BIAS = 1024;

// `counts`: how often each token occurs in a sequence's answer; the top bit says that it occurs in the prompt.
const uint IN_PROMPT = 0x80000000u;

// Steps in the rings: those that the host writes, and the tokens that come of them. Steps in flight are fewer. The host
// clears a step's tokens to NOT_SAMPLED before it submits it.
const uint RING_STEPS = 8;
const uint NOT_SAMPLED = 0xffffffffu;

// Words of the clock: the number of the next step, and where in the rings the running one is.
const uint CLOCK_NEXT = 0;
const uint CLOCK_RUNNING = 1;

// In a list of outputs: no row.
const uint NO_ROW = 0xffffffffu;

layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer RowIn { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer RowOut { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer SamplingIn { Sampling v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer BiasIn { Bias v[]; };
