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
 *                                      stopwatch_record per stopwatch, then at
 *                                      lap_offset STOPWATCH_LAP_SLOTS times
 *                                      __le64 per stopwatch; written by the
 *                                      host, read-only to the guest
 *   rings_offset         rings         the event ring at rings_offset, then at
 *                                      ring_offset + n * ring_stride request
 *                                      ring n, then at post_offset one struct
 *                                      stopwatch_post_ring per post ring;
 *                                      written by both
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
 * The version described here. A driver of version 2 binds to every device of
 * version 2, and to no other. Within a version both sides grow so:
 *
 * - A feature bit says that something is new. Features that a driver does not
 *   know stay off, and what they name does nothing then.
 * - Reserved fields are zero until a feature names them.
 * - info_size, record_size, ring_stride and all offsets are what struct
 *   stopwatch_info says. They may be larger than those of the structs that the
 *   driver knows, and it skips what is behind these. info_size and record_size
 *   are never below those of this header; a driver refuses a device in which
 *   they are.
 * - What a driver knows behind info_size counts as zero.
 * - An offset of 0 means that the part is not there. State, records, laps, event
 *   ring and request rings always are.
 */
#define STOPWATCH_VERSION		2

#define STOPWATCH_PAGE_SIZE		4096

/* Limits of any device of this version. */
#define STOPWATCH_MIN_STOPWATCHES	1
#define STOPWATCH_MAX_STOPWATCHES	4096
#define STOPWATCH_MIN_RINGS		1
#define STOPWATCH_MAX_RINGS		64
/*
 * Stopwatches with a number below this exist from the start, as many as the
 * device has room for; they have no name and are never deleted. The others
 * exist from STOPWATCH_OP_CREATE until STOPWATCH_OP_DELETE.
 */
#define STOPWATCH_NUMBERED		64
/* Elapsed times of the latest laps that are kept for each stopwatch. */
#define STOPWATCH_LAP_SLOTS		256
/* Slots of a request ring and of the event ring: a power of two. */
#define STOPWATCH_MIN_SLOTS		8
#define STOPWATCH_MAX_SLOTS		4096
#define STOPWATCH_MAX_POST_RINGS	32
/* Slots of a post ring: a power of two. */
#define STOPWATCH_POST_SLOTS		256
/*
 * Calls: eventfds of the host kernel, each an MSI-X vector of the guest, as many
 * as there are request rings. Call n says that the event ring has something, for
 * timeouts that were armed in ring n. So the interrupt can be that of the CPU
 * whose program waits for it. A driver that has fewer vectors than the device
 * has rings uses no ring beyond them.
 */

/*
 * Features. The host offers a set in struct stopwatch_info; a guest turns on
 * what it knows with STOPWATCH_OP_SET_FEATURES. After a reset none is on.
 */
/* STOPWATCH_OP_TIMEOUT, the event ring and the calls. */
#define STOPWATCH_F_TIMEOUT		(1ULL << 0)
/* struct stopwatch_state.epoch_ns: the guest may know the host's uptime. */
#define STOPWATCH_F_HOST_TIME		(1ULL << 1)
/* STOPWATCH_REQUEST_POSTED, and the post rings. */
#define STOPWATCH_F_POSTED		(1ULL << 2)
/* The doorbells of STOPWATCH_BAR_DOORBELLS, if the VMM has it, are the better ones. */
#define STOPWATCH_F_PORT_DOORBELLS	(1ULL << 3)
/* STOPWATCH_OP_POWER_OFF. Offered only where the VM's creator allows it. */
#define STOPWATCH_F_HOST_POWER		(1ULL << 4)

/* PCI identity. */
#define STOPWATCH_PCI_VENDOR_ID		0x1234
#define STOPWATCH_PCI_DEVICE_ID		0x5357

/* BAR0: registers. Reads of struct stopwatch_info at 0, 1 to 8 bytes wide. */
#define STOPWATCH_BAR_REGISTERS		0
#define STOPWATCH_BAR_MSIX		1
#define STOPWATCH_BAR_REGION		2
/*
 * I/O ports, where the VMM offers them: the doorbell of ring n is port
 * n * STOPWATCH_DOORBELL_STRIDE. Does what a write to STOPWATCH_REG_DOORBELL
 * does. KVM decodes nothing to know what a write to a port was, which where it
 * has no help from the CPU is less than half the work of a write to memory.
 */
