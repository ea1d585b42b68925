/* ---- int8 products without VNNI: AVX2, AVX-512 --------------------------------------------------------------------
 * Codes and weights stand in 16 bits, so that VPMADDWD multiplies two inputs at once, exact in int32. A row of codes is a
 * register for every two vectors of tokens, in an order that makes two rows, interleaved word by word, the operands of both:
 * its lower half of every 128 bits belongs to the first. So any two inputs that rows share can be multiplied together. */

#include <immintrin.h>

enum { LIST = 2 };
typedef int16_t weight_code;
typedef int32_t __attribute__((may_alias)) pair; /* of weights, which a load spreads over a register */

#if W == 16
typedef __m512i words;
#define WORDS(what) _mm512_##what
#else
typedef __m256i words;
#define WORDS(what) _mm256_##what
#endif
typedef words operand;

/* The codes of one feature of a tile's tokens, rounded to nearest even. */
INLINE void store_code_row(uint8_t *codes, const float *row, int vectors, const vf over[TILE_VECTORS]) {
  words part[TILE_VECTORS] = {0};
  UNROLL for (int v = 0; v < TILE_VECTORS; v++)
    if (v < vectors) part[v] = WORDS(cvtps_epi32)(load(row + v * W) * over[v]);
  UNROLL for (int v = 0; v < TILE_VECTORS; v += 2) ((words *)codes)[v / 2] = WORDS(packs_epi32)(part[v], part[v + 1]);
}

/* The codes of a list of two inputs, for NV vectors of tokens. */
INLINE void operands(const int NV, const uint8_t *codes, const uint16_t *columns, operand in[TILE_VECTORS]) {
  const words *a = (const words *)(codes + (size_t)columns[0] * CODE_ROW);
  const words *b = (const words *)(codes + (size_t)columns[1] * CODE_ROW);
  UNROLL for (int v = 0; v < NV; v++)
    in[v] = v % 2 ? WORDS(unpackhi_epi16)(a[v / 2], b[v / 2]) : WORDS(unpacklo_epi16)(a[v / 2], b[v / 2]);
}

/* Adds a list's products with two words of weights for each of four rows. */
INLINE void multiply(const int NV, const operand in[TILE_VECTORS], const int16_t *values, vi sums[4][TILE_VECTORS]) {
  const pair *w = (const pair *)values;
  UNROLL for (int r = 0; r < 4; r++) {
    const words weight = WORDS(set1_epi32)(w[r]);
    UNROLL for (int v = 0; v < NV; v++) sums[r][v] += (vi)WORDS(madd_epi16)(in[v], weight);
  }
}
