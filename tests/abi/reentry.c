/* Every call in every callback: each gives the status of its moment, none deadlocks, and no callback ever runs
 * on the stack of a call. (CALL sets a mark that host_record and log_a_line check.) */
#include "every_call.h"

/* -- the matrix ---------------------------------------------------------------------------------------- */

static const uint16_t places[] = {
    FDX_EV_THREAD_START, FDX_EV_UPGRADE, FDX_EV_OPEN, FDX_EV_MESSAGE, FDX_EV_FRAGMENT, FDX_EV_PING, FDX_EV_PONG,
    FDX_EV_DRAIN, FDX_EV_HTTP, FDX_EV_CLOSE, FDX_EV_STOPPED, FDX_EV_THREAD_STOP,
};
#define PLACES (sizeof places / sizeof places[0])

static enum moment moment_of(uint16_t place)
{
    switch (place) {
    case FDX_EV_UPGRADE: return UNDECIDED;
    case FDX_EV_OPEN: return OPENING;
    case FDX_EV_HTTP: return ASKING;
    case FDX_EV_CLOSE: return CLOSED;
    case FDX_EV_THREAD_START: case FDX_EV_STOPPED: case FDX_EV_THREAD_STOP: return NO_CONNECTION;
    default: return OPENED;
    }
}

/* What a call gives on a thread of the server, in a callback of this kind. */
static fdx_status expected_in(uint16_t place, const call *c)
{
    int has_stopped = place == FDX_EV_STOPPED || place == FDX_EV_THREAD_STOP;

    if (c->takes & TAKES_CONN)
        return c->gives[moment_of(place)];
    if (c->make == make_fdx_server_start)
        return FDX_E_STATE;
    if (c->make == make_fdx_server_wait)
        return FDX_E_DEADLOCK;
    if (c->make == make_fdx_server_stop)
        return has_stopped ? FDX_ALREADY : FDX_OK;
    if (c->make == make_fdx_unlisten)
        return FDX_E_NOT_FOUND;
    if (c->make == make_fdx_listen)
        return has_stopped ? FDX_E_STOPPED : FDX_OK;
    if (c->make == make_fdx_listener_fd)
        return has_stopped ? FDX_E_NOT_FOUND : FDX_OK;
    return FDX_OK;
}

/* What is done once, in the first callback of this kind. */
typedef struct deed {
    uint16_t place;
    const call *one;                    /* this call, or all that end nothing */
    counter done;
} deed;

static void make_it(const deed *d, const call *c, fdx_server *server, fdx_conn conn)
{
    fdx_status got = CALL(c->make(server, conn));

    if (got != expected_in(d->place, c)) {
        fprintf(stderr, "in a callback of event %u: ", (unsigned)d->place);
        check_failed_status(__FILE__, __LINE__, c->name, fdx_status_name(expected_in(d->place, c)), got);
    }
}

/* The server comes from the callback: THREAD_START may be told before host_start has returned. */
static void do_it(deed *d, fdx_server *server, const fdx_event *event)
{
    size_t i;

    if (event->type != d->place || counter_get(&d->done) != 0)
        return;
    for (i = 0; i < EVERY_CALLS; i++)
        if (d->one ? d->one == &every_call[i] : !(every_call[i].takes & ENDS))
            make_it(d, &every_call[i], server, event->conn);
    counter_add(&d->done);
}

static void live_and_do(host *h, const fdx_event *event)
{
    static const char bulk[4000] = "";
    deed *d = (deed *)h->user;

    do_it(d, h->server, event);
    if (event->type == FDX_EV_UPGRADE)
        fdx_accept(h->server, event->conn, NULL, NULL, 0);
    if (event->type == FDX_EV_HTTP)
        fdx_http_reply(h->server, event->conn, 200, NULL, 0, "a page", 6);
    if (event->type == FDX_EV_OPEN && d->place == FDX_EV_DRAIN)
        CHECK_STATUS(FDX_HIGH_WATER, fdx_send(h->server, event->conn, FDX_BINARY, bulk, sizeof bulk, 0));
}

