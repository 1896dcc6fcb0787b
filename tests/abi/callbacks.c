/* Every call from inside every callback: none deadlocks, none calls back on its own stack, and
 * whatever was done, each OPEN has its one CLOSE. (host_record checks the stack, host_end the lives.) */
#include "check.h"

/* What a callback does, once, when its turn comes. */
typedef struct deed {
    uint16_t place;                     /* the event type in whose callback it is done */
    void (*act)(host *, const fdx_event *, struct deed *);
    counter done;
    counter drops;
    int marked;                         /* the address of this is the connection's data */
} deed;

static const uint16_t places[] = { FDX_EV_UPGRADE, FDX_EV_OPEN, FDX_EV_MESSAGE, FDX_EV_DRAIN, FDX_EV_PING, FDX_EV_CLOSE };
#define PLACES (sizeof places / sizeof places[0])

/* Accepts every handshake and queues enough in OPEN that DRAIN will come; the deed is done in its place. */
static void live_and_do(host *h, const fdx_event *event)
{
    deed *d = (deed *)h->user;
    static const char bulk[4000] = "";

    if (event->type == d->place && counter_get(&d->done) == 0) {
        counter_add(&d->done);
        d->act(h, event, d);
    }
    if (event->type == FDX_EV_UPGRADE)
        fdx_accept(h->server, event->conn, NULL, NULL, 0);
    if (event->type == FDX_EV_OPEN && d->place == FDX_EV_DRAIN)
        CHECK_STATUS(FDX_HIGH_WATER, fdx_send(h->server, event->conn, FDX_BINARY, bulk, sizeof bulk, 0));
}

/* A client that gives occasion for every kind of event, whatever the server does to it, and leaves. */
static void go_through_everything(uint16_t port)
{
    client c = client_dial(port);

    client_ask(&c, "/", NULL);
    if (client_read_head(&c) == 101) {
        if (client_try_frame(&c, 0x80 | OP_TEXT, "hello", 5, 1) && client_try_frame(&c, 0x80 | OP_PING, "?", 1, 1))
            client_try_frame(&c, 0x80 | OP_TEXT, "again", 5, 1);
        while (client_read(&c) != -1) {
            if (c.opcode == OP_PONG)    /* the answer to our ping: everything before it was heard */
                client_try_frame(&c, 0x80 | OP_CLOSE, "\x03\xe8", 2, 1);
            if (c.opcode == OP_CLOSE)
                client_try_frame(&c, 0x80 | OP_CLOSE, c.payload, c.payload_len, 1);
        }
    }
    client_drop(&c);
}

static host *start(deed *d)
{
    return host_start("send.high_water = 1k\nsend.low_water = 512\ntimeout.close = 1s\n", ON_ALL, live_and_do, d);
}

/* Does the deed in every place, each with its own server, and looks that a second client is served as if nothing
 * had happened. */
static void do_everywhere(void (*act)(host *, const fdx_event *, deed *))
{
    size_t i;

    for (i = 0; i < PLACES; i++) {
        deed d;
        host *h;
        client c;
        size_t opens;

        memset(&d, 0, sizeof d);
        d.place = places[i];
        d.act = act;
        h = start(&d);
        go_through_everything(h->port);
        CHECK_SOON(counter_get(&d.done) == 1);

        opens = host_count(h, FDX_EV_OPEN);
        c = client_open(h->port);
        host_await(h, FDX_EV_OPEN, opens + 1);
        client_drop(&c);
        host_end(h);
    }
}

static int is_open_place(uint16_t place)
{
    return place != FDX_EV_UPGRADE && place != FDX_EV_CLOSE;
}

/* What a call about a connection gives: OK while it is open, NO_CONN in its CLOSE, and before its OPEN
 * a refusal or, where the call makes sense already, OK. */
static void check_by_place(const deed *d, fdx_status status, int line)
{
    if (is_open_place(d->place))
        check_status(__FILE__, line, "a call on an open connection", FDX_OK, status);
    else if (d->place == FDX_EV_CLOSE)
        check_any(__FILE__, line, "a call on a closed connection", FDX_E_NO_CONN, FDX_ALREADY, FDX_E_NO_CONN, status);
    else
        check_any(__FILE__, line, "a call before the opening", FDX_E_NO_CONN, FDX_E_STATE, FDX_OK, status);
}

