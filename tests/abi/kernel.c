/* How the library asks the kernel: many sends with one call, where io_uring is to be had, and one by one where it is
 * not or stops working; and how long it looks for news before it sleeps. Who is connected must not notice any of it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* syscall */
#endif
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define MEMBERS 100                     /* more than one call takes */
#define MESSAGES 40
#define ROOM "room"

static host *h;
static client members[MEMBERS];

/* From now on this call is forbidden, as a container does it: to this thread and those it will make, or to all. */
static void forbid(long call, int to_all)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program;

    program.len = sizeof rules / sizeof rules[0];
    program.filter = rules;
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (to_all)
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
    else
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* What is forbidden stays so: each test of it has a process of its own, which ends without any exit. */
static void in_a_child(void (*part)(void))
{
    int status = 0;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(runs_slowly() ? 200 : 50);
        part();
        kill(getpid(), SIGKILL);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Descriptors of an io_uring, and whether all of them stay behind when a program is started. */
static unsigned rings(void)
{
    DIR *files = opendir("/proc/self/fd");
    const struct dirent *file;
    char target[64];
    unsigned count = 0;

    CHECK(files != NULL);
    while ((file = readdir(files))) {
        ssize_t len = readlinkat(dirfd(files), file->d_name, target, sizeof target - 1);
        if (len < 0)
            continue;
        target[len] = '\0';
        if (strstr(target, "io_uring")) {
            CHECK(fcntl(atoi(file->d_name), F_GETFD) & FD_CLOEXEC);
            count++;
        }
    }
    closedir(files);
    return count;
}

static void subscribe(host *host, const fdx_event *event)
{
    if (event->type == FDX_EV_OPEN)
        CHECK_STATUS(FDX_OK, fdx_subscribe(host->server, event->conn, ROOM, FDX_NTS));
}

static void open_members(const char *settings, int receive_buffer)
{
    unsigned i;

    h = host_start(settings, ON_OPEN | ON_CLOSE, subscribe, NULL);
    for (i = 0; i < MEMBERS; i++) {
        members[i] = client_dial_with(h->port, receive_buffer);
        CHECK(members[i].fd >= 0 && client_upgrade(&members[i], "/", "") == 101);
    }
    host_await(h, FDX_EV_OPEN, MEMBERS);
}

static void leave(void)
{
    unsigned i;

    for (i = 0; i < MEMBERS; i++)
        if (members[i].fd >= 0)
            client_drop(&members[i]);
    host_end(h);
}

/* The nth message: its number, and then bytes that are its own. */
static void write_message(unsigned char *data, size_t len, unsigned nth)
{
    size_t i;

    for (i = 0; i < len; i++)
        data[i] = (unsigned char)(i < 4 ? nth >> 8 * i : nth + i);
}

static void publish(unsigned nth, size_t len)
{
    unsigned char *data = (unsigned char *)malloc(len);
    fdx_msg *message;

    CHECK(data != NULL);
    write_message(data, len, nth);
    message = fdx_msg_new(FDX_BINARY, data, len);
    CHECK(message != NULL);
    CHECK_STATUS(FDX_OK, fdx_publish(h->server, ROOM, FDX_NTS, message, 0, 0, NULL));
    fdx_msg_unref(message);
    free(data);
}

/* What the members from one on hear, up to another. */
static void expect(unsigned from_member, unsigned to_member, unsigned first, unsigned end, size_t len)
{
    unsigned char *data = (unsigned char *)malloc(len);
    unsigned i, nth;

    CHECK(data != NULL);
    for (i = from_member; i < to_member; i++)
        for (nth = first; nth < end; nth++) {
            write_message(data, len, nth);
            CLIENT_EXPECT(&members[i], OP_BINARY, data, len);
        }
    free(data);
}

/* Some at once and one after the other, each to all. */
static void everybody_hears(unsigned first, unsigned end)
{
    unsigned nth;

    for (nth = first; nth < end; nth++) {
        publish(nth, 20);
        if (nth % 2)
            expect(0, MEMBERS, nth - 1, nth + 1, 20);
    }
}

/* -- many sends with one call --------------------------------------------------------------------------- */

static void what_is_published_reaches_each_once_and_in_order_and_io_uring_takes_no_descriptor_later(void)
{
    open_members("", 0);
    CHECK(rings() == (unsigned)fdx_has("io_uring"));
    everybody_hears(0, MESSAGES);
    CHECK(rings() == (unsigned)fdx_has("io_uring"));
    leave();
    CHECK(rings() == 0);
}

/* A call that waits with a time limit is not begun again by the kernel: what interrupts it is seen. */
static void starting_and_stopping_a_server_interrupts_no_call_of_the_host(void)
{
    struct timeval limit = { 0, 20000 };
    int pair[2], i;
    char byte;

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    for (i = 0; i < 30; i++) {
        if (i % 2)
            host_end(host_start("", ON_OPEN, NULL, NULL));
        else
            fdx_has("io_uring");
        CHECK(recv(pair[0], &byte, 1, 0) < 0);
        CHECK(errno == EAGAIN);
    }
    close(pair[0]);
    close(pair[1]);
}

static void with_io_uring_off_there_is_none(void)
{
    open_members("io_uring = off\n", 0);
    everybody_hears(0, MESSAGES);
    CHECK(rings() == 0);
    leave();
}

static void publish_without_io_uring(void)
{
    forbid(SYS_io_uring_setup, 0);
    CHECK(fdx_has("io_uring") == 0);
    open_members("", 0);
    everybody_hears(0, MESSAGES);
    CHECK(rings() == 0);
    leave();
}

static void where_io_uring_is_forbidden_everybody_hears_all_the_same(void)
{
    in_a_child(publish_without_io_uring);
}

static void publish_while_it_is_taken_away(void)
{
    open_members("", 0);
    everybody_hears(0, MESSAGES);
    forbid(SYS_io_uring_enter, 1);
    everybody_hears(MESSAGES, 2 * MESSAGES);
    CHECK(rings() == 0);
    leave();
}

static void where_io_uring_is_taken_away_meanwhile_nobody_misses_a_message_or_hears_one_twice(void)
{
    if (!runs_slowly())                 /* valgrind does not know this call */
        in_a_child(publish_while_it_is_taken_away);
}

static void publish_where_it_cannot_be_asked_what_it_can(void)
{
    forbid(SYS_io_uring_register, 0);
    CHECK(fdx_has("io_uring") == 0);
    open_members("", 0);
    everybody_hears(0, MESSAGES);
    CHECK(rings() == 0);
    leave();
}

static void where_only_a_part_of_io_uring_is_allowed_it_is_not_used(void)
{
    in_a_child(publish_where_it_cannot_be_asked_what_it_can);
}

/* Whoever connects to it gets so much room in the kernel, about. */
static int narrow_listener(int send_buffer)
{
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer) == 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, MEMBERS) == 0);
    return fd;
}