/* Gives occasion for every kind of event, whatever the server does to it, and leaves. */
static void go_through_everything(uint16_t port)
{
    static const char page[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    static const char upgrade[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    client c = client_dial_with(port, 0);

    if (c.fd < 0)
        return;                             /* stopped already */
    client_try_write(&c, page, strlen(page));
    client_read_head(&c);
    client_drop(&c);
    c = client_dial_with(port, 0);
    if (c.fd < 0)
        return;
    if (client_try_write(&c, upgrade, strlen(upgrade)) && client_read_head(&c) == 101) {
        int pings = 0;

        if (client_try_frame(&c, 0x80 | OP_TEXT, "hello", 5, 1) && client_try_frame(&c, 0x80 | OP_PONG, "!", 1, 1))
            client_try_frame(&c, 0x80 | OP_PING, "?", 1, 1);
        while (client_read(&c) != -1) {
            if (c.opcode == OP_PONG && pings++ == 0)    /* everything before it was heard, and a drain can come */
                client_try_frame(&c, 0x80 | OP_PING, "?", 1, 1);
            else if (c.opcode == OP_PONG)
                client_try_frame(&c, 0x80 | OP_CLOSE, "\x03\xe8", 2, 1);
            else if (c.opcode == OP_CLOSE)
                client_try_frame(&c, 0x80 | OP_CLOSE, c.payload, c.payload_len, 1);
        }
    }
    client_drop(&c);
}

static void do_in(uint16_t place, const call *one)
{
    deed d;
    host *h;

    memset(&d, 0, sizeof d);
    d.place = place;
    d.one = one;
    h = host_new(live_and_do, &d);
    {
        fdx_config *config = new_config("send.high_water = 1k\nsend.low_water = 512\ntimeout.close = 1s\n");
        fdx_handlers handlers = host_handlers(h, ON_ALL);
        fdx_server *server = NULL;

        handlers.flags = FDX_ROUTE_HTTP;
        if (place == FDX_EV_FRAGMENT) {
            handlers.flags |= FDX_ROUTE_STREAM;
            handlers.on_message = host_record;
        }
        handlers.drop = host_dropped;
        CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, NULL));
        CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
        fdx_config_free(config);
        host_set_server(h, server);
        CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
        CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    }
    go_through_everything(h->port);
    if (moment_of(place) != NO_CONNECTION)
        CHECK_SOON(counter_get(&d.done) == 1);
    CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
    CHECK(counter_get(&d.done) == 1);
    host_end(h);
}

static void each_call_gives_its_status_in_each_callback(void)
{
    size_t i;

    for (i = 0; i < PLACES; i++)
        do_in(places[i], NULL);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void each_call_that_ends_something_gives_its_status_in_each_callback(void)
{
    size_t i, k;

    for (i = 0; i < PLACES; i++)
        for (k = 0; k < EVERY_CALLS; k++)
            if (every_call[k].takes & ENDS)
                do_in(places[i], &every_call[k]);
}

/* -- the last reference ---------------------------------------------------------------------------------- */

static void let_go(host *h, const fdx_event *event)
{
    deed *d = (deed *)h->user;

    if (event->type == d->place && counter_get(&d->done) == 0) {
        counter_add(&d->done);
        library_depth++;
        fdx_server_unref(h->server);
        library_depth--;
    } else {
        live_and_do(h, event);
    }
}

static void the_last_reference_may_be_given_back_in_the_callbacks_of_the_server_itself(void)
{
    static const uint16_t own[] = { FDX_EV_PONG, FDX_EV_HTTP, FDX_EV_STOPPED, FDX_EV_THREAD_STOP };
    unsigned threads = running_threads();
    size_t i;

    for (i = 0; i < sizeof own / sizeof own[0]; i++) {
        deed d;
        host *h;

        memset(&d, 0, sizeof d);
        d.place = own[i];
        h = host_start_with("timeout.close = 1s\n", ON_ALL, FDX_ROUTE_HTTP, let_go, &d);
        go_through_everything(h->port);
        if (moment_of(own[i]) == NO_CONNECTION)
            CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
        CHECK_SOON(counter_get(&h->dropped) == 1);
        CHECK_SOON(running_threads() == threads);
        CHECK(counter_get(&d.done) == 1 && counter_get(&h->dropped) == 1);
        host_check_lives(h);
        host_free(h);
    }
}

static void let_go_at_the_start(host *h, const fdx_event *event)
{
    deed *d = (deed *)h->user;

    if (event->type == FDX_EV_THREAD_START) {
        library_depth++;
        fdx_server_unref(h->server);    /* fdx_server_start's caller has the other one */
        library_depth--;
        counter_add(&d->done);
    }
}

static void a_reference_may_be_given_back_on_the_first_event_of_a_thread(void)
{
    deed d;
    host *h;

    memset(&d, 0, sizeof d);
    h = host_new(let_go_at_the_start, &d);
    {
        fdx_config *config = new_config(NULL);
        fdx_handlers handlers = host_handlers(h, ON_ALL);
        fdx_server *server = NULL;

        handlers.drop = host_dropped;
        CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, NULL));
        CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
        fdx_config_free(config);
        host_set_server(h, fdx_server_ref(server));
        CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
    }
    CHECK_SOON(counter_get(&d.done) == 1);
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    host_free(h);
}

