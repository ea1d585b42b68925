/* The AVX-512 and AMX intrinsics that the int8 kernels use, on two AVX2 registers or number by number, as Intel's intrinsics guide
 * defines them: so that these kernels are tested where no CPU has their instructions. Compiled with -I of this folder. */
#ifndef EMULATED_AVX512
#define EMULATED_AVX512

#include_next <immintrin.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((always_inline, unused))

#define ON_HALVES(name)                                                                                                  \
  EMULATED __m512i emulated_##name(__m512i a, __m512i b) {                                                               \
    __m256i x[2], y[2];                                                                                                  \
    memcpy(x, &a, 64), memcpy(y, &b, 64);                                                                                \
    x[0] = _mm256_##name(x[0], y[0]), x[1] = _mm256_##name(x[1], y[1]);                                                  \
    memcpy(&a, x, 64);                                                                                                   \
    return a;                                                                                                            \
  }
ON_HALVES(unpacklo_epi8)
ON_HALVES(unpackhi_epi8)
ON_HALVES(unpacklo_epi16)
ON_HALVES(unpackhi_epi16)
ON_HALVES(unpacklo_epi32)
ON_HALVES(unpackhi_epi32)
ON_HALVES(unpacklo_epi64)
ON_HALVES(unpackhi_epi64)
ON_HALVES(packs_epi16)
ON_HALVES(packs_epi32)
ON_HALVES(madd_epi16)

EMULATED float emulated_reduce_max_ps(__m512 a) {
  float lanes[16];
  memcpy(lanes, &a, sizeof lanes);
  for (int lane = 1; lane < 16; lane++) lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
  return lanes[0];
}

EMULATED __m512i emulated_cvtps_epi32(__m512 a) {
  __m256 x[2];
  memcpy(x, &a, 64);
  __m256i y[2] = {_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])};
  __m512i result;
  memcpy(&result, y, 64);
  return result;
}

EMULATED __m128i emulated_cvtepi32_epi8(__m512i a) {
  int32_t x[16];
  uint8_t y[16];
  memcpy(x, &a, 64);
  for (int i = 0; i < 16; i++) y[i] = (uint8_t)x[i];
  __m128i result;
  memcpy(&result, y, 16);
  return result;
}

EMULATED __m512 emulated_cvtepi32_ps(__m512i a) {
  __m256i x[2];
  memcpy(x, &a, 64);
  __m256 y[2] = {_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])};
  __m512 result;
  memcpy(&result, y, 64);
  return result;
}

/* Two lanes of 128 bits of a, then two of b. */
EMULATED __m512i emulated_shuffle_i32x4(__m512i a, __m512i b, int which) {
  __m128i x[4], y[4];
  memcpy(x, &a, 64), memcpy(y, &b, 64);
  __m128i z[4] = {x[which & 3], x[which >> 2 & 3], y[which >> 4 & 3], y[which >> 6 & 3]};
  memcpy(&a, z, 64);
  return a;
}

EMULATED __m512i emulated_permutexvar_epi8(__m512i which, __m512i a) {
  uint8_t at[64], x[64], y[64];
  memcpy(at, &which, 64), memcpy(x, &a, 64);
  for (int i = 0; i < 64; i++) y[i] = x[at[i] & 63];
  memcpy(&a, y, 64);
  return a;
}

/* Unsigned bytes of a times signed bytes of b, four to a sum; no saturation. */
EMULATED __m512i emulated_dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
  int32_t sum[16];
  uint8_t x[64];
  int8_t y[64];
  memcpy(sum, &sums, 64), memcpy(x, &a, 64), memcpy(y, &b, 64);
  for (int i = 0; i < 64; i++) sum[i / 4] += x[i] * y[i];
  memcpy(&sums, sum, 64);
  return sums;
}

/* Tiles of 16 rows of 64 bytes, whatever shapes are set. */
static _Thread_local __attribute__((unused)) uint8_t emulated_tiles[8][16][64];

EMULATED void emulated_loadd(uint8_t tile[16][64], const void *base, long stride) {
  for (int row = 0; row < 16; row++) memcpy(tile[row], (const char *)base + row * stride, 64);
}

EMULATED void emulated_stored(uint8_t tile[16][64], void *base, long stride) {
  for (int row = 0; row < 16; row++) memcpy((char *)base + row * stride, tile[row], 64);
}

/* Signed bytes of a times unsigned bytes of b. */
EMULATED void emulated_dpbsud(uint8_t sums[16][64], uint8_t a[16][64], uint8_t b[16][64]) {
  for (int m = 0; m < 16; m++) {
    int32_t sum[16];
    memcpy(sum, sums[m], 64);
    for (int k = 0; k < 64; k++)
      for (int n = 0; n < 16; n++) sum[n] += (int8_t)a[m][k] * b[k / 4][4 * n + k % 4];
    memcpy(sums[m], sum, 64);
  }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#define _tile_loadconfig(shapes) ((void)(shapes))
#define _tile_release() ((void)0)
#define _tile_zero(t) ((void)memset(emulated_tiles[t], 0, 1024))
#define _tile_loadd(t, base, stride) emulated_loadd(emulated_tiles[t], base, stride)
#define _tile_stored(t, base, stride) emulated_stored(emulated_tiles[t], base, stride)
#define _tile_dpbsud(c, a, b) emulated_dpbsud(emulated_tiles[c], emulated_tiles[a], emulated_tiles[b])

#define _mm512_unpacklo_epi8 emulated_unpacklo_epi8
#define _mm512_unpackhi_epi8 emulated_unpackhi_epi8
#define _mm512_unpacklo_epi16 emulated_unpacklo_epi16
#define _mm512_unpackhi_epi16 emulated_unpackhi_epi16
#define _mm512_unpacklo_epi32 emulated_unpacklo_epi32
#define _mm512_unpackhi_epi32 emulated_unpackhi_epi32
#define _mm512_unpacklo_epi64 emulated_unpacklo_epi64
#define _mm512_unpackhi_epi64 emulated_unpackhi_epi64
#define _mm512_packs_epi16 emulated_packs_epi16
#define _mm512_packs_epi32 emulated_packs_epi32
#define _mm512_madd_epi16 emulated_madd_epi16
#define _mm512_reduce_max_ps emulated_reduce_max_ps
#define _mm512_cvtps_epi32(a) emulated_cvtps_epi32((__m512)(a))
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#undef _mm512_shuffle_i32x4 /* a macro where nothing is inlined */
#define _mm512_shuffle_i32x4 emulated_shuffle_i32x4
#define _mm512_permutexvar_epi8 emulated_permutexvar_epi8
#define _mm512_dpbusd_epi32 emulated_dpbusd_epi32
#define _mm512_load_si512(place) (*(const __m512i *)(place))
#define _mm512_loadu_si512(place) (*(const __m512i_u *)(place))
#define _mm512_store_si512(place, a) (*(__m512i *)(place) = (a))
#define _mm512_setzero_si512() ((__m512i){0})
#define _mm512_set1_epi8(a) ((__m512i)((char __attribute__((vector_size(64)))){0} + (char)(a)))
#define _mm512_set1_epi32(a) ((__m512i)((int __attribute__((vector_size(64)))){0} + (int)(a)))
#define _mm512_xor_si512(a, b) ((a) ^ (b))

#endif
