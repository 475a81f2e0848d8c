/* A process whose first thread has ended, and of whose other threads as many as asked for stay as
 * zombies, for their tracer does not wait for them (ptrace(2)). One thread lives, made after all
 * others, or after as many as the second argument says. Prints its pid. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

static int to_end[2];

static void *ends(void *unused) {
	char byte;
	(void)!read(to_end[0], &byte, 1);
	return unused;
}

static void *lives(void *unused) {
	pause();
	return unused;
}

int main(int argc, char **argv) {
	int count = argc > 1 ? atoi(argv[1]) : 20, before = argc > 2 ? atoi(argv[2]) : count, is_ready[2];
	char byte, path[64];
	if (pipe(is_ready) || pipe(to_end))
		return 1;
	pid_t target = fork();
	if (target == 0) {
		pthread_attr_t small;
		pthread_t thread;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 65536);
		for (int made = 0; made <= count; made++)
			pthread_create(&thread, &small, made == before ? lives : ends, NULL);
		(void)!write(is_ready[1], "", 1);
		pthread_exit(NULL);
	}
	(void)!read(is_ready[0], &byte, 1);
	snprintf(path, sizeof path, "/proc/%d/task", target);
	DIR *tasks = opendir(path);
	for (struct dirent *each; (each = readdir(tasks));)
		if (atoi(each->d_name) > 0 && atoi(each->d_name) != target)
			ptrace(PTRACE_SEIZE, atoi(each->d_name), 0, 0);
	for (int told = 0; told < count; told++)
		(void)!write(to_end[1], "", 1);
	printf("%d\n", target);
	fflush(stdout);
	pause();
}
