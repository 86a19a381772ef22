# A started container, and the pipes of one that is waited for: included by _core.pyx.

cdef class Running:
    """A started container, until release()."""
    cdef fctr_container *c
    cdef Plan plan
    cdef Running target  # of an exec
    cdef int users       # calls in flight in any thread: it is freed by the last
    cdef bint leaving

    def __dealloc__(self):
        cdef fctr_error err
        if self.c == NULL:
            return
        if self.plan is None or self.plan.ctx.p == NULL:    # too late to be tidy: end it
            fctr_kill_all(self.c, &err)
            return
        with nogil:
            fctr_release(self.c)

    cdef int check(self) except -1:
        if self.c == NULL or self.leaving:
            raise ValueError("the container is released")
        return 0

    cdef int enter(self, bint group=False) except -1:
        """Before the GIL is let go. group: its control group is used, an exec's is its container's."""
        self.check()
        if group and self.target is not None:
            self.target.enter()
        self.users += 1
        return 0

    cdef int leave(self, bint group=False) except -1:
        self.users -= 1
        if group and self.target is not None:
            self.target.leave()
        if self.leaving and self.users == 0:
            self.free()
        return 0

    cdef int free(self) except -1:
        cdef fctr_container *c = self.c
        if c != NULL:
            self.c = NULL
            with nogil:
                fctr_release(c)
        return 0

    @property
    def pid(self):
        self.check()
        return fctr_container_pid(self.c)

    @property
    def pidfd(self):
        self.check()
        return fctr_container_pidfd(self.c)

    @property
    def warm(self):
        """Whether its start found something prepared."""
        self.check()
        return bool(fctr_container_warm(self.c))

    @property
    def master(self):
        self.check()
        return fctr_container_master(self.c)

    cdef tuple result(self, fctr_exit *e):
        return (e.code, e.lost, e.oom, _usage(&e.usage))

    def wait(self, double timeout):
        """(code, lost, oom, usage), or None when `timeout` seconds passed; negative: for ever."""
        cdef fctr_exit e
        cdef fctr_error err
        cdef int r, ms = -1 if timeout < 0 else <int>min(timeout * 1000 + 0.999, 2000000000.0)
        cdef double until = 0
        if timeout > 0:
            from time import monotonic
            until = monotonic() + timeout
        while True:
            self.enter()
            with nogil:
                r = fctr_wait(self.c, ms, &e, &err)
            self.leave()
            if r == 1:
                return self.result(&e)
            if r < 0 and err.err != EINTR:
                raise _error(&err)
            PyErr_CheckSignals()
            if timeout == 0 and r == 0:
                return None
            if timeout > 0:
                left = until - monotonic()
                if left <= 0:
                    return None
                ms = <int>(left * 1000 + 0.999)

    def communicate(self, Io io, double timeout):
        """As wait(), reading and writing the pipes of `io` meanwhile."""
        cdef fctr_exit e
        cdef fctr_error err
        cdef int r, ms = -1 if timeout < 0 else <int>min(timeout * 1000 + 0.999, 2000000000.0)
        cdef double until = 0
        if timeout >= 0:
            from time import monotonic
            until = monotonic() + timeout
        while True:
            self.enter()
            with nogil:
                r = fctr_communicate(self.c, &io.io, ms, &e, &err)
            self.leave()
            if r == 1:
                return self.result(&e)
            if r < 0 and err.err != EINTR:
                raise _error(&err)
            PyErr_CheckSignals()
            if r == 0 and timeout >= 0:
                return None
            if timeout >= 0:
                ms = <int>max((until - monotonic()) * 1000 + 0.999, 0)

    def finish(self, int in_fd, int out_fd, int err_fd, bytes input, double timeout, bint stamps, limit=None,
               list outputs=None):
        """Wait and be done: (code, lost, oom, timed_out, out, err, usage, timings or None, pid, more, fds).

        in_fd, out_fd, err_fd: our ends of its pipes, non-blocking, closed here, or -1; input for the
        first; timeout in seconds, negative for none: then everything in it is killed. limit: bytes of each
        output kept; more: 1 if there was more of the first, 2 of the second, and 4 if the start found
        something prepared. outputs: paths in it to be opened at its end; fds: their descriptors, or the exception of what could not be.
        """
        cdef Io io
        cdef bint timed_out = False
        cdef int more = 0
        out = err = fds = None
        try:
            if in_fd < 0 and out_fd < 0 and err_fd < 0:
                io = None
                got = self.wait(timeout)
                if got is None:
                    timed_out = True
                    self.kill_all()
                    got = self.wait(-1)
            else:
                io = Io(in_fd, out_fd, err_fd, input)
                if limit is not None:
                    io.io.limit = <size_t>limit
                got = self.communicate(io, timeout)
                if got is None:
                    timed_out = True
                    self.kill_all()
                    got = self.communicate(io, -1)
                out, err = io.output()
                more = io.io.out_more | io.io.err_more << 1
            pid = fctr_container_pid(self.c)
            timings = self.timings() if stamps else None
            if fctr_container_warm(self.c):
                more |= 4
            if outputs is not None:
                try:
                    fds = self.take(outputs)
                except Exception as error:
                    fds = error
        finally:
            self.release()
        return (got[0], got[1], got[2], timed_out, out, err, got[3], timings, pid, more, fds)

    def take(self, list paths):
        """Descriptors of regular files in it, opened for reading with the job's rights; -1: not there."""
        cdef Memory mem = Memory()
        cdef fctr_error error
        cdef size_t i, n = len(paths)
        cdef int *fds = <int *>mem.array(n + 1, sizeof(int))
        cdef const char **v = <const char **>mem.texts(paths)
        cdef int r
        self.enter()
        with nogil:
            r = fctr_take_files(self.c, v, n, fds, &error)
        self.leave()
        if r < 0:
            raise _error(&error)
        return [fds[i] for i in range(n)]

    def timings(self):
        """(acquire, spawn, run, collect, [(stage, µs) in order]), all in µs."""
        cdef const fctr_timings *t
        self.check()
        t = fctr_container_timings(self.c)
        stages = [(fctr_stage_name(t.stage[i]).decode(), t.us[i]) for i in range(t.n)]
        return (t.acquire, t.spawn, t.run, t.collect, stages)

    def signal(self, int sig):
        cdef fctr_error err
        self.check()
        if fctr_signal(self.c, sig, &err) < 0:
            raise _error(&err)

    def kill_all(self):
        cdef fctr_error err
        cdef int r
        cdef bint group = self.target is None or self.target.c != NULL and not self.target.leaving
        if not group:   # its container is gone, and it with it
            return self.signal(9)
        self.enter(True)
        with nogil:
            r = fctr_kill_all(self.c, &err)
        self.leave(True)
        if r < 0:
            raise _error(&err)

    def freeze(self, bint frozen):
        cdef fctr_error err
        cdef int r
        self.enter(True)
        with nogil:
            r = fctr_freeze(self.c, frozen, &err)
        self.leave(True)
        if r < 0:
            raise _error(&err)

    def stats(self):
        cdef fctr_error err
        cdef fctr_usage u
        cdef int r
        self.enter(True)
        with nogil:
            r = fctr_stats(self.c, &u, &err)
        self.leave(True)
        if r < 0:
            raise _error(&err)
        return _usage(&u)

    def update(self, dict limits):
        cdef Memory mem = Memory()
        cdef fctr_limits l
        cdef fctr_error err
        cdef int r
        fill_limits(mem, limits, &l)
        self.enter(True)
        with nogil:
            r = fctr_update(self.c, &l, &err)
        self.leave(True)
        if r < 0:
            raise _error(&err)

    def pids(self):
        cdef fctr_error err
        cdef int *v = NULL
        cdef size_t n = 0
        cdef int r
        self.enter(True)
        with nogil:
            r = fctr_pids(self.c, &v, &n, &err)
        self.leave(True)
        if r < 0:
            raise _error(&err)
        try:
            return [v[i] for i in range(n)]
        finally:
            free(v)

    def cgroups(self):
        """{controller: path below its mount}."""
        cdef char buf[4096]
        cdef int r
        self.enter(True)
        r = fctr_container_cgroup_paths(self.c, buf, sizeof(buf))
        self.leave(True)
        if r < 0 or r >= <int>sizeof(buf):
            raise OSError("the groups' paths do not fit")
        text = (<bytes>buf).decode("utf-8", "surrogateescape")
        return dict([line.split(":", 1) for line in text.splitlines() if ":" in line])

    def lanes(self):
        """From now on commands in it are started by processes that have joined it once."""
        cdef fctr_error err
        self.check()
        if fctr_container_lanes(self.c, &err) < 0:
            raise _error(&err)

    def exec(self, Plan plan, Launch launch):
        cdef Running run = Running.__new__(Running)
        cdef fctr_error err
        cdef int r
        plan.check()
        self.enter()
        plan.users += 1
        run.plan = plan
        with nogil:
            r = fctr_exec(self.c, plan.p, &launch.l, &run.c, &err)
        plan.leave()
        self.leave()
        if r < 0:
            raise _error(&err, launch.argv0)
        run.target = self
        return run

    def release(self):
        """Kill what still runs; the remains are cleared away in the background."""
        self.leaving = True
        if self.users == 0:
            self.free()

    def forget(self):
        """In a forked child: the container is the parent's."""
        self.c = NULL


cdef class Io:
    """Our ends of a container's pipes, and what has come through them so far."""
    cdef fctr_io io
    cdef bytes kept

    def __cinit__(self, int in_fd, int out_fd, int err_fd, bytes input):
        memset(&self.io, 0, sizeof(fctr_io))
        self.kept = input
        self.io.in_ = in_fd
        self.io.limit = <size_t>-1
        self.io.out = out_fd
        self.io.err = err_fd
        if input is not None:
            self.io.input = <const char *>input
            self.io.input_len = len(input)

    def output(self):
        """(stdout, stderr) read so far, each bytes."""
        return ((<char *>self.io.out_buf)[:self.io.out_len] if self.io.out_len else b"",
                (<char *>self.io.err_buf)[:self.io.err_len] if self.io.err_len else b"")

    def __dealloc__(self):
        from os import close
        for fd in (self.io.in_, self.io.out, self.io.err):
            if fd >= 0:
                close(fd)
        free(self.io.out_buf)
        free(self.io.err_buf)
