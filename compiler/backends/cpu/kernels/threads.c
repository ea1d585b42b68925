/* ---- threads -----------------------------------------------------------------------------------------------------
 * `parallel` runs work(item) for every item on all workers. Items are in the order of the columns that they write, and cut into
 * parts: each worker begins with those of its own part, so that it reads of the layer before what it has written itself, and
 * helps with the others then. An item writes what no other does, and its sums have an order of their own: the result does not
 * depend on who ran it.
 * Round, end and next item of a part stand in one word, so a worker that wakes up late gets no item of a round that is
 * over, and nobody has to wait for it. */

enum { ITEM_BITS = 20 };

typedef void (*work)(hpcc_model *m, const void *arguments, int item, int worker);

typedef struct {
  _Alignas(64) atomic_uint_fast64_t word; /* round, end, next item */
} ticket;

typedef struct {
  int threads, started;
  pthread_t handles[HPCC_MAX_THREADS];
  pthread_mutex_t lock;
  pthread_cond_t wake;
  work work;
  const void *arguments;
  ticket tickets[HPCC_MAX_THREADS]; /* of each part; the first one's is written last */
  atomic_int parts, done, sleepers;
  atomic_bool stop;
} pool;

typedef struct {
  hpcc_model *model;
  int worker;
} start;

struct hpcc_model {
  const char *weights;
  uint8_t *codes_arena, *blocks, *heads;        /* for int8; blocks and heads: one area for each worker, where needed */
  float *tokens_arena, *samples_arena, *scores; /* scores: one area for each worker */
  float *attends;                               /* 1 or 0 for each column of tokens */
  int32_t *ids;                                 /* [input of ids][batch x tokens], checked */
  int batch, tokens, stride;                    /* of this run; stride: columns from one sample to the next */
  int rows, columns;                            /* columns of samples, and of tokens */
  cut by_sample, by_token;
  const hpcc_output *outputs;
  double *seconds;                              /* by step, where a profile is wanted */
  pool pool;
  start *starts; /* what each thread was begun with */
};

static void pause_a_moment(int turn) {
  if (turn % 64 == 63)
    sched_yield();
  else {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
}

static uint64_t round_of(pool *p) { return atomic_load(&p->tickets[0].word) >> 2 * ITEM_BITS; }

INLINE int parts_of(hpcc_model *m) { return atomic_load(&m->pool.parts); }

/* As many parts of the tiles as share the workers evenly, and are equal or small enough not to leave workers without one. */
static int parts_for(int threads, int tiles) {
  for (int parts = threads < tiles ? threads : tiles; parts > 1; parts--)
    if (threads % parts == 0 && (tiles % parts == 0 || tiles >= 3 * parts)) return parts;
  return 1;
}

static void take_items_of(hpcc_model *m, int part, int worker) {
  pool *p = &m->pool;
  const uint64_t mask = (1u << ITEM_BITS) - 1;
  for (;;) {
    const uint64_t word = atomic_fetch_add(&p->tickets[part].word, 1);
    if ((word & mask) >= (word >> ITEM_BITS & mask)) return;
    p->work(m, p->arguments, (int)(word & mask), worker);
    atomic_fetch_add(&p->done, 1);
  }
}

/* Does items until none is left; returns the round they were of. */
static uint64_t take_items(hpcc_model *m, int worker) {
  for (;;) {
    const uint64_t round = round_of(&m->pool);
    const int parts = parts_of(m);
    for (int i = 0; i < parts; i++) take_items_of(m, (worker + i) % parts, worker);
    if (round_of(&m->pool) == round) return round;
  }
}

static void *serve(void *argument) {
  start *begin = argument;
  hpcc_model *m = begin->model;
  const int worker = begin->worker;
  pool *p = &m->pool;
  for (uint64_t seen = 0;;) {
    for (int turn = 0; round_of(p) == seen && turn < 20000; turn++) pause_a_moment(turn);
    if (round_of(p) == seen) {
      pthread_mutex_lock(&p->lock);
      atomic_fetch_add(&p->sleepers, 1);
      while (round_of(p) == seen) pthread_cond_wait(&p->wake, &p->lock);
      atomic_fetch_sub(&p->sleepers, 1);
      pthread_mutex_unlock(&p->lock);
    }
    if (atomic_load(&p->stop)) return NULL;
    seen = take_items(m, worker);
  }
}

static void next_round(pool *p, int items) {
  const uint64_t round = round_of(p) + 1;
  const int parts = atomic_load(&p->parts);
  for (int part = parts; part-- > 0;) {
    const uint64_t first = (uint64_t)items * part / parts, end = (uint64_t)items * (part + 1) / parts;
    atomic_store(&p->tickets[part].word, round << 2 * ITEM_BITS | end << ITEM_BITS | first);
  }
  if (atomic_load(&p->sleepers)) {
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
  }
}

static void parallel(hpcc_model *m, work work, const void *arguments, int items) {
  pool *p = &m->pool;
  if (p->threads == 1 || items == 1) {
    for (int item = 0; item < items; item++) work(m, arguments, item, 0);
    return;
  }
  p->work = work;
  p->arguments = arguments;
  atomic_store(&p->done, 0);
  next_round(p, items);
  take_items(m, 0);
  for (int turn = 0; atomic_load(&p->done) != items; turn++) pause_a_moment(turn);
}
