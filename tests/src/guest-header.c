// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Runs in a guest: a C program that has <linux/stopwatch.h> and nothing else of
 * this project. Built for 64 and for 32 bits, to be run on the same driver.
 *
 *   guest-header check       each ioctl, read(), poll() and mmap(), held against
 *                            the header
 *   guest-header show NAME   what the inline reader makes of a stopwatch, as JSON
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
#include <unistd.h>

#include <linux/stopwatch.h>

#define NEED(condition) need((condition), #condition, __LINE__)

static void need(int is, const char *what, int line)
{
	if (is)
		return;
	fprintf(stderr, "guest-header.c:%d: not so: %s (errno %d, %s)\n", line, what, errno,
		strerror(errno));
	exit(1);
}

/* The pages, and what they hold. */
struct device {
	int fd;
	struct stopwatch_device_info info;
	void *pages;
};

static struct device open_device(void)
{
	struct device device = { .info.size = sizeof(device.info) };

	device.fd = open("/dev/stopwatch", O_RDWR);
	NEED(device.fd >= 0);
	NEED(!ioctl(device.fd, STOPWATCH_IOC_INFO, &device.info));
	NEED(device.info.version == STOPWATCH_VERSION);
	NEED(device.info.record_size >= sizeof(struct stopwatch_record));
	device.pages = mmap(NULL, STOPWATCH_CLOCK_PAGE_SIZE + device.info.state_size, PROT_READ,
			    MAP_SHARED, device.fd, 0);
	NEED(device.pages != MAP_FAILED);
	return device;
}

/* A command; the result is that of ioctl(), or the errno. */
static int give(int fd, struct stopwatch_command *command)
{
	command->size = sizeof(*command);
	return ioctl(fd, STOPWATCH_IOC_COMMAND, command) ? errno : 0;
}

static struct stopwatch_reading done(int fd, __u32 watch, __u32 op)
{
	struct stopwatch_command command = { .op = op, .watch = watch };

	NEED(!give(fd, &command));
	return command.reading;
}

static int refused(int fd, __u32 watch, __u32 op)
{
	struct stopwatch_command command = { .op = op, .watch = watch };

	return give(fd, &command);
}

static void check_names(int fd)
{
	struct stopwatch_creation creation = {
		.size = sizeof(creation), .clock = STOPWATCH_CLOCK_BOOTTIME,
		.mode = STOPWATCH_MODE_READ, .flags = STOPWATCH_CREATE_SKIP_PAUSED,
		.name = "of the header",
	};
	struct stopwatch_find find = { .size = sizeof(find), .name = "of the header" };
	struct stopwatch_description description = { .size = sizeof(description) };

	NEED(!ioctl(fd, STOPWATCH_IOC_CREATE, &creation));
	NEED(creation.watch >= STOPWATCH_NUMBERED);
	NEED(!ioctl(fd, STOPWATCH_IOC_FIND, &find));
	NEED(find.watch == creation.watch);
	description.watch = find.watch;
	NEED(!ioctl(fd, STOPWATCH_IOC_DESCRIBE, &description));
	NEED(description.clock == STOPWATCH_CLOCK_BOOTTIME);
	NEED(description.mode == STOPWATCH_MODE_READ);
	NEED(description.uid == geteuid());
	NEED(description.record_flags ==
	     (STOPWATCH_RECORD_EXISTS | STOPWATCH_RECORD_SKIP_PAUSED |
	      STOPWATCH_CLOCK_BOOTTIME << STOPWATCH_RECORD_CLOCK_SHIFT));
	NEED(!strcmp((const char *)description.name, "of the header"));
	NEED(ioctl(fd, STOPWATCH_IOC_CREATE, &creation) && errno == EEXIST);
	done(fd, find.watch, STOPWATCH_OP_DELETE);
	NEED(ioctl(fd, STOPWATCH_IOC_FIND, &find) && errno == ENOENT);
}

