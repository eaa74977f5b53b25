/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The stopwatch device: what host and guest share.
 *
 * This header is the specification of the device. It gives the layout of the
 * region (one sealed memfd per VM), of the PCI resources in which a guest
 * finds it, and of the slots through which commands and events pass.
 * Everything is little-endian. Times are nanoseconds. "VM time" is the host's
 * CLOCK_MONOTONIC counted from the moment at which the VM's region was set, so
 * a guest never learns the host's uptime.
 *
 * The region, by offset. BAR2 has the same offsets, save that it leaves the
 * VMM page out:
 *
 *   0                    VMM page      struct stopwatch_info, written once by
 *                                      the host; struct stopwatch_vmm at
 *                                      STOPWATCH_VMM_OFFSET, written by the VMM
 *   state_offset         state pages   struct stopwatch_state, then at
 *                                      record_offset one struct
 *                                      stopwatch_record per stopwatch; written
 *                                      by the host, read-only to the guest
 *   rings_offset         rings         the event ring at rings_offset, then at
 *                                      ring_offset + n * ring_stride request
 *                                      ring n; written by both
 *
 * Nothing in this file depends on the page size of the guest; every part
 * starts at a multiple of STOPWATCH_PAGE_SIZE.
 */
#ifndef _UAPI_LINUX_STOPWATCH_DEVICE_H
#define _UAPI_LINUX_STOPWATCH_DEVICE_H

#include <linux/types.h>

/* "STOP", read as a little-endian word. */
#define STOPWATCH_MAGIC			0x504f5453
/*
 * The layout described here. A driver binds to the version it was built for
 * and to no other; compatible growth is by feature bits.
 */
#define STOPWATCH_VERSION		1

#define STOPWATCH_PAGE_SIZE		4096

/* Limits of any device of this version. */
#define STOPWATCH_MIN_STOPWATCHES	1
#define STOPWATCH_MAX_STOPWATCHES	4096
#define STOPWATCH_MIN_RINGS		1
#define STOPWATCH_MAX_RINGS		64
/* Slots of a request ring and of the event ring: a power of two. */
#define STOPWATCH_MIN_SLOTS		8
#define STOPWATCH_MAX_SLOTS		4096
/* Call eventfds, each an MSI-X vector of the guest. */
#define STOPWATCH_CALLS			1
/* The call that says that the event ring has something. */
#define STOPWATCH_CALL_EVENTS		0

/*
 * Features. The host offers a set in struct stopwatch_info; a guest turns on
 * what it knows with STOPWATCH_OP_SET_FEATURES. After a reset none is on.
 */
/* STOPWATCH_OP_TIMEOUT, the event ring and STOPWATCH_CALL_EVENTS. */
#define STOPWATCH_F_TIMEOUT		(1ULL << 0)

/* PCI identity. */
#define STOPWATCH_PCI_VENDOR_ID		0x1234
#define STOPWATCH_PCI_DEVICE_ID		0x5357

/* BAR0: registers. Reads of struct stopwatch_info at 0, 1 to 8 bytes wide. */
#define STOPWATCH_BAR_REGISTERS		0
#define STOPWATCH_BAR_MSIX		1
#define STOPWATCH_BAR_REGION		2
#define STOPWATCH_REGISTERS_SIZE	4096
/*
 * Write anything, 4 bytes: a reset. When the write retires, all rings are
 * empty with phase 1, features are off and timeouts are disarmed; stopwatches
 * go on as they were. A driver resets the device when it binds.
 */
#define STOPWATCH_REG_RESET		0x080
/*
 * Doorbell of ring n at STOPWATCH_REG_DOORBELL + n * STOPWATCH_DOORBELL_STRIDE.
 * Write anything, 4 bytes. When the write retires, the host has answered what
 * was in the ring, up to its budget; it goes on with the rest by itself.
 */
#define STOPWATCH_REG_DOORBELL		0x800
#define STOPWATCH_DOORBELL_STRIDE	4

/*
 * What the device is: the first bytes of the VMM page and of BAR0. Written
 * by the host when the region is set, never changed after.
 */
