/* ---- linear layers in int8 --------------------------------------------------------------------------------------
 * Activations are codes of 8 bits with one scale per token, weights codes with one scale per row; sums are int32, exact.
 * A row of codes is 64 bytes, one for each token of a tile, in an order that makes four rows, interleaved byte by byte,
 * the four operands of VPDPBUSD: token v * 16 + l * 4 + i stands at l * 16 + v * 4 + i. So any four inputs that rows share
 * can be multiplied together, not only neighbours. Codes are stored + 128, as the instruction's first operand is unsigned;
 * what that adds to a sum is known from the weights and taken away at its begin. */

#include <immintrin.h>

/* Tile t is SCALE_ROWS rows with the scales of its tokens, as floats, and then a row of codes for each feature. */
typedef struct {
  uint8_t *data;
  int rows;
} code_buffer;

enum { SCALE_ROWS = 4 };

INLINE float *scales_of(const code_buffer *b, int tile) { return (float *)(b->data + (size_t)tile * b->rows * TILE); }
INLINE uint8_t *codes_of(const code_buffer *b, int tile) { return b->data + ((size_t)tile * b->rows + SCALE_ROWS) * TILE; }

typedef struct {
  int features;
  buffer x;
  code_buffer y;
} quantization;

/* A scale for each token of a tile, from the largest of its values; `over` are the factors that make codes. */
INLINE void scale_tokens(const quantization *q, int tile, vf over[TILE_VECTORS]) {
  const int width = width_of(q->x.columns, tile), vectors = width / W;
  const float *x = tile_of(&q->x, tile);
  float *scales = scales_of(&q->y, tile);
  for (int v = 0; v < vectors; v++) {
    __m512 most[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int f = 0; f < q->features; f++)
      most[f % 4] = _mm512_max_ps(most[f % 4], _mm512_abs_ps((__m512)load(x + (size_t)f * width + v * W)));
    const vf top = (vf)_mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    const vi live = top > splat(1e-30f);
    store(scales + v * W, blend(live, top * (1.0f / 127.0f), splat(1.0f)));
    over[v] = blend(live, 127.0f / top, ZERO);
  }
}

/* The codes of one feature of a tile's tokens, rounded to nearest even. */
INLINE __m512i code_row(const float *row, int vectors, const vf over[TILE_VECTORS]) {
  __m512i part[TILE_VECTORS];
  UNROLL for (int v = 0; v < TILE_VECTORS; v++)
    part[v] = v < vectors ? _mm512_cvtps_epi32((__m512)(load(row + v * W) * over[v])) : _mm512_setzero_si512();
  const __m512i low = _mm512_packs_epi32(part[0], part[1]), high = _mm512_packs_epi32(part[2], part[3]);
  return _mm512_xor_si512(_mm512_packs_epi16(low, high), _mm512_set1_epi8((char)0x80));
}

/* One item is one tile. */
static void quantize_tile(hpcc_model *m, const void *arguments, int item, int worker) {
  const quantization *q = arguments;
  const int width = width_of(q->x.columns, item);
  const float *x = tile_of(&q->x, item);
  uint8_t *codes = codes_of(&q->y, item);
  vf over[TILE_VECTORS];
  (void)m, (void)worker;
  scale_tokens(q, item, over);
  for (int f = 0; f < q->features; f++)
    _mm512_store_si512(codes + (size_t)f * TILE, code_row(x + (size_t)f * width, width / W, over));
}

STEP run_quantization(hpcc_model *m, const quantization *q) {
  parallel(m, quantize_tile, q, (q->x.columns + TILE - 1) / TILE);
}

/* Four rows of codes as operands of VPDPBUSD: of v, lane l has four bytes of token v * 16 + l. */
INLINE void interleave(__m512i a, __m512i b, __m512i c, __m512i d, __m512i in[4]) {
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  const __m512i ef = _mm512_unpackhi_epi8(a, b), gh = _mm512_unpackhi_epi8(c, d);
  in[0] = _mm512_unpacklo_epi16(ab, cd), in[1] = _mm512_unpackhi_epi16(ab, cd);
  in[2] = _mm512_unpacklo_epi16(ef, gh), in[3] = _mm512_unpackhi_epi16(ef, gh);
}

