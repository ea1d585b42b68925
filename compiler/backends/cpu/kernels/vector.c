/* ---- vectors: W floats; everything below is written for any W -------------------------------------------------- */

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));

#define INLINE static inline __attribute__((always_inline))
#define STEP static __attribute__((unused)) void /* not every model has every kind of step */
#define ZERO ((vf){0})

INLINE vf splat(float x) { return x - ZERO; }
INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf x) { *(vf *)p = x; }
INLINE vf blend(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
INLINE vf larger(vf a, vf b) { return blend(a > b, a, b); }
INLINE vf smaller(vf a, vf b) { return blend(a < b, a, b); }

/* e^x for x <= 88, 0 below -87: x = n ln 2 + r, a polynomial of degree 6 in r (Cephes expf), relative error 2e-7. */
INLINE vf exp_vf(vf x) {
  vi live = x > splat(-87.0f);
  x = smaller(larger(x, splat(-87.0f)), splat(88.0f));
  vf shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the integer nearest to x / ln 2 stands in the low bits */
  vf n = shifted - 12582912.0f;
  vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  vi scale = ((vi)shifted << 23) + (127 << 23); /* the bits of 1.5 * 2^23 leave by the shift */
  return blend(live, p * (vf)scale, ZERO);
}

/* erf by the rational function of Eigen and XLA: x P(x^2) / Q(x^2) on [-4, 4], absolute error below 4e-7. */
INLINE vf erf_vf(vf x) {
  x = smaller(larger(x, splat(-4.0f)), splat(4.0f));
  vf s = x * x;
  vf p = splat(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s + -2.10102402082508e-06f;
  p = p * s + -5.69250639462346e-05f;
  p = p * s + -7.34990630326855e-04f;
  p = p * s + -2.95459980854025e-03f;
  p = p * s + -1.60960333262415e-02f;
  vf q = splat(-1.45660718464996e-05f);
  q = q * s + -2.13374055278905e-04f;
  q = q * s + -1.68282697438203e-03f;
  q = q * s + -7.37332916720468e-03f;
  q = q * s + -1.42647390514189e-02f;
  return x * p / q;
}

INLINE vf gelu_vf(vf x) {
  vf half = x * 0.5f;
  return half + half * erf_vf(x * 0.70710678f);
}

/* tanh x = 1 - 2 / (e^(2x) + 1); near 0, where that cancels, its Taylor series of degree 7. */
INLINE vf tanh_vf(vf x) {
  vf s = x * x;
  vf series = x + x * s * (-0.33333333f + s * (0.13333333f + s * -0.053968254f));
  vf far = 1.0f - 2.0f / (exp_vf(smaller(larger(x, splat(-10.0f)), splat(10.0f)) * 2.0f) + 1.0f);
  return blend(s < splat(0.04f), series, far);
}

INLINE vf gelu_tanh_vf(vf x) {
  vf half = x * 0.5f;
  return half + half * tanh_vf(0.79788456f * (x + 0.044715f * x * x * x));
}

INLINE vf sigmoid_vf(vf x) { return 1.0f / (1.0f + exp_vf(-x)); }

INLINE vf relu_vf(vf x) { return larger(x, ZERO); }
