// Products one behind another in one dispatch, each as mat_mul computes it: for one workgroup, or drivers that run all of a dispatch
// side by side; for them waiting for each other costs less than a dispatch.
//
// stages: [stage_count] products, as mat_mul's push constants with its specialization constants behind them, of which
// ROWS, TOKENS, RAGGED and TILE_ROWS are this kernel's own. A stage may read what the stages before it have written.
// arrived: [stage_count][16] words, 0 before and after: workgroups that have done a stage. The last line counts those that
// have left, and the last of them clears all.
// Grid: x = as many workgroups as run side by side, a subgroup each. Each owns as many neighbouring pieces (ROWS tiles ×
// TOKENS tokens) of every stage as the others.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/quant.glsl"
#include "lib/norm.glsl"
#include "lib/product.glsl"
#include "lib/meet.glsl"

struct Stage {
    PRODUCT
    uint rounded_up; // push constants end at a multiple of 8 bytes
    uint local_size;
    uint tile_count;
    uint token_count;
    uint norm;
    uint epilogue;
    uint has_bias;
    uint ragged;
    uint tile_rows;
    uint ahead;
};
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer StagesIn { Stage v[]; };
layout(push_constant, scalar) uniform Push {
    StagesIn stages;
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

void take(uint i) {
    Stage stage = stages.v[i];
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
}

// Clears the counts for the next time.
void leave(uint lane) {
    if (lane == 0) {
        const uint last = stage_count - 1;
        if (atomicAdd(arrived.v[last * LINE_WORDS], 1u) == gl_NumWorkGroups.x - 1) {
            for (uint stage = 0; stage <= last; ++stage) {
                arrived.v[stage * LINE_WORDS] = 0;
            }
        }
    }
}

void main() {
    const uint lane = gl_SubgroupInvocationID;
    const uint group = gl_WorkGroupID.x;
    const uint groups = gl_NumWorkGroups.x;
    uint stage = 0;
    do {
        take(stage);
        const uint across = (tokens + TOKENS - 1) / TOKENS;
        const uint pieces = across * ((tiles + ROWS - 1) / ROWS);
        // Where there are fewer pieces than workgroups some are computed twice, to the same bits.
        uint piece = group * pieces / groups;
        const uint end = (group + 1) * pieces / groups;
        do {
            multiply(piece / across * ROWS, piece % across * TOKENS, 0, lane);
            ++piece;
        } while (piece < end);
        ++stage;
        if (stage < stage_count) {
            meet(arrived, stage - 1);
        }
    } while (stage < stage_count);
    leave(lane);
}
