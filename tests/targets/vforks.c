// Stands still while its child lives, as every vfork(2) parent does; then computes.
//
// Usage: vforks SECONDS. Prints the child's exit status.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments) {
  unsigned seconds = count > 1 ? atoi(arguments[1]) : 2;
  int status = 0;
  pid_t child = vfork();
  if (child == 0) {
    sleep(seconds);
    _exit(3);
  }
  waitpid(child, &status, 0);
  printf("%d\n", WEXITSTATUS(status));
  fflush(stdout);
  for (;;)
    ;
}
