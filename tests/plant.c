/* plant.c: what one job may leave for the next, and a look at what is there. Static, for the tests of slots
 * and residents. One word of what to do; "look" prints all it finds. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int udp(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return sendto(socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (void *)&to, sizeof(to)) == 1 ? 0 : 1;
}

static int abstract(int listening)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(name.sun_path, "\0planted", 8);
	return listening ? bind(fd, (void *)&name, 10) : connect(fd, (void *)&name, 10);
}

static int by_mapping(const char *path)
{
	int fd = open(path, O_RDWR);
	char *map = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return 1;
	memcpy(map, "PLANTED", 7);
	return 0;
}

static int look(void)
{
	struct shminfo info;
	struct stat st;

	printf("shm %d sem %d msg %d\n", shmget(7, 4096, 0) >= 0, semget(7, 1, 0) >= 0, msgget(7, 0) >= 0);
	printf("mq %d posix-shm %d\n", mq_open("/planted", O_RDONLY) >= 0, shm_open("/planted", O_RDONLY, 0) >= 0);
	printf("abstract %d\n", abstract(0) == 0);
	printf("root %o %d\n", stat("/", &st) == 0 ? st.st_mode & 07777 : 0, (int)listxattr("/", NULL, 0));
	printf("segments %d\n", shmctl(0, IPC_INFO, (void *)&info));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "shm"))
		return shmget(7, 4096, IPC_CREAT | 0600) < 0;
	if (!strcmp(what, "sem"))
		return semget(7, 1, IPC_CREAT | 0600) < 0;
	if (!strcmp(what, "msg"))
		return msgget(7, IPC_CREAT | 0600) < 0;
	if (!strcmp(what, "mq"))
		return mq_open("/planted", O_CREAT | O_RDWR, 0600, NULL) < 0;
	if (!strcmp(what, "posix-shm"))
		return shm_open("/planted", O_CREAT | O_RDWR, 0600) < 0;
	if (!strcmp(what, "abstract"))
		return abstract(1) < 0;
	if (!strcmp(what, "udp"))
		return udp();
	if (!strcmp(what, "xattr"))
		return setxattr("/", "trusted.planted", "x", 1, 0) < 0 && setxattr("/", "user.planted", "x", 1, 0) < 0;
	if (!strcmp(what, "map"))
		return by_mapping(argv[2]);
	if (!strcmp(what, "trace"))
		return ptrace(PTRACE_ATTACH, atoi(argv[2]), 0, 0) < 0 ? errno : 0;
	if (!strcmp(what, "fork")) {
		for (int i = 0; i < 20000 && fork() >= 0; i++)
			;
		pause();
	}
	return what[0] == 'l' ? look() : 2;
}
