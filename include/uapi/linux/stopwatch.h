/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/stopwatch: the stopwatches of the host, for programs in a guest.
 *
 * ioctl() gives a command and takes its reading; read() takes events, whole
 * struct stopwatch_event_record ones, as many as fit; poll() says POLLIN when
 * there is one. A program that posts often can do so without its kernel, in a
 * ring that STOPWATCH_IOC_BIND gives it. Each open file gets every event from
 * when it was opened that its user could see when it came. The driver keeps the
 * newest STOPWATCH_FILE_EVENTS of the device, for all files together; a file that
 * has not read one by then has lost it, and is told how many those were. mmap()
 * shows the device's state, for readings that cost neither a system call nor an
 * exit.
 *
 * A stopwatch that was created belongs to the effective user who did; what
 * others may do is its mode. Whose it is counts at each ioctl, so a file that
 * is passed to another user's process gives that one no more than it had; for
 * events it counts who opened the file. Root is a task with CAP_DAC_OVERRIDE in
 * the initial user namespace: it is allowed everything. Everybody who can open
 * the device may use the numbered stopwatches.
 *
 * read() waits for the first event, unless O_NONBLOCK is set: then it says
 * EAGAIN. A buffer with no room for one is EINVAL. Once the driver was unbound,
 * read() says ENODEV and poll() POLLERR and POLLHUP.
 *
 * A guest that suspends, to idle or to memory, keeps its stopwatches, files and
 * timeouts, and time goes on: a timeout that expires meanwhile does not wake the
 * guest up, and its event is there when the guest is awake. What a mapping shows
 * of the time holds again after the first call from then on. A guest in which
 * this driver is bound does not hibernate: that says EOPNOTSUPP. After a reset
 * of the guest, numbered and named stopwatches go on, timeouts are disarmed; in
 * a VM that its VMM pauses time goes on, save for stopwatches that skip that.
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
 * _RESET, _READ, _READ_RESET, _TIMEOUT, _DELETE, _SET_MODE and _POWER_OFF, which
 * are described in <linux/stopwatch_device.h>, as are their arg, interval and
 * flags.
 *
 * With STOPWATCH_REQUEST_POSTED in flags the command is only noted, with the time
 * of now, and the ioctl returns without an exit and without a reading; what comes
 * of it shows in later readings. If it cannot be posted (the host does not offer
 * it, the time is not known well enough) it is carried out as without the flag; a
 * reading.time_ns that is not 0 tells. The mode is enforced in any case.
 *
 * For STOPWATCH_OP_SET_MODE the uid in arg is one of the caller's user namespace.
 * Only root gives a stopwatch to somebody else.
 *
 * Errors, beside the above; reading is filled in where it says so:
 *   EALREADY   started while running, or paused while stopped (reading)
 *   ENODATA    a lap of a stopped stopwatch (reading)
 *   EOPNOTSUPP unknown operation, or the host does not offer it
 *   ENOENT     there is no stopwatch of that number that the caller may see
 *   EACCES     the caller may see it, but not do that with it
 *   EPERM      the VM's creator does not allow it, or POWER_OFF by a caller
 *              without CAP_SYS_BOOT
 *   EINVAL     arg or interval is out of range, or not zero with an operation
 *              that takes none; a numbered stopwatch was to be deleted or to be
 *              given a mode; there is no such uid
 *   EIO        the host answered with what this driver does not know or does not
 *              expect: STOPWATCH_S_STALE, STOPWATCH_S_CANCELLED, and those that
 *              say that the driver broke the rules
 *   ETIMEDOUT  the host did not answer within STOPWATCH_ANSWER_MS, as when the
 *              VM is not started in its module. The driver has taken the command
 *              back: the host does not carry it out, unless it is at it just then.
 *              It does not do so later; whether it did, a READ tells. The device
 *              stays as it is: the next command is answered if the host serves
 */
#define STOPWATCH_IOC_COMMAND		_IO(STOPWATCH_IOC_TYPE, 0x00)
#define STOPWATCH_ANSWER_MS		2000