static void references_that_came_and_went_leave_the_one_that_is_held(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    unsigned i;

    for (i = 0; i < 3; i++)
        CHECK(fdx_server_ref(h->server) == h->server);
    for (i = 0; i < 3; i++)
        fdx_server_unref(h->server);
    client_say(&c, "one is left");
    CHECK(strcmp(host_await(h, FDX_EV_MESSAGE, 1).data, "one is left") == 0);
    client_leave(&c);
    host_end(h);
}

/* -- starting, stopping, waiting ------------------------------------------------------------------------------ */

static void calls_before_the_start_give_their_status(void)
{
    fdx_config *config = new_config(NULL);
    fdx_server *server = new_server(config);
    size_t i;

    fdx_config_free(config);
    for (i = 0; i < EVERY_CALLS; i++) {
        const call *c = &every_call[i];
        fdx_status expected = FDX_OK;

        if (!(c->takes & (TAKES_SERVER | TAKES_CONN)) || c->make == make_fdx_server_start)
            continue;
        if (c->takes & TAKES_CONN)
            expected = FDX_E_NO_CONN;
        else if (c->make == make_fdx_server_wait || c->make == make_fdx_server_stop || c->make == make_fdx_listen
                 || c->make == make_fdx_publish)
            expected = FDX_E_STATE;
        else if (c->make == make_fdx_unlisten || c->make == make_fdx_listener_fd || c->make == make_fdx_listener_port)
            expected = FDX_E_NOT_FOUND;
        check_status(__FILE__, __LINE__, c->name, expected, CALL(c->make(server, 1)));
        check_status(__FILE__, __LINE__, c->name, expected, CALL(c->make(server, UINT64_MAX)));
    }
    CHECK_STATUS(FDX_E_STATE, fdx_server_wait(server, -1));     /* and it does not wait */
    CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_E_STATE, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_ALREADY, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_E_STATE, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
    CHECK_STATUS(FDX_E_STATE, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_ALREADY, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    fdx_server_unref(server);
}

struct starter { fdx_server *server; fdx_status status; };

static void *start_it(void *argument)
{
    struct starter *starter = (struct starter *)argument;

    starter->status = CALL(fdx_server_start(starter->server, NULL));
    return NULL;
}

static void of_eight_threads_that_start_a_server_one_does(void)
{
    unsigned round;

    for (round = 0; round < times(20, 2); round++) {
        fdx_config *config = new_config("threads = 2\n");
        fdx_server *server = new_server(config);
        struct starter starters[8];
        pthread_t threads[8];
        unsigned i, started = 0;

        fdx_config_free(config);
        for (i = 0; i < 8; i++) {
            starters[i].server = server;
            CHECK(pthread_create(&threads[i], NULL, start_it, &starters[i]) == 0);
        }
        for (i = 0; i < 8; i++) {
            pthread_join(threads[i], NULL);
            CHECK(starters[i].status == FDX_OK || starters[i].status == FDX_E_STATE);
            started += starters[i].status == FDX_OK;
        }
        CHECK(started == 1);
        fdx_server_unref(server);
    }
}

/* The one of another's server in a callback of one's own is no deadlock; one's own is. */
static void wait_for_both(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE) {
        CHECK_STATUS(FDX_E_DEADLOCK, fdx_server_wait(h->server, -1));
        CHECK_STATUS(FDX_E_TIMEOUT, fdx_server_wait(((host *)h->user)->server, 10));
    }
}

