/* dispatch = queue: events are taken, nobody is called. What of that a program in C relies on. */
#include "check.h"

#define QUEUE "dispatch = queue\n"
#define PATIENCE_MS (runs_slowly() ? 60000 : 10000)

/* As CHECK_STATUS, for what is no call of the library itself but makes some. */
#define CHECK_TAKE(expected, take) check_status(__FILE__, __LINE__, #take, (expected), (take))

static host *h;                         /* records what was taken */

static fdx_batch_view new_view(void)
{
    fdx_batch_view view;

    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    return view;
}

/* A running server with one route that wants what the flags say. */
static void start(const char *settings, uint32_t flags)
{
    h = host_start_with(settings, 0, flags, NULL, NULL);
}

static const fdx_event *event_at(const fdx_batch_view *view, size_t i)
{
    return (const fdx_event *)((const char *)view->events + i * view->stride);
}

/* Polls once. What holds for every batch is checked, and its events are recorded. */
static fdx_status take(uint32_t queue, size_t max_events, int32_t timeout_ms, fdx_batch_view *view)
{
    fdx_status status;
    size_t i;

    *view = new_view();
    status = CALL(fdx_poll(h->server, queue, max_events, timeout_ms, view));
    CHECK(view->struct_size == sizeof *view);
    if (status != FDX_OK) {
        CHECK(view->batch == NULL && view->count == 0);
        return status;
    }
    CHECK(view->batch != NULL && view->count > 0 && (max_events == 0 || view->count <= max_events));
    CHECK(view->stride >= sizeof(fdx_event));
    for (i = 0; i < view->count; i++) {
        const fdx_event *event = event_at(view, i);
        CHECK(event->type != FDX_EV_THREAD_START && event->type != FDX_EV_THREAD_STOP);
        CHECK(event->len == 0 || (event->data >= view->block && event->data + event->len <= view->block + view->block_len));
        host_record(h, h->server, event);
    }
    return status;
}

static fdx_status take_and_free(uint32_t queue, size_t max_events, int32_t timeout_ms)
{
    fdx_batch_view view;
    fdx_status status = take(queue, max_events, timeout_ms, &view);

    fdx_batch_free(view.batch);
    return status;
}

/* Polls queue 0 until the nth event of this type has come. */
static seen await(uint16_t type, size_t nth)
{
    while (host_count(h, type) < nth)
        CHECK_TAKE(FDX_OK, take_and_free(0, 0, PATIENCE_MS));
    return host_await(h, type, nth);
}

/* Everything up to the end, which is the same in every queue. */
static void take_the_rest(uint32_t queue)
{
    fdx_status status;

    while ((status = take_and_free(queue, 0, PATIENCE_MS)) == FDX_OK)
        continue;
    CHECK_STATUS(FDX_E_STOPPED, status);
    CHECK(h->events[h->count - 1].type == FDX_EV_STOPPED);
    CHECK_TAKE(FDX_E_STOPPED, take_and_free(queue, 0, -1));
}

/* The last of a server that has stopped. */
static void let_go(void)
{
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    host_check_lives(h);
    host_free(h);
}

static void end_with(uint32_t queues)
{
    uint32_t queue;

    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "the test ends", FDX_NTS, 0, 1000));
    for (queue = 0; queue < queues; queue++)
        take_the_rest(queue);
    CHECK(host_count(h, FDX_EV_STOPPED) == queues);
    let_go();
}

static void end(void)
{
    end_with(1);
}

static int is_readable(int fd, int wait_ms)
{
    struct pollfd wait;

    wait.fd = fd;
    wait.events = POLLIN;
    wait.revents = 0;
    return poll(&wait, 1, wait_ms) == 1 && wait.revents == POLLIN;
}

/* -- polling -------------------------------------------------------------------------------------- */

static void an_empty_queue_is_a_timeout_after_as_long_as_was_asked_for(void)
{
    int64_t begun, waited;

    start(QUEUE, 0);
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 0));
    begun = now_ms();
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 120));
    waited = now_ms() - begun;
    CHECK(waited >= 119);
    CHECK(waited < 5000 || runs_slowly());
    end();
}

static void the_life_of_a_connection_comes_in_its_order(void)
{
    client c;
    fdx_conn conn;
    seen event;

    start(QUEUE, 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    client_say(&c, "gr\xc3\xbc\xc3\x9f");
    client_send(&c, OP_BINARY, "\0\xff", 2);
    client_send(&c, OP_PING, "?", 1);
    CLIENT_EXPECT(&c, OP_PONG, "?", 1);
    client_say(&c, "");
    event = await(FDX_EV_MESSAGE, 1);
    CHECK(event.conn == conn && event.route == 7 && event.flags == FDX_EVF_FIN);
    CHECK(event.len == 6 && memcmp(event.data, "gr\xc3\xbc\xc3\x9f", 6) == 0);
    event = await(FDX_EV_MESSAGE, 2);
    CHECK((event.flags & FDX_EVF_BINARY) && event.len == 2 && memcmp(event.data, "\0\xff", 2) == 0);
    CHECK(await(FDX_EV_MESSAGE, 3).len == 0);
    client_send_close(&c, 4000, "enough");
    CLIENT_EXPECT_CLOSE(&c, 4000, "");
    event = await(FDX_EV_CLOSE, 1);
    CHECK(event.conn == conn && event.code == 4000 && event.arg == FDX_CLOSED_BY_PEER && strcmp(event.data, "enough") == 0);
    CHECK(h->count == 5);               /* nobody asked for pings */
    client_drop(&c);
    end();
}

static void no_more_events_come_than_were_asked_for_and_none_is_lost(void)
{
    client c;
    char text[16];
    unsigned i;

    start(QUEUE, 0);
    c = client_open(h->port);
    for (i = 0; i < 10; i++) {
        snprintf(text, sizeof text, "%u", i);
        client_say(&c, text);
    }
    client_send(&c, OP_PING, "", 0);
    CLIENT_EXPECT(&c, OP_PONG, "", 0);  /* all were read */
    while (host_count(h, FDX_EV_MESSAGE) < 10) {
        size_t before = h->count;
        CHECK_TAKE(FDX_OK, take_and_free(0, 3, PATIENCE_MS));
        CHECK(h->count - before <= 3);  /* `take` has looked at `count`, too */
    }
    for (i = 0; i < 10; i++)
        CHECK((unsigned)atoi(host_await(h, FDX_EV_MESSAGE, i + 1).data) == i);
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 3, 0));
    client_leave(&c);
    end();
}

