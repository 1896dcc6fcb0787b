/* Exactly one CLOSE per OPEN and exactly one drop per thing given away, whatever happens between. */
#include "check.h"

/* -- churn ------------------------------------------------------------------------------------ */

#define CLIENT_THREADS 4

/* The server's side of the disorder: some messages close, some abort, some answer, some replace data. */
static void make_disorder(host *h, const fdx_event *event)
{
    counter *drops = (counter *)h->user;

    if (event->type == FDX_EV_OPEN) {
        CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, event->conn, drops, count_drop));
    } else if (event->type == FDX_EV_CLOSE) {
        CHECK(event->conn_data == drops);
    } else if (event->type == FDX_EV_MESSAGE && event->len > 0) {
        CHECK(event->conn_data == drops);
        switch (event->data[0] % 5) {
        case 0: fdx_close(h->server, event->conn, 1000, "bye", FDX_NTS); break;
        case 1: fdx_abort(h->server, event->conn); break;
        case 2: fdx_send(h->server, event->conn, FDX_BINARY, event->data, event->len, 0); break;
        case 3: fdx_pause(h->server, event->conn); fdx_resume(h->server, event->conn); break;
        default: fdx_send(h->server, event->conn, FDX_TEXT, "x", 1, 0); fdx_close(h->server, event->conn, 4000, "", 0);
        }
    }
}

struct churn { uint16_t port; unsigned rounds, seed; };

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

/* The peers' side: every way to come and go. */
static void *come_and_go(void *argument)
{
    struct churn *churn = (struct churn *)argument;
    unsigned i, seed = churn->seed;

    for (i = 0; i < churn->rounds; i++) {
        client c = client_dial(churn->port);
        unsigned way = next_random(&seed) % 8, messages = next_random(&seed) % 4;

        if (way == 0) {                         /* leaves in the middle of the request */
            client_write(&c, "GET / HTTP/1.1\r\nHost:", 21);
            client_drop(&c);
            continue;
        }
        if (way == 1) {                         /* does not wait for the answer */
            client_ask(&c, "/", NULL);
            client_reset(&c);
            continue;
        }
        client_ask(&c, "/", NULL);
        if (client_read_head(&c) != 101) {
            client_drop(&c);
            continue;
        }
        while (messages--) {
            char byte = (char)(next_random(&seed) % 125);
            if (!client_try_frame(&c, 0x80 | OP_BINARY, &byte, 1, 1))
                break;
        }
        switch (way) {
        case 2: client_reset(&c); break;
        case 3: client_drop(&c); break;
        case 4: client_try_frame(&c, 0x80 | OP_TEXT, "\xff", 1, 1); client_drop(&c); break;
        case 5: client_try_write(&c, "\x81\xfe\x01", 3); client_drop(&c); break;   /* half a frame's head */
        case 6: shutdown(c.fd, SHUT_WR); while (client_read(&c) != -1) continue; client_drop(&c); break;
        default:
            client_try_frame(&c, 0x80 | OP_CLOSE, "\x03\xe8", 2, 1);
            while (client_read(&c) != -1)
                continue;
            client_drop(&c);
        }
    }
    return NULL;
}