#define STOPWATCH_BAR_DOORBELLS		4
#define STOPWATCH_DOORBELLS_SIZE	(STOPWATCH_MAX_RINGS * STOPWATCH_DOORBELL_STRIDE)
#define STOPWATCH_REGISTERS_SIZE	4096
/*
 * Write anything, 4 bytes: a reset. After it all rings are empty with wrap bit
 * 1, features are off, timeouts are disarmed and stopwatches without a name are
 * deleted, save the numbered ones; all others go on as they were. No post ring
 * is bound, and the tickets of all are 0.
 *
 * The host does a reset in slices and serves no ring meanwhile. It is complete
 * when reset_generation in struct stopwatch_state has changed: a driver that
 * resets the device waits for that, with a limit. With a VMM that kicks the host
 * before the write retires it is complete by then.
 *
 * A driver resets the device when it binds. A reset of the machine does the
 * same, save that by which a guest wakes up from suspend to memory: then the VMM
 * resets neither rings nor features nor timeouts, for the driver goes on where
 * it was.
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
	__le32 record_size;	/* bytes from one record to the next, a multiple of 64 */
	__le32 stopwatches;	/* numbered from 0 */
	__le32 event_slots;
	__le32 ring_offset;
	__le32 ring_stride;	/* bytes from one request ring to the next */
	__le32 ring_slots;
	__le32 rings;
	__le32 calls;		/* as many as rings */
	__le32 lap_offset;
	__le32 post_offset;	/* 0 if there are no post rings */
	__le32 post_rings;
	__le32 info_size;	/* bytes of this struct that the host filled in; the rest is zero */
	__le32 reserved[10];	/* zero */
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
	__le32 reset_generation;	/* of the last reset that is complete; it and all
					 * that the reset did can be seen together
					 */
	__le64 paused_ns;		/* of VM time in which the VM was paused, up to the last resume */
	__le64 paused_since_ns;		/* VM time of the last pause; valid while vmm_status says paused */
	__le64 epoch_ns;		/* the host's CLOCK_MONOTONIC at VM time 0, with
					 * STOPWATCH_F_HOST_TIME offered, else 0
					 */
	__le64 pauses;			/* pauses and resumes so far: odd while the VM is paused.
					 * Written after paused_ns, with release semantics
					 */
	__le64 reserved;		/* zero */
};

/* State of a stopwatch, in a reply. */
#define STOPWATCH_STOPPED		0
#define STOPWATCH_RUNNING		1

/* The host's clock that a stopwatch goes by. */
#define STOPWATCH_CLOCK_MONOTONIC	0	/* does not count the host's suspend */
#define STOPWATCH_CLOCK_MONOTONIC_RAW	1	/* nor follows the host's NTP */
#define STOPWATCH_CLOCK_BOOTTIME	2	/* counts the host's suspend */
#define STOPWATCH_CLOCKS		3

/*
 * A stopwatch counts time as its clock does, from the VM's epoch on: its own
 * time. A guest that suspends or resets itself, or idles, changes nothing in
 * that; while it is suspended its timeouts expire, and their events wait in the
 * event ring. While the VMM has the VM paused, time is counted, too, unless the
 * stopwatch was created with STOPWATCH_CREATE_SKIP_PAUSED: then its own time
 * stands still.
 */

/* Flags of a stopwatch, in its record. Bits that are not named here are zero. */
#define STOPWATCH_RECORD_EXISTS		(1 << 0)
#define STOPWATCH_RECORD_SKIP_PAUSED	(1 << 1)
#define STOPWATCH_RECORD_RUNNING	(1 << 2)
/* STOPWATCH_CLOCK_*, in bits 8 to 11. */
#define STOPWATCH_RECORD_CLOCK_SHIFT	8
#define STOPWATCH_RECORD_CLOCK_MASK	(0xf << STOPWATCH_RECORD_CLOCK_SHIFT)

#define STOPWATCH_NAME_SIZE		32

/*
 * A stopwatch, as the host publishes it. Read it as a seqcount: read seq (it
 * is odd while the host writes), read the fields, read seq again; equal and
 * even means that the fields, and the laps, belong together. seq and flags are in
 * one word of 64 bits, which changes with the count only.
 *
 * A stopwatch that runs shows base_ns plus its own time, in 64 bits without sign,
 * but no less than elapsed_ns: where own time is known up to an error only, it
 * can be before the start. Which of the two is less is the sign of their
 * difference. It was started at own time elapsed_ns - base_ns.
 *
 * Lap n, counted from 0, is at lap_offset + 8 * (number * STOPWATCH_LAP_SLOTS
 * + n % STOPWATCH_LAP_SLOTS): what the stopwatch showed when it was taken. The
 * latest STOPWATCH_LAP_SLOTS of all laps are there.
 */
