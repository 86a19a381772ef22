# The declarations of csrc/fctr.h, seccomp.h and untar.h: only _core knows them.
from libc.stdint cimport int16_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from "fctr.h" nogil:
    int64_t FCTR_UNSET
    int FCTR_NS_COUNT, FCTR_CAP_SETS
    enum: FCTR_MAX_STAMPS

    struct fctr_error:
        int stage, index, err
        char what[256]

    const char *fctr_stage_name(int stage)

    struct fctr_iolimit:
        uint32_t major, minor
        int64_t rbps, wbps, riops, wiops, weight
    struct fctr_hugelimit:
        const char *size
        int64_t bytes
    struct fctr_devrule:
        bint allow
        char type
        int64_t major, minor
        uint8_t access
    struct fctr_kv:
        const char *key
        const char *value
    struct fctr_limits:
        int64_t cpu_quota_us, cpu_period_us, cpu_burst_us, cpu_weight, cpu_shares, cpu_idle
        const char *cpuset_cpus
        const char *cpuset_mems
        int64_t memory_max, memory_soft, memory_swap_max, memory_swappiness, pids_max, io_weight
        const fctr_iolimit *io
        size_t n_io
        const fctr_hugelimit *huge
        size_t n_huge
        const fctr_kv *unified
        size_t n_unified
    struct fctr_usage:
        int64_t cpu_user_us, cpu_system_us, cpu_total_us
        int64_t nr_throttled, throttled_us
        int64_t memory_current, memory_peak, memory_limit
        int64_t oom_kills
        int64_t pids_current, pids_peak
        int64_t io_read_bytes, io_write_bytes, io_reads, io_writes
        int64_t cpu_pressure_us, memory_pressure_us, io_pressure_us
    struct fctr_ns:
        int mode, fd
    struct fctr_idrange:
        uint32_t inside, outside, count
    struct fctr_mount:
        int kind
        unsigned flags
        const char *source
        const char *target
        uint64_t attr_set, attr_clr, propagation
        int64_t size
        uint32_t mode, uid, gid
        int idmap_fd
        const void *data
        size_t n_data
    struct fctr_device:
        const char *path
        char type
        uint32_t major, minor, mode, uid, gid
    struct fctr_rlimit:
        int resource
        uint64_t soft, hard
    struct fctr_spec:
        int rootfs_kind
        const char *rootfs
        const char **lower
        size_t n_lower
        bint lower_fixed
        const char *upper
        const char *work
        const char *scratch
        int64_t scratch_size
        bint rootfs_readonly
        uint64_t rootfs_propagation
        fctr_ns ns[8]
        const fctr_idrange *uid_map
        size_t n_uid_map
        const fctr_idrange *gid_map
        size_t n_gid_map
        int64_t monotonic_ns, boottime_ns
        const char *hostname
        const char *domainname
        const fctr_mount *mounts
        size_t n_mounts
        bint dev
        int64_t shm_size
        const fctr_device *devices
        size_t n_devices
        const char **masked
        size_t n_masked
        const char **readonly
        size_t n_readonly
        const fctr_kv *sysctl
        size_t n_sysctl
        uint64_t caps[5]
        bint no_new_privs
        const void *seccomp
        size_t seccomp_len
        unsigned seccomp_flags
        const char *apparmor
        const char *selinux
        const fctr_rlimit *rlimits
        size_t n_rlimits
        int oom_score_adj, nice
        const void *affinity
        size_t affinity_len
        int umask
        uint32_t uid, gid
        const char *user
        const uint32_t *groups
        size_t n_groups
        bint groups_given
        const char *cwd
        bint cwd_create
        bint init
        bint tenant
        bint zygote
        bint cgroup
        const char *cgroup_parent
        fctr_limits limits
        const fctr_devrule *devrules
        size_t n_devrules

    struct fctr_ctx
    struct fctr_plan
    struct fctr_container
    struct fctr_config:
        const char *runtime_dir
        const char *owner
        int stub_fd, warm_max, idle_ms
        bint privileged
    struct fctr_counters:
        int64_t started, prepared, warm_hits, net_new, net_reused, cg_new, cg_reused, pending, warm

    int fctr_ctx_open(const fctr_config *config, fctr_ctx **out, fctr_error *err)
    void fctr_ctx_drain(fctr_ctx *ctx, bint keep_warm)
    void fctr_ctx_close(fctr_ctx *ctx)
    void fctr_ctx_forked(fctr_ctx *ctx)
    int fctr_ctx_sweep(fctr_ctx *ctx)
    void fctr_ctx_counters(fctr_ctx *ctx, fctr_counters *out)
    int fctr_ctx_note_scratch(fctr_ctx *ctx, const char *path)
    int fctr_userns_create(const fctr_idrange *uids, size_t n_uids, const fctr_idrange *gids, size_t n_gids,
                           const char *newuidmap, const char *newgidmap, fctr_error *err)
    int fctr_mount_layers(const char **lower, size_t n, const char *upper, int userns, fctr_error *err) nogil
    int fctr_mount_attach(int mount, const char *target) nogil
    int fctr_mount_detach(const char *target) nogil

    int fctr_plan_compile(fctr_ctx *ctx, const fctr_spec *spec, fctr_plan **out, fctr_error *err)
    void fctr_plan_close(fctr_plan *plan)
    int fctr_plan_warm(fctr_plan *plan, int n, fctr_error *err)
    void fctr_plan_slots(fctr_plan *plan, int *ready, int *running, int *destroyed)
    struct fctr_plan_counters:
        int ready, prepared, target
    void fctr_plan_hold(fctr_plan *plan, int more)
    void fctr_plan_counters_ "fctr_plan_counters"(fctr_plan *plan, fctr_plan_counters *out)
    int fctr_plan_ready(const fctr_plan *plan)
    size_t fctr_plan_steps(const fctr_plan *plan, int *template_steps, int *instance_steps)

    struct fctr_launch:
        const char **argv
        const char **envp
        const char *cwd
        int stdio[3]
        const int *fds
        size_t n_fds
        const fctr_limits *limits
        const char *user
        bint ids_given
        uint32_t uid, gid
        const fctr_mount *files
        size_t n_files
        bint tty
        uint16_t rows, cols
        bint keep, die_with_thread, stamps
        unsigned linger_us
    struct fctr_timings:
        double acquire, spawn, run, collect
        int n
        int16_t stage[160]
        float us[160]
    struct fctr_exit:
        bint lost
        int code
        bint oom
        fctr_usage usage
    struct fctr_io:
        int in_ "in"
        int out
        int err
        const char *input
        size_t input_len, input_done
        char *out_buf
        size_t out_len, out_cap
        char *err_buf
        size_t err_len, err_cap
        size_t limit
        bint out_more, err_more

    int c_launch "fctr_launch"(fctr_plan *plan, const fctr_launch *launch, fctr_container **out, fctr_error *err)
    int fctr_exec(fctr_container *target, fctr_plan *plan, const fctr_launch *launch, fctr_container **out,
                  fctr_error *err)
    int fctr_container_lanes(fctr_container *c, fctr_error *err)
    int fctr_container_pid(const fctr_container *c)
    int fctr_container_pidfd(const fctr_container *c)
    bint fctr_container_warm(const fctr_container *c)
    int fctr_container_master(fctr_container *c)
    const fctr_timings *fctr_container_timings(const fctr_container *c)
    int fctr_container_cgroup_paths(fctr_container *c, char *buf, size_t size)
    int fctr_wait(fctr_container *c, int timeout_ms, fctr_exit *out, fctr_error *err)
    int fctr_signal(fctr_container *c, int sig, fctr_error *err)
    int fctr_kill_all(fctr_container *c, fctr_error *err)
    int fctr_freeze(fctr_container *c, bint frozen, fctr_error *err)
    int fctr_stats(fctr_container *c, fctr_usage *usage, fctr_error *err)
    int fctr_update(fctr_container *c, const fctr_limits *limits, fctr_error *err)
    int fctr_pids(fctr_container *c, int **pids, size_t *n, fctr_error *err)
    int fctr_take_files(fctr_container *c, const char **paths, size_t n, int *fds, fctr_error *err)
    void fctr_release(fctr_container *c)
    int fctr_communicate(fctr_container *c, fctr_io *io, int timeout_ms, fctr_exit *out, fctr_error *err)
    enum: FCTR_ZYGOTE_FDS
    int fctr_zygote_prepare(fctr_plan *plan, const fctr_limits *limits, int sock, const int *nulls, size_t n_nulls,
                            fctr_container **out, int *fds, size_t *n_fds, size_t *n_own, fctr_error *err)
    int fctr_zygote_adopt(fctr_container *c, int pidfd, fctr_error *err)

