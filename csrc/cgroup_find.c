/* cgroup_find.c: which hierarchies are mounted, where we are in them, and where our groups may go. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "cgroup_internal.h"

const char *const fctr_cg_v1_names[CT_COUNT] = {
	"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "devices", "freezer",
};

static int ctl_by_name(const char *name, size_t len)
{
	for (int i = 0; i < CT_COUNT; i++)
		if (strlen(fctr_cg_v1_names[i]) == len && !memcmp(fctr_cg_v1_names[i], name, len))
			return i;
	if (len == 2 && !memcmp(name, "io", 2))
		return CT_IO;
	return -1;
}

static unsigned ctls_in(const char *text, const char *separators)
{
	unsigned mask = 0;

	while (*text) {
		size_t len = strcspn(text, separators);
		int c = ctl_by_name(text, len);

		if (c >= 0)
			mask |= CT_BIT(c);
		text += len;
		text += strspn(text, separators);
	}
	return mask;
}

unsigned fctr_cg_controllers(int dirfd, const char *file)
{
	char buf[256];

	if (fctr_read_at(dirfd, file, buf, sizeof(buf)) < 0)
		return 0;
	return ctls_in(buf, " \n") & CT_V2_ALL;
}

static void unescape(char *s)	/* mountinfo writes space, tab, newline, backslash as \ooo */
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		    s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

