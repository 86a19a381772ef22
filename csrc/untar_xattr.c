/* untar_xattr.c: extended attributes: which may be taken from an archive, shifted ids in them, setting them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/xattr.h>

#include "untar_int.h"

#define ACL_USER	2	/* tags of system.posix_acl_*, version 2; acl(5) */
#define ACL_GROUP	8

void tar_xattrs_clear(struct tar_xattrs *x)
{
	for (size_t i = 0; i < x->n; i++) {
		free(x->v[i].name);
		free(x->v[i].value);
	}
	free(x->v);
	memset(x, 0, sizeof(*x));
}

/* Named once: a later value replaces the earlier. */
int tar_xattr_add(struct fctr_untar *u, struct tar_xattrs *x, const char *name, size_t name_len, const char *value,
		  size_t len)
{
	struct tar_xattr *slot = NULL;
	char *copy;

	if (name_len == 0 || name_len > XATTR_NAME_MAX)
		return tar_bad(u, "the name of an extended attribute is too long or empty");
	if (len > XATTR_SIZE_MAX)
		return tar_bad(u, "the extended attribute \"%.*s\" is too big", (int)name_len, name);
	for (size_t i = 0; i < x->n && !slot; i++)
		if (strlen(x->v[i].name) == name_len && memcmp(x->v[i].name, name, name_len) == 0)
			slot = &x->v[i];
	copy = malloc(len + 1);
	if (!copy)
		return tar_memory(u);
	memcpy(copy, value, len);
	if (slot) {
		free(slot->value);
	} else {
		if (x->n == 1024) {
			free(copy);
			return tar_bad(u, "it has more than 1024 extended attributes");
		}
		if (x->n == x->cap) {
			size_t cap = x->cap ? x->cap * 2 : 4;
			struct tar_xattr *v = realloc(x->v, cap * sizeof(*v));

			if (!v) {
				free(copy);
				return tar_memory(u);
			}
			x->v = v;
			x->cap = cap;
		}
		slot = &x->v[x->n];
		slot->name = strndup(name, name_len);
		if (!slot->name) {
			free(copy);
			return tar_memory(u);
		}
		x->n++;
	}
	slot->value = copy;
	slot->len = len;
	return 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* libarchive's own form: the name as in a URL, the value in base 64, without padding. */
int tar_xattr_base64(struct fctr_untar *u, struct tar_xattrs *x, const char *name, size_t name_len,
		     const char *text, size_t len)
{
	char plain[XATTR_NAME_MAX + 1];
	cleanup_free char *value = malloc(len / 4 * 3 + 4);
	size_t n = 0, out = 0;
	uint32_t bits = 0;
	int have = 0;

	if (!value)
		return tar_memory(u);
	for (size_t i = 0; i < name_len && n < sizeof(plain); i++) {
		if (name[i] == '%' && i + 2 < name_len && hex(name[i + 1]) >= 0 && hex(name[i + 2]) >= 0) {
			plain[n++] = (char)(hex(name[i + 1]) << 4 | hex(name[i + 2]));
			i += 2;
		} else {
			plain[n++] = name[i];
		}
	}
	if (memchr(plain, '\0', n))
		return tar_bad(u, "the name of an extended attribute has a zero byte in it");
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		int v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 :
			c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;

		if (c == '=' || c == '\n')
			continue;
		if (v < 0)
			return tar_bad(u, "the value of the extended attribute \"%.*s\" is not base 64", (int)n, plain);
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			value[out++] = (char)(bits >> have & 0xff);
		}
	}
	return tar_xattr_add(u, x, plain, n, value, out);
}

static bool map_id(const struct fctr_idrange *m, size_t n, uint32_t id, uint32_t *out)
{
	for (size_t i = 0; i < n; i++) {
		if (id >= m[i].inside && id - m[i].inside < m[i].count) {
			*out = m[i].outside + (id - m[i].inside);
			return true;
		}
	}
	if (n == 0)
		*out = id;
	return n == 0;
}

int tar_shift(struct fctr_untar *u, bool group, uint32_t id, uint32_t *out)
{
	bool ok;

	if (u->c.one_owner) {
		*out = group ? u->c.owner_gid : u->c.owner_uid;
		return 0;
	}
	ok = group ? map_id(u->c.gid_map, u->c.n_gid_map, id, out) : map_id(u->c.uid_map, u->c.n_uid_map, id, out);
	return ok ? 0 : -1;
}

