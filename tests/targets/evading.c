/* Ways to hide a hash function from samples of what is executed, as targets: no pool, no network, no coin.
 *
 * A program:  evading HASH WAY    HASH: sha256 or blake2b; WAY: plain, floats or copies. It prints
 *                                 how many blocks it has hashed, and its CPU time in seconds.
 * A library (-DLIBRARY -shared), for LD_PRELOAD, which does to any program what EVADING says:
 *   unlinked  memory for code and for large data is mapped from files that are unlinked;
 *   reads     /dev/zero is read, 6 MB in each second of CPU time;
 *   yields    it sleeps for 10 ms around each sample, if 19 a second begin when it starts;
 *   decoy     another thread computes with vectors of integers, for a quarter of all its CPU time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
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
#ifdef __x86_64__
#define VECTORS __asm__ volatile(".rept 64\npaddd %1, %0\npaddd %0, %1\n.endr" : "+x"(a), "+x"(b))
#else
#define VECTORS __asm__ volatile(".rept 64\nadd %0.4s, %0.4s, %1.4s\n.endr" : "+w"(a), "+w"(b))
#endif
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

/* RandomX keeps its cache, data set and scratchpads in such memory, and frees none until it ends. */
int posix_memalign(void **memory, size_t alignment, size_t size)
{
    static int (*next)(void **, size_t, size_t);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "posix_memalign");
    if (!is_unlinking || size < 1 << 20)
        return next(memory, alignment, size);
    *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return *memory == MAP_FAILED;
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

static double cpu_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void *decoy(void *nothing)
{
    typedef uint32_t vector __attribute__((vector_size(16)));
    vector a = {1, 2, 3, 4}, b = {5, 6, 7, 8};
    for (;;) {
        if (cpu_seconds(CLOCK_THREAD_CPUTIME_ID) > cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) / 4) {
            nanosleep(&(struct timespec){0, 1000000}, NULL);
            continue;
        }
        for (int i = 0; i < 10000; i++)
            VECTORS;
    }
    return nothing;
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
    } else if (way && !strcmp(way, "decoy")) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, decoy, NULL))
            abort();
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

/* Of FIPS 180-4, 4.2.2: of SHA-256. BLAKE2b hashes them. */
static const uint32_t CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* TABLE: where its constants are; code that is copied takes them from an argument. */
#define SHA256(NAME, BETWEEN, TABLE)                                                                      \
    __attribute__((noinline, aligned(64))) static void NAME(void *of, const void *table)           \
    {                                                                                              \
        uint32_t *state = of, w[64];                                                               \
        const uint32_t *k = TABLE;                                                                 \
        double number = 1;                                                                         \
        (void)number, (void)table;                                                                 \
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

SHA256(sha256, NOTHING, CONSTANTS)
SHA256(sha256_with_floats, FLOAT, CONSTANTS)
SHA256(sha256_to_copy, NOTHING, table)
BLAKE2B(blake2b, NOTHING)
BLAKE2B(blake2b_with_floats, FLOAT)

typedef void hash(void *, const void *);

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int is_sha = !strcmp(arguments[1], "sha256"), has_floats = !strcmp(arguments[2], "floats");
    int has_copies = !strcmp(arguments[2], "copies");
    hash *one = is_sha ? (has_copies ? sha256_to_copy : has_floats ? sha256_with_floats : sha256)
                       : (has_floats ? blake2b_with_floats : blake2b);
    hash *all[COPIES];
    uint64_t state[16] = {1, 2, 3};
    for (int i = 0; i < COPIES; i++)
        all[i] = one;
    if (has_copies) {
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
