# csrc/untar.h in Python's terms. Included by _core.pyx.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

UNTAR_MODES = ("layer", "merge")
UNTAR_DEVICES = ("make", "skip", "refuse")
UNTAR_FAULTS = ("", "bad", "limit", "system")


cdef fctr_idrange *id_map(Memory mem, map_) except NULL:
    cdef fctr_idrange *v = <fctr_idrange *>mem.array(len(map_), sizeof(fctr_idrange))
    for i, (inside, outside, count) in enumerate(map_):
        v[i].inside = inside
        v[i].outside = outside
        v[i].count = count
    return v


class UntarFault(Exception):
    """(kind, errno, entry, why): kind "bad", "limit" or "system"; entry bytes, may be empty; why a half-sentence."""


cdef object _untar_fault(fctr_untar_error *err):
    return UntarFault(UNTAR_FAULTS[err.fault], err.err, <bytes>err.entry, err.why.decode("utf-8", "backslashreplace"))


cdef class Untar:
    """A tar stream unpacked below the directory dirfd; csrc/untar.h says how.

    owner: (uid, gid) that everything belongs to, or None for the maps: tuples (inside, outside, count).
    """
    cdef fctr_untar *p
    cdef bint busy

    def __cinit__(self, int dirfd, str mode, str devices, bint userxattr, bint selinux, bint need_end, owner,
                  uid_map, gid_map, uint64_t max_entries, uint64_t max_size):
        cdef fctr_untar_config c
        cdef fctr_untar_error err
        cdef Memory mem = Memory()
        cdef int r
        memset(&c, 0, sizeof(c))
        c.dirfd = dirfd
        c.mode = UNTAR_MODES.index(mode)
        c.devices = UNTAR_DEVICES.index(devices)
        c.userxattr = userxattr
        c.selinux = selinux
        c.need_end = need_end
        if owner is not None:
            c.one_owner = True
            c.owner_uid, c.owner_gid = owner
        c.uid_map = id_map(mem, uid_map)
        c.n_uid_map = len(uid_map)
        c.gid_map = id_map(mem, gid_map)
        c.n_gid_map = len(gid_map)
        c.max_entries = max_entries
        c.max_size = max_size
        with nogil:
            r = fctr_untar_open(&c, &self.p, &err)
        if r < 0:
            raise _untar_fault(&err)

    cdef int enter(self) except -1:
        if self.p == NULL or self.busy:
            raise ValueError("the archive reader is closed or in use by another thread")
        self.busy = True
        return 0

    def own_thread(self):
        """Everything from here on is called in this thread alone, which has a umask of its own from now on."""
        self.enter()
        fctr_untar_own_thread(self.p)
        self.busy = False

    def feed(self, data):
        """The next bytes of the stream, any buffer. Raises UntarFault."""
        cdef Py_buffer view
        cdef fctr_untar_error err
        cdef int r
        self.enter()
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                with nogil:
                    r = fctr_untar_feed(self.p, view.buf, <size_t>view.len, &err)
            finally:
                PyBuffer_Release(&view)
        finally:
            self.busy = False
        if r < 0:
            raise _untar_fault(&err)

    def finish(self):
        """The stream is over. Raises UntarFault; else a dict of the figures of struct fctr_untar_stats, and
        implied: [path], missing: [(path, target)], hidden: [path] of whiteouts made, as bytes."""
        cdef fctr_untar_error err
        cdef fctr_untar_stats s
        cdef const char *path
        cdef const char *target
        cdef int r
        self.enter()
        with nogil:
            r = fctr_untar_finish(self.p, &err)
        self.busy = False
        if r < 0:
            raise _untar_fault(&err)
        fctr_untar_get_stats(self.p, &s)
        implied, missing, hidden = [], [], []
        while True:
            path = fctr_untar_implied(self.p)
            if path == NULL:
                break
            implied.append(<bytes>path)
        while True:
            path = fctr_untar_missing(self.p, &target)
            if path == NULL:
                break
            missing.append((<bytes>path, <bytes>target))
        while True:
            path = fctr_untar_whiteout(self.p)
            if path == NULL:
                break
            hidden.append(<bytes>path)
        return {"entries": s.entries, "size": s.size, "whiteouts": s.whiteouts, "skipped_devices": s.skipped_devices,
                "skipped_xattrs": s.skipped_xattrs, "root_opaque": bool(s.root_opaque),
                "root_seen": bool(s.root_seen), "implied": implied, "missing": missing, "hidden": hidden}

    def close(self):
        cdef fctr_untar *p = self.p
        if p != NULL and not self.busy:
            self.p = NULL
            fctr_untar_close(p)

    def __dealloc__(self):
        fctr_untar_close(self.p)


def remove_tree(int dirfd, name):
    """Remove `name` in the directory dirfd and all below it, however deep; no link is followed. Raises OSError."""
    cdef bytes text = name if isinstance(name, bytes) else os_fsencode(name)
    cdef const char *p = text
    cdef int r, code = 0
    if b"/" in text or b"\0" in text or text in (b"", b".", b".."):
        raise ValueError("a name in the directory is wanted, not a path")
    with nogil:
        r = fctr_remove_tree(dirfd, p)
        if r < 0:
            code = errno
    if r < 0:
        from os import strerror
        raise OSError(code, strerror(code), name)
