// Takes the next step: rows[r] and outputs[o] = those that the host has put into the rings at the clock's place, a row of
// SAMPLED_LAST filled in from what its sequence sampled last; then the clock goes on by one step.
//
// row_ring: [RING_STEPS][row_stride], output_ring: [RING_STEPS][output_stride], next: by sequence, clock: [2],
// rows: [row_count], outputs: [output_count]. One workgroup.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    RowIn row_ring;
    UintIn output_ring;
    RowIn next;
    UintOut clock;
    RowOut rows;
    UintOut outputs;
    uint row_stride;
    uint output_stride;
    uint row_count;
    uint output_count;
};

void main() {
    const uint step = clock.v[CLOCK_NEXT];
    const uint at = step % RING_STEPS;
    barrier(); // Everyone has read the clock.
    if (gl_LocalInvocationID.x == 0) {
        clock.v[CLOCK_NEXT] = step + 1;
        clock.v[CLOCK_RUNNING] = at;
    }
    for (uint i = gl_LocalInvocationID.x; i < row_count; i += gl_WorkGroupSize.x) {
        Row row = row_ring.v[at * row_stride + i];
        if (row.token == SAMPLED_LAST) {
            const Row last = next.v[row.sequence];
            row.token = last.token;
            row.position = last.position;
        }
        rows.v[i] = row;
    }
    for (uint i = gl_LocalInvocationID.x; i < output_count; i += gl_WorkGroupSize.x) {
        outputs.v[i] = output_ring.v[at * output_stride + i];
    }
}
