/* test_untar.c: the tar reader by itself: what comes of small archives, in pieces of any size; what is refused;
 * thousands of damaged archives, for the sanitizers to see. Prints what failed and 'N passed, N failed'.
 *
 *   test_untar [rounds [seed]]     how many damaged archives (default 3000) */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "untar.h"
#include "util.h"

static int passed, failed;
static char top[] = "/tmp/fctr-untar-XXXXXX";
static int topfd;
static struct fctr_untar_error err;

#define CHECK(cond, ...) do { \
	if (cond) { \
		passed++; \
	} else { \
		failed++; \
		printf("%s:%d: ", __func__, __LINE__); \
		printf(__VA_ARGS__); \
		printf(" (%s: %s)\n", err.entry, err.why); \
	} } while (0)

/* ---- archives */

static unsigned char buf[1 << 18];
static size_t len;

static void add(const void *data, size_t n)
{
	memcpy(buf + len, data, n);
	len += n;
	memset(buf + len, 0, (512 - len % 512) % 512);
	len += (512 - len % 512) % 512;
}

static void finish_header(unsigned char *h)
{
	unsigned sum = 0;

	memset(h + 148, ' ', 8);
	for (int i = 0; i < 512; i++)
		sum += h[i];
	snprintf((char *)h + 148, 8, "%06o", sum);
}

static unsigned char *header(const char *name, char type, size_t size, unsigned mode, const char *link)
{
	unsigned char *h = buf + len;

	memset(h, 0, 512);
	memcpy(h, name, strnlen(name, 100));
	snprintf((char *)h + 100, 8, "%07o", mode);
	snprintf((char *)h + 108, 8, "%07o", (unsigned)geteuid());
	snprintf((char *)h + 116, 8, "%07o", (unsigned)getegid());
	snprintf((char *)h + 124, 12, "%011o", (unsigned)size & 07777777777);
	snprintf((char *)h + 136, 12, "%011o", 1000000000);
	h[156] = (unsigned char)type;
	memcpy(h + 157, link, strnlen(link, 100));
	memcpy(h + 257, "ustar\0" "00", 8);
	finish_header(h);
	len += 512;
	return h;
}

static void record(char *to, const char *key, const char *value)
{
	size_t n = strlen(key) + strlen(value) + 3, digits = 1;

	while (n + digits >= 10 && digits < (n + digits < 100 ? 2u : 3u))
		digits++;
	sprintf(to + strlen(to), "%zu %s=%s\n", n + digits, key, value);
}

static void end(void)
{
	memset(buf + len, 0, 1024);
	len += 1024;
}

static void file(const char *name, const char *text)
{
	header(name, '0', strlen(text), 0644, "");
	if (*text)
		add(text, strlen(text));
}

/* Something of everything. */
static void everything(void)
{
	char records[600] = "", text[4096];
	unsigned char *h;

	len = 0;
	memset(text, 't', sizeof(text));
	header("d/", '5', 0, 0750, "");
	header("d/big", '0', sizeof(text), 04755, "");
	add(text, sizeof(text));
	header("link", '2', 0, 0777, "d");
	file("link/through", "it");
	header("hard", '1', 0, 0644, "d/big");
	header("late", '1', 0, 0644, "target");
	file("target", "later");
	header("missing", '1', 0, 0644, "below/this");
	header("pipe", '6', 0, 0600, "");
	file("d/.wh.gone", "");
	file("o/.wh..wh..opq", "");
	file(".wh.again", "");
	header("again/", '5', 0, 0755, "");
	record(records, "path", "deep/er/name");
	record(records, "mtime", "12.5");
	record(records, "SCHILY.xattr.user.a", "value");
	header("PaxHeaders/x", 'x', strlen(records), 0644, "");
	add(records, strlen(records));
	file("short", "pax");
	records[0] = '\0';
	record(records, "GNU.sparse.major", "1");
	record(records, "GNU.sparse.minor", "0");
	record(records, "GNU.sparse.name", "sparse");
	record(records, "GNU.sparse.realsize", "100000");
	header("PaxHeaders/x", 'x', strlen(records), 0644, "");
	add(records, strlen(records));
	header("GNUSparseFile/s", '0', 1024, 0644, "");
	add("1\n50000\n512\n", 12);
	add(text, 512);
	h = header("old", 'S', 512, 0644, "");
	memcpy(h + 257, "ustar  ", 8);
	memcpy(h + 386, "00000001000\0" "00000001000", 24);
	memcpy(h + 483, "00000010000", 12);
	finish_header(h);
	add(text, 512);
	h = header("././@LongLink", 'L', 300, 0644, "");
	memset(text, 'n', 300);
	text[200] = '/';
	add(text, 300);
	file("cut", "long");
	end();
}

