/* Inner loops, for the classes of instructions on other machines: a hash function each, or ordinary
 * work. What they compile to is recorded in tests/fixtures/code/ by tests/fixtures/code/make.py. */
#include <stddef.h>
#include <stdint.h>

#ifdef __aarch64__
#include <arm_neon.h>
typedef float64x2_t pair;
#define PAIR(at) vcvtq_f64_s64(vmovl_s32(vld1_s32((const int32_t *)(at))))
#else
#include <emmintrin.h>
typedef __m128d pair;
#define PAIR(at) _mm_cvtepi32_pd(_mm_loadl_epi64((const __m128i *)(at)))
#endif

#define RIGHT32(x, by) (((x) >> (by)) | ((x) << (32 - (by))))
#define RIGHT64(x, by) (((x) >> (by)) | ((x) << (64 - (by))))
#define LEFT64(x, by) (((x) << (by)) | ((x) >> (64 - (by))))

void sha256(uint32_t state[8], const uint32_t words[64], const uint32_t constants[64])
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = RIGHT32(e, 6) ^ RIGHT32(e, 11) ^ RIGHT32(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + constants[i] + words[i];
        uint32_t s0 = RIGHT32(a, 2) ^ RIGHT32(a, 13) ^ RIGHT32(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

#define BLAKE_G(a, b, c, d, x, y)                                                                  \
    a += b + x, d = RIGHT64(d ^ a, 32), c += d, b = RIGHT64(b ^ c, 24);                            \
    a += b + y, d = RIGHT64(d ^ a, 16), c += d, b = RIGHT64(b ^ c, 63)

void blake2b(uint64_t v[16], const uint64_t m[16], const uint8_t order[12][16])
{
    for (int i = 0; i < 12; i++) {
        const uint8_t *s = order[i];
        BLAKE_G(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
        BLAKE_G(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
        BLAKE_G(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
        BLAKE_G(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
        BLAKE_G(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
        BLAKE_G(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
        BLAKE_G(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
        BLAKE_G(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
    }
}

void keccak(uint64_t a[25], const uint64_t constants[24], const uint8_t turns[24],
            const uint8_t lanes[24])
{
    for (int round = 0; round < 24; round++) {
        uint64_t c[5], t;
        for (int x = 0; x < 5; x++)
            c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
#pragma GCC unroll 5
        for (int x = 0; x < 5; x++) {
            uint64_t d = c[(x + 4) % 5] ^ LEFT64(c[(x + 1) % 5], 1);
            for (int y = 0; y < 25; y += 5)
                a[x + y] ^= d;
        }
        t = a[1];
        for (int i = 0; i < 24; i++) {
            uint64_t next = a[lanes[i]];
            a[lanes[i]] = LEFT64(t, turns[i]);
            t = next;
        }
        for (int y = 0; y < 25; y += 5) {
            for (int x = 0; x < 5; x++)
                c[x] = a[x + y];
#pragma GCC unroll 5
            for (int x = 0; x < 5; x++)
                a[x + y] = c[x] ^ (~c[(x + 1) % 5] & c[(x + 2) % 5]);
        }
        a[0] ^= constants[round];
    }
}

#define SALSA(a, b, c, by) (a) ^= RIGHT32((b) + (c), 32 - (by))

void salsa20(uint32_t x[16])
{
    for (int i = 0; i < 8; i += 2) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) { /* columns */
            SALSA(x[(4 + 5 * k) % 16], x[5 * k % 16], x[(12 + 5 * k) % 16], 7);
            SALSA(x[(8 + 5 * k) % 16], x[(4 + 5 * k) % 16], x[5 * k % 16], 9);
            SALSA(x[(12 + 5 * k) % 16], x[(8 + 5 * k) % 16], x[(4 + 5 * k) % 16], 13);
            SALSA(x[5 * k % 16], x[(12 + 5 * k) % 16], x[(8 + 5 * k) % 16], 18);
        }
    }
}

/* A mixture as RandomX's programs have: wide products, xor, rotations, pairs of whole numbers. */
void mixture(uint64_t r[8], pair f[4], const uint8_t *pad, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *at = pad + (r[0] & 0x3FFF8);
        r[1] = r[1] * r[2] ^ *(const uint64_t *)at;
        r[2] = RIGHT64(r[2], r[3] & 63) ^ r[1];
        r[3] += (uint64_t)((unsigned __int128)r[4] * r[1] >> 64);
        f[0] += PAIR(at + 8);
        r[4] ^= r[5] + 77777;
        f[1] *= f[0];
        r[5] = RIGHT64(r[5] ^ r[6], 11) * r[7];
        f[2] -= PAIR(at + 16);
        r[6] ^= RIGHT64(r[2], 29);
        r[7] = (r[7] ^ r[3]) * 0x9E3779B97F4A7C15u;
        r[0] ^= RIGHT64(r[7], 17);
    }
}

double dot(const double *a, const double *b, size_t count)
{
    double sums[4] = {0};
    for (size_t i = 0; i + 4 <= count; i += 4)
        for (int k = 0; k < 4; k++)
            sums[k] += a[i + k] * b[i + k];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

void stencil(float *to, const float *from, size_t width, size_t height)
{
    for (size_t y = 1; y + 1 < height; y++)
        for (size_t x = 1; x + 1 < width; x++) {
            const float *at = from + y * width + x;
            to[y * width + x] = 0.2f * (at[0] + at[-1] + at[1] + at[width] + at[-width]);
        }
}

void copy(uint64_t *restrict to, const uint64_t *restrict from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = from[i];
}

/* Sums of absolute differences, as codecs search motion. */
uint32_t differences(const uint8_t *a, const uint8_t *b, size_t stride)
{
    uint32_t sum = 0;
    for (int y = 0; y < 16; y++, a += stride, b += stride)
        for (int x = 0; x < 16; x++)
            sum += a[x] > b[x] ? a[x] - b[x] : b[x] - a[x];
    return sum;
}

void sort(int64_t *items, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        int64_t item = items[i];
        size_t k = i;
        for (; k && items[k - 1] > item; k--)
            items[k] = items[k - 1];
        items[k] = item;
    }
}

struct node {
    struct node *left, *right;
    int64_t key;
};

const struct node *search(const struct node *at, int64_t key)
{
    while (at && at->key != key)
        at = key < at->key ? at->left : at->right;
    return at;
}
