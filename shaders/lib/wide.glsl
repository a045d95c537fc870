// 64-bit unsigned integers as uvec2(low, high): not every driver that we want has 64-bit arithmetic.

uvec2 wide_add(uvec2 a, uvec2 b) {
    const uint low = a.x + b.x;
    return uvec2(low, a.y + b.y + (low < a.x ? 1 : 0));
}

uvec2 wide_subtract(uvec2 a, uvec2 b) {
    return uvec2(a.x - b.x, a.y - b.y - (a.x < b.x ? 1 : 0));
}

bool wide_less(uvec2 a, uvec2 b) {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

uvec2 wide_min(uvec2 a, uvec2 b) {
    return wide_less(a, b) ? a : b;
}

uvec2 wide_product(uint a, uint b) {
    uint high, low;
    umulExtended(a, b, high, low);
    return uvec2(low, high);
}

// floor(a × b / 2⁶⁴).
uvec2 wide_product_high(uvec2 a, uvec2 b) {
    const uvec2 low_high = wide_product(a.x, b.y);
    const uvec2 high_low = wide_product(a.y, b.x);
    uvec2 middle = wide_add(uvec2(wide_product(a.x, b.x).y, 0), uvec2(low_high.x, 0));
    middle = wide_add(middle, uvec2(high_low.x, 0));
    uvec2 high = wide_add(wide_product(a.y, b.y), uvec2(low_high.y, 0));
    high = wide_add(high, uvec2(high_low.y, 0));
    return wide_add(high, uvec2(middle.y, 0));
}

// ceil(a × b / 2²⁴) for b ≤ 2²⁴.
uvec2 wide_scale(uvec2 a, uint b) {
    const uvec2 low = wide_product(a.x, b);
    const uvec2 high = wide_add(wide_product(a.y, b), uvec2(low.y, 0));
    const uvec2 shifted = uvec2((low.x >> 24) | (high.x << 8), (high.x >> 24) | (high.y << 8));
    return (low.x & 0xffffffu) == 0 ? shifted : wide_add(shifted, uvec2(1, 0));
}
