"""The C core in Python's terms. Nobody but this module knows csrc/fctr.h.

Values go in as the plain dicts of Spec.to_native() and Limits.to_native(); errors of the core come
out as exceptions of fastctr.errors. The GIL is released for every start and every wait.
"""
# cython: language_level=3, boundscheck=False, wraparound=False
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from os import fsencode as os_fsencode
from os import strerror

include "_native.pxi"
include "_untar.pxi"
include "_layers.pxi"

UNSET = -(2**63)
USAGE_FIELDS = (
    "cpu_user", "cpu_system", "cpu_total", "nr_throttled", "throttled", "memory_current", "memory_peak",
    "memory_limit", "oom_kills", "pids_current", "pids_peak", "io_read_bytes", "io_write_bytes", "io_reads",
    "io_writes", "cpu_pressure", "memory_pressure", "io_pressure",
)


cdef object _error(fctr_error *err, argv0=None):
    from .errors import from_native
    what = err.what.decode("utf-8", "surrogateescape")
    return from_native(fctr_stage_name(err.stage).decode(), err.index, err.err, what, argv0)


cdef tuple _usage(const fctr_usage *u):
    cdef const int64_t *v = <const int64_t *>u
    return tuple([None if v[i] == FCTR_UNSET else v[i] for i in range(18)])


cdef class Context:
    """What all plans of this process share; see struct fctr_config for the arguments."""
    cdef fctr_ctx *p

    def __cinit__(self, str runtime_dir, str owner, int stub_fd, int warm_max, int idle_ms, bint privileged):
        cdef fctr_error err
        cdef fctr_config config
        cdef bytes dir_ = os_fsencode(runtime_dir)
        cdef bytes name = os_fsencode(owner)
        config.runtime_dir = dir_
        config.owner = name
        config.stub_fd = stub_fd
        config.warm_max = warm_max
        config.idle_ms = idle_ms
        config.privileged = privileged
        if fctr_ctx_open(&config, &self.p, &err) < 0:
            raise _error(&err)

    def drain(self, bint keep_warm=False):
        """Wait for the background to have torn everything down; drop prepared containers too."""
        with nogil:
            fctr_ctx_drain(self.p, keep_warm)

    def close(self):
        """Drain, end the thread, remove this process's groups and lock. Not to be used afterwards."""
        cdef fctr_ctx *p = self.p
        if p != NULL:
            with nogil:
                fctr_ctx_close(p)
            self.p = NULL

    def forked(self):
        """In a forked child: close our copies of the parent's descriptors."""
        if self.p != NULL:
            fctr_ctx_forked(self.p)
            self.p = NULL

    def sweep(self):
        """Remove what dead processes left behind. Returns how many there were."""
        cdef int n
        with nogil:
            n = fctr_ctx_sweep(self.p)
        return n

    def note_scratch(self, path):
        """Have this directory removed by whoever sweeps after us, should we die."""
        cdef bytes data = os_fsencode(path)
        if fctr_ctx_note_scratch(self.p, data) < 0:
            raise OSError("the owner file cannot be written")

    def counters(self):
        """Figures of the pools: started, prepared, warm_hits, net_new, net_reused, cg_new, …"""
        cdef fctr_counters c
        fctr_ctx_counters(self.p, &c)
        return {"started": c.started, "prepared": c.prepared, "warm_hits": c.warm_hits, "net_new": c.net_new,
                "net_reused": c.net_reused, "cg_new": c.cg_new, "cg_reused": c.cg_reused,
                "pending": c.pending, "warm": c.warm}


def userns_create(list uids, list gids, newuidmap=None, newgidmap=None):
    """A descriptor of a new user namespace with these maps; user_namespaces(7)."""
    cdef Memory mem = Memory()
    cdef fctr_error err
    cdef fctr_idrange *u = ranges(mem, uids)
    cdef fctr_idrange *g = ranges(mem, gids)
    cdef const char *nu = mem.text(newuidmap)
    cdef const char *ng = mem.text(newgidmap)
    cdef size_t n_u = len(uids), n_g = len(gids)
    cdef int fd
    with nogil:
        fd = fctr_userns_create(u, n_u, g, n_g, nu, ng, &err)
    if fd < 0:
        raise _error(&err)
    return fd


def seccomp_compile(int default_action, int default_errno, list archs, list rules):
    """A struct sock_filter array; see fastctr.seccomp for the arguments."""
    cdef Memory mem = Memory()
    cdef fctr_error err
    cdef fctr_seccomp_profile p
    cdef fctr_seccomp_rule *r = <fctr_seccomp_rule *>mem.array(len(rules), sizeof(fctr_seccomp_rule))
    cdef int *arch = <int *>mem.array(len(archs), sizeof(int))
    cdef fctr_seccomp_arg *a
    cdef void *prog
    cdef size_t count, i, j
    cdef int ok
    for i, number in enumerate(archs):
        arch[i] = number
    for i, (names, action, data, args) in enumerate(rules):
        r[i].names = mem.texts(names)
        r[i].n_names = len(names)
        r[i].action = action
        r[i].data = data
        a = <fctr_seccomp_arg *>mem.array(len(args), sizeof(fctr_seccomp_arg))
        for j, (index, op, value, value2) in enumerate(args):
            a[j].index = index
            a[j].op = op
            a[j].value = value
            a[j].value2 = value2
        r[i].args = a
        r[i].n_args = len(args)
    p.default_action = default_action
    p.default_data = default_errno
    p.archs = arch
    p.n_archs = len(archs)
    p.rules = r
    p.n_rules = len(rules)
    with nogil:
        ok = fctr_seccomp_compile(&p, &prog, &count, &err)
    if ok < 0:
        raise _error(&err)
    try:
        return (<char *>prog)[:count * 8]
    finally:
        free(prog)


