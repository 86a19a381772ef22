/* owners.c: who launches, and what is left of those who died. Every process that launches is an owner:
 * a locked file in the runtime directory, and a directory of that name in each group hierarchy. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>

#include "core.h"

/* Owners are called "<pid>-<starttime>-<random>-<pid namespace>-<tag>". The sweep kills, so what it takes for an
 * owner's is held to that form: a parent that the user named holds other people's groups, and a
 * runtime directory may hold other files. */
static bool owner_name(const char *name)
{
	size_t pid = strspn(name, "0123456789"), start, rand;

	start = pid && name[pid] == '-' ? strspn(name + pid + 1, "0123456789") : 0;
	if (!start || name[pid + 1 + start] != '-')
		return false;
	name += pid + start + 2;
	rand = strspn(name, "0123456789abcdef");
	return rand && name[rand] == '-' && name[rand + 1];
}

/* The tag is the runtime directory's identity: one without a file in *this* directory says nothing
 * of an owner that keeps its file in another one (FASTCTR_RUNTIME_DIR, another user, a container
 * that sees the same groups). An owner holds its file open, so the file system it is on and its
 * device number stay while it lives. The pid namespace says whose numbers the owner's is one of. */
int fctr_owner_tag(const char *runtime_dir, char *out, size_t size)
{
	struct stat st, ns;

	if (stat(runtime_dir, &st) < 0)
		return -1;
	if (stat("/proc/self/ns/pid", &ns) < 0)
		ns.st_ino = 0;
	snprintf(out, size, "-%llx-%llx.%llx", (unsigned long long)ns.st_ino, (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	return 0;
}

/* An owner whose file is elsewhere, or was: nobody may ever sweep there again, so it is ours to clear away
 * if its process is sure to be gone. That takes its number being of our own pid namespace, a /proc of that
 * namespace which hides nobody (hidepid), and nobody of that number. */
static bool gone_from_here(const char *name, const char *tag)
{
	unsigned long long ns = 0, ours = strtoull(tag + 1, NULL, 16);
	char path[40], self[24];
	ssize_t n;
	int skip = 0;

	if (sscanf(name, "%*[0-9]-%*[0-9]-%*[0-9a-f]-%llx%n", &ns, &skip) != 1 || name[skip] != '-' || !ours || ns != ours)
		return false;
	n = readlink("/proc/self", self, sizeof(self) - 1);
	if (n <= 0)
		return false;
	self[n] = '\0';
	snprintf(path, sizeof(path), "/proc/%llu", strtoull(name, NULL, 10));
	return strtol(self, NULL, 10) == getpid() && access("/proc/1/stat", F_OK) == 0 && access(path, F_OK) < 0 &&
	       errno == ENOENT;
}

/* Whether the process an owner was named after is there: the directory may have been emptied by
 * somebody, or been made anew with the old one's number, and then a missing file proves nothing. */
static bool process_lives(const char *owner)
{
	char path[64], buf[1024], *p;
	unsigned long long want = strtoull(strchr(owner, '-') + 1, NULL, 10), start = 0;

	snprintf(path, sizeof(path), "/proc/%llu/stat", strtoull(owner, NULL, 10));
	if (fctr_read_at(AT_FDCWD, path, buf, sizeof(buf)) < 0)
		return errno != ENOENT && errno != ESRCH;
	p = strrchr(buf, ')');		/* field 22 is the start time, and 3 comes after the name */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p)
		start = strtoull(p, NULL, 10);
	return start == want;
}

/* An owner lives while somebody holds the lock on its file; the lock goes with the process. Any
 * doubt counts as alive: a leftover is a nuisance, a killed container is a loss. */
struct sweep { struct fctr_ctx *ctx; int without_file; };

static bool owner_dead(const char *name, void *arg)
{
	struct sweep *seen = arg;
	struct fctr_ctx *ctx = seen->ctx;
	cleanup_close int dir = open(ctx->runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int fd = -1;
	char tag[72], *place;
	size_t len = strlen(name), n;

	if (dir < 0 || strcmp(name, ctx->owner) == 0 || !owner_name(name) ||
	    fctr_owner_tag(ctx->runtime_dir, tag, sizeof(tag)) < 0)
		return false;
	place = strrchr(tag, '-');
	n = strlen(place);
	if (len <= n || strcmp(name + len - n, place) != 0) {
		bool gone = gone_from_here(name, tag);

		seen->without_file += gone;
		return gone;
	}
	fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0) {	/* made before anything else, and removed last */
		bool gone = errno == ENOENT && !process_lives(name);

		seen->without_file += gone;
		return gone;
	}
	return flock(fd, LOCK_EX | LOCK_NB) == 0;
}

/* Make our file and lock it. Between the two a sweep may take it for a dead one's, so look again. */
int fctr_owner_lock(int dir, const char *name)
{
	for (int tries = 0; tries < 20; tries++) {
		cleanup_close int fd = openat(dir, name, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND | O_NOFOLLOW, 0600);
		struct stat ours, there;

		if (fd < 0)
			return -1;
		if (flock(fd, LOCK_EX) == 0 && fstat(fd, &ours) == 0 &&
		    fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && ours.st_ino == there.st_ino)
			return fctr_steal_fd(&fd);
	}
	errno = EBUSY;
	return -1;
}

/* Directories on disk that a dead owner was using are named in its file, one a line. */
static void remove_scratch(int fd)
{
	FILE *file = fdopen(dup(fd), "r");
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	while (file && (n = getline(&line, &cap, file)) > 1) {
		char *slash;

		if (line[n - 1] == '\n')
			line[n - 1] = '\0';
		slash = strrchr(line, '/');
		/* ours by name, so that a damaged file cannot make us remove anything else */
		if (line[0] == '/' && slash && strncmp(slash + 1, "fastctr-", 8) == 0)
			fctr_rmtree(AT_FDCWD, line);
	}
	free(line);
	if (file)
		fclose(file);
}

int fctr_ctx_sweep(struct fctr_ctx *ctx)
{
	struct sweep seen = { ctx, 0 };
	struct fctr_cgroot_entry *e;
	int swept;	/* an owner has groups and a file, or only one of them */
	DIR *dir;
	struct dirent *ent;

	pthread_mutex_lock(&ctx->lock);
	e = ctx->cgroots;
	pthread_mutex_unlock(&ctx->lock);
	for (; e; e = e->next)
		fctr_cgroot_sweep(e->root, owner_dead, &seen);
	swept = seen.without_file;
	dir = opendir(ctx->runtime_dir);
	while (dir && (ent = readdir(dir))) {
		cleanup_close int fd = -1;

		if (!owner_name(ent->d_name) || strcmp(ent->d_name, ctx->owner) == 0)
			continue;
		fd = openat(dirfd(dir), ent->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		remove_scratch(fd);
		if (unlinkat(dirfd(dir), ent->d_name, 0) == 0)
			swept++;
	}
	if (dir)
		closedir(dir);
	return swept;
}

int fctr_ctx_note_scratch(struct fctr_ctx *ctx, const char *path)
{
	char line[4200];
	int n = snprintf(line, sizeof(line), "%s\n", path);

	return fctr_write_all(ctx->lock_fd, line, (size_t)n);
}