struct stopwatch_info {
	__le32 magic;		/* STOPWATCH_MAGIC */
	__le32 version;		/* STOPWATCH_VERSION */
	__le64 features;	/* STOPWATCH_F_* that the host offers */
	__le32 region_size;	/* bytes */
	__le32 state_offset;	/* bytes from the start of the region */
	__le32 state_size;	/* bytes */
	__le32 rings_offset;
	__le32 rings_size;
	__le32 record_offset;
	__le32 record_size;	/* bytes, sizeof(struct stopwatch_record) */
	__le32 stopwatches;	/* numbered from 0 */
	__le32 event_slots;
	__le32 ring_offset;
	__le32 ring_stride;	/* bytes from one request ring to the next */
	__le32 ring_slots;
	__le32 rings;
	__le32 calls;
	__le32 reserved[14];	/* zero */
};

/*
 * What the VMM tells the host. The VMM writes a field, then kicks ring 0.
 */
#define STOPWATCH_VMM_OFFSET		0x800
#define STOPWATCH_VMM_RUNNING		0
#define STOPWATCH_VMM_PAUSED		1

struct stopwatch_vmm {
	__le32 status;			/* STOPWATCH_VMM_RUNNING or _PAUSED */
	__le32 reset_generation;	/* one more with each reset of the device */
};

/* What the host tells about the whole device, at state_offset. */
struct stopwatch_state {
	__le64 events;			/* put into the event ring, since the region was set */
	__le64 events_lost;		/* not put there because it was full; look at the records */
	__le32 vmm_status;		/* struct stopwatch_vmm, as the host saw it last */
	__le32 reset_generation;
	__le64 reserved[5];		/* zero */
};

/* State of a stopwatch. */
#define STOPWATCH_STOPPED		0
#define STOPWATCH_RUNNING		1

/*
 * A stopwatch, as the host publishes it. Read it as a seqcount: read seq (it
 * is odd while the host writes), read the fields, read seq again; equal and
 * even means that the fields belong together.
 */
struct stopwatch_record {
	__le32 seq;
	__le32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__le64 elapsed_ns;	/* without the time since started_ns */
	__le64 started_ns;	/* VM time of the last start; valid while running */
	__le64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__le64 deadline_ns;	/* VM time at which the timeout expires; 0 if none is armed */
	__le32 laps;		/* since the last reset of this stopwatch */
	__le32 timeouts;	/* expired since the last reset of this stopwatch */
	__le64 reserved[10];	/* zero */
};

/*
 * Slots: 64 bytes, one cache line. A ring is used in order, from slot 0, and
 * round. Each side keeps a phase, 1 on the first round, then 0, then 1, and so
 * on. In a request ring the guest is the one who posts and the host the one
 * who completes; in the event ring it is the other way round.
 *
 *   owner                          meaning, in a round with phase p
 *   POSTED != p, DONE != p         not posted in this round
 *   POSTED == p, DONE != p         posted: belongs to the one who completes
 *   POSTED == p, DONE == p         completed: belongs to the one who posts
 *
 * Anything else in a request slot is answered with STOPWATCH_S_BAD_OWNER. The
 * owner field is written last, with release semantics, and read first, with
 * acquire semantics. A poster does not post into a slot whose last round is
 * not completed; in the event ring the event is then counted as lost.
 */
#define STOPWATCH_SLOT_SIZE		64
#define STOPWATCH_OWNER_POSTED		(1 << 0)
#define STOPWATCH_OWNER_DONE		(1 << 1)

