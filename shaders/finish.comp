// ring[running step][0] = 0: tells the host of a step that samples nothing that it is done. `after` is what must be
// complete by then. One invocation.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    FloatIn after;
    UintIn clock;
    UintOut ring;
    uint ring_stride;
};

void main() {
    ring.v[clock.v[CLOCK_RUNNING] * ring_stride] = 0;
}
