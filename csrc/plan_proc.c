/* plan_proc.c: the steps of a start: join what was prepared, mount what belongs to the new pid
 * namespace, become the job. Their order is the security of it:
 *   groups and namespaces first, while we may; /proc and its masks; then the process's own
 *   attributes; descriptors; bounding set, user, capabilities; no_new_privs and seccomp as late
 *   as can be; every descriptor of ours closed before the last chdir; exec.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>

#include "park.h"
#include "syscalls.h"

static struct fctr_step *add(struct fctr_plan *p, int op, int stage)
{
	return fctr_step_add(&p->start, op, stage);
}

static void join(struct fctr_plan *p, int slot, int64_t type, int stage)
{
	struct fctr_step *s = add(p, FCTR_OP_SETNS, stage);

	s->slot = (int16_t)slot;
	s->a = type;
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static void time_namespace(struct fctr_plan *p, const struct fctr_spec *spec)
{
	int64_t ns[2] = { spec->monotonic_ns, spec->boottime_ns };
	char text[160] = "";
	size_t n = 0;
	struct fctr_step *s;

	if (spec->ns[FCTR_NS_TIME].mode == FCTR_NS_JOIN) {
		join(p, FCTR_SLOT_TIME, CLONE_NEWTIME, FCTR_ST_TIMENS);
		return;
	}
	if (spec->ns[FCTR_NS_TIME].mode != FCTR_NS_NEW)
		return;
	for (int i = 0; i < 2; i++) {
		int64_t sec, rest;

		if (ns[i] == FCTR_UNSET)
			continue;
		sec = ns[i] / 1000000000;
		rest = ns[i] % 1000000000;
		if (rest < 0) {
			rest += 1000000000;
			sec--;
		}
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %lld %lld\n", i ? "boottime" : "monotonic",
				      (long long)sec, (long long)rest);
	}
	if (!n)
		snprintf(text, sizeof(text), "monotonic 0 0\n");
	s = add(p, FCTR_OP_TIMENS, FCTR_ST_TIMENS);
	s->s1 = fctr_blob_str(p, text);
}

static void join_namespaces(struct fctr_plan *p, const struct fctr_spec *spec)
{
	const struct fctr_ns *ns = spec->ns;
	/* a process that cannot be traced may not write its own files in /proc without privilege */
	bool late = ns[FCTR_NS_TIME].mode == FCTR_NS_NEW && spec->n_uid_map;

	if (p->mode == FCTR_MODE_STUB && !late)
		add(p, FCTR_OP_NO_DUMP, FCTR_ST_JOIN);
	if (p->has_userns)
		join(p, FCTR_SLOT_USER, CLONE_NEWUSER, FCTR_ST_USERNS);
	/* it belongs to the user namespace it is made in, and an unprivileged user has power there alone */
	time_namespace(p, spec);
	if (p->mode == FCTR_MODE_STUB && late)
		add(p, FCTR_OP_NO_DUMP, FCTR_ST_JOIN);
	/* a prepared one is joined like a given one; without a mount namespace nothing is prepared */
	if (ns[FCTR_NS_NET].mode == FCTR_NS_JOIN || (ns[FCTR_NS_NET].mode == FCTR_NS_NEW && (p->own_mnt || p->net_pool)))
		join(p, FCTR_SLOT_NET, CLONE_NEWNET, FCTR_ST_NETNS);
	else if (ns[FCTR_NS_NET].mode == FCTR_NS_NEW) {
		add(p, FCTR_OP_UNSHARE, FCTR_ST_NETNS)->a = CLONE_NEWNET;
		add(p, FCTR_OP_LO_UP, FCTR_ST_NETNS);
	}
	for (int kind = FCTR_NS_IPC; kind <= FCTR_NS_UTS; kind++) {
		int64_t type = kind == FCTR_NS_IPC ? CLONE_NEWIPC : CLONE_NEWUTS;

		if (ns[kind].mode == FCTR_NS_JOIN || (ns[kind].mode == FCTR_NS_NEW && p->own_mnt))
			join(p, kind == FCTR_NS_IPC ? FCTR_SLOT_IPC : FCTR_SLOT_UTS, type, FCTR_ST_NAMESPACE);
		else if (ns[kind].mode == FCTR_NS_NEW)
			add(p, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = type;
	}
	if (!p->own_mnt && ns[FCTR_NS_UTS].mode == FCTR_NS_NEW) {
		if (spec->hostname)
			add(p, FCTR_OP_HOSTNAME, FCTR_ST_HOSTNAME)->s1 = fctr_blob_str(p, spec->hostname);
		if (spec->domainname)
			add(p, FCTR_OP_DOMAINNAME, FCTR_ST_HOSTNAME)->s1 = fctr_blob_str(p, spec->domainname);
	}
	if (ns[FCTR_NS_CGROUP].mode == FCTR_NS_NEW)	/* rooted where the process is: after it joined */
		add(p, FCTR_OP_UNSHARE, FCTR_ST_NAMESPACE)->a = CLONE_NEWCGROUP;
	else if (ns[FCTR_NS_CGROUP].mode == FCTR_NS_JOIN)
		join(p, FCTR_SLOT_CGROUPNS, CLONE_NEWCGROUP, FCTR_ST_NAMESPACE);
	if (p->own_mnt || ns[FCTR_NS_MNT].mode == FCTR_NS_JOIN)
		join(p, FCTR_SLOT_MNT, CLONE_NEWNS, FCTR_ST_NAMESPACE);
}

