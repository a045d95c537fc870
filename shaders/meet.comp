// y[group] = the rounds in which the workgroup found all others there: shows whether a device runs the workgroups of a
// dispatch side by side, and what their waiting for each other costs.
//
// arrived: [rounds][16] words, 0 before: workgroups that have come to a round. One that
// does not find the others goes no further.
// Grid: x = workgroups, a subgroup each.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/meet.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    UintOut arrived;
    UintOut y;
    uint rounds;
};

void main() {
    uint found = 0;
    while (found < rounds && arrive(arrived, found)) {
        ++found;
    }
    if (gl_SubgroupInvocationID == 0) {
        y.v[gl_WorkGroupID.x] = found;
    }
}