/* Sums of four rows: `n` lists of four inputs, and four bytes of weights for each row and list. */
INLINE void byte_rows(const int NV, const uint8_t *codes, int n, const int8_t *values, const uint16_t *columns,
                      const int32_t *begins, __m512i acc[4][TILE_VECTORS]) {
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] = _mm512_set1_epi32(begins[r]);
  for (int s = 0; s < n; s++) {
    const __m512i a = _mm512_load_si512(codes + (size_t)columns[4 * s] * TILE);
    const __m512i b = _mm512_load_si512(codes + (size_t)columns[4 * s + 1] * TILE);
    const __m512i c = _mm512_load_si512(codes + (size_t)columns[4 * s + 2] * TILE);
    const __m512i d = _mm512_load_si512(codes + (size_t)columns[4 * s + 3] * TILE);
    __m512i in[4];
    interleave(a, b, c, d, in);
    int32_t w[4];
    memcpy(w, values + 16 * s, 16);
    UNROLL for (int r = 0; r < 4; r++) {
      const __m512i weight = _mm512_set1_epi32(w[r]);
      UNROLL for (int v = 0; v < NV; v++) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], in[v], weight);
    }
  }
}

typedef struct {
  int outs, activation;
  const float *bias, *row_scales;
  const int32_t *begins;   /* of each row: -128 times the sum of its codes */
  const int8_t *values;    /* [list][4 rows][4 inputs] */
  const uint32_t *starts;  /* first list of each group of four rows, then the end of the last */
  const uint16_t *columns; /* [list][4 inputs] */
  code_buffer x;
  buffer residual, y; /* residual.data may be NULL */
} byte_linear;

INLINE void byte_groups(const int NV, const byte_linear *l, int from, int to, int tile) {
  const uint8_t *codes = codes_of(&l->x, tile);
  const float *scales = scales_of(&l->x, tile), *residual = l->residual.data ? tile_of(&l->residual, tile) : NULL;
  float *y = tile_of(&l->y, tile);
  for (int g = from; g < to; g++) {
    __m512i acc[4][TILE_VECTORS];
    const uint32_t begin = l->starts[g];
    byte_rows(NV, codes, l->starts[g + 1] - begin, l->values + (size_t)begin * 16, l->columns + (size_t)begin * 4,
              l->begins + g * 4, acc);
    UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) {
      const size_t at = ((size_t)(g * 4 + r) * NV + v) * W;
      vf sum = (vf)_mm512_cvtepi32_ps(acc[r][v]) * (load(scales + v * W) * l->row_scales[g * 4 + r]) + l->bias[g * 4 + r];
      store(y + at, residual ? sum + load(residual + at) : sum);
    }
    if (l->activation) activate(l->activation, y + (size_t)g * 4 * NV * W, 4 * NV * W);
  }
}

typedef struct {
  const byte_linear *layers;
  int chunk;
} byte_linears;

static void some_byte_rows(hpcc_model *m, const void *arguments, int item, int worker) {
  const byte_linears *all = arguments;
  const byte_linear *l = all->layers;
  (void)m, (void)worker;
  for (int chunks; item >= (chunks = (l->outs + all->chunk - 1) / all->chunk); item -= chunks) l++;
  const int groups = (l->outs + 3) / 4, end = (item + 1) * all->chunk / 4;
  const int from = item * all->chunk / 4, to = end < groups ? end : groups;
  for (int tile = 0; tile * TILE < l->y.columns; tile++)
    switch (width_of(l->y.columns, tile) / W) {
    case 1: byte_groups(1, l, from, to, tile); break;
    case 2: byte_groups(2, l, from, to, tile); break;
    case 3: byte_groups(3, l, from, to, tile); break;
    case 4: byte_groups(4, l, from, to, tile); break;
    }
}

STEP run_byte_linears(hpcc_model *m, const byte_linear *layers, int count, int chunk) {
  const byte_linears all = {layers, chunk};
  int items = 0;
  for (int i = 0; i < count; i++) items += (layers[i].outs + chunk - 1) / chunk;
  parallel(m, some_byte_rows, &all, items);
}
