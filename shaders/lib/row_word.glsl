// Vector loads for a CPU driver. It gathers, lane by lane, whatever lanes load from addresses of their own, side by side or
// not. So lanes together load all that lies side by side, from one address, and each picks its own word: LLVM makes one
// vector load of that. The lanes are a whole subgroup, TILE_ROWS of them, 8 or 16.

layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer EightsIn { uint v[][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer SixteensIn { uint v[][16]; };

layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer EightHalvesIn { uint16_t v[][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer SixteenHalvesIn { uint16_t v[][16]; };

// The lane's of the TILE_ROWS words from TILE_ROWS × `at` on.
uint row_word(UintIn memory, uint at, uint lane) {
    uint words[16];
    [[unroll]] for (uint i = 0; i < TILE_ROWS; ++i) {
        if (TILE_ROWS == 8) {
            words[i] = EightsIn(memory).v[at][i];
        } else {
            words[i] = SixteensIn(memory).v[at][i];
        }
    }
    uint own = words[0];
    [[unroll]] for (uint i = 1; i < TILE_ROWS; ++i) {
        own = mix(own, words[i], lane == i);
    }
    return own;
}

// The lane's of the TILE_ROWS halves from TILE_ROWS × `at` on. Such a load and a half's conversion to a float are one
// instruction.
uint row_half(UintIn memory, uint at, uint lane) {
    uint16_t halves[16];
    [[unroll]] for (uint i = 0; i < TILE_ROWS; ++i) {
        if (TILE_ROWS == 8) {
            halves[i] = EightHalvesIn(memory).v[at][i];
        } else {
            halves[i] = SixteenHalvesIn(memory).v[at][i];
        }
    }
    uint16_t own = halves[0];
    [[unroll]] for (uint i = 1; i < TILE_ROWS; ++i) {
        own = mix(own, halves[i], lane == i);
    }
    return uint(own);
}
