/* Takes POSIX locks of the file that it is told, and says in one word each whether they end when and
 * only when they have to: "ok", or what was wrong. Stays until it is killed, with a mapping of the
 * second file that it has written to and closed. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int lock(int fd, short type, off_t start)
{
	struct flock range = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
	return fcntl(fd, F_SETLK, &range);
}

/* Whether another process gets a lock to write. */
static int free_at(const char *path, off_t start)
{
	int status = 0;
	pid_t child = fork();
	if (child == 0) {
		int fd = open(path, O_RDWR);
		_exit(fd >= 0 && lock(fd, F_WRLCK, start) == 0);
	}
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

static void check(int is_right, const char *what)
{
	if (is_right)
		return;
	printf("%s\n", what);
	exit(1);
}

int main(int count, char **args)
{
	const char *path = args[1];
	int writer = open(path, O_RDWR | O_CREAT, 0600), reader = open(path, O_RDONLY);
	check(count == 3 && writer >= 0 && reader >= 0, "the file can't be opened");

	check(free_at(path, 0), "somebody has a lock that nobody took");
	check(lock(reader, F_RDLCK, 0) == 0, "no lock");
	check(!free_at(path, 0), "a lock doesn't hold");
	int unused = open(path, O_RDONLY);
	close(unused);
	check(free_at(path, 0), "a lock outlives the close of another descriptor, opened to be read");

	check(lock(writer, F_WRLCK, 0) == 0, "no lock again");
	pid_t child = fork();
	if (child == 0)
		_exit(lock(writer, F_WRLCK, 1) != 0);
	int status = 1;
	waitpid(child, &status, 0);
	check(status == 0, "no lock for a child");
	check(free_at(path, 1), "a lock outlives its process, whose parent has the descriptor");
	check(!free_at(path, 0), "a lock ended with another process");
	unused = open(path, O_WRONLY);
	close(unused);
	check(free_at(path, 0), "a lock outlives the close of another descriptor, opened to be written");

	int file = open(args[2], O_RDWR | O_CREAT, 0600);
	check(file >= 0 && ftruncate(file, 4096) == 0, "no file to map");
	char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	check(mapped != MAP_FAILED, "no mapping");
	strcpy(mapped, "mapped");
	close(file);
	printf("ok\n");
	fflush(stdout);
	pause();
	return 0;
}
