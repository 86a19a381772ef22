/* util.h: cleanup attributes, descriptor helpers, error filling. Internal to libfctr. */
#ifndef FCTR_UTIL_H
#define FCTR_UTIL_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fctr.h"

static inline void fctr_close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
	*fd = -1;
}
static inline void fctr_free_ptr(void *p)
{
	free(*(void **)p);
	*(void **)p = NULL;
}
#define cleanup_close __attribute__((cleanup(fctr_close_fd)))
#define cleanup_free __attribute__((cleanup(fctr_free_ptr)))

static inline int fctr_steal_fd(int *fd)
{
	int v = *fd;
	*fd = -1;
	return v;
}
#define steal_ptr(p) ({ __typeof__(p) v_ = (p); (p) = NULL; v_; })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Fill *err and return -1, so that a failing function can `return fctr_fail(…)`. */
__attribute__((format(printf, 4, 5)))
int fctr_fail(struct fctr_error *err, int stage, int errnum, const char *fmt, ...);

/* Whole reads and writes of small kernel files, restarted on EINTR; relative to dirfd. */
ssize_t fctr_read_at(int dirfd, const char *name, char *buf, size_t size);	/* NUL-terminated; -1 errno */
int fctr_write_at(int dirfd, const char *name, const char *data, size_t len);	/* 0 or -1 errno */
int fctr_write_all(int fd, const void *data, size_t len);

#endif
