/* Preloaded into a daemon: its clock on the wall is CCD_TEST_CLOCK_AHEAD_S seconds ahead of the machine's. All other clocks are as they are. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    long failed = syscall(SYS_clock_gettime, id, now);
    const char *ahead = getenv("CCD_TEST_CLOCK_AHEAD_S");
    if (!failed && id == CLOCK_REALTIME && ahead)
        now->tv_sec += atol(ahead);
    return (int)failed;
}