static void churn_with(const char *settings)
{
    counter drops = { 0 };
    host *h = host_start(settings, ON_USUAL, make_disorder, &drops);
    struct churn churns[CLIENT_THREADS];
    pthread_t threads[CLIENT_THREADS];
    size_t opens;
    unsigned i;

    for (i = 0; i < CLIENT_THREADS; i++) {
        churns[i].port = h->port;
        churns[i].rounds = times(250, 25);
        churns[i].seed = i + 1;
        CHECK(pthread_create(&threads[i], NULL, come_and_go, &churns[i]) == 0);
    }
    for (i = 0; i < CLIENT_THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_SOON(host_count(h, FDX_EV_OPEN) == host_count(h, FDX_EV_CLOSE));
    opens = host_count(h, FDX_EV_OPEN);
    CHECK(opens > CLIENT_THREADS * churns[0].rounds / 3);
    CHECK_SOON(counter_get(&drops) == opens);
    host_end(h);
    CHECK(counter_get(&drops) >= opens);
}

static void each_open_has_one_close_and_each_data_one_drop_whatever_peers_do(void)
{
    churn_with("timeout.close = 200ms\n");
}

static void the_same_holds_with_several_threads(void)
{
    churn_with("threads = 4\ntimeout.close = 200ms\n");
}

static void a_server_stopped_in_the_middle_of_it_keeps_the_promise(void)
{
    unsigned round;

    for (round = 0; round < times(10, 2); round++) {
        counter drops = { 0 };
        host *h = host_start(round % 2 ? "threads = 2\n" : "", ON_USUAL, make_disorder, &drops);
        client clients[20];
        unsigned i;
        size_t opens;

        for (i = 0; i < 20; i++) {
            clients[i] = client_dial(h->port);
            client_ask(&clients[i], "/", NULL);
            client_try_frame(&clients[i], 0x80 | OP_BINARY, "\x02", 1, 1);
        }
        CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, round * 20));
        CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
        opens = host_count(h, FDX_EV_OPEN);
        CHECK(host_count(h, FDX_EV_CLOSE) == opens);
        CHECK_SOON(counter_get(&drops) == opens);
        host_end(h);
        CHECK(counter_get(&drops) == opens);
        for (i = 0; i < 20; i++)
            client_drop(&clients[i]);
    }
}

/* -- drops ------------------------------------------------------------------------------------ */

static void a_connections_data_comes_with_its_events_and_is_dropped_when_replaced_and_when_closed(void)
{
    counter first = { 0 }, second = { 0 };
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &first, count_drop));
    client_say(&c, "one");
    CHECK(host_await(h, FDX_EV_MESSAGE, 1).conn_data == &first);
    CHECK(counter_get(&first) == 0);

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &second, count_drop));
    CHECK_SOON(counter_get(&first) == 1);
    client_say(&c, "two");
    CHECK(host_await(h, FDX_EV_MESSAGE, 2).conn_data == &second);
    CHECK(counter_get(&second) == 0);

    client_leave(&c);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).conn_data == &second);
    CHECK_SOON(counter_get(&second) == 1);
    host_end(h);
    CHECK(counter_get(&first) == 1 && counter_get(&second) == 1);
}

static void data_taken_back_is_dropped_and_is_no_longer_told(void)
{
    counter drops = { 0 };
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &drops, count_drop));
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, NULL, NULL));
    CHECK_SOON(counter_get(&drops) == 1);
    client_say(&c, "one");
    CHECK(host_await(h, FDX_EV_MESSAGE, 1).conn_data == NULL);
    client_leave(&c);
    host_end(h);
    CHECK(counter_get(&drops) == 1);
}

static void data_without_a_drop_function_is_the_hosts_own_affair(void)
{
    int mine = 0;
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, conn, &mine, NULL));
    client_leave(&c);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).conn_data == &mine);
    host_end(h);
}

static void data_of_open_connections_is_dropped_when_the_server_stops(void)
{
    counter drops = { 0 };
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, host_await(h, FDX_EV_OPEN, 1).conn, &drops, count_drop));
    host_end(h);
    CHECK(counter_get(&drops) == 1);
    client_drop(&c);
}

static counter close_then_drop;

static void drop_after_close(void *user_data)
{
    CHECK(host_count((host *)user_data, FDX_EV_CLOSE) == 1);
    counter_add(&close_then_drop);
}

static void data_is_dropped_after_the_close_callback_has_seen_it(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);

    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, host_await(h, FDX_EV_OPEN, 1).conn, h, drop_after_close));
    client_leave(&c);
    CHECK_SOON(counter_get(&close_then_drop) == 1);
    host_end(h);
}

static void handlers_are_dropped_once_each_when_both_configuration_and_server_are_gone(void)
{
    counter drops[3] = { { 0 }, { 0 }, { 0 } };
    static const char *const patterns[] = { "/a", "/b", "/c/" "*" };
    fdx_config *config = new_config(NULL);
    fdx_server *first = NULL, *second = NULL;
    fdx_error error = new_error();
    unsigned i;

    for (i = 0; i < 3; i++) {
        fdx_handlers handlers;
        memset(&handlers, 0, sizeof handlers);
        handlers.struct_size = sizeof handlers;
        handlers.user_data = &drops[i];
        handlers.drop = count_drop;
        CHECK_STATUS(FDX_OK, fdx_config_route(config, patterns[i], i, &handlers, &error));
    }
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &first, &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &second, &error));
    CHECK_STATUS(FDX_OK, fdx_server_start(first, &error));
    fdx_config_free(config);
    CHECK_STATUS(FDX_OK, fdx_server_stop(first, 1001, "", 0, 0, 100));
    CHECK_STATUS(FDX_OK, fdx_server_wait(first, 10000));
    fdx_server_unref(first);
    sleep_ms(20);
    for (i = 0; i < 3; i++)
        CHECK(counter_get(&drops[i]) == 0);   /* the second server, never started, still has them */
    fdx_server_unref(second);
    for (i = 0; i < 3; i++)
        CHECK_SOON(counter_get(&drops[i]) == 1);
}