cdef extern from "seccomp.h" nogil:
    struct fctr_seccomp_arg:
        unsigned index
        int op
        uint64_t value, value2
    struct fctr_seccomp_rule:
        const char **names
        size_t n_names
        int action
        unsigned data
        const fctr_seccomp_arg *args
        size_t n_args
    struct fctr_seccomp_profile:
        int default_action
        unsigned default_data
        const int *archs
        size_t n_archs
        const fctr_seccomp_rule *rules
        size_t n_rules
    int fctr_seccomp_compile(const fctr_seccomp_profile *p, void **prog, size_t *count, fctr_error *err)

cdef extern from "untar.h" nogil:
    struct fctr_untar:
        pass
    struct fctr_untar_config:
        int dirfd, mode, devices
        bint userxattr, selinux, need_end, one_owner
        uint32_t owner_uid, owner_gid
        const fctr_idrange *uid_map
        size_t n_uid_map
        const fctr_idrange *gid_map
        size_t n_gid_map
        uint64_t max_entries, max_size
    struct fctr_untar_error:
        int fault, err
        char entry[512]
        char why[256]
    struct fctr_untar_stats:
        uint64_t entries, size, whiteouts, skipped_devices, skipped_xattrs
        bint root_opaque, root_seen
    int fctr_untar_open(const fctr_untar_config *config, fctr_untar **out, fctr_untar_error *err)
    void fctr_untar_own_thread(fctr_untar *u)
    int fctr_untar_feed(fctr_untar *u, const void *buf, size_t len, fctr_untar_error *err)
    int fctr_untar_finish(fctr_untar *u, fctr_untar_error *err)
    void fctr_untar_get_stats "fctr_untar_stats"(const fctr_untar *u, fctr_untar_stats *out)
    const char *fctr_untar_implied(fctr_untar *u)
    const char *fctr_untar_whiteout(fctr_untar *u)
    const char *fctr_untar_missing(fctr_untar *u, const char **target)
    void fctr_untar_close(fctr_untar *u)
    int fctr_remove_tree(int at, const char *name)