static void a_poll_of_what_is_not_there_is_an_error(void)
{
    fdx_batch_view view;

    start(QUEUE "queues = 2\n", 0);
    CHECK_TAKE(FDX_E_TIMEOUT, take(1, 0, 0, &view));
    CHECK_TAKE(FDX_E_NOT_FOUND, take(2, 0, 0, &view));
    CHECK_TAKE(FDX_E_NOT_FOUND, take(UINT32_MAX, 0, -1, &view));
    view.struct_size = 0;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_poll(h->server, 0, 0, 0, &view));
    view.struct_size = 8;               /* no room for the batch: it could not be given back */
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_poll(h->server, 0, 0, 0, &view));
    end_with(2);
}

static void a_view_of_a_later_version_is_filled_as_far_as_it_is_known(void)
{
    struct { fdx_batch_view view; unsigned char later[16]; } larger;
    client c;

    start(QUEUE, 0);
    c = client_open(h->port);
    memset(&larger, 0x5a, sizeof larger);
    larger.view.struct_size = sizeof larger;
    CHECK_STATUS(FDX_OK, fdx_poll(h->server, 0, 0, PATIENCE_MS, &larger.view));
    CHECK(larger.view.struct_size == sizeof larger && larger.view.events->type == FDX_EV_OPEN);
    host_record(h, h->server, larger.view.events);
    fdx_batch_free(larger.view.batch);
    client_leave(&c);
    end();
}

/* -- waking --------------------------------------------------------------------------------------- */

static void a_wake_interrupts_the_next_poll_once(void)
{
    start(QUEUE "queues = 2\n", 0);
    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 1));
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 0));
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(1, 0, -1));
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(1, 0, 0));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_wake(h->server, 2));
    end_with(2);
}

static void a_wake_takes_no_event_away(void)
{
    client c;
    unsigned interruptions = 0;

    start(QUEUE, 0);
    c = client_open(h->port);
    client_say(&c, "hello");
    client_send(&c, OP_PING, "", 0);
    CLIENT_EXPECT(&c, OP_PONG, "", 0);
    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 0));
    while (interruptions == 0 || host_count(h, FDX_EV_MESSAGE) == 0) {
        fdx_status status = take_and_free(0, 0, PATIENCE_MS);
        CHECK(status == FDX_OK || status == FDX_E_INTERRUPTED);
        interruptions += status == FDX_E_INTERRUPTED;
    }
    CHECK(interruptions == 1 && strcmp(host_await(h, FDX_EV_MESSAGE, 1).data, "hello") == 0);
    client_leave(&c);
    end();
}

static void *wake_soon(void *argument)
{
    sleep_ms(100);
    CHECK_STATUS(FDX_OK, fdx_wake((fdx_server *)argument, 0));
    return NULL;
}

static void another_thread_can_wake_a_poll_that_waits_for_ever(void)
{
    pthread_t thread;

    start(QUEUE, 0);
    CHECK(pthread_create(&thread, NULL, wake_soon, h->server) == 0);
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(0, 0, -1));
    pthread_join(thread, NULL);
    end();
}

static fdx_status polled_in_the_log;

static void poll_in_the_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    fdx_batch_view view = new_view();
    host *own = (host *)user_data;

    (void)level, (void)target, (void)text, (void)len;
    if (conn != 0)                      /* on the shard whose connection it is */
        __atomic_store_n(&polled_in_the_log, fdx_poll(own->server, 0, 0, -1, &view), __ATOMIC_SEQ_CST);
}

static void waiting_on_a_thread_of_the_server_would_be_a_deadlock(void)
{
    client c;

    start(QUEUE, 0);
    __atomic_store_n(&polled_in_the_log, FDX_OK, __ATOMIC_SEQ_CST);
    fdx_set_log(5, poll_in_the_log, h, NULL);
    c = client_open(h->port);
    CHECK(client_try_frame(&c, 0x80 | OP_TEXT, "not masked", 10, 0));   /* which the log will say */
    await(FDX_EV_CLOSE, 1);
    CHECK_SOON(__atomic_load_n(&polled_in_the_log, __ATOMIC_SEQ_CST) != FDX_OK);
    fdx_set_log(0, NULL, NULL, NULL);
    CHECK_STATUS(FDX_E_DEADLOCK, __atomic_load_n(&polled_in_the_log, __ATOMIC_SEQ_CST));
    client_drop(&c);
    end();
}

/* -- descriptors ---------------------------------------------------------------------------------- */

static int queue_fd(uint32_t queue)
{
    ptrdiff_t fd = -1, again = -1;

    CHECK_STATUS(FDX_OK, fdx_queue_fd(h->server, queue, &fd));
    CHECK_STATUS(FDX_OK, fdx_queue_fd(h->server, queue, &again));
    CHECK(fd >= 0 && fd == again);
    CHECK(fcntl((int)fd, F_GETFD) & FD_CLOEXEC);
    return (int)fd;
}

static void the_descriptor_is_readable_as_long_as_the_queue_is_not_empty(void)
{
    client c;
    int fd;

    start(QUEUE, 0);
    fd = queue_fd(0);
    CHECK(!is_readable(fd, 0));
    c = client_open(h->port);
    CHECK(is_readable(fd, PATIENCE_MS));
    client_say(&c, "one");
    client_say(&c, "two");
    client_send(&c, OP_PING, "", 0);
    CLIENT_EXPECT(&c, OP_PONG, "", 0);
    while (host_count(h, FDX_EV_MESSAGE) < 2) {
        CHECK(is_readable(fd, PATIENCE_MS));
        CHECK_TAKE(FDX_OK, take_and_free(0, 1, 0));
    }
    CHECK(!is_readable(fd, 50));
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 0));

    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 0));
    CHECK(is_readable(fd, PATIENCE_MS));
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(0, 0, 0));
    CHECK(!is_readable(fd, 0));
    client_leave(&c);
    CHECK(is_readable(fd, PATIENCE_MS));
    end();
}

static void a_descriptor_asked_for_late_knows_what_came_before(void)
{
    client c;

    start(QUEUE "queues = 2\n", 0);
    c = client_open(h->port);
    CHECK_SOON(is_readable(queue_fd(0), 0) != is_readable(queue_fd(1), 0));
    client_leave(&c);
    end_with(2);
}

static void the_descriptor_is_closed_with_the_server(void)
{
    unsigned before = open_files();

    start(QUEUE "queues = 4\n", 0);
    queue_fd(0);
    queue_fd(3);
    end_with(4);
    CHECK_SOON(open_files() == before);
}

static void make_pipe(int ends[2])
{
    CHECK(pipe(ends) == 0);
    CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
}

/* How often "tell me" is in the pipe. */
static unsigned told(int fd)
{
    char bytes[4096];
    ssize_t got = read(fd, bytes, sizeof bytes), at;

    if (got < 0)
        return 0;
    CHECK(got % 7 == 0);
    for (at = 0; at < got; at += 7)
        CHECK(memcmp(bytes + at, "tell me", 7) == 0);
    return (unsigned)got / 7;
}

