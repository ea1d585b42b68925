/* ---- activations -------------------------------------------------------------------------------------------------
 * A buffer holds `features` values of `columns` tokens (or of samples, after pooling), cut into tiles of TILE columns:
 * tile t is [features][width], its width TILE but for the last two. `columns` is a multiple of W; each sample's tokens begin
 * at one, and what lies behind them up to the next is padding, whose values are never shown. */

typedef struct {
  float *data;
  int features; /* as allocated: a multiple of 12, so that groups of 4 and of 6 rows need no tails */
  int columns;
} buffer;

INLINE int tiles_of(int columns) { return (columns + TILE - 1) / TILE; }

/* Columns that the last tile takes over from the one before it: alone, one vector would take two thirds of the time of three,
 * for its few sums wait for each other. */
INLINE int moved_of(int columns) { return TILE_VECTORS == 3 && columns > TILE && columns % TILE == W ? W : 0; }

INLINE int start_of(int columns, int tile) {
  return tile < tiles_of(columns) - 1 ? tile * TILE : tile * TILE - moved_of(columns);
}
INLINE int width_of(int columns, int tile) {
  const int last = tiles_of(columns) - 1;
  return tile == last ? columns - start_of(columns, tile) : tile == last - 1 ? TILE - moved_of(columns) : TILE;
}
INLINE int tile_at(int columns, int column) {
  const int last = tiles_of(columns) - 1;
  return column >= start_of(columns, last) ? last : column / TILE;
}
INLINE float *tile_of(const buffer *b, int tile) { return b->data + (size_t)start_of(b->columns, tile) * b->features; }

/* The first feature of a column, and the distance to its next. */
INLINE float *column_of(const buffer *b, int column, int *step) {
  const int tile = tile_at(b->columns, column);
  *step = width_of(b->columns, tile);
  return tile_of(b, tile) + column - start_of(b->columns, tile);
}

/* Any feature of a column, and the distance to its next. */
INLINE float *value_of(const buffer *b, int feature, int column, int *step) {
  float *first = column_of(b, column, step);
  return first + (size_t)feature * *step;
}
