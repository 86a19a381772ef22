/* cgroup_procs.c: listing, killing and moving what is in a group, and removing its directories. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "cgroup_internal.h"

int64_t fctr_cg_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void fctr_cg_sleep_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

/* kernfs counts subdirectories in st_nlink, so most groups need no readdir. */
static bool fd_has_children(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_nlink > 2;
}

bool fctr_cg_has_children(int parent, const char *name)
{
	struct stat st;

	return fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink > 2;
}

/* Calls each(subdirectory's fd) for every group right below. */
static int each_child(int dirfd, int (*each)(int fd, void *arg), void *arg)
{
	int copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *e;

	if (!dir) {
		fctr_close_fd(&copy);
		return -1;
	}
	while (r == 0 && (e = readdir(dir))) {
		int fd;

		if (e->d_type != DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		fd = openat(dirfd, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0)
			continue;	/* gone meanwhile */
		r = each(fd, arg);
		fctr_close_fd(&fd);
	}
	closedir(dir);
	return r;
}

static int add_pid(struct fctr_cgpids *l, pid_t pid)
{
	if (pid <= 0) {
		l->hidden++;
		return 0;
	}
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		pid_t *grown = realloc(l->pid, cap * sizeof(*grown));

		if (!grown)
			return -1;
		l->pid = grown;
		l->cap = cap;
	}
	l->pid[l->n++] = pid;
	return 0;
}

static int list_tree(int dirfd, void *arg)
{
	struct fctr_cgpids *l = arg;
	cleanup_close int fd = openat(dirfd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	char buf[4096];
	ssize_t n = 0;
	pid_t pid = 0;
	bool digits = false;

	while (fd >= 0 && ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR))) {
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] >= '0' && buf[i] <= '9') {
				pid = pid * 10 + (buf[i] - '0');
				digits = true;
			} else if (digits) {
				if (add_pid(l, pid) < 0)
					return -1;
				pid = 0;
				digits = false;
			}
		}
	}
	/* EOPNOTSUPP: a threaded group, its processes are listed above it; ENODEV: removed. */
	if ((fd < 0 || n < 0) && errno != EOPNOTSUPP && errno != ENODEV && errno != ENOENT)
		return -1;
	return !l->own_only && fd_has_children(dirfd) ? each_child(dirfd, list_tree, l) : 0;
}

