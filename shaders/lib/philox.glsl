// Philox4x32-10, a counter-based random generator: four random words from a counter and a key, no state.
// Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11.
uvec4 philox4x32_10(uvec4 counter, uvec2 key) {
    for (uint round = 0; round < 10; round++) {
        uint high_x, low_x, high_z, low_z;
        umulExtended(0xd2511f53u, counter.x, high_x, low_x);
        umulExtended(0xcd9e8d57u, counter.z, high_z, low_z);
        counter = uvec4(high_z ^ counter.y ^ key.x, low_z, high_x ^ counter.w ^ key.y, low_x);
        key += uvec2(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}
