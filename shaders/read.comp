// y[i] = sum of the words that lane i of all lanes reads of x: shows how fast a device reads memory.
//
// x: [groups][units] of 16 bytes; y: [groups × lanes], sums modulo 2³². A workgroup owns `units` units side by side. Its
// lanes take them by turns, or with `broadcast` every lane takes every one, which CPU drivers load once for all lanes.
// A lane takes four at a time, so `units` is a multiple of 4, or of 4 × lanes, and never 0.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const bool broadcast = false;
layout(push_constant, scalar) uniform Push {
    Uvec4In x;
    UintOut y;
    uint units;
};

void main() {
    const uint first = gl_WorkGroupID.x * units;
    const uint lanes = broadcast ? 1 : gl_WorkGroupSize.x;
    uvec4 sum = uvec4(0);
    uint at = first + (broadcast ? 0 : gl_LocalInvocationID.x);
    // The test stands at the end: lavapipe runs a body once more where it stands at the head.
    do {
        sum += x.v[at] + x.v[at + lanes] + x.v[at + 2 * lanes] + x.v[at + 3 * lanes];
        at += 4 * lanes;
    } while (at < first + units);
    y.v[gl_GlobalInvocationID.x] = sum.x + sum.y + sum.z + sum.w;
}
