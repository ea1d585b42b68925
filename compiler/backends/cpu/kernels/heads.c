/* ---- the heads of an attention ---------------------------------------------------------------------------------------
 * One item of work is one head and the queries of one sample that lie in a tile. With VNNI and few keys its products are
 * those of codes. */

/* The query runs of a sample: its columns, cut where a tile ends. */
INLINE int runs_of(const hpcc_model *m, int sample) {
  const int begin = sample * m->stride, end = begin + m->stride;
  return tile_at(&m->by_token, end - 1) - tile_at(&m->by_token, begin) + 1;
}

static void one_head(hpcc_model *m, const void *arguments, int item, int worker) {
  const attention *a = arguments;
  int sample = 0, head = item % a->heads, run = item / a->heads;
  for (int runs; run >= (runs = runs_of(m, sample)); run -= runs) sample++;
  const int begin = sample * m->stride, end = begin + m->stride;
  const int query = run == 0 ? begin : m->by_token.starts[tile_at(&m->by_token, begin) + run];
  const float *attends = m->attends + (size_t)a->mask * m->columns + begin;
  float *scores = m->scores + (size_t)worker * (HPCC_MAX_TOKENS + 4) * TILE;
  const int queries = run_of(&m->by_token, query, end), vectors = queries / W;
  int keys = m->tokens;
  if (a->causal && query + queries - begin < keys) keys = query + queries - begin;
  while (keys && attends[keys - 1] == 0) keys--;
#if HEAD_MEMORY
  if (keys && keys <= HEAD_KEYS) {
    uint8_t *area = m->heads + (size_t)worker * HEAD_MEMORY;
    switch (vectors) {
    case 1: attend_codes(1, a, head, query, begin, keys, attends, scores, area); break;
    case 2: attend_codes(2, a, head, query, begin, keys, attends, scores, area); break;
    case 3: attend_codes(3, a, head, query, begin, keys, attends, scores, area); break;
    case 4: attend_codes(4, a, head, query, begin, keys, attends, scores, area); break;
    }
    return;
  }
#endif
  switch (vectors) {
  case 1: attend(1, a, head, query, begin, keys, attends, scores); break;
  case 2: attend(2, a, head, query, begin, keys, attends, scores); break;
#if TILE_VECTORS >= 3
  case 3: attend(3, a, head, query, begin, keys, attends, scores); break;
#endif
#if TILE_VECTORS == 4
  case 4: attend(4, a, head, query, begin, keys, attends, scores); break;
#endif
  }
}

STEP run_attention(hpcc_model *m, const attention *a) {
  int runs = 0;
  for (int sample = 0; sample < m->batch; sample++) runs += runs_of(m, sample);
  parallel(m, one_head, a, runs * a->heads);
}