cdef class Launch:
    """The launch-time arguments, converted. Holds what they point to."""
    cdef fctr_launch l
    cdef fctr_limits limits
    cdef Memory mem
    cdef object argv0

    def __cinit__(self, list argv, list env, cwd, tuple stdio, list fds, limits, tty, bint die_with_thread,
                  bint stamps, bint keep=False, unsigned linger_us=0, user=None, list files=None):
        cdef Memory mem = Memory()
        cdef int *v
        cdef size_t i
        self.mem = mem
        self.argv0 = argv[0] if argv else ""
        memset(&self.l, 0, sizeof(fctr_launch))
        self.l.argv = mem.texts(argv)
        self.l.envp = mem.texts(env)
        self.l.cwd = mem.text(cwd)
        self.l.stdio[0], self.l.stdio[1], self.l.stdio[2] = stdio
        if fds:
            v = <int *>mem.array(2 * len(fds), sizeof(int))
            for i, (ours, theirs) in enumerate(fds):
                v[2 * i] = ours
                v[2 * i + 1] = theirs
            self.l.fds = v
            self.l.n_fds = len(fds)
        if limits is not None:
            fill_limits(mem, limits, &self.limits)
            self.l.limits = &self.limits
        if user is not None:
            text, uid, gid = user
            self.l.user = mem.text(text)
            self.l.ids_given = text is None
            self.l.uid = uid
            self.l.gid = gid
        if files:
            self.l.files = fill_files(mem, files)
            self.l.n_files = len(files)
        if tty is not None:
            self.l.tty = True
            self.l.rows, self.l.cols = tty
        self.l.die_with_thread = die_with_thread
        self.l.stamps = stamps
        self.l.keep = keep
        self.l.linger_us = linger_us


cdef class Plan:
    """A compiled plan. ns_fds: descriptors of namespaces to join by name; idmap_fds: user namespaces
    by their ranges."""
    cdef fctr_plan *p
    cdef Context ctx
    cdef int users       # launches in flight in other threads
    cdef bint closing

    def __cinit__(self, Context ctx, dict native, dict ns_fds, dict idmap_fds):
        cdef Memory mem = Memory()
        cdef fctr_error err
        cdef fctr_spec spec
        cdef int r
        self.ctx = ctx
        fill_spec(mem, native, ns_fds, idmap_fds, &spec)
        with nogil:
            r = fctr_plan_compile(ctx.p, &spec, &self.p, &err)
        if r < 0:
            raise _error(&err)

    def close(self):
        """Drop what is prepared. Containers that run keep what they need."""
        cdef fctr_plan *p = self.p
        self.closing = True
        if p != NULL and self.users == 0 and self.ctx.p != NULL:
            self.p = NULL
            with nogil:
                fctr_plan_close(p)

    cdef int leave(self) except -1:
        self.users -= 1
        if self.closing:
            self.close()
        return 0

    def forget(self):
        """In a forked child: the plan is the parent's."""
        self.p = NULL

    def __dealloc__(self):
        if self.p != NULL and self.ctx.p != NULL:
            with nogil:
                fctr_plan_close(self.p)

    def warm(self, int n):
        cdef fctr_error err
        cdef int r
        self.check()
        self.users += 1
        with nogil:
            r = fctr_plan_warm(self.p, n, &err)
        self.leave()
        if r < 0:
            raise _error(&err)

    def slots(self):
        """(ready, running, destroyed) of a tenant's containers."""
        cdef int ready, running, destroyed
        self.check()
        fctr_plan_slots(self.p, &ready, &running, &destroyed)
        return ready, running, destroyed

    def hold(self, int more):
        """Keep so many more prepared, whether it is used or not; negative: no longer."""
        if self.p == NULL or self.ctx.p == NULL or self.closing:
            return
        self.users += 1
        with nogil:
            fctr_plan_hold(self.p, more)
        self.leave()

    def counters(self):
        """(ready to the last step, prepared, to be kept prepared)."""
        cdef fctr_plan_counters c
        self.check()
        self.users += 1
        with nogil:
            fctr_plan_counters_(self.p, &c)
        self.leave()
        return c.ready, c.prepared, c.target

    def ready(self):
        """How many containers are prepared this moment; costs nothing."""
        self.check()
        return fctr_plan_ready(self.p)

    def steps(self):
        """(template, instance, start): how many steps each list has."""
        cdef int t, i
        self.check()
        n = fctr_plan_steps(self.p, &t, &i)
        return t, i, n

    cdef int check(self) except -1:
        if self.p == NULL or self.ctx.p == NULL or self.closing:
            raise ValueError("the plan is closed")
        return 0

    def launch(self, Launch launch):
        cdef Running run = Running.__new__(Running)
        cdef fctr_error err
        cdef int r
        self.check()
        run.plan = self
        self.users += 1
        with nogil:
            r = c_launch(self.p, &launch.l, &run.c, &err)
        self.leave()
        if r < 0:
            raise _error(&err, launch.argv0)
        return run


include "_running.pxi"
include "_zygote.pxi"