struct stopwatch_record {
	__le32 seq;
	__le32 flags;		/* STOPWATCH_RECORD_* */
	__le64 elapsed_ns;	/* without the time since the last start, if it runs */
	__le64 base_ns;		/* while it runs: elapsed_ns less its own time at the start */
	__le64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__le64 deadline_ns;	/* of its own time, at which the timeout expires; 0 if none
				 * is armed, or if it waits for the stopwatch to run
				 */
	__le32 laps;		/* since the last reset of this stopwatch; it and the next */
	__le32 timeouts;	/* expired since then; stay at 0xffffffff when they get there */
	__u8 name[STOPWATCH_NAME_SIZE];	/* UTF-8, padded with zeros; all zero if it has none */
	__le32 uid;		/* of the guest's user who created it */
	__le32 mode;		/* who else may use it: STOPWATCH_MODE_* */
	__le64 target_ns;	/* elapsed for which the timeout waits; 0 if it does not */
	__le64 interval_ns;	/* of a periodic timeout; 0 if it is not */
	__le32 generation;	/* which of those that had this number: 0 until one is created,
				 * then another one with each, from 1; comes again after
				 * 2^32 - 1 of them. A deletion leaves it
				 */
	__le32 reserved;	/* zero */
	__le64 reserved1[2];	/* zero */
};

/*
 * Slots: 64 bytes, one cache line. A ring is used in order, from slot 0, and
 * round. Each side keeps a wrap bit, 1 on the first round, then 0, 1, and so
 * on. In a request ring the guest is the producer and the host the consumer;
 * in the event ring it is the other way round.
 *
 *   owner                          meaning, in a round with wrap bit p
 *   POSTED != p, DONE != p         not posted in this round
 *   POSTED == p, DONE != p         posted: belongs to the consumer
 *   POSTED == p, DONE == p         completed: belongs to the producer
 *
 * Anything else in a request slot is answered with STOPWATCH_S_BAD_OWNER. The
 * owner field is written last, with release semantics, and read first, with
 * acquire semantics. A producer does not post into a slot whose last round is
 * not completed; in the event ring the event is then counted as lost.
 *
 * A guest that does not wait for a request any more takes it back: it replaces
 * the first word of the slot, 64 bits, by the same with STOPWATCH_OP_NOP as op,
 * in a compare-and-exchange that expects the slot as it was posted. If the word
 * is another one by then, the host has completed the request, and the answer is
 * there. Else the host answers STOPWATCH_S_CANCELLED, unless it had copied the
 * slot already: it copies a slot, acts and completes it without letting go of
 * the VM in between, so it then carries the request out now, and not later. (A
 * SET_FEATURES that ends timeouts may take several such steps, of which the
 * first one turns the features on or off: taken back after that, it is answered
 * with STOPWATCH_S_CANCELLED, and the features are what it made them.) To know
 * which it was, wait for the slot to be completed; it is used again only then.
 * A BIND or UNBIND that was taken back too late does no harm, by its ticket.
 */
#define STOPWATCH_SLOT_SIZE		64
#define STOPWATCH_OWNER_POSTED		(1 << 0)
#define STOPWATCH_OWNER_DONE		(1 << 1)

