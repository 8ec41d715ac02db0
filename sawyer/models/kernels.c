/* What a decoder does between its matrix products, each in one pass over memory. `native.py` compiles this file, once
 * with -DBF16 and once without, and tests hold every function against the torch operations that it stands for.
 *
 * `real` is the type of weights, cache and activations; sums and the residual stream are float. All arrays are dense
 * and row-major unless a stride says otherwise. A row is a token.
 *
 * Legend: x what goes in, y what comes out; i column, j key-value head, g query of such a head, t key; k, v the keys
 * and values of a sequence and head; c, s rows of cosine and sine; a, b rows of gate and up. In backwards, g and d
 * are rows of the gradient that comes in.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef BF16
typedef uint16_t real;

static inline float load(real x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline real store(float y) { /* to the nearest, ties to even; a NaN stays one */
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (real)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
#else
typedef float real;

static inline float load(real x) { return x; }
static inline real store(float y) { return y; }
#endif

#define INLINE static inline __attribute__((always_inline))
enum { KEYS = 64, BLOCK = 256, ROWS = 64, SMALL = 16384, TALL = 128, WIDE = 32 };
enum { AHEAD = 12, LINE = 64 / sizeof(real) }; /* keys fetched before they are needed; numbers that are fetched at once */

/* exp(x) to two units in the last place, 0 below -87. Cephes' polynomial; no branch, so that loops over it vectorise. */
INLINE float exponential(float x) {
    float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(clamped * 1.44269504088896341f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

/* y = x / sqrt(mean(x^2) + eps) * weight of one row; returns what x is multiplied by. */
INLINE float normed(const float *restrict x, const real *restrict weight, real *restrict y, int64_t width, float eps) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; i++) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf(squares / (float)width + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) y[i] = store(x[i] * scale * load(weight[i]));
    return scale;
}

/* RMSNorm, row by row; `scales[rows]` are kept for the backward. */
void rms_norm(const float *x, const real *weight, real *out, float *scales, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; row++)
        scales[row] = normed(x + row * width, weight, out + row * width, width, eps);
}

/* The gradients of `rms_norm`: with n = x * scale, dx = (g w - n mean(g w n)) * scale and dw = sum over rows of g n.
 * `sums[blocks][width]` gets dw of ROWS rows at a time, so that it does not depend on the number of threads. */
void rms_norm_backward(const real *grad, const float *x, const real *weight, const float *scales, float *grad_x,
                       float *sums, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t block = 0; block < (rows + ROWS - 1) / ROWS; block++) {
        float *restrict sum = sums + block * width;
        memset(sum, 0, width * sizeof(float));
        for (int64_t row = block * ROWS; row < rows && row < (block + 1) * ROWS; row++) {
            const real *restrict g = grad + row * width;
            const float *restrict own = x + row * width;
            float *restrict dx = grad_x + row * width;
            float scale = scales[row], inner = 0.0f;
#pragma omp simd reduction(+ : inner)
            for (int64_t i = 0; i < width; i++) {
                float product = load(g[i]) * own[i] * scale;
                sum[i] += product;
                inner += product * load(weight[i]);
            }
            inner /= (float)width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                dx[i] = (load(g[i]) * load(weight[i]) - own[i] * scale * inner) * scale;
        }
    }
}

/* stream += added (where it is not NULL), then out = RMSNorm(stream), row by row. */
void add_norm(float *stream, const real *added, const real *weight, real *out, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        float *restrict x = stream + row * width;
        if (added) {
            const real *restrict a = added + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) x[i] += load(a[i]);
        }
        normed(x, weight, out + row * width, width, eps);
    }
}

/* out = silu(gate) * up; rows of gate and up begin every `stride` numbers. */
void gated_silu(const real *gate, const real *up, real *out, int64_t rows, int64_t width, int64_t stride) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        const real *restrict a = gate + row * stride, *restrict b = up + row * stride;
        real *restrict y = out + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float g = load(a[i]);
            y[i] = store(g / (1.0f + exponential(-g)) * load(b[i]));
        }
    }
}

/* The gradients of `gated_silu` from that of its result, `grad`: grad_gate and, in the place of `grad`, grad_up. */
void gated_silu_backward(const real *gate, const real *up, real *grad, real *grad_gate, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        const real *restrict a = gate + row * width, *restrict b = up + row * width;
        real *restrict d = grad + row * width, *restrict da = grad_gate + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float g = load(a[i]), given = load(d[i]), open = 1.0f / (1.0f + exponential(-g));
            da[i] = store(given * load(b[i]) * open * (1.0f + g * (1.0f - open)));
            d[i] = store(given * g * open);
        }
    }
}

/* Of each row of a tile of logits x: log sum exp x, the mean of x under softmax(x), and log sum exp 2x; out[3][rows].
 * Where `targets[row]` is a column of the tile, its logit is `picked[row]`, which is more exact than the one in the
 * tile. */
