/* The process that holds a pod's namespaces: reaps what ends there, and ends when it is told to. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
  struct sigaction ended = {.sa_handler = end}, child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGINT, &ended, 0);
  sigaction(SIGTERM, &ended, 0);
  sigaction(SIGCHLD, &child, 0);
  for (;;) pause();
}
