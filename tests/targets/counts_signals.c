// Computes, and counts the real-time signals that arrive. At SIGUSR1 it prints how many came.
#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t count, is_over;

static void on_count(int number) { count++; }
static void on_end(int number) { is_over = 1; }

int main(void) {
  volatile double x = 1;
  signal(SIGRTMIN, on_count);
  signal(SIGUSR1, on_end);
  puts("ready");
  fflush(stdout);
  while (!is_over)
    x = x / 3 + 1;
  printf("%d\n", (int)count);
  return 0;
}
