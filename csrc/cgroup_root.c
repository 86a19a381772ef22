/* cgroup_root.c: the owner's directory in every hierarchy: opened, closed, and swept after the dead. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "cgroup_internal.h"

#define DIR_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)

int fctr_cgroot_mode(const struct fctr_cgroot *root)
{
	return root->map.mode;
}

/* A path without empty and "." components, and without slashes at its ends. */
static char *clean_path(const char *path)
{
	char *out = malloc(strlen(path) + 1), *to = out;

	if (!out)
		return NULL;
	while (*(path += strspn(path, "/"))) {
		size_t len = strcspn(path, "/");

		if (len != 1 || path[0] != '.') {
			if (to > out)
				*to++ = '/';
			memcpy(to, path, len);
			to += len;
		}
		path += len;
	}
	*to = '\0';
	return out;
}

static bool bad_name(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > CG_NAME_MAX || name[0] == '.')
		return true;
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return true;
	return false;
}

/* mkdir and open one component. 1 made, 0 was there, -1 errno. */
static int step_into(struct fctr_cghier *h, int *fd, const char *name)
{
	int made = mkdirat(*fd, name, 0755) == 0, next;

	if (!made && errno != EEXIST)
		return -1;
	next = openat(*fd, name, DIR_FLAGS);
	if (next < 0)
		return -1;
	/* cpuset of v1 lets nobody in before both are filled; a new directory has neither. */
	if (!h->v2 && (h->ctls & CT_BIT(CT_CPUSET)) &&
	    fctr_cg1_populate_cpuset(*fd, next, NULL, NULL) < 0) {
		fctr_close_fd(&next);
		return -1;
	}
	fctr_close_fd(fd);
	*fd = next;
	return made;
}

static int walk(struct fctr_cgroot *root, struct fctr_cghier *h, int *out)
{
	cleanup_free char *path = strdup(root->place);
	cleanup_close int fd = openat(h->mount_fd, ".", DIR_FLAGS);
	char *save = NULL, *name;
	int made, depth = 0;

	if (!path || fd < 0)
		return -1;
	for (name = strtok_r(path, "/", &save); name; name = strtok_r(NULL, "/", &save), depth++) {
		if (h->v2)
			fctr_cg2_enable(fd, CT_V2_ALL);
		made = step_into(h, &fd, name);
		if (made < 0)
			return -1;
		if (made && depth < h->first_made)
			h->first_made = depth;
	}
	if (h->v2)
		fctr_cg2_enable(fd, CT_V2_ALL);
	if (step_into(h, &fd, root->owner) < 0)
		return -1;
	if (h->v2) {
		h->ctls = fctr_cg_controllers(fd, "cgroup.controllers");
		h->enabled = fctr_cg2_enable(fd, CT_V2_ALWAYS & h->ctls);
	}
	*out = fctr_steal_fd(&fd);
	return 0;
}

static int open_fail(const struct fctr_cgroot *root, const struct fctr_cghier *h, int e, struct fctr_error *err)
{
	const char *why = "cannot be made";

	if (e == EACCES || e == EPERM)
		why = h->v2 ? "may not be made by this user: name a parent that is delegated to it"
			    : "may not be made by this user: on cgroup v1 only root makes groups";
	else if (e == EROFS)
		why = "cannot be made: cgroups are mounted read-only here";
	return fctr_fail(err, FCTR_ST_CGROUP, e, "control group %.80s/%.60s/%.60s %s", h->mount,
			 root->place, root->owner, why);
}

int fctr_cg_ready(struct fctr_cgroot *root, int i, struct fctr_error *err)
{
	struct fctr_cghier *h = &root->map.hier[i];
	int fd = __atomic_load_n(&h->owner_fd, __ATOMIC_ACQUIRE), failed = 0;

	if (fd >= 0)
		return fd;
	pthread_mutex_lock(&root->lock);
	fd = h->owner_fd;
	/* Another owner that closes may remove the parent below our feet: then from the start. */
	for (int tries = 0; fd < 0 && tries < 5; tries++) {
		failed = walk(root, h, &fd) < 0 ? errno : 0;
		if (failed && failed != ENOENT && failed != ENODEV)
			break;
	}
	if (fd >= 0)
		__atomic_store_n(&h->owner_fd, fd, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&root->lock);
	return fd >= 0 ? fd : open_fail(root, h, failed, err);
}