struct stopwatch_reading {
	__u64 elapsed_ns;	/* ns of the host's clock */
	__u64 time_ns;		/* VM time at which the host took the reading */
	__u64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__u64 deadline_ns;	/* as in struct stopwatch_record */
	__u32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__u32 laps;
	__u32 timeouts;		/* expired since the last reset of this stopwatch */
	__u32 reserved;		/* zero */
	/*
	 * The reading was true at one moment between the call and its return.
	 * How long that was, in ns of the guest's clock: so much can it be off
	 * from what the caller means.
	 */
	__u64 error_ns;
};

struct stopwatch_command {
	__u32 size;		/* sizeof(struct stopwatch_command) */
	__u32 op;
	__u32 watch;		/* number of the stopwatch, from 0 */
	__u32 flags;		/* as op says */
	__u64 arg;		/* as op says */
	__u64 interval;		/* as op says */
	struct stopwatch_reading reading;	/* out */
};

/*
 * STOPWATCH_IOC_CREATE: makes a stopwatch and says its number. Without a name
 * it lasts as long as the open file, with one until it is deleted.
 *   EEXIST     the name is taken; watch is the number of the one that has it, if
 *              the caller may see that, else 0xffffffff
 *   EINVAL     the name is not as struct stopwatch_create wants it, or clock,
 *              mode or flags are unknown
 *   ENOSPC     no number is free
 *   EBADF      the file is open for reading only, and the caller is not root
 *   EDQUOT     the caller's user has a quarter of the stopwatches that can be
 *              created, and the caller is not root
 *
 * STOPWATCH_IOC_FIND: the number of the stopwatch of that name.
 *   ENOENT     there is none that the caller may see
 */
#define STOPWATCH_IOC_CREATE		_IO(STOPWATCH_IOC_TYPE, 0x02)
#define STOPWATCH_IOC_FIND		_IO(STOPWATCH_IOC_TYPE, 0x03)

struct stopwatch_creation {
	__u32 size;		/* sizeof(struct stopwatch_creation) */
	__u32 flags;		/* STOPWATCH_CREATE_* */
	__u32 clock;		/* STOPWATCH_CLOCK_* */
	__u32 mode;		/* STOPWATCH_MODE_* */
	__u8 name[STOPWATCH_NAME_SIZE];
	__u32 watch;		/* out */
	__u32 reserved;		/* zero */
};

struct stopwatch_find {
	__u32 size;		/* sizeof(struct stopwatch_find) */
	__u32 flags;		/* zero */
	__u8 name[STOPWATCH_NAME_SIZE];
	__u32 watch;		/* out */
	__u32 reserved;		/* zero */
};

/*
 * STOPWATCH_IOC_DESCRIBE: what a stopwatch is; with STOPWATCH_DESCRIBE_NEXT the
 * one with the smallest number not below watch that the caller may see. Costs no
 * exit, unless there are posted commands that the host has to carry out before.
 *   ENOENT     there is none that the caller may see
 */
#define STOPWATCH_IOC_DESCRIBE		_IO(STOPWATCH_IOC_TYPE, 0x04)
#define STOPWATCH_DESCRIBE_NEXT		(1 << 0)

struct stopwatch_description {
	__u32 size;		/* sizeof(struct stopwatch_description) */
	__u32 flags;		/* STOPWATCH_DESCRIBE_* */
	__u32 watch;		/* in and out */
	__u32 clock;		/* STOPWATCH_CLOCK_* */
	__u32 record_flags;	/* STOPWATCH_RECORD_* */
	__u32 uid;		/* in the caller's user namespace */
	__u32 mode;		/* STOPWATCH_MODE_* */
	__u32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__u8 name[STOPWATCH_NAME_SIZE];
	__u32 laps;
	__u32 timeouts;
	__u64 target_ns;	/* as in struct stopwatch_record */
	__u64 deadline_ns;
	__u64 interval_ns;
};

/*
 * STOPWATCH_IOC_LAPS: what a stopwatch showed at its laps, from lap number first
 * on, at most count of them, into the array of __u64 at laps. Says how many
 * there are in all, and from which on they are kept. With STOPWATCH_LAPS_KEPT first
 * is zero, and the laps begin with the oldest that is kept; first then says which that
 * is. Costs as much as DESCRIBE.
 *   ENOENT     there is no stopwatch of that number that the caller may see
 *   ENODATA    first is one that is not kept any more (oldest says which is;
 *              total is filled in, too)
 */
