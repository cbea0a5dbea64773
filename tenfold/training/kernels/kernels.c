/* The memory-bound parts of a training step, each in as few passes over memory as it has inputs and outputs.
 *
 * Images lie channels last: `rows` pixels of `channels` numbers each. All sums are taken over a fixed number of
 * blocks of rows, which are added up in their order: the same bits for any number of threads.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 64 /* as many threads can share the sums, which are few enough to be added up soon */

typedef uint16_t bfloat16;

static inline float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float load_bfloat16(bfloat16 value)
{
    return from_bits((uint32_t)value << 16);
}

/* To the nearest, ties to even; what is not a number stays so. */
static inline bfloat16 store_bfloat16(float value)
{
    uint32_t bits = to_bits(value);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value == value ? (bfloat16)rounded : (bfloat16)0x7fc0;
}

static inline float load_float(float value)
{
    return value;
}

static inline float store_float(float value)
{
    return value;
}

/* The smaller of a number that is not negative and 13; 13 for what is not a number. As whole numbers, since a branch
 * would keep loops from being vectorised. */
static inline float at_most_13(float x)
{
    uint32_t bits = to_bits(x), limit = to_bits(13.0f);
    return from_bits(bits < limit ? bits : limit);
}

/* e^x for -85 <= x <= 0: 2^k times a polynomial of the fraction, to 1e-7 of the value. */
static inline float exp_negative(float x)
{
    float power = x * 1.44269504f;
    int32_t whole = (int32_t)power;
    float part = power - (float)whole; /* in (-1, 0] */
    float value = 1.08898578e-4f;
    value = value * part + 1.27435929e-3f;
    value = value * part + 9.57872107e-3f;
    value = value * part + 5.54905060e-2f;
    value = value * part + 2.40224306e-1f;
    value = value * part + 6.93147059e-1f;
    value = value * part + 1.0f;
    return value * from_bits((uint32_t)(whole + 127) << 23);
}

/* The share of a standard normal variable below x, and its density there.
 * The tail is Abramowitz and Stegun's 7.1.26, with an error of 1e-7. */
static inline float normal_share(float x, float *density)
{
    float size = __builtin_fabsf(x), near = at_most_13(size);
    float bell = exp_negative(-0.5f * near * near);
    float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
    float tail = 1.061405429f;
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = 0.5f * tail * t * bell;
    *density = 0.39894228f * bell;
    return 0.5f + __builtin_copysignf(0.5f - tail, x);
}

static inline float gelu(float x)
{
    float density;
    return x * normal_share(x, &density);
}

static inline float gelu_slope(float x)
{
    float density;
    float share = normal_share(x, &density);
    return share + x * density;
}

static inline long first_of_block(long rows, long block)
{
    return rows * block / BLOCKS;
}

/* Add up what the blocks have summed, `width` numbers each. */
static void add_blocks(const float *sums, long width, double *total)
{
    for (long i = 0; i < width; i++)
        total[i] = 0.0;
    for (long block = 0; block < BLOCKS; block++)
        for (long i = 0; i < width; i++)
            total[i] += sums[block * width + i];
}

#define NUMBER bfloat16
#define LOAD load_bfloat16
#define STORE store_bfloat16
#define NAMED(name) name##_bfloat16
#include "blocks.h"
#undef NUMBER
#undef LOAD
#undef STORE
#undef NAMED

#define NUMBER float
#define LOAD load_float
#define STORE store_float
#define NAMED(name) name##_float32
#include "blocks.h"
