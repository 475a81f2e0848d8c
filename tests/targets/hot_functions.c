/* Loops of functions that coins use, as targets: no pool, no network, no coin, no whole hash.
 *
 * Usage: hot_functions NAME, with a name below. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <emmintrin.h>
#include <wmmintrin.h>
#endif

#define ALONE __attribute__((noinline)) static
#define WITHIN __attribute__((always_inline)) static inline
/* What follows a table is read with it. */
#define APART __attribute__((aligned(512)))

static volatile uint64_t sink;
static volatile int is_over; /* never: but functions must have an end, and loops of few rounds be loops */

#define LEFT32(x, by) (((x) << (by)) | ((x) >> (32 - (by))))
#define LEFT64(x, by) (((x) << (by)) | ((x) >> (64 - (by))))

#ifdef __x86_64__
/* CryptoNight: AES and a product of 128 bits, at places in a scratchpad of 2 MiB. */
__attribute__((target("aes"))) ALONE void cryptonight(void)
{
    uint8_t *pad = malloc(1 << 21);
    uint64_t a[2] = {1, 2};
    __m128i b = _mm_set1_epi8(3);
    memset(pad, 7, 1 << 21);
    while (!is_over) {
        __m128i *from = (__m128i *)(pad + (a[0] & 0x1FFFF0));
        __m128i c = _mm_aesenc_si128(_mm_load_si128(from), _mm_set_epi64x(a[1], a[0]));
        _mm_store_si128(from, _mm_xor_si128(b, c));
        b = c;
        uint64_t k = _mm_cvtsi128_si64(c);
        uint64_t *to = (uint64_t *)(pad + (k & 0x1FFFF0));
        unsigned __int128 product = (unsigned __int128)k * to[0];
        a[0] += product >> 64;
        a[1] += (uint64_t)product;
        uint64_t first = to[0], second = to[1];
        to[0] = a[0];
        to[1] = a[1];
        a[0] ^= first;
        a[1] ^= second;
        sink = a[0];
    }
}

/* yespower 1.0: products, with tables looked up by a mask. */
ALONE void yespower(void)
{
    uint8_t *tables = malloc(98304);
    __m128i x[8];
    memset(tables, 9, 98304);
    for (int i = 0; i < 8; i++)
        x[i] = _mm_set1_epi32(i * 77777 + 1);
    for (; !is_over; sink = _mm_cvtsi128_si64(x[0]))
        for (int i = 0; i < 8; i++) {
#pragma GCC unroll 6
            for (int k = 0; k < 6; k++) {
                uint64_t at = _mm_cvtsi128_si64(x[i]) & 0x7FF000007FF0ULL;
                __m128i s0 = *(__m128i *)(tables + (uint32_t)at);
                __m128i s1 = *(__m128i *)(tables + 32768 + (at >> 32));
                x[i] = _mm_mul_epu32(_mm_shuffle_epi32(x[i], 0xb1), x[i]);
                x[i] = _mm_xor_si128(_mm_add_epi64(x[i], s0), s1);
            }
        }
}
#endif

APART static const uint64_t ROUND[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000,
    0x000000000000808b, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
    0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
    0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003,
    0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};
static const int BY[24] = {1,  3,  6,  10, 15, 21, 28, 36, 45, 55, 2,  14,
                           27, 41, 56, 8,  25, 43, 62, 18, 39, 61, 20, 44};
static const int TO[24] = {10, 7,  11, 17, 18, 3, 5,  16, 8,  21, 24, 4,
                           15, 23, 19, 13, 12, 2, 20, 14, 22, 9,  6,  1};

WITHIN void keccak_f(uint64_t *s)
{
    for (int round = 0; round < 24; round++) {
        uint64_t c[5], t;
        for (int i = 0; i < 5; i++)
            c[i] = s[i] ^ s[i + 5] ^ s[i + 10] ^ s[i + 15] ^ s[i + 20];
        for (int i = 0; i < 5; i++) {
            t = c[(i + 4) % 5] ^ LEFT64(c[(i + 1) % 5], 1);
            for (int j = 0; j < 25; j += 5)
                s[i + j] ^= t;
        }
        t = s[1];
        for (int i = 0; i < 24; i++) {
            uint64_t next = s[TO[i]];
            s[TO[i]] = LEFT64(t, BY[i]);
            t = next;
        }
        for (int j = 0; j < 25; j += 5) {
            memcpy(c, s + j, sizeof c);
            for (int i = 0; i < 5; i++)
                s[j + i] ^= ~c[(i + 1) % 5] & c[(i + 2) % 5];
        }
        s[0] ^= ROUND[round];
    }
}

ALONE void keccak(void)
{
    uint64_t s[25] = {1};
    for (; !is_over; sink = s[0])
        keccak_f(s);
}

/* Ethash: items of the data set. */
ALONE void ethash(void)
{
    uint32_t *cache = malloc(16 << 20), n = 0;
    uint64_t s[25] = {1};
    for (uint32_t i = 0; i < 4 << 20; i++)
        cache[i] = i * 2654435761u;
    for (; !is_over; sink = s[0]) {
        uint32_t *mix = (uint32_t *)s;
        mix[0] ^= n++;
        keccak_f(s);
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t at = ((n ^ i) * 0x01000193u ^ mix[i & 15]) % 262144;
            for (int k = 0; k < 16; k++)
                mix[k] = mix[k] * 0x01000193u ^ cache[at * 16 + k];
        }
        keccak_f(s);
    }
}

