// Forks as fast as it can; each child ends at once, some become another program first.
//
// Usage: fork_storm PROGRAM. Runs until it is killed.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments) {
  for (unsigned forked = 0;; forked++) {
    pid_t child = fork();
    if (child == 0) {
      if (count > 1 && forked % 8 == 0)
        execl(arguments[1], arguments[1], (char *)NULL);
      _exit(0);
    }
    if (forked % 64 == 63)
      while (wait(NULL) > 0)
        ;
  }
}
