// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A guest program in C that needs nothing but the header: a stopwatch of its own
 * name, laps, a timeout by poll(), and reading without a system call.
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

/* By the mapped pages, or by a call where they are not to be had or do not hold. */
static void read_mapped(int fd, __u32 watch)
{
	struct stopwatch_device_info info = { .size = sizeof(info) };
	struct stopwatch_reading reading;
	const char *how = "exit-free";
	size_t size;
	void *pages;

	check(ioctl(fd, STOPWATCH_IOC_INFO, &info), "info");
	size = STOPWATCH_CLOCK_PAGE_SIZE + info.state_size;
	pages = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (pages == MAP_FAILED || stopwatch_read_mapped(pages, &info, watch, &reading)) {
		how = "by call";
		reading = command(fd, watch, STOPWATCH_OP_READ, "read");
	}
	printf("%-9s %" PRIu64 " ns, to %" PRIu64 " ns\n", how,
	       (uint64_t)reading.elapsed_ns, (uint64_t)reading.error_ns);
	if (pages != MAP_FAILED)
		munmap(pages, size);
}

int main(void)
{
	int fd = open("/dev/stopwatch", O_RDWR);
	__u32 watch;

	check(fd, "open /dev/stopwatch");
	watch = create(fd);
	command(fd, watch, STOPWATCH_OP_RESET, "reset");
	command(fd, watch, STOPWATCH_OP_START, "start");
	for (int n = 0; n < 3; n++) {
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		command(fd, watch, STOPWATCH_OP_LAP, "lap");
	}
	print_laps(fd, watch);
	wait_for_timeout(fd, watch, 50000000);
	read_mapped(fd, watch);
	printf("paused    %" PRIu64 " ns\n",
	       (uint64_t)command(fd, watch, STOPWATCH_OP_PAUSE, "pause").elapsed_ns);
	command(fd, watch, STOPWATCH_OP_DELETE, "delete");
	close(fd);
	return 0;
}
