/* ---- linear layers in int8 by tiles (AMX) -------------------------------------------------------------------------
 * TDPBSUD multiplies a tile of 16 rows by 64 inputs of weights with one of 64 inputs by 16 tokens of codes. 16 rows share a
 * list of inputs, any ones, cut into blocks of 64; where every input is used, all rows share one list. The codes of a list are
 * interleaved by fours into an area of the worker's, once for all rows that share it, and serve every tile from there. */

enum { TILE_ROWS = 16, TILE_INPUTS = 64, TILE_BYTES = 1024, BLOCK_BYTES = TILE_VECTORS * TILE_BYTES };

#if defined(__linux__) && defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>

/* Linux gives the tiles' registers to processes that ask for them: ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA. */
static bool allow_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
#else
static bool allow_tiles(void) { return true; }
#endif

/* Eight tiles of 16 rows of 64 bytes. */
INLINE void shape_tiles(void) {
  static const _Alignas(64) struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&shapes);
}

/* Block b of a list becomes TILE_VECTORS tiles at area + b * BLOCK_BYTES. */
static void interleave_list(const uint8_t *codes, int blocks, const uint16_t *columns, uint8_t *area) {
  for (int q = 0; q < blocks * (TILE_INPUTS / 4); q++) {
    __m512i row[4], in[4];
    UNROLL for (int i = 0; i < 4; i++) row[i] = _mm512_load_si512(codes + (size_t)columns[4 * q + i] * CODE_ROW);
    interleave(row[0], row[1], row[2], row[3], in);
    uint8_t *to = area + (size_t)(q / 16) * BLOCK_BYTES + q % 16 * 64;
    UNROLL for (int v = 0; v < TILE_VECTORS; v++) _mm512_store_si512(to + v * TILE_BYTES, in[v]);
  }
}

typedef struct {
  int outs, activation, shared; /* shared: all rows have the list of the first group */
  const float *bias, *row_scales;
  const int32_t *begins;   /* of each row: -128 times the sum of its codes */
  const int8_t *values;    /* [block][16 rows][64 inputs] */
  const uint32_t *starts;  /* first block of each group of 16 rows, then the end of the last */
  const uint16_t *columns; /* [block][64 inputs]; of one list, if it is shared */
  code_buffer x;
  buffer residual, y; /* residual.data may be NULL */
} tile_linear;

/* Sums of 16 rows for NV vectors of tokens: sums [vector][16 rows][16 tokens]. */
INLINE void tile_group(const int NV, const uint8_t *area, int blocks, const int8_t *values, int32_t *sums) {
  _tile_zero(0);
  if (NV > 1) _tile_zero(1);
  if (NV > 2) _tile_zero(2);
  if (NV > 3) _tile_zero(3);
  for (int b = 0; b < blocks; b++) {
    const uint8_t *in = area + (size_t)b * BLOCK_BYTES;
    _tile_loadd(4, values + (size_t)b * TILE_BYTES, 64);
    _tile_loadd(5, in, 64);
    _tile_dpbsud(0, 4, 5);
    if (NV > 1) {
      _tile_loadd(6, in + TILE_BYTES, 64);
      _tile_dpbsud(1, 4, 6);
    }
    if (NV > 2) {
      _tile_loadd(7, in + 2 * TILE_BYTES, 64);
      _tile_dpbsud(2, 4, 7);
    }
    if (NV > 3) {
      _tile_loadd(5, in + 3 * TILE_BYTES, 64);
      _tile_dpbsud(3, 4, 5);
    }
  }
  _tile_stored(0, sums, 64);
  if (NV > 1) _tile_stored(1, sums + 256, 64);
  if (NV > 2) _tile_stored(2, sums + 512, 64);
  if (NV > 3) _tile_stored(3, sums + 768, 64);
}

