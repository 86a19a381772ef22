/* untar_header.c: one header block, with what extended headers said before it, becomes an entry. */
#define _GNU_SOURCE
#include "untar_int.h"

uint64_t tar_padding(uint64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

/* Octal digits, padded as writers please, or the first bit set and a number in base 256. */
int tar_number(const unsigned char *field, size_t size, int64_t *out)
{
	size_t i = 0;
	int64_t v = 0;

	if (field[0] & 0x80) {
		bool negative = field[0] & 0x40;

		v = negative ? (int64_t)(field[0] | ~(int64_t)0xff) : field[0] & 0x3f;
		for (i = 1; i < size; i++) {
			if (v > INT64_MAX >> 8 || v < INT64_MIN / 256)
				return -1;
			v = (int64_t)((uint64_t)v << 8 | field[i]);
		}
		*out = v;
		return 0;
	}
	while (i < size && (field[i] == ' ' || field[i] == '\0'))
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
		if (v > INT64_MAX >> 3)
			return -1;
		v = v << 3 | (field[i] - '0');
	}
	if (i < size && field[i] != ' ' && field[i] != '\0')
		return -1;
	*out = v;
	return 0;
}

static bool checksum_ok(const unsigned char *h)
{
	int64_t told;
	int32_t plain = 8 * ' ', with_sign = 8 * ' ';

	if (tar_number(h + 148, 8, &told) < 0)
		return false;
	for (int i = 0; i < TAR_BLOCK; i++) {
		if (i == 148)
			i = 156;
		plain += h[i];
		with_sign += (signed char)h[i];	/* some old writers summed so */
	}
	return told == plain || told == with_sign;
}

int tar_add_segment(struct fctr_untar *u, struct tar_pax *p, uint64_t at, uint64_t len)
{
	if (p->n_map == TAR_SEGMENTS)
		return tar_bad(u, "its sparse map has too many segments");
	if (p->n_map == p->cap_map) {
		size_t cap = p->cap_map ? p->cap_map * 2 : 16;
		struct tar_segment *v = realloc(p->map, cap * sizeof(*v));

		if (!v)
			return tar_memory(u);
		p->map = v;
		p->cap_map = cap;
	}
	p->map[p->n_map++] = (struct tar_segment){ at, len };
	return 0;
}

static int old_sparse(struct fctr_untar *u, const unsigned char *v, int n)
{
	for (int i = 0; i < n; i++, v += 24) {
		int64_t at, len;

		if (v[0] == '\0')
			break;
		if (tar_number(v, 12, &at) < 0 || tar_number(v + 12, 12, &len) < 0 || at < 0 || len < 0)
			return tar_bad(u, "its sparse map is damaged");
		if (tar_add_segment(u, &u->pax, (uint64_t)at, (uint64_t)len) < 0)
			return -1;
	}
	return 0;
}

int tar_sparse_ext(struct fctr_untar *u, const unsigned char *h)
{
	if (old_sparse(u, h, 21) < 0)
		return -1;
	return h[504] ? 0 : tar_entry_known(u);
}

/* Segments in order, within the file, and as many bytes as there are. */
static int check_map(struct fctr_untar *u)
{
	struct tar_entry *e = &u->e;
	uint64_t end = 0, sum = 0;

	for (size_t i = 0; i < e->n_map; i++) {
		const struct tar_segment *s = &e->map[i];

		if (s->at < end || s->len > INT64_MAX || s->at > INT64_MAX - s->len || s->at + s->len > e->real_size)
			return tar_bad(u, "its sparse map contradicts itself");
		end = s->at + s->len;
		sum += s->len;
	}
	if (sum != u->left)
		return tar_bad(u, "its sparse map is about %llu bytes, and it has %llu", (unsigned long long)sum,
			       (unsigned long long)u->left);
	return 0;
}

int tar_normalise(struct fctr_untar *u, const char *from, size_t len, char *to, size_t *to_len, const char *what)
{
	size_t n = 0, i = 0;

	if (len > TAR_PATH_MAX * 2)
		return tar_bad(u, "%s is too long", what);
	while (i < len) {
		size_t end = i, size;

		while (end < len && from[end] != '/')
			end++;
		size = end - i;
		if (size == 0 || (size == 1 && from[i] == '.')) {
			/* nothing */
		} else if (size == 2 && from[i] == '.' && from[i + 1] == '.') {
			if (n == 0)
				return tar_bad(u, "%s leaves the root by \"..\"", what);
			while (n > 0 && to[n - 1] != '/')
				n--;
			if (n > 0)
				n--;
		} else {
			if (size > NAME_MAX || n + 1 + size > TAR_PATH_MAX)
				return tar_bad(u, "%s is too long", what);
			if (n)
				to[n++] = '/';
			memcpy(to + n, from + i, size);
			n += size;
		}
		i = end + 1;
	}
	to[n] = '\0';
	*to_len = n;
	return 0;
}