/*
 * Operations. Each is answered with a status and, unless it was refused (a
 * status from STOPWATCH_S_REFUSED on), with a reading of the stopwatch after it.
 * Each is one atomic step: the reading of a PAUSE is what the stopwatch was
 * stopped at.
 *
 * START    Starts a stopped stopwatch where it stands, for the first time or
 *          again; STOPWATCH_S_ALREADY if it runs.
 * PAUSE    Stops a running stopwatch where it stands; STOPWATCH_S_ALREADY if
 *          it is stopped.
 * LAP      Notes the elapsed time of a running stopwatch as a lap;
 *          STOPWATCH_S_STOPPED if it is stopped.
 * RESET    Stops it, sets elapsed, laps and timeouts to 0 and disarms its
 *          timeout. Never fails.
 * READ     Changes nothing.
 * READ_RESET  As RESET, but the reading is that from before.
 * TIMEOUT  Arms the stopwatch's timeout, and replaces one that was armed: an
 *          event when arg ns of its own time have passed from now, whether it
 *          runs or not; with STOPWATCH_TIMEOUT_ELAPSED when it shows arg ns,
 *          which is at once if it shows more. An interval that is not 0 makes
 *          it periodic: another one each interval ns after that. Those that
 *          the host could not tell one by one come as one event that says how
 *          many they were. An arg of 0 without that flag disarms; doing so when
 *          none is armed is not an error. Needs STOPWATCH_F_TIMEOUT, else
 *          STOPWATCH_S_BAD_OP. An arg or interval above
 *          STOPWATCH_MAX_TIMEOUT_NS is STOPWATCH_S_BAD_ARG; an interval below
 *          what the VM's creator allows is STOPWATCH_S_DENIED, even when the
 *          request disarms. The deadline of one that is at once is the time at
 *          which it was armed. A suspend of the host can make a timeout of a
 *          STOPWATCH_CLOCK_BOOTTIME one late by a second.
 * CREATE   Makes a stopwatch, stopped at 0, and leaves its number in watch
 *          (which is 0 in the request), and its generation. STOPWATCH_S_EXISTS,
 *          with number, generation and reading of the other one, if the name is
 *          taken;
 *          STOPWATCH_S_FULL if all numbers are in use, or if the host has no
 *          memory. Where the host has to find memory first, the answer is not
 *          there when the doorbell's write returns, but soon. Without a name
 *          it is deleted by a reset of the device.
 * DELETE   Deletes a stopwatch that was created. STOPWATCH_S_BAD_WATCH for a
 *          numbered one.
 * SET_MODE Changes uid and mode of a stopwatch that was created; they are in
 *          arg, mode in the upper half.
 * BIND     Binds the post ring of number arg to the stopwatch: see struct
 *          stopwatch_post_ring. If it was bound, that ends. interval is a
 *          ticket: a number above those of all requests for this ring since
 *          the reset. STOPWATCH_S_STALE, and no change, if it is not above
 *          that of the last BIND or UNBIND of this ring that was carried out:
 *          a BIND that nobody waits for any more does not take the ring from
 *          somebody who got it since. Needs STOPWATCH_F_POSTED, else
 *          STOPWATCH_S_BAD_OP.
 * UNBIND   Ends the binding of the post ring of number arg, if it is bound.
 *          interval is a ticket, not below that of the BIND: they may be
 *          equal. STOPWATCH_S_STALE, and no change, if it is below that of
 *          the last BIND or UNBIND of this ring that was carried out. watch
 *          must be 0; the reading is that of stopwatch 0. Needs
 *          STOPWATCH_F_POSTED, as BIND.
 * SET_FEATURES  arg is the set of features to turn on, which replaces the
 *          former set; STOPWATCH_S_BAD_ARG, and no change, if the host did not
 *          offer one of them. watch must be 0; the reading is that of
 *          stopwatch 0. Without STOPWATCH_F_TIMEOUT all timeouts are disarmed,
 *          without STOPWATCH_F_POSTED no post ring is bound.
 *
 * NOP      Nothing: the answer is STOPWATCH_S_CANCELLED, whatever else is in
 *          the slot. For requests that are taken back, see above.
 *
 * A number is free again when its stopwatch is deleted, and the host gives the
 * smallest one that is free. So a guest that has looked at a stopwatch, and asks for
 * something then, says in the request which one it has seen: its generation. If
 * another one has the number by then, the host answers STOPWATCH_S_BAD_WATCH. A
 * generation of zero is whichever has the number; where watch must be 0, it must be
 * zero, too.
 *
 * Of several things wrong with a request the first counts, in the order owner,
 * op, watch, flags and reserved fields, name, arg and interval, ticket.
 */
#define STOPWATCH_OP_NOP		0
#define STOPWATCH_OP_START		1
#define STOPWATCH_OP_PAUSE		2
#define STOPWATCH_OP_LAP		3
#define STOPWATCH_OP_RESET		4
#define STOPWATCH_OP_READ		5
#define STOPWATCH_OP_TIMEOUT		6
#define STOPWATCH_OP_SET_FEATURES	7
#define STOPWATCH_OP_READ_RESET		8
#define STOPWATCH_OP_CREATE		9
#define STOPWATCH_OP_DELETE		10
#define STOPWATCH_OP_SET_MODE		11
#define STOPWATCH_OP_BIND		12
#define STOPWATCH_OP_UNBIND		13

