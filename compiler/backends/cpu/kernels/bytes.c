/* ---- int8 products with VNNI ------------------------------------------------------------------------------------
 * A row of codes is 64 bytes, one for each token of a tile, in an order that makes four rows, interleaved byte by byte,
 * the four operands of VPDPBUSD: token v * 16 + l * 4 + i stands at l * 16 + v * 4 + i. So any four inputs that rows share
 * can be multiplied together, not only neighbours. Codes are stored + 128, as the instruction's first operand is unsigned;
 * what that adds to a sum is known from the weights and taken away at its begin. */

#include <immintrin.h>

enum { LIST = 4 };
typedef int8_t weight_code;
typedef __m512i operand;
typedef int32_t __attribute__((may_alias)) four_weights; /* which a load spreads over a register: from a register of integers,
                                                            that would take one of the two ports that multiply */

/* The codes of one feature of a tile's tokens, rounded to nearest even. */
INLINE __m512i code_row(const float *row, int vectors, const vf over[TILE_VECTORS]) {
  __m512i part[TILE_VECTORS];
  UNROLL for (int v = 0; v < TILE_VECTORS; v++)
    part[v] = v < vectors ? _mm512_cvtps_epi32((__m512)(load(row + v * W) * over[v])) : _mm512_setzero_si512();
  const __m512i low = _mm512_packs_epi32(part[0], part[1]), high = _mm512_packs_epi32(part[2], part[3]);
  return _mm512_xor_si512(_mm512_packs_epi16(low, high), _mm512_set1_epi8((char)0x80));
}

INLINE void store_code_row(uint8_t *codes, const float *row, int vectors, const vf over[TILE_VECTORS]) {
  _mm512_store_si512(codes, code_row(row, vectors, over));
}

/* Four rows of codes as operands of VPDPBUSD: of v, lane l has four bytes of token v * 16 + l. */
INLINE void interleave(__m512i a, __m512i b, __m512i c, __m512i d, __m512i in[4]) {
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  const __m512i ef = _mm512_unpackhi_epi8(a, b), gh = _mm512_unpackhi_epi8(c, d);
  in[0] = _mm512_unpacklo_epi16(ab, cd), in[1] = _mm512_unpackhi_epi16(ab, cd);
  in[2] = _mm512_unpacklo_epi16(ef, gh), in[3] = _mm512_unpackhi_epi16(ef, gh);
}

/* The codes of a list of four inputs, for NV vectors of tokens (all four cost the same). */
INLINE void operands(const int NV, const uint8_t *codes, const uint16_t *columns, operand in[TILE_VECTORS]) {
  const __m512i a = _mm512_load_si512(codes + (size_t)columns[0] * CODE_ROW);
  const __m512i b = _mm512_load_si512(codes + (size_t)columns[1] * CODE_ROW);
  const __m512i c = _mm512_load_si512(codes + (size_t)columns[2] * CODE_ROW);
  const __m512i d = _mm512_load_si512(codes + (size_t)columns[3] * CODE_ROW);
  (void)NV;
  interleave(a, b, c, d, in);
}

/* Adds a list's products with four bytes of weights for each of four rows. */
INLINE void multiply(const int NV, const operand in[TILE_VECTORS], const int8_t *values, vi sums[4][TILE_VECTORS]) {
  const four_weights *w = (const four_weights *)values;
  UNROLL for (int r = 0; r < 4; r++) {
    const __m512i weight = _mm512_set1_epi32(w[r]);
    UNROLL for (int v = 0; v < NV; v++) sums[r][v] = (vi)_mm512_dpbusd_epi32((__m512i)sums[r][v], in[v], weight);
  }
}
