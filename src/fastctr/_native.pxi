# Plain Python values -> the structs of fctr.h. Included by _core.pyx.
# A Memory keeps everything the pointers point to alive until the C side has made its own copies.

cdef class Memory:
    cdef list kept
    cdef list blocks

    def __cinit__(self):
        self.kept = []
        self.blocks = []

    def __dealloc__(self):
        cdef size_t p
        for p in self.blocks:
            free(<void *>p)

    cdef void *array(self, size_t n, size_t size) except NULL:
        cdef void *p = calloc(n if n else 1, size)
        if p == NULL:
            raise MemoryError()
        self.blocks.append(<size_t>p)
        return p

    cdef const char *text(self, value) except? NULL:
        if value is None:
            return NULL
        cdef bytes data = value if isinstance(value, bytes) else os_fsencode(value)
        if b"\0" in data:
            raise ValueError("embedded null byte")
        self.kept.append(data)
        return data

    cdef const char **texts(self, values) except NULL:
        """A NULL-terminated array."""
        cdef size_t i = 0
        cdef const char **v = <const char **>self.array(len(values) + 1, sizeof(char *))
        for value in values:
            v[i] = self.text(value)
            i += 1
        return v


cdef int fill_limits(Memory mem, dict given, fctr_limits *to) except -1:
    cdef fctr_iolimit *io
    cdef fctr_hugelimit *huge
    cdef fctr_kv *kv
    cdef size_t i
    to.cpu_quota_us = given["cpu_quota_us"]
    to.cpu_period_us = given["cpu_period_us"]
    to.cpu_burst_us = given["cpu_burst_us"]
    to.cpu_weight = given["cpu_weight"]
    to.cpu_shares = given["cpu_shares"]
    to.cpu_idle = given["cpu_idle"]
    to.cpuset_cpus = mem.text(given["cpuset_cpus"])
    to.cpuset_mems = mem.text(given["cpuset_mems"])
    to.memory_max = given["memory_max"]
    to.memory_soft = given["memory_soft"]
    to.memory_swap_max = given["memory_swap_max"]
    to.memory_swappiness = given["memory_swappiness"]
    to.pids_max = given["pids_max"]
    to.io_weight = given["io_weight"]
    to.n_io = len(given["io"])
    io = <fctr_iolimit *>mem.array(to.n_io, sizeof(fctr_iolimit))
    for i, entry in enumerate(given["io"]):
        io[i].major, io[i].minor, io[i].rbps, io[i].wbps, io[i].riops, io[i].wiops, io[i].weight = entry
    to.io = io
    to.n_huge = len(given["huge"])
    huge = <fctr_hugelimit *>mem.array(to.n_huge, sizeof(fctr_hugelimit))
    for i, (size, amount) in enumerate(given["huge"]):
        huge[i].size = mem.text(size)
        huge[i].bytes = amount
    to.huge = huge
    to.n_unified = len(given["unified"])
    kv = <fctr_kv *>mem.array(to.n_unified, sizeof(fctr_kv))
    for i, (key, value) in enumerate(given["unified"]):
        kv[i].key = mem.text(key)
        kv[i].value = mem.text(value)
    to.unified = kv
    return 0


cdef fctr_idrange *ranges(Memory mem, given) except NULL:
    cdef fctr_idrange *v = <fctr_idrange *>mem.array(len(given), sizeof(fctr_idrange))
    cdef size_t i
    for i, entry in enumerate(given):
        v[i].inside, v[i].outside, v[i].count = entry
    return v


cdef list NS_ORDER = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"]


cdef int fill_mounts(Memory mem, list given, dict idmap_fds, fctr_spec *to) except -1:
    cdef fctr_mount *v = <fctr_mount *>mem.array(len(given), sizeof(fctr_mount))
    cdef const unsigned char[::1] view
    cdef size_t i
    for i, m in enumerate(given):
        v[i].kind = m["kind"]
        v[i].flags = m["flags"]
        v[i].source = mem.text(m["source"])
        v[i].target = mem.text(m["target"])
        v[i].attr_set = m["attr_set"]
        v[i].attr_clr = m["attr_clr"]
        v[i].propagation = m["propagation"]
        v[i].size = m["size"]
        v[i].mode = m["mode"]
        v[i].uid = m["uid"]
        v[i].gid = m["gid"]
        v[i].idmap_fd = -1 if m["idmap"] is None else idmap_fds[tuple(m["idmap"])]
        data = m["data"]
        if data is not None:
            mem.kept.append(data)
            v[i].data = <const char *>(<bytes>data)
            v[i].n_data = len(data)
    to.mounts = v
    to.n_mounts = len(given)
    return 0


cdef fctr_mount *fill_files(Memory mem, list given) except NULL:
    """Files of one launch: (path, content, mode, uid, gid), the ids -1 for the job's own."""
    cdef fctr_mount *v = <fctr_mount *>mem.array(len(given), sizeof(fctr_mount))
    cdef size_t i
    for i, (path, data, mode, uid, gid) in enumerate(given):
        v[i].target = mem.text(path)
        mem.kept.append(data)
        v[i].data = <const char *>(<bytes>data)
        v[i].n_data = len(data)
        v[i].mode = mode
        v[i].uid = <uint32_t>(<int64_t>uid & 0xffffffff)
        v[i].gid = <uint32_t>(<int64_t>gid & 0xffffffff)
    return v


