// What a layer does, one stage behind another in one dispatch, each as its own kernel computes it: by one workgroup, or on
// drivers that run all of a dispatch side by side; for them waiting for each other costs less than a dispatch. Stages are
// products, as mat_mul's, of one format and with MIXED of Q6_K too; with ATTENDS also attention, as attend's when it is FUSED.
//
// stages: [stage_count] records. arrived: [stage_count][16] words, 0 before and after: workgroups that have done a stage. The
// last line counts those that have left, and the last of them clears all.
// Grid: x = as many workgroups as run side by side, a subgroup each. Each owns as many neighbouring pieces of every stage as
// the others: ROWS tiles × TOKENS tokens of a product, PART heads of a row of attention.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/quant.glsl"
#include "lib/norm.glsl"
#include "lib/product.glsl"
#include "lib/attention.glsl"
#include "lib/meet.glsl"
#include "lib/step.glsl"
#define ATTENTION_ID(number) 20 + number
#include "lib/rope.glsl"

layout(constant_id = 9) const bool MIXED = false;
layout(constant_id = 10) const bool ATTENDS = false;

// What a record's stage is.
const uint PRODUCT_OF_FORMAT = 0;
const uint PRODUCT_OF_Q6_K = 1;
const uint ATTENTION_FUSED = 2;

// A record: what the stage is, its push constants, of which there are multiples of 8 bytes, and its specialization constants.
// Those that a chain's stages share are this kernel's own.
struct ProductStage {
    uint kind;
    uint unused;
    PRODUCT
    uint rounded_up;
    uint local_size;
    uint tile_count;
    uint token_count;
    uint norm;
    uint epilogue;
    uint has_bias;
    uint ragged;
    uint tile_rows;
    uint ahead;
    uint record_rounded_up;
};
struct AttentionStage {
    uint kind;
    uint unused;
    ATTENTION
    uint c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10; // all shared
    uint rounded_up_0, rounded_up_1, rounded_up_2;
};
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer ProductsIn { ProductStage v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer AttentionsIn { AttentionStage v[]; };
layout(push_constant, scalar) uniform Push {
    ProductsIn stages;
    UintOut arrived;
    uint stage_count;
};

// The stage at hand.
PRODUCT
uint norm;
uint epilogue;
bool has_bias;
bool ahead;
#define NORM norm
#define GAINED false
#define EPILOGUE epilogue
#define BIAS has_bias
#define AHEAD ahead

#include "lib/mat_mul.glsl"
#include "lib/mat_mul_blocks.glsl"

// Of attention, what a product does not have.
FloatIn q_gain;
FloatIn k_gain;
Vec2In rope;
RowIn step_rows;
UintIn blocks;
Uvec4Out keys;
Uvec4Out values;
Vec4Out attended;
uint max_blocks;
uint cache_blocks;
uint count;
float score_scale;
const bool FUSED = true;
const uint RUN_ROWS = 1;

#include "lib/attend.glsl"

#if defined(HAS_Q6_K_TOO)
#include "lib/q6_k_too.glsl"
#endif

// Returns how many pieces a stage has.
uint take_product(uint i) {
    ProductStage stage = stages.v[i];
    x = stage.x;
    gain = stage.gain;
    scale = stage.scale;
    weight = stage.weight;
    bias = stage.bias;
    other = stage.other;
    y = stage.y;
    normed = stage.normed;
    squares = stage.squares;
    cols = stage.cols;
    rows = stage.rows;
    tokens = stage.tokens;
    x_stride = stage.x_stride;
    y_stride = stage.y_stride;
    tiles = stage.tiles;
    high = stage.high;
    scales = stage.scales;
    supers = stage.supers;
    square_count = stage.square_count;
    eps = stage.eps;
    norm = stage.norm;
    epilogue = stage.epilogue;
    has_bias = stage.has_bias != 0;
    ahead = stage.ahead != 0;
    return (tokens + TOKENS - 1) / TOKENS * ((tiles + ROWS - 1) / ROWS);
}

uint take_attention(uint i) {
    // Member by member: glslang runs out of memory over a copy of them all.
    AttentionsIn all = AttentionsIn(stages);
    x = all.v[i].x;
    q_gain = all.v[i].q_gain;
    k_gain = all.v[i].k_gain;
    rope = all.v[i].rope;
    step_rows = all.v[i].step_rows;
    blocks = all.v[i].blocks;
    keys = all.v[i].keys;
    values = all.v[i].values;
    attended = all.v[i].attended;
    x_stride = all.v[i].x_stride;
    y_stride = all.v[i].y_stride;
    max_blocks = all.v[i].max_blocks;
    cache_blocks = all.v[i].cache_blocks;
    count = all.v[i].count;
    score_scale = all.v[i].score_scale;
    eps = all.v[i].eps;
    return count * KV_HEADS * HEAD_PARTS;
}

void compute(uint kind, uint piece) {
    if (ATTENDS && kind == ATTENTION_FUSED) {
        attend(piece / (KV_HEADS * HEAD_PARTS), piece % (KV_HEADS * HEAD_PARTS));
        return;
    }
    const uint across = (tokens + TOKENS - 1) / TOKENS;
    const uint first_tile = piece / across * ROWS;
    const uint first_token = piece % across * TOKENS;
#if defined(HAS_Q6_K_TOO)
    if (MIXED && kind == PRODUCT_OF_Q6_K) {
        multiply_q6_k(first_tile, first_token, 0, gl_SubgroupInvocationID);
        return;
    }
#endif
    multiply(first_tile, first_token, 0, gl_SubgroupInvocationID);
}

// Clears the counts for the next time.
void leave() {
    if (gl_SubgroupInvocationID == 0) {
        const uint last = stage_count - 1;
        if (atomicAdd(arrived.v[last * LINE_WORDS], 1u) == gl_NumWorkGroups.x - 1) {
            for (uint stage = 0; stage <= last; ++stage) {
                arrived.v[stage * LINE_WORDS] = 0;
            }
        }
    }
}

void main() {
    lane = own_lane();
    const uint group = gl_WorkGroupID.x;
    const uint groups = gl_NumWorkGroups.x;
    uint stage = 0;
    do {
        const uint kind = stages.v[stage].kind;
        uint pieces = 0;
        if (ATTENDS && kind == ATTENTION_FUSED) {
            pieces = take_attention(stage);
        } else {
            pieces = take_product(stage);
        }
        // Where there are fewer pieces of a product than workgroups some are computed twice, to the same bits.
        uint piece = group * pieces / groups;
        const uint end = (group + 1) * pieces / groups;
        do {
            compute(kind, piece);
            ++piece;
        } while (piece < end);
        ++stage;
        if (stage < stage_count) {
            meet(arrived, stage - 1);
        }
    } while (stage < stage_count);
    leave();
}
