/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/vhost-stopwatch: the control plane, for programs on the host.
 *
 * One open file is one VM, from VHOST_STOPWATCH_SET_REGION on; before it, the
 * file is only a way to ask about others. A VM lasts until the last reference
 * to its file is closed; mappings of its region do not count.
 *
 * The order: SET_FEATURES and SET_NAME, if wanted, then SET_GEOMETRY,
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
 * Errors of every ioctl; with each of them nothing was changed:
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
 *   EBUSY      a region is set
 *   EBADF      fd is not an open file, or not open for reading and writing
 *   EINVAL     not a memfd of ordinary pages, wrong size, or wrong seals
 *   ENOMEM     no memory to pin or map it, or too many VMs
 *
 * SET_KICK: fd is the eventfd of the doorbell of request ring index. The ring
 * is served inside the write to it, so that the answer is there when the write
 * returns. Replaces the one set before.
 *   ENXIO      no region is set
 *   EBUSY      the VM is started
 *   EBADF      fd is not an open file
 *   EINVAL     there is no ring index, or fd is not an eventfd
 *   ENOMEM     no memory
 *
 * SET_CALL: fd is the eventfd that the kernel signals for call index. Replaces
 * the one set before. Errors as for SET_KICK.
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
 * SET_NAME: a name for people, UTF-8, padded with zeros, without control
 * characters. May be set at any time; need not be unique.
 *   EINVAL     empty, not UTF-8, a control character, or not zero after the end
 */
#define VHOST_STOPWATCH_SET_NAME	_IO(STOPWATCH_IOC_TYPE, 0x46)
#define VHOST_STOPWATCH_NAME_SIZE	32

struct vhost_stopwatch_name {
	__u32 size;
	__u32 flags;		/* zero */
	__u8 name[VHOST_STOPWATCH_NAME_SIZE];
};

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
	__u32 uid;		/* who opened the file, in the caller's user namespace */
	__u32 pid;		/* that did, in its own pid namespace */
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
	__u64 requests;		/* answered */
	__u64 bad_requests;	/* answered with STOPWATCH_S_BAD_* */
	__u64 over_budget;	/* kicks that left requests to the workqueue */
	__u64 events;		/* put into the event ring */
	__u64 events_lost;	/* not put there because it was full */
};

/*
 * READ: the reading of stopwatch watch of a VM, by the numbers of both. Who may
 * see the VM may read it.
 *   ENOENT     there is no such VM that the caller may see, or it has no such
 *              stopwatch
 */
#define VHOST_STOPWATCH_READ		_IO(STOPWATCH_IOC_TYPE, 0x4a)

struct vhost_stopwatch_read {
	__u32 size;
	__u32 flags;		/* zero */
	__u64 vm;
	__u32 watch;
	__u32 reserved;		/* zero */
	struct stopwatch_reading reading;	/* out */
};

#endif /* _UAPI_LINUX_VHOST_STOPWATCH_H */