#define STOPWATCH_IOC_LAPS		_IO(STOPWATCH_IOC_TYPE, 0x05)

#define STOPWATCH_LAPS_KEPT		(1 << 0)

struct stopwatch_laps {
	__u32 size;		/* sizeof(struct stopwatch_laps) */
	__u32 flags;		/* STOPWATCH_LAPS_* */
	__u32 watch;
	__u32 first;		/* number of the lap, from 0; with _KEPT zero, and out */
	__u32 count;		/* in: room at laps; out: how many are there now */
	__u32 total;		/* out: laps since the last reset */
	__u32 oldest;		/* out: number of the oldest that is kept */
	__u32 reserved;		/* zero */
	__u64 laps;		/* address */
};

/*
 * STOPWATCH_IOC_BIND: gives the file a post ring, see struct stopwatch_post_ring in
 * <linux/stopwatch_device.h>, that is bound to a stopwatch: what the program puts
 * there is a command that is posted, at the cost of a few stores. A file gets one,
 * once, and has it until it is closed. The binding ends by itself when the
 * stopwatch is deleted or its mode changes: then bound is 0, and what is posted
 * from then on is not carried out. Another file is needed then, as for another stopwatch or another
 * thread: who has this one's ring mapped may have had the right to it before only.
 *   EBUSY      the file has got one
 *   ENOENT, EACCES  as for a command that changes the stopwatch
 *   EBADF      the file is open for reading only, and the caller is not root
 *   ENOSPC     all rings are in use
 *   EDQUOT     the caller's user has a quarter of all rings, and the caller is not
 *              root
 *   EOPNOTSUPP the host does not offer post rings, or the pages of this kernel are
 *              larger than 4 KiB
 *
 * STOPWATCH_IOC_DOORBELL: has the host carry out what is posted, with
 * STOPWATCH_DOORBELL_NOW for its argument before it returns, and with
 * STOPWATCH_DOORBELL_SOON within STOPWATCH_POSTED_MS. A program that has posted in
 * its ring looks at struct stopwatch_doorbell of the driver after that, with a full
 * fence in between; if that says that the doorbell is not going to be rung, it asks
 * for that by STOPWATCH_DOORBELL_SOON.
 *   EINVAL     the argument is something else
 */
#define STOPWATCH_IOC_BIND		_IO(STOPWATCH_IOC_TYPE, 0x06)
#define STOPWATCH_IOC_DOORBELL		_IO(STOPWATCH_IOC_TYPE, 0x07)
#define STOPWATCH_DOORBELL_SOON		0
#define STOPWATCH_DOORBELL_NOW		1

struct stopwatch_binding {
	__u32 size;		/* sizeof(struct stopwatch_binding) */
	__u32 flags;		/* zero */
	__u32 watch;
	__u32 reserved;		/* zero */
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
	__u32 state_size;	/* bytes that mmap() shows behind the clock page */
	__u32 record_offset;	/* of the records in these */
	__u32 lap_offset;	/* of the laps in these */
	__u32 record_size;	/* bytes from one record to the next */
	__u64 epoch_ns;		/* as in struct stopwatch_state */
};

/*
 * mmap(): read-only, from offset 0: the clock page, which the driver
 * writes, then state_size bytes of the device's state pages, as in
 * <linux/stopwatch_device.h>, with struct stopwatch_state first. All of a device,
 * so only for who may read all of it: root, or where the device's file is open
 * for writing by a user whom its mode lets. Posted commands show in it once the
 * host has carried them out. When the driver is unbound, it becomes SIGBUS.
 *   EINVAL     writable, executable, or longer than what there is
 *   EACCES     the file is not open for writing, and the caller is not root
 *   ENODEV     the device is gone
 *   EOPNOTSUPP the pages of this kernel are larger than 4 KiB
 *
 * At STOPWATCH_POST_RING_OFFSET it shows the file's post ring, for reading and
 * writing.
 *   EINVAL     private, executable, or of another size
 *   EACCES     as above, or the caller may not change the stopwatch
 *   ENXIO      the file has no ring
 *
 * The clock page maps the CPU's counter (x86: TSC) to VM time, as the driver
 * learned it from calls:
 *
 *   ticks = counter - counter_base
 *   since = ticks * mult >> 32
 *   VM time = time_ns + since, give or take error_ns + (since * drift >> 32)
 *
 * in 64 bits without sign, which no product exceeds while the page holds. It is
 * read as a seqcount, like a record. It holds while ticks < valid_ticks and the
 * device's pauses is what the page says, which is an even number; look at that
 * after the counter. Else the time is to be had from a call, STOPWATCH_OP_READ,
 * which also renews the page.
 */
