// Has very many threads that sleep, and one that computes.
//
// Usage: many_threads COUNT [WORD...]. Prints how many threads there are; the words are to be seen.
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *sleeps(void *nothing) {
  for (;;)
    pause();
  return nothing;
}

int main(int count, char **arguments) {
  int wanted = count > 1 ? atoi(arguments[1]) : 1, made = 1;
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
  for (pthread_t thread; made < wanted; made++)
    if (pthread_create(&thread, &small, sleeps, NULL))
      break;
  printf("%d\n", made);
  fflush(stdout);
  for (;;)
    ;
}
