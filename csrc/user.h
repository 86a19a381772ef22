/* user.h: "name", "7:group" … looked up in a container's own /etc/passwd and /etc/group. */
#ifndef FCTR_USER_H
#define FCTR_USER_H

#include "fctr.h"

#define FCTR_USER_GROUPS 64

struct fctr_user {
	uint32_t uid, gid;
	uint32_t groups[FCTR_USER_GROUPS];	/* supplementary; without gid itself */
	size_t n_groups;
	char home[256];				/* "/" where the file says nothing usable */
};

/* user as Docker's USER: a name or a number, then optionally ':' and a group's name or number. What
 * passwd_fd and group_fd (regular files open for reading, or -1: missing; their offsets are not used)
 * say about it: see passwd(5), group(5).
 *   - a name that is in no line of passwd is an error, a number is not: gid 0, home "/";
 *   - a name of digits alone is a name if passwd has it, else a number;
 *   - groups: those that list the user's name, unless a group is given: then none. Above 64, the first.
 * The files are the container's and not trusted: at most 1 MiB of each is read, lines that make no
 * sense are passed over. Returns 0, or -1 with FCTR_ST_USER (err->what says what was not found). */
int fctr_user_lookup(int passwd_fd, int group_fd, const char *user, struct fctr_user *out,
		     struct fctr_error *err);

#endif
