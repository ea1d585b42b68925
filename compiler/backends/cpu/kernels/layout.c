/* ---- activations -------------------------------------------------------------------------------------------------
 * A buffer holds `features` values of `columns` tokens (or of samples, after pooling), cut into tiles of TILE columns:
 * tile t is [features][width], its width TILE but for the last. `columns` is a multiple of W; each sample's tokens begin
 * at one, and what lies behind them up to the next is padding, whose values are never shown. */

typedef struct {
  float *data;
  int features; /* as allocated: a multiple of 12, so that groups of 4 and of 6 rows need no tails */
  int columns;
} buffer;

INLINE int width_of(int columns, int tile) { return columns - tile * TILE < TILE ? columns - tile * TILE : TILE; }
INLINE float *tile_of(const buffer *b, int tile) { return b->data + (size_t)tile * TILE * b->features; }

/* The first feature of a column, and the distance to its next. */
INLINE float *column_of(const buffer *b, int column, int *step) {
  *step = width_of(b->columns, column / TILE);
  return tile_of(b, column / TILE) + column % TILE;
}