#define STOPWATCH_CLOCK_PAGE_SIZE	4096
#define STOPWATCH_POST_RING_OFFSET	0x40000000

struct stopwatch_clock_page {
	__u32 seq;
	__u32 reserved;		/* zero */
	__u64 counter_base;
	__u64 valid_ticks;	/* 0 if nothing is known of the time */
	__u64 time_ns;
	__u64 mult;		/* ns a tick, in 2^-32 */
	__u64 error_ns;
	__u64 drift;		/* by how much the error grows each ns, in 2^-32 */
	__u64 pauses;		/* of struct stopwatch_state, when this was learned */
	__u64 paused_ns;	/* the same */
	__u64 samples;		/* calls that it was learned from */
};

/* In the clock page, too. */
#define STOPWATCH_DOORBELL_OFFSET	2048

struct stopwatch_doorbell {
	__u32 set;		/* 1 if it is going to be rung for what is posted by now */
	__u32 reserved;		/* zero */
};

/* What read() gives. */
#define STOPWATCH_FILE_EVENTS		1024

struct stopwatch_event_record {
	__u32 type;		/* STOPWATCH_EVENT_* */
	__u32 watch;
	__u64 sequence;		/* of the event, counted by the host; a gap means events that
				 * were lost, or that the file's user may not see
				 */
	__u64 deadline_ns;	/* of the stopwatch's own time, for which it was armed; of
				 * several timeouts the first one's
				 */
	__u64 time_ns;		/* of its own time, at which the host's timer ran: so late was it */
	__u32 timeouts;		/* of that stopwatch, this one included */
	__u32 count;		/* how many timeouts this tells of, from 1 */
	__u32 dropped;		/* events that this file has lost since it was opened, those of
				 * stopwatches that its user may not see among them
				 */
	__u32 reserved;		/* zero */
};

#if !defined(__KERNEL__) && defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
/*
 * Reading a stopwatch in what mmap() gave: no system call, no exit. info is what
 * STOPWATCH_IOC_INFO said. Returns 0 and the reading, of which error_ns is how far
 * off the time can be. Its version must be STOPWATCH_VERSION, which is to be seen
 * to before. Returns -1 where it takes a call, STOPWATCH_OP_READ: the
 * clock page does not hold, the stopwatch runs by a clock other than
 * STOPWATCH_CLOCK_MONOTONIC, or there is none of that number (which the call says).
 *
 * A posted command shows once the driver has rung for it.
 */
static __inline__ __u64 stopwatch_counter(void)
{
	__u32 low, high;

	/* Not before the loads that are before it. */
	__asm__ __volatile__("lfence; rdtsc" : "=a" (low), "=d" (high) : : "memory");
	return (__u64)high << 32 | low;
}