static void who_has_no_room_for_all_at_once_gets_the_rest_when_there_is(void)
{
    static const size_t lens[] = { 1000, 20000, 500000 };
    fdx_stats stats = new_stats();
    char settings[100];
    int fd = narrow_listener(10000);
    unsigned i, nth;

    snprintf(settings, sizeof settings, "listen = fd:%d\nsend.limit = 64m\nsend.high_water = 32m\n", fd);
    open_members(settings, 20000);
    for (i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        for (nth = 0; nth < 3; nth++)
            publish(nth, lens[i]);
        expect(1, MEMBERS, 0, 3, lens[i]);
        /* So the first has been written to, as well. */
        CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
        CHECK(stats.queued_bytes > 0 || i < 2);
        expect(0, 1, 0, 3, lens[i]);
    }
    leave();
    close(fd);
}

static void those_who_break_off_cost_the_others_nothing(void)
{
    unsigned i, gone = MEMBERS / 2;

    open_members("", 0);
    everybody_hears(0, 2);
    for (i = 0; i < gone; i++)
        client_reset(&members[i]);
    for (i = 2; i < MESSAGES; i++)
        publish(i, 20);
    expect(gone, MEMBERS, 2, MESSAGES, 20);
    host_await(h, FDX_EV_CLOSE, gone);
    leave();
}

