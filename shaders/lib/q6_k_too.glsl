// A second format beside the first: Q6_K, which llama.cpp's mixes hold next to all formats of 4 and 5 bits. What lib/quant.glsl
// and lib/mat_mul_blocks.glsl say of a format is said again, under other names; functions that take a Block keep theirs.
#undef FORMAT_Q4_0
#undef FORMAT_Q4_1
#undef FORMAT_Q5_0
#undef FORMAT_Q5_1
#undef FORMAT_Q4_K
#undef FORMAT_Q5_K
#undef QUANT_WORDS
#undef HIGH_BITS
#undef OFFSET
#undef SCALE_D
#undef SCALE_DM
#undef SCALE_K
#undef HAS_MINIMUM
#define FORMAT_Q6_K
#define Block BlockQ6K
#define GROUP_FOURS GROUP_FOURS_Q6_K
#define WORD_FOURS WORD_FOURS_Q6_K
#define QUANT_STEP QUANT_STEP_Q6_K
#define PLACE PLACE_Q6_K
#define POWER POWER_Q6_K
#define MANTISSA MANTISSA_Q6_K
#define quant_at quant_at_q6_k
#define scales_of scales_of_q6_k
#define with_high with_high_q6_k
#define load_block load_block_q6_k
#define row_blocks row_blocks_q6_k
#define accumulate accumulate_q6_k
#define multiply multiply_q6_k
#include "quant.glsl"
#include "mat_mul_blocks.glsl"
#undef Block
#undef GROUP_FOURS
#undef WORD_FOURS
#undef QUANT_STEP
#undef PLACE
#undef POWER
#undef MANTISSA
#undef quant_at
#undef scales_of
#undef with_high
#undef load_block
#undef row_blocks
#undef accumulate
#undef multiply
