/* The wall clock may jump: timeouts, pings and waits are about the monotonic one. This program's own
 * clock_gettime, gettimeofday and time stand before the system's; they tell the library that it is
 * an hour earlier each time it asks for the wall clock. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* syscall */
#endif
#include "check.h"

#include <sys/syscall.h>

static __thread int is_the_tests_own_thread;
static counter monotonic_readings, jumps;

/* The library's threads are lied to, and this one while it is inside a call. */
static int is_lied_to(void)
{
    return !is_the_tests_own_thread || library_depth > 0;
}

static void read_the_clock(clockid_t clock, struct timespec *now)
{
    syscall(SYS_clock_gettime, clock, now);
    if (clock != CLOCK_REALTIME)
        counter_add(&monotonic_readings);
    else if (is_lied_to()) {
        counter_add(&jumps);
        now->tv_sec -= 3600 * (time_t)counter_get(&jumps);
    }
}

#ifdef __cplusplus
#define AS_DECLARED noexcept
extern "C" {
#else
#define AS_DECLARED
#endif

int clock_gettime(clockid_t clock, struct timespec *now) AS_DECLARED
{
    read_the_clock(clock, now);
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) AS_DECLARED
{
    struct timespec time_now;

    (void)zone;
    read_the_clock(CLOCK_REALTIME, &time_now);
    now->tv_sec = time_now.tv_sec;
    now->tv_usec = (suseconds_t)(time_now.tv_nsec / 1000);
    return 0;
}

time_t time(time_t *out) AS_DECLARED
{
    struct timespec now;

    read_the_clock(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

#ifdef __cplusplus
}
#endif

static void the_wall_clock_jumps_for_the_library_and_the_monotonic_one_is_read(void)
{
    unsigned before = counter_get(&monotonic_readings);
    struct timespec now, later;
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);

    CHECK(counter_get(&monotonic_readings) > before);
    library_depth++;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_REALTIME, &later);
    library_depth--;
    CHECK(later.tv_sec <= now.tv_sec - 3500);
    host_end(h);
}

/* Not before its time, and not for ever. */
static void check_took(int64_t begun, int64_t ms)
{
    CHECK(now_ms() - begun >= ms - 50);
    CHECK(now_ms() - begun < ms + 5000 || runs_slowly());
}

static void timeouts_end_connections_whatever_the_wall_clock_says(void)
{
    host *h = host_start("timeout.handshake = 200ms\ntimeout.idle = 300ms\ntimeout.close = 200ms\n", ON_USUAL, NULL, NULL);
    int64_t begun = now_ms();
    client c = client_dial(h->port);
    fdx_conn conn;

    client_read_head(&c);                   /* a request that never comes */
    check_took(begun, 200);
    client_drop(&c);

    begun = now_ms();
    c = client_open(h->port);               /* a peer that says nothing */
    CHECK(client_read(&c) == OP_CLOSE);
    check_took(begun, 300);
    client_drop(&c);
    host_await(h, FDX_EV_CLOSE, 1);

    c = client_open(h->port);               /* a peer that does not answer our close */
    conn = host_await(h, FDX_EV_OPEN, 2).conn;
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "", 0));
    CHECK(host_await(h, FDX_EV_CLOSE, 2).code == 1006);
    check_took(begun, 200);
    client_drop(&c);
    host_end(h);
}

static void pings_go_out_and_a_missing_pong_ends_the_connection_whatever_the_wall_clock_says(void)
{
    host *h = host_start("ping.interval = 100ms\nping.timeout = 200ms\n", ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    int64_t begun = now_ms();
    unsigned i;

    for (i = 0; i < 3; i++) {
        CHECK(client_read(&c) == OP_PING);
        client_send(&c, OP_PONG, c.payload, c.payload_len);
    }
    check_took(begun, 250);
    CHECK(host_await(h, FDX_EV_PONG, 3).arg > 0);                /* a round trip that is measured and not negative */
    CHECK(host_await(h, FDX_EV_PONG, 3).arg < 60000000);
    CHECK(client_read(&c) == OP_PING);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_TIMEOUT);
    client_drop(&c);
    host_end(h);
}

static void the_times_of_events_only_grow_whatever_the_wall_clock_says(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    unsigned i;

    for (i = 0; i < 20; i++) {
        client_say(&c, "hello");
        host_await(h, FDX_EV_MESSAGE, i + 1);
    }
    client_leave(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    pthread_mutex_lock(&h->lock);
    for (i = 1; i < h->count; i++)
        CHECK(h->events[i].time_us >= h->events[i - 1].time_us);
    pthread_mutex_unlock(&h->lock);
    host_end(h);
}

static void waits_and_deadlines_end_whatever_the_wall_clock_says(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    int64_t begun = now_ms();

    host_await(h, FDX_EV_OPEN, 1);
    CHECK_STATUS(FDX_E_TIMEOUT, fdx_server_wait(h->server, 200));
    check_took(begun, 200);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 200));   /* a peer that does not answer */
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, -1));
    check_took(begun, 200);
    client_drop(&c);
    host_end(h);
}

int main(void)
{
    is_the_tests_own_thread = 1;
    PROVE(the_wall_clock_jumps_for_the_library_and_the_monotonic_one_is_read);
    PROVE(timeouts_end_connections_whatever_the_wall_clock_says);
    PROVE(pings_go_out_and_a_missing_pong_ends_the_connection_whatever_the_wall_clock_says);
    PROVE(the_times_of_events_only_grow_whatever_the_wall_clock_says);
    PROVE(waits_and_deadlines_end_whatever_the_wall_clock_says);
    return 0;
}