#define CHECK_BY_PLACE(d, call) check_by_place((d), CALL(call), __LINE__)

static void send_something(host *h, const fdx_event *event, deed *d)
{
    fdx_msg *message = fdx_msg_new(FDX_BINARY, "too", 3);

    if (d->place == FDX_EV_CLOSE) {
        CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, event->conn, FDX_TEXT, "from inside", 11, 0));
        CHECK_STATUS(FDX_E_NO_CONN, fdx_send_msg(h->server, &event->conn, 1, message, 0, NULL));
        CHECK_STATUS(FDX_E_NO_CONN, fdx_ping(h->server, event->conn, "?", 1));
    } else if (d->place == FDX_EV_UPGRADE) {
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_send(h->server, event->conn, FDX_TEXT, "from inside", 11, 0));
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_send_msg(h->server, &event->conn, 1, message, 0, NULL));
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_ping(h->server, event->conn, "?", 1));
    } else {
        CHECK_STATUS(FDX_OK, fdx_send(h->server, event->conn, FDX_TEXT, "from inside", 11, 0));
        CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, &event->conn, 1, message, 0, NULL));
        CHECK_STATUS(FDX_OK, fdx_ping(h->server, event->conn, "?", 1));
    }
    fdx_msg_unref(message);
}

static void sending_is_possible_in_every_callback(void)
{
    do_everywhere(send_something);
}

static void close_it(host *h, const fdx_event *event, deed *d)
{
    CHECK_BY_PLACE(d, fdx_close(h->server, event->conn, 1000, "enough", FDX_NTS));
    if (is_open_place(d->place)) {
        CHECK_STATUS(FDX_ALREADY, fdx_close(h->server, event->conn, 1000, "enough", FDX_NTS));
        CHECK_STATUS(FDX_E_CLOSING, fdx_send(h->server, event->conn, FDX_TEXT, "too late", 8, 0));
    }
}

static void closing_is_possible_in_every_callback(void)
{
    do_everywhere(close_it);
}

static void abort_it(host *h, const fdx_event *event, deed *d)
{
    CHECK_BY_PLACE(d, fdx_abort(h->server, event->conn));
    if (is_open_place(d->place))
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_CLOSING, fdx_send(h->server, event->conn, FDX_TEXT, "too late", 8, 0));
}

static void aborting_is_possible_in_every_callback(void)
{
    do_everywhere(abort_it);
}

static void pause_and_resume_it(host *h, const fdx_event *event, deed *d)
{
    CHECK_BY_PLACE(d, fdx_pause(h->server, event->conn));
    CHECK_BY_PLACE(d, fdx_resume(h->server, event->conn));
}

static void pausing_and_resuming_is_possible_in_every_callback(void)
{
    do_everywhere(pause_and_resume_it);
}

static void set_its_data(host *h, const fdx_event *event, deed *d)
{
    fdx_status status = CALL(fdx_conn_set_data(h->server, event->conn, d, NULL));

    check_by_place(d, status, __LINE__);
    if (status == FDX_OK)
        CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, event->conn, &d->marked, NULL));
}

static void setting_its_data_is_possible_in_every_callback(void)
{
    do_everywhere(set_its_data);
}

static void look_around(host *h, const fdx_event *event, deed *d)
{
    fdx_conn_info info = new_conn_info();
    fdx_stats stats = new_stats();
    fdx_conn conns[8];
    size_t needed = 0;
    uint16_t port = 0;

    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    CHECK_STATUS(FDX_OK, fdx_conns(h->server, 7, conns, 8, &needed));
    CHECK_STATUS(FDX_OK, fdx_listener_port(h->server, 0, &port));
    CHECK(port == h->port);
    if (d->place == FDX_EV_UPGRADE)
        CHECK_ANY3(FDX_OK, FDX_E_NO_CONN, FDX_E_STATE, fdx_conn_get_info(h->server, event->conn, &info));
    else
        CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, event->conn, &info));
    if (d->place != FDX_EV_UPGRADE)
        CHECK(info.route == 7 && info.version == 13 && info.local_port == h->port && info.remote_port != 0);
    if (is_open_place(d->place))
        CHECK(stats.connections == 1 && needed == 1 && conns[0] == event->conn);
}

static void looking_around_is_possible_in_every_callback(void)
{
    do_everywhere(look_around);
}

