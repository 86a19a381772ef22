/* untar_pax.c: the records of pax extended headers (pax(1), "pax Header Block"; GNU tar's and star's keys). */
#define _GNU_SOURCE
#include <ctype.h>

#include "untar_int.h"

void tar_str_clear(struct tar_str *s)
{
	free(s->p);
	s->p = NULL;
	s->len = 0;
}

int tar_str_set(struct fctr_untar *u, struct tar_str *s, const char *p, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return tar_memory(u);
	memcpy(copy, p, len);
	copy[len] = '\0';
	free(s->p);
	s->p = copy;
	s->len = len;
	return 0;
}

void tar_pax_clear(struct tar_pax *p)
{
	tar_str_clear(&p->path);
	tar_str_clear(&p->link);
	tar_str_clear(&p->sparse_name);
	tar_xattrs_clear(&p->xattrs);
	free(p->map);
	memset(p, 0, sizeof(*p));
	p->major = -1;
}

/* All of text is decimal digits and fits. */
static int decimal(const char *text, size_t len, uint64_t *out)
{
	uint64_t v = 0;

	if (len == 0)
		return -1;
	for (size_t i = 0; i < len; i++) {
		unsigned digit = (unsigned char)text[i] - (unsigned)'0';

		if (digit > 9 || v > ((uint64_t)INT64_MAX - digit) / 10)
			return -1;
		v = v * 10 + digit;
	}
	*out = v;
	return 0;
}

/* "-12.5": nanoseconds count forward, so that is 13 s before the epoch and half a second. */
static int when(const char *text, size_t len, struct timespec *out)
{
	bool negative = len && text[0] == '-';
	size_t whole, i;
	uint64_t sec;
	long nsec = 0, unit = 100000000;

	if (negative) {
		text++;
		len--;
	}
	for (whole = 0; whole < len && text[whole] != '.'; whole++)
		;
	if (decimal(text, whole, &sec) < 0)
		return -1;
	for (i = whole + 1; i < len; i++, unit /= 10) {
		if (!isdigit((unsigned char)text[i]))
			return -1;
		nsec += (text[i] - '0') * unit;
	}
	out->tv_sec = negative ? -(time_t)sec : (time_t)sec;
	if (negative && nsec) {
		out->tv_sec--;
		nsec = 1000000000 - nsec;
	}
	out->tv_nsec = nsec;
	return 0;
}

static int sparse_map_text(struct fctr_untar *u, struct tar_pax *p, const char *v, size_t len)
{
	uint64_t number, at = 0;
	bool second = false;

	p->n_map = 0;
	while (len) {
		const char *comma = memchr(v, ',', len);
		size_t n = comma ? (size_t)(comma - v) : len;

		if (decimal(v, n, &number) < 0)
			return tar_bad(u, "GNU.sparse.map is damaged");
		if (second && tar_add_segment(u, p, at, number) < 0)
			return -1;
		at = number;
		second = !second;
		v += n + (comma != NULL);
		len -= n + (comma != NULL);
	}
	return second ? tar_bad(u, "GNU.sparse.map is damaged") : 0;
}

static int sparse_record(struct fctr_untar *u, struct tar_pax *p, const char *key, const char *v, size_t len)
{
	uint64_t number = 0;
	bool is_number = decimal(v, len, &number) == 0;

	if (strcmp(key, "name") == 0)
		return len ? tar_str_set(u, &p->sparse_name, v, len) : 0;
	if (strcmp(key, "map") == 0) {
		p->sparse = true;
		return sparse_map_text(u, p, v, len);
	}
	if (!is_number)
		return tar_bad(u, "GNU.sparse.%s is no number", key);
	if (strcmp(key, "major") == 0 || strcmp(key, "minor") == 0) {
		if (key[1] == 'a')
			p->major = number > 9 ? 9 : (int)number;
		else
			p->minor = number > 9 ? 9 : (int)number;
		if (p->major > 1 || p->minor > 1)
			return tar_bad(u, "GNU.sparse.%s=%llu is not known", key, (unsigned long long)number);
		p->sparse_1_0 = p->major == 1;
	} else if (strcmp(key, "size") == 0 || strcmp(key, "realsize") == 0) {
		p->real_size = number;
		p->has_real = true;
		p->sparse = true;
	} else if (strcmp(key, "numblocks") == 0) {
		p->sparse = true;
	} else if (strcmp(key, "offset") == 0) {
		if (p->half)
			return tar_bad(u, "its sparse map has an offset without a length");
		p->half = true;
		p->sparse = true;
		return tar_add_segment(u, p, number, 0);
	} else if (strcmp(key, "numbytes") == 0) {
		if (!p->half)
			return tar_bad(u, "its sparse map has a length without an offset");
		p->half = false;
		p->map[p->n_map - 1].len = number;
	}
	return 0;
}

