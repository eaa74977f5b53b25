/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/vhost-stopwatch: the control plane, for programs on the host.
 *
 * One open file is one VM, from VHOST_STOPWATCH_SET_REGION on; before it, the
 * file is only a way to ask about others. A VM lasts until the last reference
 * to its file is closed; mappings of its region do not count.
 *
 * The order: SET_FEATURES, SET_POLICY and SET_NAME, if wanted, then SET_GEOMETRY,
 * SET_REGION, SET_KICK for every ring, SET_CALL for every call, START. Kicks
 * are served between START and STOP; a kick that came while the VM was stopped
 * is served by START. Timeouts that expire while it is stopped are noted by
 * START.
 *
 * Each struct begins with its size in bytes, which the caller sets. A kernel
 * that knows a longer struct takes the missing part as zero and fills in what
 * the caller has room for; one that knows a shorter struct says E2BIG if the
 * part that it does not know is not zero.
 *
 * Errors of every ioctl; unless its own text says otherwise, nothing was changed
 * with any error:
 *   EFAULT     the pointer is bad
 *   EINVAL     size is below that of the first version of the struct, or a
 *              reserved field or an unknown flag is not zero
 *   E2BIG      a field that this kernel does not know is not zero
 *   ENOTTY     no such ioctl
 */
#ifndef _UAPI_LINUX_VHOST_STOPWATCH_H
#define _UAPI_LINUX_VHOST_STOPWATCH_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/stopwatch.h>

/*
 * GET_FEATURES: the features that this kernel can offer.
 * SET_FEATURES: those that it shall offer to this VM; all, if never called.
 *   EINVAL     this kernel does not know one of them
 *   EBUSY      the region is set
 *
 * STOPWATCH_F_HOST_TIME and STOPWATCH_F_HOST_POWER are only offered if SET_POLICY
 * allows them, too.
 */
#define VHOST_STOPWATCH_GET_FEATURES	_IO(STOPWATCH_IOC_TYPE, 0x40)
#define VHOST_STOPWATCH_SET_FEATURES	_IO(STOPWATCH_IOC_TYPE, 0x41)

struct vhost_stopwatch_features {
	__u32 size;
	__u32 flags;		/* zero */
	__u64 features;		/* STOPWATCH_F_* */
};

/*
 * SET_GEOMETRY: what the VM shall have. Says how large its region has to be.
 * May be called again until the region is set.
 *   EINVAL     a count is outside the limits in <linux/stopwatch_device.h>, or
 *              one of slots is not a power of two
 *   EBUSY      the region is set
 */
#define VHOST_STOPWATCH_SET_GEOMETRY	_IO(STOPWATCH_IOC_TYPE, 0x42)

struct vhost_stopwatch_geometry {
	__u32 size;
	__u32 flags;		/* zero */
	__u32 stopwatches;
	__u32 rings;
	__u32 ring_slots;
	__u32 event_slots;
	__u32 region_size;	/* out: bytes */
	__u32 reserved;		/* zero */
};

/*
 * SET_REGION: fd is a memfd of exactly region_size bytes, sealed with
 * F_SEAL_SHRINK and F_SEAL_GROW and not with F_SEAL_WRITE or
 * F_SEAL_FUTURE_WRITE; index is zero. The kernel pins it, fills it with zeros
 * and writes the VMM page's struct stopwatch_info and the state pages. VM time
 * begins. The file is a VM from now on, with a number of its own.
 *   ENXIO      no geometry is set
 *   EBUSY      a region is set, or another VM has this one
 *   EBADF      fd is not an open file, or not open for reading and writing
 *   EINVAL     not a memfd of ordinary pages, wrong size, or wrong seals
 *   ENOMEM     no memory to pin or map it, or beyond RLIMIT_MEMLOCK: until the
 *              VM ends, the region and two pages are locked memory of the
 *              caller's real user, which the caller's limit is compared with,
 *              whichever of the user's processes made them. With CAP_IPC_LOCK
 *              there is no limit
 *   ENOSPC     too many VMs: there are as many as the module's parameter max_vms
 *              (4096) says
 *   EDQUOT     a quarter of these are of the user who opened the file, and the
 *              caller has no CAP_SYS_ADMIN
 *
 * SET_KICK: fd is the eventfd of the doorbell of request ring index. The ring
 * is served inside the write to it, so that the answer is there when the write
 * returns; what a section with interrupts off does not take is left over. The
 * task that writes does that before it goes on, if its effective user is the one
 * who opened the file (or if that one had CAP_SYS_ADMIN: the one whose task left
 * something over first). If another task of this user has begun it, the writer
 * may go on meanwhile. For other users, kernel threads and exiting tasks, and for
 * all of a write in an interrupt, it is left to the user's task that left something
 * over last, or that called START; if that is gone, to the next write. Replaces
 * the one set before. An eventfd is the doorbell of one ring of one VM.
 *   ENXIO      no region is set
 *   EBUSY      the VM is started, or the eventfd is a doorbell already, or has an
 *              irqfd of KVM
 *   EBADF      fd is not an open file
 *   EINVAL     there is no ring index, or fd is not an eventfd
 *   ENOMEM     no memory
 *
 * SET_CALL: fd is the eventfd that the kernel signals for call index. Replaces
 * the one set before, and may be that of other calls, too. Errors as for
 * SET_KICK; EBUSY only if the VM is started.
 */