/* ---- unpacking */

static struct fctr_untar_stats stats;
static char implied[2048], missing[2048];

static int unpack(int mode, size_t chunk)
{
	struct fctr_untar_config c = { .mode = mode, .need_end = true, .devices = FCTR_UNTAR_DEV_REFUSE };
	struct fctr_untar *u = NULL;
	const char *path, *target;
	int r = 0;

	mkdirat(topfd, "t", 0755);
	c.dirfd = openat(topfd, "t", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	c.max_size = 1 << 20;
	c.max_entries = 1000;
	c.userxattr = true;
	if (fctr_untar_open(&c, &u, &err) < 0) {
		close(c.dirfd);
		return -1;
	}
	for (size_t at = 0; at < len && r == 0; at += chunk)
		r = fctr_untar_feed(u, buf + at, len - at < chunk ? len - at : chunk, &err);
	if (r == 0)
		r = fctr_untar_finish(u, &err);
	fctr_untar_stats(u, &stats);
	implied[0] = missing[0] = '\0';
	while (r == 0 && (path = fctr_untar_implied(u)))
		snprintf(implied + strlen(implied), sizeof(implied) - strlen(implied), "[%s]", path);
	while (r == 0 && (path = fctr_untar_missing(u, &target)))
		snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), "[%s->%s]", path, target);
	fctr_untar_close(u);
	close(c.dirfd);
	return r;
}

static void clear(void)
{
	CHECK(fctr_remove_tree(topfd, "t") == 0 || errno == ENOENT, "removing: %s", strerror(errno));
}

static bool content(const char *name, const char *text)
{
	char path[600], got[64] = "";
	ssize_t n;

	snprintf(path, sizeof(path), "t/%s", name);
	n = fctr_read_at(topfd, path, got, sizeof(got));
	return n >= 0 && strcmp(got, text) == 0;
}