/*
 * Operations from this one on are no stopwatch's: functions of the host, which
 * share the rings with the stopwatches. Each needs a feature of its own, else
 * STOPWATCH_S_BAD_OP. watch must be 0, arg is as the function says; the reading
 * is zero but for time_ns.
 *
 * POWER_OFF  Powers the host off, in good order, soon after it is answered. arg
 *            must be 0. Needs STOPWATCH_F_HOST_POWER.
 */
#define STOPWATCH_OP_FUNCTIONS		0x100
#define STOPWATCH_OP_POWER_OFF		0x100

/*
 * Flag of START, PAUSE, LAP and RESET: the request is posted. The guest puts it
 * into the ring with the VM time of the act in stamp_ns, and rings no doorbell;
 * the host carries it out as of that time, before what else it does about the VM:
 * at any later doorbell, at any look from the host, at any timeout. The guest sees
 * to it that a doorbell comes within STOPWATCH_POSTED_MS, and before a ring is
 * full; a timeout that a posted START brings about is late if its deadline is
 * before that doorbell.
 *
 * Needs STOPWATCH_F_POSTED, else STOPWATCH_S_BAD_FLAGS. Without the flag stamp_ns
 * is zero.
 *
 * The cut: a request that was not posted, a timeout that expires and a look from
 * the host wait for what was in the rings when the host came to them, and for no
 * more than that: at most as many from each ring, of either kind, as the ring has
 * slots. So a guest that posts on and on keeps nobody waiting.
 *
 * What is in the cut is taken in the order of the stamps; a request that was not
 * posted has the time at which it is served. Of equal ones those that were posted
 * come first, of these the ones in request rings, then they go by ring number;
 * those of one ring go in its order. A stamp that is before the last time at which
 * the host did that, or before that of a request ahead of it in its ring, counts as
 * that time; one in the future counts as now.
 */
#define STOPWATCH_REQUEST_POSTED	(1 << 8)
#define STOPWATCH_POSTED_MS		10

/*
 * Post rings carry the same without requests, for a program that has one mapped
 * and posts without its kernel. A post ring is bound to one stopwatch, and what is
 * in it is done with that one: a program with write access to the ring can do
 * nothing else. Binding it makes it empty. SET_MODE and DELETE of the stopwatch
 * end the binding, when all that came before is carried out, as a request does
 * that was not posted.
 *
 * The guest posts in order, from slot 0, and round. A post is one word, stored as
 * a whole, with release semantics:
 *
 *   bit 0         wrap bit: 1 on the first round, then 0, then 1, and so on
 *   bits 1 to 3   STOPWATCH_OP_START, _PAUSE, _LAP or _RESET; anything else is
 *                 counted as a bad request, and left out
 *   bits 4 to 63  VM time of the act, in ns
 *
 * The host stores nothing there. It says in taken how many posts it has taken since
 * the ring was bound; the guest posts no more than STOPWATCH_POST_SLOTS beyond
 * these. The guest sees to the doorbell, that of any request ring, as it does for
 * STOPWATCH_REQUEST_POSTED.
 */
#define STOPWATCH_POST_WRAP		(1 << 0)
#define STOPWATCH_POST_OP_SHIFT		1
#define STOPWATCH_POST_OP_MASK		7
#define STOPWATCH_POST_TIME_SHIFT	4

struct stopwatch_post_ring {
	__le32 taken;		/* so many posts the host has taken; it wraps */
	__le32 bound;		/* 1, or 0: then nothing is taken; written by the host */
	__le64 reserved[255];
	__le64 posts[STOPWATCH_POST_SLOTS];
};

/* Flags of STOPWATCH_OP_TIMEOUT. */
#define STOPWATCH_TIMEOUT_ELAPSED	(1 << 0)

/* Flags of STOPWATCH_OP_CREATE. */
#define STOPWATCH_CREATE_SKIP_PAUSED	(1 << 0)

/*
 * Mode of a stopwatch: what users other than its own may do. The host keeps
 * it; the guest's driver enforces it, as users are the guest's. Root is allowed
 * everything.
 */
#define STOPWATCH_MODE_READ		(1 << 0)	/* read it, and see that it exists */
#define STOPWATCH_MODE_CONTROL		(1 << 1)	/* all but delete it and change its mode */

/* A century: far from where a signed 64-bit count of ns would end. */
#define STOPWATCH_MAX_TIMEOUT_NS	3155760000000000000ULL

