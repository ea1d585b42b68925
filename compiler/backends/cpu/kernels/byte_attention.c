/* ---- attention in int8 with VNNI -----------------------------------------------------------------------------------
 * Of a head, codes of q and k have a scale per token, those of v one per feature, and probabilities are 0 to 255 of the
 * row's largest; both products are exact sums in int32. Four inputs that are multiplied at once stand in one int32 on both
 * sides: features of q and k, keys of the probabilities and of v. Codes of q are stored + 128, as VPDPBUSD's first operand
 * is unsigned; the probabilities are divided by the sum of their codes, so what rounds away is not missing. */

typedef struct {
  int32_t *q, *k, *v; /* [4 features][TILE queries], [4 features][keys], [feature][4 keys] */
  int32_t *begins;    /* of each key: -128 times the sum of its codes */
  float *k_scales, *v_scales;
  int keys; /* a multiple of W */
} head_codes;

typedef vi __attribute__((may_alias)) codes; /* they stand where floats stood */

/* Where the codes of a head stand in a worker's area of HEAD_MEMORY bytes. */
INLINE head_codes codes_in(uint8_t *area, int keys) {
  enum { LISTS = (HEAD_SIZE + 3) / 4 };
  int32_t *at = (int32_t *)area;
  head_codes h = {.q = at, .keys = (keys + W - 1) / W * W};
  h.k = h.q + LISTS * TILE;
  h.begins = h.k + LISTS * HEAD_KEYS;
  h.k_scales = (float *)(h.begins + HEAD_KEYS);
  h.v = h.begins + 2 * HEAD_KEYS;
  h.v_scales = (float *)(h.v + HEAD_SIZE * (HEAD_KEYS / 4));
  return h;
}

INLINE vi rounded_vi(vf x) { return (vi)_mm512_cvtps_epi32((__m512)x); }

/* Codes of W tokens of a head, four features in an int32 each `below` the other; their scales, and the sums of their codes. */
INLINE vf token_codes(const float *x, size_t step, int size, int32_t *to, size_t below, vi *sums) {
  vf most = ZERO, over;
  for (int f = 0; f < size; f++) most = larger(most, magnitude(load(x + f * step)));
  const vf scale = scale_of(most, &over);
  vi sum = {0};
  for (int f = 0; f < size; f += 4) {
    vi four = {0};
    for (int i = 0; i < 4 && f + i < size; i++) {
      const vi code = rounded_vi(load(x + (f + i) * step) * over);
      sum += code;
      four |= (code & 255) << (8 * i);
    }
    *(codes *)(to + f / 4 * below) = four;
  }
  *sums = sum;
  return scale;
}

static void key_codes(const attention *a, int top, int first, const head_codes *h) {
  for (int j = 0; j < h->keys; j += W) {
    int step;
    const float *k = value_of(&a->k, top, first + j, &step);
    vi sums;
    store(h->k_scales + j, token_codes(k, step, a->size, h->k + j, HEAD_KEYS, &sums));
    *(codes *)(h->begins + j) = sums * -128;
  }
}

/* Codes of v: keys that nothing attends to have probability 0, and must not make the scale. */
static void value_codes(const attention *a, int top, int first, const float *attends, const head_codes *h) {
  for (int f = 0; f < a->size; f++) {
    vf most = ZERO;
    for (int j = 0; j < h->keys; j += W) {
      int step;
      const float *v = value_of(&a->v, top + f, first + j, &step);
      most = larger(most, blend(load(attends + j) != ZERO, magnitude(load(v)), ZERO));
    }
    vf over;
    const vf scale = scale_of(splat(_mm512_reduce_max_ps((__m512)most)), &over);
    h->v_scales[f] = scale[0];
    for (int j = 0; j < h->keys; j += W) {
      int step;
      const float *v = value_of(&a->v, top + f, first + j, &step);
      const vf inside = blend(load(attends + j) != ZERO, load(v) * over, ZERO);
      _mm_store_si128((__m128i *)(h->v + (size_t)f * (HEAD_KEYS / 4) + j / 4),
                      _mm512_cvtepi32_epi8((__m512i)rounded_vi(inside)));
    }
  }
}

/* Sums of R rows of signed bytes, a[r * row + k * step], times unsigned ones, x[k][TILE], for NV vectors. */
INLINE void byte_product(const int R, const int NV, const int32_t *a, size_t row, size_t step, const int32_t *x, int n,
                         const int32_t *begins, vi acc[4][TILE_VECTORS]) {
  __m512i sums[4][TILE_VECTORS];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < NV; v++) sums[r][v] = _mm512_set1_epi32(begins ? begins[r] : 0);
  for (int k = 0; k < n; k++) {
    __m512i in[TILE_VECTORS];
    UNROLL for (int v = 0; v < NV; v++) in[v] = _mm512_load_si512(x + (size_t)k * TILE + v * W);
    UNROLL for (int r = 0; r < R; r++) {
      const __m512i by = _mm512_set1_epi32(a[r * row + k * step]);
      UNROLL for (int v = 0; v < NV; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], in[v], by);
    }
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] = (vi)sums[r][v];
}

