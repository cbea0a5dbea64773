/* Max pooling, batch norm and GELU for one kind of number; `kernels.c` includes this once for each. */

/* The larger of two, as PyTorch's max pooling takes it: the first of equals, and what is not a number. */
#define IS_LARGER(value, best) (((value) > (best)) | ((value) != (value)))

/* Per channel the sums of x - pivot and of its square over all rows, float64 2 × channels: with a pivot near the mean
 * these do not cancel. Returns 0 if there is no memory. */
int NAMED(sums)(const NUMBER *x, long rows, long channels, const float *pivot, double *total, int threads)
{
    float *sums = calloc(BLOCKS * 2 * channels, sizeof *sums);
    if (!sums)
        return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < BLOCKS; block++) {
        float *restrict sum = sums + block * 2 * channels, *restrict squares = sum + channels;
        for (long row = first_of_block(rows, block); row < first_of_block(rows, block + 1); row++) {
            const NUMBER *restrict in = x + row * channels;
            for (long c = 0; c < channels; c++) {
                float value = LOAD(in[c]) - pivot[c];
                sum[c] += value;
                squares[c] += value * value;
            }
        }
    }
    add_blocks(sums, 2 * channels, total);
    free(sums);
    return 1;
}

/* The largest of each 2×2 pixels of images × height × width × channels, which of the four it is (0 to 3, in the order
 * of reading), and the sums of `sums` over them. An odd last row or column is left out. */
int NAMED(pool_sums)(const NUMBER *x, long images, long height, long width, long channels, const float *pivot,
                     NUMBER *pooled, uint8_t *which, double *total, int threads)
{
    long down = height / 2, right = width / 2, rows = images * down;
    float *sums = calloc(BLOCKS * 2 * channels, sizeof *sums);
    if (!sums)
        return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < BLOCKS; block++) {
        float *restrict sum = sums + block * 2 * channels, *restrict squares = sum + channels;
        for (long row = first_of_block(rows, block); row < first_of_block(rows, block + 1); row++) {
            const NUMBER *above = x + (row / down * height + row % down * 2) * width * channels;
            for (long column = 0; column < right; column++) {
                const NUMBER *restrict a = above + 2 * column * channels, *restrict b = a + channels;
                const NUMBER *restrict d = a + width * channels, *restrict e = d + channels;
                NUMBER *restrict out = pooled + (row * right + column) * channels;
                uint8_t *restrict place = which + (row * right + column) * channels;
#pragma omp simd
                for (long c = 0; c < channels; c++) {
                    float best = LOAD(a[c]), next = LOAD(b[c]);
                    int index = IS_LARGER(next, best) ? 1 : 0;
                    best = IS_LARGER(next, best) ? next : best;
                    next = LOAD(d[c]);
                    index = IS_LARGER(next, best) ? 2 : index;
                    best = IS_LARGER(next, best) ? next : best;
                    next = LOAD(e[c]);
                    index = IS_LARGER(next, best) ? 3 : index;
                    best = IS_LARGER(next, best) ? next : best;
                    place[c] = (uint8_t)index;
                    out[c] = STORE(best);
                    best -= pivot[c];
                    sum[c] += best;
                    squares[c] += best * best;
                }
            }
        }
    }
    add_blocks(sums, 2 * channels, total);
    free(sums);
    return 1;
}

/* y = GELU(x · scale + shift), or GELU(x · scale + shift + shortcut); scale and shift are per channel. */
int NAMED(norm_gelu)(const NUMBER *x, long rows, long channels, const float *scale, const float *shift,
                      const NUMBER *shortcut, NUMBER *y, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const NUMBER *restrict in = x + row * channels;
        const NUMBER *restrict beside = shortcut + (shortcut ? row * channels : 0);
        NUMBER *restrict out = y + row * channels;
        if (shortcut)
            for (long c = 0; c < channels; c++)
                out[c] = STORE(gelu(LOAD(in[c]) * scale[c] + shift[c] + LOAD(beside[c])));
        else
            for (long c = 0; c < channels; c++)
                out[c] = STORE(gelu(LOAD(in[c]) * scale[c] + shift[c]));
    }
    return 1;
}

/* The gradient to what GELU was applied to, one row of it. */
static inline void NAMED(through_gelu)(const NUMBER *restrict x, const NUMBER *restrict gradient,
                                       const NUMBER *restrict shortcut, const float *restrict scale,
                                       const float *restrict shift, long channels, float *restrict answer)
{
    if (shortcut)
        for (long c = 0; c < channels; c++)
            answer[c] = LOAD(gradient[c]) * gelu_slope(LOAD(x[c]) * scale[c] + shift[c] + LOAD(shortcut[c]));
    else
        for (long c = 0; c < channels; c++)
            answer[c] = LOAD(gradient[c]) * gelu_slope(LOAD(x[c]) * scale[c] + shift[c]);
}

/* With g, the gradient to what GELU was applied to: per channel the sums of g and of g · (x - mean), float64
 * 2 × channels. */
