// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A guest program in C that needs nothing but the header: a stopwatch of its own
 * name, a timeout by poll(), and laps and reading without a system call.
 *
 *   cc -O2 -I ../../include/uapi stopwatch.c -o stopwatch-sample && ./stopwatch-sample
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/stopwatch.h>

#define NAME "sample-c"

static void check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static struct stopwatch_reading command(int fd, __u32 watch, __u32 op, const char *what)
{
	struct stopwatch_command command = {
		.size = sizeof(command), .op = op, .watch = watch,
	};

	check(ioctl(fd, STOPWATCH_IOC_COMMAND, &command), what);
	return command.reading;
}

/* The stopwatch of that name, made now or by an earlier run that did not end. */
static __u32 create(int fd)
{
	struct stopwatch_creation creation = { .size = sizeof(creation), .name = NAME };

	if (ioctl(fd, STOPWATCH_IOC_CREATE, &creation) && errno != EEXIST)
		check(-1, "make the stopwatch");
	return creation.watch;
}

static void wait_for_timeout(int fd, __u32 watch, __u64 ns)
{
	struct stopwatch_command command = {
		.size = sizeof(command), .op = STOPWATCH_OP_TIMEOUT, .watch = watch, .arg = ns,
	};
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct stopwatch_event_record event;

	check(ioctl(fd, STOPWATCH_IOC_COMMAND, &command), "arm the timeout");
	do {
		int ready = poll(&pollfd, 1, 10000);

		check(ready, "poll");
		if (!ready) {
			fprintf(stderr, "no event within 10 s\n");
			exit(1);
		}
		/* Events of others come, too. */
		check(read(fd, &event, sizeof(event)), "read");
	} while (event.watch != watch);
	printf("timeout   %" PRIu64 " ns late\n", (uint64_t)(event.time_ns - event.deadline_ns));
}

static void print_laps(int fd, __u32 watch)
{
	__u64 laps[STOPWATCH_LAP_SLOTS];
	struct stopwatch_laps all = {
		.size = sizeof(all), .watch = watch, .count = STOPWATCH_LAP_SLOTS,
		.laps = (uintptr_t)laps,
	};

	check(ioctl(fd, STOPWATCH_IOC_LAPS, &all), "laps");
	for (__u32 n = 0; n < all.count; n++)
		printf("lap %-5u %" PRIu64 " ns\n", n, (uint64_t)laps[n]);
}

/* The device's pages, or NULL where they are not to be had. */
static const void *map_pages(int fd, struct stopwatch_device_info *info)
{
	void *pages;

	*info = (struct stopwatch_device_info){ .size = sizeof(*info) };
	check(ioctl(fd, STOPWATCH_IOC_INFO, info), "info");
	pages = mmap(NULL, STOPWATCH_CLOCK_PAGE_SIZE + info->state_size, PROT_READ, MAP_SHARED,
		     fd, 0);
	return pages == MAP_FAILED ? NULL : pages;
}

/* A post ring for the stopwatch, or NULL where there is none. */
static struct stopwatch_post_ring *map_ring(int fd, __u32 watch)
{
	struct stopwatch_binding binding = { .size = sizeof(binding), .watch = watch };
	void *ring;

	if (ioctl(fd, STOPWATCH_IOC_BIND, &binding))
		return NULL;
	ring = mmap(NULL, sizeof(struct stopwatch_post_ring), PROT_READ | PROT_WRITE, MAP_SHARED,
		    fd, STOPWATCH_POST_RING_OFFSET);
	return ring == MAP_FAILED ? NULL : ring;
}

/* In the ring, or by an ioctl where there is none, or where the time is not known. */
static void post_lap(int fd, __u32 watch, const void *pages, struct stopwatch_post_ring *ring)
{
	struct stopwatch_command command = {
		.size = sizeof(command), .op = STOPWATCH_OP_LAP, .watch = watch,
		.flags = STOPWATCH_REQUEST_POSTED,
	};
	static __u32 posted;
	int is = STOPWATCH_POST_NONE;

	if (pages && ring)
		is = stopwatch_post_mapped(pages, ring, &posted, STOPWATCH_OP_LAP);
	if (is == STOPWATCH_POST_RING)
		is = ioctl(fd, STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_SOON);
	else if (is == STOPWATCH_POST_FULL)
		is = ioctl(fd, STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_NOW);
	else if (is == STOPWATCH_POST_NONE)
		is = ioctl(fd, STOPWATCH_IOC_COMMAND, &command);
	check(is, "lap");
}

/* By the mapped pages, or by a call where they are not to be had or do not hold. */
static void read_mapped(int fd, __u32 watch, const void *pages,
			const struct stopwatch_device_info *info)
{
	struct stopwatch_reading reading;
	const char *how = "exit-free";

	if (!pages || stopwatch_read_mapped(pages, info, watch, &reading)) {
		how = "by call";
		reading = command(fd, watch, STOPWATCH_OP_READ, "read");
	}
	printf("%-9s %" PRIu64 " ns, to %" PRIu64 " ns\n", how,
	       (uint64_t)reading.elapsed_ns, (uint64_t)reading.error_ns);
}

int main(void)
{
	int fd = open("/dev/stopwatch", O_RDWR);
	struct stopwatch_device_info info;
	struct stopwatch_post_ring *ring;
	const void *pages;
	__u32 watch;

	check(fd, "open /dev/stopwatch");
	watch = create(fd);
	pages = map_pages(fd, &info);
	ring = map_ring(fd, watch);
	command(fd, watch, STOPWATCH_OP_RESET, "reset");
	command(fd, watch, STOPWATCH_OP_START, "start");
	for (int n = 0; n < 3; n++) {
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		post_lap(fd, watch, pages, ring);
	}
	print_laps(fd, watch);
	wait_for_timeout(fd, watch, 50000000);
	read_mapped(fd, watch, pages, &info);
	printf("paused    %" PRIu64 " ns\n",
	       (uint64_t)command(fd, watch, STOPWATCH_OP_PAUSE, "pause").elapsed_ns);
	command(fd, watch, STOPWATCH_OP_DELETE, "delete");
	close(fd);
	return 0;
}
