// Where the workgroups of a dispatch, each a subgroup, wait for each other. Vulkan promises no workgroup that it goes on while
// another waits for it: only for devices on which that was tried (src/gpu/side_by_side.rs).

// Words from one place to the next: a cache line.
const uint LINE_WORDS = 16;
// Looks at once: lavapipe has ended loops after 65535 turns.
const uint LOOKS = 16384;

// Says that this workgroup has come to a place, where there is a word at place × LINE_WORDS that was 0, and looks whether all
// have, LOOKS times at most. Then what all have written before is there. Atomics, since a plain load could be taken out of the
// loop.
bool arrive(UintOut arrived, uint place) {
    bool all = true;
    memoryBarrierBuffer();
    if (gl_SubgroupInvocationID == 0) {
        uint count = atomicAdd(arrived.v[place * LINE_WORDS], 1u) + 1;
        for (uint look = 0; count < gl_NumWorkGroups.x && look < LOOKS; ++look) {
            count = atomicOr(arrived.v[place * LINE_WORDS], 0u);
        }
        all = count >= gl_NumWorkGroups.x;
    }
    memoryBarrierBuffer();
    return subgroupMin(all ? 1u : 0u) == 1u;
}

// The same, however long it takes.
void meet(UintOut arrived, uint place) {
    memoryBarrierBuffer();
    if (gl_SubgroupInvocationID == 0) {
        uint count = atomicAdd(arrived.v[place * LINE_WORDS], 1u) + 1;
        while (count < gl_NumWorkGroups.x) {
            for (uint look = 0; count < gl_NumWorkGroups.x && look < LOOKS; ++look) {
                count = atomicOr(arrived.v[place * LINE_WORDS], 0u);
            }
        }
    }
    memoryBarrierBuffer();
}