int NAMED(gradient_sums)(const NUMBER *x, const NUMBER *gradient, const NUMBER *shortcut, long rows, long channels,
                         const float *scale, const float *shift, const float *mean, double *total, int threads)
{
    float *sums = calloc(BLOCKS * 3 * channels, sizeof *sums);
    if (!sums)
        return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < BLOCKS; block++) {
        float *restrict sum = sums + block * 2 * channels, *restrict products = sum + channels;
        float *restrict g = sums + (BLOCKS * 2 + block) * channels;
        for (long row = first_of_block(rows, block); row < first_of_block(rows, block + 1); row++) {
            const NUMBER *restrict in = x + row * channels;
            NAMED(through_gelu)(in, gradient + row * channels, shortcut ? shortcut + row * channels : NULL, scale,
                                shift, channels, g);
            for (long c = 0; c < channels; c++) {
                sum[c] += g[c];
                products[c] += g[c] * (LOAD(in[c]) - mean[c]);
            }
        }
    }
    add_blocks(sums, 2 * channels, total);
    free(sums);
    return 1;
}

/* The gradient to x: g · scale + (x - mean) · slope + offset, the last three per channel; with g to the shortcut as
 * well where there is one. With `which`, x is what `pool_sums` made of images × height × width, and the gradient goes
 * to these: to the largest of each 2×2 pixels, and 0 to the others. */
int NAMED(input_gradient)(const NUMBER *x, const NUMBER *gradient, const NUMBER *shortcut, const uint8_t *which,
                          long images, long height, long width, long channels, const float *scale, const float *shift,
                          const float *mean, const float *slope, const float *offset, NUMBER *to_x,
                          NUMBER *to_shortcut, int threads)
{
    long down = which ? height / 2 : height, right = which ? width / 2 : width;
    float *buffer = malloc(BLOCKS * channels * sizeof *buffer);
    if (!buffer)
        return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < BLOCKS; block++) {
        float *restrict g = buffer + block * channels;
        for (long row = first_of_block(images * down, block); row < first_of_block(images * down, block + 1); row++) {
            NUMBER *above = to_x + (row / down * height + row % down * 2) * width * channels;
            for (long column = 0; column < right; column++) {
                long start = (row * right + column) * channels;
                const NUMBER *restrict in = x + start;
                NAMED(through_gelu)(in, gradient + start, shortcut ? shortcut + start : NULL, scale, shift, channels,
                                    g);
                if (shortcut) {
                    NUMBER *restrict beside = to_shortcut + start;
                    for (long c = 0; c < channels; c++)
                        beside[c] = STORE(g[c]);
                }
                for (long c = 0; c < channels; c++)
                    g[c] = g[c] * scale[c] + (LOAD(in[c]) - mean[c]) * slope[c] + offset[c];
                if (!which) {
                    NUMBER *restrict out = to_x + start;
                    for (long c = 0; c < channels; c++)
                        out[c] = STORE(g[c]);
                    continue;
                }
                const uint8_t *restrict place = which + start;
                for (int pixel = 0; pixel < 4; pixel++) {
                    NUMBER *restrict out = above + (pixel / 2 * width + 2 * column + pixel % 2) * channels;
                    for (long c = 0; c < channels; c++)
                        out[c] = STORE(place[c] == pixel ? g[c] : 0.0f);
                }
            }
            if (which && width % 2)
                for (int line = 0; line < 2; line++)
                    memset(above + ((line + 1) * width - 1) * channels, 0, channels * sizeof *above);
            if (which && height % 2 && row % down == down - 1)
                memset(above + 2 * width * channels, 0, width * channels * sizeof *above);
        }
    }
    free(buffer);
    return 1;
}

/* y = max(x + bias, 0); y may be x. */
int NAMED(bias_relu)(const NUMBER *x, long rows, long channels, const float *bias, NUMBER *y, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const NUMBER *in = x + row * channels;
        NUMBER *out = y + row * channels;
#pragma omp simd
        for (long c = 0; c < channels; c++) {
            float value = LOAD(in[c]) + bias[c];
            out[c] = STORE(value < 0.0f ? 0.0f : value);
        }
    }
    return 1;
}

/* The gradient to the bias of `bias_relu`: float64, one a channel. */
int NAMED(bias_relu_gradient)(const NUMBER *y, const NUMBER *gradient, long rows, long channels, double *total,
                              int threads)
{
    float *sums = calloc(BLOCKS * channels, sizeof *sums);
    if (!sums)
        return 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < BLOCKS; block++) {
        float *restrict sum = sums + block * channels;
        for (long row = first_of_block(rows, block); row < first_of_block(rows, block + 1); row++) {
            const NUMBER *restrict out = y + row * channels, *restrict of_out = gradient + row * channels;
#pragma omp simd
            for (long c = 0; c < channels; c++)
                sum[c] += LOAD(out[c]) > 0.0f ? LOAD(of_out[c]) : 0.0f;
        }
    }
    add_blocks(sums, channels, total);
    free(sums);
    return 1;
}

#undef IS_LARGER
