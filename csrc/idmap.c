/* idmap.c: user namespaces made beforehand, to be joined by starts and used by idmapped mounts. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "core.h"
#include "syscalls.h"

extern char **environ;

static int holder(void *arg)
{
	int from = *(int *)arg;
	char c;

	/* until the other end is closed, by the launcher or by its end: so not with a copy of it here */
	if (from > 0)
		sys3(SYS_close_range, 0, from - 1, 0);
	sys3(SYS_close_range, from + 1, ~0U, 0);
	sys3(SYS_read, from, &c, 1);
	return 0;
}

static int write_map(pid_t pid, const char *file, const struct fctr_idrange *v, size_t n, struct fctr_error *err)
{
	char path[64], buf[340 * 36];
	size_t len = 0;

	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%u %u %u\n", v[i].inside, v[i].outside, v[i].count);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	if (fctr_write_at(AT_FDCWD, path, buf, len) < 0)
		return fctr_fail(err, FCTR_ST_IDMAP, errno, "%s", file);
	return 0;
}

/* newuidmap(1): for ranges of /etc/subuid that this user may use but not write. */
static int run_helper(const char *helper, pid_t pid, const struct fctr_idrange *v, size_t n, struct fctr_error *err)
{
	cleanup_free char **argv = calloc(3 * n + 3, sizeof(char *));
	cleanup_free char *text = malloc(16 * (3 * n + 1));
	char *at = text;
	posix_spawn_file_actions_t actions;
	char said[160] = "";
	int said_fds[2], status, r;
	ssize_t got = 0, n_got;
	pid_t child;

	if (!argv || !text)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "id map");
	argv[0] = (char *)helper;
	argv[1] = at;
	at += sprintf(at, "%d", pid) + 1;
	for (size_t i = 0; i < n; i++) {
		uint32_t part[3] = { v[i].inside, v[i].outside, v[i].count };

		for (size_t j = 0; j < 3; j++) {
			argv[2 + 3 * i + j] = at;
			at += sprintf(at, "%u", part[j]) + 1;
		}
	}
	if (pipe2(said_fds, O_CLOEXEC) < 0)
		return fctr_fail(err, FCTR_ST_IDMAP, errno, "pipe");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, said_fds[1], 2);
	r = posix_spawn(&child, helper, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(said_fds[1]);
	while (!r && got < (ssize_t)sizeof(said) - 1) {	/* what it complains of belongs in the error */
		n_got = read(said_fds[0], said + got, sizeof(said) - 1 - (size_t)got);
		if (n_got == 0 || (n_got < 0 && errno != EINTR))
			break;
		got += n_got > 0 ? n_got : 0;
	}
	close(said_fds[0]);
	if (r)
		return fctr_fail(err, FCTR_ST_IDMAP, r, "%s", helper);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	said[strcspn(said, "\n")] = '\0';
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return fctr_fail(err, FCTR_ST_IDMAP, EPERM, "%s", said[0] ? said : helper);
	return 0;
}

int fctr_userns_create(const struct fctr_idrange *uids, size_t n_uids, const struct fctr_idrange *gids,
		       size_t n_gids, const char *newuidmap, const char *newgidmap, struct fctr_error *err)
{
	char *stack = mmap(NULL, FCTR_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	int hold[2] = { -1, -1 }, fd = -1, read_end;
	struct fctr_clone_args args = {
		/* its own descriptors, to be closed there */
		.flags = CLONE_VM | CLONE_NEWUSER | CLONE_CLEAR_SIGHAND,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = FCTR_STACK_SIZE,
	};
	struct fctr_sigs saved;
	char path[64];
	long pid = -1;

	if (stack == MAP_FAILED)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "stack");
	if (pipe2(hold, O_CLOEXEC) < 0) {
		fctr_fail(err, FCTR_ST_USERNS, errno, "pipe");
		goto out;
	}
	read_end = hold[0];
	fctr_block_signals(&saved);
	pid = fctr_clone_fn(&args, sizeof(args), holder, &read_end);
	fctr_restore_signals(&saved);
	if (pid < 0) {
		fctr_fail(err, FCTR_ST_USERNS, (int)-pid, "user namespace");
		goto out;
	}
	if (newuidmap) {
		if (run_helper(newuidmap, (pid_t)pid, uids, n_uids, err) < 0)
			goto out;
	} else if (write_map((pid_t)pid, "uid_map", uids, n_uids, err) < 0) {
		goto out;
	}
	if (newgidmap) {
		if (run_helper(newgidmap, (pid_t)pid, gids, n_gids, err) < 0)
			goto out;
	} else {
		if (geteuid() != 0) {	/* the price of mapping one's own group unprivileged */
			snprintf(path, sizeof(path), "/proc/%ld/setgroups", pid);
			if (fctr_write_at(AT_FDCWD, path, "deny", 4) < 0 && errno != ENOENT) {
				fctr_fail(err, FCTR_ST_IDMAP, errno, "setgroups");
				goto out;
			}
		}
		if (write_map((pid_t)pid, "gid_map", gids, n_gids, err) < 0)
			goto out;
	}
	snprintf(path, sizeof(path), "/proc/%ld/ns/user", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fctr_fail(err, FCTR_ST_USERNS, errno, "%s", path);
out:
	fctr_close_fd(&hold[1]);
	if (pid > 0) {
		kill((pid_t)pid, SIGKILL);
		while (wait4((pid_t)pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
			;
	}
	fctr_close_fd(&hold[0]);
	munmap(stack, FCTR_STACK_SIZE);
	return fd;
}
