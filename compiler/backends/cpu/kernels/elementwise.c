/* ---- norms, embeddings, pooling: one item is W columns ------------------------------------------------------------ */

typedef struct {
  int features;
  float eps;
  const float *gamma, *beta;
  buffer x, y;
} layer_norm;

static void norm_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const layer_norm *n = arguments;
  int step;
  const float *x = column_of(&n->x, item * W, &step);
  float *y = column_of(&n->y, item * W, &step);
  vf sum[4] = {ZERO, ZERO, ZERO, ZERO}, squares[4] = {ZERO, ZERO, ZERO, ZERO};
  (void)m, (void)worker;
  for (int f = 0; f < n->features; f++) sum[f % 4] += load(x + (size_t)f * step);
  const vf mean = (sum[0] + sum[1] + (sum[2] + sum[3])) / (float)n->features;
  for (int f = 0; f < n->features; f++) {
    vf d = load(x + (size_t)f * step) - mean;
    squares[f % 4] += d * d;
  }
  vf variance = (squares[0] + squares[1] + (squares[2] + squares[3])) / (float)n->features + n->eps;
  vf scale;
  for (int lane = 0; lane < W; lane++) scale[lane] = 1.0f / sqrtf(variance[lane]);
  for (int f = 0; f < n->features; f++) {
    vf d = load(x + (size_t)f * step) - mean;
    store(y + (size_t)f * step, d * scale * n->gamma[f] + n->beta[f]);
  }
}

STEP run_layer_norm(hpcc_model *m, const layer_norm *n) { parallel(m, norm_columns, n, n->x.cut->columns / W); }

typedef struct {
  int groups, size; /* features normalised together: of a head, or of a token */
  float eps;
  const float *gamma;
  buffer x, y;
} rms_norm;

static void rms_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const rms_norm *n = arguments;
  int step;
  const float *x = column_of(&n->x, item * W, &step);
  float *y = column_of(&n->y, item * W, &step);
  (void)m, (void)worker;
  for (int g = 0; g < n->groups; g++) {
    const size_t first = (size_t)g * n->size * step;
    vf squares[4] = {ZERO, ZERO, ZERO, ZERO};
    for (int f = 0; f < n->size; f++) {
      vf value = load(x + first + (size_t)f * step);
      squares[f % 4] += value * value;
    }
    vf scale = (squares[0] + squares[1] + (squares[2] + squares[3])) / (float)n->size + n->eps;
    for (int lane = 0; lane < W; lane++) scale[lane] = 1.0f / sqrtf(scale[lane]);
    for (int f = 0; f < n->size; f++) {
      const size_t at = first + (size_t)f * step;
      store(y + at, load(x + at) * scale * n->gamma[f]);
    }
  }
}

STEP run_rms_norm(hpcc_model *m, const rms_norm *n) { parallel(m, rms_columns, n, n->x.cut->columns / W); }

typedef struct {
  int heads, size, turned, interleaved;
  const float *table; /* [tokens][turned]: cosines, then sines */
  buffer x, y;
} rotary;

static void rotate_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const rotary *r = arguments;
  const int token = item * W % m->stride, half = r->turned / 2;
  int step;
  const float *x = column_of(&r->x, item * W, &step);
  float *y = column_of(&r->y, item * W, &step);
  (void)worker;
  for (int i = 0; i < half; i++) {
    const int first = r->interleaved ? 2 * i : i, second = r->interleaved ? 2 * i + 1 : i + half;
    vf cosine = ZERO, sine = ZERO;
    for (int lane = 0; lane < W && token + lane < m->tokens; lane++) {
      cosine[lane] = r->table[(size_t)(token + lane) * r->turned + i];
      sine[lane] = r->table[(size_t)(token + lane) * r->turned + half + i];
    }
    for (int h = 0; h < r->heads; h++) {
      const size_t at = ((size_t)h * r->size + first) * step, next = ((size_t)h * r->size + second) * step;
      const vf a = load(x + at), b = load(x + next);
      store(y + at, a * cosine - b * sine);
      store(y + next, b * cosine + a * sine);
    }
  }
  for (int h = 0; h < r->heads; h++)
    for (int f = r->turned; f < r->size; f++) {
      const size_t at = ((size_t)h * r->size + f) * step;
      store(y + at, load(x + at));
    }
}

STEP run_rotary(hpcc_model *m, const rotary *r) { parallel(m, rotate_columns, r, r->x.cut->columns / W); }

typedef struct {
  const float *table;
  const int32_t *ids; /* [batch or 1][tokens] */
  int sample_step;    /* ids from one sample to the next; 0 where all have the same */
} lookup;