static void a_descriptor_of_ones_own_is_told_once_each_time_the_queue_fills(void)
{
    client c;
    int ends[2];
    unsigned round;

    start(QUEUE, 0);
    make_pipe(ends);
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, ends[1], "tell me", 7));
    CHECK(told(ends[0]) == 0);
    c = client_open(h->port);
    for (round = 0; round < 3; round++) {
        client_say(&c, "one");
        client_say(&c, "two");
        client_send(&c, OP_PING, "", 0);
        CLIENT_EXPECT(&c, OP_PONG, "", 0);
        CHECK(is_readable(ends[0], PATIENCE_MS));
        CHECK(told(ends[0]) == 1);
        CHECK(!is_readable(ends[0], 20));
        while (host_count(h, FDX_EV_MESSAGE) < 2 * (round + 1))
            CHECK_TAKE(FDX_OK, take_and_free(0, 1, 0));
        CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 0));
        CHECK(told(ends[0]) == 0);
    }
    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 0));
    CHECK(is_readable(ends[0], PATIENCE_MS) && told(ends[0]) == 1);
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(0, 0, 0));

    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, -1, NULL, 0));
    client_say(&c, "three");
    await(FDX_EV_MESSAGE, 7);
    CHECK(!is_readable(ends[0], 20));
    client_leave(&c);
    end();
    close(ends[0]);
    close(ends[1]);
}

static void a_descriptor_given_late_is_told_at_once_what_waits(void)
{
    client c;
    int ends[2];

    start(QUEUE, 0);
    make_pipe(ends);
    c = client_open(h->port);
    CHECK(is_readable(queue_fd(0), PATIENCE_MS));
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, ends[1], "tell me", 7));
    CHECK(told(ends[0]) == 1);
    close(ends[1]);                     /* it is the caller's: the server has a copy */
    await(FDX_EV_OPEN, 1);
    client_say(&c, "hello");
    CHECK(is_readable(ends[0], PATIENCE_MS) && told(ends[0]) == 1);
    client_leave(&c);
    end();
    close(ends[0]);
}

static void a_descriptor_that_cannot_be_told_harms_nothing(void)
{
    static char filler[65536];
    client c;
    int full[2], broken[2], sockets[2];

    start(QUEUE, 0);
    make_pipe(full);
    make_pipe(broken);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0 && fcntl(sockets[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(full[1], filler, sizeof filler) > 0)
        continue;
    close(broken[0]);                   /* a write raises SIGPIPE, which this process has left as it was */
    close(sockets[0]);
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, full[1], "tell me", 7));
    c = client_open(h->port);
    await(FDX_EV_OPEN, 1);
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, broken[1], "tell me", 7));
    client_say(&c, "one");
    await(FDX_EV_MESSAGE, 1);
    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 0));   /* told on this thread */
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(0, 0, 0));
    CHECK_STATUS(FDX_OK, fdx_wake(h->server, 0));
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, broken[1], "tell me", 7));
    CHECK_TAKE(FDX_E_INTERRUPTED, take_and_free(0, 0, 0));
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, sockets[1], "tell me", 7));
    client_say(&c, "two");
    await(FDX_EV_MESSAGE, 2);
    client_leave(&c);
    end();
    close(full[0]);
    close(full[1]);
    close(broken[1]);
    close(sockets[1]);
}

static void what_cannot_be_told_is_refused(void)
{
    int ends[2], blocking[2];

    start(QUEUE, 0);
    make_pipe(ends);
    CHECK(pipe(blocking) == 0);
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_queue_notify_fd(h->server, 0, ends[1], "", 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_queue_notify_fd(h->server, 0, ends[1], "seventeen bytes..", 17));
    CHECK_STATUS(FDX_OK, fdx_queue_notify_fd(h->server, 0, ends[1], "sixteen bytes...", 16));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_queue_notify_fd(h->server, 0, blocking[1], "1", 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_queue_notify_fd(h->server, 0, 1000000, "1", 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_queue_notify_fd(h->server, 0, -2, "1", 1));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_queue_notify_fd(h->server, 1, ends[1], "1", 1));
    end();
    close(ends[0]);
    close(ends[1]);
    close(blocking[0]);
    close(blocking[1]);
}

/* -- batches -------------------------------------------------------------------------------------- */

#define HELD 20

static void *free_batches(void *argument)
{
    fdx_batch_view *held = (fdx_batch_view *)argument;
    int i;

    for (i = 1; i < HELD; i += 2)       /* and in an order of its own */
        fdx_batch_free(held[HELD - i].batch);
    return NULL;
}

static void batches_live_until_they_are_freed_in_any_order_on_any_thread_after_the_server(void)
{
    fdx_batch_view held[HELD];
    client c;
    pthread_t thread;
    char text[300];
    unsigned i, on_another_thread;

    for (on_another_thread = 0; on_another_thread < 2; on_another_thread++) {
        start(QUEUE, 0);
        c = client_open(h->port);
        await(FDX_EV_OPEN, 1);
        for (i = 0; i < HELD; i++) {
            snprintf(text, sizeof text, "%0299u", i);
            client_say(&c, text);
            CHECK_TAKE(FDX_OK, take(0, 0, PATIENCE_MS, &held[i]));
            CHECK(held[i].count == 1);
        }
        client_leave(&c);
        CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
        take_the_rest(0);
        CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
        fdx_server_unref(h->server);
        for (i = 0; i < HELD; i++) {
            snprintf(text, sizeof text, "%0299u", i);
            CHECK(held[i].events->len == 299 && memcmp(held[i].events->data, text, 299) == 0);
        }
        for (i = 0; i < HELD; i += 2)
            fdx_batch_free(held[i].batch);
        if (on_another_thread) {
            CHECK(pthread_create(&thread, NULL, free_batches, held) == 0);
            pthread_join(thread, NULL);
        } else {
            free_batches(held);
        }
        CHECK_SOON(counter_get(&h->dropped) == 1);
        host_free(h);
    }
}

static void parts_of_what_came_together_are_freed_one_by_one(void)
{
    fdx_batch_view held[10];
    client c;
    char text[16];
    unsigned i;

    start(QUEUE, 0);
    c = client_open(h->port);
    await(FDX_EV_OPEN, 1);
    for (i = 0; i < 10; i++) {
        snprintf(text, sizeof text, "part %u", i);
        client_say(&c, text);
    }
    client_send(&c, OP_PING, "", 0);
    CLIENT_EXPECT(&c, OP_PONG, "", 0);
    for (i = 0; i < 10; i++)
        CHECK_TAKE(FDX_OK, take(0, 1, PATIENCE_MS, &held[i]));
    for (i = 0; i < 10; i += 2)
        fdx_batch_free(held[i].batch);
    client_say(&c, "later ones may use the memory of those that were freed");
    await(FDX_EV_MESSAGE, 11);
    for (i = 1; i < 10; i += 2) {
        snprintf(text, sizeof text, "part %u", i);
        CHECK(held[i].events->len == 6 && memcmp(held[i].events->data, text, 6) == 0);
        fdx_batch_free(held[i].batch);
    }
    client_leave(&c);
    end();
}

