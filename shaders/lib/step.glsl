// The step: what changes from token to token, at fixed addresses. The host writes it while no plan runs; `sample`
// advances it. Rust's structs of the same names are generated from these.

// One token to evaluate.
struct Row {
    uint token;    // id
    uint position; // in its sequence, from 0
    uint sequence; // which block table, sampling parameters, counts and ring it belongs to
    uint live;     // 0: kernels must not touch the cache or the ring for this row
};

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
    uint reserved;
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

// Entries of a sequence's ring of sampled tokens. An entry is token | (position & 0xfff) << 20, where position is that of
// the sampled token: one word, so the host never sees half of it. The host clears them to NOT_SAMPLED before an answer.
// The position tells an entry from that of a lap before, so a lap is shorter than 0x1000; and longer than what is in flight.
const uint RING_TOKENS = 64;
const uint NOT_SAMPLED = 0xffffffffu;

// In a list of outputs: no row.
const uint NO_ROW = 0xffffffffu;

layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer RowIn { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer RowOut { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer SamplingIn { Sampling v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer BiasIn { Bias v[]; };
