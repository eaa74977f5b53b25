/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/stopwatch: the stopwatches of the host, for programs in a guest.
 *
 * ioctl() gives a command and takes its reading; read() takes events, whole
 * struct stopwatch_event_record ones, as many as fit; poll() says POLLIN when
 * there is one. Each open file gets every event from when it was opened, holds
 * the newest STOPWATCH_FILE_EVENTS of them, and counts those it had to drop.
 *
 * read() waits for the first event, unless O_NONBLOCK is set: then it says
 * EAGAIN. A buffer with no room for one is EINVAL. Once the driver was unbound,
 * read() says ENODEV and poll() POLLERR and POLLHUP.
 *
 * Each struct begins with its size in bytes, which the caller sets. A kernel
 * that knows a longer struct takes the missing part as zero and fills in what
 * the caller has room for; one that knows a shorter struct says E2BIG if the
 * part that it does not know is not zero.
 *
 * Errors of every ioctl:
 *   EFAULT     the pointer is bad
 *   EINVAL     size is below that of the first version of the struct, or a
 *              reserved field or an unknown flag is not zero
 *   E2BIG      a field that this kernel does not know is not zero
 *   ENOTTY     no such ioctl
 *   ENODEV     the device is gone, or its driver was unbound
 */
#ifndef _UAPI_LINUX_STOPWATCH_H
#define _UAPI_LINUX_STOPWATCH_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/stopwatch_device.h>

/* Numbers 0x00 to 0x3f of this type are the guest's, 0x40 to 0x7f the host's. */
#define STOPWATCH_IOC_TYPE		0xBB

/*
 * STOPWATCH_IOC_COMMAND: one operation on one stopwatch, answered by the host
 * before the ioctl returns. op is one of STOPWATCH_OP_START, _PAUSE, _LAP,
 * _RESET, _READ and _TIMEOUT, which are described in <linux/stopwatch_device.h>.
 *
 * Errors, beside the above; reading is filled in where it says so:
 *   EALREADY   started while running, or paused while stopped (reading)
 *   ENODATA    a lap of a stopped stopwatch (reading)
 *   EOPNOTSUPP unknown operation, or the host does not offer it
 *   ENOENT     no stopwatch has that number
 *   EINVAL     arg is out of range, or not zero with an operation that takes
 *              none
 *   EIO        the host answered with what this driver does not know
 *   ETIMEDOUT  the host did not answer within STOPWATCH_ANSWER_MS; it has
 *              stopped the device. The command may still be carried out later
 */
#define STOPWATCH_IOC_COMMAND		_IO(STOPWATCH_IOC_TYPE, 0x00)
#define STOPWATCH_ANSWER_MS		2000

struct stopwatch_reading {
	__u64 elapsed_ns;	/* ns of the host's clock */
	__u64 time_ns;		/* VM time at which the host took the reading */
	__u64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__u64 deadline_ns;	/* VM time at which the timeout expires; 0 if none is armed */
	__u32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__u32 laps;
	__u32 timeouts;		/* expired since the last reset of this stopwatch */
	__u32 reserved;		/* zero */
};

struct stopwatch_command {
	__u32 size;		/* sizeof(struct stopwatch_command) */
	__u32 op;
	__u32 watch;		/* number of the stopwatch, from 0 */
	__u32 flags;		/* zero */
	__u64 arg;		/* ns for STOPWATCH_OP_TIMEOUT, else zero */
	struct stopwatch_reading reading;	/* out */
};

/* STOPWATCH_IOC_INFO: what the device is and how the driver uses it. */
#define STOPWATCH_IOC_INFO		_IO(STOPWATCH_IOC_TYPE, 0x01)

struct stopwatch_device_info {
	__u32 size;		/* sizeof(struct stopwatch_device_info) */
	__u32 flags;		/* zero */
	__u64 features;		/* STOPWATCH_F_* that are on */
	__u64 interrupts;	/* taken by the driver since it was bound */
	__u64 events;		/* taken from the event ring since it was bound */
	__u64 events_lost;	/* that the host could not put into the event ring */
	__u32 version;		/* STOPWATCH_VERSION of device and driver */
	__u32 stopwatches;	/* numbered from 0 */
	__u32 rings;		/* request rings that the driver uses */
	__u32 ring_slots;
};

/* What read() gives. */
#define STOPWATCH_FILE_EVENTS		256

struct stopwatch_event_record {
	__u32 type;		/* STOPWATCH_EVENT_* */
	__u32 watch;
	__u64 sequence;		/* of the event, counted by the host; a gap means lost events */
	__u64 deadline_ns;	/* VM time for which it was armed */
	__u64 time_ns;		/* VM time at which the host's timer ran */
	__u32 timeouts;		/* of that stopwatch, this one included */
	__u32 dropped;		/* events that this file has lost since it was opened */
};

#endif /* _UAPI_LINUX_STOPWATCH_H */
