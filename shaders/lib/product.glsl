// The operands and numbers of a product, as push constants or in memory.
#define PRODUCT \
    Vec4In x; \
    Vec4In gain; \
    FloatIn scale; \
    UintIn weight; \
    FloatIn bias; \
    FloatIn other; \
    FloatOut y; \
    FloatOut normed; \
    FloatOut squares; \
    uint cols; \
    uint rows; \
    uint tokens; \
    uint x_stride; \
    uint y_stride; \
    uint tiles; \
    uint high; \
    uint scales; \
    uint supers; \
    uint square_count; \
    float eps;
