/* ---- linear layers ----------------------------------------------------------------------------------------------
 * y = W x + bias + residual, then an activation. A weight is a broadcast and the tokens fill the vectors, so the sums of
 * a few rows and of all tokens of a tile stay in registers. The inputs are cut into blocks, so that a block of a tile
 * stays in the cache; from block to block the sums wait in y.
 *   DENSE    `rows` rows at a time, every input: values [block][group][input][rows]
 *   VECTORS  `rows` rows share a list of inputs: values [block][group][slot][rows], a column for each slot
 *   SINGLES  each row has a list of its own: the same with one row in a group */

enum { NO_ACTIVATION, GELU, TANH, RELU, GELU_TANH, QUICK_GELU, SILU };
enum { DENSE, VECTORS, SINGLES };
enum { LINE = 64, ITEMS = 4, LEAST_CHUNK = 48 }; /* bytes of a line of the caches; items for each worker; rows of an item */
enum { AHEAD = 4096 }; /* bytes of weights that are asked for before they are read, over the page where machines stop by themselves */

typedef struct {
  int outs, kind, ins, block; /* block: inputs in a cache block */
  int activation;
  const float *bias, *values;
  const uint32_t *starts;  /* first slot of [block][group], then the end of the last; not for DENSE */
  const uint16_t *columns; /* the input of each slot, counted from the first of its block */
  buffer x, residual, y;   /* residual.data may be NULL */
} linear;

#define UNROLL _Pragma("GCC unroll 8")

/* Layers of one kind that read the same input, done together: an item is `chunk` rows of one of them, a multiple of every
 * group's rows, for a part of the tiles. Every kind of layer begins with its number of rows. */
typedef struct {
  const char *first;
  size_t bytes; /* of a layer */
  int chunk, items, parts, tiles; /* items: of a part */
} several_layers;

typedef struct {
  int from, to;
} range;

/* The tiles of an item, which becomes the item of its part. */
INLINE range tiles_of_item(const several_layers *all, int *item) {
  const int part = *item / all->items;
  *item %= all->items;
  return (range){all->tiles * part / all->parts, all->tiles * (part + 1) / all->parts};
}

INLINE int outs_of(const char *layer) { return *(const int *)layer; }

/* The layer of an item, which becomes the item of that layer. */
INLINE const void *layer_of(const several_layers *all, int *item) {
  const char *layer = all->first;
  for (int chunks; *item >= (chunks = (outs_of(layer) + all->chunk - 1) / all->chunk); *item -= chunks) layer += all->bytes;
  return layer;
}

/* The groups of `rows` rows in an item of a layer. */
INLINE range groups_of(const several_layers *all, int item, int outs, int rows) {
  const int count = (outs + rows - 1) / rows, end = (item + 1) * all->chunk / rows;
  return (range){item * all->chunk / rows, end < count ? end : count};
}

static int items_of(const several_layers *all, int count) {
  int items = 0;
  for (int i = 0; i < count; i++) items += (outs_of(all->first + i * all->bytes) + all->chunk - 1) / all->chunk;
  return items;
}

/* `chunk` rows an item, or an even share of them down to `least`, so that no worker waits long for the last item of another. */
static void run_layers(hpcc_model *m, work work, const void *layers, size_t bytes, int count, int tiles, int chunk, int least) {
  const int threads = m->pool.threads, parts = tiles < parts_of(m) ? 1 : parts_of(m);
  several_layers all = {layers, bytes, chunk, 0, parts, tiles};
  while (threads > 1 && all.chunk / 2 >= least && parts * items_of(&all, count) < ITEMS * threads) all.chunk /= 2;
  all.items = items_of(&all, count);
  parallel(m, work, &all, parts * all.items);
}

/* Asks for the weights that follow by AHEAD; past the end of all weights nothing comes of it. */
INLINE void ask_ahead(const void *weights) { __builtin_prefetch((const char *)weights + AHEAD, 0, 2); }

INLINE void begin_rows(const int R, const int NV, vf acc[PANEL][TILE_VECTORS], const float *bias, const float *residual,
                       const float *y, int first) {
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++) {
    const int at = (r * NV + v) * W;
    acc[r][v] = !first ? load(y + at) : residual ? load(residual + at) + bias[r] : splat(bias[r]);
  }
}

