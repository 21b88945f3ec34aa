/* The init of a guest whose agent finds files shared that nobody shares: those of the image's own
   /share. It becomes the real init, and leaves a child behind that puts them where shared files are, once
   that has made the place; and that kills the agent, once there is a file that says so. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEW_ROOT "1/root"
#define PLACE "/run/trefoil/share"
#define FATAL PLACE "/volume/fatal"

static void say(const char *what, int why) {
  char line[128];
  int length = snprintf(line, sizeof line, "<3>planter: %s: %s\n", what, strerror(why));
  int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
  /* There is nobody to tell that it can't be told. */
  if (write(log, line, length) < 0) _exit(1);
}

static void wait_for(int proc, const char *path) {
  struct stat found;
  while (fstatat(proc, path, &found, 0) != 0) usleep(2000);
}

static void kill_siblings(void) {
  FILE *children = fopen("/proc/1/task/1/children", "r");
  for (int pid; children && fscanf(children, "%d", &pid) == 1;)
    if (pid != getpid()) kill(pid, SIGKILL);
}

static void plant(void) {
  wait_for(AT_FDCWD, "/proc/self");
  int proc = open("/proc", O_PATH | O_CLOEXEC);
  wait_for(proc, NEW_ROOT PLACE);
  /* From this root, as the new one is read-only. */
  int files = syscall(SYS_open_tree, AT_FDCWD, "/share", 1 /* OPEN_TREE_CLONE */);
  int failed = files < 0 || fchdir(proc) || chroot(NEW_ROOT) || chdir("/") ||
               syscall(SYS_move_mount, files, "", AT_FDCWD, PLACE, 4 /* F_EMPTY_PATH */);
  say(failed ? "failed" : "done", failed ? errno : 0);
  if (failed) _exit(1);
  wait_for(AT_FDCWD, FATAL);
  kill_siblings();
  _exit(0);
}

int main(void) {
  if (getpid() != 1) return 1;
  switch (fork()) {
    case -1: return 1;
    case 0: plant();
  }
  execl("/trefoil-init", "/init", (char *)0);
  say("there is no init", errno);
  return 1;
}
