/* untar.c: the stream's state machine: blocks of headers, extended headers, content, padding, the end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>

#include "untar_int.h"

static void fill_error(struct fctr_untar *u, int fault, int errnum, const char *fmt, va_list ap)
{
	struct fctr_untar_error *err = u->err;

	u->state = TAR_FAILED;
	err->fault = fault;
	err->err = errnum;
	snprintf(err->entry, sizeof(err->entry), "%s", u->name);
	vsnprintf(err->why, sizeof(err->why), fmt, ap);
}

int tar_bad(struct fctr_untar *u, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill_error(u, FCTR_UNTAR_BAD, 0, fmt, ap);
	va_end(ap);
	return -1;
}

int tar_sys(struct fctr_untar *u, int errnum, const char *fmt, ...)
{
	/* These are about the name or the id the archive gave, not about this machine's state. */
	bool bad = errnum == ENAMETOOLONG || errnum == ELOOP || errnum == EINVAL || errnum == EFBIG;
	va_list ap;

	va_start(ap, fmt);
	fill_error(u, bad ? FCTR_UNTAR_BAD : FCTR_UNTAR_SYSTEM, errnum, fmt, ap);
	va_end(ap);
	return -1;
}

int tar_memory(struct fctr_untar *u)
{
	return tar_sys(u, ENOMEM, "there is no memory left");
}

static int copy_maps(struct fctr_untar *u)
{
	size_t n = u->c.n_uid_map, m = u->c.n_gid_map;

	if (n + m == 0)
		return 0;
	u->maps = calloc(n + m, sizeof(*u->maps));
	if (!u->maps)
		return -1;
	if (n)
		memcpy(u->maps, u->c.uid_map, n * sizeof(*u->maps));
	if (m)
		memcpy(u->maps + n, u->c.gid_map, m * sizeof(*u->maps));
	u->c.uid_map = u->maps;
	u->c.gid_map = u->maps + n;
	return 0;
}

int fctr_untar_open(const struct fctr_untar_config *config, struct fctr_untar **out, struct fctr_untar_error *err)
{
	struct fctr_untar *u = calloc(1, sizeof(*u));

	memset(err, 0, sizeof(*err));
	if (!u) {
		err->fault = FCTR_UNTAR_SYSTEM;
		err->err = ENOMEM;
		return -1;
	}
	u->c = *config;
	u->err = err;
	u->fd = -1;
	u->missing_end = &u->missing;
	u->pax.major = u->global.major = -1;
	if (copy_maps(u) < 0) {
		tar_memory(u);
		fctr_untar_close(u);
		return -1;
	}
	if (tar_dirs_open(u) < 0) {
		fctr_untar_close(u);
		return -1;
	}
	*out = u;
	return 0;
}

void fctr_untar_own_thread(struct fctr_untar *u)
{
	if (unshare(CLONE_FS) < 0)
		return;
	umask(0);
	u->umask_known = true;
}

void fctr_untar_close(struct fctr_untar *u)
{
	struct tar_missing *m;
	struct tar_hidden *h;

	if (!u)
		return;
	if (u->fd >= 0)
		close(u->fd);
	tar_dirs_close(u);
	tar_seen_clear(u);
	tar_pax_clear(&u->pax);
	tar_pax_clear(&u->global);
	tar_xattrs_clear(&u->e.xattrs);
	tar_str_clear(&u->long_name);
	tar_str_clear(&u->long_link);
	while ((m = u->missing)) {
		u->missing = m->next;
		free(m->target);
		free(m);
	}
	while ((h = u->hidden)) {
		u->hidden = h->next;
		free(h);
	}
	free(u->meta);
	free(u->maps);
	free(u);
}

/* One whole block where a header may be. */
static int header_block(struct fctr_untar *u, const unsigned char *block)
{
	static const unsigned char zero[TAR_BLOCK];

	if (memcmp(block, zero, TAR_BLOCK) == 0) {
		u->name[0] = '\0';
		if (++u->zero_blocks == 2)
			u->state = TAR_ZEROS;
		return 0;
	}
	if (u->zero_blocks)
		return tar_bad(u, "an entry follows a block of zeros");
	return tar_header(u, block);
}