static int add_hier(struct fctr_cgmap *map, bool v2, unsigned ctls, const char *mount, const char *root)
{
	struct fctr_cghier *h;
	struct statfs fs;
	cleanup_close int fd = -1;

	for (int i = 0; i < map->n; i++)	/* the same hierarchy mounted twice: the first one */
		if (v2 ? map->hier[i].v2 : (map->hier[i].ctls & ctls) != 0)
			return 0;
	fd = open(mount, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
		return -1;	/* it is there: half a map would be taken for the whole */
	if (fd < 0 || fstatfs(fd, &fs) < 0 ||
	    (unsigned long)fs.f_type != (v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC))
		return 0;	/* hidden below another mount */
	if (map->n == CG_MAX_HIER)
		return 0;
	h = &map->hier[map->n];
	*h = (struct fctr_cghier){ .v2 = v2, .ctls = ctls, .mount_fd = -1, .owner_fd = -1,
				   .first_made = INT_MAX };
	h->mount = strdup(mount);
	h->mount_root = strdup(root);
	if (v2)
		map->v2 = map->n;
	map->n++;
	h->mount_fd = fctr_steal_fd(&fd);
	if (h->mount && h->mount_root)
		return 0;
	errno = ENOMEM;
	return -1;
}

/* One line: "31 23 0:28 / /sys/fs/cgroup rw,… [tags] - cgroup2 cgroup2 rw,memory" */
static int map_line(struct fctr_cgmap *map, char *line)
{
	char *dash = strstr(line, " - cgroup"), *save = NULL, *f[5], *type, *options;
	bool v2;

	if (!dash)
		return 0;
	*dash = '\0';
	type = dash + 3;
	f[0] = strtok_r(line, " ", &save);
	for (int i = 1; i < 5; i++)
		f[i] = strtok_r(NULL, " ", &save);
	type = strtok_r(type, " ", &save);
	strtok_r(NULL, " ", &save);
	options = strtok_r(NULL, " ", &save);
	if (!f[3] || !f[4] || !type || !options)
		return 0;
	v2 = !strcmp(type, "cgroup2");
	if (!v2 && (strcmp(type, "cgroup") || !ctls_in(options, ",")))
		return 0;	/* name=systemd, or a controller that is none of ours */
	unescape(f[3]);
	unescape(f[4]);
	return add_hier(map, v2, v2 ? 0 : ctls_in(options, ","), f[4], f[3]);
}

int fctr_cg_map(struct fctr_cgmap *map, struct fctr_error *err)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t cap = 0;
	ssize_t len;
	int failed = 0;

	*map = (struct fctr_cgmap){ .v2 = -1 };
	if (!f)
		return fctr_fail(err, FCTR_ST_CGROUP, errno, "/proc/self/mountinfo: cannot be read, is /proc mounted?");
	while (!failed && (len = getline(&line, &cap, f)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		failed = map_line(map, line) < 0 ? errno : 0;
	}
	free(line);
	fclose(f);
	if (failed) {
		fctr_cg_unmap(map);
		return fctr_fail(err, failed == ENOMEM ? FCTR_ST_MEMORY : FCTR_ST_CGROUP, failed, "the control groups' mounts");
	}
	if (map->v2 >= 0)
		map->mode = map->n > 1 ? FCTR_CGMODE_HYBRID : FCTR_CGMODE_V2;
	else
		map->mode = map->n ? FCTR_CGMODE_V1 : FCTR_CGMODE_NONE;
	return 0;
}

void fctr_cg_unmap(struct fctr_cgmap *map)
{
	for (int i = 0; i < map->n; i++) {
		free(map->hier[i].mount);
		free(map->hier[i].mount_root);
		fctr_close_fd(&map->hier[i].mount_fd);
		fctr_close_fd(&map->hier[i].owner_fd);
	}
	map->n = 0;
}

/* Our own v2 group as a path below the mount point, without slashes at the ends. */
static int own_path(const struct fctr_cghier *h, char *out, size_t size)
{
	char buf[8192], *line = buf, *end;
	size_t skip = strcmp(h->mount_root, "/") ? strlen(h->mount_root) : 0;

	if (fctr_read_at(AT_FDCWD, "/proc/self/cgroup", buf, sizeof(buf)) < 0)
		return -1;
	while (line && strncmp(line, "0::/", 4)) {
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	if (!line)
		return -1;
	line += 3;
	end = strchr(line, '\n');
	if (!end)
		return -1;
	*end = '\0';
	if (strncmp(line, h->mount_root, skip) || (skip && line[skip] && line[skip] != '/') || strstr(line, "/.."))
		return -1;	/* we are outside what this mount shows */
	line += skip;
	line += strspn(line, "/");
	if (strlen(line) >= size)
		return -1;
	strcpy(out, line);
	return 0;
}

static bool is_delegated(int fd)
{
	char v[8];

	return (fgetxattr(fd, "user.delegate", v, sizeof(v)) == 1 && v[0] == '1') ||
	       (fgetxattr(fd, "trusted.delegate", v, sizeof(v)) == 1 && v[0] == '1');
}

static bool real_root(void)	/* root of the whole machine or container, not of a user's own namespace */
{
	char buf[256];
	unsigned long inside, outside, count;

	if (geteuid() != 0)
		return false;
	if (fctr_read_at(AT_FDCWD, "/proc/self/uid_map", buf, sizeof(buf)) < 0)
		return true;
	return sscanf(buf, "%lu %lu %lu", &inside, &outside, &count) == 3 && !inside && !outside &&
	       count > 65536;
}

static bool has_systemd(void)
{
	return faccessat(AT_FDCWD, "/run/systemd/system", F_OK, 0) == 0;
}

int fctr_cg_default_place(const struct fctr_cgmap *map, char *out, size_t size, bool *delegated,
			  struct fctr_error *err)
{
	const struct fctr_cghier *h = map->v2 >= 0 ? &map->hier[map->v2] : NULL;
	char path[PATH_MAX], *slash;
	size_t len;

	*delegated = false;
	snprintf(out, size, "%s", CG_OWN_PLACE);
	if (map->mode != FCTR_CGMODE_V2 || !h || (real_root() && !has_systemd()))
		return 0;
	if (own_path(h, path, sizeof(path) - 16) < 0)
		path[0] = '\0';
	/* A process started before us may have been moved aside with its group's others. */
	len = strlen(path);
	if (len >= strlen(CG_SELF_LEAF) && !strcmp(path + len - strlen(CG_SELF_LEAF), CG_SELF_LEAF))
		path[len - strlen(CG_SELF_LEAF)] = '\0';
	for (;;) {
		cleanup_close int fd = -1;
		struct stat st;

		len = strlen(path);
		while (len > 0 && path[len - 1] == '/')
			path[--len] = '\0';
		fd = openat(h->mount_fd, len ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && fstat(fd, &st) == 0 && faccessat(fd, ".", W_OK, AT_EACCESS) == 0 &&
		    faccessat(fd, "cgroup.procs", W_OK, AT_EACCESS) == 0 &&
		    (is_delegated(fd) || (!real_root() && st.st_uid == geteuid()))) {
			*delegated = true;
			snprintf(out, size, "%s%s%s", path, len ? "/" : "", CG_OWN_PLACE);
			return 0;
		}
		if (!len)
			break;
		slash = strrchr(path, '/');
		*(slash ? slash : path) = '\0';
	}
	if (geteuid() == 0)
		return 0;
	return fctr_fail(err, FCTR_ST_CGROUP, EACCES,
			 "no control group is delegated to this user; start from one that is "
			 "(systemd-run --user --scope -p Delegate=yes …), or be root");
}

/* The directory at path, or the nearest one above it that exists. */
static int open_nearest(int mount_fd, const char *path)
{
	char buf[PATH_MAX], *slash;
	int fd;

	snprintf(buf, sizeof(buf), "%s", path);
	while ((fd = openat(mount_fd, buf[0] ? buf : ".", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 && buf[0]) {
		slash = strrchr(buf, '/');
		*(slash ? slash : buf) = '\0';
	}
	return fd;
}

int fctr_cgroup_info(struct fctr_cginfo *info, struct fctr_error *err)
{
	struct fctr_cgmap map;
	struct fctr_error none = { 0 };
	char place[sizeof(info->parent) - 1];
	unsigned ctls = 0, v2_ctls = 0;
	size_t at = 0;
	bool placed;

	if (fctr_cg_map(&map, err) < 0)
		return -1;
	*info = (struct fctr_cginfo){ .mode = map.mode, .systemd = has_systemd() };
	placed = fctr_cg_default_place(&map, place, sizeof(place), &info->delegated, &none) == 0;
	if (placed)
		snprintf(info->parent, sizeof(info->parent), "/%s", place);
	info->writable = placed && map.n > 0;
	for (int i = 0; i < map.n; i++) {
		struct fctr_cghier *h = &map.hier[i];
		cleanup_close int fd = open_nearest(h->mount_fd, placed ? place : "");

		if (h->v2 && fd >= 0)
			h->ctls = v2_ctls = fctr_cg_controllers(fd, "cgroup.controllers");
		ctls |= h->ctls;
		/* On hybrid only what a job always gets has to be writable. */
		if ((h->v2 ? map.mode == FCTR_CGMODE_V2 : (h->ctls & CT_V1_ALWAYS) != 0) &&
		    (fd < 0 || faccessat(fd, ".", W_OK, AT_EACCESS) < 0))
			info->writable = false;
	}
	if (map.mode == FCTR_CGMODE_V2) {	/* v2 has these two without a controller */
		ctls |= CT_BIT(CT_FREEZER);
		if (fctr_cg_dev_v2_check(&none) == 0)
			ctls |= CT_BIT(CT_DEVICES);
	}
	for (int c = 0; c < CT_COUNT; c++) {
		const char *name = c == CT_IO && (v2_ctls & CT_BIT(CT_IO)) ? "io" : fctr_cg_v1_names[c];

		if ((ctls & CT_BIT(c)) && at < sizeof(info->controllers))
			at += (size_t)snprintf(info->controllers + at, sizeof(info->controllers) - at,
					       "%s%s", at ? " " : "", name);
	}
	fctr_cg_unmap(&map);
	return 0;
}
