// y[r][k] = weight[rows[r].token][k]: the embedding of each row's token, from the repacked matrix.
//
// rows: [groups] Row, weight: rows of `cols` columns (lib/quant.glsl), y: [groups][cols].
// One workgroup owns one row; its lanes take vectors of four columns. cols % 4 == 0. Ids beyond the matrix give zeros.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/quant.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    RowIn rows;
    UintIn weight;
    Vec4Out y;
    uint cols;
    uint vocabulary;
    uint high;
    uint scales;
    uint supers;
};

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint token = rows.v[row].token;
    const bool known = token < vocabulary && rows.v[row].live != 0;
    const uint blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    const uint tile = known ? token / TILE_ROWS : 0;
    const uint lane = known ? token % TILE_ROWS : 0;
    for (uint k4 = gl_LocalInvocationID.x; k4 < cols / 4; k4 += gl_WorkGroupSize.x) {
        const Block b = load_block(weight, Planes(high, scales, supers), blocks, tile, k4 / 8, lane);
#if defined(WOVEN)
        const vec4 q = quants(weight, b, k4 % 8);
        const float factor = 1.0;
#else
        // A constant index for each case, so that no block is indexed at run time.
        vec4 q = quants(weight, b, 0);
        float factor = group_scale(b, 0);
        [[unroll]] for (uint c = 1; c < 8; ++c) {
            if (k4 % 8 == c) {
                q = quants(weight, b, c);
                factor = group_scale(b, c);
            }
        }
#endif
        y.v[row * (cols / 4) + k4] = known ? q * factor + group_minimum(b) : vec4(0.0);
    }
}
