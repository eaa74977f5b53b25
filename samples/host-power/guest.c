// SPDX-License-Identifier: GPL-2.0
/* A guest powers the host off: the guest's part. Needs CAP_SYS_BOOT there. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include <linux/stopwatch.h>

int main(void)
{
	struct stopwatch_command power_off = {
		.size = sizeof(power_off),
		.op = STOPWATCH_OP_POWER_OFF,
	};
	int fd = open("/dev/stopwatch", O_RDWR);

	if (fd < 0 || ioctl(fd, STOPWATCH_IOC_COMMAND, &power_off) < 0) {
		perror("cannot power the host off");
		return 1;
	}
	puts("the host is going down");
	return 0;
}