static int meta_begin_ok(struct fctr_untar *u, size_t more)
{
	size_t want = u->meta_len + more + 1;
	char *p;

	if (want <= u->meta_cap)
		return 0;
	want = want < 8192 ? 8192 : want * 2;	/* as it comes, not as the header claims */
	p = realloc(u->meta, want);
	if (!p)
		return tar_memory(u);
	u->meta = p;
	u->meta_cap = want;
	return 0;
}

static int meta_done(struct fctr_untar *u)
{
	size_t n = u->meta_len;

	u->meta[n] = '\0';
	u->state = TAR_SKIP;
	u->skip = tar_padding(n);
	switch (u->meta_type) {
	case 'x':
		return tar_pax_parse(u, &u->pax, u->meta, n, false);
	case 'g':
		return tar_pax_parse(u, &u->global, u->meta, n, true);
	case 'L':
		return tar_str_set(u, &u->long_name, u->meta, strlen(u->meta));
	default:
		return tar_str_set(u, &u->long_link, u->meta, strlen(u->meta));
	}
}

/* Numbers in decimal, a line each: how many segments, then offset and length of each. */
static int map_bytes(struct fctr_untar *u, const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (u->map_counted && u->map_left == 0)
			return 0;		/* the rest of the block is padding */
		if (p[i] >= '0' && p[i] <= '9') {
			if (u->map_number > (UINT64_MAX >> 1) / 10 - 1)
				return tar_bad(u, "its sparse map has a number too big");
			u->map_number = u->map_number * 10 + (p[i] - '0');
			u->map_digits = true;
			continue;
		}
		if (p[i] != '\n' || !u->map_digits)
			return tar_bad(u, "its sparse map is damaged");
		if (!u->map_counted) {
			if (u->map_number > TAR_SEGMENTS)
				return tar_bad(u, "its sparse map has too many segments");
			u->map_counted = true;
			u->map_left = u->map_number * 2;
		} else {
			struct tar_pax *x = &u->pax;

			if (u->map_left-- % 2 == 0) {
				if (tar_add_segment(u, x, u->map_number, 0) < 0)
					return -1;
			} else {
				x->map[x->n_map - 1].len = u->map_number;
			}
		}
		u->map_number = 0;
		u->map_digits = false;
	}
	return 0;
}

/* Blocks that are looked at whole; from the caller's buffer where they lie in it whole. */
static int block_state(struct fctr_untar *u, const unsigned char *block)
{
	switch (u->state) {
	case TAR_HEADER:
		return header_block(u, block);
	case TAR_SPARSE_EXT:
		return tar_sparse_ext(u, block);
	default:	/* TAR_SPARSE_MAP */
		if (u->left < TAR_BLOCK)
			return tar_bad(u, "its sparse map is cut short");
		u->left -= TAR_BLOCK;
		if (map_bytes(u, block, TAR_BLOCK) < 0)
			return -1;
		return u->map_counted && u->map_left == 0 ? tar_entry_known(u) : 0;
	}
}

static int take_block(struct fctr_untar *u, const unsigned char **p, size_t *len)
{
	size_t n = TAR_BLOCK - u->have;

	if (u->have == 0 && *len >= TAR_BLOCK) {
		const unsigned char *block = *p;

		*p += TAR_BLOCK;
		*len -= TAR_BLOCK;
		return block_state(u, block);
	}
	if (n > *len)
		n = *len;
	memcpy(u->block + u->have, *p, n);
	u->have += n;
	*p += n;
	*len -= n;
	if (u->have < TAR_BLOCK)
		return 0;
	u->have = 0;
	return block_state(u, u->block);
}

static int take_meta(struct fctr_untar *u, const unsigned char **p, size_t *len)
{
	size_t n = u->meta_size - u->meta_len;

	if (n > *len)
		n = *len;
	if (meta_begin_ok(u, n) < 0)
		return -1;
	memcpy(u->meta + u->meta_len, *p, n);
	u->meta_len += n;
	*p += n;
	*len -= n;
	return u->meta_len == u->meta_size ? meta_done(u) : 0;
}

