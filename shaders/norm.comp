// y[o][k] = x[r][k] × gain[k]; scale[o] = 1 / sqrt(mean_k(x[r][k]²) + eps), where r = select[o].
// The product with scale is left to the mat_mul that reads y, so that it equals mat_mul's own prologue bit for bit.
//
// With AHEAD the squares are added up already: square_count partial sums of each row (mat_mul.comp).
//
// x: [rows][cols], y: [outputs][cols], scale: [outputs], select: [outputs] row indices (NO_ROW: zeros).
// One workgroup, of one or more subgroups, owns one output row; cols % 4 == 0.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/norm.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const bool AHEAD = false;
layout(push_constant, scalar) uniform Push {
    Vec4In x;
    Vec4In gain;
    UintIn select;
    FloatIn squares;
    Vec4Out y;
    FloatOut scale;
    uint cols;
    uint square_count;
    float eps;
};

void main() {
    const uint output_row = gl_WorkGroupID.x;
    const uint row = select.v[output_row];
    const bool wanted = row != NO_ROW;
    const uint cols4 = cols / 4;
    const uint first = (wanted ? row : 0) * cols4;
    float inverse;
    if (AHEAD) {
        inverse = inverse_rms_of(squares, (wanted ? row : 0) * square_count, square_count, cols, eps);
    } else {
        inverse = inverse_rms(x, first, cols, eps);
    }
    if (gl_LocalInvocationID.x == 0) {
        scale.v[output_row] = wanted ? inverse : 0.0;
    }
    for (uint i = gl_LocalInvocationID.x; i < cols4; i += gl_WorkGroupSize.x) {
        y.v[output_row * cols4 + i] = wanted ? x.v[first + i] * gain.v[i] : vec4(0.0);
    }
}