static int by_pid(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

static void sort_unique(struct fctr_cgpids *l)
{
	size_t to = 0;

	if (l->n > 1)
		qsort(l->pid, l->n, sizeof(*l->pid), by_pid);
	for (size_t i = 0; i < l->n; i++)
		if (!i || l->pid[i] != l->pid[to - 1])
			l->pid[to++] = l->pid[i];
	l->n = to;
}

int fctr_cg_list(int dirfd, struct fctr_cgpids *out)
{
	out->n = out->hidden = 0;
	if (list_tree(dirfd, out) < 0)
		return -1;
	sort_unique(out);
	return 0;
}

bool fctr_cg_has(const struct fctr_cgpids *l, pid_t pid)
{
	return l->n && bsearch(&pid, l->pid, l->n, sizeof(pid), by_pid);
}

/* ---- killing ------------------------------------------------------------------------- */

static int list_dirs(const struct fctr_cgkill *dirs, size_t n, struct fctr_cgpids *out)
{
	out->n = out->hidden = 0;
	for (size_t i = 0; i < n; i++)
		if (list_tree(dirs[i].fd, out) < 0)
			return -1;
	sort_unique(out);
	return 0;
}

static int thaw_tree(int dirfd, void *arg)
{
	(void)arg;
	fctr_write_at(dirfd, "freezer.state", "THAWED", 6);
	return fd_has_children(dirfd) ? each_child(dirfd, thaw_tree, NULL) : 0;
}

#define BATCH 64

/* SIGKILL some of a list. A pid may be someone else's by the time it is used: only what is still
 * listed after its pidfd was opened is surely that process. fds[] are left for waiting. */
static int signal_batch(const struct fctr_cgkill *dirs, size_t n, const pid_t *pids, size_t count,
			struct fctr_cgpids *again, struct pollfd *fds, size_t *n_fds)
{
	int failed = 0;

	*n_fds = 0;
	for (size_t i = 0; i < count; i++) {
		int fd = (int)syscall(SYS_pidfd_open, pids[i], 0);

		fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
		if (fd < 0 && errno != ESRCH && errno != EINVAL)
			failed = errno;
	}
	if (list_dirs(dirs, n, again) < 0)
		failed = errno;
	for (size_t i = 0; i < count; i++) {
		int fd = fds[i].fd;

		if (fd < 0)
			continue;
		if (!fctr_cg_has(again, pids[i])) {
			close(fd);
			continue;
		}
		if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
			failed = errno;
		fds[(*n_fds)++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	errno = failed;
	return failed ? -1 : 0;
}

static int kill_round(const struct fctr_cgkill *dirs, size_t n, const struct fctr_cgpids *now,
		      struct fctr_cgpids *again, int wait_ms)
{
	struct pollfd fds[BATCH];
	int failed = 0;

	for (size_t at = 0; at < now->n; at += BATCH) {
		size_t count = now->n - at < BATCH ? now->n - at : BATCH, n_fds;

		if (signal_batch(dirs, n, now->pid + at, count, again, fds, &n_fds) < 0)
			failed = errno;
		if (at + count >= now->n) {	/* the last batch: wait for what it signalled */
			for (size_t i = 0; i < n; i++)
				if (dirs[i].freezer)	/* a frozen process of v1 does not die */
					thaw_tree(dirs[i].fd, NULL);
			if (n_fds)
				poll(fds, n_fds, wait_ms);
			else if (wait_ms)
				fctr_cg_sleep_us(500);
		}
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i].fd);
	}
	errno = failed;
	return failed ? -1 : 0;
}

/* Wait for the "<key> <value>" of cgroup.events, which wakes its pollers. */
int fctr_cg_wait_event(int dirfd, const char *key, int64_t value, int deadline_ms)
{
	cleanup_close int fd = openat(dirfd, "cgroup.events", O_RDONLY | O_CLOEXEC);
	int64_t until = fctr_cg_now_ms() + deadline_ms, left;
	char buf[128];
	ssize_t n;

	if (fd < 0)
		return -1;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLPRI };

		n = pread(fd, buf, sizeof(buf) - 1, 0);
		if (n < 0)
			return -1;
		buf[n] = '\0';
		if (fctr_cg_key(buf, key) == value)
			return 0;
		left = until - fctr_cg_now_ms();
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		poll(&p, 1, left > 100 ? 100 : (int)left);
	}
}

/* First thing of a kill: end forking (v1), or all at once (v2). True when nothing else is to be signalled. */
static bool strike(const struct fctr_cgkill *dirs, size_t n)
{
	bool all = true;

	for (size_t i = 0; i < n; i++) {
		if (dirs[i].v2 && fctr_write_at(dirs[i].fd, "cgroup.kill", "1", 1) == 0)
			continue;
		all = false;
		if (dirs[i].pids || dirs[i].v2)
			fctr_write_at(dirs[i].fd, "pids.max", "0", 1);
	}
	return all;
}

int fctr_cg_kill_dirs(const struct fctr_cgkill *dirs, size_t n, int deadline_ms)
{
	struct fctr_cgpids now = { 0 }, again = { 0 };
	int64_t until = fctr_cg_now_ms() + deadline_ms;
	int empty = 0, failed = 0;
	bool begun = false, struck = false;

	for (;;) {
		int64_t left = until - fctr_cg_now_ms();

		if (list_dirs(dirs, n, &now) < 0) {
			failed = errno;
			break;
		}
		if (!now.n && !now.hidden) {
			/* Twice: a child linked behind the end of the first reading shows in the second. */
			failed = 0;
			if (++empty == 2)
				break;
			continue;
		}
		empty = 0;
		if (begun && left <= 0) {
			failed = failed ? failed : ETIMEDOUT;
			break;
		}
		left = left < 0 ? 0 : left > 20 ? 20 : left;
		if (!begun)
			struck = strike(dirs, n);
		begun = true;
		if (struck)
			fctr_cg_wait_event(dirs[0].fd, "populated", 0, (int)left);
		else
			failed = kill_round(dirs, n, &now, &again, (int)left) < 0 ? errno : 0;
		if (now.hidden && left > 0)
			fctr_cg_sleep_us(1000);
	}
	free(now.pid);
	free(again.pid);
	errno = failed;
	return failed ? -1 : begun;
}

