/* ---- threads -----------------------------------------------------------------------------------------------------
 * `parallel` runs work(item) for every item on all workers, which take the next item when they have done one. An item
 * writes what no other does, and its sums have an order of their own: the result does not depend on who ran it. */

typedef void (*work)(hpcc_model *m, const void *arguments, int item, int worker);

typedef struct {
  int threads, started;
  pthread_t handles[HPCC_MAX_THREADS];
  pthread_mutex_t lock;
  pthread_cond_t wake;
  work work;
  const void *arguments;
  int items;
  atomic_int next, working, sleepers;
  atomic_uint round;
  atomic_bool stop;
} pool;

typedef struct {
  hpcc_model *model;
  int worker;
} start;

struct hpcc_model {
  const char *weights;
  float *tokens_arena, *samples_arena, *scores; /* scores: one area for each worker */
  float *attends;                               /* 1 or 0 for each column of tokens */
  int32_t *ids;                                 /* [input of ids][batch x tokens], checked */
  int batch, tokens, stride;                    /* of this run; stride: columns from one sample to the next */
  int rows, columns;                            /* columns of samples, columns of tokens */
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

static void take_items(hpcc_model *m, int worker) {
  for (int item; (item = atomic_fetch_add(&m->pool.next, 1)) < m->pool.items;) m->pool.work(m, m->pool.arguments, item, worker);
}

static void *serve(void *argument) {
  start *begin = argument;
  hpcc_model *m = begin->model;
  const int worker = begin->worker;
  pool *p = &m->pool;
  for (unsigned seen = 0;; seen++) {
    for (int turn = 0; atomic_load(&p->round) == seen && turn < 20000; turn++) pause_a_moment(turn);
    if (atomic_load(&p->round) == seen) {
      pthread_mutex_lock(&p->lock);
      atomic_fetch_add(&p->sleepers, 1);
      while (atomic_load(&p->round) == seen) pthread_cond_wait(&p->wake, &p->lock);
      atomic_fetch_sub(&p->sleepers, 1);
      pthread_mutex_unlock(&p->lock);
    }
    if (atomic_load(&p->stop)) return NULL;
    take_items(m, worker);
    atomic_fetch_sub(&p->working, 1);
  }
}

static void next_round(pool *p) {
  atomic_fetch_add(&p->round, 1);
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
  p->items = items;
  atomic_store(&p->next, 0);
  atomic_store(&p->working, p->threads - 1);
  next_round(p);
  take_items(m, 0);
  for (int turn = 0; atomic_load(&p->working); turn++) pause_a_moment(turn);
}
