// y[t][row] = epilogue(scale[t] × Σ_k weight[row][k] × x[t][k] × gain[k] + bias[row])
//
// x: [tokens][x_stride] floats, weight: repacked matrix of `rows` rows and `cols` columns (lib/quant.glsl),
// y: [tokens][y_stride]. For decode TOKENS is 1 and this is a matrix-vector product; for prefill it is a register tile.
// Each lane owns ROWS rows, one in each of ROWS consecutive tiles, and TOKENS tokens; a tile's rows make a part, and the
// workgroup's parts take blocks of columns in turn and add up at the end. Activations are read at addresses
// that all lanes of a part share. For one part, sums run over k in one order whatever ROWS and TOKENS are, so a
// token's result does not depend on its neighbours.
// With AHEAD the rows of y are also prepared for the norm that comes next: normed[t][row] = y × gain[row], and
// squares[t][tile] = the tile's sum of y², which NORM 3 adds up; a tile's lanes are then one subgroup.
// Grid: x = tokens / TOKENS, y = tiles / ROWS, both rounded up: neighbours share the weights, which are then read from
// memory once, and x, which is smaller, from a cache.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/quant.glsl"
#include "lib/norm.glsl"
#include "lib/product.glsl"

layout(constant_id = 3) const uint NORM = 0;
layout(constant_id = 4) const uint EPILOGUE = 0;
layout(constant_id = 5) const bool BIAS = false;
layout(constant_id = 8) const bool AHEAD = false;
#define GAINED (NORM == 1)

layout(push_constant, scalar) uniform Push {
    PRODUCT
};

#include "lib/mat_mul.glsl"
#include "lib/mat_mul_blocks.glsl"

void main() {
#if defined(WOVEN)
    // The workgroup is one subgroup. Unlike the invocation's number in the workgroup, that in the subgroup is a constant to a
    // CPU driver's compiler, which then knows which lanes take which words.
    const uint lane = gl_SubgroupInvocationID;
#else
    const uint lane = gl_LocalInvocationID.x % TILE_ROWS;
#endif
    const uint part = PARTS > 1 ? gl_LocalInvocationID.x / TILE_ROWS : 0;
    multiply(gl_WorkGroupID.y * ROWS, gl_WorkGroupID.x * TOKENS, part, lane);
}