static void check_commands(int fd, __u32 watch)
{
	struct stopwatch_reading started, lap[3], paused;
	__u64 array[4] = { 0, 0, 0, 7 };
	struct stopwatch_laps laps = {
		.size = sizeof(laps), .watch = watch, .count = 3, .laps = (uintptr_t)array,
	};

	started = done(fd, watch, STOPWATCH_OP_START);
	NEED(started.state == STOPWATCH_RUNNING && started.elapsed_ns == 0);
	NEED(refused(fd, watch, STOPWATCH_OP_START) == EALREADY);
	for (int n = 0; n < 3; n++)
		lap[n] = done(fd, watch, STOPWATCH_OP_LAP);
	NEED(!ioctl(fd, STOPWATCH_IOC_LAPS, &laps));
	NEED(laps.total == 3 && laps.count == 3 && laps.oldest == 0);
	for (int n = 0; n < 3; n++)
		NEED(array[n] == lap[n].time_ns - started.time_ns);
	NEED(array[3] == 7);
	paused = done(fd, watch, STOPWATCH_OP_PAUSE);
	NEED(paused.elapsed_ns == paused.time_ns - started.time_ns);
	NEED(refused(fd, watch, STOPWATCH_OP_LAP) == ENODATA);
	NEED(refused(fd, watch, 99) == EOPNOTSUPP);
	NEED(done(fd, watch, STOPWATCH_OP_READ_RESET).elapsed_ns == paused.elapsed_ns);
}

/* An older and a newer program. */
static void check_sizes(int fd)
{
	struct {
		struct stopwatch_command command;
		__u64 more;
	} newer = { .command.op = STOPWATCH_OP_READ, .command.size = sizeof(newer) };

	NEED(!ioctl(fd, STOPWATCH_IOC_COMMAND, &newer));
	newer.more = 1;
	NEED(ioctl(fd, STOPWATCH_IOC_COMMAND, &newer) && errno == E2BIG);
	newer.command.size = sizeof(newer.command) - 8;
	NEED(ioctl(fd, STOPWATCH_IOC_COMMAND, &newer) && errno == EINVAL);
}

static void check_events(int fd, __u32 watch)
{
	struct stopwatch_command command = {
		.op = STOPWATCH_OP_TIMEOUT, .watch = watch, .arg = 20000000, .interval = 10000000,
	};
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct stopwatch_event_record event;
	__u32 timeouts = 0;

	NEED(read(fd, &event, sizeof(event) - 1) < 0 && errno == EINVAL);
	NEED(!give(fd, &command));
	while (timeouts < 3) {
		NEED(poll(&pollfd, 1, 10000) == 1 && pollfd.revents == POLLIN);
		NEED(read(fd, &event, sizeof(event)) == sizeof(event));
		NEED(event.type == STOPWATCH_EVENT_TIMEOUT && event.watch == watch);
		NEED(event.deadline_ns == command.reading.deadline_ns +
		     timeouts * command.interval);
		timeouts += event.count;
		NEED(event.timeouts == timeouts && event.time_ns >= event.deadline_ns);
	}
	done(fd, watch, STOPWATCH_OP_RESET);
}

static void check_mapping(const struct device *device, __u32 watch)
{
	struct stopwatch_reading started = done(device->fd, watch, STOPWATCH_OP_START);
	struct stopwatch_reading before, mapped, after;
	unsigned int held = 0, tries;
	__u64 bound = ~0ULL, elapsed;

	for (tries = 0; held < 200 && tries < 1000; tries++) {
		before = done(device->fd, watch, STOPWATCH_OP_READ);
		/* The call has renewed the clock page, but this may have slept since. */
		if (stopwatch_read_mapped(device->pages, &device->info, watch, &mapped))
			continue;
		if (stopwatch_elapsed_mapped(device->pages, &device->info, watch, &elapsed))
			continue;
		after = done(device->fd, watch, STOPWATCH_OP_READ);
		NEED(mapped.elapsed_ns <= elapsed);
		/* By then the error may have grown, by less than this. */
		NEED(elapsed <= after.elapsed_ns + 2 * mapped.error_ns);
		NEED(before.time_ns <= mapped.time_ns + mapped.error_ns);
		NEED(mapped.time_ns <= after.time_ns + mapped.error_ns);
		NEED(mapped.elapsed_ns == mapped.time_ns - started.time_ns);
		NEED(mapped.state == STOPWATCH_RUNNING);
		if (mapped.error_ns < bound)
			bound = mapped.error_ns;
		held++;
	}
	NEED(held == 200);
	after = done(device->fd, watch, STOPWATCH_OP_PAUSE);
	NEED(!stopwatch_read_mapped(device->pages, &device->info, watch, &mapped));
	NEED(mapped.elapsed_ns == after.elapsed_ns && mapped.state == STOPWATCH_STOPPED);
	NEED(!stopwatch_elapsed_mapped(device->pages, &device->info, watch, &elapsed));
	NEED(elapsed == after.elapsed_ns);
	NEED(stopwatch_read_mapped(device->pages, &device->info, device->info.stopwatches,
				   &mapped) == -1);
	NEED(stopwatch_elapsed_mapped(device->pages, &device->info, device->info.stopwatches,
				      &elapsed) == -1);
	printf("figure: the header's reader in %zu bits: 200 readings within bounds from %" PRIu64
	       " ns on\n", 8 * sizeof(void *), (uint64_t)bound);
}