static void the_word_kept_with_a_connection_lives_until_its_close_was_freed(void)
{
    counter drops = { 0 };
    fdx_batch_view view;
    fdx_conn conn;
    client c;

    start(QUEUE, 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &drops, count_drop));
    client_say(&c, "hello");
    CHECK(await(FDX_EV_MESSAGE, 1).conn_data == &drops);
    client_leave(&c);
    CHECK_TAKE(FDX_OK, take(0, 0, PATIENCE_MS, &view));
    CHECK(view.events->type == FDX_EV_CLOSE && view.events->conn_data == &drops);
    sleep_ms(50);
    CHECK(counter_get(&drops) == 0);
    fdx_batch_free(view.batch);
    CHECK_SOON(counter_get(&drops) == 1);
    end();
    CHECK(counter_get(&drops) == 1);
}

static void what_nobody_took_is_released_with_the_server(void)
{
    counter drops = { 0 };
    client clients[5];
    fdx_conn conn;
    unsigned i;

    start(QUEUE, 0);
    for (i = 0; i < 5; i++)
        clients[i] = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &drops, count_drop));
    for (i = 0; i < 5; i++)
        client_say(&clients[i], "nobody takes this");
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 300));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));    /* an end does not wait for who polls */
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1 && counter_get(&drops) == 1);
    for (i = 0; i < 5; i++)
        client_drop(&clients[i]);
    host_free(h);
}

/* -- queues --------------------------------------------------------------------------------------- */

static void a_connection_belongs_to_one_queue_for_life(void)
{
    enum { QUEUES = 3, CLIENTS = 24, MESSAGES = 5 };
    client clients[CLIENTS];
    unsigned i, j, per_queue[QUEUES] = { 0, 0, 0 };
    uint32_t queue;
    size_t at = 0;

    start(QUEUE "queues = 3\nthreads = 2\n", 0);
    for (i = 0; i < CLIENTS; i++)
        clients[i] = client_open(h->port);
    for (j = 0; j < MESSAGES; j++)
        for (i = 0; i < CLIENTS; i++)
            client_say(&clients[i], "hello");
    for (i = 0; i < CLIENTS; i++)
        client_leave(&clients[i]);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    for (queue = 0; queue < QUEUES; queue++) {
        take_the_rest(queue);
        /* What was recorded now is of this queue: whole lives, or there would be a piece too few. */
        for (; at < h->count; at++)
            per_queue[queue] += h->events[at].type == FDX_EV_OPEN;
        CHECK(host_count(h, FDX_EV_CLOSE) == host_count(h, FDX_EV_OPEN));
        CHECK(host_count(h, FDX_EV_MESSAGE) == MESSAGES * host_count(h, FDX_EV_OPEN));
        CHECK(per_queue[queue] > 0);
    }
    CHECK(host_count(h, FDX_EV_OPEN) == CLIENTS && host_count(h, FDX_EV_STOPPED) == QUEUES);
    let_go();
}

static void a_stop_wakes_who_waits_in_every_queue(void)
{
    start(QUEUE "queues = 64\n", 0);
    end_with(64);
}

static void a_number_of_queues_that_cannot_be_is_refused(void)
{
    fdx_config *config = new_config(QUEUE);
    fdx_error error = new_error();

    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "queues", "0", &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "queues", "65", &error));
    CHECK(strstr(error.message, "64") != NULL);
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "dispatch", "callbacks", &error));
    CHECK(strstr(error.message, "queue") != NULL);
    fdx_config_free(config);
}

/* -- a consumer that does not keep up ------------------------------------------------------------- */

typedef struct flood {
    client *c;
    unsigned messages;
    size_t len;
    counter sent;
} flood;

static void *send_numbered(void *argument)
{
    flood *f = (flood *)argument;
    char *message = (char *)calloc(1, f->len);
    unsigned i;

    CHECK(message != NULL);
    for (i = 0; i < f->messages; i++) {
        memcpy(message, &i, sizeof i);
        CHECK(client_try_frame(f->c, 0x80 | OP_BINARY, message, f->len, 1));
        counter_add(&f->sent);
    }
    free(message);
    return NULL;
}

/* Waits until the peer could send nothing for a while. */
static unsigned when_it_is_stopped(const flood *f)
{
    unsigned before;

    do {
        before = counter_get(&f->sent);
        sleep_ms(200);
    } while (counter_get(&f->sent) != before);
    return before;
}

static void a_consumer_that_does_not_keep_up_stops_its_peer_and_loses_nothing(void)
{
    fdx_batch_view held[64];
    client c, other;
    struct timeval long_enough;
    pthread_t thread;
    flood f;
    size_t taken_bytes = 0, count = 0, i;
    unsigned next = 0, sent;

    start(QUEUE "recv.high_water = 64k\n", 0);
    c = client_dial(h->port);
    long_enough.tv_sec = 120;
    long_enough.tv_usec = 0;
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &long_enough, sizeof long_enough);
    CHECK(client_upgrade(&c, "/", NULL) == 101);
    memset(&f, 0, sizeof f);
    f.c = &c;
    f.messages = 2000;                  /* 32 MB, more than any buffer of a socket holds */
    f.len = 16 * 1024;
    CHECK(pthread_create(&thread, NULL, send_numbered, &f) == 0);
    await(FDX_EV_OPEN, 1);
    CHECK((sent = when_it_is_stopped(&f)) < f.messages);

    /* Taking is not enough: what was taken and not freed still counts. */
    while (take(0, 0, 100, &held[count]) == FDX_OK) {
        taken_bytes += held[count].block_len;
        CHECK(++count < 64);
    }
    CHECK(taken_bytes > 0 && taken_bytes < 1024 * 1024);
    CHECK(counter_get(&f.sent) - sent <= 1);

    /* Others are not concerned. */
    other = client_open(h->port);
    client_say(&other, "me too");
    CHECK_TAKE(FDX_OK, take_and_free(0, 1, PATIENCE_MS));
    await(FDX_EV_MESSAGE, host_count(h, FDX_EV_MESSAGE) + 1);
    client_leave(&other);

    for (i = 0; i < count; i++)
        fdx_batch_free(held[i].batch);
    while (host_count(h, FDX_EV_MESSAGE) < f.messages + 1)
        CHECK_TAKE(FDX_OK, take_and_free(0, 0, PATIENCE_MS));
    pthread_join(thread, NULL);
    for (i = 0; i < h->count; i++) {
        const seen *event = &h->events[i];
        if (event->type != FDX_EV_MESSAGE || event->len != f.len)
            continue;
        CHECK(memcmp(event->data, &next, sizeof next) == 0);
        next++;
    }
    CHECK(next == f.messages);
    client_leave(&c);
    end();
}

