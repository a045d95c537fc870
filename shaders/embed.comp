// y[r][k] = weight[rows[r].token][k]: the embedding of each row's token, from the repacked matrix.
//
// rows: [groups] Row, weight: rows of `cols` columns (lib/quant.glsl), y: [groups][cols].
// With AHEAD also normed[r] = y[r] × gain and squares[r] = the sum of y[r]² (mat_mul.comp); a workgroup is then one
// subgroup.
// One workgroup owns one row; its lanes take vectors of four columns. cols % 4 == 0. Ids beyond the matrix give zeros.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/quant.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const bool AHEAD = false;
layout(push_constant, scalar) uniform Push {
    RowIn rows;
    UintIn weight;
    Vec4In gain;
    Vec4Out y;
    Vec4Out normed;
    FloatOut squares;
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
    float sum = 0.0;
    for (uint k4 = gl_LocalInvocationID.x; k4 < cols / 4; k4 += gl_WorkGroupSize.x) {
        Block b = load_block(weight, Planes(high, scales, supers), blocks, tile, k4 / 8, lane);
        load_word(weight, b, k4 % 8);
        // A constant index for each case, so that no block is indexed at run time.
        vec4 q = quants(b, 0);
        float factor = group_scale(b, 0);
        [[unroll]] for (uint c = 1; c < 8; ++c) {
            if (k4 % 8 == c) {
                q = quants(b, c);
                factor = group_scale(b, c);
            }
        }
        const vec4 value = known ? q * factor + group_minimum(b) : vec4(0.0);
        y.v[row * (cols / 4) + k4] = value;
        if (AHEAD) {
            normed.v[row * (cols / 4) + k4] = value * gain.v[k4];
            sum = fma(value.x, value.x, fma(value.y, value.y, fma(value.z, value.z, fma(value.w, value.w, sum))));
        }
    }
    if (AHEAD) {
        sum = subgroupAdd(sum);
        if (gl_LocalInvocationID.x == 0) {
            squares.v[row] = sum;
        }
    }
}