/* A command posted in a ring, and what is left to do for it. */
static int posted(int fd, const void *pages, struct stopwatch_post_ring *ring, __u32 *count,
		  __u32 op)
{
	int is = stopwatch_post_mapped(pages, ring, count, op);

	if (is == STOPWATCH_POST_RING)
		NEED(!ioctl(fd, STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_SOON));
	else if (is == STOPWATCH_POST_FULL)
		NEED(!ioctl(fd, STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_NOW));
	return is;
}

static void check_posts(const struct device *device, __u32 watch)
{
	struct stopwatch_binding binding = { .size = sizeof(binding), .watch = watch };
	struct stopwatch_reading before, after;
	struct stopwatch_post_ring *ring;
	__u32 count = 0, full = 0, tries = 0;

	NEED(!ioctl(device->fd, STOPWATCH_IOC_BIND, &binding));
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, device->fd,
		    STOPWATCH_POST_RING_OFFSET);
	NEED(ring != MAP_FAILED);
	done(device->fd, watch, STOPWATCH_OP_RESET);
	before = done(device->fd, watch, STOPWATCH_OP_START);
	while (count < 5 * STOPWATCH_POST_SLOTS) {
		int is = posted(device->fd, device->pages, ring, &count, STOPWATCH_OP_LAP);

		full += is == STOPWATCH_POST_FULL;
		/* This may have slept; a call renews the clock page. */
		NEED(is != STOPWATCH_POST_NONE || tries++ < 1000);
		if (is == STOPWATCH_POST_NONE)
			done(device->fd, watch, STOPWATCH_OP_READ);
	}
	/* The driver may have rung before it was. */
	NEED(full <= 5);
	after = done(device->fd, watch, STOPWATCH_OP_PAUSE);
	NEED(after.laps == 5 * STOPWATCH_POST_SLOTS && ring->taken == count);
	NEED(after.lap_ns > 0 && after.lap_ns <= after.time_ns - before.time_ns);
	NEED(posted(device->fd, device->pages, ring, &count, STOPWATCH_OP_RESET) !=
	     STOPWATCH_POST_NONE);
	NEED(done(device->fd, watch, STOPWATCH_OP_READ).laps == 0);
	done(device->fd, watch, STOPWATCH_OP_DELETE);
	NEED(posted(device->fd, device->pages, ring, &count, STOPWATCH_OP_LAP) ==
	     STOPWATCH_POST_NONE);
}

static void check(void)
{
	struct device device = open_device();
	struct stopwatch_creation creation = { .size = sizeof(creation) };

	NEED(!ioctl(device.fd, STOPWATCH_IOC_CREATE, &creation));
	check_names(device.fd);
	check_commands(device.fd, creation.watch);
	check_sizes(device.fd);
	check_events(device.fd, creation.watch);
	check_mapping(&device, creation.watch);
	check_posts(&device, creation.watch);
	printf("%zu bits: ok\n", 8 * sizeof(void *));
}

static void show(const char *name)
{
	struct device device = open_device();
	struct stopwatch_find find = { .size = sizeof(find) };
	struct stopwatch_reading reading;

	NEED(strlen(name) < sizeof(find.name));
	memcpy(find.name, name, strlen(name));
	NEED(!ioctl(device.fd, STOPWATCH_IOC_FIND, &find));
	done(device.fd, find.watch, STOPWATCH_OP_READ);
	NEED(!stopwatch_read_mapped(device.pages, &device.info, find.watch, &reading));
	printf("{\"elapsed_ns\":%" PRIu64 ",\"time_ns\":%" PRIu64 ",\"error_ns\":%" PRIu64
	       ",\"laps\":%u,\"lap_ns\":%" PRIu64 ",\"timeouts\":%u,\"running\":%s}\n",
	       (uint64_t)reading.elapsed_ns, (uint64_t)reading.time_ns,
	       (uint64_t)reading.error_ns, reading.laps, (uint64_t)reading.lap_ns,
	       reading.timeouts, reading.state == STOPWATCH_RUNNING ? "true" : "false");
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "check"))
		check();
	else if (argc == 3 && !strcmp(argv[1], "show"))
		show(argv[2]);
	else
		return 2;
	return 0;
}
