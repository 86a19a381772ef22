/* child.h: between child.c, child_mounts.c and child_layers.c, and nobody else. */
#ifndef FCTR_CHILD_H
#define FCTR_CHILD_H

#include "plan.h"
#include "syscalls.h"

#define STR(run, off) ((run)->blob + (off))

static inline size_t str_len(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}
static inline void raw_close(int fd)
{
	if (fd >= 0)
		sys1(SYS_close, fd);
}
static inline long raw_open(int dirfd, const char *path, int flags)
{
	return sys4(SYS_openat, dirfd, path, flags, 0);
}

__attribute__((noreturn)) void fctr_keeper_main(int sock);	/* keeper.c */

/* Each returns 0 or -errno. */
long child_mount_step(struct fctr_run *run, const struct fctr_step *s);
long child_overlay_step(struct fctr_run *run, const struct fctr_step *s);
long child_erofs_step(struct fctr_run *run, const struct fctr_step *s);
long child_open_in_root(struct fctr_run *run, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

#endif