void fctr_compile_proc_mounts(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_steps *list,
			      const char *empty_dir)
{
	for (size_t i = 0; i < spec->n_mounts; i++) {
		const struct fctr_mount *m = &spec->mounts[i];
		struct fctr_step *s;

		if (m->kind != FCTR_MNT_PROC)
			continue;
		s = fctr_step_add(list, FCTR_OP_FSMOUNT, FCTR_ST_PROC);
		s->s1 = fctr_blob_str(p, "proc");
		s->s2 = fctr_blob_str(p, m->target);
		s->a = (int64_t)m->attr_set;
		s->flags = FCTR_STEP_NOCREATE | (p->pid_prepared ? FCTR_STEP_PIDNS : 0);
	}
	for (size_t i = 0; i < spec->n_sysctl && !p->tenant; i++) {
		char path[300];
		struct fctr_step *s = fctr_step_add(list, FCTR_OP_SYSCTL, FCTR_ST_SYSCTL);

		snprintf(path, sizeof(path), "proc/sys/%s", spec->sysctl[i].key);
		for (char *c = path; *c; c++)
			if (*c == '.')
				*c = '/';
		s->s1 = fctr_blob_str(p, path);
		s->s2 = fctr_blob_str(p, spec->sysctl[i].value);
	}
	for (size_t i = 0; i < spec->n_readonly; i++)
		if (is_below(spec->readonly[i], "/proc"))
			fctr_step_add(list, FCTR_OP_RDONLY, FCTR_ST_MASK)->s1 = fctr_blob_str(p, spec->readonly[i]);
	for (size_t i = 0; i < spec->n_masked; i++)
		if (is_below(spec->masked[i], "/proc")) {
			struct fctr_step *s = fctr_step_add(list, FCTR_OP_MASK, FCTR_ST_MASK);

			s->s1 = fctr_blob_str(p, spec->masked[i]);
			s->s2 = fctr_blob_str(p, empty_dir);
			s->slot = p->tenant ? FCTR_SLOT_EMPTY : FCTR_SLOT_NONE;
		}
}

/* The groups as the job sees them: only from inside its cgroup namespace is their root its own. A
 * source names the controllers of a v1 hierarchy, as "cpu,cpuacct". */
static void cgroup_mounts(struct fctr_plan *p, const struct fctr_spec *spec)
{
	for (size_t i = 0; i < spec->n_mounts; i++) {
		const struct fctr_mount *m = &spec->mounts[i];
		char options[256];
		size_t n = 0;
		struct fctr_step *s;

		if (m->kind != FCTR_MNT_CGROUP)
			continue;
		s = add(p, FCTR_OP_FSMOUNT, FCTR_ST_CGROUP);
		s->s1 = fctr_blob_str(p, m->source ? "cgroup" : "cgroup2");
		s->s2 = fctr_blob_str(p, m->target);
		for (const char *c = m->source; c && *c && n < sizeof(options) - 4; c++) {
			if (*c != ',')
				options[n++] = *c;
			if (*c == ',' || !c[1]) {	/* a flag: its name, and an empty value */
				options[n++] = '\0';
				options[n++] = '\0';
			}
		}
		options[n++] = '\0';
		s->s3 = m->source ? fctr_blob_add(p, options, n) : 0;
		s->a = (int64_t)m->attr_set;
		s->flags = FCTR_STEP_NOCREATE;
	}
}