static void a_peer_that_is_not_read_is_not_taken_for_dead(void)
{
    pthread_t thread;
    client c;
    flood f;

    start(QUEUE "recv.high_water = 16k\nping.interval = 100ms\nping.timeout = 300ms\n", 0);
    c = client_open(h->port);
    memset(&f, 0, sizeof f);
    f.c = &c;
    f.messages = 20;
    f.len = 16 * 1024;
    CHECK(pthread_create(&thread, NULL, send_numbered, &f) == 0);
    pthread_join(thread, NULL);         /* the sockets hold as much as that */
    sleep_ms(1000);
    client_drop(&c);
    CHECK(await(FDX_EV_CLOSE, 1).arg != FDX_CLOSED_BY_TIMEOUT);
    CHECK(host_count(h, FDX_EV_MESSAGE) > 0);
    end();
}

static void a_peer_that_is_not_read_can_be_closed(void)
{
    static char message[16 * 1024];
    fdx_batch_view view;
    fdx_conn conn;
    client c;
    int i;

    start(QUEUE "recv.high_water = 16k\ntimeout.close = 30s\n", 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    for (i = 0; i < 5; i++)
        client_send(&c, OP_BINARY, message, sizeof message);
    CHECK_TAKE(FDX_OK, take(0, 0, PATIENCE_MS, &view));
    CHECK_TAKE(FDX_E_TIMEOUT, take_and_free(0, 0, 100));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CLIENT_EXPECT_CLOSE(&c, 1000, "bye");
    client_send_close(&c, 1000, "");    /* behind all that was not read */
    CHECK(await(FDX_EV_CLOSE, 1).code == 1000);
    fdx_batch_free(view.batch);
    client_drop(&c);
    end();
}

/* -- what a route wants --------------------------------------------------------------------------- */

static void flags_say_what_comes(void)
{
    static const char request[] = "POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nbody";
    client c;
    fdx_conn conn;
    seen event;

    start(QUEUE "ping.interval = 0\n", FDX_ROUTE_UPGRADE | FDX_ROUTE_OTHER | FDX_ROUTE_HTTP | FDX_ROUTE_STREAM);
    c = client_dial(h->port);
    client_ask(&c, "/", "Sec-WebSocket-Protocol: chat\r\n");
    conn = await(FDX_EV_UPGRADE, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, "chat", NULL, 0));
    CHECK(client_read_head(&c) == 101);
    event = await(FDX_EV_OPEN, 1);
    CHECK(event.conn == conn && strcmp(event.data, "chat") == 0);
    client_send(&c, OP_PING, "hello?", 6);
    CLIENT_EXPECT(&c, OP_PONG, "hello?", 6);
    CHECK(strcmp(await(FDX_EV_PING, 1).data, "hello?") == 0);
    CHECK_STATUS(FDX_OK, fdx_ping(h->server, conn, "and you?", 8));
    CLIENT_EXPECT(&c, OP_PING, "and you?", 8);
    client_send(&c, OP_PONG, "and you?", 8);
    CHECK(strcmp(await(FDX_EV_PONG, 1).data, "and you?") == 0);
    CHECK(client_try_frame(&c, OP_TEXT, "in ", 3, 1) && client_try_frame(&c, 0x80, "pieces", 6, 1));
    while (!(host_count(h, FDX_EV_FRAGMENT) && h->events[h->count - 1].flags & FDX_EVF_FIN))
        CHECK_TAKE(FDX_OK, take_and_free(0, 1, PATIENCE_MS));
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    client_leave(&c);

    c = client_dial(h->port);
    client_write(&c, request, strlen(request));
    event = await(FDX_EV_HTTP, 1);
    CHECK(event.len == 4 && memcmp(event.data, "body", 4) == 0);
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, event.conn, 200, NULL, 0, "a page", 6));
    CHECK(client_read_head(&c) == 200);
    client_read_body(&c);
    CHECK(strcmp((const char *)c.payload, "a page") == 0);
    client_drop(&c);
    end();
}

static void who_waits_for_a_drain_gets_it(void)
{
    static char message[16384];
    client slow;
    fdx_conn conn;
    fdx_status status;
    unsigned queued = 0;

    start(QUEUE "send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n", 0);
    slow = client_dial_with(h->port, 8192);
    CHECK(slow.fd >= 0 && client_upgrade(&slow, "/", NULL) == 101);
    conn = await(FDX_EV_OPEN, 1).conn;
    while ((status = CALL(fdx_send(h->server, conn, FDX_BINARY, message, sizeof message, 0))) == FDX_OK)
        queued++;
    CHECK_STATUS(FDX_HIGH_WATER, status);
    queued++;
    while (queued-- > 0)
        CLIENT_EXPECT(&slow, OP_BINARY, message, sizeof message);
    CHECK(await(FDX_EV_DRAIN, 1).conn == conn);
    client_leave(&slow);
    end();
}

static void callbacks_beside_a_queue_are_refused(void)
{
    static const unsigned slots[] = { ON_UPGRADE, ON_OPEN, ON_MESSAGE, ON_CLOSE, ON_DRAIN, ON_OTHER };
    host *unused = host_new(NULL, NULL);
    unsigned i;

    for (i = 0; i < sizeof slots / sizeof slots[0]; i++) {
        fdx_config *config = new_config(QUEUE);
        fdx_handlers handlers = host_handlers(unused, slots[i]);
        fdx_error error = new_error();
        fdx_server *server = NULL;

        CHECK_STATUS(FDX_OK, fdx_config_route(config, "/room", 0, &handlers, &error));
        CHECK_STATUS(FDX_E_CONFIG, fdx_server_new(config, &server, &error));
        CHECK(server == NULL && strstr(error.message, "/room") && strstr(error.message, "dispatch"));
        fdx_config_free(config);
    }
    host_free(unused);
}

static void without_dispatch_queue_there_is_nothing_to_poll(void)
{
    fdx_batch_view view = new_view();
    ptrdiff_t fd;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    CHECK_STATUS(FDX_E_STATE, fdx_poll(h->server, 0, 0, -1, &view));
    CHECK_STATUS(FDX_E_STATE, fdx_wake(h->server, 0));
    CHECK_STATUS(FDX_E_STATE, fdx_queue_fd(h->server, 0, &fd));
    CHECK_STATUS(FDX_E_STATE, fdx_queue_notify_fd(h->server, 0, -1, NULL, 0));
    host_end(h);
}

/* -- requests ------------------------------------------------------------------------------------- */

