// Root-mean-square normalization, shared by everything that starts with one so that all get the same bits.

// 1 / sqrt(mean(x²) + eps) over `cols` floats at x4[first4…], computed by each subgroup on its own; cols % 4 == 0.
float inverse_rms(Vec4In x, uint first4, uint cols, float eps) {
    float sum = 0.0;
    for (uint i = gl_SubgroupInvocationID; i < cols / 4; i += gl_SubgroupSize) {
        const vec4 v = x.v[first4 + i];
        sum = fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, fma(v.w, v.w, sum))));
    }
    return 1.0 / sqrt(subgroupAdd(sum) / float(cols) + eps);
}

// The same from `count` partial sums of squares at squares[first…].
float inverse_rms_of(FloatIn squares, uint first, uint count, uint cols, float eps) {
    float sum = 0.0;
    for (uint i = gl_SubgroupInvocationID; i < count; i += gl_SubgroupSize) {
        sum += squares.v[first + i];
    }
    return 1.0 / sqrt(subgroupAdd(sum) / float(cols) + eps);
}