static void waiting_in_a_callback_is_refused_for_ones_own_server_only(void)
{
    host *other = host_start(NULL, ON_USUAL, NULL, NULL);
    host *h = host_start(NULL, ON_USUAL, wait_for_both, other);
    client c = client_open(h->port);

    client_say(&c, "wait");
    host_await(h, FDX_EV_MESSAGE, 1);
    client_leave(&c);
    host_end(h);
    host_end(other);
}

/* -- many sends --------------------------------------------------------------------------------------------------- */

static void send_a_thousand_to_oneself(host *h, const fdx_event *event)
{
    unsigned i;

    if (event->type == FDX_EV_MESSAGE)
        for (i = 0; i < 1000; i++) {
            char text[16];
            snprintf(text, sizeof text, "%u", i);
            CHECK_ANY2(FDX_OK, FDX_HIGH_WATER, fdx_send(h->server, event->conn, FDX_TEXT, text, strlen(text), 0));
        }
}

static void a_thousand_sends_to_oneself_in_a_message_arrive_in_their_order(void)
{
    host *h = host_start("send.high_water = 1k\nsend.low_water = 512\n", ON_USUAL, send_a_thousand_to_oneself, NULL);
    client c = client_open(h->port);
    unsigned round, i;

    for (round = 0; round < 3; round++) {
        client_say(&c, "go");
        for (i = 0; i < 1000; i++) {
            char text[16];
            snprintf(text, sizeof text, "%u", i);
            CLIENT_EXPECT_TEXT(&c, text);
        }
    }
    client_leave(&c);
    host_end(h);
}

/* -- all at once -------------------------------------------------------------------------------------------------------- */

static fdx_conn latest;                 /* some connection, perhaps gone */
static unsigned storm_is_over;
static counter calls_in_callbacks;

/* Each pause is followed by a resume, or its client would wait for ever. */
static fdx_status make_in_the_storm(const call *c, fdx_server *server, fdx_conn conn)
{
    fdx_status status = CALL(c->make(server, conn));

    if (c->make == make_fdx_pause)
        CHECK(CALL(fdx_resume(server, conn)) <= FDX_OK);
    return status;
}

static void call_something(host *h, const fdx_event *event)
{
    unsigned number = counter_get(&calls_in_callbacks);
    const call *c = &every_call[number % EVERY_CALLS];

    counter_add(&calls_in_callbacks);
    if (event->type == FDX_EV_UPGRADE) {
        __atomic_store_n(&latest, event->conn, __ATOMIC_SEQ_CST);
        fdx_accept(h->server, event->conn, NULL, NULL, 0);
    }
    if (c->make == make_fdx_server_stop)
        c = &every_call[0];
    CHECK(make_in_the_storm(c, h->server, event->conn) != FDX_E_PANIC);
    CHECK(make_in_the_storm(c, h->server, __atomic_load_n(&latest, __ATOMIC_SEQ_CST)) != FDX_E_PANIC);
    if (event->type == FDX_EV_HTTP)
        fdx_http_reply(h->server, event->conn, 200, NULL, 0, "a page", 6);
}

struct caller { host *h; unsigned number; };

static void *call_everything(void *argument)
{
    struct caller *caller = (struct caller *)argument;
    unsigned i, count = times(20000, 1000);

    /* Until the clients have had their turn, too. */
    for (i = 0; i < count || (i % 1000 == 0 && host_count(caller->h, FDX_EV_CLOSE) < 20) || i % 1000 != 0; i++) {
        const call *c = &every_call[(i * 101 + caller->number * 5) % EVERY_CALLS];  /* a prime beyond them all */
        fdx_status got;

        if (c->make == make_fdx_server_stop)
            continue;
        /* What closes comes seldom, or nobody would ever be open. */
        if (c->takes & ENDS && i % 17)
            continue;
        got = make_in_the_storm(c, caller->h->server, __atomic_load_n(&latest, __ATOMIC_SEQ_CST));
        CHECK(got != FDX_E_PANIC && got != FDX_E_DEADLOCK && got != FDX_E_INVALID_ARG && got != FDX_E_FORKED);
    }
    return NULL;
}