static void handlers_of_a_configuration_that_no_server_used_are_dropped_with_it(void)
{
    counter drops = { 0 };
    fdx_config *config = new_config(NULL);
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.user_data = &drops;
    handlers.drop = count_drop;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    CHECK(counter_get(&drops) == 0);
    fdx_config_free(config);
    CHECK(counter_get(&drops) == 1);
}

static void ignore_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    (void)user_data, (void)level, (void)conn, (void)target, (void)text, (void)len;
}

static void a_logs_drop_is_called_once_when_it_is_replaced_or_taken_away(void)
{
    counter first = { 0 }, second = { 0 };

    fdx_set_log(5, ignore_log, &first, count_drop);
    CHECK(counter_get(&first) == 0);
    fdx_set_log(5, ignore_log, &second, count_drop);
    CHECK_SOON(counter_get(&first) == 1);
    CHECK(counter_get(&second) == 0);
    fdx_set_log(0, NULL, NULL, NULL);
    CHECK_SOON(counter_get(&second) == 1);
    fdx_set_log(0, NULL, NULL, NULL);
    CHECK(counter_get(&first) == 1 && counter_get(&second) == 1);
}

static void a_log_replaced_while_servers_write_to_it_is_dropped_after_its_last_line(void)
{
    unsigned i;
    counter drops = { 0 };

    for (i = 0; i < times(50, 5); i++) {
        host *h;
        client c;

        fdx_set_log(5, ignore_log, &drops, count_drop);
        h = host_start(NULL, ON_USUAL, NULL, NULL);
        c = client_open(h->port);
        fdx_set_log(0, NULL, NULL, NULL);
        client_drop(&c);
        host_end(h);
        CHECK_SOON(counter_get(&drops) == i + 1);
    }
}

static void a_message_lives_until_its_last_reference_is_gone(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;
    char bytes[] = "framed once";
    fdx_msg *message = fdx_msg_new(FDX_TEXT, bytes, strlen(bytes));

    memset(bytes, '#', sizeof bytes - 1);   /* it was copied */
    CHECK(fdx_msg_ref(message) == message);
    CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, &conn, 1, message, 0, NULL));
    fdx_msg_unref(message);
    CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, &conn, 1, message, 0, NULL));
    fdx_msg_unref(message);                  /* what is queued has its own references */
    CLIENT_EXPECT_TEXT(&c, "framed once");
    CLIENT_EXPECT_TEXT(&c, "framed once");
    client_leave(&c);
    host_end(h);
}

int main(void)
{
    PROVE(each_open_has_one_close_and_each_data_one_drop_whatever_peers_do);
    PROVE(the_same_holds_with_several_threads);
    PROVE(a_server_stopped_in_the_middle_of_it_keeps_the_promise);
    PROVE(a_connections_data_comes_with_its_events_and_is_dropped_when_replaced_and_when_closed);
    PROVE(data_taken_back_is_dropped_and_is_no_longer_told);
    PROVE(data_without_a_drop_function_is_the_hosts_own_affair);
    PROVE(data_of_open_connections_is_dropped_when_the_server_stops);
    PROVE(data_is_dropped_after_the_close_callback_has_seen_it);
    PROVE(handlers_are_dropped_once_each_when_both_configuration_and_server_are_gone);
    PROVE(handlers_of_a_configuration_that_no_server_used_are_dropped_with_it);
    PROVE(a_logs_drop_is_called_once_when_it_is_replaced_or_taken_away);
    PROVE(a_log_replaced_while_servers_write_to_it_is_dropped_after_its_last_line);
    PROVE(a_message_lives_until_its_last_reference_is_gone);
    return 0;
}