static void label(struct fctr_plan *p, const char *file, const char *prefix, const char *text)
{
	char buf[512];
	struct fctr_step *s;

	if (!text)
		return;
	snprintf(buf, sizeof(buf), "%s%s", prefix, text);
	s = add(p, FCTR_OP_LABEL, FCTR_ST_LABEL);
	s->s1 = fctr_blob_str(p, file);
	s->s2 = fctr_blob_str(p, buf);
}

static void attributes(struct fctr_plan *p, const struct fctr_spec *spec)
{
	for (size_t i = 0; i < spec->n_rlimits; i++) {
		struct fctr_step *s = add(p, FCTR_OP_RLIMIT, FCTR_ST_RLIMIT);

		s->a = spec->rlimits[i].resource;
		s->b = (int64_t)spec->rlimits[i].soft;
		s->c = spec->rlimits[i].hard;
	}
	if (spec->nice != INT_MIN)
		add(p, FCTR_OP_NICE, FCTR_ST_NICE)->a = spec->nice;
	if (spec->affinity_len) {
		struct fctr_step *s = add(p, FCTR_OP_AFFINITY, FCTR_ST_AFFINITY);

		s->s1 = fctr_blob_add(p, spec->affinity, spec->affinity_len);
		s->a = (int64_t)spec->affinity_len;
	}
	if (spec->umask >= 0)
		add(p, FCTR_OP_UMASK, FCTR_ST_SPEC)->a = spec->umask;
}

/* A joiner is seen by whoever is in the pid namespace from its fork on, and CAP_SYS_PTRACE there is
 * enough to take it over: then let it have the job's rights by that time, not ours. Not where the
 * fork itself needs ours (a new namespace, its /proc), or something after it needs /proc or a filter
 * that would refuse it. */
static bool forks_late(const struct fctr_plan *p, const struct fctr_spec *spec)
{
	return p->mode == FCTR_MODE_STUB && spec->ns[FCTR_NS_PID].mode == FCTR_NS_JOIN && !p->own_mnt &&
	       !p->time_fork && spec->no_new_privs && !spec->apparmor && !spec->selinux;
}

/* Up to here nothing is of one launch alone, so a prepared container's process may wait here. Its user
 * and capabilities stay the launcher's till it is woken; the filter comes first if it lets the rest be
 * done, which spares every start the time of loading it. Returns whether it did. */
static bool park(struct fctr_plan *p, const struct fctr_spec *spec)
{
	bool early = p->seccomp_len && fctr_filter_lets_start(p->seccomp, p->seccomp_len);

	add(p, FCTR_OP_BOUNDING, FCTR_ST_CAPS)->c = spec->caps[FCTR_CAP_BOUNDING];
	if (spec->no_new_privs)
		add(p, FCTR_OP_NNP, FCTR_ST_NNP);
	if (early)
		add(p, FCTR_OP_SECCOMP, FCTR_ST_SECCOMP);
	p->park_at = p->start.n;
	return early;
}

static void credentials(struct fctr_plan *p, const struct fctr_spec *spec, bool filtered)
{
	struct fctr_step *s;
	bool filter = p->seccomp_len && !filtered;

	label(p, "/proc/self/attr/apparmor/exec", "exec ", spec->apparmor);
	label(p, "/proc/self/attr/exec", "", spec->selinux);
	if (!p->parks)
		add(p, FCTR_OP_BOUNDING, FCTR_ST_CAPS)->c = spec->caps[FCTR_CAP_BOUNDING];
	if (!spec->no_new_privs && filter)	/* the filter then needs the power we are about to drop */
		add(p, FCTR_OP_SECCOMP, FCTR_ST_SECCOMP);
	add(p, FCTR_OP_USER, FCTR_ST_USER);
	s = add(p, FCTR_OP_CAPSET, FCTR_ST_CAPS);
	s->a = (int64_t)spec->caps[FCTR_CAP_EFFECTIVE];
	s->b = (int64_t)spec->caps[FCTR_CAP_PERMITTED];
	s->c = spec->caps[FCTR_CAP_INHERITABLE];
	if (spec->caps[FCTR_CAP_AMBIENT])
		add(p, FCTR_OP_AMBIENT, FCTR_ST_CAPS)->c = spec->caps[FCTR_CAP_AMBIENT];
	if (forks_late(p, spec)) {
		add(p, FCTR_OP_FORK, FCTR_ST_CLONE);
		add(p, FCTR_OP_STDIO, FCTR_ST_STDIO);	/* a session is the child's own */
	}
	add(p, FCTR_OP_PDEATHSIG, FCTR_ST_WAIT);	/* a change of credentials would clear it */
	if (spec->no_new_privs && !p->parks)
		add(p, FCTR_OP_NNP, FCTR_ST_NNP);
	add(p, FCTR_OP_CLOSE_FDS, FCTR_ST_FDS);
	add(p, FCTR_OP_CWD, FCTR_ST_CWD)->s1 = fctr_blob_str(p, spec->cwd ? spec->cwd : "/");
	if (spec->no_new_privs && filter)
		add(p, FCTR_OP_SECCOMP, FCTR_ST_SECCOMP);
	add(p, FCTR_OP_EXEC, FCTR_ST_EXEC);
}

