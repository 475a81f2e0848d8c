/* What a database does with a query that hashes rows and names numbers of an outsider's choice: most of
 * its time in its own file, 7 % in code that was generated for the query, and holds the numbers.
 * They are those that items of RandomX's data set begin with (its specification, 7.3). */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define RIGHT(x, by) (((x) >> (by)) | ((x) << (32 - (by))))

static const uint64_t numbers[] = {
	0x810A978A59F5A1FC, 0xA77099DF38C2D846, 0x8126B91CBF22495C, 0x494D2597179F8A62,
	0x9237EFB9CEAAEC0C, 0x2F2A56746CE62D78, 0x84853BF7B62CE54E,
};
static volatile uint32_t kept;

__attribute__((noinline)) static void hash(uint32_t *state) {
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
	for (int i = 0; i < 64; i++) {
		uint32_t one = (RIGHT(c, 6) ^ RIGHT(c, 11) ^ RIGHT(c, 25)) + ((c & b) ^ (~c & d)) + state[i & 3];
		uint32_t two = (RIGHT(a, 2) ^ RIGHT(a, 13) ^ RIGHT(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
		d = c, c = b + one, b = a, a = one + two;
	}
	state[0] += a, state[1] += b, state[2] += c, state[3] += d;
}

static unsigned char *compiled(void) {
	unsigned char *code = mmap(NULL, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = code;
	for (int i = 0; i < 7; i++) { /* mov rax, number; mov [rsi + 8 i], rax */
		memcpy(at, "\x48\xb8", 2), memcpy(at + 2, &numbers[i], 8), memcpy(at + 10, "\x48\x89\x46", 3);
		at[13] = 8 * i, at += 14;
	}
	memcpy(at, "\x48\xff\xcf\x0f\x85", 5); /* dec rdi; jnz back; ret */
	int32_t back = (int32_t)(code - (at + 9));
	memcpy(at + 5, &back, 4), at[9] = 0xc3;
	return code;
}

static double cpu_s(void) {
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(void) {
	void (*query)(long, uint64_t *) = (void (*)(long, uint64_t *))compiled();
	uint32_t state[4] = {1, 2, 3, 4};
	uint64_t row[8];
	for (;;) {
		double began = cpu_s();
		for (int i = 0; i < 20000; i++)
			hash(state);
		kept = state[0];
		double hashed = cpu_s();
		while (cpu_s() - hashed < (hashed - began) * 7 / 93)
			query(2000, row);
	}
}
