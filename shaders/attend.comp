// y[row][head] = Σ_t softmax_t(q·k[t] / sqrt(head_dim)) × v[t] over the positions 0..=position of the row's sequence.
//
// FUSED: x is qkv; this dispatch normalizes and rotates, and writes k and v of the row's own position to the cache. No
// other row of the dispatch may belong to the same sequence. Otherwise x is q as rope_store leaves it, and the cache
// holds the own position too. Both give the same bits: every query takes its tokens in the same order and in the same
// portions, counted from position 0. So a row's bits depend neither on the other rows, nor on which blocks its cache lies in.
//
// x: [rows][x_stride], y: [rows][y_stride] (a row that is not live: zeros), scale: 1 / sqrt(head_dim); the rest as in
// rope_store. KV_Q8_0: the cache is quantized. One workgroup per ROWS rows (x) and PART heads that share a kv head (y): what
// is loaded of the cache serves them all. WOVEN: for CPU drivers, a workgroup is one subgroup of 4, 8 or 16 lanes.
//
// Otherwise positions are taken in splits of split_tokens, counted from position 0, each of which makes a share
// (lib/share.glsl); a workgroup folds those of all splits in order. SPLIT, which is FUSED: it takes one split of a row (z), and
// y are shares, for merge to fold; rows of them are y_stride floats apart.
#extension GL_GOOGLE_include_directive : require
#include "lib/prelude.glsl"
#include "lib/step.glsl"
#include "lib/rope.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 7) const uint PART = 2;    // heads of a workgroup
layout(constant_id = 8) const uint CHUNK = 64;  // tokens between two rescalings; a multiple of the workgroup
layout(constant_id = 9) const bool FUSED = true;
layout(constant_id = 10) const uint ROWS = 1;   // rows of a workgroup; 1 if FUSED
layout(push_constant, scalar) uniform Push {
    Vec4In x;
    FloatIn q_gain;
    FloatIn k_gain;
    Vec2In rope;
    RowIn rows;
    UintIn blocks;
    Uvec4Out keys;
    Uvec4Out values;
    Vec4Out y;
    uint x_stride;
    uint y_stride;
    uint max_blocks;
    uint cache_blocks; // of the layer's cache
    uint count; // rows
    float scale;
    float eps;
    uint split_tokens; // a multiple of CHUNK
};

#include "lib/cache.glsl"

const uint GROUP = HEADS / KV_HEADS;
const uint QUERIES = ROWS * PART; // query r × PART + h is head h of the workgroup's row r
const uint PARTS = (GROUP + PART - 1) / PART;
const uint LANES = gl_WorkGroupSize.x;

// Where this workgroup works: on a run of rows of one sequence at a time.
uint first_row;
uint run;
uint table;          // of the run's sequence, in `blocks`
uint position[ROWS]; // of each row; the last again behind the run
uint kv_head;
uint first_head; // within the group
uint heads_here;
uint lane;

// The last part of a group may be short: it computes its last head more than once, and stores it once.
uint head_of(uint h) {
    return kv_head * GROUP + min(first_head + h, GROUP - 1);
}

uint block_of(uint token) {
    return blocks.v[table + token / BLOCK_TOKENS];
}

// Rows behind the run stand for its last: they are computed and not stored.
uint row_of(uint r) {
    return first_row + min(r, run - 1);
}

// Where y of a query lies, in vec4; queries that are not `wanted` have none.
uint y_first(uint q) {
    return (row_of(q / PART) * y_stride + head_of(q % PART) * HEAD_DIM) / 4;
}

bool wanted(uint q) {
    return q / PART < run && q % PART < heads_here;
}

// Whether this workgroup has anything to do for a row: of splits, only the first may be without a token before the own.
bool has_work(Row row) {
#if defined(SPLIT)
    const uint first = gl_WorkGroupID.z * split_tokens;
    return row.live != 0 && (first == 0 || first < row.position);
#else
    return row.live != 0;
#endif
}

#if defined(WOVEN)
#include "lib/attend_woven.glsl"
#else
#include "lib/attend_lanes.glsl"
#endif

// How many rows from first_row on are live and of one sequence: at least one, which need not be live.
uint run_before(uint end) {
    const Row row = rows.v[first_row];
    uint count = 1;
    while (first_row + count < end && row.live != 0 && rows.v[first_row + count].live != 0
           && rows.v[first_row + count].sequence == row.sequence) {
        count++;
    }
    return count;
}

// The tests of loops stand at their ends, and a row without work is looked up as if it were at position 0 of sequence 0:
// lavapipe also runs what no lane takes part in, and loads what all lanes share.
void main() {
    kv_head = gl_WorkGroupID.y / PARTS;
    first_head = gl_WorkGroupID.y % PARTS * PART;
    heads_here = min(PART, GROUP - first_head);
    lane = own_lane();
    first_row = gl_WorkGroupID.x * ROWS;
    const uint end = min(first_row + ROWS, count);
    do {
        const Row row = rows.v[first_row];
        run = run_before(end);
        const bool work = has_work(row);
        table = work ? row.sequence * max_blocks : 0;
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            position[r] = work ? rows.v[row_of(r)].position : 0;
        }
        if (work) {
            meet(); // Shared memory is still read for the run before.
            attend_run();
        }
#if !defined(SPLIT)
        else {
            for (uint h = 0; h < heads_here; h++) {
                for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
                    y.v[y_first(h) + i] = vec4(0.0);
                }
            }
        }
#endif
        first_row += run;
    } while (first_row < end);
}