int fctr_compile_process(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err)
{
	char text[16];
	bool filtered = false;

	(void)err;
	/* a descriptor opened in a shared table would stay with us if the child were killed just then */
	p->share_files = (p->slot_pids || (p->pid_prepared && !spec->n_sysctl)) && spec->oom_score_adj == INT_MIN &&
			 spec->ns[FCTR_NS_TIME].mode == FCTR_NS_HOST;
	for (size_t i = 0; i < spec->n_mounts; i++)
		if (spec->mounts[i].kind == FCTR_MNT_CGROUP)
			p->share_files = false;
	p->parks = p->share_files && p->pooled && !p->tenant && !spec->apparmor && !spec->selinux &&
		   !fctr_park_small(&spec->limits);
	/* the host's /proc is still there: these are about the calling process itself */
	if (spec->oom_score_adj != INT_MIN) {
		snprintf(text, sizeof(text), "%d", spec->oom_score_adj);
		add(p, FCTR_OP_OOM, FCTR_ST_OOM)->s1 = fctr_blob_str(p, text);
	}
	add(p, FCTR_OP_TASKS, FCTR_ST_CGROUP_JOIN)->slot = FCTR_SLOT_TASKS;
	join_namespaces(p, spec);
	if (p->mode == FCTR_MODE_TWO_STEP)
		add(p, FCTR_OP_FORK_VM, FCTR_ST_CLONE)->a = CLONE_NEWPID;
	else if (p->mode == FCTR_MODE_STUB && (spec->ns[FCTR_NS_PID].mode != FCTR_NS_HOST || p->time_fork)) {
		if (spec->ns[FCTR_NS_PID].mode == FCTR_NS_JOIN)
			join(p, FCTR_SLOT_PID, CLONE_NEWPID, FCTR_ST_NAMESPACE);
		if (!forks_late(p, spec))
			add(p, FCTR_OP_FORK, FCTR_ST_CLONE)->a = p->pid_private ? CLONE_NEWPID : 0;
	}
	if (p->own_mnt) {
		if (p->has_userns && !p->pivoted)
			add(p, FCTR_OP_CHDIR, FCTR_ST_PIVOT)->s1 = fctr_blob_str(p, "/r");
		if (p->slot_pids && p->slot_proc.n) {
			add(p, FCTR_OP_SLOT_PROC, FCTR_ST_PROC)->s1 = fctr_blob_str(p, "/proc");
		} else if (!p->pid_prepared && !p->slot_pids) {
			if (p->slot_proc.n)	/* the last job's */
				add(p, FCTR_OP_UNMOUNT, FCTR_ST_PROC)->s1 = fctr_blob_str(p, "/proc");
			fctr_compile_proc_mounts(p, spec, &p->start, "");
		}
		cgroup_mounts(p, spec);
		if (p->has_userns && !p->pivoted)
			add(p, FCTR_OP_PIVOT, FCTR_ST_PIVOT);
	}
	attributes(p, spec);
	if (p->parks)
		filtered = park(p, spec);
	if (!forks_late(p, spec))
		add(p, FCTR_OP_STDIO, FCTR_ST_STDIO);
	credentials(p, spec, filtered);
	fctr_compile_keeper(p, spec);
	return 0;
}
