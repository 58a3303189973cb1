/* internal.h: what the files of lib/ share: the context, the pool and the records of a tape. */
#ifndef LK_INTERNAL_H
#define LK_INTERNAL_H
#include "gemm.h"

#include <lorikeet/op.h>

#define LK_MAX_WARNINGS 64
#define LK_MAX_THREADS 64
#define LK_MAX_SCRATCH 64
#define LK_PADDING 64     /* bytes behind every allocation */
#define LK_MAX_RESULTS 16 /* of one scope */

struct lk_ctx {
  lk_allocator allocator;
  uint64_t seed;
  int threads;
  uint32_t generation; /* the last one given out: every node of every tape gets its own */
  lk_status status;
  char message[800];
  int nwarnings;
  char *warnings[LK_MAX_WARNINGS];
  lk_ctx_stats stats;
  uint64_t errors;      /* recorded so far, also those that were cleared */
  struct lk_dnnl *dnnl; /* products with bf16 weights are in bf16; or NULL */
};

/* Memory without clearing and without recording an error. */
void *lk_raw_alloc(lk_ctx *c, size_t size);

/* ---- pool.c: memory of a step: best fit, lowest address first; its bookkeeping lies outside the memory ---- */

typedef struct lk_span {
  char *p;
  size_t size;
  int chunk;
} lk_span;

typedef struct lk_pool {
  lk_ctx *ctx;
  lk_span *chunk, *hole; /* holes sorted by chunk and address */
  size_t nchunk, chunk_capacity, nhole, hole_capacity;
  size_t blocks; /* given out */
  size_t live, peak, reserved;
  uint64_t allocations;
  int naive, poison;
} lk_pool;

void *lk_pool_get(lk_pool *m, size_t size);
void lk_pool_put(lk_pool *m, void *p, size_t size);
void lk_pool_reset(lk_pool *m);
void lk_pool_free(lk_pool *m);

/* ---- the tape ---- */

/* A node is a value and how it was made.  A root has memory of its own; a window shares its root's. */
typedef struct lk_node {
  const lk_op *op;
  const uint32_t *in;
  uint32_t root, generation;
  uint32_t owner;   /* open scope that holds the handle; 0: dead to the user */
  uint32_t next;    /* in the owner's list */
  uint32_t version; /* of the root when this handle was made */
  uint32_t reads, want;
  uint8_t nin, needs, leaf, done;
  uint8_t kept; /* LK_KEPT, LK_NOTED: visible until reset */
  size_t off;   /* bytes from the root's memory, and from its gradient */
  lk_view v;    /* shape and strides; the memory is root->mem + off */
  uint32_t seq;
  uint32_t scope; /* where it was made, for messages */
  const void *attr;
  void *saved; /* lk_save's block */
  size_t saved_size;
  lk_key key;
  /* of a root only */
  char *mem, *grad;
  size_t size;
  uint32_t holds;         /* visible handles on the memory: the root's and its windows' */
  uint32_t pins;          /* recorded readers that have not run yet: backwards and replays */
  uint32_t changes;       /* made in place */
  uint8_t redo;           /* REDO_* below; REDO_SAVED also of others */
  uint8_t lock;           /* a recorded backward or a replay will read it: must not be changed in place */
  uint8_t used;           /* some op took it as an input */
  uint8_t stays;          /* until its last reader, though it is cheap: was made again, or lies in a recomputed scope */
  uint8_t param_seen;     /* param_version is set */
  lk_param *param;        /* a leaf's parameter, or NULL */
  uint32_t param_version; /* when first read by what backward or a replay will run */
} lk_node;

enum { LK_KEPT = 1, LK_NOTED = 2 }; /* by lk_keep; by a note or side input, which lk_drop leaves */
enum { REDO_ROOT = 1, REDO_SAVED = 2, REDO_THERE = 4 };

typedef struct lk_scope {
  const char *name;
  uint32_t parent, first, last; /* nodes first .. last - 1 */
  uint32_t head;                /* list of the values it owns */
  uint32_t children;            /* list of the names opened inside, in t->names */
  uint32_t draws;               /* random ops run inside */
  int flags, open, no_grad;
  uint64_t path; /* hash of its path and of which instance it is */
  size_t nname;  /* how much of t->names, and of the records, was in use when it began */
  size_t record_span, record_used;
} lk_scope;

/* How often a name was opened inside one instance of a scope. */
typedef struct lk_scope_name {
  uint64_t path;
  uint32_t count, next;
} lk_scope_name;

typedef struct lk_side_value {
  uint64_t hash;
  lk_tensor value;
} lk_side_value;

