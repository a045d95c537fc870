// y[i] = sum of 12 chains that are stepped x = x × factor + addend and start at i mod 8, i mod 8 + 1, …: shows how many
// multiply-adds a device does.
//
// y: [groups × lanes]. A chain waits for itself alone, and twelve hide what a CPU takes to give a result; a GPU has more
// lanes for that. `steps` is a multiple of 16 and not 0.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    FloatOut y;
    uint steps;
    float factor;
    float addend;
};

void main() {
    const uint i = gl_GlobalInvocationID.x;
    vec4 a = vec4(0, 1, 2, 3) + float(i % 8), b = a + 4.0, c = a + 8.0;
    const vec4 by = vec4(factor), more = vec4(addend);
    uint done = 0;
    do {
        [[unroll]] for (uint turn = 0; turn < 16; ++turn) {
            a = fma(a, by, more);
            b = fma(b, by, more);
            c = fma(c, by, more);
        }
        done += 16;
    } while (done < steps);
    const vec4 sum = a + b + c;
    y.v[i] = sum.x + sum.y + sum.z + sum.w;
}