static void check_request(fdx_conn conn)
{
    char buf[4096];
    size_t needed = 0;

    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, conn, ":path", buf, sizeof buf, &needed));
    CHECK(strcmp(buf, "/where") == 0);
    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, conn, "?who", buf, sizeof buf, &needed));
    CHECK(strcmp(buf, "ann") == 0);
    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, conn, "x-note", buf, sizeof buf, &needed));
    CHECK(strcmp(buf, "kept") == 0);
    CHECK_STATUS(FDX_OK, fdx_request_headers(h->server, conn, buf, sizeof buf, &needed));
    CHECK(strstr(buf, "X-Note: kept\r\n") != NULL);
}

static void a_request_can_be_read_until_its_batch_is_freed_though_the_peer_has_gone(void)
{
    static const char plain[] = "GET /where?who=ann HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Note: kept\r\n\r\n";
    static const uint16_t types[] = { FDX_EV_UPGRADE, FDX_EV_OPEN, FDX_EV_HTTP };
    unsigned i;

    for (i = 0; i < 3; i++) {
        fdx_batch_view view;
        char buf[16];
        size_t needed;
        fdx_conn conn;
        client c;

        start(QUEUE "timeout.handshake = 60s\n", FDX_ROUTE_HTTP | (types[i] == FDX_EV_UPGRADE ? FDX_ROUTE_UPGRADE : 0));
        c = client_dial(h->port);
        if (types[i] == FDX_EV_HTTP)
            client_write(&c, plain, strlen(plain));
        else
            client_ask(&c, "/where?who=ann", "X-Note: kept\r\n");
        CHECK_TAKE(FDX_OK, take(0, 1, PATIENCE_MS, &view));
        CHECK(view.events->type == types[i]);
        conn = view.events->conn;
        check_request(conn);
        client_reset(&c);
        CHECK_SOON(fdx_pause(h->server, conn) == FDX_E_NO_CONN);
        check_request(conn);
        fdx_batch_free(view.batch);
        CHECK_STATUS(FDX_E_NO_CONN, fdx_request_get(h->server, conn, ":path", buf, sizeof buf, &needed));
        end();
    }
}

static void an_open_connection_forgets_its_request_with_the_batch(void)
{
    fdx_batch_view view;
    char buf[16];
    size_t needed;
    client c;
    fdx_conn conn;

    start(QUEUE, 0);
    c = client_dial(h->port);
    CHECK(client_upgrade(&c, "/where?who=ann", "X-Note: kept\r\n") == 101);
    CHECK_TAKE(FDX_OK, take(0, 1, PATIENCE_MS, &view));
    conn = view.events->conn;
    client_say(&c, "time goes by");
    await(FDX_EV_MESSAGE, 1);
    check_request(conn);
    fdx_batch_free(view.batch);
    CHECK_STATUS(FDX_E_STATE, fdx_request_get(h->server, conn, ":path", buf, sizeof buf, &needed));
    client_leave(&c);
    end();
}

/* -- submitting ----------------------------------------------------------------------------------- */

#define RECORDS_MAX 4096

typedef struct records {
    unsigned char *bytes;
    size_t len, room;
    unsigned count;
} records;

/* The head and the payload of one record, padded. */
static void put_raw(records *r, fdx_conn conn, uint32_t kind_and_flags, uint32_t len, const void *data, size_t data_len)
{
    size_t padded = 16 + (data_len + 7) / 8 * 8;

    if (r->len + padded > r->room) {
        r->room = 2 * (r->len + padded);
        r->bytes = (unsigned char *)realloc(r->bytes, r->room);
        CHECK(r->bytes != NULL);
    }
    memset(r->bytes + r->len, 0, padded);
    memcpy(r->bytes + r->len, &conn, 8);
    memcpy(r->bytes + r->len + 8, &kind_and_flags, 4);
    memcpy(r->bytes + r->len + 12, &len, 4);
    if (data_len)
        memcpy(r->bytes + r->len + 16, data, data_len);
    r->len += padded;
    r->count++;
}

static void put(records *r, fdx_conn conn, uint32_t kind, uint32_t flags, const void *data, size_t len)
{
    put_raw(r, conn, kind | flags << 8, (uint32_t)len, data, len);
}

static void put_text(records *r, fdx_conn conn, const char *text)
{
    put(r, conn, FDX_TEXT, 0, text, strlen(text));
}

static records no_records(void)
{
    records r;

    memset(&r, 0, sizeof r);
    return r;
}

static void many_messages_go_out_in_one_call(void)
{
    records r = no_records();
    fdx_status results[8];
    char large[5000];
    client c;
    fdx_conn conn;
    unsigned i;

    memset(large, 'x', sizeof large);
    start(QUEUE, 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    put_text(&r, conn, "one");
    put(&r, conn, FDX_BINARY, 0, "\0\1\2\3\4\5\6\7", 8);
    put_text(&r, conn, "");
    put(&r, conn, FDX_TEXT, FDX_F_MORE, "in ", 3);
    put(&r, conn, FDX_TEXT, 0, "pieces", 6);
    put(&r, conn, FDX_TEXT, FDX_F_NO_COMPRESS, large, sizeof large);
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, r.len, results, 8));
    for (i = 0; i < r.count; i++)
        CHECK_STATUS(FDX_OK, results[i]);
    CLIENT_EXPECT_TEXT(&c, "one");
    CLIENT_EXPECT(&c, OP_BINARY, "\0\1\2\3\4\5\6\7", 8);
    CLIENT_EXPECT_TEXT(&c, "");
    CLIENT_EXPECT_TEXT(&c, "in ");
    CHECK(c.fin == 0);
    CLIENT_EXPECT(&c, OP_CONTINUATION, "pieces", 6);
    CLIENT_EXPECT(&c, OP_TEXT, large, sizeof large);
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, r.len, NULL, 0));
    CLIENT_EXPECT_TEXT(&c, "one");
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, 0, results, 8));
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, NULL, 0, NULL, 0));
    client_drop(&c);
    end();
    free(r.bytes);
}

static void each_record_has_a_result_and_the_worst_is_returned(void)
{
    records r = no_records();
    fdx_status results[6];
    client c, gone;
    fdx_conn conn, stale;

    start(QUEUE, 0);
    gone = client_open(h->port);
    stale = await(FDX_EV_OPEN, 1).conn;
    client_leave(&gone);
    await(FDX_EV_CLOSE, 1);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 2).conn;
    put_text(&r, conn, "before");
    put_text(&r, stale, "to nobody");
    put_text(&r, conn, "\xff is no UTF-8");
    put_text(&r, 0, "to nobody");
    put_text(&r, conn, "after");
    memset(results, 0x55, sizeof results);
    CHECK_STATUS(FDX_E_UTF8, fdx_submit(h->server, r.bytes, r.len, results, 6));
    CHECK_STATUS(FDX_OK, results[0]);
    CHECK_STATUS(FDX_E_NO_CONN, results[1]);
    CHECK_STATUS(FDX_E_UTF8, results[2]);
    CHECK_STATUS(FDX_E_NO_CONN, results[3]);
    CHECK_STATUS(FDX_OK, results[4]);
    CHECK(results[5] == 0x55555555);
    CLIENT_EXPECT_TEXT(&c, "before");
    CLIENT_EXPECT_TEXT(&c, "after");
    memset(results, 0x55, sizeof results);
    CHECK_STATUS(FDX_E_UTF8, fdx_submit(h->server, r.bytes, r.len, results, 2));
    CHECK(results[0] == FDX_OK && results[1] == FDX_E_NO_CONN && results[2] == 0x55555555);
    CLIENT_EXPECT_TEXT(&c, "before");
    CLIENT_EXPECT_TEXT(&c, "after");
    client_leave(&c);
    end();
    free(r.bytes);
}

