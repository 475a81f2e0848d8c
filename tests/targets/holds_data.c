/* Keeps what it received by TCP, or read from a file, in every kind of memory that data is kept in.

Usage: holds_data FILE, then what a client sends on the printed port; prints a line for both.
*/
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 64 << 10 };

static char in_bss[SIZE];
static char in_data[SIZE] = "initialised";

static void receive(int client, char *into)
{
	size_t got = 0;
	ssize_t n;

	while (got < SIZE && (n = recv(client, into + got, SIZE - got, 0)) > 0)
		got += n;
}

static void *keep_on_stack(void *received)
{
	char on_stack[SIZE];

	memcpy(on_stack, received, SIZE);
	pause();
	return strdup(on_stack);
}

int main(int argc, char **argv)
{
	char on_stack[SIZE];
	char *on_heap = malloc(SIZE), *mapped = malloc(16 << 20);
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof address;
	int listening = socket(AF_INET, SOCK_STREAM, 0), file;
	struct stat status;
	pthread_t thread;
	volatile char sum = 0;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (argc != 2 || bind(listening, (struct sockaddr *)&address, length) || listen(listening, 1))
		return 1;
	getsockname(listening, (struct sockaddr *)&address, &length);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	receive(accept(listening, NULL, NULL), in_bss);
	memcpy(in_data, in_bss, SIZE);
	memcpy(on_stack, in_bss, SIZE);
	memcpy(on_heap, in_bss, SIZE);
	memcpy(mapped, in_bss, SIZE);
	pthread_create(&thread, NULL, keep_on_stack, in_bss);
	file = open(argv[1], O_RDONLY);
	if (file < 0 || fstat(file, &status))
		return 1;
	for (int shared = 0; shared < 2; shared++) {
		char *view = mmap(NULL, status.st_size, PROT_READ,
				  shared ? MAP_SHARED : MAP_PRIVATE, file, 0);
		if (view == MAP_FAILED)
			return 1;
		for (off_t at = 0; at < status.st_size; at++)
			sum += view[at];
	}
	printf("kept %d\n", sum + on_stack[7] + on_heap[8] + mapped[9]);
	fflush(stdout);
	pause();
	return 0;
}