int fctr_cg_v2_enable_owner(struct fctr_cgroot *root, unsigned want, struct fctr_error *err)
{
	struct fctr_cghier *h = &root->map.hier[root->map.v2];
	unsigned missing;

	pthread_mutex_lock(&root->lock);
	if (want & ~h->enabled)
		h->enabled = fctr_cg2_enable(h->owner_fd, want);
	missing = want & ~h->enabled;
	pthread_mutex_unlock(&root->lock);
	for (int c = 0; c < CT_COUNT; c++)
		if (missing & CT_BIT(c))
			return fctr_fail(err, FCTR_ST_CGROUP, ENOTSUP,
					 "the %s controller cannot be switched on for %.100s/%.60s",
					 c == CT_IO ? "io" : fctr_cg_v1_names[c], root->place, root->owner);
	return 0;
}

static void locate(struct fctr_cgroot *root)
{
	for (int c = 0; c < CT_COUNT; c++) {
		root->where[c] = -1;
		for (int i = 0; i < root->map.n; i++)
			if (root->map.hier[i].ctls & CT_BIT(c))
				root->where[c] = i;
	}
	/* v2 freezes and has device policies (pure v2 only) without a controller. */
	if (root->where[CT_FREEZER] < 0)
		root->where[CT_FREEZER] = root->map.v2;
	if (root->where[CT_DEVICES] < 0 && root->map.mode == FCTR_CGMODE_V2)
		root->where[CT_DEVICES] = root->map.v2;
}

static int open_all(struct fctr_cgroot *root, const char *parent, const char *owner, struct fctr_error *err)
{
	struct fctr_cgmap *map = &root->map;
	char place[PATH_MAX];
	bool delegated;

	if (fctr_cg_map(map, err) < 0)
		return -1;
	if (map->mode == FCTR_CGMODE_NONE)
		return fctr_fail(err, FCTR_ST_CGROUP, ENOTSUP,
				 "no control groups are mounted; mount cgroup2 on /sys/fs/cgroup");
	if (!parent) {
		if (fctr_cg_default_place(map, place, sizeof(place), &delegated, err) < 0)
			return -1;
		root->place_ours = true;
		parent = place;
	}
	root->place = clean_path(parent);
	root->owner = strdup(owner);
	if (!root->place || !root->owner)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "control group root");
	for (int i = 0; i < map->n; i++)
		if ((map->hier[i].v2 || (map->hier[i].ctls & CT_V1_ALWAYS)) &&
		    (fctr_cg_ready(root, i, err) < 0)) {
			/* A hybrid's v2 is an extra: without it there is just no hugetlb. */
			if (!map->hier[i].v2 || map->mode == FCTR_CGMODE_V2)
				return -1;
			map->hier[i].ctls = 0;
		}
	locate(root);
	return 0;
}

int fctr_cgroot_open(const char *parent, const char *owner, struct fctr_cgroot **out, struct fctr_error *err)
{
	struct fctr_cgroot *root;
	struct fctr_error failed = { 0 };

	if (!owner || bad_name(owner))
		return fctr_fail(err, FCTR_ST_CGROUP, EINVAL,
				 "control group owner \"%.60s\": wants a name without slash or leading dot", owner ? owner : "");
	for (const char *p = parent; p && *p; p += strcspn(p, "/")) {
		p += strspn(p, "/");
		if (!strncmp(p, "..", 2) && (!p[2] || p[2] == '/'))
			return fctr_fail(err, FCTR_ST_CGROUP, EINVAL,
					 "control group parent \"%.100s\": \"..\" is not accepted", parent);
	}
	root = calloc(1, sizeof(*root));
	if (!root)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "control group root");
	pthread_mutex_init(&root->lock, NULL);
	if (open_all(root, parent, owner, &failed) < 0) {
		fctr_cgroot_close(root);
		*err = failed;
		errno = failed.err;
		return -1;
	}
	*out = root;
	return 0;
}

/* After the owner: what we made of place, and our default "fastctr" whoever made it; deepest first.
 * rmdir refuses a directory that is in use, which is all the care it needs. */
static void remove_place(struct fctr_cgroot *root, struct fctr_cghier *h)
{
	int depth = 0, keep = h->first_made;

	for (const char *p = root->place; *p; p++)
		depth += *p == '/';
	if (root->place_ours && keep > depth)
		keep = depth;
	for (; root->place[0] && depth >= keep; depth--) {
		char *slash = strrchr(root->place, '/');

		if (unlinkat(h->mount_fd, root->place, AT_REMOVEDIR) < 0)
			break;
		if (!slash)
			break;
		*slash = '\0';
	}
}