static void a_peer_that_does_not_read_is_told_of_by_submit_as_by_send(void)
{
    static char message[16384];
    records r = no_records();
    fdx_status results[64];
    client slow;
    fdx_conn conn;
    unsigned i, high = 0, full = 0;

    start(QUEUE "send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n", 0);
    slow = client_dial_with(h->port, 8192);
    CHECK(slow.fd >= 0 && client_upgrade(&slow, "/", NULL) == 101);
    conn = await(FDX_EV_OPEN, 1).conn;
    for (i = 0; i < 10; i++)
        put(&r, conn, FDX_BINARY, 0, message, sizeof message);
    while (!full) {
        fdx_status status = CALL(fdx_submit(h->server, r.bytes, r.len, results, 64));
        unsigned high_before = high;
        for (i = 0; i < r.count; i++) {
            CHECK(results[i] == FDX_OK || results[i] == FDX_HIGH_WATER || results[i] == FDX_E_FULL);
            high += results[i] == FDX_HIGH_WATER;
            full += results[i] == FDX_E_FULL;
        }
        CHECK_STATUS(full ? FDX_E_FULL : high > high_before ? FDX_HIGH_WATER : FDX_OK, status);
    }
    CHECK(high > 0);
    client_drop(&slow);
    end();
    free(r.bytes);
}

static void a_record_that_send_would_refuse_is_refused_alone(void)
{
    static const uint32_t wrong[] = { 0, 3, 9, 0xffu, FDX_TEXT | 8u << 8, FDX_TEXT | FDX_F_COMPRESS << 24,
                                      FDX_TEXT | (FDX_F_COMPRESS | FDX_F_NO_COMPRESS) << 8, UINT32_MAX };
    fdx_status results[3];
    client c;
    fdx_conn conn;
    unsigned i;

    start(QUEUE, 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        records r = no_records();
        put_text(&r, conn, "right");
        put_raw(&r, conn, wrong[i], 5, "wrong", 5);
        put_text(&r, conn, "right, too");
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_submit(h->server, r.bytes, r.len, results, 3));
        CHECK(results[0] == FDX_OK && results[1] == FDX_E_INVALID_ARG && results[2] == FDX_OK);
        CLIENT_EXPECT_TEXT(&c, "right");
        CLIENT_EXPECT_TEXT(&c, "right, too");
        free(r.bytes);
    }
    client_leave(&c);
    end();
}

static void bytes_that_are_no_records_send_nothing(void)
{
    static const uint32_t lens[] = { 9, 24, 0x80000000u, UINT32_MAX };
    fdx_status results[4] = { 77, 77, 77, 77 };
    records r = no_records();
    client c;
    fdx_conn conn;
    size_t len;
    unsigned i;

    start(QUEUE, 0);
    c = client_open(h->port);
    conn = await(FDX_EV_OPEN, 1).conn;
    for (i = 0; i < sizeof lens / sizeof lens[0]; i++) {    /* longer than what is there */
        records longer = no_records();
        put_text(&longer, conn, "right");
        put_raw(&longer, conn, FDX_TEXT, lens[i], "12345678", 8);
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_submit(h->server, longer.bytes, longer.len, results, 4));
        free(longer.bytes);
    }
    put_text(&r, conn, "right");
    len = r.len;
    put_text(&r, conn, "cut, in the head or in the text");
    for (len = len + 1; len < r.len - 1; len++)             /* 31 bytes of text and one of padding */
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_submit(h->server, r.bytes, len, results, 4));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_submit(h->server, r.bytes, FDX_NTS, results, 4));
    for (i = 0; i < 4; i++)
        CHECK(results[i] == 77);
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes + 24, r.len - 24 - 1, results, 4));
    CLIENT_EXPECT_TEXT(&c, "cut, in the head or in the text");
    client_leave(&c);
    end();
    free(r.bytes);
}

static void one_call_reaches_a_hundred_connections_in_order(void)
{
    enum { CLIENTS = 100, ROUNDS = 20 };
    static client clients[CLIENTS];
    records r = no_records();
    char text[32];
    unsigned i, round;

    start(QUEUE "threads = 2\n", 0);
    for (i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(h->port);
        await(FDX_EV_OPEN, i + 1);
    }
    for (round = 0; round < ROUNDS; round++)
        for (i = 0; i < CLIENTS; i++) {
            snprintf(text, sizeof text, "%u to %u", round, i);
            put_text(&r, host_await(h, FDX_EV_OPEN, i + 1).conn, text);
        }
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, r.len, NULL, 0));
    for (i = 0; i < CLIENTS; i++)
        for (round = 0; round < ROUNDS; round++) {
            snprintf(text, sizeof text, "%u to %u", round, i);
            CLIENT_EXPECT_TEXT(&clients[i], text);
        }
    for (i = 0; i < CLIENTS; i++)
        client_leave(&clients[i]);
    end();
    free(r.bytes);
}

enum { SUBMITTERS = 4, LISTENERS = 10 };

typedef struct submitter { unsigned number; fdx_conn conns[LISTENERS]; } submitter;

static void *submit_numbers(void *argument)
{
    submitter *own = (submitter *)argument;
    unsigned i, j, k, calls = times(100, 20);
    char text[32];

    for (i = 0; i < calls; i++) {
        records r = no_records();
        for (j = 0; j < LISTENERS; j++)
            for (k = 0; k < 3; k++) {
                snprintf(text, sizeof text, "%u %u", own->number, 3 * i + k);
                put_text(&r, own->conns[j], text);
            }
        CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, r.len, NULL, 0));
        free(r.bytes);
    }
    return NULL;
}

