/* ---- activations -------------------------------------------------------------------------------------------------
 * A buffer holds `features` values of columns of tokens (or of samples, after pooling), cut into tiles of at most TILE columns:
 * tile t is [features][width]. There are a multiple of W columns; each sample's tokens begin at one, and what lies behind them
 * up to the next is padding, whose values are never shown. */

/* How columns are cut: as evenly as their vectors allow. So half of the tiles are half of the work, and no tile is a single
 * vector beside wider ones: alone, its few sums would wait for each other. */
typedef struct {
  int columns, tiles;
  int32_t *starts;  /* the first column of each tile, then the end of the last */
  int32_t *tile_of; /* the tile of each vector of columns */
} cut;

typedef struct {
  float *data;
  int features; /* as allocated: a multiple of 12, so that groups of 4 and of 6 rows need no tails */
  const cut *cut;
} buffer;

INLINE int tiles_of(int columns) { return (columns + TILE - 1) / TILE; }

static void cut_columns(cut *c, int columns) {
  if (c->columns == columns) return;
  c->columns = columns, c->tiles = tiles_of(columns);
  for (int tile = 0; tile <= c->tiles; tile++) c->starts[tile] = (int)((int64_t)tile * (columns / W) / c->tiles) * W;
  for (int tile = 0; tile < c->tiles; tile++)
    for (int column = c->starts[tile]; column < c->starts[tile + 1]; column += W) c->tile_of[column / W] = tile;
}

INLINE int tile_at(const cut *c, int column) { return c->tile_of[column / W]; }
INLINE int width_of(const cut *c, int tile) { return c->starts[tile + 1] - c->starts[tile]; }
INLINE float *tile_of(const buffer *b, int tile) { return b->data + (size_t)b->cut->starts[tile] * b->features; }

/* Columns from `at` on that lie in one tile, at most up to `end`. */
INLINE int run_of(const cut *c, int at, int end) {
  const int border = c->starts[tile_at(c, at) + 1];
  return (end < border ? end : border) - at;
}

/* The first feature of a column, and the distance to its next. */
INLINE float *column_of(const buffer *b, int column, int *step) {
  const int tile = tile_at(b->cut, column);
  *step = width_of(b->cut, tile);
  return tile_of(b, tile) + column - b->cut->starts[tile];
}

/* Any feature of a column, and the distance to its next. */
INLINE float *value_of(const buffer *b, int feature, int column, int *step) {
  float *first = column_of(b, column, step);
  return first + (size_t)feature * *step;
}