#define VHOST_STOPWATCH_SET_REGION	_IO(STOPWATCH_IOC_TYPE, 0x43)
#define VHOST_STOPWATCH_SET_KICK	_IO(STOPWATCH_IOC_TYPE, 0x44)
#define VHOST_STOPWATCH_SET_CALL	_IO(STOPWATCH_IOC_TYPE, 0x45)

struct vhost_stopwatch_fd {
	__u32 size;
	__u32 flags;		/* zero */
	__u32 index;
	__s32 fd;
};

/*
 * SET_NAME: a name for people, UTF-8, 1 to VHOST_STOPWATCH_NAME_SIZE - 1 bytes,
 * padded with zeros, without control characters. May be set at any time; need
 * not be unique.
 *   EINVAL     empty, too long, not UTF-8, a control character, or not zero
 *              after the end
 */
#define VHOST_STOPWATCH_SET_NAME	_IO(STOPWATCH_IOC_TYPE, 0x46)
#define VHOST_STOPWATCH_NAME_SIZE	32

struct vhost_stopwatch_name {
	__u32 size;
	__u32 flags;		/* zero */
	__u8 name[VHOST_STOPWATCH_NAME_SIZE];
};

/*
 * SET_POLICY: what the guest may do. May be called again until the region is
 * set.
 *   EINVAL     unknown flag, or min_interval_ns is below
 *              VHOST_STOPWATCH_MIN_INTERVAL_NS or above
 *              VHOST_STOPWATCH_MAX_INTERVAL_NS
 *   EPERM      ALLOW_HOST_POWER without CAP_SYS_BOOT
 *   EBUSY      the region is set
 */
#define VHOST_STOPWATCH_SET_POLICY	_IO(STOPWATCH_IOC_TYPE, 0x4b)

/* It may know the host's uptime: STOPWATCH_F_HOST_TIME is offered. */
#define VHOST_STOPWATCH_ALLOW_HOST_TIME	(1 << 0)
/* It may power the host off: STOPWATCH_F_HOST_POWER is offered. */
#define VHOST_STOPWATCH_ALLOW_HOST_POWER	(1 << 1)

struct vhost_stopwatch_policy {
	__u32 size;
	__u32 flags;		/* VHOST_STOPWATCH_ALLOW_* */
	__u64 min_interval_ns;	/* of a periodic timeout */
};

/* The least, which is what a VM has without a policy: 10,000 events a second. */
#define VHOST_STOPWATCH_MIN_INTERVAL_NS	100000
/* The most: an hour. */
#define VHOST_STOPWATCH_MAX_INTERVAL_NS	3600000000000ULL

/*
 * START, STOP: serve kicks, or do not. The argument is zero.
 *   EINVAL     the argument is not zero
 *   ENXIO      no region is set; for START also: a kick or a call is missing
 *   EALREADY   it is started, or stopped
 */
#define VHOST_STOPWATCH_START		_IO(STOPWATCH_IOC_TYPE, 0x47)
#define VHOST_STOPWATCH_STOP		_IO(STOPWATCH_IOC_TYPE, 0x48)

/*
 * GET_VM: about a VM, by its number; with VHOST_STOPWATCH_VM_NEXT about the
 * one with the smallest number not below it; with VHOST_STOPWATCH_VM_SELF about
 * that of this file, whatever the number. A caller sees the VMs whose files were
 * opened by its own effective user, and all of them with CAP_SYS_ADMIN.
 *   EINVAL     both flags
 *   ENOENT     there is no such VM that the caller may see
 */
#define VHOST_STOPWATCH_GET_VM		_IO(STOPWATCH_IOC_TYPE, 0x49)

#define VHOST_STOPWATCH_VM_NEXT		(1 << 0)
#define VHOST_STOPWATCH_VM_SELF		(1 << 1)

#define VHOST_STOPWATCH_VM_STOPPED	0
#define VHOST_STOPWATCH_VM_STARTED	1