static __inline__ int stopwatch_read_mapped(const void *pages,
					    const struct stopwatch_device_info *info,
					    __u32 watch, struct stopwatch_reading *reading)
{
	const struct stopwatch_clock_page *page = (const struct stopwatch_clock_page *)pages;
	const char *base = (const char *)pages + STOPWATCH_CLOCK_PAGE_SIZE;
	const struct stopwatch_state *state = (const struct stopwatch_state *)base;
	const struct stopwatch_record *record = (const struct stopwatch_record *)
		(base + info->record_offset + (__u64)watch * info->record_size);
	unsigned int tries;

	if (watch >= info->stopwatches)
		return -1;

	/* Both writers are quick, unless they are interrupted in between. */
	for (tries = 0; tries < 1000; tries++) {
		/* The fields are read after the numbers: pairs with the writers' releases. */
		__u32 page_seq = __atomic_load_n(&page->seq, __ATOMIC_ACQUIRE);
		__u32 seq = __atomic_load_n(&record->seq, __ATOMIC_ACQUIRE);
		__u64 ticks, since, time_ns, elapsed_ns, shown_ns;
		__u32 flags;
		int holds;

		if ((page_seq | seq) & 1)
			continue;

		ticks = stopwatch_counter() - page->counter_base;
		since = ticks * page->mult >> 32;
		time_ns = page->time_ns + since;
		holds = ticks < page->valid_ticks && state->pauses == page->pauses;
		reading->error_ns = page->error_ns + (since * page->drift >> 32);
		reading->time_ns = time_ns;
		elapsed_ns = record->elapsed_ns;
		flags = record->flags;
		reading->lap_ns = record->lap_ns;
		reading->deadline_ns = record->deadline_ns;
		reading->laps = record->laps;
		reading->timeouts = record->timeouts;
		reading->reserved = 0;

		if (flags & STOPWATCH_RECORD_RUNNING) {
			if (flags & STOPWATCH_RECORD_SKIP_PAUSED)
				time_ns -= page->paused_ns;
			shown_ns = record->base_ns + time_ns;
			/* So far as the time can be off, it can be before the start. */
			if ((__s64)(shown_ns - elapsed_ns) >= 0)
				elapsed_ns = shown_ns;
			holds = holds && !(flags & STOPWATCH_RECORD_CLOCK_MASK);
			reading->state = STOPWATCH_RUNNING;
		} else {
			reading->state = STOPWATCH_STOPPED;
		}
		reading->elapsed_ns = elapsed_ns;

		/* The numbers are read after the fields. */
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&page->seq, __ATOMIC_RELAXED) == page_seq &&
		    __atomic_load_n(&record->seq, __ATOMIC_RELAXED) == seq)
			return holds && (flags & STOPWATCH_RECORD_EXISTS) ? 0 : -1;
	}
	return -1;
}

/*
 * Only what a stopwatch shows, for a program that needs nothing else of a reading:
 * a good deal less work. Takes and returns what stopwatch_read_mapped() does, with
 * the same looks at what must hold; it reads by that all but a stopwatch that runs
 * and counts pauses of the VM.
 */
static __attribute__((__noinline__, __cold__, __unused__))
int stopwatch_elapsed_slowly(const void *pages, const struct stopwatch_device_info *info,
			     __u32 watch, __u64 *elapsed_ns)
{
	struct stopwatch_reading reading;

	if (stopwatch_read_mapped(pages, info, watch, &reading))
		return -1;
	*elapsed_ns = reading.elapsed_ns;
	return 0;
}

static __inline__ int stopwatch_elapsed_mapped(const void *pages,
					       const struct stopwatch_device_info *info,
					       __u32 watch, __u64 *elapsed_ns)
{
	const __u32 runs = STOPWATCH_RECORD_EXISTS | STOPWATCH_RECORD_RUNNING;
	const __u32 others = STOPWATCH_RECORD_SKIP_PAUSED | STOPWATCH_RECORD_CLOCK_MASK;
	const struct stopwatch_clock_page *page = (const struct stopwatch_clock_page *)pages;
	const char *base = (const char *)pages + STOPWATCH_CLOCK_PAGE_SIZE;
	const struct stopwatch_state *state = (const struct stopwatch_state *)base;
	const struct stopwatch_record *record = (const struct stopwatch_record *)
		(base + info->record_offset + (__u64)watch * info->record_size);
	__u64 ticks, stood_ns, shown_ns;
	__u32 page_seq, seq;

	if (watch >= info->stopwatches)
		return -1;

	/* The fields are read after the numbers: pairs with the writers' releases. */
	page_seq = __atomic_load_n(&page->seq, __ATOMIC_ACQUIRE);
	seq = __atomic_load_n(&record->seq, __ATOMIC_ACQUIRE);
	if (((page_seq | seq) & 1) || (record->flags & (runs | others)) != runs)
		return stopwatch_elapsed_slowly(pages, info, watch, elapsed_ns);
	stood_ns = record->elapsed_ns;
	shown_ns = record->base_ns + page->time_ns;
	ticks = stopwatch_counter() - page->counter_base;
	shown_ns += ticks * page->mult >> 32;
	/* The pauses after the counter. */
	if (ticks >= page->valid_ticks || state->pauses != page->pauses)
		return stopwatch_elapsed_slowly(pages, info, watch, elapsed_ns);
	/* The numbers are read after the fields. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&page->seq, __ATOMIC_RELAXED) != page_seq ||
	    __atomic_load_n(&record->seq, __ATOMIC_RELAXED) != seq)
		return stopwatch_elapsed_slowly(pages, info, watch, elapsed_ns);
	/* So far as the time can be off, it can be before the start. */
	*elapsed_ns = (__s64)(shown_ns - stood_ns) < 0 ? stood_ns : shown_ns;
	return 0;
}