/* ---- moving -------------------------------------------------------------------------- */

int fctr_cg_move_all(int from, int to, bool own_only, int deadline_ms)
{
	struct fctr_cgpids here = { .own_only = own_only }, there = { 0 };
	int64_t until = fctr_cg_now_ms() + deadline_ms;
	cleanup_close int procs = openat(to, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	int failed = procs < 0 ? errno : 0;

	/* Children of a process already moved are born over there, so the rest only shrinks. */
	while (!failed) {
		size_t moved = 0;

		if (fctr_cg_list(from, &here) < 0 || fctr_cg_list(to, &there) < 0) {
			failed = errno;
			break;
		}
		if (here.hidden)
			failed = EPERM;
		for (size_t i = 0; i < here.n && !failed; i++) {
			char text[16];
			int len;

			if (fctr_cg_has(&there, here.pid[i]))
				continue;
			moved++;
			len = snprintf(text, sizeof(text), "%d", here.pid[i]);
			if (write(procs, text, (size_t)len) < 0 && errno != ESRCH)
				failed = errno;
		}
		if (!moved)
			break;
		if (!failed && fctr_cg_now_ms() > until)
			failed = ETIMEDOUT;
	}
	free(here.pid);
	free(there.pid);
	errno = failed;
	return failed ? -1 : 0;
}

/* ---- stopping ------------------------------------------------------------------------ */

static int freeze_v1(struct fctr_cgroup *cg, int dir, bool frozen)
{
	int64_t until = fctr_cg_now_ms() + 2000;
	cleanup_close int from = -1;
	char state[16];

	if (!frozen)
		return fctr_write_at(dir, "freezer.state", "THAWED", 6);
	/* Frozen first: whatever is moved in stops there and then, and can fork no more. */
	if (fctr_write_at(dir, "freezer.state", "FROZEN", 6) < 0)
		return -1;
	from = fctr_cg_open_dir(cg, fctr_cg_source(cg));
	if (from < 0 || fctr_cg_move_all(from, dir, false, 2000) < 0)
		return -1;
	for (long pause = 100; ; pause = pause < 5000 ? pause * 2 : pause) {
		if (fctr_read_at(dir, "freezer.state", state, sizeof(state)) < 0)
			return -1;
		if (!strncmp(state, "FROZEN", 6))
			return 0;
		if (fctr_cg_now_ms() > until) {
			errno = ETIMEDOUT;
			return -1;
		}
		fctr_cg_sleep_us(pause);
	}
}

int fctr_cgroup_freeze(struct fctr_cgroup *cg, bool frozen, struct fctr_error *err)
{
	int h = cg->root->where[CT_FREEZER];
	bool v2 = h >= 0 && cg->root->map.hier[h].v2;
	cleanup_close int dir = -1;

	if (h < 0)
		return fctr_fail(err, FCTR_ST_FREEZE, ENOTSUP, "freeze: the freezer controller is not mounted");
	if (!frozen && !cg->frozen)
		return 0;
	if (v2 ? fctr_cg_add_living(cg, h, err) < 0 : fctr_cg_add(cg, h, err) < 0)
		return -1;
	dir = fctr_cg_open_dir(cg, h);
	if (dir >= 0 && v2 && fctr_write_at(dir, "cgroup.freeze", frozen ? "1" : "0", 1) == 0 &&
	    (!frozen || fctr_cg_wait_event(dir, "frozen", 1, 2000) == 0)) {
		cg->frozen = frozen;
		return 0;
	}
	if (dir >= 0 && !v2 && freeze_v1(cg, dir, frozen) == 0) {
		cg->frozen = frozen;
		return 0;
	}
	fctr_fail(err, FCTR_ST_FREEZE, errno, "control group \"%.*s\": its processes %s", (int)cg->name_len - 1, cg->name,
		  frozen ? "do not all stop; they run on" : "cannot be thawed");
	if (dir >= 0 && frozen) {
		fctr_write_at(dir, v2 ? "cgroup.freeze" : "freezer.state", v2 ? "0" : "THAWED", v2 ? 1 : 6);
		errno = err->err;
	}
	return -1;
}

int fctr_cgroup_kill(struct fctr_cgroup *cg, int deadline_ms, struct fctr_error *err)
{
	struct fctr_cgkill dirs[3];
	const struct fctr_cgmap *map = &cg->root->map;
	const int which[3] = { fctr_cg_source(cg), map->v2, cg->root->where[CT_FREEZER] };
	struct fctr_error ignored = { 0 };
	size_t n = 0;
	bool shuts = false;
	int r, e;

	for (int i = 0; i < 3; i++) {
		const struct fctr_cghier *h;
		int fd;

		if (which[i] < 0 || !(cg->made & (1u << which[i])) || (i && which[i] == which[0]) || (i == 2 && which[2] == which[1]))
			continue;
		h = &map->hier[which[i]];
		fd = fctr_cg_open_dir(cg, which[i]);
		if (fd < 0)
			continue;
		dirs[n++] = (struct fctr_cgkill){ .fd = fd, .v2 = h->v2,
			.pids = !h->v2 && (h->ctls & CT_BIT(CT_PIDS)), .freezer = !h->v2 && (h->ctls & CT_BIT(CT_FREEZER)) };
		shuts |= i == 0 && (h->v2 || dirs[n - 1].pids);
	}
	/* Nothing there to end forking with: stop them first, which may move them to a freezer. */
	if (!shuts && !cg->frozen && cg->root->where[CT_FREEZER] >= 0 && n && n < ARRAY_LEN(dirs)) {
		int fd = fctr_cgroup_freeze(cg, true, &ignored) == 0 ? fctr_cg_open_dir(cg, which[2]) : -1;

		if (fd >= 0)
			dirs[n++] = (struct fctr_cgkill){ .fd = fd, .v2 = map->hier[which[2]].v2, .freezer = !map->hier[which[2]].v2 };
	}
	r = fctr_cg_kill_dirs(dirs, n, deadline_ms);
	e = errno;
	for (size_t i = 0; i < n; i++) {
		cg->shut |= dirs[i].pids && r != 0;
		close(dirs[i].fd);
	}
	if (r < 0)
		return fctr_fail(err, FCTR_ST_KILL, e, "control group \"%.*s\" still holds processes after %d ms",
				 (int)cg->name_len - 1, cg->name, deadline_ms);
	return 0;
}

int fctr_cgroup_pids(struct fctr_cgroup *cg, pid_t **pids, size_t *n, struct fctr_error *err)
{
	struct fctr_cgpids list = { 0 };
	int source = fctr_cg_source(cg);
	cleanup_close int dir = source >= 0 ? fctr_cg_open_dir(cg, source) : -1;

	if (dir < 0 || fctr_cg_list(dir, &list) < 0) {
		int e = errno;

		free(list.pid);
		return fctr_fail(err, FCTR_ST_STATS, e, "control group \"%.*s\": its processes cannot be listed",
				 (int)cg->name_len - 1, cg->name);
	}
	*pids = list.pid;
	*n = list.n;
	return 0;
}

/* ---- removing ------------------------------------------------------------------------ */

static int rmdir_children(int dirfd)
{
	int copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *e;

	if (!dir) {
		fctr_close_fd(&copy);
		return -1;
	}
	while ((e = readdir(dir))) {
		if (e->d_type != DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd, e->d_name, AT_REMOVEDIR) < 0 && fctr_cg_has_children(dirfd, e->d_name)) {
			cleanup_close int fd = openat(dirfd, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

			if (fd >= 0)
				rmdir_children(fd);
			unlinkat(dirfd, e->d_name, AT_REMOVEDIR);
		}
	}
	closedir(dir);
	return 0;
}

int fctr_cg_rmtree(int parent, const char *name, int budget_ms)
{
	long pause = 500;

	for (int64_t until = fctr_cg_now_ms() + budget_ms; ; pause *= 2) {
		if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY && errno != ENOTEMPTY)
			return -1;
		if (fctr_cg_has_children(parent, name)) {
			cleanup_close int fd = openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

			if (fd >= 0 && rmdir_children(fd) == 0 && unlinkat(parent, name, AT_REMOVEDIR) == 0)
				return 0;
		}
		if (fctr_cg_now_ms() + pause / 1000 >= until) {
			errno = EBUSY;
			return -1;
		}
		/* The last process has gone, but the kernel has not let go of it yet. */
		fctr_cg_sleep_us(pause);
	}
}
