// y[row][head] = Σ_t softmax_t(q·k[t] / sqrt(head_dim)) × v[t] over the positions 0..=position of the row's sequence.
//
// FUSED: x is qkv; this dispatch normalizes and rotates, and writes k and v of the row's own position to the cache. No
// other row of the dispatch may belong to the same sequence. Otherwise x is q as rope_store leaves it, and the cache
// holds the own position too. Both give the same bits: every query takes its tokens in the same order and in the same
// portions, counted from position 0. So a row's bits depend neither on the other rows, nor on which blocks its cache lies in.
//
// x: [rows][x_stride], attended: y, [rows][y_stride] (a row that is not live: zeros), score_scale: 1 / sqrt(head_dim); the rest as in
// rope_store. KV_Q8_0: the cache is quantized. One workgroup per RUN_ROWS rows (x) and PART heads that share a kv head (y): what
// is loaded of the cache serves them all. WOVEN: for CPU drivers, a workgroup is one subgroup of 4, 8 or 16 lanes.
//
// Otherwise positions are taken in splits of split_tokens, counted from position 0, each of which makes a share
// (lib/share.glsl); a workgroup folds those of all splits in order. SPLIT, which is FUSED: it takes one split of a row (z), and
// y are shares, for merge to fold; rows of them are y_stride floats apart.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/rope.glsl"
#include "lib/attention.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 8) const uint CHUNK = 64;  // tokens between two rescalings; a multiple of the workgroup
layout(constant_id = 9) const bool FUSED = true;
layout(constant_id = 10) const uint RUN_ROWS = 1; // rows of a workgroup; 1 if FUSED
layout(push_constant, scalar) uniform Push {
    ATTENTION
};

#include "lib/attend.glsl"

void main() {
    lane = own_lane();
    attend(gl_WorkGroupID.x, gl_WorkGroupID.y);
}