static void test_everything(size_t chunk)
{
	struct stat st, other;
	char value[8] = "";

	everything();
	CHECK(unpack(FCTR_UNTAR_LAYER, chunk) == 0, "in pieces of %zu", chunk);
	CHECK(stats.entries == 17 && stats.whiteouts == 3, "%d entries, %d whiteouts", (int)stats.entries, (int)stats.whiteouts);
	CHECK(strcmp(implied, "[][o][deep][deep/er][" "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
		     "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
		     "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn]") == 0, "implied %s", implied);
	CHECK(strcmp(missing, "[missing->below/this]") == 0, "missing %s", missing);
	CHECK(content("d/through", "it") && content("late", "later") && content("deep/er/name", "pax"), "contents");
	CHECK(fstatat(topfd, "t/d", &st, 0) == 0 && (st.st_mode & 07777) == 0750 && st.st_mtime == 1000000000, "d");
	CHECK(fstatat(topfd, "t/d/big", &st, 0) == 0 && (st.st_mode & 07777) == 04755 && st.st_size == 4096, "d/big");
	CHECK(fstatat(topfd, "t/hard", &other, 0) == 0 && st.st_ino == other.st_ino, "hard link");
	CHECK(fstatat(topfd, "t/d/gone", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0, "whiteout");
	CHECK(fstatat(topfd, "t/deep/er/name", &st, 0) == 0 && st.st_mtim.tv_sec == 12 && st.st_mtim.tv_nsec == 500000000, "time");
	CHECK(fstatat(topfd, "t/sparse", &st, 0) == 0 && st.st_size == 100000 && st.st_blocks * 512 < 20000, "sparse, %ld blocks", (long)st.st_blocks);
	CHECK(fstatat(topfd, "t/old", &st, 0) == 0 && st.st_size == 4096, "old sparse");
	CHECK(fchdir(topfd) == 0 && getxattr("t/again", "user.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y', "opaque again");
	CHECK(getxattr("t/o", "user.overlay.opaque", value, sizeof(value)) == 1, "opaque o");
	clear();
}

static void test_merge(void)
{
	len = 0;
	file("a/b", "1");
	file("a/c", "1");
	file("x", "1");
	end();
	CHECK(unpack(FCTR_UNTAR_MERGE, 512) == 0, "below");
	len = 0;
	file("a/new", "2");
	file("a/.wh..wh..opq", "");
	file(".wh.x", "");
	end();
	CHECK(unpack(FCTR_UNTAR_MERGE, 700) == 0, "above");
	CHECK(content("a/new", "2") && !content("a/b", "1") && !content("x", "1"), "merged");
	clear();
}

static void refuse(const char *why)
{
	end();
	for (int mode = FCTR_UNTAR_LAYER; mode <= FCTR_UNTAR_MERGE; mode++) {
		CHECK(unpack(mode, 4096) < 0 && strstr(err.why, why), "\"%s\" is to be refused", why);
		clear();
	}
	len = 0;
}

static void test_refused(void)
{
	len = 0;
	file("../x", "x");
	refuse("leaves the root");
	header("l", '2', 0, 0777, "../..");
	file("l/x", "x");
	refuse("leaves the root");
	header("h", '1', 0, 0777, "../x");
	refuse("leaves the root");
	header("c", '3', 0, 0777, "");
	memcpy(buf + len - 512 + 329, "0000001", 8);
	finish_header(buf + len - 512);
	refuse("a device");
	file("f", "x");
	buf[3] ^= 1;
	refuse("checksum");
	header("huge", '0', 2 << 20, 0644, "");
	refuse("bigger than");
	file("f", "x");
	file("f/x", "x");
	refuse("is not a directory");
}

/* ---- damage */

static uint64_t state;

static unsigned next(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)((state >> 11) % n);
}

static void test_damaged(int rounds)
{
	static unsigned char whole[sizeof(buf)];
	size_t size;

	everything();
	size = len;
	memcpy(whole, buf, size);
	for (int i = 0; i < rounds; i++) {
		unsigned flips = 1 + next(6);

		memcpy(buf, whole, size);
		len = next(8) ? size : next((unsigned)size);
		while (flips--)
			buf[next((unsigned)size)] = next(3) ? (unsigned char)next(256) : "0179/.\n= "[next(9)];
		if (next(2))
			for (size_t at = 0; at + 512 <= size; at += 512)
				if (memcmp(buf + at + 257, "ustar", 5) == 0)
					finish_header(buf + at);
		if (unpack(next(2) ? FCTR_UNTAR_LAYER : FCTR_UNTAR_MERGE, 1 + next(3000)) < 0 && !err.why[0])
			CHECK(false, "round %d: refused without a word", i);
		if (next(3) == 0)
			clear();
	}
	clear();
	passed++;
}

static void test_deep_removal(void)
{
	int fd = dup(topfd);

	for (int i = 0; i < 3000 && fd >= 0; i++) {
		int below;

		mkdirat(fd, i ? "d" : "t", 0755);
		if (i % 100 == 0)
			close(openat(fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
		below = openat(fd, i ? "d" : "t", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = below;
	}
	close(fd);
	unlinkat(topfd, "file", 0);
	clear();
	CHECK(faccessat(topfd, "t", F_OK, 0) < 0, "all gone");
}

int main(int argc, char **argv)
{
	static const size_t chunks[] = { 1, 13, 511, 512, 513, 10240, sizeof(buf) };

	state = argc > 2 ? strtoull(argv[2], NULL, 0) : 88172645463325252u;
	if (!mkdtemp(top) || (topfd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return 1;
	for (size_t i = 0; i < ARRAY_LEN(chunks); i++)
		test_everything(chunks[i]);
	test_merge();
	test_refused();
	test_damaged(argc > 1 ? atoi(argv[1]) : 3000);
	test_deep_removal();
	close(topfd);
	if (rmdir(top) < 0)
		CHECK(false, "something is left in %s", top);
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
