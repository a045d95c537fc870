// y[i] = x[i], in units of 16 bytes: how tables come from the staging buffer to device memory.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Push {
    Uvec4In x;
    Uvec4Out y;
    uint units;
};

void main() {
    const uint i = gl_GlobalInvocationID.x;
    if (i < units) {
        y.v[i] = x.v[i];
    }
}