/* Status of a completed request. From STOPWATCH_S_REFUSED on nothing was changed. */
#define STOPWATCH_S_OK			0
#define STOPWATCH_S_ALREADY		1	/* it was in that state; no change */
#define STOPWATCH_S_STOPPED		2	/* needs a running stopwatch; no change */
#define STOPWATCH_S_EXISTS		3	/* the name is taken; no change */
#define STOPWATCH_S_REFUSED		16
#define STOPWATCH_S_BAD_OP		16	/* unknown operation, or its feature is off */
#define STOPWATCH_S_BAD_WATCH		17	/* there is no stopwatch of that number, or
						 * another one than the generation says
						 */
#define STOPWATCH_S_BAD_FLAGS		18	/* unknown flag, or a reserved field not zero */
#define STOPWATCH_S_BAD_ARG		19	/* argument out of range, or not zero for an
						 * operation that takes none
						 */
#define STOPWATCH_S_BAD_OWNER		20	/* owner is not one of the states above */
#define STOPWATCH_S_BAD_NAME		21	/* see struct stopwatch_create */
#define STOPWATCH_S_FULL		22	/* no number is free */
#define STOPWATCH_S_DENIED		23	/* the VM's creator does not allow it */
#define STOPWATCH_S_STALE		24	/* a later request has overtaken this one */
#define STOPWATCH_S_CANCELLED		25	/* the guest took the request back */

/* What the guest writes. */
struct stopwatch_request {
	__le16 owner;
	__le16 op;		/* STOPWATCH_OP_* */
	__le32 watch;		/* number of the stopwatch */
	__le32 flags;		/* as the operation says, else zero */
	__le32 status;		/* zero */
	__le64 arg;		/* as the operation says, else zero */
	__le64 interval;	/* ns, for STOPWATCH_OP_TIMEOUT; the ticket of BIND and UNBIND;
				 * else zero
				 */
	__le64 stamp_ns;	/* VM time, with STOPWATCH_REQUEST_POSTED, else zero */
	__le32 generation;	/* that of the stopwatch's record, or zero */
	__le32 reserved;	/* zero */
	__le64 reserved1[2];	/* zero */
};

/*
 * What the guest writes for STOPWATCH_OP_CREATE. A name is UTF-8, at most
 * STOPWATCH_NAME_SIZE - 1 bytes, padded with zeros, without control characters
 * and '/', not "." or "..", and not digits only. All zero is no name.
 */
struct stopwatch_create {
	__le16 owner;
	__le16 op;		/* STOPWATCH_OP_CREATE */
	__le32 watch;		/* zero */
	__le32 flags;		/* STOPWATCH_CREATE_* */
	__le32 status;		/* zero */
	__u8 name[STOPWATCH_NAME_SIZE];
	__le32 uid;
	__le32 mode;		/* STOPWATCH_MODE_* */
	__le32 clock;		/* STOPWATCH_CLOCK_* */
	__le32 reserved;	/* zero */
};

/* What the host leaves in its place. op and flags stay, so does watch, save with CREATE. */
struct stopwatch_reply {
	__le16 owner;
	__le16 op;
	__le32 watch;
	__le32 flags;
	__le32 status;		/* STOPWATCH_S_* */
	__le64 elapsed_ns;
	__le64 time_ns;		/* VM time at which the host served the request, or as
				 * of which, if it was posted
				 */
	__le64 lap_ns;		/* elapsed at the last lap; 0 if there was none */
	__le64 deadline_ns;	/* as in the record */
	__le32 state;		/* STOPWATCH_STOPPED or STOPWATCH_RUNNING */
	__le32 laps;
	__le32 timeouts;
	__le32 generation;	/* with CREATE: that of its record; else zero */
};

/* Events. */
#define STOPWATCH_EVENT_TIMEOUT		1

/* A slot of the event ring. The guest writes nothing but owner. */
struct stopwatch_event {
	__le16 owner;
	__le16 type;		/* STOPWATCH_EVENT_* */
	__le32 watch;
	__le64 sequence;	/* of this event, counted from 0; lost ones are counted, too */
	__le64 deadline_ns;	/* of the stopwatch's own time, for which it was armed */
	__le64 time_ns;		/* of its own time, at which the host's timer ran */
	__le32 timeouts;	/* of that stopwatch, this one included */
	__le32 count;		/* how many timeouts this tells of, from 1 */
	__le32 generation;	/* that of the stopwatch's record */
	__le32 reserved;	/* zero */
	__le64 reserved1[2];	/* zero */
};

#endif /* _UAPI_LINUX_STOPWATCH_DEVICE_H */
