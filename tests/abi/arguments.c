/* Wrong arguments, one at a time: each gives its status, harms nothing and is forgotten. */
#include "check.h"

/* A server with one open connection, for calls whose other arguments are right. */
static host *h;
static client peer;
static fdx_conn conn;

static void set_up(void)
{
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    peer = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
}

/* The connection must have survived what was tried. */
static void tear_down(void)
{
    client_say(&peer, "still here");
    CHECK(strcmp(host_await(h, FDX_EV_MESSAGE, 1).data, "still here") == 0);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "so am I", 7, 0));
    CLIENT_EXPECT_TEXT(&peer, "so am I");
    client_leave(&peer);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == 1000);
    host_end(h);
}

/* -- NULL ------------------------------------------------------------------------------ */

static void freeing_null_is_harmless(void)
{
    fdx_config_free(NULL);
    fdx_server_unref(NULL);
    fdx_msg_unref(NULL);
    CHECK(fdx_server_ref(NULL) == NULL);
    CHECK(fdx_msg_ref(NULL) == NULL);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void null_for_a_configuration_its_key_or_its_value_is_an_invalid_argument(void)
{
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers;
    fdx_error error = new_error();
    char buf[64];
    size_t needed = 0;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_set(NULL, "threads", "1", &error));
    CHECK(error.status == FDX_E_INVALID_ARG && error.message[0] != '\0');
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_set(config, NULL, "1", &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_set(config, "threads", NULL, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_get(NULL, "threads", buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_get(config, NULL, buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_get(config, "threads", NULL, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_load(NULL, "threads = 1", FDX_NTS, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_load(config, NULL, FDX_NTS, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_load(config, NULL, 11, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(NULL, "/", 0, &handlers, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, NULL, 0, &handlers, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, NULL, &error));
    fdx_config_free(config);
}

static void null_for_the_error_details_only_leaves_them_out(void)
{
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "listen", "127.0.0.1:0", NULL));
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "no.such.key", "1", NULL));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_load(config, "no.such.key = 1", FDX_NTS, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, NULL, 0, NULL, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_new(NULL, &server, NULL));
    CHECK(server == NULL);
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, NULL, 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 10000));
    fdx_server_unref(server);
    fdx_config_free(config);
}

static void null_for_a_server_is_an_invalid_argument_everywhere(void)
{
    fdx_server *server = NULL;
    fdx_config *config = new_config(NULL);
    fdx_error error = new_error();
    fdx_conn_info info = new_conn_info();
    fdx_stats stats = new_stats();
    fdx_conn conns[4], one = 1;
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    fdx_status result;
    uint16_t port;
    char buf[64];
    size_t needed;

    CHECK(message != NULL);
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_new(NULL, &server, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_new(config, NULL, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_start(NULL, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_stop(NULL, 1001, "bye", FDX_NTS, 0, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_wait(NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_set(NULL, "max.message", "1k", &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listen(NULL, "127.0.0.1:0", NULL, &port, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_unlisten(NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listener_fd(NULL, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listener_port(NULL, 0, &port));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(NULL, 1, NULL, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(NULL, 1, 403, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_request_get(NULL, 1, ":path", buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_request_headers(NULL, 1, buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(NULL, 1, 200, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(NULL, 1, FDX_TEXT, "hello", 5, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(NULL, &one, 1, message, 0, &result));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(NULL, 1, 1000, "bye", FDX_NTS));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_abort(NULL, 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_pause(NULL, 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_resume(NULL, 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_ping(NULL, 1, "?", 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conn_set_data(NULL, 1, NULL, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conn_get_info(NULL, 1, &info));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conns(NULL, 0, conns, 4, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_get_stats(NULL, &stats));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_metrics_text(NULL, buf, sizeof buf, &needed));
    fdx_msg_unref(message);
    fdx_config_free(config);
}

static void null_for_a_buffer_with_a_length_is_an_invalid_argument(void)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    fdx_status result;
    size_t needed;

    set_up();
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, conn, FDX_TEXT, NULL, 5, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(h->server, NULL, 1, message, 0, &result));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(h->server, &conn, 1, NULL, 0, &result));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, conn, 1000, NULL, 3));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_ping(h->server, conn, NULL, 1));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conn_get_info(h->server, conn, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conns(h->server, 7, NULL, 4, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_get_stats(h->server, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listener_port(h->server, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_stop(h->server, 1001, NULL, 3, 0, 0));
    CHECK(fdx_msg_new(FDX_TEXT, NULL, 5) == NULL);
    fdx_msg_unref(message);
    tear_down();
}

static void null_without_a_length_is_an_empty_message(void)
{
    fdx_msg *empty = fdx_msg_new(FDX_BINARY, NULL, 0);

    CHECK(empty != NULL);
    set_up();
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, NULL, 0, 0));
    CLIENT_EXPECT(&peer, OP_TEXT, "", 0);
    CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, &conn, 1, empty, 0, NULL));
    CLIENT_EXPECT(&peer, OP_BINARY, "", 0);
    CHECK_STATUS(FDX_OK, fdx_ping(h->server, conn, NULL, 0));
    CLIENT_EXPECT(&peer, OP_PING, "", 0);
    CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, NULL, 0, empty, 0, NULL));   /* to nobody */
    fdx_msg_unref(empty);
    tear_down();
}

static void try_nulls_while_deciding(host *deciding, const fdx_event *event)
{
    char buf[64];
    size_t needed;

    if (event->type != FDX_EV_UPGRADE)
        return;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_request_get(deciding->server, event->conn, NULL, buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_request_get(deciding->server, event->conn, ":path", NULL, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_request_headers(deciding->server, event->conn, NULL, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(deciding->server, event->conn, NULL, NULL, 9));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(deciding->server, event->conn, 403, NULL, 9, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(deciding->server, event->conn, 403, NULL, 0, NULL, 9));
    CHECK_STATUS(FDX_OK, fdx_accept(deciding->server, event->conn, NULL, NULL, 0));
}

static void null_while_deciding_is_an_invalid_argument_and_the_decision_stays_open(void)
{
    host *deciding = host_start(NULL, ON_ALL, try_nulls_while_deciding, NULL);
    client c = client_dial(deciding->port);

    CHECK(client_upgrade(&c, "/", NULL) == 101);
    host_await(deciding, FDX_EV_OPEN, 1);
    client_leave(&c);
    host_end(deciding);
}

/* -- connections that are none ------------------------------------------------------------ */

static void every_call_says_no_conn(fdx_server *server, fdx_conn none)
{
    fdx_conn_info info = new_conn_info();
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    fdx_status result = FDX_OK;
    counter drops = { 0 };
    char buf[64];
    size_t needed;

    CHECK_STATUS(FDX_E_NO_CONN, fdx_send(server, none, FDX_TEXT, "hello", 5, 0));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_send_msg(server, &none, 1, message, 0, &result));
    CHECK(result == FDX_E_NO_CONN);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_close(server, none, 1000, "bye", FDX_NTS));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_abort(server, none));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_pause(server, none));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_resume(server, none));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_ping(server, none, "?", 1));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_conn_set_data(server, none, &drops, NULL));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_conn_get_info(server, none, &info));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_accept(server, none, NULL, NULL, 0));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_reject(server, none, 403, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_request_get(server, none, ":path", buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_request_headers(server, none, buf, sizeof buf, &needed));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_http_reply(server, none, 200, NULL, 0, NULL, 0));
    fdx_msg_unref(message);
}

