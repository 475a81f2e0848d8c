// Computes and waits in turn: what a server does, at a few hundred waits a second.
//
// Usage: works_and_waits SECONDS. Prints how many of its waits ended with EINTR.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

int main(int count, char **arguments) {
  time_t ends = time(NULL) + (count > 1 ? atoi(arguments[1]) : 5);
  int set = epoll_create1(0);
  long interrupted = 0;
  volatile double x = 1;
  while (time(NULL) < ends) {
    struct epoll_event event;
    for (int n = 0; n < 300000; n++) x = x / 3 + 1;
    if (epoll_wait(set, &event, 1, 1) < 0 && errno == EINTR) interrupted++;
  }
  printf("%ld interrupted\n", interrupted);
  return 3;
}