static void decide_where_nothing_is_asked(host *h, const fdx_event *event, deed *d)
{
    if (d->place == FDX_EV_UPGRADE)
        return;
    CHECK(CALL(fdx_accept(h->server, event->conn, NULL, NULL, 0)) != FDX_OK);
    CHECK(CALL(fdx_reject(h->server, event->conn, 403, NULL, 0, NULL, 0)) < 0);
    CHECK(CALL(fdx_http_reply(h->server, event->conn, 200, NULL, 0, NULL, 0)) < 0);
}

static void deciding_an_open_connection_is_an_error_in_every_callback(void)
{
    do_everywhere(decide_where_nothing_is_asked);
}

static void wait_for_ourselves(host *h, const fdx_event *event, deed *d)
{
    (void)event;
    (void)d;
    CHECK_STATUS(FDX_E_DEADLOCK, fdx_server_wait(h->server, -1));
    CHECK_STATUS(FDX_E_DEADLOCK, fdx_server_wait(h->server, 100));
    CHECK_STATUS(FDX_E_STATE, fdx_server_start(h->server, NULL));
}

static void waiting_for_the_server_in_its_own_callback_is_a_deadlock_that_is_refused(void)
{
    do_everywhere(wait_for_ourselves);
}

static void make_and_end_another_server(host *h, const fdx_event *event, deed *d)
{
    host *inner = host_start(NULL, ON_USUAL, NULL, NULL);

    (void)h;
    (void)event;
    (void)d;
    CHECK_STATUS(FDX_OK, fdx_server_stop(inner->server, 1001, "", 0, 0, 1000));
    host_end(inner);    /* waits: another server's threads are not our own */
}

static void another_server_may_be_started_and_waited_for_in_every_callback(void)
{
    do_everywhere(make_and_end_another_server);
}

/* -- the end of the server, from inside ------------------------------------------------------ */

static void stop_the_server(host *h, const fdx_event *event, deed *d)
{
    (void)event;
    (void)d;
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "from inside", FDX_NTS, 0, 1000));
    CHECK_STATUS(FDX_ALREADY, fdx_server_stop(h->server, 1001, "from inside", FDX_NTS, 0, 1000));
    CHECK_STATUS(FDX_E_DEADLOCK, fdx_server_wait(h->server, -1));
}

static void stopping_the_server_is_possible_in_every_callback(void)
{
    size_t i;

    for (i = 0; i < PLACES; i++) {
        deed d;
        host *h;
        client bystander;

        memset(&d, 0, sizeof d);
        d.place = places[i];
        d.act = stop_the_server;
        h = start(&d);
        if (d.place == FDX_EV_MESSAGE) {
            bystander = client_open(h->port);
            host_await(h, FDX_EV_OPEN, 1);
        }
        go_through_everything(h->port);
        CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
        CHECK(counter_get(&d.done) == 1);
        if (d.place == FDX_EV_MESSAGE) {
            CLIENT_EXPECT_CLOSE(&bystander, 1001, "from inside");
            client_drop(&bystander);
        }
        host_end(h);
    }
}

static void let_go_of_the_server(host *h, const fdx_event *event, deed *d)
{
    (void)event;
    (void)d;
    library_depth++;
    fdx_server_unref(h->server);
    library_depth--;
}

static void letting_go_of_the_last_reference_is_possible_in_every_callback(void)
{
    unsigned threads = running_threads();
    size_t i;

    for (i = 0; i < PLACES; i++) {
        deed d;
        host *h;

        memset(&d, 0, sizeof d);
        d.place = places[i];
        d.act = let_go_of_the_server;
        h = start(&d);
        go_through_everything(h->port);
        /* Nobody can wait for the server any more; the drop is its last sign of life. */
        CHECK_SOON(counter_get(&h->dropped) == 1);
        CHECK(counter_get(&d.done) == 1);
        sleep_ms(20);
        CHECK(counter_get(&h->dropped) == 1);
        host_check_lives(h);
        host_free(h);
    }
    CHECK_SOON(running_threads() <= threads);
}

static void take_a_reference_and_give_it_back(host *h, const fdx_event *event, deed *d)
{
    (void)event;
    (void)d;
    CHECK(fdx_server_ref(h->server) == h->server);
    fdx_server_unref(h->server);
}

static void a_second_reference_may_come_and_go_in_every_callback(void)
{
    do_everywhere(take_a_reference_and_give_it_back);
}