static void an_unknown_connection_is_an_error_of_every_call(void)
{
    set_up();
    every_call_says_no_conn(h->server, 0);
    every_call_says_no_conn(h->server, UINT64_MAX);
    every_call_says_no_conn(h->server, (uint64_t)1 << 53);
    every_call_says_no_conn(h->server, ((uint64_t)1 << 53) - 1);
    tear_down();
}

static void an_id_that_differs_in_one_bit_is_another_connection(void)
{
    int bit;

    set_up();
    for (bit = 0; bit < 64; bit++)
        CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, conn ^ (uint64_t)1 << bit, FDX_TEXT, "hello", 5, 0));
    tear_down();
}

static void random_ids_are_no_connections(void)
{
    uint64_t random = 88172645463325252u;   /* xorshift64 */
    unsigned i;

    set_up();
    for (i = 0; i < times(200000, 5000); i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if (random >> (i % 40) != conn)
            CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, random >> (i % 40), FDX_TEXT, "hello", 5, 0));
    }
    tear_down();
}

static void a_closed_connection_is_an_error_of_every_call(void)
{
    fdx_conn_info info;
    fdx_conn closed;
    client c;

    set_up();
    c = client_open(h->port);
    closed = host_await(h, FDX_EV_OPEN, 2).conn;
    CHECK(closed != conn);
    client_leave(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    /* CLOSE is recorded inside its callback, in which some calls still work. */
    info = new_conn_info();
    CHECK_SOON(fdx_conn_get_info(h->server, closed, &info) == FDX_E_NO_CONN);
    every_call_says_no_conn(h->server, closed);

    client_leave(&peer);
    host_await(h, FDX_EV_CLOSE, 2);
    host_end(h);
}

static void a_stale_id_never_means_the_connection_that_took_its_place(void)
{
    fdx_conn past[64];
    unsigned i, j;

    set_up();
    for (i = 0; i < 64; i++) {
        client c = client_open(h->port);
        past[i] = host_await(h, FDX_EV_OPEN, i + 2).conn;
        for (j = 0; j < i; j++) {
            CHECK(past[j] != past[i]);
            CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, past[j], FDX_TEXT, "not for you", 11, 0));
        }
        CHECK_STATUS(FDX_OK, fdx_send(h->server, past[i], FDX_TEXT, "for you", 7, 0));
        CLIENT_EXPECT_TEXT(&c, "for you");
        client_leave(&c);
        host_await(h, FDX_EV_CLOSE, i + 1);
    }
    client_leave(&peer);
    host_end(h);
}

