/* slot.h: between slot.c, slot_proc.c and slot_proof.c, and nobody else. */
#ifndef FCTR_SLOT_H
#define FCTR_SLOT_H

#include <sys/stat.h>
#include <sys/vfs.h>

#include "launch.h"
#include "syscalls.h"

#define SLOT_PLACES 24
#define SLOT_TEXTS 7		/* three of System V IPC, four of the network */
#define SLOT_AHEAD 8		/* pid namespaces made at a time; so many jobs' /proc are taken off together */
#define SLOT_MASKS 64
#define MQUEUE_MAGIC 0x19800202
#define DEVPTS_MAGIC 0x1cd1

struct fctr_seen {		/* an inode that was there before the first job */
	char *name;		/* below the root of the file system; "" the root itself */
	struct statx st;
	uint64_t hash;		/* a file's content */
};

struct fctr_watch {
	int fd;
	long type;
	struct statfs fs;
	struct fctr_seen *seen;
	size_t n;
	bool fixed;		/* not to be emptied: an overlay's upper, or something is mounted in it */
};

struct fctr_tenant {
	struct fctr_watch watch[SLOT_PLACES];
	int n_watch;
	int text[SLOT_TEXTS];
	char *was[SLOT_TEXTS];
	size_t was_len[SLOT_TEXTS];
	int under;		/* the mount under the jobs' /proc */
	int buried;		/* how many of them are dead and still mounted */
	int null;		/* the slot's /dev/null */
	char mask[SLOT_MASKS];	/* what is to be done to a /proc, by step: see slot_proc.c */
	bool masks_known;
	int pidns[SLOT_AHEAD], proc[SLOT_AHEAD], ahead;	/* for the jobs to come, and how many of them are left */
	bool fine;		/* times of changes are told apart, however close */
};

struct fctr_opener {		/* for a child on our memory and descriptors; the rules of child.c hold */
	struct fctr_instance *inst;
	struct fctr_tenant *slot;
	const char *places, *sysctls;
	long err;
	int at, into;
};

/* slot.c */
int fctr_slot_child(struct fctr_instance *inst, int (*fn)(void *), struct fctr_opener *o);
long fctr_slot_open_in_root(const char *path, uint64_t flags, uint64_t resolve);

/* slot_proc.c */
int fctr_slot_proc_steps(struct fctr_plan *p, const struct fctr_spec *spec, struct fctr_error *err);
long fctr_slot_under(struct fctr_opener *o);		/* in the slot's mount namespace */
bool fctr_slot_next_job(struct fctr_instance *inst);

/* slot_proof.c */
int fctr_slot_note(struct fctr_tenant *slot);
bool fctr_slot_clean(struct fctr_tenant *slot);

#endif
