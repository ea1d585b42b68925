/* ---- threads -----------------------------------------------------------------------------------------------------
 * `parallel` runs work(item) for every item on all workers, which take the next item when they have done one. An item
 * writes what no other does, and its sums have an order of their own: the result does not depend on who ran it.
 * The round, its number of items and the next one stand in one word, so a worker that wakes up late gets no item of a
 * round that is over, and nobody has to wait for it. */

enum { ITEM_BITS = 20 };

typedef void (*work)(hpcc_model *m, const void *arguments, int item, int worker);

typedef struct {
  int threads, started;
  pthread_t handles[HPCC_MAX_THREADS];
  pthread_mutex_t lock;
  pthread_cond_t wake;
  work work;
  const void *arguments;
  atomic_uint_fast64_t ticket; /* round, items, next item */
  atomic_int done, sleepers;
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
  int rows, columns, tiles;                     /* columns of samples, columns and tiles of tokens */
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

static uint64_t round_of(pool *p) { return atomic_load(&p->ticket) >> 2 * ITEM_BITS; }

/* Does items until none is left; returns the round they were of. */
static uint64_t take_items(hpcc_model *m, int worker) {
  pool *p = &m->pool;
  const uint64_t mask = (1u << ITEM_BITS) - 1;
  for (;;) {
    const uint64_t ticket = atomic_fetch_add(&p->ticket, 1);
    if ((ticket & mask) >= (ticket >> ITEM_BITS & mask)) return ticket >> 2 * ITEM_BITS;
    p->work(m, p->arguments, (int)(ticket & mask), worker);
    atomic_fetch_add(&p->done, 1);
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
  atomic_store(&p->ticket, (round_of(p) + 1) << 2 * ITEM_BITS | (uint64_t)items << ITEM_BITS);
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