/* Sums of two groups that share a list, for two vectors: a tile that is loaded is used twice. */
INLINE void tile_groups(const uint8_t *area, int blocks, const int8_t *values, int32_t *sums, int32_t *next_sums) {
  const int8_t *next = values + (size_t)blocks * TILE_BYTES;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int b = 0; b < blocks; b++) {
    const uint8_t *in = area + (size_t)b * BLOCK_BYTES;
    _tile_loadd(4, values + (size_t)b * TILE_BYTES, 64);
    _tile_loadd(6, in, 64);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(5, next + (size_t)b * TILE_BYTES, 64);
    _tile_dpbsud(2, 5, 6);
    _tile_loadd(7, in + TILE_BYTES, 64);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, next_sums, 64);
  _tile_stored(3, next_sums + 256, 64);
}

/* Sums of group g become numbers. */
static void finish_tiles(const tile_linear *l, int g, int tile, int vectors, const int32_t *sums) {
  const float *scales = scales_of(&l->x, tile), *residual = l->residual.data ? tile_of(&l->residual, tile) : NULL;
  float *y = tile_of(&l->y, tile);
  for (int r = 0; r < TILE_ROWS && g * TILE_ROWS + r < l->outs; r++) {
    const int row = g * TILE_ROWS + r;
    for (int v = 0; v < vectors; v++) {
      const size_t at = ((size_t)row * vectors + v) * W;
      const vi sum = *(const vi *)(sums + v * 256 + r * 16) + l->begins[row];
      const vf scale = load(scales + v * W) * l->row_scales[row];
      const vf value = __builtin_convertvector(sum, vf) * scale + l->bias[row];
      store(y + at, residual ? value + load(residual + at) : value);
    }
  }
}

static void tile_rows(const tile_linear *l, int from, int to, int tile, uint8_t *area) {
  const int vectors = width_of(l->y.cut, tile) / W;
  const uint8_t *codes = codes_of(&l->x, tile);
  _Alignas(64) int32_t sums[2][TILE_VECTORS * 256];
  if (l->shared) interleave_list(codes, l->starts[1], l->columns, area);
  for (int g = from; g < to; g++) {
    const uint32_t begin = l->starts[g];
    const int blocks = l->starts[g + 1] - begin;
    const int8_t *values = l->values + (size_t)begin * TILE_BYTES;
    if (!l->shared) interleave_list(codes, blocks, l->columns + (size_t)begin * TILE_INPUTS, area);
    if (l->shared && vectors == TILE_VECTORS && g + 1 < to) {
      for (int v = 0; v < TILE_VECTORS; v += 2)
        tile_groups(area + v * TILE_BYTES, blocks, values, sums[0] + v * 256, sums[1] + v * 256);
      finish_tiles(l, g++, tile, vectors, sums[0]);
      finish_tiles(l, g, tile, vectors, sums[1]);
      continue;
    }
    switch (vectors) {
    case 1: tile_group(1, area, blocks, values, sums[0]); break;
    case 2: tile_group(2, area, blocks, values, sums[0]); break;
    case 3: tile_group(3, area, blocks, values, sums[0]); break;
    case 4: tile_group(4, area, blocks, values, sums[0]); break;
    }
    finish_tiles(l, g, tile, vectors, sums[0]);
  }
  const int begin = from * TILE_ROWS, end = to * TILE_ROWS < l->outs ? to * TILE_ROWS : l->outs;
  if (l->activation && end > begin)
    activate(l->activation, tile_of(&l->y, tile) + (size_t)begin * vectors * W, (end - begin) * vectors * W);
}

static void some_tile_rows(hpcc_model *m, const void *arguments, int item, int worker) {
  const range tiles = tiles_of_item(arguments, &item);
  const tile_linear *l = layer_of(arguments, &item);
  const range g = groups_of(arguments, item, l->outs, TILE_ROWS);
  uint8_t *area = m->blocks + (size_t)worker * BLOCKS_MEMORY;
  shape_tiles();
  for (int tile = tiles.from; tile < tiles.to; tile++) tile_rows(l, g.from, g.to, tile, area);
  _tile_release();
}

STEP run_tile_linears(hpcc_model *m, const tile_linear *layers, int count, int chunk) {
  run_layers(m, some_tile_rows, layers, sizeof *layers, count, layers->y.cut->tiles, chunk, chunk);
}