static void threads_that_submit_at_once_each_keep_their_order(void)
{
    submitter submitters[SUBMITTERS];
    pthread_t threads[SUBMITTERS];
    client clients[LISTENERS];
    unsigned i, j, each = 3 * times(100, 20);

    start(QUEUE "threads = 2\nsend.high_water = 16m\n", 0);
    for (i = 0; i < LISTENERS; i++) {
        clients[i] = client_open(h->port);
        await(FDX_EV_OPEN, i + 1);
    }
    for (i = 0; i < SUBMITTERS; i++) {
        submitters[i].number = i;
        for (j = 0; j < LISTENERS; j++)
            submitters[i].conns[j] = host_await(h, FDX_EV_OPEN, j + 1).conn;
        CHECK(pthread_create(&threads[i], NULL, submit_numbers, &submitters[i]) == 0);
    }
    for (i = 0; i < LISTENERS; i++) {
        unsigned next[SUBMITTERS] = { 0, 0, 0, 0 }, who, number;
        for (j = 0; j < SUBMITTERS * each; j++) {
            CHECK(client_read(&clients[i]) == OP_TEXT);
            CHECK(sscanf((const char *)clients[i].payload, "%u %u", &who, &number) == 2 && who < SUBMITTERS);
            CHECK(number == next[who]++);
        }
    }
    for (i = 0; i < SUBMITTERS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < LISTENERS; i++)
        client_leave(&clients[i]);
    end();
}

static void servers_with_callbacks_take_records_too(void)
{
    records r = no_records();
    client c;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    put_text(&r, host_await(h, FDX_EV_OPEN, 1).conn, "hello");
    CHECK_STATUS(FDX_OK, fdx_submit(h->server, r.bytes, r.len, NULL, 0));
    CLIENT_EXPECT_TEXT(&c, "hello");
    client_leave(&c);
    host_end(h);
    free(r.bytes);
}

/* -- all together --------------------------------------------------------------------------------- */

enum { POLLERS = 4, SPEAKERS = 20 };

static counter farm_errors;

/* Echoes a queue's messages, a batch at a time, until the server has stopped. */
static void *echo_a_queue(void *argument)
{
    uint32_t queue = *(const uint32_t *)argument;
    fdx_batch_view view = new_view();
    fdx_status status;
    size_t i;

    while ((status = fdx_poll(h->server, queue, 0, -1, &view)) == FDX_OK) {
        records r = no_records();
        for (i = 0; i < view.count; i++) {
            const fdx_event *event = event_at(&view, i);
            if (event->type == FDX_EV_MESSAGE)
                put(&r, event->conn, FDX_TEXT, 0, event->data, event->len);
        }
        if (r.count && fdx_submit(h->server, r.bytes, r.len, NULL, 0) < 0)
            counter_add(&farm_errors);
        fdx_batch_free(view.batch);
        free(r.bytes);
    }
    CHECK_STATUS(FDX_E_STOPPED, status);
    return NULL;
}

static void queues_on_threads_of_their_own_echo_everything_in_order(void)
{
    static client clients[SPEAKERS];
    pthread_t threads[POLLERS];
    uint32_t queues[POLLERS];
    unsigned i, round, rounds = times(200, 30);
    char text[16];

    start(QUEUE "queues = 4\nthreads = 2\n", 0);
    for (i = 0; i < POLLERS; i++) {
        queues[i] = i;
        CHECK(pthread_create(&threads[i], NULL, echo_a_queue, &queues[i]) == 0);
    }
    for (i = 0; i < SPEAKERS; i++)
        clients[i] = client_open(h->port);
    for (round = 0; round < rounds; round++)
        for (i = 0; i < SPEAKERS; i++) {
            snprintf(text, sizeof text, "%u", round);
            client_say(&clients[i], text);
        }
    for (i = 0; i < SPEAKERS; i++)
        for (round = 0; round < rounds; round++) {
            snprintf(text, sizeof text, "%u", round);
            CLIENT_EXPECT_TEXT(&clients[i], text);
        }
    for (i = 0; i < SPEAKERS; i++)
        client_leave(&clients[i]);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    for (i = 0; i < POLLERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(counter_get(&farm_errors) == 0);
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    host_free(h);
}

int main(void)
{
    PROVE(an_empty_queue_is_a_timeout_after_as_long_as_was_asked_for);
    PROVE(the_life_of_a_connection_comes_in_its_order);
    PROVE(no_more_events_come_than_were_asked_for_and_none_is_lost);
    PROVE(a_poll_of_what_is_not_there_is_an_error);
    PROVE(a_view_of_a_later_version_is_filled_as_far_as_it_is_known);
    PROVE(a_wake_interrupts_the_next_poll_once);
    PROVE(a_wake_takes_no_event_away);
    PROVE(another_thread_can_wake_a_poll_that_waits_for_ever);
    PROVE(waiting_on_a_thread_of_the_server_would_be_a_deadlock);
    PROVE(the_descriptor_is_readable_as_long_as_the_queue_is_not_empty);
    PROVE(a_descriptor_asked_for_late_knows_what_came_before);
    PROVE(the_descriptor_is_closed_with_the_server);
    PROVE(a_descriptor_of_ones_own_is_told_once_each_time_the_queue_fills);
    PROVE(a_descriptor_given_late_is_told_at_once_what_waits);
    PROVE(a_descriptor_that_cannot_be_told_harms_nothing);
    PROVE(what_cannot_be_told_is_refused);
    PROVE(batches_live_until_they_are_freed_in_any_order_on_any_thread_after_the_server);
    PROVE(parts_of_what_came_together_are_freed_one_by_one);
    PROVE(the_word_kept_with_a_connection_lives_until_its_close_was_freed);
    PROVE(what_nobody_took_is_released_with_the_server);
    PROVE(a_connection_belongs_to_one_queue_for_life);
    PROVE(a_stop_wakes_who_waits_in_every_queue);
    PROVE(a_number_of_queues_that_cannot_be_is_refused);
    PROVE(a_consumer_that_does_not_keep_up_stops_its_peer_and_loses_nothing);
    PROVE(a_peer_that_is_not_read_is_not_taken_for_dead);
    PROVE(a_peer_that_is_not_read_can_be_closed);
    PROVE(flags_say_what_comes);
    PROVE(who_waits_for_a_drain_gets_it);
    PROVE(callbacks_beside_a_queue_are_refused);
    PROVE(without_dispatch_queue_there_is_nothing_to_poll);
    PROVE(a_request_can_be_read_until_its_batch_is_freed_though_the_peer_has_gone);
    PROVE(an_open_connection_forgets_its_request_with_the_batch);
    PROVE(many_messages_go_out_in_one_call);
    PROVE(each_record_has_a_result_and_the_worst_is_returned);
    PROVE(a_peer_that_does_not_read_is_told_of_by_submit_as_by_send);
    PROVE(a_record_that_send_would_refuse_is_refused_alone);
    PROVE(bytes_that_are_no_records_send_nothing);
    PROVE(one_call_reaches_a_hundred_connections_in_order);
    PROVE(threads_that_submit_at_once_each_keep_their_order);
    PROVE(servers_with_callbacks_take_records_too);
    PROVE(queues_on_threads_of_their_own_echo_everything_in_order);
    return 0;
}
