/* Runs one of the loops of kernels.c so and so often, and prints a sum of what it computed.
 *
 * Usage: run_kernels NAME TIMES */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.c"

#define SIZE (1 << 19)

static uint64_t memory[SIZE / 8], other[SIZE / 8];

static void once(const char *name)
{
    static const uint8_t order[12][16] = {{1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 4, 8, 12, 0}};
    uint8_t turns[24], lanes[24];
    pair floats[4];
    memcpy(floats, other, sizeof floats);
    for (int i = 0; i < 24; i++)
        turns[i] = 1 + 2 * i, lanes[i] = 1 + i;
    if (!strcmp(name, "sha256"))
        sha256((uint32_t *)memory, (const uint32_t *)memory + 8, (const uint32_t *)other);
    else if (!strcmp(name, "blake2b"))
        blake2b(memory, memory + 16, order);
    else if (!strcmp(name, "keccak"))
        keccak(memory, other, turns, lanes);
    else if (!strcmp(name, "salsa20"))
        salsa20((uint32_t *)memory);
    else if (!strcmp(name, "mixture"))
        mixture(memory, floats, (const uint8_t *)other, 100);
    else if (!strcmp(name, "dot"))
        memory[0] += dot((const double *)other, (const double *)other + 500, 500) > 1;
    else if (!strcmp(name, "stencil"))
        stencil((float *)memory, (const float *)other, 40, 40);
    else if (!strcmp(name, "copy"))
        copy(memory, other, 500);
    else if (!strcmp(name, "differences"))
        memory[0] += differences((const uint8_t *)other, (const uint8_t *)other + 99, 32);
    else
        exit(2);
}

int main(int count, char **arguments)
{
    uint64_t sum = 0;
    if (count != 3)
        return 2;
    for (int i = 0; i < SIZE / 8; i++)
        memory[i] = i * 0x9E3779B97F4A7C15u, other[i] = 0x3FF0000000000000u + i;
    for (long left = atol(arguments[2]); left > 0; left--)
        once(arguments[1]);
    for (int i = 0; i < SIZE / 8; i++)
        sum = sum * 31 + memory[i];
    printf("%016lx\n", sum);
    return 0;
}