/*
 * Operations. Each is answered with a status and, unless the status is
 * STOPWATCH_S_BAD_*, with a reading of the stopwatch after the operation.
 *
 * START    Starts a stopped stopwatch where it stands; STOPWATCH_S_ALREADY if
 *          it runs.
 * PAUSE    Stops a running stopwatch where it stands; STOPWATCH_S_ALREADY if
 *          it is stopped.
 * LAP      Notes the elapsed time of a running stopwatch as a lap;
 *          STOPWATCH_S_STOPPED if it is stopped.
 * RESET    Stops it, sets elapsed, laps and timeouts to 0 and disarms its
 *          timeout. Never fails.
 * READ     Changes nothing.
 * TIMEOUT  Arms the stopwatch's timeout: one event, arg ns of the host's clock
 *          from now, whether the stopwatch runs or not. A timeout that was
 *          armed is replaced. An arg of 0 disarms; doing so when none is armed
 *          is not an error. Needs STOPWATCH_F_TIMEOUT, else
 *          STOPWATCH_S_BAD_OP. An arg above STOPWATCH_MAX_TIMEOUT_NS is
 *          STOPWATCH_S_BAD_ARG.
 * SET_FEATURES  arg is the set of features to turn on, which replaces the
 *          former set; STOPWATCH_S_BAD_ARG, and no change, if the host did not
 *          offer one of them. watch must be 0; the reading is that of
 *          stopwatch 0. Without STOPWATCH_F_TIMEOUT all timeouts are disarmed.
 *
 * Of several things wrong with a request the first counts, in the order owner,
 * op, watch, flags and reserved fields, arg.
 */
#define STOPWATCH_OP_START		1
#define STOPWATCH_OP_PAUSE		2
#define STOPWATCH_OP_LAP		3
#define STOPWATCH_OP_RESET		4
#define STOPWATCH_OP_READ		5
#define STOPWATCH_OP_TIMEOUT		6
#define STOPWATCH_OP_SET_FEATURES	7

/* A century: far from where a signed 64-bit count of ns would end. */
#define STOPWATCH_MAX_TIMEOUT_NS	3155760000000000000ULL

/* Status of a completed request. With STOPWATCH_S_BAD_* nothing was changed. */
#define STOPWATCH_S_OK			0
#define STOPWATCH_S_ALREADY		1	/* it was in that state; no change */
#define STOPWATCH_S_STOPPED		2	/* needs a running stopwatch; no change */
#define STOPWATCH_S_BAD_OP		16	/* unknown operation, or its feature is off */
#define STOPWATCH_S_BAD_WATCH		17	/* no stopwatch has that number */
#define STOPWATCH_S_BAD_FLAGS		18	/* unknown flag, or a reserved field not zero */
#define STOPWATCH_S_BAD_ARG		19	/* argument out of range, or not zero for an
						 * operation that takes none
						 */
#define STOPWATCH_S_BAD_OWNER		20	/* owner is not one of the states above */

/* What the guest writes. */
struct stopwatch_request {
	__le16 owner;
	__le16 op;		/* STOPWATCH_OP_* */
	__le32 watch;		/* number of the stopwatch */
	__le32 flags;		/* zero */
	__le32 status;		/* zero */
	__le64 arg;		/* as the operation says, else zero */
	__le64 reserved[5];	/* zero */
};

/* What the host leaves in its place. op, watch and flags stay as they were. */
struct stopwatch_reply {
	__le16 owner;
	__le16 op;
	__le32 watch;
	__le32 flags;
	__le32 status;		/* STOPWATCH_S_* */
	__le64 elapsed_ns;
	__le64 time_ns;		/* VM time at which the host served the request */
	__le64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__le64 deadline_ns;	/* VM time; 0 if no timeout is armed */
	__le32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__le32 laps;
	__le32 timeouts;
	__le32 reserved;	/* zero */
};

/* Events. */
#define STOPWATCH_EVENT_TIMEOUT		1

/* A slot of the event ring. The guest writes nothing but owner. */
struct stopwatch_event {
	__le16 owner;
	__le16 type;		/* STOPWATCH_EVENT_* */
	__le32 watch;
	__le64 sequence;	/* of this event, counted from 0; lost ones are counted, too */
	__le64 deadline_ns;	/* VM time for which it was armed */
	__le64 time_ns;		/* VM time at which the host's timer ran */
	__le32 timeouts;	/* of that stopwatch, this one included */
	__le32 reserved0;	/* zero */
	__le64 reserved[3];	/* zero */
};

#endif /* _UAPI_LINUX_STOPWATCH_DEVICE_H */
