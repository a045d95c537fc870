// Radix select over a list that is spread over the invocations of one workgroup: the element at which the running count
// or the running mass, from the greatest key down, reaches a target. Everything is an integer, so the result depends
// neither on the order of the atomics nor on how many invocations share the work.
//
// An element of the list is a probability, in units (a float that holds an integer of 1 to 2³¹: exact, since it came
// from a float), and a token. Entry n of an invocation lies at slot n × lanes + lane: written and read by it alone.

const uint DIGIT_BITS = 7;
const uint BINS = 1u << DIGIT_BITS;
const uint LEVELS = 4;
const uint KEY_BITS = DIGIT_BITS * LEVELS;
const uint GREATEST_KEY = (1u << KEY_BITS) - 1;
const uint GROUP_BINS = 16;

// Keys are 28 bits. That of a probability is its float's bits over those of 1.0: its top digit is then logarithmic,
// which spreads what a softmax yields.
const uint BITS_OF_ONE = 0x3f800000u;

// What a histogram's bin, or a run of bins, holds: how many elements, and their units as a 64-bit sum.
struct Share {
    uint count;
    uvec2 mass;
};

// The first half are the probabilities' top digits, filled once; the second the digits that a search is looking at.
shared uint bin_count[2 * BINS];
shared uint bin_low[2 * BINS];
shared uint bin_high[2 * BINS];
shared Share group_share[BINS / GROUP_BINS];

// What the last search found: the key at which the target is reached, the elements of greater key, those of equal key.
shared uint found_key;
shared Share found_above;
shared Share found_equal;

Share combined(Share a, Share b) {
    return Share(a.count + b.count, wide_add(a.mass, b.mass));
}

Share bin_share(uint bin) {
    return Share(bin_count[bin], uvec2(bin_low[bin], bin_high[bin]));
}

void clear_bins(uint first) {
    for (uint i = gl_LocalInvocationID.x; i < BINS; i += gl_WorkGroupSize.x) {
        bin_count[first + i] = 0;
        bin_low[first + i] = 0;
        bin_high[first + i] = 0;
    }
}

void add_to_bin(uint bin, uint units) {
    atomicAdd(bin_count[bin], 1);
    const uint old = atomicAdd(bin_low[bin], units);
    if (old + units < old) {
        atomicAdd(bin_high[bin], 1);
    }
}

uint key_of(float probability) {
    return floatBitsToUint(probability) - BITS_OF_ONE;
}

float probability_of(uint key) {
    return uintBitsToFloat(key + BITS_OF_ONE);
}

bool reaches(Share share, Share target) {
    return share.count >= target.count && !wide_less(share.mass, target.mass);
}

// From the top bin of the half at `first` down: the bin where `above` + bins reach the target. Leaves it in found_*.
void find_digit(uint first, uint prefix, Share above, Share target) {
    for (uint group = gl_LocalInvocationID.x; group < BINS / GROUP_BINS; group += gl_WorkGroupSize.x) {
        Share sum = Share(0, uvec2(0));
        [[dont_unroll]] for (uint i = 0; i < GROUP_BINS; i++) {
            sum = combined(sum, bin_share(first + group * GROUP_BINS + i));
        }
        group_share[group] = sum;
    }
    meet();
    if (gl_LocalInvocationID.x == 0) {
        uint group = BINS / GROUP_BINS - 1;
        [[dont_unroll]] for (; group > 0; group--) {
            const Share with_group = combined(above, group_share[group]);
            if (reaches(with_group, target)) break;
            above = with_group;
        }
        uint bin = group * GROUP_BINS + GROUP_BINS - 1;
        [[dont_unroll]] for (; bin > group * GROUP_BINS; bin--) {
            const Share with_bin = combined(above, bin_share(first + bin));
            if (reaches(with_bin, target)) break;
            above = with_bin;
        }
        found_key = (prefix << DIGIT_BITS) | bin;
        found_above = above;
        found_equal = bin_share(first + bin);
    }
    meet();
}

// Searches the list, of which this invocation holds `held` entries, by probability. The target is a count (mass 0) or
// a mass (count 0), at least 1 and at most what the list holds. The half of top digits must be filled.
void select_probability(UintOut list, uint list_at, uint held, Share target) {
    uint prefix = 0;
    Share above = Share(0, uvec2(0));
    [[dont_unroll]] for (uint level = 0; level < LEVELS; level++) {
        const uint shift = KEY_BITS - DIGIT_BITS * (level + 1);
        if (level > 0) {
            clear_bins(BINS);
            meet();
            for (uint n = 0; n < held; n++) {
                const float probability =
                    uintBitsToFloat(list.v[list_at + n * gl_WorkGroupSize.x + gl_LocalInvocationID.x]);
                const uint key = key_of(probability);
                if (key >> (shift + DIGIT_BITS) == prefix) {
                    add_to_bin(BINS + ((key >> shift) & (BINS - 1)), uint(probability));
                }
            }
            meet();
        }
        find_digit(level > 0 ? BINS : 0, prefix, above, target);
        prefix = found_key;
        above = found_above;
    }
}

// The token that is number `rank` (from 1), by id, among those of the probability that the last search found.
uint select_token(UintOut list, uint list_at, uint tokens_at, uint held, uint rank) {
    const float tied = probability_of(found_key);
    uint prefix = 0;
    Share above = Share(0, uvec2(0));
    [[dont_unroll]] for (uint level = 0; level < LEVELS; level++) {
        const uint shift = KEY_BITS - DIGIT_BITS * (level + 1);
        clear_bins(BINS);
        meet();
        for (uint n = 0; n < held; n++) {
            const uint slot = n * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
            const uint key = GREATEST_KEY - list.v[tokens_at + slot];
            if (uintBitsToFloat(list.v[list_at + slot]) == tied && key >> (shift + DIGIT_BITS) == prefix) {
                add_to_bin(BINS + ((key >> shift) & (BINS - 1)), 1);
            }
        }
        meet();
        find_digit(BINS, prefix, above, Share(rank, uvec2(0)));
        prefix = found_key;
        above = found_above;
    }
    return GREATEST_KEY - prefix;
}

// How many elements of `units` each it takes to reach `rest`, which is at least 1 and at most 2²⁰ × units.
uint needed(uvec2 rest, uint units) {
    uint fewer = 0;
    [[dont_unroll]] for (uint bit = 1u << 19; bit > 0; bit >>= 1) {
        if (wide_less(wide_product(fewer + bit, units), rest)) {
            fewer += bit;
        }
    }
    return fewer + 1;
}
