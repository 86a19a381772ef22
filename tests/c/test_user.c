/* fctr_user_lookup() on given files and on noise. Run with sanitizers; exit 0 if all is well. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/user.h"

static int failures;

#define CHECK(cond) do { if (!(cond)) { failures++; \
	fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); } } while (0)

static int file(const char *data, size_t len)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	return fd;
}

static const char passwd[] =
	"root:x:0:0:root:/root:/bin/sh\n"
	"# a comment: of: no: use: here: at: all\n"
	"short:x:5\n"
	"nobody:x:65534:65534:nobody:/:/bin/false\n"
	":x:9:9::/nameless:/bin/sh\n"
	"big:x:4294967295:1::/:\n"
	"huge:x:99999999999999999999999:1::/:\n"
	"neg:x:-1:1::/:\n"
	"alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh\n"
	"alice:x:0:0:second:/root:/bin/sh\n"
	"rel:x:1002:1002::relative:/bin/sh\n"
	"42:x:77:78::/digits:/bin/sh\n"
	"last:x:1003:1004::/last";	/* no newline, no shell */
static const char group[] =
	"root:x:0:\n"
	"staff:x:50:bob,alice\n"
	"alice:x:1001:alice\n"
	"twice:x:50:alice\n"
	"audio:x:29:alice,bob,\n"
	"no:x:30:alicex,xalice\n"
	"bad:x:zz:alice\n"
	"big:x:4294967295:alice\n"
	"broken\n"
	"video:x:44:alice";

static int look(const char *user, struct fctr_user *u, struct fctr_error *err)
{
	int p = file(passwd, sizeof(passwd) - 1), g = file(group, sizeof(group) - 1), rc;

	memset(u, 0xa5, sizeof(*u));
	memset(err, 0, sizeof(*err));
	rc = fctr_user_lookup(p, g, user, u, err);
	close(p);
	close(g);
	return rc;
}

static void given(void)
{
	struct fctr_user u;
	struct fctr_error e;

	CHECK(look("alice", &u, &e) == 0 && u.uid == 1000 && u.gid == 1001 && !strcmp(u.home, "/home/alice"));
	CHECK(u.n_groups == 3 && u.groups[0] == 50 && u.groups[1] == 29 && u.groups[2] == 44);
	CHECK(look("1000", &u, &e) == 0 && u.uid == 1000 && u.gid == 1001 && u.n_groups == 3 &&
	      !strcmp(u.home, "/home/alice"));
	CHECK(look("alice:staff", &u, &e) == 0 && u.uid == 1000 && u.gid == 50 && u.n_groups == 0);
	CHECK(look("alice:7", &u, &e) == 0 && u.gid == 7 && u.n_groups == 0);
	CHECK(look("7:8", &u, &e) == 0 && u.uid == 7 && u.gid == 8 && u.n_groups == 0 && !strcmp(u.home, "/"));
	CHECK(look("7", &u, &e) == 0 && u.uid == 7 && u.gid == 0 && !strcmp(u.home, "/"));
	CHECK(look("0", &u, &e) == 0 && u.uid == 0 && u.gid == 0 && !strcmp(u.home, "/root") && u.n_groups == 0);
	CHECK(look("last", &u, &e) == 0 && u.uid == 1003 && u.gid == 1004 && !strcmp(u.home, "/last"));
	CHECK(look("rel", &u, &e) == 0 && !strcmp(u.home, "/"));
	CHECK(look("42", &u, &e) == 0 && u.uid == 77 && u.gid == 78);	/* the name wins */
	CHECK(look("9", &u, &e) == 0 && u.uid == 9 && u.gid == 0);	/* a nameless line counts for nothing */
	CHECK(look("4294967294", &u, &e) == 0 && u.uid == 4294967294u);
	CHECK(look("mallory", &u, &e) == -1 && e.stage == FCTR_ST_USER && strstr(e.what, "'mallory'"));
	CHECK(look("alice:nogroup", &u, &e) == -1 && e.stage == FCTR_ST_USER && strstr(e.what, "'nogroup'"));
	CHECK(look("4294967295", &u, &e) == -1 && e.err == ERANGE);
	CHECK(look("1:4294967296", &u, &e) == -1 && e.err == ERANGE);
	CHECK(look("big", &u, &e) == -1 && look("huge", &u, &e) == -1 && look("neg", &u, &e) == -1);
	CHECK(look("short", &u, &e) == -1 && look("-1", &u, &e) == -1 && look("+1", &u, &e) == -1);
	CHECK(look("", &u, &e) == -1 && look(":", &u, &e) == -1 && look(":0", &u, &e) == -1 &&
	      look("0:", &u, &e) == -1 && look("0:0:0", &u, &e) == -1 && look("a\nb", &u, &e) == -1);
	CHECK(u.uid == 0xa5a5a5a5);	/* untouched by a failure */

	CHECK(fctr_user_lookup(-1, -1, "5:6", &u, &e) == 0 && u.uid == 5 && u.gid == 6);
	CHECK(fctr_user_lookup(-1, -1, "root", &u, &e) == -1 && e.err == ENOENT);
}

