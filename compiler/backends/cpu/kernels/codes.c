/* ---- linear layers in int8 --------------------------------------------------------------------------------------
 * Activations are codes with one scale per token, weights codes with one scale per row; sums are int32, exact. How codes
 * stand in memory and are multiplied depends on the machine, and comes before this: a list of LIST inputs at once. */

/* Tile t is SCALE_ROWS rows with the scales of its tokens, as floats, and then a row of codes for each feature. */
typedef struct {
  uint8_t *data;
  int rows;
} code_buffer;

enum { SCALE_ROWS = 4 };

INLINE float *scales_of(const code_buffer *b, int tile) { return (float *)(b->data + (size_t)tile * b->rows * CODE_ROW); }
INLINE uint8_t *codes_of(const code_buffer *b, int tile) {
  return b->data + ((size_t)tile * b->rows + SCALE_ROWS) * CODE_ROW;
}

typedef struct {
  int features;
  buffer x;
  code_buffer y;
} quantization;

INLINE vf magnitude(vf x) { return (vf)((vi)x & 0x7fffffff); }

/* The scale of values up to `most`, and the factor `over` that makes codes; where they are too small to be divided by, the scale
 * is 1 and the codes are 0. */
INLINE vf scale_of(vf most, vf *over) {
  const vi live = most > splat(1e-30f);
  *over = blend(live, 127.0f / most, ZERO);
  return blend(live, most * (1.0f / 127.0f), splat(1.0f));
}

/* A scale for each token of a tile, from the largest of its values; `over` are the factors that make codes. */
INLINE void scale_tokens(const quantization *q, int tile, vf over[TILE_VECTORS]) {
  const int width = width_of(q->x.cut, tile), vectors = width / W;
  const float *x = tile_of(&q->x, tile);
  float *scales = scales_of(&q->y, tile);
  for (int v = 0; v < vectors; v++) {
    vf most[4] = {ZERO, ZERO, ZERO, ZERO};
    for (int f = 0; f < q->features; f++)
      most[f % 4] = larger(most[f % 4], magnitude(load(x + (size_t)f * width + v * W)));
    store(scales + v * W, scale_of(larger(larger(most[0], most[1]), larger(most[2], most[3])), over + v));
  }
}

/* One item is one tile. */
static void quantize_tile(hpcc_model *m, const void *arguments, int item, int worker) {
  const quantization *q = arguments;
  const int width = width_of(q->x.cut, item);
  const float *x = tile_of(&q->x, item);
  uint8_t *codes = codes_of(&q->y, item);
  vf over[TILE_VECTORS];
  (void)m, (void)worker;
  scale_tokens(q, item, over);
  for (int f = 0; f < q->features; f++)
    store_code_row(codes + (size_t)f * CODE_ROW, x + (size_t)f * width, width / W, over);
}

STEP run_quantization(hpcc_model *m, const quantization *q) {
  parallel(m, quantize_tile, q, q->x.cut->tiles);
}

typedef struct {
  int outs, activation, shared; /* shared: all rows have the lists of the first group */
  const float *bias, *row_scales;
  const int32_t *begins;     /* of each row: what its sum begins with */
  const weight_code *values; /* [list][4 rows][LIST inputs] */
  const uint32_t *starts;    /* first list of each group of four rows, then the end of the last */
  const uint16_t *columns;   /* [list][LIST inputs]; of one group, if they are shared */
  code_buffer x;
  buffer residual, y; /* residual.data may be NULL */
} byte_linear;

/* Adds the products of list s of four rows. */
INLINE void add_list(const int NV, const operand *area, const uint8_t *codes, const uint16_t *columns,
                     const weight_code *values, int s, vi sums[4][TILE_VECTORS]) {
  operand in[TILE_VECTORS];
  if (area)
    UNROLL for (int v = 0; v < NV; v++) in[v] = area[s * NV + v];
  else
    operands(NV, codes, columns + LIST * s, in);
  ask_ahead(values + 4 * LIST * s);
  multiply(NV, in, values + 4 * LIST * s, sums);
}

/* A group of four rows for a tile of NV vectors. `area` has the operands of its lists, NULL: they are made here. */
INLINE void code_group(const int NV, const byte_linear *l, int g, int tile, const operand *area) {
  const uint32_t begin = l->starts[g];
  const int count = l->starts[g + 1] - begin;
  const weight_code *values = l->values + (size_t)begin * 4 * LIST;
  const uint16_t *columns = l->columns + (size_t)begin * LIST;
  const uint8_t *codes = codes_of(&l->x, tile);
  const float *scales = scales_of(&l->x, tile), *residual = l->residual.data ? tile_of(&l->residual, tile) : NULL;
  float *y = tile_of(&l->y, tile);
  vi sums[4][TILE_VECTORS], odd[4][TILE_VECTORS];
  int s = 0;
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) sums[r][v] = l->begins[g * 4 + r] - (vi){0};
  if (NV == 1) { /* even and odd lists apart: four sums would wait for each other */
    UNROLL for (int r = 0; r < 4; r++) odd[r][0] = (vi){0};
    for (; s + 1 < count; s += 2) {
      add_list(1, area, codes, columns, values, s, sums);
      add_list(1, area, codes, columns, values, s + 1, odd);
    }
    UNROLL for (int r = 0; r < 4; r++) sums[r][0] += odd[r][0];
  }
  for (; s < count; s++) add_list(NV, area, codes, columns, values, s, sums);
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) {
    const size_t at = ((size_t)(g * 4 + r) * NV + v) * W;
    const vf scale = load(scales + v * W) * l->row_scales[g * 4 + r];
    const vf sum = __builtin_convertvector(sums[r][v], vf) * scale + l->bias[g * 4 + r];
    store(y + at, residual ? sum + load(residual + at) : sum);
  }
  if (l->activation) activate(l->activation, y + (size_t)g * 4 * NV * W, 4 * NV * W);
}

/* Shared lists are interleaved once for all groups, into an area of the worker's. */
INLINE void code_groups(const int NV, const byte_linear *l, range groups, int tile, operand *area) {
  if (BLOCKS_MEMORY && l->shared) {
    const int lists = l->starts[1];
    for (int s = 0; s < lists; s++) {
      operand in[TILE_VECTORS];
      operands(NV, codes_of(&l->x, tile), l->columns + LIST * s, in);
      UNROLL for (int v = 0; v < NV; v++) area[s * NV + v] = in[v];
    }
    for (int g = groups.from; g < groups.to; g++) code_group(NV, l, g, tile, area);
  } else
    for (int g = groups.from; g < groups.to; g++) code_group(NV, l, g, tile, NULL);
}

static void some_byte_rows(hpcc_model *m, const void *arguments, int item, int worker) {
  const range tiles = tiles_of_item(arguments, &item);
  const byte_linear *l = layer_of(arguments, &item);
  const range g = groups_of(arguments, item, l->outs, 4);
  operand *area = (operand *)(m->blocks + (size_t)worker * BLOCKS_MEMORY);
  for (int tile = tiles.from; tile < tiles.to; tile++)
    switch (width_of(l->y.cut, tile) / W) {
    case 1: code_groups(1, l, g, tile, area); break;
    case 2: code_groups(2, l, g, tile, area); break;
#if TILE_VECTORS == 4
    case 3: code_groups(3, l, g, tile, area); break;
    case 4: code_groups(4, l, g, tile, area); break;
#endif
    }
}

STEP run_byte_linears(hpcc_model *m, const byte_linear *layers, int count, int chunk) {
  run_layers(m, some_byte_rows, layers, sizeof *layers, count, layers->y.cut->tiles, chunk, chunk);
}