INLINE void dense_rows(const int NV, const float *x, int n, const float *values, const float *bias,
                       const float *residual, float *y, int first) {
  vf acc[PANEL][TILE_VECTORS];
  begin_rows(PANEL, NV, acc, bias, residual, y, first);
  for (int k = 0; k < n; k++) {
    vf in[TILE_VECTORS];
    ask_ahead(values + k * PANEL);
    UNROLL for (int v = 0; v < NV; v++) in[v] = load(x + (k * NV + v) * W);
    UNROLL for (int r = 0; r < PANEL; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] += values[k * PANEL + r] * in[v];
  }
  UNROLL for (int r = 0; r < PANEL; r++) UNROLL for (int v = 0; v < NV; v++) store(y + (r * NV + v) * W, acc[r][v]);
}

/* Adds the products of one slot of four rows. All vectors are loaded before the first weight: of 16 registers no sum is left
 * without one, and a sum that goes through memory takes twice the time. */
INLINE void add_slot(const int NV, const float *at, const float *values, vf acc[PANEL][TILE_VECTORS]) {
  vf in[TILE_VECTORS];
  ask_ahead(values);
  UNROLL for (int v = 0; v < NV; v++) in[v] = load(at + v * W);
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) acc[r][v] += values[r] * in[v];
}

/* Four rows with one list of inputs. Of a single vector, even and odd slots are summed apart: four sums would wait for each
 * other. */
INLINE void listed_rows(const int NV, const float *x, int n, const float *values, const uint16_t *columns, const float *bias,
                        const float *residual, float *y, int first) {
  vf acc[PANEL][TILE_VECTORS], odd[PANEL][TILE_VECTORS];
  int s = 0;
  begin_rows(4, NV, acc, bias, residual, y, first);
  if (NV == 1) {
    UNROLL for (int r = 0; r < 4; r++) odd[r][0] = ZERO;
    for (; s + 1 < n; s += 2) {
      add_slot(1, x + (size_t)columns[s] * W, values + s * 4, acc);
      add_slot(1, x + (size_t)columns[s + 1] * W, values + s * 4 + 4, odd);
    }
    UNROLL for (int r = 0; r < 4; r++) acc[r][0] += odd[r][0];
  }
  for (; s < n; s++) add_slot(NV, x + (size_t)columns[s] * (NV * W), values + s * 4, acc);
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int v = 0; v < NV; v++) store(y + (r * NV + v) * W, acc[r][v]);
}

/* One row: the inputs of even and of odd slots are summed apart, for the sums of one list wait for each other. */
INLINE void listed_row(const int NV, const float *x, int n, const float *values, const uint16_t *columns, const float *bias,
                       const float *residual, float *y, int first) {
  vf even[PANEL][TILE_VECTORS], odd[TILE_VECTORS];
  begin_rows(1, NV, even, bias, residual, y, first);
  UNROLL for (int v = 0; v < NV; v++) odd[v] = ZERO;
  int s = 0;
  for (; s + 1 < n; s += 2) {
    const float *a = x + (size_t)columns[s] * (NV * W), *b = x + (size_t)columns[s + 1] * (NV * W);
    UNROLL for (int v = 0; v < NV; v++) even[0][v] += values[s] * load(a + v * W);
    UNROLL for (int v = 0; v < NV; v++) odd[v] += values[s + 1] * load(b + v * W);
  }
  if (s < n) {
    const float *a = x + (size_t)columns[s] * (NV * W);
    UNROLL for (int v = 0; v < NV; v++) even[0][v] += values[s] * load(a + v * W);
  }
  UNROLL for (int v = 0; v < NV; v++) store(y + v * W, even[0][v] + odd[v]);
}

