// Vector loads for a CPU driver. It gathers, lane by lane, whatever lanes load from addresses of their own, side by side or
// not. So lanes together load all that lies side by side, from one address, and each picks its own word: LLVM makes one
// vector load of that. The lanes are a whole subgroup, TILE_ROWS of them, 8 or 16.

// What a row has side by side with the next one's: a word, or the 16 bits of an element, whose load and conversion to a float
// are then one instruction.
#if defined(FORMAT_F16) || defined(FORMAT_BF16)
#define RowWord uint16_t
#else
#define RowWord uint
#endif
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer EightsIn { RowWord v[][8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer SixteensIn { RowWord v[][16]; };

// The lane's of the first TILE_ROWS.
uint own_word(RowWord words[16], uint lane) {
    RowWord own = words[0];
    [[unroll]] for (uint i = 1; i < TILE_ROWS; ++i) {
        own = mix(own, words[i], lane == i);
    }
    return uint(own);
}

// The lane's of the TILE_ROWS words from TILE_ROWS × `at` on.
uint row_word(UintIn memory, uint at, uint lane) {
    RowWord words[16];
    [[unroll]] for (uint i = 0; i < TILE_ROWS; ++i) {
        if (TILE_ROWS == 8) {
            words[i] = EightsIn(memory).v[at][i];
        } else {
            words[i] = SixteensIn(memory).v[at][i];
        }
    }
    return own_word(words, lane);
}