#define QUARTER(a, b, c, d)                          \
    x[a] += x[b], x[d] = LEFT32(x[d] ^ x[a], 16),    \
    x[c] += x[d], x[b] = LEFT32(x[b] ^ x[c], 12),    \
    x[a] += x[b], x[d] = LEFT32(x[d] ^ x[a], 8),     \
    x[c] += x[d], x[b] = LEFT32(x[b] ^ x[c], 7)

ALONE void chacha(void)
{
    uint32_t x[16] = {1, 2, 3};
    for (; !is_over; sink = x[0])
        for (int round = 0; round < 10; round++) {
            QUARTER(0, 4, 8, 12);
            QUARTER(1, 5, 9, 13);
            QUARTER(2, 6, 10, 14);
            QUARTER(3, 7, 11, 15);
            QUARTER(0, 5, 10, 15);
            QUARTER(1, 6, 11, 12);
            QUARTER(2, 7, 8, 13);
            QUARTER(3, 4, 9, 14);
        }
}

/* Two that X11 chains: the permutation of Luffa, and the transform of SIMD. */
APART static const uint32_t LUFFA[2][8] = {
    {0x303994a6, 0xc0e65299, 0x6cc33a12, 0xdc56983e, 0x1e00108f, 0x7800423d, 0x8f5b7882, 0x96e1db12},
    {0xe0337818, 0x441ba90d, 0x7f34d442, 0x9389217f, 0xe5a8bce6, 0x5274baf4, 0x26889ba7, 0x9a226e9d}};
APART static const int32_t POWERS[64] = {
    1,   41,  139, 45,  46,  87,  226, 14,  60,  147, 116, 130, 190, 80,  196, 69,
    2,   82,  21,  90,  92,  174, 195, 28,  120, 37,  232, 3,   123, 160, 135, 138,
    4,   164, 42,  180, 184, 91,  133, 56,  240, 74,  207, 6,   246, 63,  13,  19,
    8,   71,  84,  103, 111, 182, 9,   112, 223, 148, 157, 12,  235, 126, 26,  38};

WITHIN void crumb(uint32_t *a, int b, int c, int d, int e)
{
    uint32_t t = a[b];
    a[b] |= a[c], a[d] ^= a[e], a[c] = ~a[c], a[b] ^= a[e], a[e] &= t, a[c] ^= a[e];
    a[e] ^= a[d], a[d] &= a[b], a[b] = ~a[b], a[d] ^= a[c], a[c] |= a[e], t ^= a[c];
    a[e] ^= a[d], a[d] &= a[c], a[c] ^= a[b], a[b] = t;
}

ALONE void luffa(uint32_t *a)
{
    for (int round = 0; round < 8 - is_over; round++) {
        crumb(a, 0, 1, 2, 3);
        crumb(a, 5, 6, 7, 4);
        for (int i = 0; i < 4; i++) {
            a[i + 4] ^= a[i];
            a[i] = LEFT32(a[i], 2) ^ a[i + 4];
            a[i + 4] = LEFT32(a[i + 4], 14) ^ a[i];
            a[i] = LEFT32(a[i], 10) ^ a[i + 4];
            a[i + 4] = LEFT32(a[i + 4], 1);
        }
        a[0] ^= LUFFA[0][round], a[4] ^= LUFFA[1][round];
    }
}

ALONE void transform(int32_t *q)
{
    for (int half = 1; half < 64 - is_over; half *= 2)
        for (int i = 0; i < 64; i++)
            if (!(i & half)) {
                int32_t t = q[i + half] * POWERS[(i & (half - 1)) * (64 / half)] % 257;
                q[i + half] = q[i] - t, q[i] += t;
            }
    for (int i = 0; i < 64; i++)
        q[i] %= 257;
}

ALONE void chain(void)
{
    uint32_t a[8] = {1};
    int32_t q[64] = {1, 2, 3};
    for (; !is_over; sink = a[0] + q[0]) {
        for (int i = 0; i < 16; i++)
            luffa(a);
        q[0] = a[0] & 255;
        transform(q);
    }
}

/* A generator of random numbers, in a program that has constants beside it and does not use them. */
#ifndef CONSTANTS
#define CONSTANTS 0
#endif
static const unsigned char constants[] = {CONSTANTS};

ALONE void random_numbers(void)
{
    uint64_t s[4] = {1, 2, 3, 4};
    for (; !is_over; sink = s[0]) {
        uint64_t t = s[1] << 17;
        s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3];
        s[2] ^= t, s[3] = LEFT64(s[3], 45);
    }
}

int main(int count, char **names)
{
    const char *name = count > 1 ? names[1] : "";
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("%u\n", constants[strlen(name) % sizeof constants]);
#ifdef __x86_64__
    if (!strcmp(name, "cryptonight"))
        cryptonight();
    if (!strcmp(name, "yespower"))
        yespower();
#endif
    if (!strcmp(name, "keccak"))
        keccak();
    if (!strcmp(name, "ethash"))
        ethash();
    if (!strcmp(name, "chacha"))
        chacha();
    if (!strcmp(name, "chain"))
        chain();
    if (!strcmp(name, "random"))
        random_numbers();
    return 2;
}