cdef int fill_spec(Memory mem, dict given, dict ns_fds, dict idmap_fds, fctr_spec *to) except -1:
    cdef fctr_device *dev
    cdef fctr_rlimit *lim
    cdef fctr_devrule *rule
    cdef fctr_kv *kv
    cdef uint32_t *groups
    cdef bytes blob
    cdef size_t i
    memset(to, 0, sizeof(fctr_spec))
    to.rootfs_kind = given["rootfs_kind"]
    to.rootfs = mem.text(given["rootfs"])
    to.lower = mem.texts(given["lower"])
    to.n_lower = len(given["lower"])
    to.lower_fixed = given["lower_fixed"]
    to.upper = mem.text(given["upper"])
    to.work = mem.text(given["work"])
    to.scratch = mem.text(given["scratch"])
    to.scratch_size = given["scratch_size"]
    to.rootfs_readonly = given["rootfs_readonly"]
    to.rootfs_propagation = given["rootfs_propagation"]
    for i, name in enumerate(NS_ORDER):
        mode = given["ns"][name][0]
        to.ns[i].mode = {"host": 0, "new": 1, "join": 2}[mode]
        to.ns[i].fd = ns_fds.get(name, -1)
        if name == "user" and mode == "new":
            to.ns[i].mode = 2
    to.uid_map = ranges(mem, given["uid_map"])
    to.n_uid_map = len(given["uid_map"])
    to.gid_map = ranges(mem, given["gid_map"])
    to.n_gid_map = len(given["gid_map"])
    to.monotonic_ns = given["monotonic_ns"]
    to.boottime_ns = given["boottime_ns"]
    to.hostname = mem.text(given["hostname"])
    to.domainname = mem.text(given["domainname"])
    fill_mounts(mem, given["mounts"], idmap_fds, to)
    to.dev = given["dev"]
    to.shm_size = given["shm_size"]
    to.n_devices = len(given["devices"])
    dev = <fctr_device *>mem.array(to.n_devices, sizeof(fctr_device))
    for i, d in enumerate(given["devices"]):
        dev[i].path = mem.text(d[0])
        dev[i].type = ord(d[1])
        dev[i].major, dev[i].minor, dev[i].mode, dev[i].uid, dev[i].gid = d[2:]
    to.devices = dev
    to.masked = mem.texts(given["masked"])
    to.n_masked = len(given["masked"])
    to.readonly = mem.texts(given["readonly"])
    to.n_readonly = len(given["readonly"])
    to.n_sysctl = len(given["sysctl"])
    kv = <fctr_kv *>mem.array(to.n_sysctl, sizeof(fctr_kv))
    for i, (key, value) in enumerate(given["sysctl"]):
        kv[i].key = mem.text(key)
        kv[i].value = mem.text(value)
    to.sysctl = kv
    for i in range(5):
        to.caps[i] = given["caps"][i]
    to.no_new_privs = given["no_new_privs"]
    blob = given["seccomp"]
    if blob is not None:
        mem.kept.append(blob)
        to.seccomp = <const char *>blob
        to.seccomp_len = len(blob) // 8
    to.seccomp_flags = given["seccomp_flags"]
    to.apparmor = mem.text(given["apparmor"])
    to.selinux = mem.text(given["selinux"])
    to.n_rlimits = len(given["rlimits"])
    lim = <fctr_rlimit *>mem.array(to.n_rlimits, sizeof(fctr_rlimit))
    for i, (resource, soft, hard) in enumerate(given["rlimits"]):
        lim[i].resource = resource
        lim[i].soft = soft & 0xFFFFFFFFFFFFFFFF
        lim[i].hard = hard & 0xFFFFFFFFFFFFFFFF
    to.rlimits = lim
    to.oom_score_adj = given["oom_score_adj"]
    to.nice = given["nice"]
    blob = given["affinity"]
    if blob is not None:
        mem.kept.append(blob)
        to.affinity = <const char *>blob
        to.affinity_len = len(blob)
    to.umask = given["umask"]
    to.uid = given["uid"]
    to.gid = given["gid"]
    to.user = mem.text(given["user"])
    to.n_groups = len(given["groups"])
    groups = <uint32_t *>mem.array(to.n_groups, sizeof(uint32_t))
    for i, gid in enumerate(given["groups"]):
        groups[i] = gid
    to.groups = groups
    to.groups_given = given["groups_given"]
    to.cwd = mem.text(given["cwd"])
    to.cwd_create = given["cwd_create"]
    to.init = given["init"]
    to.tenant = given.get("tenant", False)
    to.zygote = given.get("zygote", False)
    to.cgroup = given["cgroup"]
    to.cgroup_parent = mem.text(given["cgroup_parent"])
    fill_limits(mem, given["limits"], &to.limits)
    to.n_devrules = len(given["devrules"])
    rule = <fctr_devrule *>mem.array(to.n_devrules, sizeof(fctr_devrule))
    for i, (allow, kind, major, minor, access) in enumerate(given["devrules"]):
        rule[i].allow = allow
        rule[i].type = ord(kind)
        rule[i].major = major
        rule[i].minor = minor
        rule[i].access = access
    to.devrules = rule
    return 0
