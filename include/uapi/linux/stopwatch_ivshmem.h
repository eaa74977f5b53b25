/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The carrier ivshmem-doorbell: a stopwatch device behind a QEMU that knows nothing of
 * stopwatches.
 *
 * QEMU's own device ivshmem-doorbell shows a guest a memfd and rings eventfds, both of
 * which it gets from a server, by a UNIX socket. `stopwatch host serve` is such a server.
 * The region, the rings and all that is said in them is that of
 * <linux/stopwatch_device.h>; here is only what the carrier changes:
 *
 * - BAR2 is the whole region, from offset 0 on: the offsets of struct stopwatch_info are
 *   those of BAR2. Its size is a power of two, and may be more than region_size says; what
 *   is behind that is nobody's.
 * - All of BAR2 can be written by the guest. The host does not read back what it has
 *   written into the VMM page and the state pages, so a guest that writes there only
 *   deceives itself; but see STOPWATCH_IVSHMEM_MODULE. struct stopwatch_vmm is not used.
 * - The doorbell is one register, for rings and for a reset.
 * - Nobody tells the host in time that the VM is paused, see STOPWATCH_IVSHMEM_PAUSES.
 * - There are no I/O ports: STOPWATCH_F_PORT_DOORBELLS is not offered.
 *
 * The PCI identity is shared by every user of QEMU's device. A driver looks for
 * STOPWATCH_MAGIC at the start of BAR2, and leaves devices alone that do not have it.
 */
#ifndef _UAPI_LINUX_STOPWATCH_IVSHMEM_H
#define _UAPI_LINUX_STOPWATCH_IVSHMEM_H

#include <linux/types.h>

/* PCI identity, and where things are. */
#define STOPWATCH_IVSHMEM_PCI_VENDOR_ID		0x1af4
#define STOPWATCH_IVSHMEM_PCI_DEVICE_ID		0x1110
#define STOPWATCH_IVSHMEM_BAR_REGISTERS		0
#define STOPWATCH_IVSHMEM_BAR_MSIX		1
#define STOPWATCH_IVSHMEM_BAR_REGION		2

/* BAR0: registers, 4 bytes each. */
#define STOPWATCH_IVSHMEM_REGISTERS_SIZE	256
/* Reads as the guest's own peer, which is STOPWATCH_IVSHMEM_PEER_GUEST. */
#define STOPWATCH_IVSHMEM_REG_POSITION		0x08
/*
 * Write STOPWATCH_IVSHMEM_PEER_HOST << STOPWATCH_IVSHMEM_PEER_SHIFT | n: the doorbell of
 * request ring n or, for n = rings of struct stopwatch_info, that of a reset of the
 * device. KVM tells them apart by the value that is written, and no other program runs.
 *
 * A reset does what STOPWATCH_REG_RESET of <linux/stopwatch_device.h> does, but it is not
 * complete when the write retires: wait for another reset_generation in struct
 * stopwatch_state, with a limit.
 *
 * With a host module a call is answered when the write retires, up to a budget; with a
 * program some time later: wait for the slot to be completed.
 */
#define STOPWATCH_IVSHMEM_REG_DOORBELL		0x0c
#define STOPWATCH_IVSHMEM_PEER_SHIFT		16
#define STOPWATCH_IVSHMEM_PEER_HOST		0
#define STOPWATCH_IVSHMEM_PEER_GUEST		1

/*
 * BAR1: MSI-X. Vector n is that of call n. QEMU's `vectors=` has to be one more than there
 * are rings: it limits both the vectors and the doorbells, of which the reset is one.
 */

/*
 * What the host says of the carrier, in the VMM page. Written once, before the guest sees
 * it. All zero in a region that another carrier shows.
 */
#define STOPWATCH_IVSHMEM_OFFSET		0xc00

struct stopwatch_ivshmem {
	__le32 size;		/* bytes of this struct that the host filled in */
	__le32 backend;		/* STOPWATCH_IVSHMEM_PROGRAM or _MODULE */
	__le64 flags;		/* STOPWATCH_IVSHMEM_PAUSES */
};

/*
 * The backend is a program. If that was started anew it resets the device by itself:
 * reset_generation then is another one than that of the driver's last reset, every call
 * is made, and the driver has to reset the device, too. Stopwatches are as they were,
 * save what a reset takes from them.
 */
#define STOPWATCH_IVSHMEM_PROGRAM		1
/*
 * The backend is the host's kernel module. It takes VMM page and state pages for the
 * host's own, and so believes a guest that writes there, of that guest's own pauses,
 * resets and laps.
 */
#define STOPWATCH_IVSHMEM_MODULE		2

/*
 * The host is told of a pause of the VM before a guest can run again. Without it the
 * host knows of no pause: stopwatches count the time in which the VM is paused, even those
 * that were created with STOPWATCH_CREATE_SKIP_PAUSED, so a driver refuses to create such;
 * and it reads the time without an exit only where the CPU's counter goes on in a pause,
 * as it does under KVM.
 */
#define STOPWATCH_IVSHMEM_PAUSES		(1 << 0)

/*
 * Between the server and QEMU, on the socket: messages of 8 bytes, little-endian and
 * signed, each with one descriptor or none, from the server only. In this order, for a
 * device of so many rings:
 *
 *   STOPWATCH_IVSHMEM_PROTOCOL                       -
 *   STOPWATCH_IVSHMEM_PEER_GUEST                     -
 *   STOPWATCH_IVSHMEM_PEER_HOST      rings + 1 times a doorbell's eventfd
 *   STOPWATCH_IVSHMEM_MEMORY                         the memfd
 *   STOPWATCH_IVSHMEM_PEER_GUEST     rings + 1 times a call's eventfd
 *
 * The last call is never made. It is there since QEMU ends if a guest unmasks a vector
 * that has no eventfd; so `vectors=` is not to be more than that, either.
 *
 * There can be only one such handshake in the life of a device: QEMU takes the first
 * message of another one for the end of peer 0, and closes that peer's doorbells.
 */
#define STOPWATCH_IVSHMEM_PROTOCOL		0
#define STOPWATCH_IVSHMEM_MEMORY		-1

#endif /* _UAPI_LINUX_STOPWATCH_IVSHMEM_H */