INLINE void score_rows(const int R, const int NV, const head_codes *h, int lists, int j, float *scores) {
  vi acc[4][TILE_VECTORS];
  byte_product(R, NV, h->k + j, 1, HEAD_KEYS, h->q, lists, h->begins + j, acc);
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < NV; v++)
      store(scores + (size_t)(j + r) * TILE + v * W, __builtin_convertvector(acc[r][v], vf) * h->k_scales[j + r]);
}

/* 255 e^x for x <= 0 to the nearest integer, wrong by less than 0.03 before it is rounded: 2^n times a polynomial of degree 3. */
INLINE vi probability_code(vf x) {
  x = larger(x * 1.44269504f, splat(-30.0f));
  const vf shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f);
  vf p = splat(0.05517166f);
  p = p * r + 0.24261112f;
  p = p * r + 0.69326098f;
  p = p * r + 0.99992807f;
  const vi scale = ((vi)shifted << 23) + (127 << 23);
  return rounded_vi(p * (vf)scale * 255.0f);
}

/* Probabilities in place of scores, four keys in an int32; `scale` is that of the queries' codes times the softmax's. */
INLINE vf byte_softmax(const attention *a, const float *attends, int first, int keys, float *scores, vf scale) {
  vi lane = {0}, sum = {0};
  for (int i = 0; i < W; i++) lane[i] = first + i;
  vf top = splat(-INFINITY);
  for (int j = 0; j < keys; j++)
    if (attends[j] != 0) {
      const vf s = load(scores + (size_t)j * TILE);
      top = larger(top, a->causal ? blend(lane >= j, s, splat(-INFINITY)) : s);
    }
  for (int j = 0; j < keys; j += 4) {
    vi four = {0};
    for (int i = 0; i < 4 && j + i < keys; i++) {
      if (attends[j + i] == 0) continue;
      vi code = probability_code((load(scores + (size_t)(j + i) * TILE) - top) * scale);
      if (a->causal) code &= lane >= j + i;
      sum += code;
      four |= code << (8 * i);
    }
    *(codes *)(scores + (size_t)(j / 4) * TILE) = four; /* row j / 4 has been read: j / 4 <= j */
  }
  const vi some = sum > 0; /* a query may see nothing */
  return blend(some, 1.0f / __builtin_convertvector(sum, vf), ZERO);
}

INLINE void context_rows(const int R, const int NV, const head_codes *h, int f, const float *p, int keys, const vf *over,
                         float *y, int y_step) {
  vi acc[4][TILE_VECTORS];
  byte_product(R, NV, h->v + (size_t)f * (HEAD_KEYS / 4), HEAD_KEYS / 4, 1, (const int32_t *)p, (keys + 3) / 4, NULL, acc);
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < NV; v++)
      store(y + (size_t)(f + r) * y_step + v * W,
            __builtin_convertvector(acc[r][v], vf) * (h->v_scales[f + r] * over[v]));
}

INLINE void attend_codes(const int NV, const attention *a, int head, int query, int first_key, int keys,
                         const float *attends, float *scores, uint8_t *area) {
  const int own = head * a->size, top = head / (a->heads / a->groups) * a->size, lists = (a->size + 3) / 4;
  const head_codes h = codes_in(area, keys);
  int step;
  const float *q = value_of(&a->q, own, query, &step);
  vf over[TILE_VECTORS], scale[TILE_VECTORS];
  vi sums;
  UNROLL for (int v = 0; v < NV; v++)
    scale[v] = token_codes(q + v * W, step, a->size, h.q + v * W, TILE, &sums) * a->scale;
  for (int s = 0; s < lists; s++)
    UNROLL for (int v = 0; v < NV; v++) *(codes *)(h.q + (size_t)s * TILE + v * W) ^= (int)0x80808080;
  key_codes(a, top, first_key, &h);
  value_codes(a, top, first_key, attends, &h);
  int j = 0;
  for (; j + 4 <= keys; j += 4) score_rows(4, NV, &h, lists, j, scores);
  for (; j < keys; j++) score_rows(1, NV, &h, lists, j, scores);
  UNROLL for (int v = 0; v < NV; v++)
    over[v] = byte_softmax(a, attends, query - first_key + v * W, keys, scores + v * W, scale[v]);
  float *y = value_of(&a->y, own, query, &step);
  int f = 0;
  for (; f + 4 <= a->size; f += 4) context_rows(4, NV, &h, f, scores, keys, over, y, step);
  for (; f < a->size; f++) context_rows(1, NV, &h, f, scores, keys, over, y, step);
}
