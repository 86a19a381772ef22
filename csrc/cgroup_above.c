/* cgroup_above.c: whether a group above a job's, and not above ours, may run out of memory.
 *
 * When one does, the kernel ends a process below it and all who share its memory. Whoever shares the
 * launcher's must not be there then. In a group that is above the launcher, too, nothing changes: there
 * the launcher is a candidate itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <time.h>

#include "cgroup_internal.h"

#define AGAIN_NS 100000000LL

/* Our own group of the hierarchy with the memory controller, as a path below the mount point. */
static int own_path(const struct fctr_cghier *h, char *out, size_t size)
{
	char buf[8192], *save = NULL;
	size_t skip = strcmp(h->mount_root, "/") ? strlen(h->mount_root) : 0;

	if (fctr_read_at(AT_FDCWD, "/proc/self/cgroup", buf, sizeof(buf)) < 0)
		return -1;
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
		bool found = h->v2 && !strncmp(line, "0::", 3);

		if (!path)
			continue;
		*path++ = '\0';
		for (char *name = names + 1; !h->v2 && *name; name += strcspn(name, ","), name += *name == ',')
			found |= !strncmp(name, "memory", 6) && (!name[6] || name[6] == ',');
		if (!found)
			continue;
		if (strncmp(path, h->mount_root, skip) || strstr(path, "/.."))
			return -1;
		path += skip;
		path += strspn(path, "/");
		return (size_t)snprintf(out, size, "%s", path) < size ? 0 : -1;
	}
	return -1;
}

static bool limited(const struct fctr_cghier *h, const char *place, const char *file)
{
	char path[PATH_MAX], text[32];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", place, file) >= sizeof(path) ||
	    fctr_read_at(h->mount_fd, path, text, sizeof(text)) < 0)
		return false;	/* no such controller there */
	return text[0] != 'm' && strtoull(text, NULL, 10) < 1ULL << 62;	/* "max"; v1: the highest page count */
}

static bool look(const struct fctr_cgroot *root, const struct fctr_cghier *h)
{
	char own[PATH_MAX], place[PATH_MAX];
	bool known = own_path(h, own, sizeof(own)) == 0;

	if ((size_t)snprintf(place, sizeof(place), "%s", root->place) >= sizeof(place))
		return true;
	/* from the nearest upward; the root of what we see is above us, too */
	for (char *slash; place[0]; *(slash ? slash : place) = '\0') {
		size_t len = strlen(place);

		slash = strrchr(place, '/');
		if (known && !strncmp(own, place, len) && (!own[len] || own[len] == '/'))
			return false;	/* and so is all that is above it */
		if (h->v2 ? limited(h, place, "memory.max")
			  : limited(h, place, "memory.limit_in_bytes") || limited(h, place, "memory.memsw.limit_in_bytes"))
			return true;
	}
	return false;
}

bool fctr_cgroot_short(struct fctr_cgroot *root)
{
	int where = root->where[CT_MEMORY];
	struct timespec t;
	int64_t now;

	if (where < 0)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &t);
	now = t.tv_sec * 1000000000LL + t.tv_nsec;
	if (now - __atomic_load_n(&root->above_seen, __ATOMIC_RELAXED) > AGAIN_NS) {
		__atomic_store_n(&root->above_limited, look(root, &root->map.hier[where]), __ATOMIC_RELAXED);
		__atomic_store_n(&root->above_seen, now, __ATOMIC_RELAXED);
	}
	return __atomic_load_n(&root->above_limited, __ATOMIC_RELAXED);
}
