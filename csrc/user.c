/* user.c: a reader of passwd and group files that trusts neither. See user.h. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "user.h"
#include "util.h"

#define MAX_FILE (1u << 20)
#define MAX_NAME 256

struct text { char *data; size_t len; };
struct span { const char *p; size_t n; };

static int read_text(int fd, const char *what, struct text *t, struct fctr_error *err)
{
	struct stat st;
	char *data;

	t->data = NULL;
	t->len = 0;
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return fctr_fail(err, FCTR_ST_USER, errno, "%s", what);
	if (!S_ISREG(st.st_mode))	/* a fifo or a device would keep us waiting */
		return fctr_fail(err, FCTR_ST_USER, EINVAL, "%s is not a regular file", what);
	data = malloc(MAX_FILE);
	if (!data)
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "%s", what);
	while (t->len < MAX_FILE) {
		ssize_t n = pread(fd, data + t->len, MAX_FILE - t->len, (off_t)t->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			free(data);
			return fctr_fail(err, FCTR_ST_USER, errno, "%s", what);
		}
		if (n == 0)
			break;
		t->len += (size_t)n;
	}
	if (t->len == MAX_FILE)		/* the last line may be cut: half a line says something else */
		while (t->len > 0 && data[t->len - 1] != '\n')
			t->len--;
	t->data = data;
	return 0;
}

/* The next line's fields, split at ':'; false at the end. A line with a NUL byte has no fields. */
static bool next_line(const struct text *t, size_t *pos, struct span *fields, size_t max, size_t *n)
{
	const char *line, *end;

	*n = 0;
	if (*pos >= t->len)
		return false;
	line = t->data + *pos;
	end = memchr(line, '\n', t->len - *pos);
	if (!end)
		end = t->data + t->len;
	*pos = (size_t)(end - t->data) + 1;
	if (memchr(line, '\0', (size_t)(end - line)))
		return true;
	while (*n < max) {
		const char *colon = memchr(line, ':', (size_t)(end - line));

		fields[*n].p = line;
		fields[(*n)++].n = (size_t)((colon ? colon : end) - line);
		if (!colon)
			break;
		line = colon + 1;
	}
	return true;
}

/* Decimal digits alone, up to 2^32 - 2: the last value means "no change" to setuid(2). */
static bool to_id(struct span s, uint32_t *id)
{
	uint64_t v = 0;

	if (s.n == 0 || s.n > 20)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(s.p[i] - '0');
		if (v > UINT32_MAX - 1)
			return false;
	}
	*id = (uint32_t)v;
	return true;
}

static bool digits(struct span s)
{
	size_t i = 0;

	while (i < s.n && s.p[i] >= '0' && s.p[i] <= '9')
		i++;
	return s.n > 0 && i == s.n;
}

static bool same(struct span a, struct span b)
{
	return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static void set_home(struct fctr_user *out, struct span home)
{
	if (home.n == 0 || home.n >= sizeof(out->home) || home.p[0] != '/')
		return;
	memcpy(out->home, home.p, home.n);
	out->home[home.n] = '\0';
}

/* Fill uid, gid and home; *name is what the groups list. 1 if there is such a line. */
static int find_user(const struct text *passwd, struct span want, struct fctr_user *out, struct span *name)
{
	bool numeric = false;
	uint32_t wanted = 0;

	/* by name in the whole file first, then by number */
	for (int by_number = 0; by_number < 2; by_number++) {
		struct span f[7];
		size_t pos = 0, n;

		if (by_number && !(numeric = to_id(want, &wanted)))
			break;
		while (next_line(passwd, &pos, f, ARRAY_LEN(f), &n)) {
			uint32_t uid, gid;

			if (n < 6 || f[0].n == 0 || !to_id(f[2], &uid) || !to_id(f[3], &gid))
				continue;
			if (by_number ? uid != wanted : !same(f[0], want))
				continue;
			out->uid = uid;
			out->gid = gid;
			set_home(out, f[5]);
			*name = f[0];
			return 1;
		}
	}
	return 0;
}

static int find_group(const struct text *group, struct span want, uint32_t *gid)
{
	struct span f[4];
	size_t pos = 0, n;

	while (next_line(group, &pos, f, ARRAY_LEN(f), &n)) {
		uint32_t id;

		if (n >= 3 && f[0].n && same(f[0], want) && to_id(f[2], &id)) {
			*gid = id;
			return 1;
		}
	}
	return to_id(want, gid);
}

static bool lists(struct span members, struct span name)
{
	while (members.n > 0) {
		const char *comma = memchr(members.p, ',', members.n);
		size_t n = comma ? (size_t)(comma - members.p) : members.n;

		if (same((struct span){ members.p, n }, name))
			return true;
		if (!comma)
			return false;
		members.p += n + 1;
		members.n -= n + 1;
	}
	return false;
}

static void add_groups(const struct text *group, struct span name, struct fctr_user *out)
{
	struct span f[4];
	size_t pos = 0, n;

	while (out->n_groups < FCTR_USER_GROUPS && next_line(group, &pos, f, ARRAY_LEN(f), &n)) {
		bool have;
		uint32_t id;

		if (n < 4 || !to_id(f[2], &id) || !lists(f[3], name))
			continue;
		have = id == out->gid;
		for (size_t i = 0; i < out->n_groups; i++)
			have |= out->groups[i] == id;
		if (!have)
			out->groups[out->n_groups++] = id;
	}
}

int fctr_user_lookup(int passwd_fd, int group_fd, const char *user, struct fctr_user *out, struct fctr_error *err)
{
	struct text passwd = { NULL, 0 }, group = { NULL, 0 };
	cleanup_free char *passwd_data = NULL, *group_data = NULL;
	struct fctr_user u = { .home = "/" };
	struct span name = { NULL, 0 }, want, want_group = { NULL, 0 };
	const char *colon = strchr(user, ':');
	int found;

	want = (struct span){ user, colon ? (size_t)(colon - user) : strlen(user) };
	if (colon)
		want_group = (struct span){ colon + 1, strlen(colon + 1) };
	if (want.n == 0 || want.n > MAX_NAME || want_group.n > MAX_NAME || (colon && want_group.n == 0) ||
	    strpbrk(user, "\n") || (colon && strchr(colon + 1, ':')))
		return fctr_fail(err, FCTR_ST_USER, EINVAL, "\"%.200s\" is no user: give a name or number, "
				 "or user:group", user);
	if (read_text(passwd_fd, "the container's /etc/passwd", &passwd, err) < 0)
		return -1;
	passwd_data = passwd.data;
	if (read_text(group_fd, "the container's /etc/group", &group, err) < 0)
		return -1;
	group_data = group.data;

	found = find_user(&passwd, want, &u, &name);
	if (!found && !to_id(want, &u.uid))
		return digits(want)
			? fctr_fail(err, FCTR_ST_USER, ERANGE, "user %.*s is not within 0..4294967294", (int)want.n, want.p)
			: fctr_fail(err, FCTR_ST_USER, ENOENT, "no user '%.*s' in the container's /etc/passwd",
				    (int)want.n, want.p);
	if (colon) {
		if (!find_group(&group, want_group, &u.gid))
			return digits(want_group)
				? fctr_fail(err, FCTR_ST_USER, ERANGE, "group %.*s is not within 0..4294967294",
					    (int)want_group.n, want_group.p)
				: fctr_fail(err, FCTR_ST_USER, ENOENT, "no group '%.*s' in the container's /etc/group",
					    (int)want_group.n, want_group.p);
	} else if (found) {
		add_groups(&group, name, &u);
	}
	*out = u;
	return 0;
}
