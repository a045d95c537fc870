// A share of an attention is what some of its tokens make of it: the highest score, total = Σ exp(score - highest), and
// sums = Σ exp(score - highest) × v. Shares are folded one by one, in the order of their tokens. Shared by attend and merge,
// so that both get the same bits: every product that feeds a sum is `precise` or stands in an explicit fma.

// In memory a share is so many vec4: (highest, total, 0, 0), then the sums.
const uint SHARE = 1 + HEAD_DIM / 4;

// What sums so far (x), and those of the next share (y), are multiplied by where the two are added.
vec2 fold_scales(float highest, float next_highest) {
    precise const vec2 below = vec2(highest, next_highest) - max(highest, next_highest);
    return exp(below);
}

vec4 folded(vec4 sums, vec4 next, vec2 scales) {
    precise const vec4 shrunk = sums * scales.x;
    return fma(next, vec4(scales.y), shrunk);
}

float folded(float total, float next, vec2 scales) {
    precise const float shrunk = total * scales.x;
    return fma(next, scales.y, shrunk);
}
