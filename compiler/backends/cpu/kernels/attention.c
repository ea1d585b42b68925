/* ---- attention ---------------------------------------------------------------------------------------------------
 * One item is one head and up to TILE queries of one sample. Scores lie [key][query], so the softmax runs down the rows
 * with the queries in the vectors; masked keys get probability 0 and do not enter the maximum, keys behind the last
 * unmasked one (of causal attention: behind the last query) are left out. Neighbouring heads may share one of k and v. */

typedef struct {
  int heads, groups, size; /* groups: heads of k and v; size: features of a head */
  int causal;
  float scale;
  int mask; /* its number; 0: all tokens attend */
  buffer q, k, v, y;
} attention;

/* y[r][i] (+)= sum over n of a[r * row + n * step] x[n][i], for R rows and NV vectors of columns i. */
INLINE void product_rows(const int R, const int NV, const float *a, size_t row, size_t step, const float *x, size_t next,
                         int n, float *y, size_t below, int first) {
  vf acc[4][TILE_VECTORS];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] = first ? ZERO : load(y + r * below + v * W);
  for (int k = 0; k < n; k++) {
    vf in[TILE_VECTORS];
    UNROLL for (int v = 0; v < NV; v++) in[v] = load(x + k * next + v * W);
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] += a[r * row + k * step] * in[v];
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++) store(y + r * below + v * W, acc[r][v]);
}

INLINE void product(const int NV, int rows, const float *a, size_t row, size_t step, const float *x, size_t next, int n,
                    float *y, size_t below, int first) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) product_rows(4, NV, a + r * row, row, step, x, next, n, y + r * below, below, first);
  for (; r < rows; r++) product_rows(1, NV, a + r * row, row, step, x, next, n, y + r * below, below, first);
}

/* Probabilities, not yet divided by their sum, in place of scores; the reciprocal sums in `over`. */
INLINE void softmax(const int NV, const attention *a, const float *attends, int keys, float *scores, vf *over) {
  UNROLL for (int v = 0; v < NV; v++) {
    vf top = splat(-INFINITY), sum = ZERO;
    for (int j = 0; j < keys; j++)
      if (attends[j] != 0) top = larger(top, load(scores + j * TILE + v * W));
    for (int j = 0; j < keys; j++) {
      float *s = scores + j * TILE + v * W;
      vf p = attends[j] != 0 ? exp_vf((load(s) - top) * a->scale) : ZERO;
      sum += p;
      store(s, p);
    }
    over[v] = 1.0f / sum;
  }
}

/* As `softmax`; the query of lane 0 is token `query` of its sample, and a lane sees no key behind its own token. */
static void causal_softmax(int vectors, const attention *a, const float *attends, int query, int keys, float *scores,
                           vf *over) {
  for (int v = 0; v < vectors; v++) {
    const int first = query + v * W;
    vf top = splat(-INFINITY), sum = ZERO;
    for (int j = 0; j < keys; j++) {
      float *s = scores + j * TILE + v * W;
      for (int lane = 0; lane < W; lane++)
        if (attends[j] == 0 || first + lane < j) s[lane] = -INFINITY;
      top = larger(top, load(s));
    }
    for (int lane = 0; lane < W; lane++)
      if (top[lane] == -INFINITY) top[lane] = 0; /* a query that sees nothing */
    for (int j = 0; j < keys; j++) {
      float *s = scores + j * TILE + v * W;
      vf p = exp_vf((load(s) - top) * a->scale);
      for (int lane = 0; lane < W; lane++)
        if (s[lane] == -INFINITY) p[lane] = 0;
      sum += p;
      store(s, p);
    }
    for (int lane = 0; lane < W; lane++) over[v][lane] = sum[lane] > 0 ? 1.0f / sum[lane] : 0;
  }
}

INLINE void attend(const int NV, const attention *a, int head, int query, int first_key, int keys, const float *attends,
                   float *scores) {
  int q_step, y_step;
  const int own = head * a->size, top = head / (a->heads / a->groups) * a->size;
  const float *q = value_of(&a->q, own, query, &q_step);
  float *y = value_of(&a->y, own, query, &y_step);
  if (keys == 0) {
    for (int f = 0; f < a->size; f++)
      for (int v = 0; v < NV; v++) store(y + (size_t)f * y_step + v * W, ZERO);
    return;
  }
  for (int j = 0, run; j < keys; j += run) {
    int step;
    const float *k = value_of(&a->k, top, first_key + j, &step);
    run = run_of(a->k.cut, first_key + j, first_key + keys);
    product(NV, run, k, 1, step, q, q_step, a->size, scores + (size_t)j * TILE, TILE, 1);
  }
  vf over[TILE_VECTORS];
  if (a->causal) causal_softmax(NV, a, attends, query - first_key, keys, scores, over);
  else softmax(NV, a, attends, keys, scores, over);
  for (int j = 0, run; j < keys; j += run) {
    int step;
    const float *v = value_of(&a->v, top, first_key + j, &step);
    run = run_of(a->v.cut, first_key + j, first_key + keys);
    product(NV, a->size, v, step, 1, scores + (size_t)j * TILE, TILE, run, y, y_step, j == 0);
  }
  for (int f = 0; f < a->size; f++)
    UNROLL for (int v = 0; v < NV; v++) {
      float *p = y + (size_t)f * y_step + v * W;
      store(p, load(p) * over[v]);
    }
}