void fctr_cgroot_close(struct fctr_cgroot *root)
{
	if (!root)
		return;
	for (int i = 0; root->place && root->owner && i < root->map.n; i++) {
		struct fctr_cghier *h = &root->map.hier[i];
		cleanup_free char *place = strdup(root->place);
		char path[PATH_MAX];

		if (h->owner_fd < 0 && h->first_made == INT_MAX)
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s%s%s", root->place, root->place[0] ? "/" : "",
				     root->owner) < sizeof(path) &&
		    unlinkat(h->mount_fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT)
			fctr_cg_rmtree(h->mount_fd, path, 200);	/* what a lack of descriptors has left in it */
		if (place) {
			remove_place(root, h);
			strcpy(root->place, place);
		}
	}
	fctr_cg_unmap(&root->map);
	fctr_cg_dev_free(root);
	pthread_mutex_destroy(&root->lock);
	free(root->place);
	free(root->owner);
	free(root);
}

/* ---- sweeping ------------------------------------------------------------------------ */

struct names { char **v; size_t n; };

static void collect(struct names *names, int fd, const char *self)
{
	DIR *dir;
	struct dirent *e;
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	dir = copy >= 0 ? fdopendir(copy) : NULL;
	if (!dir) {
		fctr_close_fd(&copy);
		return;
	}
	while ((e = readdir(dir))) {
		char **grown, *name;
		size_t i;

		if (e->d_type != DT_DIR || e->d_name[0] == '.' || !strcmp(e->d_name, self) ||
		    !strcmp(e->d_name, CG_SELF_LEAF))
			continue;
		for (i = 0; i < names->n && strcmp(names->v[i], e->d_name); i++)
			;
		if (i < names->n)
			continue;
		grown = realloc(names->v, (names->n + 1) * sizeof(*names->v));
		if (!grown)
			break;
		names->v = grown;
		name = strdup(e->d_name);
		if (!name)
			break;
		names->v[names->n++] = name;
	}
	closedir(dir);
}

static bool remove_owner(struct fctr_cgroot *root, const int *places, const char *name)
{
	struct fctr_cgkill dirs[CG_MAX_HIER];
	size_t n = 0;
	bool gone = true;

	for (int i = 0; i < root->map.n; i++) {
		const struct fctr_cghier *h = &root->map.hier[i];
		int fd = places[i] >= 0 ? openat(places[i], name, DIR_FLAGS) : -1;

		if (fd >= 0)
			dirs[n++] = (struct fctr_cgkill){
				.fd = fd, .v2 = h->v2,
				.pids = !h->v2 && (h->ctls & CT_BIT(CT_PIDS)),
				.freezer = !h->v2 && (h->ctls & CT_BIT(CT_FREEZER)),
			};
	}
	fctr_cg_kill_dirs(dirs, n, 2000);
	for (size_t i = 0; i < n; i++)
		close(dirs[i].fd);
	for (int i = 0; i < root->map.n; i++)
		if (places[i] >= 0 && fctr_cg_rmtree(places[i], name, 200) < 0)
			gone = false;
	return gone;
}

int fctr_cgroot_sweep(struct fctr_cgroot *root, bool (*dead)(const char *name, void *arg), void *arg)
{
	struct names names = { 0 };
	int places[CG_MAX_HIER], swept = 0;

	/* Also hierarchies we have not needed ourselves so far: the dead may have. */
	for (int i = 0; i < root->map.n; i++) {
		places[i] = openat(root->map.hier[i].mount_fd, root->place[0] ? root->place : ".", DIR_FLAGS);
		if (places[i] >= 0)
			collect(&names, places[i], root->owner);
	}
	for (size_t i = 0; i < names.n; i++) {
		if (dead(names.v[i], arg) && remove_owner(root, places, names.v[i]))
			swept++;
		free(names.v[i]);
	}
	free(names.v);
	for (int i = 0; i < root->map.n; i++) {
		const struct fctr_cghier *h = &root->map.hier[i];

		fctr_close_fd(&places[i]);
		/* The dead one's "fastctr" in a hierarchy that we are not in. */
		if (root->place_ours && h->owner_fd < 0)
			unlinkat(h->mount_fd, root->place, AT_REMOVEDIR);
	}
	return swept;
}
