# Layers as a mount of the caller's (csrc/layers.c). Included by _core.pyx.


def mount_layers(list lowers, int userns=-1, upper=None):
    """A descriptor of a mount of these layers, topmost first, that is nowhere attached; made in a user
    namespace where that is needed. Read-only, but with an upper directory (`<upper>.work` is beside it)."""
    cdef Memory mem = Memory()
    cdef fctr_error err
    cdef const char **v = mem.texts(lowers)
    cdef bytes data = b"" if upper is None else os_fsencode(upper)
    cdef const char *top = NULL
    if upper is not None:
        top = data
    cdef size_t n = len(lowers)
    cdef int fd
    with nogil:
        fd = fctr_mount_layers(v, n, top, userns, &err)
    if fd < 0:
        raise _error(&err)
    return fd


def mount_attach(int mount, target):
    """Attach it at a directory. Raises OSError."""
    cdef bytes path = os_fsencode(target)
    if fctr_mount_attach(mount, path) < 0:
        raise OSError(errno, strerror(errno), target)


def mount_detach(target):
    """Take off what is mounted on top at this path. Raises OSError."""
    cdef bytes data = os_fsencode(target)
    cdef const char *path = data
    cdef int r
    with nogil:
        r = fctr_mount_detach(path)
    if r < 0:
        raise OSError(errno, strerror(errno), target)