typedef struct {
  int features, count;
  const lookup *lookups;
  buffer y;
} embedding;

enum { FEATURES_AT_ONCE = 64 }; /* both sides of the transposition stay in the cache */

static void embed_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const embedding *e = arguments;
  const int first = item * W, sample = first / m->stride, token = first % m->stride;
  int step;
  float *y = column_of(&e->y, first, &step);
  (void)worker;
  for (int low = 0; low < e->features; low += FEATURES_AT_ONCE) {
    const int high = low + FEATURES_AT_ONCE < e->features ? low + FEATURES_AT_ONCE : e->features;
    for (int lane = 0; lane < W; lane++) {
      if (token + lane >= m->tokens) {
        for (int f = low; f < high; f++) y[(size_t)f * step + lane] = 0;
        continue;
      }
      for (int l = 0; l < e->count; l++) {
        const lookup *from = e->lookups + l;
        const float *row = from->table + (size_t)from->ids[sample * from->sample_step + token + lane] * e->features;
        for (int f = low; f < high; f++) y[(size_t)f * step + lane] = l ? y[(size_t)f * step + lane] + row[f] : row[f];
      }
    }
  }
}

STEP run_embedding(hpcc_model *m, const embedding *e) { parallel(m, embed_columns, e, m->columns / W); }

typedef struct {
  int features, activation, times; /* activation: of `x`, or x + other, or x * other with `times` */
  buffer x, other, y;
} pointwise;

static void combine_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const pointwise *p = arguments;
  int step;
  const float *x = column_of(&p->x, item * W, &step);
  const float *other = p->other.data ? column_of(&p->other, item * W, &step) : NULL;
  float *y = column_of(&p->y, item * W, &step);
  (void)m, (void)worker;
  for (int f = 0; f < p->features; f++) {
    const size_t at = (size_t)f * step;
    const vf value = load(x + at);
    store(y + at, !other ? value : p->times ? value * load(other + at) : value + load(other + at));
    activate(p->activation, y + at, W);
  }
}

STEP run_pointwise(hpcc_model *m, const pointwise *p) { parallel(m, combine_columns, p, p->x.cut->columns / W); }

typedef struct {
  int features, mask, token; /* token: the one to take, -1 for the mean over those that the mask attends to */
  float minimum;
  buffer x, y;
} pooling;

static void pool_sample(hpcc_model *m, const void *arguments, int item, int worker) {
  const pooling *p = arguments;
  const int begin = item * m->stride;
  int step, y_step;
  float *y = column_of(&p->y, item, &y_step), count = 0;
  (void)worker;
  if (p->token >= 0) {
    const float *x = column_of(&p->x, begin + p->token, &step);
    for (int f = 0; f < p->features; f++) y[(size_t)f * y_step] = x[(size_t)f * step];
    return;
  }
  const float *attends = m->attends + (size_t)p->mask * m->columns + begin;
  for (int t = 0; t < m->tokens; t++) count += attends[t];
  for (int f = 0; f < p->features; f++) {
    vf sum = ZERO;
    for (int t = 0; t < m->tokens; t += W) {
      const float *x = column_of(&p->x, begin + t, &step);
      sum += load(x + (size_t)f * step) * load(attends + t);
    }
    float total = 0;
    for (int lane = 0; lane < W; lane++) total += sum[lane];
    y[(size_t)f * y_step] = total / (count > p->minimum ? count : p->minimum);
  }
}

STEP run_pooling(hpcc_model *m, const pooling *p) { parallel(m, pool_sample, p, m->batch); }

typedef struct {
  int features, per_token;
  buffer x;
  float *to; /* [batch][tokens][features], or [batch][features] */
} result;

static void give_columns(hpcc_model *m, const void *arguments, int item, int worker) {
  const result *g = arguments;
  const int first = item * W;
  int step;
  const float *x = column_of(&g->x, first, &step);
  (void)worker;
  for (int low = 0; low < g->features; low += FEATURES_AT_ONCE) {
    const int high = low + FEATURES_AT_ONCE < g->features ? low + FEATURES_AT_ONCE : g->features;
    for (int lane = 0; lane < W; lane++) {
      const int sample = g->per_token ? first / m->stride : first + lane, token = g->per_token ? first % m->stride + lane : 0;
      if (sample >= m->batch || token >= m->tokens) continue;
      float *to = g->to + ((size_t)sample * (g->per_token ? m->tokens : 1) + token) * g->features;
      for (int f = low; f < high; f++) to[f] = x[(size_t)f * step + lane];
    }
  }
}

STEP give_result(hpcc_model *m, const result *g) { parallel(m, give_columns, g, g->x.cut->columns / W); }