/* An id may be left empty, which takes it back. */
static int id_record(struct fctr_untar *u, const char *key, const char *v, size_t len, uint32_t *id, bool *has)
{
	uint64_t number = 0;

	*has = len > 0;
	if (len && (decimal(v, len, &number) < 0 || number >= UINT32_MAX))
		return tar_bad(u, "its %s in the extended header is no number that can be one", key);
	*id = (uint32_t)number;
	return 0;
}

static int time_record(struct fctr_untar *u, const char *key, const char *v, size_t len, struct timespec *t, bool *has)
{
	*has = len > 0;
	if (len && when(v, len, t) < 0)
		return tar_bad(u, "its %s in the extended header is no time", key);
	return 0;
}

static int text_record(struct fctr_untar *u, struct tar_str *s, const char *v, size_t len)
{
	if (len)
		return tar_str_set(u, s, v, len);
	tar_str_clear(s);
	return 0;
}

static bool starts(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static int record(struct fctr_untar *u, struct tar_pax *p, const char *key, size_t key_len, const char *v, size_t len,
		  bool global)
{
	static const char schily[] = "SCHILY.xattr.", libarchive[] = "LIBARCHIVE.xattr.", sparse[] = "GNU.sparse.";

	if (global && (strcmp(key, "path") == 0 || strcmp(key, "linkpath") == 0 || strcmp(key, "size") == 0 ||
		       starts(key, sparse)))
		return tar_bad(u, "a global header sets \"%s\", which is for single entries", key);
	if (strcmp(key, "path") == 0)
		return text_record(u, &p->path, v, len);
	if (strcmp(key, "linkpath") == 0)
		return text_record(u, &p->link, v, len);
	if (strcmp(key, "size") == 0) {
		p->has_size = len > 0;
		if (len && decimal(v, len, &p->size) < 0)
			return tar_bad(u, "its size in the extended header is no number");
		return 0;
	}
	if (strcmp(key, "uid") == 0)
		return id_record(u, key, v, len, &p->uid, &p->has_uid);
	if (strcmp(key, "gid") == 0)
		return id_record(u, key, v, len, &p->gid, &p->has_gid);
	if (strcmp(key, "mtime") == 0)
		return time_record(u, key, v, len, &p->mtime, &p->has_mtime);
	if (strcmp(key, "atime") == 0)
		return time_record(u, key, v, len, &p->atime, &p->has_atime);
	if (strcmp(key, "hdrcharset") == 0) {	/* names are bytes to us, in either of the two there are */
		if (len && strcmp(v, "BINARY") != 0 && strcmp(v, "ISO-IR 10646 2000 UTF-8") != 0)
			return tar_bad(u, "hdrcharset \"%s\" is not understood", v);
		return 0;
	}
	if (starts(key, schily))
		return tar_xattr_add(u, &p->xattrs, key + strlen(schily), key_len - strlen(schily), v, len);
	if (starts(key, libarchive))
		return tar_xattr_base64(u, &p->xattrs, key + strlen(libarchive), key_len - strlen(libarchive), v, len);
	if (starts(key, sparse))
		return sparse_record(u, p, key + strlen(sparse), v, len);
	return 0;	/* comment, ctime, uname, gname, security.*, vendors' own */
}

int tar_pax_parse(struct fctr_untar *u, struct tar_pax *p, char *data, size_t len, bool global)
{
	size_t at = 0;

	while (at < len) {
		size_t size = 0, i = at, key;
		char *equals;

		while (i < len && i < at + 10 && isdigit((unsigned char)data[i]))
			size = size * 10 + (size_t)(data[i++] - '0');
		if (i == at || i >= len || data[i] != ' ' || size > len - at || size < i - at + 3 ||
		    data[at + size - 1] != '\n')
			return tar_bad(u, "its extended header is damaged");
		key = i + 1;
		equals = memchr(data + key, '=', at + size - 1 - key);
		if (!equals || equals == data + key || memchr(data + key, '\0', (size_t)(equals - data) - key))
			return tar_bad(u, "its extended header is damaged");
		*equals = '\0';
		data[at + size - 1] = '\0';
		if (record(u, p, data + key, (size_t)(equals - data) - key, equals + 1,
			   (size_t)(data + at + size - 1 - (equals + 1)), global) < 0)
			return -1;
		at += size;
	}
	return 0;
}