struct lk_tape {
  lk_ctx *ctx;
  lk_pool pool;
  lk_node *nodes; /* 1 .. n - 1 */
  size_t n, node_capacity;
  lk_span *records; /* bump memory of input lists and attributes */
  size_t nrecord, record_capacity, record_used;
  lk_scope *scopes; /* 1 .. nscope - 1; scope 1 is the step */
  size_t nscope, scope_capacity;
  lk_scope_name *names; /* 1 .. nname - 1 */
  size_t nname, name_capacity;
  uint32_t cur;   /* innermost open scope */
  uint32_t where; /* scope that messages name */
  uint32_t redo;  /* the open recomputed scope, or 0 */
  uint32_t seq;
  lk_side_value *sides;
  size_t nside, side_capacity;
  lk_span scratch[LK_MAX_SCRATCH];
  int nscratch;
  int no_grad, training, in_double;
  int running;   /* an op's function: it must not make values */
  uint32_t hide; /* checks: reads to hide although they were declared */
  lk_key key;    /* of (seed, step, micro) */
  uint64_t replayed;
  uint64_t errors; /* of the context when the step began */
  double flops;
  lk_watch_fn *watch; /* lk_tape_watch */
  void *watch_arg;
};

/* What a running op sees, and what the engine keeps beside it; lk_call.impl points to it. */
typedef struct lk_frame {
  lk_call c;
  uint32_t id;     /* the node */
  int dry;         /* saved blocks are scratch: nobody will ask, or a replay will make them again */
  uint32_t spread; /* x[i] was broadcast */
  int taken;       /* gx[0] took the memory of gy over */
  uint32_t added;  /* gx[i] is a packed temporary that is added to window[i] afterwards */
  lk_view x[LK_MAXIN], gx[LK_MAXIN], window[LK_MAXIN], y, gy;
} lk_frame;

#define LK_OP_STOP (1 << 16) /* a view through which no gradient flows */

/* Runs an op's function under the eyes of the tape's watcher. */
int lk_frame_call(lk_tape *t, lk_frame *f, int backward);

static inline lk_node *lk_root(lk_tape *t, uint32_t id) { return &t->nodes[t->nodes[id].root]; }
/* Pool memory that no forward can make again: an input, or what a closed no-grad scope left. */
static inline int lk_is_source(lk_tape *t, uint32_t id) {
  const lk_node *n = &t->nodes[id];
  return n->root == id && !n->leaf && !n->op->fwd;
}
static inline void lk_node_view(const lk_tape *t, uint32_t id, lk_view *v) {
  const lk_node *n = &t->nodes[id], *r = &t->nodes[n->root];
  *v = n->v;
  v->p = r->mem ? r->mem + n->off : NULL;
}
static inline void lk_node_pin(lk_tape *t, uint32_t id) { lk_root(t, id)->pins++; }

/* tape.c */
lk_node *lk_node_get(lk_tape *t, lk_tensor x, const char *who, int argument); /* NULL with an error */
lk_node *lk_node_new(lk_tape *t, const lk_op *op);  /* the next node, zeroed, not on the tape yet; NULL with an error */
lk_tensor lk_node_push(lk_tape *t, uint32_t scope); /* puts it on the tape; scope: who owns the handle */
void lk_node_own(lk_tape *t, uint32_t id, uint32_t scope); /* 0: nobody */
void lk_node_unlist(lk_tape *t, uint32_t id);              /* out of its owner's list */
void lk_node_unpin(lk_tape *t, uint32_t id);
void lk_node_settle(lk_tape *t, lk_node *root); /* frees its memory if nobody needs it */
size_t lk_node_describe(lk_tape *t, uint32_t id, char *buffer, size_t size);
size_t lk_path_print(lk_tape *t, uint32_t scope, char *buffer, size_t size);
void *lk_record(lk_tape *t, size_t size);
int lk_tape_grow(lk_tape *t, void *array, size_t *capacity, size_t n, size_t size); /* lk_grow, counted */
uint64_t lk_hash(uint64_t seed, const char *text);
extern const lk_op lk_value_op;

/* apply.c */
int lk_frame_bind(lk_tape *t, uint32_t id, lk_frame *f, int back); /* x and y of a node as its op wants them */
int lk_frame_forward(lk_tape *t, lk_frame *f);                     /* runs fwd, releases scratch */
int lk_frame_versions(lk_tape *t, lk_frame *f, uint32_t inputs);   /* refuses parameters changed since they were read */
void lk_scratch_release(lk_tape *t);
int lk_view_expand(lk_view *v, const lk_view *shape); /* 1 if that changed the shape */

/* scope.c, recompute.c */
int lk_scopes_reset(lk_tape *t);
void lk_recompute_close(lk_tape *t, lk_scope *s);
lk_status lk_recompute_replay(lk_tape *t, lk_scope *s);
int lk_can_remake(lk_tape *t, const lk_node *root); /* may its memory go though a backward will read it? */
int lk_remake(lk_tape *t, const lk_node *reader, uint32_t reads); /* what of its inputs and result was let go */

#endif
