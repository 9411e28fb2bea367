/* The memory floor of the geometry benchmark: the passes over memory that the map, its gradient
 * and the update of p cannot do without, in plain C, with float64 sums and next to no scalar
 * arithmetic in between. `benchmarks/geometry.py` compiles it with -O3 -march=native.
 *
 * Arrays are [rows, columns], row-major, one vector a column; a vector that is a whole kernel
 * comes as [n / LANES, LANES] with `whole` set, and its lanes are added up.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#define IN const float *restrict
#define OUT float *restrict
enum { LANES = 32 };

/* Two or three dot products of [rows, LANES] arrays, lanes added up; they stay in registers. */
static inline void lanes(size_t rows, int three, IN a, IN b, IN c, IN d, IN e, IN f,
                         double *restrict sums) {
  double s[3][LANES] = {{0}};
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < LANES; j++) {
      size_t at = i * LANES + j;
      s[0][j] += (double)a[at] * (double)b[at];
      s[1][j] += (double)c[at] * (double)d[at];
      if (three) s[2][j] += (double)e[at] * (double)f[at];
    }
  for (int k = 0; k < 3; k++) {
    double total = 0;
    for (size_t j = 0; j < LANES; j++) total += s[k][j];
    for (size_t j = 0; j < LANES; j++) sums[k * LANES + j] = total;
  }
}

/* Two or three dot products of every column in one pass, row by row: the sums of up to a few
 * thousand columns stay in the first-level cache. */
static inline void dots(int whole, size_t rows, size_t columns, int three, IN a, IN b, IN c, IN d,
                        IN e, IN f, double *restrict s0) {
  double *restrict s1 = s0 + columns;
  double *restrict s2 = s1 + columns;
  memset(s0, 0, 3 * sizeof(double) * columns);
  if (whole) {
    lanes(rows, three, a, b, c, d, e, f, s0);
    return;
  }
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) {
      size_t at = i * columns + j;
      s0[j] += (double)a[at] * (double)b[at];
      s1[j] += (double)c[at] * (double)d[at];
      if (three) s2[j] += (double)e[at] * (double)f[at];
    }
}

/* sign(v + k p): 3 dots, then 2 reads and 1 write. `work` holds 8 * columns doubles. */
void forward(int whole, size_t rows, size_t columns, IN p, IN v, OUT sign, double *restrict work) {
  dots(whole, rows, columns, 1, p, p, p, v, v, v, work);
  OUT k = (float *)(work + 6 * columns);
  for (size_t j = 0; j < columns; j++)
    k[j] = (float)(work[columns + j] / (1 + work[j] + work[2 * columns + j]));
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) {
      size_t at = i * columns + j;
      sign[at] = copysignf(1.0f, v[at] + k[j] * p[at]);
    }
}

/* dp and dv as combinations of dy, p and v: 2 dots, then 3 reads and 2 writes. */
void backward(int whole, size_t rows, size_t columns, IN p, IN v, IN dy, OUT dp, OUT dv,
              double *restrict work) {
  dots(whole, rows, columns, 0, dy, p, dy, v, p, p, work);
  OUT a = (float *)(work + 6 * columns);
  OUT b = a + columns;
  for (size_t j = 0; j < columns; j++) {
    a[j] = (float)(1e-3 * work[j]);
    b[j] = (float)(1e-3 * work[columns + j]);
  }
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) {
      size_t at = i * columns + j;
      float x = dy[at], y = p[at], z = v[at];
      dv[at] = 0.9f * x + a[j] * z + b[j] * y;
      dp[at] = 1.1f * x + b[j] * z + a[j] * y;
    }
}

/* a p + b g: 3 dots, then 2 reads and 1 write. */
void update(int whole, size_t rows, size_t columns, IN p, IN g, OUT moved, double *restrict work) {
  dots(whole, rows, columns, 1, p, p, p, g, g, g, work);
  OUT a = (float *)(work + 6 * columns);
  OUT b = a + columns;
  for (size_t j = 0; j < columns; j++) {
    a[j] = (float)(1 - 1e-3 * work[j]);
    b[j] = (float)(1e-3 * (work[columns + j] + work[2 * columns + j]));
  }
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) {
      size_t at = i * columns + j;
      moved[at] = a[j] * p[at] + b[j] * g[at];
    }
}