void softmax_sums(const real *logits, const int64_t *targets, const float *picked, float *out, int64_t rows,
                  int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const real *restrict x = logits + row * width;
        int64_t target = targets[row];
        int inside = target >= 0 && target < width;
        float highest = inside ? picked[row] : -INFINITY, sum = 0.0f, first = 0.0f, squares = 0.0f;
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < width; i++) highest = load(x[i]) > highest ? load(x[i]) : highest;
#pragma omp simd reduction(+ : sum, first, squares)
        for (int64_t i = 0; i < width; i++) {
            float below = load(x[i]) - highest, share = exponential(below);
            sum += share;
            first += share * (below > -100.0f ? below : -100.0f);
            squares += share * share;
        }
        if (inside) {
            float below = load(x[target]) - highest, share = exponential(below), own = exponential(picked[row] - highest);
            sum += own - share;
            first += own * (picked[row] - highest) - share * (below > -100.0f ? below : -100.0f);
            squares += own * own - share * share;
        }
        out[row] = highest + logf(sum);
        out[rows + row] = highest + first / sum;
        out[2 * rows + row] = 2.0f * highest + logf(squares);
    }
}

/* In place of a tile of logits, the gradient of grad * log softmax(logits)[target]: grad * ([i = target] - p_i), with
 * p_i = exp(logit_i - normaliser). `targets` and `picked` as above. */
void log_softmax_backward(real *logits, const int64_t *targets, const float *picked, const float *normalisers,
                          const float *grads, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        real *restrict x = logits + row * width;
        float normaliser = normalisers[row], grad = grads[row];
        int64_t target = targets[row];
#pragma omp simd
        for (int64_t i = 0; i < width; i++) x[i] = store(-grad * exponential(load(x[i]) - normaliser));
        if (target >= 0 && target < width)
            x[target] = store(grad * (1.0f - exponential(picked[row] - normaliser)));
    }
}

/* y = rotary embedding of x, one head; with `weight`, of its RMSNorm. cos and sin are those of the token. */
INLINE void rotated(const real *restrict x, const real *weight, float eps, const float *restrict cosine,
                    const float *restrict sine, float *restrict y, int64_t size) {
    float own[size];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) own[i] = load(x[i]);
    if (weight) {
        real rounded[size];
        normed(own, weight, rounded, size, eps);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) own[i] = load(rounded[i]);
    }
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        y[i] = own[i] * cosine[i] - own[i + half] * sine[i];
        y[i + half] = own[i + half] * cosine[i + half] + own[i] * sine[i + half];
    }
}

/* out = softmax(scaling * q k) v of `groups` queries over keys `first` to `until`, with a running maximum, so that the
 * scores of KEYS keys are held at a time. */
INLINE void attended(const float *restrict query, const real *restrict keys, const real *restrict values, int64_t first,
                     int64_t until, int64_t groups, int64_t size, float scaling, real *restrict out) {
    float sums[groups * size], scores[groups][KEYS], peak[groups], total[groups], one[size];
    memset(sums, 0, sizeof sums);
    for (int64_t g = 0; g < groups; g++) {
        peak[g] = -INFINITY;
        total[g] = 0.0f;
    }
    for (int64_t start = first; start < until; start += KEYS) {
        int64_t count = until - start < KEYS ? until - start : KEYS;
        for (int64_t t = 0; t < count; t++) {
            const real *restrict key = keys + (start + t) * size;
            for (int64_t i = 0; i < size; i += LINE) {
                __builtin_prefetch(key + AHEAD * size + i);
                __builtin_prefetch(values + (start + t) * size + i);
            }
#pragma omp simd
            for (int64_t i = 0; i < size; i++) one[i] = load(key[i]);
            for (int64_t g = 0; g < groups; g++) {
                float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < size; i++) dot += query[g * size + i] * one[i];
                scores[g][t] = dot * scaling;
            }
        }
        for (int64_t g = 0; g < groups; g++) {
            float highest = peak[g], sum = 0.0f;
#pragma omp simd reduction(max : highest)
            for (int64_t t = 0; t < count; t++) highest = scores[g][t] > highest ? scores[g][t] : highest;
#pragma omp simd reduction(+ : sum)
            for (int64_t t = 0; t < count; t++) {
                scores[g][t] = exponential(scores[g][t] - highest);
                sum += scores[g][t];
            }
            float shrink = exponential(peak[g] - highest);
            total[g] = total[g] * shrink + sum;
            peak[g] = highest;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) sums[g * size + i] *= shrink;
        }
        for (int64_t t = 0; t < count; t++) {
            const real *restrict value = values + (start + t) * size;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) one[i] = load(value[i]);
            for (int64_t g = 0; g < groups; g++) {
                float weight = scores[g][t];
#pragma omp simd
                for (int64_t i = 0; i < size; i++) sums[g * size + i] += weight * one[i];
            }
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        float scale = 1.0f / total[g];
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[g * size + i] = store(sums[g * size + i] * scale);
    }
}