struct vhost_stopwatch_vm {
	__u32 size;
	__u32 flags;		/* VHOST_STOPWATCH_VM_* */
	__u64 vm;		/* in and out: number of the VM, from 1, never used twice */
	__u8 name[VHOST_STOPWATCH_NAME_SIZE];
	__u32 uid;		/* who opened the file, in the caller's user namespace, or -1 */
	__u32 pid;		/* its process, in the caller's pid namespace, or 0 */
	__u32 status;		/* VHOST_STOPWATCH_VM_STOPPED or _STARTED */
	__u32 vmm_status;	/* STOPWATCH_VMM_* as the VMM said it last */
	__u32 stopwatches;
	__u32 rings;
	__u32 ring_slots;
	__u32 event_slots;
	__u64 features;		/* that the guest turned on */
	__u64 time_ns;		/* VM time now */
	__u64 resets;		/* of the device, by the guest or the VMM */
	__u64 kicks;		/* served in the write to the eventfd */
	__u64 requests;		/* answered, and posts taken from post rings */
	__u64 bad_requests;	/* of these, with STOPWATCH_S_BAD_*, or none that can be posted */
	__u64 over_budget;	/* kicks that left work to a task */
	__u64 events;		/* put into the event ring */
	__u64 events_lost;	/* not put there because it was full */
	__u64 paused_ns;	/* of VM time in which the VMM had it paused */
	__u64 timed_kicks;	/* of the kicks, these were timed */
	__u64 service_ns;	/* spent in them */
};

/*
 * COMMAND: an operation on a stopwatch of a VM, by the host: one of
 * STOPWATCH_OP_START, _PAUSE, _LAP, _RESET, _READ, _READ_RESET, _CREATE and
 * _DELETE, with the same meaning as from a guest. The stopwatch is named by its
 * number, or by name if that is not empty; for CREATE the name is the new one's,
 * and a guest's root will own it. Who may see the VM may do that. It works
 * whether the VM is started or not. With EFAULT it may have been carried out.
 *   ENOENT     there is no such VM that the caller may see, or it has no such
 *              stopwatch
 *   EOPNOTSUPP unknown operation, or none for the host
 *   EALREADY   started while running, or paused while stopped (reading)
 *   ENODATA    a lap of a stopped stopwatch (reading)
 *   EEXIST     the name is taken (watch, reading)
 *   EINVAL     the name is not as struct stopwatch_create wants it, clock or
 *              flags are unknown, or a number was to be deleted
 *   ENOSPC     no number is free
 *   EINTR      a signal came before it was carried out
 */
#define VHOST_STOPWATCH_COMMAND		_IO(STOPWATCH_IOC_TYPE, 0x4a)

struct vhost_stopwatch_command {
	__u32 size;
	__u32 flags;		/* STOPWATCH_CREATE_* for CREATE, else zero */
	__u64 vm;
	__u32 op;		/* STOPWATCH_OP_* */
	__u32 watch;		/* in, if there is no name, and out */
	__u32 clock;		/* STOPWATCH_CLOCK_* for CREATE, else zero */
	__u32 mode;		/* STOPWATCH_MODE_* for CREATE, else zero */
	__u8 name[STOPWATCH_NAME_SIZE];
	struct stopwatch_reading reading;	/* out; error_ns is 0 */
};

/*
 * DESCRIBE: what a stopwatch of a VM is; with STOPWATCH_DESCRIBE_NEXT the one
 * with the smallest number not below it that exists.
 *   ENOENT     there is no such VM that the caller may see, or no such stopwatch
 *   EINTR      a signal came first
 *
 * LAPS: its laps, as STOPWATCH_IOC_LAPS has them.
 *   ENOENT     there is no such VM that the caller may see, or no such stopwatch
 *   ENODATA    first is one that is not kept any more (oldest says which is)
 *   EINTR      a signal came first
 *
 * COMMAND, DESCRIBE and LAPS carry out first what the guest had posted when they
 * began, and wait for no more than that.
 */
#define VHOST_STOPWATCH_DESCRIBE	_IO(STOPWATCH_IOC_TYPE, 0x4c)
#define VHOST_STOPWATCH_LAPS		_IO(STOPWATCH_IOC_TYPE, 0x4d)

/* The uid is one of the guest's. The sizes within these two are not looked at. */
struct vhost_stopwatch_description {
	__u32 size;
	__u32 reserved;		/* zero */
	__u64 vm;
	struct stopwatch_description description;
};

struct vhost_stopwatch_laps {
	__u32 size;
	__u32 reserved;		/* zero */
	__u64 vm;
	struct stopwatch_laps laps;
};

#endif /* _UAPI_LINUX_VHOST_STOPWATCH_H */