static int take_data(struct fctr_untar *u, const unsigned char **p, size_t *len)
{
	size_t n = u->left < *len ? (size_t)u->left : *len;

	if (tar_write(u, (const char *)*p, n) < 0)
		return -1;
	u->left -= n;
	*p += n;
	*len -= n;
	return u->left ? 0 : tar_file_done(u);
}

static int take_zeros(struct fctr_untar *u, const unsigned char *p, size_t len)
{
	if (len && (p[0] || memcmp(p, p + 1, len - 1) != 0))
		return tar_bad(u, "there is something after the archive's end");
	return 0;
}

int fctr_untar_feed(struct fctr_untar *u, const void *buf, size_t len, struct fctr_untar_error *err)
{
	const unsigned char *p = buf;
	int r = 0;

	memset(err, 0, sizeof(*err));
	u->err = err;
	while (len > 0 && r == 0) {
		switch (u->state) {
		case TAR_HEADER:
		case TAR_SPARSE_EXT:
		case TAR_SPARSE_MAP:
			r = take_block(u, &p, &len);
			break;
		case TAR_META:
			r = take_meta(u, &p, &len);
			break;
		case TAR_DATA:
			r = take_data(u, &p, &len);
			break;
		case TAR_SKIP: {
			size_t n = u->skip < len ? (size_t)u->skip : len;

			u->skip -= n;
			p += n;
			len -= n;
			if (u->skip == 0)
				u->state = TAR_HEADER;
			break;
		}
		case TAR_ZEROS:
			return take_zeros(u, p, len);
		default:
			return tar_bad(u, "the reader has failed before or is finished");
		}
	}
	return r;
}

int fctr_untar_finish(struct fctr_untar *u, struct fctr_untar_error *err)
{
	memset(err, 0, sizeof(*err));
	u->err = err;
	/* Padding of the last entry may be missing, as may the end where it is not insisted on. */
	if (u->state == TAR_SKIP && u->skip < TAR_BLOCK && !u->c.need_end)
		u->state = TAR_HEADER;
	if (u->state == TAR_FAILED || u->state == TAR_FINISHED)
		return tar_bad(u, "the reader has failed before or is finished");
	if (u->state == TAR_META || u->state == TAR_DATA || u->state == TAR_SKIP || u->state == TAR_SPARSE_EXT ||
	    u->state == TAR_SPARSE_MAP || u->have)
		return tar_bad(u, "the archive is cut off here");
	if (u->pax.path.p || u->pax.has_size || u->pax.has_mtime || u->long_name.p || u->long_link.p)
		return tar_bad(u, "the archive is cut off after an extended header");
	if (u->state != TAR_ZEROS && u->c.need_end)
		return tar_bad(u, "the archive is cut off: its end mark is missing");
	u->name[0] = '\0';
	if (tar_relink(u) < 0 || tar_dirs_done(u) < 0)
		return -1;
	u->state = TAR_FINISHED;
	return 0;
}

void fctr_untar_stats(const struct fctr_untar *u, struct fctr_untar_stats *out)
{
	*out = u->stats;
}

const char *fctr_untar_implied(struct fctr_untar *u)
{
	u->implied_at = u->implied_begun ? (u->implied_at ? u->implied_at->newer : NULL) : u->oldest;
	u->implied_begun = true;
	while (u->implied_at && (u->implied_at->flags & (TAR_D_IMPLIED | TAR_D_REPLACES)) != TAR_D_IMPLIED)
		u->implied_at = u->implied_at->newer;
	return u->implied_at ? u->implied_at->path : NULL;
}

const char *fctr_untar_missing(struct fctr_untar *u, const char **target)
{
	u->missing_at = u->missing_begun ? (u->missing_at ? u->missing_at->next : NULL) : u->missing;
	u->missing_begun = true;
	if (!u->missing_at)
		return NULL;
	*target = u->missing_at->target;
	return u->missing_at->path;
}

const char *fctr_untar_whiteout(struct fctr_untar *u)
{
	u->hidden_at = u->hidden_begun ? (u->hidden_at ? u->hidden_at->next : NULL) : u->hidden;
	u->hidden_begun = true;
	return u->hidden_at ? u->hidden_at->path : NULL;
}
