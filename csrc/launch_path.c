/* launch_path.c: where a command is looked for. */
#define _GNU_SOURCE
#include "launch.h"

static const char *path_of(const char *const *envp)
{
	for (; envp && *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* All the places execvp(3) would try, so that the child need not put strings together. */
int fctr_candidates(const char *name, const char *const *envp, char ***list, char **mem, struct fctr_error *err)
{
	const char *path = path_of(envp);
	size_t parts = 1, len = strlen(name), n = 0;
	char *out;

	if (strchr(name, '/')) {
		*list = calloc(2, sizeof(char *));
		if (*list)
			(*list)[0] = (char *)name;
	} else {
		for (const char *c = path; *c; c++)
			parts += *c == ':';
		*list = calloc(parts + 1, sizeof(char *));
		*mem = out = malloc(strlen(path) + parts * (len + 3));
		while (*list && out) {
			size_t dir = strcspn(path, ":");

			(*list)[n++] = out;
			if (dir == 0)
				*out++ = '.';
			memcpy(out, path, dir);
			out += dir;
			*out++ = '/';
			memcpy(out, name, len + 1);
			out += len + 1;
			if (!path[dir])
				break;
			path += dir + 1;
		}
	}
	if (!*list || (!strchr(name, '/') && !*mem))
		return fctr_fail(err, FCTR_ST_MEMORY, ENOMEM, "command path");
	return 0;
}
