/* ---- linear layers in int8 whose rows share no inputs ------------------------------------------------------------
 * The outputs fill the vectors: 16 rows of weights, four bytes each. VPERMB picks for each row its own four of a window of
 * 64 inputs, VPDPBUSD multiplies them. A pick and its weights serve 16 tokens from registers. So the codes stand by token:
 * tile [window][token][64 inputs], behind the same rows of scales. */

#define UNROLL16 _Pragma("GCC unroll 16")

enum { WINDOW = 64, PICK_ROWS = 16 };

/* Lane j of row i to lane i of row j. */
INLINE void transpose16(__m512i r[16]) {
  __m512i t[16];
  UNROLL16 for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  UNROLL for (int j = 0; j < 4; j++) { /* r[4 i + j] has of rows 4 i .. 4 i + 3 the lanes j, 4 + j, 8 + j, 12 + j */
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, b, 0x88), t[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88), t[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  memcpy(r, t, sizeof t);
}

/* One item is one tile. Inputs behind the last fill its window up with zeros. */
static void window_tile(hpcc_model *m, const void *arguments, int item, int worker) {
  const quantization *q = arguments;
  const int width = width_of(q->x.cut, item), vectors = width / W;
  const float *x = tile_of(&q->x, item);
  uint8_t *codes = codes_of(&q->y, item);
  vf over[TILE_VECTORS];
  (void)m, (void)worker;
  scale_tokens(q, item, over);
  for (int low = 0; low < q->features; low += WINDOW) {
    __m512i part[TILE_VECTORS][16];
    for (int four = 0; four < 16; four++) {
      __m512i row[4], in[4];
      UNROLL for (int i = 0; i < 4; i++) {
        const int f = low + 4 * four + i;
        row[i] = f < q->features ? code_row(x + (size_t)f * width, vectors, over) : _mm512_setzero_si512();
      }
      interleave(row[0], row[1], row[2], row[3], in);
      UNROLL for (int v = 0; v < TILE_VECTORS; v++) part[v][four] = in[v];
    }
    for (int v = 0; v < vectors; v++) {
      transpose16(part[v]);
      UNROLL16 for (int t = 0; t < 16; t++)
        _mm512_store_si512(codes + (size_t)low * TILE + (v * 16 + t) * WINDOW, part[v][t]);
    }
  }
}

STEP run_windows(hpcc_model *m, const quantization *q) { parallel(m, window_tile, q, q->x.cut->tiles); }

typedef struct {
  int outs, ins, activation;
  const float *bias, *row_scales;
  const int32_t *begins;  /* of each row: -128 times the sum of its codes */
  const int8_t *values;   /* [list][16 rows][4 inputs] */
  const uint32_t *starts; /* first list of each [group of 16 rows][window], then the end of the last */
  const uint8_t *columns; /* like the values: the input in its window */
  code_buffer x;
  buffer residual, y; /* residual.data may be NULL */
} pick_linear;

/* 16 rows for 16 tokens. */
INLINE void pick_rows(const pick_linear *l, int group, const uint8_t *codes, __m512i acc[16]) {
  const int windows = (l->ins + WINDOW - 1) / WINDOW;
  const uint32_t *starts = l->starts + (size_t)group * windows;
  const __m512i begin = _mm512_loadu_si512(l->begins + group * PICK_ROWS);
  UNROLL16 for (int t = 0; t < 16; t++) acc[t] = begin;
  for (int w = 0; w < windows; w++) {
    const uint8_t *x = codes + (size_t)w * WINDOW * TILE;
    for (uint32_t s = starts[w]; s < starts[w + 1]; s++) {
      const __m512i pick = _mm512_load_si512(l->columns + (size_t)s * 64);
      const __m512i weights = _mm512_load_si512(l->values + (size_t)s * 64);
      ask_ahead(l->columns + (size_t)s * 64);
      ask_ahead(l->values + (size_t)s * 64);
      UNROLL16 for (int t = 0; t < 16; t++)
        acc[t] = _mm512_dpbusd_epi32(acc[t], _mm512_permutexvar_epi8(pick, _mm512_load_si512(x + t * WINDOW)), weights);
    }
  }
}

static void pick_groups(const pick_linear *l, int from, int to, int tile) {
  const int vectors = width_of(l->y.cut, tile) / W;
  const float *scales = scales_of(&l->x, tile), *residual = l->residual.data ? tile_of(&l->residual, tile) : NULL;
  float *y = tile_of(&l->y, tile);
  for (int v = 0; v < vectors; v++)
    for (int g = from; g < to; g++) {
      __m512i acc[16];
      pick_rows(l, g, codes_of(&l->x, tile) + (size_t)v * 16 * WINDOW, acc);
      transpose16(acc);
      const vf scale = load(scales + v * W);
      for (int r = 0; r < PICK_ROWS && g * PICK_ROWS + r < l->outs; r++) {
        const int row = g * PICK_ROWS + r;
        const size_t at = ((size_t)row * vectors + v) * W;
        const vf sum = (vf)_mm512_cvtepi32_ps(acc[r]) * (scale * l->row_scales[row]) + l->bias[row];
        store(y + at, residual ? sum + load(residual + at) : sum);
      }
    }
  const int begin = from * PICK_ROWS, end = to * PICK_ROWS < l->outs ? to * PICK_ROWS : l->outs;
  if (l->activation && end > begin) activate(l->activation, y + (size_t)begin * vectors * W, (end - begin) * vectors * W);
}

static void some_picks(hpcc_model *m, const void *arguments, int item, int worker) {
  const range tiles = tiles_of_item(arguments, &item);
  const pick_linear *l = layer_of(arguments, &item);
  const range g = groups_of(arguments, item, l->outs, PICK_ROWS);
  (void)m, (void)worker;
  for (int tile = tiles.from; tile < tiles.to; tile++) pick_groups(l, g.from, g.to, tile);
}

STEP run_pick_linears(hpcc_model *m, const pick_linear *layers, int count, int chunk) {
  run_layers(m, some_picks, layers, sizeof *layers, count, layers->y.cut->tiles, chunk, chunk);
}
