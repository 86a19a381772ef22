/* classic.c: the reference. Starts a container the straightforward way, everything made step by
 * step on the path and nothing kept for the next one: the groups, a clone with new namespaces,
 * the pid written to cgroup.procs, an overlay with a thrown-away writable layer, /dev, /proc,
 * /sys, masks, pivot_root, capabilities, seccomp, exec, wait, removal of the groups.
 *
 *   classic [-c CONTROLLERS] -p POLICY -r ROOTFS -d SCRATCH [-v] -- COMMAND [ARGUMENT]...
 *   classic -p POLICY -e FILE        write the compiled seccomp program to FILE and end
 *     CONTROLLERS  of cgroup v1, with commas; the default is what a container needs for its limits,
 *               its figures and its devices. On v2 there is one group, without a device program
 *     POLICY    lines "default ERRNO" and "RULE NAME N {INDEX OP VALUE VALUE2}...", see policy.py
 *     SCRATCH   an empty directory: the overlay is put together below it, in the container's mounts
 *     -v        one start with our own stdout and stderr, to look at it from inside
 *   On standard input: "go N PAUSE_MS"; answers N lines "TOTAL_US EXIT_US", then "end": from the
 *   first step until the groups are removed, and until the exit was seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <grp.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"
#define MAX_GROUPS 8
#define MEMORY "67108864"
#define CPU_QUOTA "200000"
#define CPU_PERIOD "100000"
#define PIDS "64"

/* chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
 * sys_chroot, mknod, audit_write, setfcap: what Docker leaves. */
#define CAPS ((1ull << 0) | (1ull << 1) | (1ull << 3) | (1ull << 4) | (1ull << 5) | (1ull << 6) | \
	(1ull << 7) | (1ull << 8) | (1ull << 10) | (1ull << 13) | (1ull << 18) | (1ull << 27) | \
	(1ull << 29) | (1ull << 31))

static const char *const masked[] = {
	"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
	"/sys/devices/virtual/powercap", NULL
};
static const char *const readonly[] = {
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", NULL
};

/* The devices a container may use: mknod of any, the standard nodes, terminals. */
static const char *const device_rules[] = {
	"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm",
	"c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", NULL
};

static const char *controllers = "cpu,cpuacct,memory,pids,devices";
static const char *rootfs, *scratch;
static char **command;
static int verbose, unified, null_fd;
static char groups[MAX_GROUPS][256];
static int n_groups;
static struct sock_fprog program;

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
	va_list ap;

	fputs("error ", stdout);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf(": %s\n", strerror(errno));
	fflush(stdout);
	_exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- seccomp: compiled once, before the first start ----------------------------------- */

static void compile_policy(const char *path, const char *export)
{
	static const struct { const char *name; int op; } ops[] = {
		{"NE", SCMP_CMP_NE}, {"LT", SCMP_CMP_LT}, {"LE", SCMP_CMP_LE}, {"EQ", SCMP_CMP_EQ},
		{"GE", SCMP_CMP_GE}, {"GT", SCMP_CMP_GT}, {"MASKED_EQ", SCMP_CMP_MASKED_EQ}};
	FILE *in = fopen(path, "re");
	char rule[32], name[64], op[32];
	unsigned n, base;

	if (!in || fscanf(in, "default %u", &base) != 1)
		fail("policy %s", path);
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(base));
	if (!ctx)
		fail("seccomp_init");
	while (fscanf(in, "%31s %63s %u", rule, name, &n) == 3) {
		uint32_t action = strcmp(rule, "allow") ? SCMP_ACT_ERRNO((unsigned)atoi(rule)) : SCMP_ACT_ALLOW;
		int number = seccomp_syscall_resolve_name(name);
		struct scmp_arg_cmp args[6];

		for (unsigned i = 0; i < n && i < 6; i++) {
			unsigned long long a, b;

			if (fscanf(in, "%u %31s %llu %llu", &args[i].arg, op, &a, &b) != 4)
				fail("policy %s, rule for %s", path, name);
			args[i].datum_a = a;
			args[i].datum_b = b;
			for (size_t k = 0; k < sizeof(ops) / sizeof(*ops); k++)
				if (!strcmp(op, ops[k].name))
					args[i].op = ops[k].op;
		}
		if (number == __NR_SCMP_ERROR || action == SCMP_ACT_ERRNO(base))
			continue;	/* a call this libseccomp does not know has the default action */
		int rc = seccomp_rule_add_array(ctx, action, number, n, args);
		if (rc && rc != -EDOM && rc != -EEXIST && rc != -EOPNOTSUPP) {
			errno = -rc;
			fail("seccomp rule for %s", name);
		}
	}
	fclose(in);
	int fd = export ? open(export, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644)
			: (int)syscall(SYS_memfd_create, "policy", 1u);
	if (fd < 0 || seccomp_export_bpf(ctx, fd))
		fail("seccomp_export_bpf");
	off_t size = lseek(fd, 0, SEEK_END);
	program.filter = malloc((size_t)size);
	program.len = (unsigned short)((size_t)size / sizeof(struct sock_filter));
	if (!program.filter || pread(fd, program.filter, (size_t)size, 0) != size)
		fail("seccomp program");
	close(fd);
	seccomp_release(ctx);
}