static void a_fork_leaves_the_parents_io_uring_to_the_parent(void)
{
    pid_t pid;
    int status = 0;

    open_members("", 0);
    everybody_hears(0, 2);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        /* It has its descriptors until it ends, and none of its threads. */
        pause();
        _exit(0);
    }
    everybody_hears(2, 4);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid);
    everybody_hears(4, 6);
    leave();
}

static void what_was_published_before_a_stop_goes_out_before_the_good_bye(void)
{
    unsigned i;

    open_members("", 0);
    for (i = 0; i < MESSAGES; i++)
        publish(i, 20);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "that was it", FDX_NTS, 0, 10000));
    expect(0, MEMBERS, 0, MESSAGES, 20);
    for (i = 0; i < MEMBERS; i++) {
        CLIENT_EXPECT_CLOSE(&members[i], 1001, "that was it");
        client_drop(&members[i]);
    }
    leave();
}

/* -- looking for news ----------------------------------------------------------------------------------- */

static double clock_seconds(clockid_t clock)
{
    struct timespec now;

    CHECK(clock_gettime(clock, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Of all threads but this one. */
static double cpu_seconds(void)
{
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

static void echo(host *host, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_STATUS(FDX_OK, fdx_send(host->server, event->conn, FDX_TEXT, event->data, event->len, 0));
}

static void check_an_echo(client *c)
{
    client_say(c, "news");
    CLIENT_EXPECT_TEXT(c, "news");
}

static void a_thread_looks_for_news_for_as_long_as_it_is_told_and_then_sleeps(void)
{
    client c;
    double before;

    h = host_start("poll.spin = 1s\n", ON_USUAL, echo, NULL);
    c = client_open(h->port);
    check_an_echo(&c);
    before = cpu_seconds();
    CHECK_SOON(cpu_seconds() - before > 0.05);
    check_an_echo(&c);
    client_leave(&c);
    host_end(h);

    h = host_start("poll.spin = 1ms\n", ON_USUAL, echo, NULL);
    c = client_open(h->port);
    check_an_echo(&c);
    before = cpu_seconds();
    sleep_ms(500);
    CHECK(cpu_seconds() - before < 0.25);
    check_an_echo(&c);
    client_leave(&c);
    host_end(h);
}

static void who_looks_for_news_keeps_time_and_hears_other_threads_and_the_stop(void)
{
    client c;

    h = host_start("poll.spin = 1s\ntimeout.idle = 1s\n", ON_USUAL, echo, NULL);
    c = client_open(h->port);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, host_await(h, FDX_EV_OPEN, 1).conn, FDX_TEXT, "from here", FDX_NTS, 0));
    CLIENT_EXPECT_TEXT(&c, "from here");
    CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 1001);
    client_drop(&c);
    host_end(h);
}

int main(void)
{
    PROVE(what_is_published_reaches_each_once_and_in_order_and_io_uring_takes_no_descriptor_later);
    PROVE(starting_and_stopping_a_server_interrupts_no_call_of_the_host);
    PROVE(with_io_uring_off_there_is_none);
    PROVE(where_io_uring_is_forbidden_everybody_hears_all_the_same);
    PROVE(where_io_uring_is_taken_away_meanwhile_nobody_misses_a_message_or_hears_one_twice);
    PROVE(where_only_a_part_of_io_uring_is_allowed_it_is_not_used);
    PROVE(who_has_no_room_for_all_at_once_gets_the_rest_when_there_is);
    PROVE(those_who_break_off_cost_the_others_nothing);
    PROVE(a_fork_leaves_the_parents_io_uring_to_the_parent);
    PROVE(what_was_published_before_a_stop_goes_out_before_the_good_bye);
    PROVE(a_thread_looks_for_news_for_as_long_as_it_is_told_and_then_sleeps);
    PROVE(who_looks_for_news_keeps_time_and_hears_other_threads_and_the_stop);
    return 0;
}
