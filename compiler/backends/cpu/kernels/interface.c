/* ---- the interface of model.h --------------------------------------------------------------------------------------- */

enum { WEIGHTS_HEADER = 64, COLUMNS = HPCC_MAX_BATCH * ((HPCC_MAX_TOKENS + W - 1) / W * W), ROWS = (HPCC_MAX_BATCH + W - 1) / W * W };

/* Hands out aligned pieces of the caller's memory. */
static void *piece(char **at, size_t bytes) {
  void *found = *at;
  *at += (bytes + HPCC_ALIGNMENT - 1) / HPCC_ALIGNMENT * HPCC_ALIGNMENT;
  return found;
}

static void lay_out_cut(cut *c, char **at, int columns) {
  c->starts = piece(at, sizeof(int32_t) * (tiles_of(columns) + 1));
  c->tile_of = piece(at, sizeof(int32_t) * (columns / W));
}

/* Lays the model out in memory that begins at `m`; returns the bytes that it takes. */
static size_t lay_out(hpcc_model *places, char *begin, int threads) {
  char *at = begin;
  piece(&at, sizeof(hpcc_model));
  places->tokens_arena = piece(&at, sizeof(float) * TOKENS_MEMORY * COLUMNS);
  places->samples_arena = piece(&at, sizeof(float) * SAMPLES_MEMORY * ROWS);
  places->codes_arena = piece(&at, (size_t)CODE_ROW * CODES_MEMORY * tiles_of(COLUMNS));
  places->blocks = piece(&at, (size_t)BLOCKS_MEMORY * threads);
  places->heads = piece(&at, (size_t)HEAD_MEMORY * threads);
  places->scores = piece(&at, sizeof(float) * TILE * ((size_t)HPCC_MAX_TOKENS + 4) * threads);
  places->attends = piece(&at, sizeof(float) * COLUMNS * (MASKS + 1));
  places->ids = piece(&at, sizeof(int32_t) * HPCC_MAX_BATCH * HPCC_MAX_TOKENS * (IDS + 1));
  places->starts = piece(&at, sizeof(start) * threads);
  lay_out_cut(&places->by_token, &at, COLUMNS);
  lay_out_cut(&places->by_sample, &at, ROWS);
  return (size_t)(at - begin);
}

size_t hpcc_memory_bytes(int threads) {
  hpcc_model places;
  if (threads < 1 || threads > HPCC_MAX_THREADS) return 0;
  return lay_out(&places, NULL, threads);
}

static int start_threads(hpcc_model *m, int threads) {
  pool *p = &m->pool;
  p->threads = threads;
  atomic_store(&p->parts, 1);
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->wake, NULL);
  for (int worker = 1; worker < threads; worker++) {
    m->starts[worker] = (start){m, worker};
    if (pthread_create(&p->handles[worker], NULL, serve, &m->starts[worker])) {
      hpcc_destroy(m);
      return HPCC_NO_THREAD;
    }
    p->started++;
  }
  return HPCC_OK;
}

int hpcc_create(hpcc_model **model, void *memory, size_t memory_bytes, const void *weights, size_t weights_bytes,
                int threads) {
  if (!model || !memory || !weights || threads < 1 || threads > HPCC_MAX_THREADS) return HPCC_BAD_ARGUMENT;
  *model = NULL;
  if ((uintptr_t)memory % HPCC_ALIGNMENT || memory_bytes < hpcc_memory_bytes(threads)) return HPCC_BAD_MEMORY;
  if ((uintptr_t)weights % HPCC_ALIGNMENT || weights_bytes != WEIGHTS_BYTES) return HPCC_BAD_WEIGHTS;
  if (memcmp(weights, weights_header, WEIGHTS_HEADER)) return HPCC_BAD_WEIGHTS;
#if NEEDS_TILES
  if (!allow_tiles()) return HPCC_NO_TILES;
#endif
  hpcc_model *m = memory;
  memset(memory, 0, hpcc_memory_bytes(threads)); /* the padding of buffers is read, though never shown */
  lay_out(m, memory, threads);
  m->weights = weights;
  const int status = start_threads(m, threads);
  if (status == HPCC_OK) *model = m;
  return status;
}

void hpcc_destroy(hpcc_model *m) {
  if (!m) return;
  pool *p = &m->pool;
  atomic_store(&p->stop, true);
  next_round(p, 0);
  for (int worker = 1; worker <= p->started; worker++) pthread_join(p->handles[worker], NULL);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->lock);
}

