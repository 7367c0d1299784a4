"""Word numbers of the int64 tables that a step reads. Addresses are words like any other.

The native step knows no Python objects: a plan names the net's layers, the buffers and the batch; a
layer names its matrices; a matrix names its bytes.
"""

# matrix: packed weights, tiles of sixteen output rows. A matrix of several forms is a chain: each
# part serves tiles below STOP, NEXT is the part behind it; DATA is where tile 0 would lie.
DATA, FORM, TILES, BLOCKS, TILE_BYTES, BIAS, STOP, NEXT, MATRIX_WORDS = range(9)

# layer; ROUTER is 0 in a dense one. A sparse one's GATE_UP holds all experts' gates, then all ups.
(
    ATTENTION_NORM, MLP_NORM, Q_NORM, K_NORM, QKV, OUT, GATE_UP, DOWN, WINDOW, ROUTER,
    LAYER_WORDS,
) = range(11)  # fmt: skip

# adapter, for each layer and each of the four fused projections
ADAPTER_A, ADAPTER_RANK, ADAPTER_TILES, ADAPTER_WORDS = range(4)
# one sixteen-row tile of B: address, first and last + 1 of the ranks that it reads
TILE_DATA, TILE_FIRST, TILE_STOP, TILE_WORDS = range(4)

# segment: entries of one block table that a token reads, and the turn of its query for them
SEGMENT_TABLE, SEGMENT_START, SEGMENT_STOP, SEGMENT_COS, SEGMENT_SIN, SEGMENT_WORDS = range(6)

# token of a tree: which of its row's new tokens it reads, by bits; the entry of the first of these
TREE_BITS, TREE_BEFORE, TREE_WORDS = range(3)

# event behind a layer: what, for which token, at which address
EVENT_KIND, EVENT_TOKEN, EVENT_ADDRESS, EVENT_WORDS = range(4)
ADD, KEEP = range(2)  # add the vector there to the token's row; copy the row there

# plan
(
    THREADS, TOKENS, WIDTH, HEADS, KV_HEADS, DIM, FFN, SLOTS, QK_NORM,
    LAYERS, RUN, HEAD, EMBEDDING, FINAL_NORM,
    K_POOL, V_POOL, LAYER_BYTES, PAGE_BYTES, HEAD_BYTES,
    X, NORMED, QKV_OUT, ATTENDED, HIDDEN, PANEL, SMALL, SMALL_BYTES,
    SCORES, SCORE_STRIDE, SCRATCH, SCRATCH_BYTES,
    TOKEN_IDS, VECTOR_OF, COS_OF, SIN_OF, SLOT_OF, SEGMENTS, SEGMENT_OF, TREES,
    ADAPTER_OF, ADAPTER_SCALE, ADAPTED, EVENTS, EVENT_OF,
    WANTED, WANTED_ROWS, WANTED_NORMED, LOGITS, LOGIT_ROWS, LOGIT_STRIDE,
    EXPERTS, TOP_K, NORMALISE, EXPERT_FFN, CHOSEN, SHARES, ROUTE_STEP,
    STARTS, CURSORS, ACTIVE, OWNERS, PORTIONS,
    REALS, ZEROS, BARRIER, YIELDER, STOP_FLAG, STOPPED, OWN_BYTES,
    PLAN_WORDS,
) = range(70)  # fmt: skip

# reals, float32
(
    EPS, ATTENTION_SCALE, INVERSE_WIDTH, INVERSE_DIM, INVERSE_Q, INVERSE_K, CLIP,
    REAL_WORDS,
) = range(8)  # fmt: skip

NO_QK_NORM, PER_HEAD, FULL_WIDTH = range(3)