static void *come_chat_and_leave(void *argument)
{
    host *h = (host *)argument;

    while (!__atomic_load_n(&storm_is_over, __ATOMIC_SEQ_CST))
        go_through_everything(h->port);
    return NULL;
}

static void eight_threads_make_every_call_while_clients_come_chat_and_leave(const char *settings)
{
    host *h = host_start_with(settings, ON_ALL, FDX_ROUTE_HTTP, call_something, NULL);
    struct caller callers[8];
    pthread_t threads[8], clients[3];
    unsigned i;

    __atomic_store_n(&storm_is_over, 0, __ATOMIC_SEQ_CST);
    for (i = 0; i < 3; i++)
        CHECK(pthread_create(&clients[i], NULL, come_chat_and_leave, h) == 0);
    for (i = 0; i < 8; i++) {
        callers[i].h = h;
        callers[i].number = i;
        CHECK(pthread_create(&threads[i], NULL, call_everything, &callers[i]) == 0);
    }
    for (i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    __atomic_store_n(&storm_is_over, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < 3; i++)
        pthread_join(clients[i], NULL);
    CHECK(host_count(h, FDX_EV_OPEN) > 0 && counter_get(&calls_in_callbacks) > EVERY_CALLS);
    host_end(h);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void eight_threads_and_every_callback_make_every_call_on_a_server_of_one_thread(void)
{
    eight_threads_make_every_call_while_clients_come_chat_and_leave("timeout.close = 500ms\n");
}

static void eight_threads_and_every_callback_make_every_call_on_a_server_of_three_threads(void)
{
    eight_threads_make_every_call_while_clients_come_chat_and_leave("threads = 3\ntimeout.close = 500ms\n");
}

/* -- the log ------------------------------------------------------------------------------------------------------------- */

static host *logged_host;
static counter logs_replaced, calls_in_logs, first_log_dropped;
static __thread int inside_the_log;

static void call_everything_in_the_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    size_t i;

    (void)user_data, (void)level, (void)target, (void)text, (void)len;
    CHECK(library_depth == 0 && !inside_the_log);
    inside_the_log = 1;
    for (i = 0; i < EVERY_CALLS; i++) {
        const call *c = &every_call[i];

        if (c->make == make_fdx_server_stop || c->make == make_fdx_set_log)
            continue;
        if (c->make == make_fdx_server_wait)
            CHECK_STATUS(FDX_E_DEADLOCK, c->make(logged_host->server, conn));
        else
            CHECK(CALL(c->make(logged_host->server, conn)) != FDX_E_PANIC);
        counter_add(&calls_in_logs);
    }
    inside_the_log = 0;
}

static void be_refused(uint16_t port)
{
    client c = client_dial(port);

    client_write(&c, "nonsense\r\n\r\n", 12);
    CHECK(client_read_head(&c) >= 400);
    client_drop(&c);
}

static void each_call_may_be_made_in_the_log_callback(void)
{
    client c;

    logged_host = host_start(NULL, ON_USUAL, NULL, NULL);
    fdx_set_log(5, call_everything_in_the_log, NULL, NULL);
    be_refused(logged_host->port);
    c = client_open(logged_host->port);
    CHECK(client_try_frame(&c, 0x80 | OP_TEXT, "\xff", 1, 1));      /* a line about an open connection */
    CHECK(client_read(&c) == OP_CLOSE || c.opcode == -1);
    client_drop(&c);
    CHECK_SOON(counter_get(&calls_in_logs) >= 2 * (EVERY_CALLS - 2));
    host_end(logged_host);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void drop_that_sets_the_log(void *user_data)
{
    counter_add((counter *)user_data);
    set_the_log();                      /* the drop of a log may set the next one */
}

static void replace_the_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    (void)level, (void)conn, (void)target, (void)text, (void)len;
    CHECK(library_depth == 0);
    counter_add(&logs_replaced);
    library_depth++;
    fdx_set_log(5, replace_the_log, user_data, NULL);
    fdx_set_log(5, replace_the_log, user_data, count_drop);
    CHECK(user_data != &first_log_dropped || counter_get(&first_log_dropped) == 0);    /* we are still inside */
    fdx_set_log(0, NULL, NULL, NULL);
    fdx_set_log(5, log_a_line, NULL, NULL);
    library_depth--;
}

static void the_log_may_be_replaced_inside_itself_and_is_dropped_when_it_has_returned(void)
{
    counter drops = { 0 };
    unsigned before;

    logged_host = host_start(NULL, ON_USUAL, NULL, NULL);
    fdx_set_log(5, replace_the_log, &drops, count_drop);
    be_refused(logged_host->port);
    CHECK_SOON(counter_get(&drops) == 2);           /* the one replaced and the one set inside */
    CHECK(counter_get(&logs_replaced) == 1);
    before = counter_get(&lines_logged);
    be_refused(logged_host->port);
    CHECK_SOON(counter_get(&lines_logged) > before);

    fdx_set_log(5, log_a_line, &drops, drop_that_sets_the_log);
    fdx_set_log(0, NULL, NULL, NULL);
    CHECK(counter_get(&drops) == 3);
    before = counter_get(&lines_logged);
    be_refused(logged_host->port);
    CHECK_SOON(counter_get(&lines_logged) > before);
    host_end(logged_host);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void *set_a_log(void *drops)
{
    fdx_set_log(5, log_a_line, drops, count_drop);
    return NULL;
}

static void *take_the_log_away(void *unused)
{
    (void)unused;
    fdx_set_log(0, NULL, NULL, NULL);
    return NULL;
}

/* Not even for a moment do the function and the level come from two different calls. */
static void of_two_threads_that_set_the_log_one_is_the_last(void)
{
    unsigned round;

    logged_host = host_start(NULL, ON_USUAL, NULL, NULL);
    for (round = 0; round < times(300, 10); round++) {
        counter drops = { 0 };
        pthread_t one, two;
        unsigned before = counter_get(&lines_logged);

        CHECK(pthread_create(&one, NULL, set_a_log, &drops) == 0);
        CHECK(pthread_create(&two, NULL, take_the_log_away, NULL) == 0);
        pthread_join(one, NULL);
        pthread_join(two, NULL);
        be_refused(logged_host->port);
        be_refused(logged_host->port);      /* the line of the first is out before the second is read */
        CHECK((counter_get(&lines_logged) > before) == (counter_get(&drops) == 0));
        fdx_set_log(0, NULL, NULL, NULL);
        CHECK_SOON(counter_get(&drops) == 1);
    }
    host_end(logged_host);
}

/* -- drops ------------------------------------------------------------------------------------------------------------------ */

struct dropper { host *h; counter drops, again; fdx_conn conn; };

/* Under no lock and on no stack of a call: each call may be made, also the one that brought it here. */
static void call_everything_in_a_drop(void *user_data)
{
    struct dropper *dropper = (struct dropper *)user_data;
    size_t i;

    CHECK(library_depth == 0);
    for (i = 0; i < EVERY_CALLS; i++) {
        const call *c = &every_call[i];

        if (c->make == make_fdx_server_stop)
            continue;
        if (c->make == make_fdx_server_wait)
            CHECK_STATUS(FDX_E_DEADLOCK, c->make(dropper->h->server, dropper->conn));
        else
            CHECK(CALL(c->make(dropper->h->server, dropper->conn)) != FDX_E_PANIC);
    }
    if (fdx_conn_set_data(dropper->h->server, dropper->conn, &dropper->again, count_drop) < 0)
        counter_add(&dropper->again);       /* refused: it stays ours */
    counter_add(&dropper->drops);
}

static void each_call_may_be_made_in_the_drop_of_a_connections_data(void)
{
    struct dropper dropper;
    client c;

    memset(&dropper, 0, sizeof dropper);
    dropper.h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(dropper.h->port);
    dropper.conn = host_await(dropper.h, FDX_EV_OPEN, 1).conn;
    /* Replaced while the connection is open … */
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(dropper.h->server, dropper.conn, &dropper, call_everything_in_a_drop));
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(dropper.h->server, dropper.conn, NULL, NULL));
    CHECK_SOON(counter_get(&dropper.drops) == 1);
    client_drop(&c);
    host_await(dropper.h, FDX_EV_CLOSE, 1);
    CHECK_SOON(counter_get(&dropper.again) == 1);
    /* … and after its CLOSE. */
    c = client_open(dropper.h->port);
    dropper.conn = host_await(dropper.h, FDX_EV_OPEN, 2).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(dropper.h->server, dropper.conn, &dropper, call_everything_in_a_drop));
    client_leave(&c);
    CHECK_SOON(counter_get(&dropper.drops) == 2);
    CHECK_SOON(counter_get(&dropper.again) == 2);
    host_end(dropper.h);
    CHECK(counter_get(&dropper.drops) == 2 && counter_get(&dropper.again) == 2);
    fdx_set_log(0, NULL, NULL, NULL);
}