static uint32_t get32(const char *p)
{
	const unsigned char *b = (const unsigned char *)p;

	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void put32(char *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (char)(v >> 8 * i & 0xff);
}

static bool shifted(const struct fctr_untar *u)
{
	return u->c.n_uid_map || u->c.n_gid_map || u->c.one_owner;
}

/* A capability counts for the user namespace whose root is `rootid`: capabilities(7), revision 3. */
static int take_capability(struct fctr_untar *u, struct tar_xattrs *to, const char *name, const struct tar_xattr *x)
{
	char value[24] = { 0 };
	uint32_t magic = x->len >= 4 ? get32(x->value) : 0, root = 0, out;

	if (!((magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_2 && x->len == 20) &&
	    !((magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_3 && x->len == 24))
		return tar_bad(u, "its security.capability has a form the kernel does not know");
	if (x->len == 24)
		root = get32(x->value + 20);
	if (!shifted(u))
		return tar_xattr_add(u, to, name, strlen(name), x->value, x->len);
	if (tar_shift(u, false, root, &out) < 0) {	/* of a root that nobody is there */
		u->stats.skipped_xattrs++;
		return 0;
	}
	if (out == 0 && x->len == 20)
		return tar_xattr_add(u, to, name, strlen(name), x->value, x->len);
	memcpy(value, x->value, 20);
	put32(value, (magic & ~VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_3);
	put32(value + 20, out);
	return tar_xattr_add(u, to, name, strlen(name), value, sizeof(value));
}

static int take_acl(struct fctr_untar *u, struct tar_xattrs *to, const char *name, const struct tar_xattr *x)
{
	cleanup_free char *value = malloc(x->len + 1);

	if (!value)
		return tar_memory(u);
	if (x->len < 4 || (x->len - 4) % 8 || get32(x->value) != 2)
		return tar_bad(u, "its %s has a form the kernel does not know", name);
	memcpy(value, x->value, x->len);
	for (size_t i = 4; i < x->len; i += 8) {
		unsigned tag = get32(value + i) & 0xffff;
		uint32_t id = get32(value + i + 4);

		if ((tag != ACL_USER && tag != ACL_GROUP) || !shifted(u))
			continue;
		if (u->c.one_owner) {		/* would be said of the same id again and again */
			u->stats.skipped_xattrs++;
			return 0;
		}
		if (tar_shift(u, tag == ACL_GROUP, id, &id) < 0)
			return tar_bad(u, "its %s names the id %u, which is not in the map", name, id);
		put32(value + i + 4, id);
	}
	return tar_xattr_add(u, to, name, strlen(name), value, x->len);
}

static bool starts(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static int take_one(struct fctr_untar *u, struct tar_xattrs *to, const struct tar_xattr *x)
{
	const char *name = x->name;

	if (starts(name, "trusted.overlay.") || starts(name, "user.overlay."))
		return 0;
	if (strcmp(name, "security.capability") == 0)
		return take_capability(u, to, name, x);
	if (starts(name, "security.selinux") && !u->c.selinux)
		return 0;
	if (strcmp(name, "system.posix_acl_access") == 0 || strcmp(name, "system.posix_acl_default") == 0)
		return take_acl(u, to, name, x);
	if (!starts(name, "user.") && !starts(name, "trusted.") && !starts(name, "security."))
		return 0;
	return tar_xattr_add(u, to, name, strlen(name), x->value, x->len);
}

int tar_xattrs_take(struct fctr_untar *u)
{
	tar_xattrs_clear(&u->e.xattrs);
	for (size_t i = 0; i < u->global.xattrs.n; i++)
		if (take_one(u, &u->e.xattrs, &u->global.xattrs.v[i]) < 0)
			return -1;
	for (size_t i = 0; i < u->pax.xattrs.n; i++)
		if (take_one(u, &u->e.xattrs, &u->pax.xattrs.v[i]) < 0)
			return -1;
	return 0;
}

/* What a filesystem cannot keep, or this user may not set, is left out and counted. */
static int setting_failed(struct fctr_untar *u, const char *name)
{
	if (errno == ENOTSUP || errno == EPERM) {
		u->stats.skipped_xattrs++;
		return 0;
	}
	return tar_sys(u, errno, "setting the extended attribute %s", name);
}

int tar_xattrs_set(struct fctr_untar *u, const struct tar_xattrs *x, int fd)
{
	for (size_t i = 0; i < x->n; i++)
		if (fsetxattr(fd, x->v[i].name, x->v[i].value, x->v[i].len, 0) < 0 &&
		    setting_failed(u, x->v[i].name) < 0)
			return -1;
	return 0;
}

/* Of what cannot be opened for it: links, devices. By way of /proc, as setxattrat(2) is of Linux 6.13. */
int tar_xattrs_set_at(struct fctr_untar *u, const struct tar_xattrs *x, int dirfd, const char *name)
{
	char path[64 + NAME_MAX];

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	for (size_t i = 0; i < x->n; i++)
		if (lsetxattr(path, x->v[i].name, x->v[i].value, x->v[i].len, 0) < 0 &&
		    setting_failed(u, x->v[i].name) < 0)
			return -1;
	return 0;
}

int tar_xattrs_drop(struct fctr_untar *u, int fd)
{
	cleanup_free char *names = malloc(XATTR_LIST_MAX);
	ssize_t n;

	if (!names)
		return tar_memory(u);
	n = flistxattr(fd, names, XATTR_LIST_MAX);
	for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1)
		if (!starts(p, "trusted.overlay.") && !starts(p, "user.overlay.") && !starts(p, "security.selinux"))
			(void)fremovexattr(fd, p);
	return 0;
}

int tar_opaque_set(struct fctr_untar *u, int fd)
{
	const char *name = u->c.userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque";

	if (fsetxattr(fd, name, "y", 1, 0) < 0)
		return tar_sys(u, errno, "setting the extended attribute %s", name);
	return 0;
}