static counter drops_inside;

static void drop_that_calls_the_library(void *user_data)
{
    host *h = (host *)user_data;
    fdx_stats stats = new_stats();

    /* Under no lock: calls from here must not block, whatever they answer. */
    fdx_get_stats(h->server, &stats);
    fdx_send(h->server, 1, FDX_TEXT, "x", 1, 0);
    fdx_close(h->server, 1, 1000, "", 0);
    fdx_conn_set_data(h->server, 1, NULL, NULL);
    counter_add(&drops_inside);
}

static void leave_data_with_a_busy_drop(host *h, const fdx_event *event, deed *d)
{
    if (!is_open_place(d->place)) {
        counter_add(&drops_inside);
        counter_add(&drops_inside);
        return;
    }
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, event->conn, h, drop_that_calls_the_library));
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, event->conn, h, drop_that_calls_the_library));
}

static void a_drop_function_may_call_the_library(void)
{
    do_everywhere(leave_data_with_a_busy_drop);
    CHECK_SOON(counter_get(&drops_inside) == 2 * PLACES);
}

/* -- one connection about another -------------------------------------------------------------- */

static void act_on_the_other(host *h, const fdx_event *event)
{
    fdx_conn conns[2];
    fdx_conn other;
    size_t needed = 0;

    if (event->type != FDX_EV_MESSAGE)
        return;
    CHECK_STATUS(FDX_OK, fdx_conns(h->server, 7, conns, 2, &needed));
    CHECK(needed == 2);
    other = conns[0] == event->conn ? conns[1] : conns[0];
    if (event->data[0] == 's')
        CHECK_STATUS(FDX_OK, fdx_send(h->server, other, FDX_TEXT, "hello, other", 12, 0));
    else if (event->data[0] == 'c')
        CHECK_STATUS(FDX_OK, fdx_close(h->server, other, 4000, "by the other", FDX_NTS));
    else if (event->data[0] == 'a')
        CHECK_STATUS(FDX_OK, fdx_abort(h->server, other));
}

static void a_callback_may_act_on_another_connection_in(const char *settings)
{
    static const char *const deeds[] = { "send", "close", "abort" };
    size_t i;

    for (i = 0; i < 3; i++) {
        host *h = host_start(settings, ON_USUAL, act_on_the_other, NULL);
        client one = client_open(h->port), other = client_open(h->port);

        host_await(h, FDX_EV_OPEN, 2);
        client_say(&one, deeds[i]);
        host_await(h, FDX_EV_MESSAGE, 1);
        if (deeds[i][0] == 's') {
            CLIENT_EXPECT_TEXT(&other, "hello, other");
        } else if (deeds[i][0] == 'c') {
            CLIENT_EXPECT_CLOSE(&other, 4000, "by the other");
            client_send_close(&other, 4000, "");
            CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_HOST);
        } else {
            seen closed = host_await(h, FDX_EV_CLOSE, 1);
            CHECK(closed.code == 1006 && closed.arg == FDX_CLOSED_BY_HOST && closed.len == 0);
            CLIENT_EXPECT_END(&other);
        }
        client_leave(&one);
        client_drop(&other);
        host_end(h);
    }
}

static void a_callback_may_act_on_another_connection(void)
{
    a_callback_may_act_on_another_connection_in("threads = 1\n");
}

static void a_callback_may_act_on_a_connection_of_another_thread(void)
{
    a_callback_may_act_on_another_connection_in("threads = 3\n");
}

/* -- order ---------------------------------------------------------------------------------------- */

static void echo(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_STATUS(FDX_OK, fdx_send(h->server, event->conn, event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT,
                                      event->data, event->len, 0));
}

static void what_comes_in_order_goes_out_in_order(void)
{
    host *h = host_start(NULL, ON_USUAL, echo, NULL);
    client c = client_open(h->port);
    char text[32];
    unsigned i, round;

    for (round = 0; round < 10; round++) {
        for (i = 0; i < 50; i++) {
            snprintf(text, sizeof text, "%u of %u", i, round);
            client_say(&c, text);
        }
        for (i = 0; i < 50; i++) {
            snprintf(text, sizeof text, "%u of %u", i, round);
            CLIENT_EXPECT_TEXT(&c, text);
        }
    }
    client_leave(&c);
    host_end(h);
}