static void activate(int kind, float *y, int count) {
  switch (kind) {
  case GELU:
    for (int i = 0; i < count; i += W) store(y + i, gelu_vf(load(y + i)));
    break;
  case TANH:
    for (int i = 0; i < count; i += W) store(y + i, tanh_vf(load(y + i)));
    break;
  case GELU_TANH:
    for (int i = 0; i < count; i += W) store(y + i, gelu_tanh_vf(load(y + i)));
    break;
  case QUICK_GELU:
    for (int i = 0; i < count; i += W) store(y + i, load(y + i) * sigmoid_vf(load(y + i) * 1.702f));
    break;
  case SILU:
    for (int i = 0; i < count; i += W) store(y + i, load(y + i) * sigmoid_vf(load(y + i)));
    break;
  case RELU:
    for (int i = 0; i < count; i += W) store(y + i, relu_vf(load(y + i)));
    break;
  default:
    break;
  }
}

/* Asks for one of so many parts of what will be read soon. */
INLINE void ask_for(const void *what, size_t bytes, int part, int parts) {
  const size_t first = bytes * part / parts / LINE * LINE, end = bytes * (part + 1) / parts;
  for (size_t at = first; at < end; at += LINE) __builtin_prefetch((const char *)what + at, 0, 2);
}

/* Groups of rows of one block of inputs for one of `tiles`, of NV vectors. */
INLINE void block_of_rows(const int NV, const linear *l, int block, range groups, int tile, range tiles) {
  const int rows = l->kind == DENSE ? PANEL : l->kind == VECTORS ? 4 : 1, count = (l->outs + rows - 1) / rows;
  const int low = block * l->block, n = l->ins - low < l->block ? l->ins - low : l->block;
  const int first = low == 0, last = low + n == l->ins;
  const float *x = tile_of(&l->x, tile) + (size_t)low * (NV * W);
  const float *residual = l->residual.data ? tile_of(&l->residual, tile) : NULL;
  float *y = tile_of(&l->y, tile);
  /* read soon: the next tile's inputs of this block, or the first one's of the next */
  const int next = tile + 1 < tiles.to ? tile + 1 : tiles.from;
  const int later = tile < next ? low : low + n < l->ins ? low + n : 0;
  const int width = width_of(l->x.cut, next);
  const float *soon = tile_of(&l->x, next) + (size_t)later * width;
  const size_t bytes = sizeof(float) * width * (l->ins - later < l->block ? l->ins - later : l->block);
  for (int g = groups.from; g < groups.to; g++) {
    const size_t at = (size_t)g * rows * (NV * W);
    const float *rest = residual ? residual + at : NULL;
    ask_for(soon, bytes, g - groups.from, groups.to - groups.from);
    if (l->kind == DENSE) {
      const float *values = l->values + ((size_t)low * count + (size_t)g * n) * PANEL;
      dense_rows(NV, x, n, values, l->bias + g * PANEL, rest, y + at, first);
    } else {
      const uint32_t *starts = l->starts + block * count + g, begin = starts[0], slots = starts[1] - begin;
      if (l->kind == VECTORS)
        listed_rows(NV, x, slots, l->values + (size_t)begin * 4, l->columns + begin, l->bias + g * 4, rest, y + at, first);
      else
        listed_row(NV, x, slots, l->values + begin, l->columns + begin, l->bias + g, rest, y + at, first);
    }
    if (last && l->activation) activate(l->activation, y + at, rows * NV * W);
  }
}

static void some_rows(hpcc_model *m, const void *arguments, int item, int worker) {
  const range tiles = tiles_of_item(arguments, &item);
  const linear *l = layer_of(arguments, &item);
  const range g = groups_of(arguments, item, l->outs, l->kind == DENSE ? PANEL : l->kind == VECTORS ? 4 : 1);
  (void)m, (void)worker;
  for (int block = 0; block * l->block < l->ins; block++)
    for (int tile = tiles.from; tile < tiles.to; tile++)
      switch (width_of(l->x.cut, tile) / W) {
      case 1: block_of_rows(1, l, block, g, tile, tiles); break;
      case 2: block_of_rows(2, l, block, g, tile, tiles); break;
#if TILE_VECTORS >= 3
      case 3: block_of_rows(3, l, block, g, tile, tiles); break;
#endif
#if TILE_VECTORS == 4
      case 4: block_of_rows(4, l, block, g, tile, tiles); break;
#endif
      }
}

STEP run_linears(hpcc_model *m, const linear *layers, int count, int chunk) {
  run_layers(m, some_rows, layers, sizeof *layers, count, layers->y.cut->tiles, chunk, LEAST_CHUNK);
}
