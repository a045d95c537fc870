// Where the workgroups of a dispatch, each a subgroup, wait for each other. Vulkan promises no workgroup that it goes on while
// another waits for it: only for devices on which that was tried (src/gpu/side_by_side.rs).

// Words from one place to the next: a cache line.
const uint LINE_WORDS = 16;
// Looks at once: lavapipe has ended loops after 65535 turns.
const uint LOOKS = 16384;

// How many workgroups have come, where `count` had: looks until all have, LOOKS times at most. Atomics, since a plain load could be
// taken out of the loop.
uint look(UintOut arrived, uint at, uint count) {
    for (uint turn = 0; count < gl_NumWorkGroups.x && turn < LOOKS; ++turn) {
        count = atomicOr(arrived.v[at], 0u);
    }
    return count;
}

// Says that this workgroup has come to a place, where there is a word at place × LINE_WORDS that was 0, and looks whether all
// have, LOOKS times at most. Then what all have written before is there.
bool arrive(UintOut arrived, uint place) {
    const uint at = place * LINE_WORDS;
    bool all = true;
    memoryBarrierBuffer();
    if (gl_SubgroupInvocationID == 0) {
        all = look(arrived, at, atomicAdd(arrived.v[at], 1u) + 1) >= gl_NumWorkGroups.x;
    }
    memoryBarrierBuffer();
    return subgroupMin(all ? 1u : 0u) == 1u;
}

// The same, however long it takes.
void meet(UintOut arrived, uint place) {
    const uint at = place * LINE_WORDS;
    memoryBarrierBuffer();
    if (gl_SubgroupInvocationID == 0) {
        uint count = atomicAdd(arrived.v[at], 1u) + 1;
        while (count < gl_NumWorkGroups.x) {
            count = look(arrived, at, count);
        }
    }
    memoryBarrierBuffer();
}