/*
 * Posting a command in a ring that STOPWATCH_IOC_BIND and mmap() gave: no system
 * call, no exit. op is STOPWATCH_OP_START, _PAUSE, _LAP or _RESET; posted is where
 * the program keeps how many it has posted since it was bound, 0 at first. One thread
 * at a time may do that. Returns
 *
 *   STOPWATCH_POST_DONE   nothing is left to do
 *   STOPWATCH_POST_RING   it is posted, and is to be told by
 *                         ioctl(STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_SOON)
 *   STOPWATCH_POST_FULL   it is posted, and there is room for another one after
 *                         ioctl(STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_NOW)
 *   STOPWATCH_POST_NONE   it is not posted: it takes STOPWATCH_IOC_COMMAND, as the
 *                         clock page does not hold, there is no room, or the binding
 *                         has ended
 */
#define STOPWATCH_POST_DONE	0
#define STOPWATCH_POST_RING	1
#define STOPWATCH_POST_FULL	2
#define STOPWATCH_POST_NONE	3

static __inline__ int stopwatch_post_mapped(const void *pages, struct stopwatch_post_ring *ring,
					    __u32 *posted, __u32 op)
{
	const struct stopwatch_clock_page *page = (const struct stopwatch_clock_page *)pages;
	const struct stopwatch_state *state = (const struct stopwatch_state *)
		((const char *)pages + STOPWATCH_CLOCK_PAGE_SIZE);
	const struct stopwatch_doorbell *doorbell = (const struct stopwatch_doorbell *)
		((const char *)pages + STOPWATCH_DOORBELL_OFFSET);
	/* Acquire: a slot is not overwritten before the host has read it. */
	__u32 taken = __atomic_load_n(&ring->taken, __ATOMIC_ACQUIRE);
	__u32 page_seq = __atomic_load_n(&page->seq, __ATOMIC_ACQUIRE);
	__u64 ticks, time_ns, post;
	__le64 *slot;

	if (!__atomic_load_n(&ring->bound, __ATOMIC_RELAXED))
		return STOPWATCH_POST_NONE;
	if (*posted - taken >= STOPWATCH_POST_SLOTS)
		return STOPWATCH_POST_NONE;
	ticks = stopwatch_counter() - page->counter_base;
	time_ns = page->time_ns + (ticks * page->mult >> 32);
	if (ticks >= page->valid_ticks || state->pauses != page->pauses)
		return STOPWATCH_POST_NONE;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if ((page_seq & 1) || __atomic_load_n(&page->seq, __ATOMIC_RELAXED) != page_seq)
		return STOPWATCH_POST_NONE;

	post = time_ns << STOPWATCH_POST_TIME_SHIFT | (__u64)op << STOPWATCH_POST_OP_SHIFT;
	if (!(*posted & STOPWATCH_POST_SLOTS))
		post |= STOPWATCH_POST_WRAP;
	slot = &ring->posts[*posted & (STOPWATCH_POST_SLOTS - 1)];
	/* The half that has the wrap bit last, where it takes two stores. */
	if (sizeof(void *) < sizeof(post)) {
		__atomic_store_n((__u32 *)slot + 1, (__u32)(post >> 32), __ATOMIC_RELAXED);
		__atomic_store_n((__u32 *)slot, (__u32)post, __ATOMIC_RELEASE);
	} else {
		__atomic_store_n(slot, post, __ATOMIC_RELEASE);
	}
	if (++*posted - taken == STOPWATCH_POST_SLOTS)
		return STOPWATCH_POST_FULL;
	/* Either the driver sees the post, or we see that it has looked. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&doorbell->set, __ATOMIC_RELAXED) ? STOPWATCH_POST_DONE :
								   STOPWATCH_POST_RING;
}
#endif

#endif /* _UAPI_LINUX_STOPWATCH_H */
