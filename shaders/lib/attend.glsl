// Attention of a run of rows, of one sequence, and some heads that share a kv head: what attend does in a workgroup, and chain as a
// stage of many. What includes this has at hand, under the names of attend's push constants, its operands and numbers, and
// defines FUSED, RUN_ROWS (rows of a run at most) and CHUNK as attend does.
#include "cache.glsl"

layout(constant_id = ATTENTION_ID(7)) const uint PART = 2; // heads of a workgroup

const uint GROUP = HEADS / KV_HEADS;
const uint QUERIES = RUN_ROWS * PART; // query r × PART + h is head h of the workgroup's row r
const uint HEAD_PARTS = (GROUP + PART - 1) / PART;
const uint LANES = gl_WorkGroupSize.x;

// Where the workgroup works: on a run of rows of one sequence at a time.
uint first_row;
uint run;
uint table;          // of the run's sequence, in `blocks`
uint position[RUN_ROWS]; // of each row; the last again behind the run
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

// Whether the workgroup has anything to do for a row: of splits, only the first may be without a token before the own.
bool has_work(Row row) {
#if defined(SPLIT)
    const uint first = gl_WorkGroupID.z * split_tokens;
    return row.live != 0 && (first == 0 || first < row.position);
#else
    return row.live != 0;
#endif
}

#if defined(WOVEN)
#include "attend_woven.glsl"
#else
#include "attend_lanes.glsl"
#endif

// How many rows from first_row on are live and of one sequence: at least one, which need not be live.
uint run_before(uint end) {
    const Row row = step_rows.v[first_row];
    uint count = 1;
    while (first_row + count < end && row.live != 0 && step_rows.v[first_row + count].live != 0
           && step_rows.v[first_row + count].sequence == row.sequence) {
        count++;
    }
    return count;
}

// What a workgroup does: the rows_at-th RUN_ROWS rows and the heads_at-th PART heads, of KV_HEADS × HEAD_PARTS. `lane` is set.
// The tests of loops stand at their ends, and a row without work is looked up as if it were at position 0 of sequence 0:
// lavapipe also runs what no lane takes part in, and loads what all lanes share.
void attend(uint rows_at, uint heads_at) {
    kv_head = heads_at / HEAD_PARTS;
    first_head = heads_at % HEAD_PARTS * PART;
    heads_here = min(PART, GROUP - first_head);
    first_row = rows_at * RUN_ROWS;
    const uint end = min(first_row + RUN_ROWS, count);
    do {
        const Row row = step_rows.v[first_row];
        run = run_before(end);
        const bool work = has_work(row);
        table = work ? row.sequence * max_blocks : 0;
        [[unroll]] for (uint r = 0; r < RUN_ROWS; r++) {
            position[r] = work ? step_rows.v[row_of(r)].position : 0;
        }
        if (work) {
            meet(); // Shared memory is still read for the run before.
            attend_run();
        }
#if !defined(SPLIT)
        else {
            for (uint h = 0; h < heads_here; h++) {
                for (uint i = lane; i < HEAD_DIM / 4; i += LANES) {
                    attended.v[y_first(h) + i] = vec4(0.0);
                }
            }
        }
#endif
        first_row += run;
    } while (first_row < end);
}
