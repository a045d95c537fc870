// y[row][head] = sums / total of the shares that attend_split has left of a row's splits, folded in their order. The same
// arithmetic as that of attend, which walks over the splits by itself.
//
// shares: [rows][splits][heads][SHARE] vec4 (lib/share.glsl). y: [rows][heads][head_dim]; a row
// that is not live: zeros. A row has a split for every split_tokens positions before its own, and one at least; the shares
// behind them are not read. One workgroup per row (x) and head (y).
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint HEAD_DIM = 128; // a multiple of 8
layout(constant_id = 2) const uint HEADS = 16;

#include "lib/share.glsl"

layout(push_constant, scalar) uniform Push {
    Vec4In shares;
    RowIn rows;
    Vec4Out y;
    uint splits; // of a row of shares
    uint split_tokens;
};

void main() {
    const uint r = gl_WorkGroupID.x;
    const uint head = gl_WorkGroupID.y;
    const Row row = rows.v[r];
    const uint position = row.live != 0 ? row.position : 0;
    for (uint i = gl_LocalInvocationID.x; i < HEAD_DIM / 4; i += gl_WorkGroupSize.x) {
        uint at = (r * splits * HEADS + head) * SHARE;
        float highest = 0.0;
        float total = 0.0;
        vec4 sums = vec4(0.0);
        // The test stands at the end: lavapipe runs a loop once more without a lane, and loads what all lanes share.
        uint first = 0;
        do {
            const vec4 next = shares.v[at];
            const vec4 next_sums = shares.v[at + 1 + i];
            const vec2 scales = first == 0 ? vec2(0.0, 1.0) : fold_scales(highest, next.x);
            sums = first == 0 ? next_sums : folded(sums, next_sums, scales);
            total = first == 0 ? next.y : folded(total, next.y, scales);
            highest = first == 0 ? next.x : max(highest, next.x);
            at += HEADS * SHARE;
            first += split_tokens;
        } while (first < position);
        y.v[(r * HEADS + head) * (HEAD_DIM / 4) + i] = row.live != 0 ? sums / total : vec4(0.0);
    }
}