const char *hpcc_error(int status) {
  static const char *const names[] = {"ok",        "bad argument", "bad memory", "bad weights", "bad count",
                                      "bad shape", "bad size",     "bad id",     "no thread",   "no tiles"};
  return status >= HPCC_OK && status <= HPCC_NO_TILES ? names[status] : "unknown";
}

void hpcc_profile(hpcc_model *m, double *seconds) { m->seconds = seconds; }

/* The i-th number of an input; `type` is a letter of Python's struct module. */
static int64_t number_at(const void *data, char type, size_t i) {
  switch (type) {
  case 'q': return ((const int64_t *)data)[i];
  case 'i': return ((const int32_t *)data)[i];
  case 'f': return ((const float *)data)[i] != 0;
  case 'd': return ((const double *)data)[i] != 0;
  default: return ((const signed char *)data)[i];
  }
}

static size_t size_of(char type) { return type == 'q' || type == 'd' ? 8 : type == 'i' || type == 'f' ? 4 : 1; }

static int read_ids(hpcc_model *m, int slot, const hpcc_input *input, char type, int rows) {
  int32_t *ids = m->ids + (size_t)slot * HPCC_MAX_BATCH * HPCC_MAX_TOKENS;
  for (int i = 0; i < m->batch * m->tokens; i++) {
    const int64_t id = number_at(input->data, type, i);
    if (id < 0 || id >= rows) return HPCC_BAD_ID;
    ids[i] = (int32_t)id;
  }
  return HPCC_OK;
}

/* Mask number `slot`; without an input, number 0: every token attends, padding never. */
static int read_mask(hpcc_model *m, int slot, const hpcc_input *input, char type) {
  float *attends = m->attends + (size_t)slot * m->columns;
  for (int column = 0; column < m->columns; column++) {
    const int sample = column / m->stride, token = column % m->stride;
    const bool inside = token < m->tokens;
    attends[column] = inside && (!input || number_at(input->data, type, (size_t)sample * m->tokens + token) != 0);
  }
  return HPCC_OK;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Does step `n` and, where a profile is wanted, adds its time. */
static void do_step(hpcc_model *m, int n, void (*step)(hpcc_model *m)) {
  const double begin = m->seconds ? now() : 0;
  step(m);
  if (m->seconds) m->seconds[n] += now() - begin;
}

static int check_tensors(const hpcc_model *m, const hpcc_input *inputs, const hpcc_output *outputs) {
  static const char types[] = INPUT_TYPES;
  static const size_t features[] = HPCC_OUTPUT_FEATURES, per_token[] = HPCC_OUTPUT_PER_TOKEN;
  for (int i = 0; i < HPCC_INPUTS; i++) {
    if (!inputs[i].data) return HPCC_BAD_ARGUMENT;
    if (inputs[i].bytes != (size_t)m->batch * m->tokens * size_of(types[i])) return HPCC_BAD_SIZE;
  }
  for (int i = 0; i < HPCC_OUTPUTS; i++) {
    if (!outputs[i].data) return HPCC_BAD_ARGUMENT;
    const size_t rows = per_token[i] ? (size_t)m->batch * m->tokens : (size_t)m->batch;
    if (outputs[i].bytes != rows * features[i] * sizeof(float)) return HPCC_BAD_SIZE;
  }
  return HPCC_OK;
}

static int begin_run(hpcc_model *m, int batch, int tokens, const hpcc_input *inputs, int input_count,
                     const hpcc_output *outputs, int output_count) {
  if (!m || !inputs || !outputs) return HPCC_BAD_ARGUMENT;
  if (input_count != HPCC_INPUTS || output_count != HPCC_OUTPUTS) return HPCC_BAD_COUNT;
  if (batch < 1 || batch > HPCC_MAX_BATCH || tokens < 1 || tokens > HPCC_MAX_TOKENS) return HPCC_BAD_SHAPE;
  m->batch = batch;
  m->tokens = tokens;
  m->stride = (tokens + W - 1) / W * W;
  m->columns = batch * m->stride;
  m->rows = (batch + W - 1) / W * W;
  cut_columns(&m->by_token, m->columns);
  cut_columns(&m->by_sample, m->rows);
  atomic_store(&m->pool.parts, parts_for(m->pool.threads, m->by_token.tiles));
  m->outputs = outputs;
  return check_tensors(m, inputs, outputs);
}
