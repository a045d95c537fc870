// A draw from all tokens, without a list. The order is that of (id % RESIDUES, id): sums by
// residue are what every invocation can take on its way, so all logits are read once, and those of one residue again.

// Divides 4 × lanes, so that the tokens which an invocation loads as its c-th are of one residue.
const uint RESIDUES = 16;

// Fills the second half of bins: bin BINS - 1 - p with the mass of the p-th of BINS parts, `part` tokens each, of the
// `count` tokens of a residue from number `first` on.
void sum_parts(bool adjusted, uint logits_at, uint scratch_at, float greatest, float scale, uint residue, uint first,
               uint count, uint part) {
    for (uint p = gl_LocalInvocationID.x; p < BINS; p += gl_WorkGroupSize.x) {
        uvec2 mass = uvec2(0);
        for (uint n = p * part; n < min((p + 1) * part, count); n++) {
            const uint token = residue + RESIDUES * (first + n);
            const float x = adjusted ? uintBitsToFloat(AdjustedOut(scratch).v[scratch_at + token]) : logits.v[logits_at + token];
            mass = wide_add(mass, uvec2(uint(units_of(confined(x), greatest, scale)), 0));
        }
        bin_low[2 * BINS - 1 - p] = mass.x;
        bin_high[2 * BINS - 1 - p] = mass.y;
    }
    meet();
}

// The units of all tokens; leaves those of each residue in the second half of bins, the first residue's in the top one.
uvec2 sum_residues(bool adjusted, uint logits_at, uint scratch_at, float greatest, float scale) {
    clear_bins(BINS);
    meet();
    uvec2 mass[4] = uvec2[](uvec2(0), uvec2(0), uvec2(0), uvec2(0));
    uint first = 0;
    do {
        const vec4 x = next_logits(adjusted, logits_at, scratch_at, first);
        [[unroll]] for (uint c = 0; c < 4; c++) {
            mass[c] = wide_add(mass[c], uvec2(uint(units_of(x[c], greatest, scale)), 0));
        }
        first += 4 * gl_WorkGroupSize.x;
    } while (first < vocabulary);
    [[unroll]] for (uint c = 0; c < 4; c++) {
        const uint bin = 2 * BINS - 1 - (c * gl_WorkGroupSize.x + gl_LocalInvocationID.x) % RESIDUES;
        const uint old = atomicAdd(bin_low[bin], mass[c].x);
        atomicAdd(bin_high[bin], mass[c].y + (old + mass[c].x < old ? 1 : 0));
    }
    meet();
    uvec2 all = uvec2(0);
    [[dont_unroll]] for (uint residue = 0; residue < RESIDUES; residue++) {
        all = wide_add(all, bin_share(2 * BINS - 1 - residue).mass);
    }
    return all;
}

// Leaves the token in `chosen`; `all` is what sum_residues gave.
void draw_unfiltered(uvec2 all, bool adjusted, uint logits_at, uint scratch_at, float greatest, Sampling how, uint position) {
    const Share target = Share(0, drawn_mass(all, how, position));
    find_digit(BINS, 0, Share(0, uvec2(0)), target);
    const uint residue = BINS - 1 - found_key;
    uint first = 0;
    for (uint count = (vocabulary - residue + RESIDUES - 1) / RESIDUES; count > 1;) {
        const uint part = (count + BINS - 1) / BINS;
        const Share above = found_above;
        sum_parts(adjusted, logits_at, scratch_at, greatest, temperature_scale(how), residue, first, count, part);
        find_digit(BINS, 0, above, target);
        const uint skipped = (BINS - 1 - found_key) * part;
        first += skipped;
        count = min(part, count - skipped);
    }
    if (gl_LocalInvocationID.x == 0) {
        chosen = residue + RESIDUES * first;
    }
    meet();
}
