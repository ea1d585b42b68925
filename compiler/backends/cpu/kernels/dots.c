/* ---- int8 products with NEON's dot products ---------------------------------------------------------------------
 * A row of codes is 16 bytes, one for each token of a tile, in order: four rows, interleaved byte by byte, are the four
 * operands of SDOT. So any four inputs that rows share can be multiplied together, not only neighbours. Four bytes of weights
 * of four rows fill a register, of which the instruction takes the row's. */

#include <arm_neon.h>

enum { LIST = 4 };
typedef int8_t weight_code;
typedef int8x16_t operand;

/* The codes of one feature of a tile's tokens, rounded to nearest even. */
INLINE void store_code_row(uint8_t *codes, const float *row, int vectors, const vf over[TILE_VECTORS]) {
  int16x4_t part[TILE_VECTORS];
  UNROLL for (int v = 0; v < TILE_VECTORS; v++)
    part[v] = v < vectors ? vmovn_s32(vcvtnq_s32_f32((float32x4_t)(load(row + v * W) * over[v]))) : vdup_n_s16(0);
  const int8x8_t low = vmovn_s16(vcombine_s16(part[0], part[1])), high = vmovn_s16(vcombine_s16(part[2], part[3]));
  vst1q_s8((int8_t *)codes, vcombine_s8(low, high));
}

/* Four rows of codes as operands of SDOT: of v, lane l has four bytes of token v * 4 + l. */
INLINE void interleave(int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d, int8x16_t in[4]) {
  const int16x8_t ab = (int16x8_t)vzip1q_s8(a, b), cd = (int16x8_t)vzip1q_s8(c, d);
  const int16x8_t ef = (int16x8_t)vzip2q_s8(a, b), gh = (int16x8_t)vzip2q_s8(c, d);
  in[0] = (int8x16_t)vzip1q_s16(ab, cd), in[1] = (int8x16_t)vzip2q_s16(ab, cd);
  in[2] = (int8x16_t)vzip1q_s16(ef, gh), in[3] = (int8x16_t)vzip2q_s16(ef, gh);
}

/* The codes of a list of four inputs, for NV vectors of tokens (all four cost the same). */
INLINE void operands(const int NV, const uint8_t *codes, const uint16_t *columns, operand in[TILE_VECTORS]) {
  const int8_t *rows = (const int8_t *)codes;
  (void)NV;
  interleave(vld1q_s8(rows + (size_t)columns[0] * CODE_ROW), vld1q_s8(rows + (size_t)columns[1] * CODE_ROW),
             vld1q_s8(rows + (size_t)columns[2] * CODE_ROW), vld1q_s8(rows + (size_t)columns[3] * CODE_ROW), in);
}

/* Adds a list's products with four bytes of weights for each of four rows. */
INLINE void multiply(const int NV, const operand in[TILE_VECTORS], const int8_t *values, vi sums[4][TILE_VECTORS]) {
  const int8x16_t weights = vld1q_s8(values);
  UNROLL for (int v = 0; v < NV; v++) {
    sums[0][v] = (vi)vdotq_laneq_s32((int32x4_t)sums[0][v], in[v], weights, 0);
    sums[1][v] = (vi)vdotq_laneq_s32((int32x4_t)sums[1][v], in[v], weights, 1);
    sums[2][v] = (vi)vdotq_laneq_s32((int32x4_t)sums[2][v], in[v], weights, 2);
    sums[3][v] = (vi)vdotq_laneq_s32((int32x4_t)sums[3][v], in[v], weights, 3);
  }
}