static counter handlers_dropped;

/* The server is gone when this runs, or never was: what takes none may be called. */
static void call_what_needs_no_server(void *user_data)
{
    size_t i;

    (void)user_data;
    for (i = 0; i < EVERY_CALLS; i++)
        if (!(every_call[i].takes & (TAKES_SERVER | TAKES_CONN)))
            CHECK(every_call[i].make(NULL, 0) == FDX_OK);
    counter_add(&handlers_dropped);
}

static void a_drop_of_handlers_may_make_configurations_and_whole_servers(void)
{
    fdx_config *config = new_config(NULL);
    fdx_server *server = NULL;
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.drop = call_what_needs_no_server;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/two", 0, &handlers, NULL));
    fdx_config_free(config);                /* on the stack of this call, as R3 allows */
    CHECK(counter_get(&handlers_dropped) == 2);

    config = new_config(NULL);
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
    fdx_config_free(config);
    fdx_server_unref(server);               /* never started */
    CHECK(counter_get(&handlers_dropped) == 3);

    config = new_config(NULL);
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
    fdx_config_free(config);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
    fdx_server_unref(server);               /* and here on a thread of the library */
    CHECK_SOON(counter_get(&handlers_dropped) == 4);
    fdx_set_log(0, NULL, NULL, NULL);
}

