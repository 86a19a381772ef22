/* probe.c: what tests do inside a container and no shell can. Static; prints one line a command.
 *
 *   call NAME ARG…     a raw system call; ARG is a number, or s:TEXT. Prints its result or -errno
 *   open PATH r|w|p    open(2) for reading, writing or as a path; 0 or -errno
 *   connect NAME       to an abstract unix socket; 0 or -errno
 *   shm make|get KEY   System V shared memory;  mq make|get NAME  a POSIX queue
 *   traffic            packets, connections and refusals on lo
 *   fds                every open descriptor, with what it is
 *   watch SECONDS      try to get at the programs of other processes in here, as they come and go
 *   orphans N          N grandchildren that outlive their parent, then the number of zombies left
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct { const char *name; long nr; } calls[] = {
#define C(x) { #x, SYS_##x },
	C(keyctl) C(add_key) C(request_key) C(unshare) C(setns) C(mount) C(umount2) C(pivot_root) C(ptrace)
	C(process_vm_readv) C(bpf) C(perf_event_open) C(init_module) C(finit_module) C(delete_module) C(kexec_load)
	C(open_by_handle_at) C(name_to_handle_at) C(userfaultfd) C(io_uring_setup) C(reboot) C(swapon) C(swapoff)
	C(settimeofday) C(clock_settime) C(adjtimex) C(acct) C(quotactl) C(syslog) C(personality) C(move_mount)
	C(fsopen) C(fsmount) C(open_tree) C(mount_setattr) C(mknodat) C(getpid) C(sethostname) C(clone3)
	C(process_madvise) C(pidfd_getfd) C(lookup_dcookie) C(move_pages) C(get_mempolicy) C(socket) C(kill)
	C(setpriority) C(clone) C(chroot) C(pidfd_open) C(setuid) C(sched_setaffinity) C(kcmp)
#undef C
};

static long value(const char *s)
{
	return strncmp(s, "s:", 2) == 0 ? (long)(s + 2) : (long)strtoul(s, NULL, 0);
}

static int do_call(int argc, char **argv)
{
	long a[6] = { 0 };

	for (int i = 0; i < 6 && i + 1 < argc; i++)
		a[i] = value(argv[i + 1]);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		long r;

		if (strcmp(calls[i].name, argv[0]) != 0)
			continue;
		r = syscall(calls[i].nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (calls[i].nr == SYS_clone && r == 0)
			_exit(0);
		printf("%ld\n", r < 0 ? -(long)errno : r);
		return 0;
	}
	printf("unknown call\n");
	return 2;
}

static int do_open(const char *path, char how)
{
	int fd = open(path, (how == 'w' ? O_WRONLY : how == 'p' ? O_PATH : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);

	printf("%d\n", fd < 0 ? -errno : 0);
	return 0;
}

static int do_connect(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(a.sun_path + 1, name, strlen(name));
	printf("%d\n", connect(fd, (struct sockaddr *)&a, (socklen_t)(3 + strlen(name))) < 0 ? -errno : 0);
	return 0;
}

static int do_shm(bool make, int key)
{
	int id = shmget(key, 4096, make ? IPC_CREAT | IPC_EXCL | 0666 : 0);

	printf("%d\n", id < 0 ? -errno : 0);
	return 0;
}

static int do_mq(bool make, const char *name)
{
	mqd_t q = mq_open(name, make ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0666, NULL);

	printf("%d\n", q < 0 ? -errno : 0);
	return 0;
}

static int do_traffic(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int server = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), client;
	char c = 'x';

	if (bind(server, (struct sockaddr *)&a, len) < 0 || listen(server, 8) < 0 ||
	    getsockname(server, (struct sockaddr *)&a, &len) < 0)
		return 1;
	for (int i = 0; i < 5; i++) {	/* closed from this side: TIME_WAIT stays */
		int other;

		client = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(client, (struct sockaddr *)&a, len) < 0)
			return 1;
		other = accept(server, NULL, NULL);
		if (write(client, &c, 1) != 1 || read(other, &c, 1) != 1)
			return 1;
		close(client);
		usleep(1000);
		close(other);
	}
	a.sin_port = htons(9);
	for (int i = 0; i < 5; i++)
		sendto(udp, &c, 1, 0, (struct sockaddr *)&a, len);
	client = socket(AF_INET, SOCK_STREAM, 0);
	connect(client, (struct sockaddr *)&a, len);
	printf("done\n");
	return 0;
}