/* ---- control groups -------------------------------------------------------------------- */

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("write %s to %s", text, path);
	close(fd);
}

static int exists(const char *dir, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void make_groups(int number)
{
	char list[128], *save = NULL;

	n_groups = 0;
	if (unified) {
		char *dir = groups[n_groups++];

		snprintf(dir, sizeof(groups[0]), CGROUP_ROOT "/fctr-classic-%d-%d", (int)getpid(), number);
		if (mkdir(dir, 0755))
			fail("mkdir %s", dir);
		write_file(dir, "cpu.max", CPU_QUOTA " " CPU_PERIOD);
		write_file(dir, "memory.max", MEMORY);
		write_file(dir, "pids.max", PIDS);
		return;
	}
	snprintf(list, sizeof(list), "%s", controllers);
	for (char *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
		if (n_groups == MAX_GROUPS)
			fail("too many controllers");
		char *dir = groups[n_groups++];

		snprintf(dir, sizeof(groups[0]), CGROUP_ROOT "/%s/fctr-classic-%d-%d", one, (int)getpid(), number);
		if (mkdir(dir, 0755))
			fail("mkdir %s", dir);
		if (!strcmp(one, "cpu")) {
			write_file(dir, "cpu.cfs_period_us", CPU_PERIOD);
			write_file(dir, "cpu.cfs_quota_us", CPU_QUOTA);
		} else if (!strcmp(one, "memory")) {
			write_file(dir, "memory.limit_in_bytes", MEMORY);
			if (exists(dir, "memory.memsw.limit_in_bytes"))
				write_file(dir, "memory.memsw.limit_in_bytes", MEMORY);
		} else if (!strcmp(one, "pids")) {
			write_file(dir, "pids.max", PIDS);
		} else if (!strcmp(one, "devices")) {
			write_file(dir, "devices.deny", "a");
			for (int i = 0; device_rules[i]; i++)
				write_file(dir, "devices.allow", device_rules[i]);
		}
	}
}

static void remove_groups(void)
{
	for (int i = 0; i < n_groups; i++) {
		int tries = 0;

		while (rmdir(groups[i])) {
			if (errno != EBUSY || ++tries > 2000)
				fail("rmdir %s", groups[i]);
			usleep(100);
		}
	}
	n_groups = 0;
}

/* ---- the child: each step checked, the first failure told through the pipe -------------- */

static int error_fd;

__attribute__((noreturn))
static void give_up(const char *step, const char *what)
{
	dprintf(error_fd, "%s %s: %s", step, what, strerror(errno));
	_exit(126);
}

#define TRY(step, what, call) do { if (call) give_up(step, what); } while (0)

static void lo_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	TRY("lo", "socket", fd < 0);
	TRY("lo", "up", ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void device(const char *path, unsigned major_number, unsigned minor_number)
{
	TRY("mknod", path, mknod(path, S_IFCHR | 0666, makedev(major_number, minor_number)));
}

static void make_dev(void)
{
	const unsigned long safe = MS_NOSUID | MS_NOEXEC;

	TRY("mount", "/dev", mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"));
	device("dev/null", 1, 3);
	device("dev/zero", 1, 5);
	device("dev/full", 1, 7);
	device("dev/random", 1, 8);
	device("dev/urandom", 1, 9);
	device("dev/tty", 5, 0);
	TRY("symlink", "/dev/fd", symlink("/proc/self/fd", "dev/fd"));
	TRY("symlink", "/dev/stdin", symlink("/proc/self/fd/0", "dev/stdin"));
	TRY("symlink", "/dev/stdout", symlink("/proc/self/fd/1", "dev/stdout"));
	TRY("symlink", "/dev/stderr", symlink("/proc/self/fd/2", "dev/stderr"));
	TRY("symlink", "/dev/core", symlink("/proc/kcore", "dev/core"));
	TRY("symlink", "/dev/ptmx", symlink("pts/ptmx", "dev/ptmx"));
	TRY("mkdir", "/dev/pts", mkdir("dev/pts", 0755));
	TRY("mount", "/dev/pts", mount("devpts", "dev/pts", "devpts", safe,
				       "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	TRY("mkdir", "/dev/shm", mkdir("dev/shm", 01777));
	TRY("mount", "/dev/shm", mount("shm", "dev/shm", "tmpfs", safe | MS_NODEV, "mode=1777,size=65536k"));
	TRY("mkdir", "/dev/mqueue", mkdir("dev/mqueue", 0755));
	TRY("mount", "/dev/mqueue", mount("mqueue", "dev/mqueue", "mqueue", safe | MS_NODEV, NULL));
}

static void hide(void)
{
	for (int i = 0; masked[i]; i++) {
		struct stat st;

		if (lstat(masked[i], &st)) {
			TRY("stat", masked[i], errno != ENOENT);
			continue;
		}
		if (S_ISDIR(st.st_mode))
			TRY("mask", masked[i], mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "size=0k"));
		else
			TRY("mask", masked[i], mount("/dev/null", masked[i], NULL, MS_BIND, NULL));
	}
	for (int i = 0; readonly[i]; i++) {
		const char *path = readonly[i];

		if (mount(path, path, NULL, MS_BIND | MS_REC, NULL)) {
			TRY("read-only", path, errno != ENOENT);
			continue;
		}
		TRY("read-only", path, mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID |
					     MS_NODEV | MS_NOEXEC, NULL));
	}
}

static void make_root(void)
{
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char options[8192], path[4096];

	TRY("mount", "/", mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	TRY("mount", "scratch", mount("tmpfs", scratch, "tmpfs", 0, "mode=755,size=65536k"));
	static const char *const names[] = {"upper", "work", "merged"};
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", scratch, names[i]);
		TRY("mkdir", names[i], mkdir(path, 0755));
	}
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", rootfs, scratch,
		 scratch);
	TRY("mount", "overlay", mount("overlay", path, "overlay", 0, options));
	TRY("chdir", path, chdir(path));
	TRY("mount", "/proc", mount("proc", "proc", "proc", safe, NULL));
	TRY("mount", "/sys", mount("sysfs", "sys", "sysfs", safe | MS_RDONLY, NULL));
	make_dev();
	TRY("pivot_root", path, syscall(SYS_pivot_root, ".", "."));
	TRY("umount", "old root", umount2(".", MNT_DETACH));
	TRY("chdir", "/", chdir("/"));
	hide();
}

static void drop_privileges(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(CAPS >> cap & 1))
			TRY("capabilities", "bounding", prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	TRY("groups", "", setgroups(0, NULL));
	TRY("gid", "0", setresgid(0, 0, 0));
	TRY("uid", "0", setresuid(0, 0, 0));
	TRY("capabilities", "ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	data[0].permitted = data[0].effective = (uint32_t)CAPS;
	TRY("capabilities", "capset", syscall(SYS_capset, &header, data));
	TRY("no_new_privs", "", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	TRY("seccomp", "", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
				   &program));
}

__attribute__((noreturn))
static void child(int go_fd)
{
	char byte;

	if (read(go_fd, &byte, 1) != 1)
		_exit(126);
	TRY("cgroup namespace", "", unshare(CLONE_NEWCGROUP));
	TRY("setsid", "", setsid() < 0);
	TRY("hostname", "", sethostname("classic", 7));
	lo_up();
	umask(0);
	make_root();
	umask(022);
	if (!verbose) {
		dup2(null_fd, 0);
		dup2(null_fd, 1);
		dup2(null_fd, 2);
	}
	drop_privileges();
	TRY("close_range", "", syscall(SYS_close_range, 3u, ~0u, 4u));	/* CLOSE_RANGE_CLOEXEC */
	char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	execve(command[0], command, environment);
	give_up("exec", command[0]);
}

/* ---- the parent ------------------------------------------------------------------------ */

static void start_once(int number, double *total, double *exited)
{
	int go[2], fault[2], status;
	char text[512];
	double begin = now_us();

	make_groups(number);
	if (pipe2(go, O_CLOEXEC) || pipe2(fault, O_CLOEXEC))
		fail("pipe");
	error_fd = fault[1];
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC |
				   CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		close(go[1]);
		close(fault[0]);
		child(go[0]);
	}
	if (pid < 0)
		fail("clone");
	close(go[0]);
	close(fault[1]);
	snprintf(text, sizeof(text), "%d", (int)pid);
	for (int i = 0; i < n_groups; i++)
		write_file(groups[i], "cgroup.procs", text);
	if (write(go[1], "g", 1) != 1)
		fail("go");
	close(go[1]);
	ssize_t n = read(fault[0], text, sizeof(text) - 1);	/* ends when exec closes the other end */
	close(fault[0]);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid");
	*exited = now_us() - begin;
	remove_groups();
	*total = now_us() - begin;
	if (n != 0) {
		text[n < 0 ? 0 : n] = 0;
		errno = 0;
		fail("start: %s", text);
	}
	if (status) {
		errno = 0;
		fail("%s: wait status 0x%x", command[0], (unsigned)status);
	}
}

int main(int argc, char **argv)
{
	const char *policy = NULL, *export = NULL;
	double total, exited;
	char line[256];
	int option, started = 0;

	while ((option = getopt(argc, argv, "+c:p:e:r:d:v")) != -1) {
		switch (option) {
		case 'c': controllers = optarg; break;
		case 'p': policy = optarg; break;
		case 'e': export = optarg; break;
		case 'r': rootfs = optarg; break;
		case 'd': scratch = optarg; break;
		case 'v': verbose = 1; break;
		default: return 2;
		}
	}
	command = argv + optind;
	if (!policy || (!export && (!rootfs || !scratch || !*command)))
		fail("usage: classic -p POLICY -r ROOTFS -d SCRATCH -- COMMAND");
	compile_policy(policy, export);
	if (export)
		return 0;
	unified = access(CGROUP_ROOT "/cgroup.controllers", F_OK) == 0;
	if (unified)
		write_file(CGROUP_ROOT, "cgroup.subtree_control", "+cpu +memory +pids");
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (verbose) {
		start_once(started++, &total, &exited);
		fprintf(stderr, "%.1f %.1f\n", total, exited);
		return 0;
	}
	while (fgets(line, sizeof(line), stdin)) {
		int n, pause_ms = 0;

		if (sscanf(line, "go %d %d", &n, &pause_ms) < 1)
			fail("unknown request %s", line);
		for (int i = 0; i < n; i++) {
			if (pause_ms)
				usleep((useconds_t)pause_ms * 1000);
			start_once(started++, &total, &exited);
			printf("%.1f %.1f\n", total, exited);
		}
		puts("end");
		fflush(stdout);
	}
	return 0;
}
