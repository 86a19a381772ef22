/* error.c: stage names, and the few helpers every parent-side file shares. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>

#include "util.h"

static const char *const stage_names[FCTR_ST_COUNT] = {
	"none", "spec", "memory", "userns", "idmap", "netns", "namespace", "timens", "template",
	"rootfs", "overlay", "mount", "dev", "proc", "sys", "mask", "file", "pivot",
	"cgroup", "limit", "cgroup-join", "clone", "hostname", "sysctl", "rlimit", "oom", "nice",
	"affinity", "label", "user", "groups", "caps", "no-new-privs", "seccomp", "stdio", "fds",
	"cwd", "exec", "init", "join", "wait", "stats", "freeze", "kill", "outputs",
};

const char *fctr_stage_name(int stage)
{
	if (stage < 0 || stage >= FCTR_ST_COUNT || !stage_names[stage])
		return "unknown";
	return stage_names[stage];
}

int fctr_fail(struct fctr_error *err, int stage, int errnum, const char *fmt, ...)
{
	va_list ap;

	err->stage = stage;
	err->index = -1;
	err->err = errnum;
	va_start(ap, fmt);
	vsnprintf(err->what, sizeof(err->what), fmt, ap);
	va_end(ap);
	errno = errnum;
	return -1;
}

ssize_t fctr_read_at(int dirfd, const char *name, char *buf, size_t size)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	size_t have = 0;

	if (fd < 0)
		return -1;
	while (have < size - 1) {
		ssize_t n = read(fd, buf + have, size - 1 - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	buf[have] = '\0';
	return (ssize_t)have;
}

int fctr_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fctr_write_at(int dirfd, const char *name, const char *data, size_t len)
{
	cleanup_close int fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	do {	/* one write: a kernel file takes its value whole */
		n = write(fd, data, len);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -1 : 0;
}