/* -- decisions ------------------------------------------------------------------------------------------------------------------- */

/* '1' accept twice, '2' reject twice, '3' reject, then accept; inside the callback all is done at once. */
static void decide_twice(host *h, const fdx_event *event)
{
    char way[16];

    if (event->type != FDX_EV_UPGRADE)
        return;
    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, event->conn, "?way", way, sizeof way, NULL));
    if (way[0] == '1') {
        CHECK_STATUS(FDX_OK, fdx_accept(h->server, event->conn, NULL, NULL, 0));
        CHECK_STATUS(FDX_E_STATE, fdx_accept(h->server, event->conn, NULL, NULL, 0));
        CHECK_STATUS(FDX_E_STATE, fdx_reject(h->server, event->conn, 403, NULL, 0, NULL, 0));
        CHECK_STATUS(FDX_E_STATE, fdx_http_reply(h->server, event->conn, 200, NULL, 0, NULL, 0));
    } else {
        CHECK_STATUS(FDX_OK, fdx_reject(h->server, event->conn, 403, NULL, 0, NULL, 0));
        CHECK_STATUS(FDX_E_NO_CONN, fdx_accept(h->server, event->conn, NULL, NULL, 0));
        CHECK_STATUS(FDX_E_NO_CONN, fdx_reject(h->server, event->conn, 403, NULL, 0, NULL, 0));
    }
}

static void a_second_decision_in_the_callback_is_refused(void)
{
    host *h = host_start(NULL, ON_ALL, decide_twice, NULL);
    client c = client_dial(h->port);

    CHECK(client_upgrade(&c, "/?way=1", NULL) == 101);
    client_leave(&c);
    c = client_dial(h->port);
    CHECK(client_upgrade(&c, "/?way=2", NULL) == 403);
    CLIENT_EXPECT(&c, -1, "", 0);
    client_drop(&c);
    host_end(h);
}

struct decider { host *h; fdx_conn conn; unsigned number; fdx_status status; };

static void *decide(void *argument)
{
    struct decider *d = (struct decider *)argument;

    d->status = d->number % 2 ? CALL(fdx_accept(d->h->server, d->conn, NULL, NULL, 0))
                              : CALL(fdx_reject(d->h->server, d->conn, 403, NULL, 0, NULL, 0));
    return NULL;
}

