// One thread waits in each of the ways that programs wait in, one computes.
//
// Usage: waits SECONDS. Prints what each wait said that ended, and at the end "done". No wait has a
// reason to end; those that a stop would end with EINTR stand first.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct timespec hour = {3600, 0};

static long in_epoll(void) {
  struct epoll_event event;
  return epoll_wait(epoll_create1(0), &event, 1, 3600000);
}

static long in_semaphore(void) {
  struct sembuf operation = {0, -1, 0};
  int set = semget(IPC_PRIVATE, 1, 0600);
  long said;
  if (fork() == 0) {  // removes the set when this program has ended
    pid_t parent = getppid();
    while (getppid() == parent) usleep(10000);
    semctl(set, 0, IPC_RMID);
    _exit(0);
  }
  said = semtimedop(set, &operation, 1, &hour);
  return said;
}

static long in_signal_wait(void) {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR2);
  return sigtimedwait(&wanted, NULL, &hour);
}

static long in_receive_with_timeout(void) {
  int ends[2];
  char byte;
  struct timeval an_hour = {3600, 0};
  socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
  setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &an_hour, sizeof an_hour);
  return recv(ends[0], &byte, 1, 0);
}

static long in_io_events(void) {
  aio_context_t context = 0;
  struct io_event event;
  if (syscall(SYS_io_setup, 1, &context)) return pause();
  return syscall(SYS_io_getevents, context, 1L, 1L, &event, &hour);
}

static long in_sleep(void) { return nanosleep(&hour, NULL); }

static long in_select(void) {
  struct timeval an_hour = {3600, 0};
  return select(0, NULL, NULL, NULL, &an_hour);
}

static long in_poll(void) { return poll(NULL, 0, 3600000); }

static long in_pipe(void) {
  int ends[2];
  char byte;
  return pipe(ends) ? -1 : read(ends[0], &byte, 1);
}

static long in_futex(void) {
  static int word = 0;
  return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static long in_accept(void) {
  struct sockaddr_in anywhere = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int listening = socket(AF_INET, SOCK_STREAM, 0);
  bind(listening, (struct sockaddr *)&anywhere, sizeof anywhere);
  listen(listening, 1);
  return accept(listening, NULL, NULL);
}

static long in_child(void) {
  pid_t child = fork();
  if (child == 0) {
    pid_t parent = getppid();
    while (getppid() == parent) usleep(10000);
    _exit(0);
  }
  return waitpid(child, NULL, 0);
}

static struct {
  const char *name;
  long (*wait)(void);
} waits[] = {
    {"epoll", in_epoll},   {"semaphore", in_semaphore}, {"signal", in_signal_wait},
    {"receive", in_receive_with_timeout}, {"io", in_io_events}, {"sleep", in_sleep},
    {"select", in_select}, {"poll", in_poll}, {"pipe", in_pipe}, {"futex", in_futex},
    {"accept", in_accept}, {"child", in_child},
};

static void *run(void *number) {
  long at = (long)number;
  pthread_setname_np(pthread_self(), waits[at].name);
  errno = 0;
  long said = waits[at].wait();
  printf("%s: %ld, %s\n", waits[at].name, said, strerror(errno));
  fflush(stdout);
  return NULL;
}

int main(int count, char **arguments) {
  time_t ends = time(NULL) + (count > 1 ? atoi(arguments[1]) : 5);
  volatile double x = 1;
  for (long at = 0; at < (long)(sizeof waits / sizeof *waits); at++) {
    pthread_t thread;
    pthread_create(&thread, NULL, run, (void *)at);
  }
  while (time(NULL) < ends)
    for (int n = 0; n < 1000000; n++) x = x / 3 + 1;
  puts("done");
  return 7;
}
