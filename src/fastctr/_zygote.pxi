# Jobs of a zygote: included by _core.pyx.

def zygote_prepare(Plan plan, limits, int sock, list nulls):
    """A job's container, all but its process: (Running to be adopted, descriptors to send, how many of those,
    from the first on, are the caller's to close). See fctr_zygote_prepare in fctr.h."""
    cdef Memory mem = Memory()
    cdef Running run = Running.__new__(Running)
    cdef fctr_error err
    cdef fctr_limits own
    cdef const fctr_limits *given = NULL
    cdef int fds[FCTR_ZYGOTE_FDS]
    cdef int *numbers = <int *>mem.array(len(nulls) + 1, sizeof(int))
    cdef size_t n_fds = 0, n_own = 0, i, n_nulls = len(nulls)
    cdef int r
    for i, number in enumerate(nulls):
        numbers[i] = number
    if limits is not None:
        fill_limits(mem, limits, &own)
        given = &own
    plan.check()
    run.plan = plan
    plan.users += 1
    with nogil:
        r = fctr_zygote_prepare(plan.p, given, sock, numbers, n_nulls, &run.c, fds, &n_fds, &n_own, &err)
    plan.leave()
    if r < 0:
        raise _error(&err)
    return run, [fds[i] for i in range(n_fds)], n_own


def zygote_adopt(Running run, int pidfd):
    """The process of a prepared job. The descriptor is taken, also when this fails."""
    cdef fctr_error err
    run.check()
    if fctr_zygote_adopt(run.c, pidfd, &err) < 0:
        raise _error(&err)


def stage_name(int stage):
    """The name of an enum fctr_stage, "" if there is none such."""
    cdef const char *name = fctr_stage_name(stage)
    return name.decode() if name != NULL else ""
