/* Preloaded into the agent: its wall clock is off by as many seconds as a file says.
   The file is mapped, so that whoever writes it steps the clock of a running process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *offset_s(void) {
  static const volatile long *mapped;
  const char *path;
  int fd;
  if (!mapped && (path = getenv("SOAK_CLOCK")) && (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0) {
    void *found = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED) mapped = found;
    close(fd);
  }
  return mapped;
}

static long off_by(void) {
  const volatile long *offset = offset_s();
  return offset ? *offset : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*next)(clockid_t, struct timespec *);
  if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = next(clock, now);
  if (!result && clock == CLOCK_REALTIME) now->tv_sec += off_by();
  return result;
}

time_t time(time_t *into) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}