static void a_connection_of_another_server_is_no_connection_of_this_one(void)
{
    host *other = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(other->port);
    fdx_conn foreign = host_await(other, FDX_EV_OPEN, 1).conn;

    set_up();
    CHECK(foreign != conn);
    every_call_says_no_conn(h->server, foreign);
    every_call_says_no_conn(other->server, conn);
    client_leave(&c);
    host_end(other);
    tear_down();
}

static void sending_to_many_gives_each_its_own_status_and_returns_the_worst(void)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "to all", 6);
    fdx_status results[4] = { 99, 99, 99, 99 };
    fdx_conn conns[4];
    client c;

    set_up();
    c = client_open(h->port);
    conns[0] = conn;
    conns[1] = 0;
    conns[2] = host_await(h, FDX_EV_OPEN, 2).conn;
    conns[3] = UINT64_MAX;
    CHECK_STATUS(FDX_E_NO_CONN, fdx_send_msg(h->server, conns, 4, message, 0, results));
    CHECK(results[0] == FDX_OK && results[1] == FDX_E_NO_CONN && results[2] == FDX_OK && results[3] == FDX_E_NO_CONN);
    CLIENT_EXPECT_TEXT(&peer, "to all");
    CLIENT_EXPECT_TEXT(&c, "to all");
    fdx_msg_unref(fdx_msg_ref(message));
    CHECK_STATUS(FDX_OK, fdx_send_msg(h->server, conns, 1, message, 0, NULL));
    fdx_msg_unref(message);
    CLIENT_EXPECT_TEXT(&peer, "to all");
    client_leave(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    client_leave(&peer);
    host_end(h);
}

/* -- values out of range ------------------------------------------------------------------- */

static void an_unknown_kind_or_flag_is_an_invalid_argument(void)
{
    static const uint32_t kinds[] = { 0, 3, 4, 8, 255, 0x80000001u, UINT32_MAX };
    static const uint32_t flags[] = { 0x40, 0x80, 0x100, 0x80000000u, UINT32_MAX };
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    size_t i;

    set_up();
    for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, conn, kinds[i], "hello", 5, 0));
        CHECK(fdx_msg_new(kinds[i], "hello", 5) == NULL);
    }
    for (i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, conn, FDX_TEXT, "hello", 5, flags[i]));
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(h->server, &conn, 1, message, flags[i], NULL));
    }
    fdx_msg_unref(message);
    tear_down();
}

static void unknown_route_flags_are_an_invalid_argument(void)
{
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers;
    fdx_error error = new_error();

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.flags = 0x80000000u;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, &handlers, &error));
    CHECK(error.status == FDX_E_INVALID_ARG && error.message[0] != '\0');
    fdx_config_free(config);
}

static void close_codes_that_may_not_be_sent_are_an_invalid_argument(void)
{
    static const uint16_t codes[] = { 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535 };
    size_t i;

    set_up();
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, conn, codes[i], "bye", FDX_NTS));
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_stop(h->server, codes[i], "bye", FDX_NTS, 0, 0));
    }
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, conn, 0, "a reason needs a code", FDX_NTS));
    tear_down();
}

static void a_reason_of_more_than_123_bytes_is_too_big(void)
{
    char reason[125];

    set_up();
    memset(reason, 'x', sizeof reason);
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, conn, 1000, reason, 124));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_server_stop(h->server, 1001, reason, 124, 0, 0));
    reason[124] = '\0';
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, conn, 1000, reason, FDX_NTS));
    tear_down();

    set_up();
    reason[123] = '\0';
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, reason, 123));
    CLIENT_EXPECT_CLOSE(&peer, 1000, reason);
    client_drop(&peer);
    host_end(h);
}