static int do_fds(void)
{
	char path[64], target[512];

	for (int fd = 0; fd < 4096; fd++) {
		ssize_t n;
		struct stat st;

		if (fstat(fd, &st) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		printf("%d %s %s\n", fd, S_ISDIR(st.st_mode) ? "dir" : "file", target);
	}
	return 0;
}

/* Of ours, not what it has become meanwhile: a program of the image, which may be written. */
static bool is_stub(int fd)
{
	char path[64], target[300];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	target[n < 0 ? 0 : n] = '\0';
	return strstr(target, "memfd") != NULL;
}

/* CVE-2019-5736 and its kin: hold a descriptor of a runtime's program, and write to it once it
 * does not run any more. */
static int do_watch(double seconds)
{
	struct timespec now, start;
	int self = (int)getpid(), seen = 0, opened = 0, written = 0, traced = 0, roots = 0;
	static int held[4096];
	unsigned long long caps = 0;	/* of what could be traced */
	int n_held = 0;

	clock_gettime(CLOCK_MONOTONIC, &start);
	printf("ready\n");
	fflush(stdout);
	do {
		DIR *dir = opendir("/proc");
		struct dirent *e;

		while (dir && (e = readdir(dir))) {
			char path[300], target[300];
			int pid = atoi(e->d_name), fd;
			ssize_t n;
			struct stat st;

			if (pid <= 0 || pid == self)
				continue;
			snprintf(path, sizeof(path), "/proc/%d/exe", pid);
			seen++;
			n = readlink(path, target, sizeof(target) - 1);
			target[n < 0 ? 0 : n] = '\0';
			if (n < 0 || (!strstr(target, "memfd") && !strstr(target, "python")))
				continue;
			opened++;
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd >= 0 && n_held < 4096)
				held[n_held++] = fd;
			fd = open(path, O_WRONLY | O_CLOEXEC);
			if (fd >= 0) {
				written += is_stub(fd) && write(fd, "x", 1) == 1;
				close(fd);
			}
			if (pid != 1 && syscall(SYS_ptrace, 16 /* ATTACH */, pid, 0, 0) == 0) {
				char text[2048] = "", *eff;
				FILE *f;

				traced++;
				waitpid(pid, NULL, __WALL);
				snprintf(path, sizeof(path), "/proc/%d/status", pid);
				f = fopen(path, "r");
				if (f && fread(text, 1, sizeof(text) - 1, f) > 0 && (eff = strstr(text, "CapPrm:")))
					caps |= strtoull(eff + 7, NULL, 16);
				if (f)
					fclose(f);
				syscall(SYS_ptrace, 17 /* DETACH */, pid, 0, 0);
			}
			snprintf(path, sizeof(path), "/proc/%d/root/proc/1/root/etc/machine-id", pid);
			roots += stat(path, &st) == 0;
		}
		if (dir)
			closedir(dir);
		for (int i = n_held > 8 ? n_held - 8 : 0; i < n_held; i++) {
			char path[64];
			int fd;

			snprintf(path, sizeof(path), "/proc/self/fd/%d", held[i]);
			fd = open(path, O_WRONLY | O_CLOEXEC);
			if (fd >= 0) {
				written += is_stub(fd) && write(fd, "x", 1) == 1;
				close(fd);
			}
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 < seconds);
	for (int i = 0; i < n_held; i++) {	/* and once more, now that they are gone */
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", held[i]);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			written += is_stub(fd) && (write(fd, "x", 1) == 1 || ftruncate(fd, 0) == 0);
	}
	printf("looked=%d opened=%d held=%d written=%d traced=%d roots=%d caps=%llx\n", seen, opened, n_held, written, traced, roots,
	       caps);
	return 0;
}

static int do_orphans(int n)
{
	int zombies = 0;

	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			if (fork() == 0) {
				usleep(20000);
				_exit(0);
			}
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	for (int tries = 0; tries < 100; tries++) {
		DIR *dir = opendir("/proc");
		struct dirent *e;
		int left = 0;

		zombies = 0;
		while (dir && (e = readdir(dir))) {
			char path[300], text[512] = "";
			FILE *f;

			if (atoi(e->d_name) <= 0)
				continue;
			left++;
			snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
			f = fopen(path, "r");
			if (f && fgets(text, sizeof(text), f) && strstr(text, ") Z "))
				zombies++;
			if (f)
				fclose(f);
		}
		closedir(dir);
		if (zombies == 0 && left <= 2)
			break;
		usleep(20000);
	}
	printf("%d\n", zombies);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "call"))
		return do_call(argc - 2, argv + 2);
	if (argc > 3 && !strcmp(argv[1], "open"))
		return do_open(argv[2], argv[3][0]);
	if (argc > 2 && !strcmp(argv[1], "connect"))
		return do_connect(argv[2]);
	if (argc > 3 && !strcmp(argv[1], "shm"))
		return do_shm(argv[2][0] == 'm', atoi(argv[3]));
	if (argc > 3 && !strcmp(argv[1], "mq"))
		return do_mq(argv[2][0] == 'm', argv[3]);
	if (argc > 1 && !strcmp(argv[1], "traffic"))
		return do_traffic();
	if (argc > 1 && !strcmp(argv[1], "fds"))
		return do_fds();
	if (argc > 2 && !strcmp(argv[1], "watch"))
		return do_watch(atof(argv[2]));
	if (argc > 2 && !strcmp(argv[1], "orphans"))
		return do_orphans(atoi(argv[2]));
	return 2;
}