static void an_event_carries_its_route_its_kind_and_its_time(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    seen open, text, binary;

    client_send(&c, OP_TEXT, "gr\xc3\xbc\xc3\x9f", 6);
    client_send(&c, OP_BINARY, "\0\xff", 2);
    open = host_await(h, FDX_EV_OPEN, 1);
    text = host_await(h, FDX_EV_MESSAGE, 1);
    binary = host_await(h, FDX_EV_MESSAGE, 2);
    CHECK(open.route == 7 && open.len == 0 && open.conn_data == NULL);
    CHECK(text.route == 7 && !(text.flags & FDX_EVF_BINARY) && text.len == 6 && strcmp(text.data, "gr\xc3\xbc\xc3\x9f") == 0);
    CHECK((binary.flags & FDX_EVF_BINARY) && binary.len == 2 && memcmp(binary.data, "\0\xff", 2) == 0);
    CHECK(open.conn == text.conn && text.conn == binary.conn);
    CHECK(open.time_us > 0 && open.time_us <= text.time_us && text.time_us <= binary.time_us);
    client_leave(&c);
    host_end(h);
}

static void slots_left_null_are_not_delivered_and_need_no_answer(void)
{
    unsigned slots;

    for (slots = 0; slots < ON_ALL; slots += 5) {   /* some mixtures without on_upgrade and some with */
        host *h = host_start(NULL, slots & ~ON_UPGRADE, NULL, NULL);
        client c = client_open(h->port);

        client_say(&c, "hello");
        client_send(&c, OP_PING, "?", 1);
        CLIENT_EXPECT(&c, OP_PONG, "?", 1);
        client_leave(&c);
        CHECK(slots & ON_OPEN || host_count(h, FDX_EV_OPEN) == 0);
        CHECK(slots & ON_MESSAGE || host_count(h, FDX_EV_MESSAGE) == 0);
        CHECK(slots & ON_OTHER || host_count(h, FDX_EV_PING) == 0);
        host_end_with(h, 0);
    }
}

static counter busy;

static void stay_for_a_while(host *h, const fdx_event *event)
{
    (void)h;
    if (event->type == FDX_EV_MESSAGE) {
        CHECK(__atomic_fetch_add(&busy.value, 1, __ATOMIC_SEQ_CST) == 0);
        sleep_ms(1);
        __atomic_fetch_sub(&busy.value, 1, __ATOMIC_SEQ_CST);
    }
}

static void with_one_thread_no_two_callbacks_run_at_once(void)
{
    host *h = host_start("threads = 1\n", ON_USUAL, stay_for_a_while, NULL);
    client clients[8];
    unsigned i, round;

    for (i = 0; i < 8; i++)
        clients[i] = client_open(h->port);
    for (round = 0; round < 10; round++)
        for (i = 0; i < 8; i++)
            client_say(&clients[i], "hello");
    host_await(h, FDX_EV_MESSAGE, 80);
    for (i = 0; i < 8; i++)
        client_leave(&clients[i]);
    host_end(h);
}

int main(void)
{
    PROVE(sending_is_possible_in_every_callback);
    PROVE(closing_is_possible_in_every_callback);
    PROVE(aborting_is_possible_in_every_callback);
    PROVE(pausing_and_resuming_is_possible_in_every_callback);
    PROVE(setting_its_data_is_possible_in_every_callback);
    PROVE(looking_around_is_possible_in_every_callback);
    PROVE(deciding_an_open_connection_is_an_error_in_every_callback);
    PROVE(waiting_for_the_server_in_its_own_callback_is_a_deadlock_that_is_refused);
    PROVE(another_server_may_be_started_and_waited_for_in_every_callback);
    PROVE(stopping_the_server_is_possible_in_every_callback);
    PROVE(letting_go_of_the_last_reference_is_possible_in_every_callback);
    PROVE(a_second_reference_may_come_and_go_in_every_callback);
    PROVE(a_drop_function_may_call_the_library);
    PROVE(a_callback_may_act_on_another_connection);
    PROVE(a_callback_may_act_on_a_connection_of_another_thread);
    PROVE(what_comes_in_order_goes_out_in_order);
    PROVE(an_event_carries_its_route_its_kind_and_its_time);
    PROVE(slots_left_null_are_not_delivered_and_need_no_answer);
    PROVE(with_one_thread_no_two_callbacks_run_at_once);
    return 0;
}
