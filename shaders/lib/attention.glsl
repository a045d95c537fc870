// The operands and numbers of attention, as push constants or in memory.
#define ATTENTION \
    Vec4In x; \
    FloatIn q_gain; \
    FloatIn k_gain; \
    Vec2In rope; \
    RowIn step_rows; \
    UintIn blocks; \
    Uvec4Out keys; \
    Uvec4Out values; \
    Vec4Out attended; \
    uint x_stride; \
    uint y_stride; \
    uint max_blocks; \
    uint cache_blocks; /* of the layer's cache */ \
    uint count;        /* rows */ \
    float score_scale; \
    float eps; \
    uint split_tokens; /* a multiple of CHUNK */