static void of_eight_threads_that_decide_one_does_and_the_client_hears_that_one(void)
{
    host *h = host_start(NULL, ON_ALL, NULL, NULL);
    unsigned round;

    for (round = 1; round <= times(100, 10); round++) {
        struct decider deciders[8];
        pthread_t threads[8];
        client c = client_dial(h->port);
        unsigned i, decided = 0, accepted = 0;
        int answer;

        client_ask(&c, "/", NULL);
        deciders[0].conn = host_await(h, FDX_EV_UPGRADE, round).conn;
        for (i = 0; i < 8; i++) {
            deciders[i].h = h;
            deciders[i].conn = deciders[0].conn;
            deciders[i].number = i + round;
            CHECK(pthread_create(&threads[i], NULL, decide, &deciders[i]) == 0);
        }
        for (i = 0; i < 8; i++) {
            pthread_join(threads[i], NULL);
            CHECK(deciders[i].status == FDX_OK || deciders[i].status == FDX_E_STATE || deciders[i].status == FDX_E_NO_CONN);
            decided += deciders[i].status == FDX_OK;
            accepted += deciders[i].status == FDX_OK && deciders[i].number % 2;
        }
        CHECK(decided == 1);
        answer = client_read_head(&c);
        CHECK(answer == (accepted ? 101 : 403));
        client_drop(&c);
    }
    host_end(h);
}

static void decide_too_late(host *h, const fdx_event *event)
{
    (void)h;
    if (event->type == FDX_EV_UPGRADE)
        sleep_ms(300);                  /* the shard itself is what is late: its clock goes on only after us */
    if (event->type == FDX_EV_UPGRADE)
        CHECK_STATUS(FDX_OK, fdx_accept(h->server, event->conn, NULL, NULL, 0));
}

static void a_decision_in_a_callback_that_took_longer_than_timeout_handshake_counts(void)
{
    host *h = host_start("timeout.handshake = 100ms\n", ON_ALL, decide_too_late, NULL);
    client c = client_dial(h->port);

    CHECK(client_upgrade(&c, "/", NULL) == 101);
    client_leave(&c);
    host_end(h);
}

static void a_late_decision_of_another_thread_finds_no_connection(void)
{
    host *h = host_start("timeout.handshake = 100ms\n", ON_ALL, NULL, NULL);
    client c = client_dial(h->port);
    fdx_conn conn;

    client_ask(&c, "/", NULL);
    conn = host_await(h, FDX_EV_UPGRADE, 1).conn;
    CHECK(client_read_head(&c) >= 400);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_reject(h->server, conn, 403, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_request_get(h->server, conn, ":path", NULL, 0, NULL));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_conn_set_data(h->server, conn, NULL, NULL));
    client_drop(&c);
    host_end(h);
}

int main(void)
{
    PROVE(each_call_gives_its_status_in_each_callback);
    PROVE(each_call_that_ends_something_gives_its_status_in_each_callback);
    PROVE(the_last_reference_may_be_given_back_in_the_callbacks_of_the_server_itself);
    PROVE(a_reference_may_be_given_back_on_the_first_event_of_a_thread);
    PROVE(references_that_came_and_went_leave_the_one_that_is_held);
    PROVE(calls_before_the_start_give_their_status);
    PROVE(of_eight_threads_that_start_a_server_one_does);
    PROVE(waiting_in_a_callback_is_refused_for_ones_own_server_only);
    PROVE(a_thousand_sends_to_oneself_in_a_message_arrive_in_their_order);
    PROVE(eight_threads_and_every_callback_make_every_call_on_a_server_of_one_thread);
    PROVE(eight_threads_and_every_callback_make_every_call_on_a_server_of_three_threads);
    PROVE(each_call_may_be_made_in_the_log_callback);
    PROVE(the_log_may_be_replaced_inside_itself_and_is_dropped_when_it_has_returned);
    PROVE(of_two_threads_that_set_the_log_one_is_the_last);
    PROVE(each_call_may_be_made_in_the_drop_of_a_connections_data);
    PROVE(a_drop_of_handlers_may_make_configurations_and_whole_servers);
    PROVE(a_second_decision_in_the_callback_is_refused);
    PROVE(of_eight_threads_that_decide_one_does_and_the_client_hears_that_one);
    PROVE(a_decision_in_a_callback_that_took_longer_than_timeout_handshake_counts);
    PROVE(a_late_decision_of_another_thread_finds_no_connection);
    return 0;
}
