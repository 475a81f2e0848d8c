/* Ways to hide a hash function from samples of what is executed, as targets: no pool, no network, no coin.
 *
 * A program:  evading HASH WAY    HASH: sha256 or blake2b; WAY: plain, floats or copies. It prints
 *                                 how many blocks it has hashed, and its CPU time in seconds.
 * A library (-DLIBRARY -shared), for LD_PRELOAD, which does to any program what EVADING says:
 *   unlinked  memory for code is mapped from files that are unlinked;
 *   reads     /dev/zero is read, 6 MB in each second of CPU time;
 *   yields    it sleeps for 10 ms around each sample, if 19 a second begin when it starts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifdef LIBRARY
static int is_unlinking, zero = -1;
static char block[65536];

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    static void *(*next)(void *, size_t, int, int, int, off_t);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "mmap");
    if (is_unlinking && flags & MAP_ANONYMOUS && !(flags & (MAP_FIXED | MAP_STACK | MAP_NORESERVE))) {
        char name[] = "/tmp/evading-XXXXXX";
        int file = mkostemp(name, O_CLOEXEC);
        if (file >= 0 && !unlink(name) && !ftruncate(file, size))
            return next(at, size, protection, MAP_SHARED, file, 0);
    }
    return next(at, size, protection, flags, fd, offset);
}

static void reads(int number)
{
    (void)number;
    if (read(zero, block, sizeof block) < 0)
        abort();
}

static void yields(int number)
{
    (void)number;
    nanosleep(&(struct timespec){0, 10000000}, NULL);
}

__attribute__((constructor)) static void start(void)
{
    const char *way = getenv("EVADING");
    struct itimerval every = {{0, 10000}, {0, 10000}}, sample = {{0, 1000000 / 19}, {0, 1000000 / 19 - 5000}};
    struct sigaction action = {.sa_flags = SA_RESTART};
    is_unlinking = way && !strcmp(way, "unlinked");
    if (way && !strcmp(way, "reads")) {
        zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        action.sa_handler = reads;
        sigaction(SIGPROF, &action, NULL);
        setitimer(ITIMER_PROF, &every, NULL);
    } else if (way && !strcmp(way, "yields")) {
        action.sa_handler = yields;
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &sample, NULL);
    }
}
#else
#define COPIES 64
#define PAGE 4096
#define RIGHT32(x, by) (((x) >> (by)) | ((x) << (32 - (by))))
#define RIGHT64(x, by) (((x) >> (by)) | ((x) << (64 - (by))))
#ifdef __x86_64__
#define FLOAT __asm__ volatile("addsd %0, %0" : "+x"(number))
#else
#define FLOAT __asm__ volatile("fadd %d0, %d0, %d0" : "+w"(number))
#endif
#define NOTHING

/* Tables are arguments, so that the code can be copied. */
#define SHA256(NAME, BETWEEN)                                                                      \
    __attribute__((noinline, aligned(64))) static void NAME(void *of, const void *table)           \
    {                                                                                              \
        uint32_t *state = of, w[64];                                                               \
        const uint32_t *k = table;                                                                 \
        double number = 1;                                                                         \
        (void)number;                                                                              \
        memcpy(w, state, 32);                                                                      \
        for (int i = 8; i < 16; i++)                                                               \
            w[i] = k[i];                                                                           \
        for (int i = 16; i < 64; i++) {                                                            \
            uint32_t s0 = RIGHT32(w[i - 15], 7) ^ RIGHT32(w[i - 15], 18) ^ w[i - 15] >> 3;         \
            BETWEEN;                                                                               \
            w[i] = w[i - 16] + s0 + w[i - 7] +                                                     \
                   (RIGHT32(w[i - 2], 17) ^ RIGHT32(w[i - 2], 19) ^ w[i - 2] >> 10);               \
            BETWEEN;                                                                               \
        }                                                                                          \
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];                           \
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];                           \
        for (int i = 0; i < 64; i++) {                                                             \
            uint32_t s1 = RIGHT32(e, 6) ^ RIGHT32(e, 11) ^ RIGHT32(e, 25);                         \
            BETWEEN;                                                                               \
            uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i];                             \
            uint32_t s0 = RIGHT32(a, 2) ^ RIGHT32(a, 13) ^ RIGHT32(a, 22);                         \
            BETWEEN;                                                                               \
            uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));                                      \
            h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;                     \
        }                                                                                          \
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;                                \
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;                                \
    }

#define G(a, b, c, d, BETWEEN)                                                                     \
    a += b + m[i & 15], d = RIGHT64(d ^ a, 32), c += d;                                            \
    BETWEEN;                                                                                       \
    b = RIGHT64(b ^ c, 24);                                                                        \
    a += b + m[(i + 7) & 15], d = RIGHT64(d ^ a, 16), c += d, b = RIGHT64(b ^ c, 63);              \
    BETWEEN
#define BLAKE2B(NAME, BETWEEN)                                                                     \
    __attribute__((noinline, aligned(64))) static void NAME(void *of, const void *table)           \
    {                                                                                              \
        uint64_t *v = of;                                                                          \
        const uint64_t *m = table;                                                                 \
        double number = 1;                                                                         \
        (void)number;                                                                              \
        for (int i = 0; i < 12; i++) {                                                             \
            G(v[0], v[4], v[8], v[12], BETWEEN);                                                   \
            G(v[1], v[5], v[9], v[13], BETWEEN);                                                   \
            G(v[2], v[6], v[10], v[14], BETWEEN);                                                  \
            G(v[3], v[7], v[11], v[15], BETWEEN);                                                  \
            G(v[0], v[5], v[10], v[15], BETWEEN);                                                  \
            G(v[1], v[6], v[11], v[12], BETWEEN);                                                  \
            G(v[2], v[7], v[8], v[13], BETWEEN);                                                   \
            G(v[3], v[4], v[9], v[14], BETWEEN);                                                   \
        }                                                                                          \
    }

SHA256(sha256, NOTHING)
SHA256(sha256_with_floats, FLOAT)
BLAKE2B(blake2b, NOTHING)
BLAKE2B(blake2b_with_floats, FLOAT)

typedef void hash(void *, const void *);

/* Some of those of SHA-256, the rest is zero. */
static const uint64_t CONSTANTS[64] = {
    0x428a2f9871374491, 0xb5c0fbcfe9b5dba5, 0x3956c25b59f111f1, 0x923f82a4ab1c5ed5,
    0xd807aa9812835b01, 0x243185be550c7dc3, 0x72be5d7480deb1fe, 0x9bdc06a7c19bf174,
};

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int is_sha = !strcmp(arguments[1], "sha256"), has_floats = !strcmp(arguments[2], "floats");
    hash *one = is_sha ? (has_floats ? sha256_with_floats : sha256)
                       : (has_floats ? blake2b_with_floats : blake2b);
    hash *all[COPIES];
    uint64_t state[16] = {1, 2, 3};
    for (int i = 0; i < COPIES; i++)
        all[i] = one;
    if (!strcmp(arguments[2], "copies")) {
        char *pages = mmap(NULL, COPIES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < COPIES; i++)
            all[i] = memcpy(pages + i * PAGE, (void *)one, PAGE);
        mprotect(pages, COPIES * PAGE, PROT_READ | PROT_EXEC);
    }
    for (uint64_t blocks = 1;; blocks++) {
        all[blocks % COPIES](state, CONSTANTS);
        if (blocks % 500000 == 0)
            printf("%lu %.3f\n", blocks, (double)clock() / CLOCKS_PER_SEC), fflush(stdout);
    }
}
#endif