static int set_paths(struct fctr_untar *u, const char *path, size_t path_len, const char *link, size_t link_len)
{
	struct tar_entry *e = &u->e;

	if (memchr(path, '\0', path_len) || (link && memchr(link, '\0', link_len)))
		return tar_bad(u, "a name has a zero byte in it");
	if (path_len == 0)
		return tar_bad(u, "an entry has no name");
	if (tar_normalise(u, path, path_len, e->path, &e->path_len, "the name") < 0)
		return -1;
	e->base = e->path_len;
	while (e->base > 0 && e->path[e->base - 1] != '/')
		e->base--;
	e->link[0] = '\0';
	e->link_len = 0;
	if (e->type == '1')
		return tar_normalise(u, link, link_len, e->link, &e->link_len, "the hard link's target");
	if (e->type == '2') {
		if (link_len == 0)
			return tar_bad(u, "a symbolic link to nothing");
		if (link_len > TAR_PATH_MAX)
			return tar_bad(u, "the symbolic link's target is too long");
		memcpy(e->link, link, link_len);
		e->link[link_len] = '\0';
		e->link_len = link_len;
	}
	return 0;
}

static int set_numbers(struct fctr_untar *u, const unsigned char *h, bool extended)
{
	struct tar_pax *x = &u->pax, *g = &u->global;
	struct tar_entry *e = &u->e;
	int64_t mode, uid = 0, gid = 0, size = 0, mtime, major = 0, minor = 0;

	if (tar_number(h + 100, 8, &mode) < 0)
		return tar_bad(u, "its mode is no number");
	if (!x->has_uid && !g->has_uid && (tar_number(h + 108, 8, &uid) < 0 || uid < 0 || uid >= UINT32_MAX))
		return tar_bad(u, "its user id is no number that can be one");
	if (!x->has_gid && !g->has_gid && (tar_number(h + 116, 8, &gid) < 0 || gid < 0 || gid >= UINT32_MAX))
		return tar_bad(u, "its group id is no number that can be one");
	if (!x->has_size && (tar_number(h + 124, 12, &size) < 0 || size < 0))
		return tar_bad(u, "its size is no number that can be one");
	if (tar_number(h + 136, 12, &mtime) < 0)
		return tar_bad(u, "its time is no number");
	if (e->type == '3' || e->type == '4') {
		if (!extended || tar_number(h + 329, 8, &major) < 0 || tar_number(h + 337, 8, &minor) < 0 ||
		    major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff)
			return tar_bad(u, "a device's numbers are none");
	}
	e->mode = (uint32_t)mode & 07777;
	e->uid = x->has_uid ? x->uid : g->has_uid ? g->uid : (uint32_t)uid;
	e->gid = x->has_gid ? x->gid : g->has_gid ? g->gid : (uint32_t)gid;
	e->size = x->has_size ? x->size : (uint64_t)size;
	e->major = (uint32_t)major;
	e->minor = (uint32_t)minor;
	e->mtime = x->has_mtime ? x->mtime : g->has_mtime ? g->mtime : (struct timespec){ .tv_sec = mtime };
	e->atime = x->has_atime ? x->atime : g->has_atime ? g->atime : e->mtime;
	return 0;
}

/* A pax header, or a name too long for this one: it is read whole and kept for the next header. */
static int meta_header(struct fctr_untar *u, const unsigned char *h, char type)
{
	int64_t size;

	if (tar_number(h + 124, 12, &size) < 0 || size < 0)
		return tar_bad(u, "an extended header's size is no number");
	if (size > (int64_t)TAR_META_MAX)
		return tar_bad(u, "an extended header of %lld bytes is too big", (long long)size);
	u->meta_type = type;
	u->meta_len = 0;
	u->meta_size = (size_t)size;
	u->state = size ? TAR_META : TAR_HEADER;
	return 0;
}

static void skip_content(struct fctr_untar *u, uint64_t size)
{
	u->skip = size + tar_padding(size);
	u->state = u->skip ? TAR_SKIP : TAR_HEADER;
}

static void forget_extended(struct fctr_untar *u)
{
	tar_pax_clear(&u->pax);
	tar_str_clear(&u->long_name);
	tar_str_clear(&u->long_link);
}

static size_t field_len(const unsigned char *field, size_t size)
{
	return strnlen((const char *)field, size);
}