/* What `attend` is given; `native.Attend` is the same for Python, field by field. */
typedef struct {
    const real *qkv; /* [rows][heads + 2 * kv_heads][size]: queries, then keys, then values */
    const float *cosine; /* [rows][size] */
    const float *sine; /* [rows][size] */
    const real *query_norm; /* [size], or NULL where heads have no norm */
    const real *key_norm; /* [size], or NULL */
    real *keys; /* slot r, head j, token t begin at r * slot_stride + j * head_stride + t * size */
    real *values; /* as keys */
    const int64_t *positions; /* [rows] */
    real *out; /* [rows][heads][size] */
    int64_t slot_stride;
    int64_t head_stride;
    int64_t rows;
    int64_t heads;
    int64_t kv_heads;
    int64_t size; /* even: its halves are rotated against each other */
    int64_t window; /* 0: all */
    float eps;
    float scaling;
} Attend;

/* One token of each sequence: its query and key heads are rotated (after a norm, where there is one), key and value go
 * to the cache at its position, and it attends to all positions up to its own, or the last `window` of them. */
void attend(const Attend *given) {
    const Attend arg = *given;
    int64_t heads = arg.heads, kv_heads = arg.kv_heads, size = arg.size, groups = heads / kv_heads;
#pragma omp parallel for collapse(2) schedule(dynamic, 2)
    for (int64_t row = 0; row < arg.rows; row++) {
        for (int64_t j = 0; j < kv_heads; j++) {
            const real *own = arg.qkv + row * (heads + 2 * kv_heads) * size;
            const float *c = arg.cosine + row * size, *s = arg.sine + row * size;
            int64_t position = arg.positions[row], place = row * arg.slot_stride + j * arg.head_stride;
            real *k = arg.keys + place, *v = arg.values + place;
            float query[groups * size], key[size];
            for (int64_t g = 0; g < groups; g++)
                rotated(own + (j * groups + g) * size, arg.query_norm, arg.eps, c, s, query + g * size, size);
            rotated(own + (heads + j) * size, arg.key_norm, arg.eps, c, s, key, size);
            for (int64_t i = 0; i < size; i++) k[position * size + i] = store(key[i]);
            memcpy(v + position * size, own + (heads + kv_heads + j) * size, size * sizeof(real));

            int64_t first = arg.window > 0 && position + 1 > arg.window ? position + 1 - arg.window : 0;
            real *y = arg.out + (row * heads + j * groups) * size;
            if (size == 64) /* a constant lets the compiler unroll */
                attended(query, k, v, first, position + 1, groups, 64, arg.scaling, y);
            else if (size == 128)
                attended(query, k, v, first, position + 1, groups, 128, arg.scaling, y);
            else
                attended(query, k, v, first, position + 1, groups, size, arg.scaling, y);
        }
    }
}

/* A token of softmax(logits / temperature) by inverse CDF, and its log-prob: `decoding.sample` in two passes. A token of
 * probability zero is never drawn. The log-prob of a row that holds NaN or +infinity is NaN, and its token any. */
void sample(const real *logits, const float *uniforms, int64_t *tokens, float *logps, int64_t rows, int64_t vocabulary,
            float temperature) {
    int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const real *restrict x = logits + row * vocabulary;
        float highest = -INFINITY, masses[blocks];
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < vocabulary; i++) highest = load(x[i]) > highest ? load(x[i]) : highest;
        double total = 0.0;
        for (int64_t b = 0; b < blocks; b++) {
            int64_t end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
            float mass = 0.0f;
#pragma omp simd reduction(+ : mass)
            for (int64_t i = b * BLOCK; i < end; i++) mass += exponential((load(x[i]) - highest) / temperature);
            masses[b] = mass;
            total += mass;
        }
        double rest = uniforms[row] * total;
        int64_t b = 0, last = -1;
        while (b + 1 < blocks && (masses[b] == 0.0f || rest >= masses[b])) rest -= masses[b++];
        int64_t end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
        for (int64_t i = b * BLOCK; i < end; i++) {
            float mass = exponential((load(x[i]) - highest) / temperature);
            if (mass == 0.0f) continue;
            last = i;
            if (rest < mass) break;
            rest -= mass;
        }
        for (int64_t i = b * BLOCK - 1; last < 0 && i >= 0; i--) /* rounding led past all mass: the last that has some */
            if (exponential((load(x[i]) - highest) / temperature) > 0.0f) last = i;
        if (last < 0) last = 0; /* nothing but NaN */
        tokens[row] = last;
        logps[row] = (load(x[last]) - highest) / temperature - (float)log(total);
    }
}

/* y[j, i] = x[i, j], tile by tile. */
void transposed(const real *restrict x, real *restrict y, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static)
    for (int64_t top = 0; top < rows; top += TALL) {
        int64_t bottom = top + TALL < rows ? top + TALL : rows;
        for (int64_t left = 0; left < columns; left += WIDE) {
            int64_t right = left + WIDE < columns ? left + WIDE : columns;
            for (int64_t j = left; j < right; j++)
                for (int64_t i = top; i < bottom; i++) y[j * rows + i] = x[i * columns + j];
        }
    }
}