static void text_that_is_no_utf8_is_refused(void)
{
    static const char *const bad[] = { "\xff", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82" };
    size_t i;

    set_up();
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(FDX_E_UTF8, fdx_send(h->server, conn, FDX_TEXT, bad[i], strlen(bad[i]), 0));
        CHECK(fdx_msg_new(FDX_TEXT, bad[i], strlen(bad[i])) == NULL);
        CHECK_STATUS(FDX_E_UTF8, fdx_close(h->server, conn, 1000, bad[i], FDX_NTS));
        CHECK_STATUS(FDX_E_UTF8, fdx_server_stop(h->server, 1001, bad[i], FDX_NTS, 0, 0));
        CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_BINARY, bad[i], strlen(bad[i]), 0));
        CLIENT_EXPECT(&peer, OP_BINARY, bad[i], strlen(bad[i]));
    }
    tear_down();
}

static void a_ping_of_more_than_125_bytes_is_too_big(void)
{
    char data[126];

    set_up();
    memset(data, 'p', sizeof data);
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_ping(h->server, conn, data, 126));
    CHECK_STATUS(FDX_OK, fdx_ping(h->server, conn, data, 125));
    CLIENT_EXPECT(&peer, OP_PING, data, 125);
    tear_down();
}

static void a_listener_that_is_not_there_has_no_port(void)
{
    uint16_t port = 77;

    set_up();
    CHECK_ANY2(FDX_E_NOT_FOUND, FDX_E_INVALID_ARG, fdx_listener_port(h->server, 1, &port));
    CHECK_ANY2(FDX_E_NOT_FOUND, FDX_E_INVALID_ARG, fdx_listener_port(h->server, UINT32_MAX, &port));
    tear_down();
}

static void the_list_of_connections_tells_how_much_room_it_needs(void)
{
    fdx_conn conns[4] = { 0, 0, 0, 0 };
    size_t needed = 99;
    client c;

    set_up();
    c = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 2);
    CHECK_STATUS(FDX_E_BUFFER, fdx_conns(h->server, 7, NULL, 0, &needed));
    CHECK(needed == 2);
    conns[1] = 5;
    CHECK_STATUS(FDX_E_BUFFER, fdx_conns(h->server, 7, conns, 1, &needed));
    CHECK(needed == 2 && conns[1] == 5);
    CHECK_STATUS(FDX_OK, fdx_conns(h->server, 7, conns, 4, &needed));
    CHECK(needed == 2 && conns[0] != conns[1] && (conns[0] == conn || conns[1] == conn) && conns[2] == 0);
    CHECK_STATUS(FDX_OK, fdx_conns(h->server, 8, NULL, 0, &needed));   /* a route without connections */
    CHECK(needed == 0);
    client_leave(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK_SOON(fdx_conns(h->server, 7, conns, 4, &needed) == FDX_OK && needed == 1);
    CHECK(conns[0] == conn);
    client_leave(&peer);
    host_end(h);
}

int main(void)
{
    PROVE(freeing_null_is_harmless);
    PROVE(null_for_a_configuration_its_key_or_its_value_is_an_invalid_argument);
    PROVE(null_for_the_error_details_only_leaves_them_out);
    PROVE(null_for_a_server_is_an_invalid_argument_everywhere);
    PROVE(null_for_a_buffer_with_a_length_is_an_invalid_argument);
    PROVE(null_without_a_length_is_an_empty_message);
    PROVE(null_while_deciding_is_an_invalid_argument_and_the_decision_stays_open);
    PROVE(an_unknown_connection_is_an_error_of_every_call);
    PROVE(an_id_that_differs_in_one_bit_is_another_connection);
    PROVE(random_ids_are_no_connections);
    PROVE(a_closed_connection_is_an_error_of_every_call);
    PROVE(a_stale_id_never_means_the_connection_that_took_its_place);
    PROVE(a_connection_of_another_server_is_no_connection_of_this_one);
    PROVE(sending_to_many_gives_each_its_own_status_and_returns_the_worst);
    PROVE(an_unknown_kind_or_flag_is_an_invalid_argument);
    PROVE(unknown_route_flags_are_an_invalid_argument);
    PROVE(close_codes_that_may_not_be_sent_are_an_invalid_argument);
    PROVE(a_reason_of_more_than_123_bytes_is_too_big);
    PROVE(text_that_is_no_utf8_is_refused);
    PROVE(a_ping_of_more_than_125_bytes_is_too_big);
    PROVE(a_listener_that_is_not_there_has_no_port);
    PROVE(the_list_of_connections_tells_how_much_room_it_needs);
    return 0;
}