int tar_header(struct fctr_untar *u, const unsigned char *h)
{
	bool posix = memcmp(h + 257, "ustar\0", 6) == 0, gnu = memcmp(h + 257, "ustar ", 6) == 0;
	bool star = posix && memcmp(h + 508, "tar\0", 4) == 0;
	struct tar_entry *e = &u->e;
	struct tar_pax *x = &u->pax;
	char type = (char)h[156];
	char joined[100 + 1 + 155 + 1];
	const char *path, *link;
	size_t path_len, link_len;

	path_len = field_len(h, 100);
	if (posix && h[345]) {
		size_t n = field_len(h + 345, star ? 131 : 155);

		memcpy(joined, h + 345, n);
		joined[n] = '/';
		memcpy(joined + n + 1, h, path_len);
		path_len += n + 1;
	} else {
		memcpy(joined, h, path_len);
	}
	joined[path_len] = '\0';
	path = joined;
	if (u->long_name.p) {
		path = u->long_name.p;
		path_len = u->long_name.len;
	}
	if (x->path.p) {
		path = x->path.p;
		path_len = x->path.len;
	}
	if (x->sparse_name.p) {
		path = x->sparse_name.p;
		path_len = x->sparse_name.len;
	}
	if (!checksum_ok(h))	/* the name, if any, is that of the entry before */
		return tar_bad(u, "what comes next is no tar header: its checksum is wrong");
	snprintf(u->name, sizeof(u->name), "%.*s", (int)(path_len < 500 ? path_len : 500), path);
	if (type == 'x' || type == 'X' || type == 'g' || type == 'L' || type == 'K')
		return meta_header(u, h, type == 'X' ? 'x' : type);

	link = (const char *)h + 157;
	link_len = field_len(h + 157, 100);
	if (u->long_link.p) {
		link = u->long_link.p;
		link_len = u->long_link.len;
	}
	if (x->link.p) {
		link = x->link.p;
		link_len = x->link.len;
	}
	e->sparse = false;
	e->sparse_in_data = false;
	if (type == '\0' || type == '7')
		type = '0';
	if (type == 'D')			/* GNU's listing of a directory */
		type = '5';
	if (type == 'S') {
		type = '0';
		e->sparse = true;
	}
	if (type == '0' && path_len && path[path_len - 1] == '/')
		type = '5';
	e->type = type;
	if (type == 'V' || type == 'A' || type == 'I') {	/* a volume's name, Solaris' ACL and inode */
		if (set_numbers(u, h, false) < 0)
			return -1;
		forget_extended(u);
		skip_content(u, e->size);
		return 0;
	}
	if (type < '0' || type > '6')
		return tar_bad(u, "an entry of type \"%c\" is not understood", type > ' ' && type < 127 ? type : '?');
	if (set_numbers(u, h, posix || gnu) < 0 || set_paths(u, path, path_len, link, link_len) < 0)
		return -1;
	if (tar_xattrs_take(u) < 0)
		return -1;

	u->left = e->size;
	if (h[156] >= '1' && h[156] <= '6')	/* writers put all kinds of sizes there, and no content */
		u->left = 0;
	e->real_size = e->size;
	u->segment = 0;
	u->segment_done = 0;
	if (type != '0')
		return tar_entry_known(u);
	if (e->sparse) {
		int64_t real;

		if (x->n_map || x->sparse || x->sparse_1_0)
			return tar_bad(u, "it is sparse in two ways");
		if (tar_number(h + 483, 12, &real) < 0 || real < 0)
			return tar_bad(u, "its real size is no number");
		e->real_size = (uint64_t)real;
		if (old_sparse(u, h + 386, 4) < 0)
			return -1;
		if (h[482]) {
			u->state = TAR_SPARSE_EXT;
			return 0;
		}
	} else if (x->sparse_1_0 || x->sparse) {
		if (!x->has_real)
			return tar_bad(u, "it is sparse, without its real size");
		if (x->half)
			return tar_bad(u, "its sparse map has an offset without a length");
		e->sparse = true;
		e->real_size = x->real_size;
		if (x->sparse_1_0) {
			e->sparse_in_data = true;
			x->n_map = 0;
			u->map_counted = u->map_digits = false;
			u->map_left = u->map_number = 0;
			u->state = TAR_SPARSE_MAP;
			return 0;
		}
	}
	return tar_entry_known(u);
}

int tar_entry_known(struct fctr_untar *u)
{
	struct tar_entry *e = &u->e;
	uint64_t content = u->left;
	int r;

	e->map = u->pax.map;
	e->n_map = u->pax.n_map;
	if (e->sparse && check_map(u) < 0)
		return -1;
	if (e->real_size > INT64_MAX)
		return tar_bad(u, "its size is too big for a file");
	if (u->c.max_entries && u->stats.entries >= u->c.max_entries) {
		tar_bad(u, "the archive has more than %llu entries", (unsigned long long)u->c.max_entries);
		u->err->fault = FCTR_UNTAR_LIMIT;
		return -1;
	}
	if (e->type == '0') {
		if (u->c.max_size && (content > u->c.max_size || u->stats.size > u->c.max_size - content ||
				      e->real_size > u->c.max_size)) {
			tar_bad(u, "the archive's files are bigger than %llu bytes", (unsigned long long)u->c.max_size);
			u->err->fault = FCTR_UNTAR_LIMIT;
			return -1;
		}
		u->stats.size += content;
	}
	r = tar_make(u);
	if (r < 0)
		return -1;
	u->stats.entries++;
	if (u->fd >= 0) {
		if (content) {
			u->state = TAR_DATA;
			return 0;
		}
		return tar_file_done(u);
	}
	tar_xattrs_clear(&e->xattrs);
	forget_extended(u);
	skip_content(u, content);
	return 0;
}