static void hostile(void)
{
	struct fctr_user u;
	struct fctr_error e;
	size_t big = (1u << 20) + 4096;
	char *data = malloc(big);
	int fd, p[2], null = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	/* no fifo or device makes us wait or read for ever */
	CHECK(null >= 0 && fctr_user_lookup(null, -1, "x", &u, &e) == -1);
	close(null);
	CHECK(pipe2(p, O_CLOEXEC) == 0 && fctr_user_lookup(p[0], -1, "x", &u, &e) == -1);
	close(p[0]);
	close(p[1]);

	/* one line of 1 MiB; then a line across the limit whose start would be another user */
	memset(data, 'a', big);
	fd = file(data, big);
	CHECK(fctr_user_lookup(fd, fd, "a", &u, &e) == -1);
	close(fd);
	memset(data, '\n', big);
	memcpy(data + (1u << 20) - 14, "cut:x:1:1::/:/\n", 15);
	memcpy(data + (1u << 20) - 40, "in:x:7:8::/h:/\n", 15);
	fd = file(data, big);
	CHECK(fctr_user_lookup(fd, -1, "in", &u, &e) == 0 && u.uid == 7);
	CHECK(fctr_user_lookup(fd, -1, "cut", &u, &e) == -1);
	close(fd);

	/* more groups than fit */
	size_t n = 0;
	for (int i = 0; i < 1000; i++)
		n += (size_t)sprintf(data + n, "g%d:x:%d:alice\n", i, 2000 + i);
	fd = file(data, n);
	int pw = file(passwd, sizeof(passwd) - 1);
	CHECK(fctr_user_lookup(pw, fd, "alice", &u, &e) == 0 && u.n_groups == FCTR_USER_GROUPS && u.groups[63] == 2063);
	close(pw);
	close(fd);

	/* a long home, a NUL byte in a line */
	n = (size_t)sprintf(data, "h:x:1:1::/%0300d:/\n", 0);
	memcpy(data + n, "z\0:x:0:0::/:/\nok:x:2:2::/:/\n", 28);
	fd = file(data, n + 28);
	CHECK(fctr_user_lookup(fd, -1, "h", &u, &e) == 0 && !strcmp(u.home, "/"));
	CHECK(fctr_user_lookup(fd, -1, "z", &u, &e) == -1);
	CHECK(fctr_user_lookup(fd, -1, "ok", &u, &e) == 0 && u.uid == 2);
	close(fd);
	free(data);
}

static void noise(int rounds)
{
	static const char alphabet[] = "::::,,\n\n\nab09x#-\0/";
	static const char *const users[] = { "a", "b", "0", "9:0", "a:b", "09", "ab:a", "4294967295", "x:9" };
	char p[512], g[512];

	for (int i = 0; i < rounds; i++) {
		size_t n = (size_t)(rand() % 512), m = (size_t)(rand() % 512);
		struct fctr_user u;
		struct fctr_error e = { 0 };
		int pf, gf;

		for (size_t k = 0; k < n; k++)
			p[k] = rand() % 20 ? alphabet[(size_t)rand() % (sizeof(alphabet) - 1)] : (char)rand();
		for (size_t k = 0; k < m; k++)
			g[k] = alphabet[(size_t)rand() % (sizeof(alphabet) - 1)];
		pf = file(p, n);
		gf = file(g, m);
		if (fctr_user_lookup(pf, gf, users[rand() % 9], &u, &e) == 0) {
			CHECK(u.uid != UINT32_MAX && u.gid != UINT32_MAX && u.n_groups <= FCTR_USER_GROUPS);
			CHECK(u.home[0] == '/' && memchr(u.home, 0, sizeof(u.home)));
		} else {
			CHECK(e.stage == FCTR_ST_USER && e.what[0]);
		}
		close(pf);
		close(gf);
	}
}

int main(void)
{
	given();
	hostile();
	srand(7);
	noise(20000);
	printf("user: %d failures\n", failures);
	return failures != 0;
}
