/* Deciding about an upgrade: now or later, on this thread or another, or never. */
#include "check.h"

/* One client whose request waits for the decision. */
static host *h;
static client c;
static fdx_conn conn;

static void set_up_with(const char *settings, const char *target, const char *headers)
{
    h = host_start(settings, ON_ALL, NULL, NULL);
    c = client_dial(h->port);
    client_ask(&c, target, headers);
    conn = host_await(h, FDX_EV_UPGRADE, 1).conn;
}

static void set_up(void)
{
    set_up_with(NULL, "/", NULL);
}

static void let_in(void)
{
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK(client_read_head(&c) == 101);
    CHECK(host_await(h, FDX_EV_OPEN, 1).conn == conn);
}

static void leave(void)
{
    client_leave(&c);
    host_end(h);
}

/* Has the head a line that is exactly this one? */
static int has_line(const client *client_, const char *line)
{
    const char *at = client_->head;

    while ((at = strstr(at, line)) != NULL) {
        if (at[-1] == '\n' && memcmp(at + strlen(line), "\r\n", 2) == 0)
            return 1;
        at++;
    }
    return 0;
}

/* -- later ------------------------------------------------------------------------------------ */

static void a_decision_may_come_later_from_another_thread(void)
{
    set_up();                               /* we are the other thread */
    CHECK(client_hears_nothing(&c, 50));
    CHECK(host_count(h, FDX_EV_OPEN) == 0);
    let_in();
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "welcome", 7, 0));
    CLIENT_EXPECT_TEXT(&c, "welcome");
    leave();
}

static void what_the_client_sends_before_the_decision_is_delivered_after_the_opening(void)
{
    set_up();
    client_say(&c, "cannot wait");
    sleep_ms(50);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    let_in();
    CHECK(strcmp(host_await(h, FDX_EV_MESSAGE, 1).data, "cannot wait") == 0);
    leave();
}

static void other_connections_go_on_while_one_is_undecided(void)
{
    client other;

    set_up();
    other = client_dial(h->port);
    client_ask(&other, "/", NULL);
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, host_await(h, FDX_EV_UPGRADE, 2).conn, NULL, NULL, 0));
    CHECK(client_read_head(&other) == 101);
    client_leave(&other);
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK(client_read_head(&c) == 101);
    leave();
}

static void an_accept_may_choose_a_subprotocol_and_add_headers(void)
{
    fdx_conn_info info = new_conn_info();

    set_up_with(NULL, "/", "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n");
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, "chat.v2", "X-One: 1\r\nSet-Cookie: a=b; Path=/\r\n", FDX_NTS));
    CHECK(client_read_head(&c) == 101);
    CHECK(has_line(&c, "Sec-WebSocket-Protocol: chat.v2") && has_line(&c, "X-One: 1") && has_line(&c, "Set-Cookie: a=b; Path=/"));
    CHECK(strcmp(host_await(h, FDX_EV_OPEN, 1).data, "chat.v2") == 0);   /* data = negotiated subprotocol */
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    CHECK(strcmp(info.subprotocol, "chat.v2") == 0);
    leave();
}

static void an_accept_without_a_subprotocol_names_none(void)
{
    set_up_with(NULL, "/", "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n");
    let_in();
    CHECK(!strstr(c.head, "Sec-WebSocket-Protocol"));
    CHECK(host_await(h, FDX_EV_OPEN, 1).len == 0);
    leave();
}

static void a_rejection_has_its_status_its_headers_and_its_body(void)
{
    static const char body[] = "A token is needed.\n";

    set_up();
    CHECK_STATUS(FDX_OK, fdx_reject(h->server, conn, 401, "WWW-Authenticate: Bearer\r\nContent-Type: text/plain\r\n", FDX_NTS,
                                    body, strlen(body)));
    CHECK(client_read_head(&c) == 401);
    CHECK(has_line(&c, "WWW-Authenticate: Bearer") && has_line(&c, "Content-Type: text/plain"));
    client_read_body(&c);
    CHECK(strcmp((const char *)c.payload, body) == 0);
    CLIENT_EXPECT_END(&c);
    client_drop(&c);
    CHECK(host_count(h, FDX_EV_OPEN) == 0 && host_count(h, FDX_EV_CLOSE) == 0);
    host_end(h);
}

static void a_rejection_without_headers_and_body_is_complete(void)
{
    set_up();
    CHECK_STATUS(FDX_OK, fdx_reject(h->server, conn, 503, NULL, 0, NULL, 0));
    CHECK(client_read_head(&c) == 503);
    client_read_body(&c);
    CHECK(c.payload_len == 0);
    CLIENT_EXPECT_END(&c);
    client_drop(&c);
    host_end(h);
}

static void an_undecided_request_is_refused_after_timeout_handshake(void)
{
    int64_t begun = now_ms();
    int status;

    set_up_with("timeout.handshake = 200ms\n", "/", NULL);
    status = client_read_head(&c);
    CHECK(status == 0 || status >= 400);    /* an answer or the end, but no opening */
    CHECK(now_ms() - begun >= 150);
    CHECK(now_ms() - begun < 3000 || runs_slowly());
    CHECK_SOON(fdx_accept(h->server, conn, NULL, NULL, 0) == FDX_E_NO_CONN);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_reject(h->server, conn, 403, NULL, 0, NULL, 0));
    client_drop(&c);
    CHECK(host_count(h, FDX_EV_OPEN) == 0 && host_count(h, FDX_EV_CLOSE) == 0);
    host_end(h);
}

static void a_client_that_leaves_undecided_is_forgotten(void)
{
    set_up();
    client_reset(&c);
    sleep_ms(50);
    /* Its leaving may not have been read while its bytes wait: then it opens and closes. */
    CHECK_ANY2(FDX_OK, FDX_E_NO_CONN, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK_SOON(fdx_accept(h->server, conn, NULL, NULL, 0) == FDX_E_NO_CONN);
    CHECK_SOON(host_count(h, FDX_EV_OPEN) == host_count(h, FDX_EV_CLOSE));
    host_end(h);
}

static void a_decision_is_made_once(void)
{
    set_up();
    let_in();
    CHECK_ANY3(FDX_E_STATE, FDX_ALREADY, FDX_E_NO_CONN, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK_ANY2(FDX_E_STATE, FDX_E_NO_CONN, fdx_reject(h->server, conn, 403, NULL, 0, NULL, 0));
    leave();

    set_up();
    CHECK_STATUS(FDX_OK, fdx_reject(h->server, conn, 403, NULL, 0, NULL, 0));
    CHECK_ANY2(FDX_E_STATE, FDX_E_NO_CONN, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK_ANY3(FDX_E_STATE, FDX_ALREADY, FDX_E_NO_CONN, fdx_reject(h->server, conn, 403, NULL, 0, NULL, 0));
    CHECK(client_read_head(&c) == 403);
    client_drop(&c);
    host_end(h);
}

static void an_undecided_connection_cannot_be_sent_to(void)
{
    set_up();
    CHECK_ANY2(FDX_E_STATE, FDX_E_NO_CONN, fdx_send(h->server, conn, FDX_TEXT, "early", 5, 0));
    CHECK_ANY2(FDX_E_STATE, FDX_E_NO_CONN, fdx_ping(h->server, conn, "?", 1));
    let_in();
    leave();
}

/* -- injection ------------------------------------------------------------------------------------ */

static const char *const bad_headers[] = {
    "X-One: 1\r\n\r\nHTTP/1.1 200 OK\r\n",      /* an empty line ends the head */
    "\r\nX-One: 1\r\n",
    "X-One: 1\r\n\r\n",
    "X-One: 1\nX-Two: 2\r\n",                   /* a bare LF */
    "X-One: 1\rX-Two: 2\r\n",                   /* a bare CR */
    "X-One: 1\r\r\n",
    "no colon\r\n",
    ": no name\r\n",
    "X One: a blank in the name\r\n",
    "X-One : a blank before the colon\r\n",
    " X-One: a blank before the name\r\n",
    "X-One: 1\r\n folded\r\n",
    "X-One: \x01\r\n",
    "X-One: \x7f\r\n",
    "X-\xc3\xa4: not ASCII in the name\r\n",
    "X-One: 1\r\nX-Two: 2",                     /* the last line has no end */
};

static void headers_that_would_smuggle_something_in_are_refused_and_the_decision_stays_open(void)
{
    size_t i;

    set_up();
    for (i = 0; i < sizeof bad_headers / sizeof bad_headers[0]; i++) {
        fdx_status accepted = CALL(fdx_accept(h->server, conn, NULL, bad_headers[i], FDX_NTS));
        fdx_status rejected = CALL(fdx_reject(h->server, conn, 403, bad_headers[i], FDX_NTS, NULL, 0));
        if (accepted != FDX_E_INVALID_ARG || rejected != FDX_E_INVALID_ARG)
            fprintf(stderr, "header lines number %u should be refused\n", (unsigned)i);
        CHECK(accepted == FDX_E_INVALID_ARG && rejected == FDX_E_INVALID_ARG);
    }
    CHECK_STATUS(FDX_E_UTF8, fdx_accept(h->server, conn, NULL, "X-One: \xff\r\n", FDX_NTS));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, conn, NULL, "X-One: a\0b\r\n", 12));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(h->server, conn, 403, "X-One: a\0b\r\n", 12, NULL, 0));
    let_in();
    CHECK(!strstr(c.head, "X-One"));
    leave();
}

static void headers_over_64_kib_are_too_big_and_the_decision_stays_open(void)
{
    static char headers[64 * 1024 + 1];
    size_t len = sizeof headers;

    memset(headers, 'x', len);
    memcpy(headers, "X-One: ", 7);
    memcpy(headers + len - 2, "\r\n", 2);
    set_up();
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_accept(h->server, conn, NULL, headers, len));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_reject(h->server, conn, 403, headers, len, NULL, 0));
    /* Some is not too much. */
    memcpy(headers + 1000, "\r\n", 2);
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, NULL, headers, 1002));
    CHECK(client_read_head(&c) == 101);
    CHECK(strstr(c.head, "X-One: xxx"));
    CHECK(host_await(h, FDX_EV_OPEN, 1).conn == conn);
    leave();
}

static void a_subprotocol_that_is_no_token_is_refused_and_the_decision_stays_open(void)
{
    static const char *const bad[] = { "a b", "a,b", "a\r\nX-One: 1", "a\n", "\xc3\xa4", "a;b", "\x7f" };
    size_t i;

    set_up_with(NULL, "/", "Sec-WebSocket-Protocol: a\r\n");
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, conn, bad[i], NULL, 0));
    let_in();
    leave();
}

static void a_rejection_with_a_status_that_is_none_is_refused_and_the_decision_stays_open(void)
{
    static const uint16_t bad[] = { 0, 1, 99, 100, 101, 199, 1000, 65535 };
    size_t i;

    set_up();
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(h->server, conn, bad[i], NULL, 0, NULL, 0));
    let_in();
    leave();
}

/* -- the request ------------------------------------------------------------------------------------ */

static void check_request_value(const char *name, const char *expected)
{
    char value[256];
    size_t needed = 0;
    fdx_status status = CALL(fdx_request_get(h->server, conn, name, value, sizeof value, &needed));

    if (status != FDX_OK || strcmp(value, expected) != 0)
        fprintf(stderr, "%s should be \"%s\" but is %s \"%s\"\n", name, expected, fdx_status_name(status),
                status == FDX_OK ? value : "");
    CHECK(status == FDX_OK && strcmp(value, expected) == 0 && needed == strlen(expected) + 1);
}

static void a_request_tells_its_method_path_query_cookies_and_headers(void)
{
    char value[16];
    size_t needed = 0;

    set_up_with(NULL, "/a/b?token=letmein&empty=&x=1", "Cookie: session=abc; theme=dark\r\nX-Custom:   some value  \r\n");
    check_request_value(":method", "GET");
    check_request_value(":path", "/a/b");
    check_request_value(":query", "token=letmein&empty=&x=1");
    check_request_value(":version", "HTTP/1.1");
    check_request_value("?token", "letmein");
    check_request_value("?empty", "");
    check_request_value("?x", "1");
    check_request_value(";session", "abc");
    check_request_value(";theme", "dark");
    check_request_value("Host", "127.0.0.1");
    check_request_value("x-custom", "some value");
    check_request_value("X-CUSTOM", "some value");
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_request_get(h->server, conn, "?none", value, sizeof value, &needed));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_request_get(h->server, conn, ";none", value, sizeof value, &needed));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_request_get(h->server, conn, "/none", value, sizeof value, &needed));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_request_get(h->server, conn, "X-None", value, sizeof value, &needed));
    CHECK(CALL(fdx_request_get(h->server, conn, ":none", value, sizeof value, &needed)) < 0);
    CHECK(CALL(fdx_request_get(h->server, conn, "", value, sizeof value, &needed)) < 0);
    let_in();
    leave();
}

static void a_value_with_an_encoded_nul_does_not_pass_for_the_part_before_it(void)
{
    char value[16] = "";
    size_t needed = 0;
    fdx_status status;

    set_up_with(NULL, "/?token=letmein%00x", NULL);
    status = CALL(fdx_request_get(h->server, conn, "?token", value, sizeof value, &needed));
    CHECK(status != FDX_OK || needed != strlen(value) + 1 || strcmp(value, "letmein") != 0);
    let_in();
    leave();
}

static void a_small_buffer_for_a_request_value_gets_nothing_past_its_end(void)
{
    char buf[16];
    size_t cap, i, needed;

    set_up_with(NULL, "/?token=letmein", NULL);
    for (cap = 0; cap < 8; cap++) {
        memset(buf, 0x5a, sizeof buf);
        needed = 0;
        CHECK_STATUS(FDX_E_BUFFER, fdx_request_get(h->server, conn, "?token", cap ? buf : NULL, cap, &needed));
        CHECK(needed == 8);
        for (i = cap; i < sizeof buf; i++)
            CHECK(buf[i] == 0x5a);
    }
    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, conn, "?token", buf, 8, &needed));
    CHECK(strcmp(buf, "letmein") == 0 && buf[8] == 0x5a);
    let_in();
    leave();
}

static void all_headers_of_a_request_can_be_read(void)
{
    char headers[1024];
    size_t needed = 0, room;

    set_up_with(NULL, "/", "X-One: 1\r\nX-Two: 2\r\n");
    CHECK_STATUS(FDX_E_BUFFER, fdx_request_headers(h->server, conn, NULL, 0, &needed));
    CHECK(needed > 0 && needed <= sizeof headers);
    room = needed;
    CHECK_STATUS(FDX_E_BUFFER, fdx_request_headers(h->server, conn, headers, room - 1, &needed));
    CHECK_STATUS(FDX_OK, fdx_request_headers(h->server, conn, headers, room, &needed));
    CHECK(strlen(headers) + 1 == room);
    CHECK(strstr(headers, "X-One: 1") && strstr(headers, "X-Two: 2") && strstr(headers, "Host: 127.0.0.1"));
    let_in();
    leave();
}

static void read_the_request(host *host_, const fdx_event *event)
{
    char value[32];
    size_t needed = 0;

    if (event->type == FDX_EV_OPEN) {
        CHECK_STATUS(FDX_OK, fdx_request_get(host_->server, event->conn, "?token", value, sizeof value, &needed));
        CHECK(strcmp(value, "letmein") == 0);
    } else if (event->type == FDX_EV_MESSAGE) {
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE,
                   fdx_request_get(host_->server, event->conn, "?token", value, sizeof value, &needed));
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_request_headers(host_->server, event->conn, value, sizeof value, &needed));
    }
}

static void a_request_can_be_read_until_the_open_callback_has_returned(unsigned slots)
{
    host *host_ = host_start(NULL, slots, read_the_request, NULL);
    client client_ = client_dial(host_->port);

    client_ask(&client_, "/?token=letmein", NULL);
    if (slots & ON_UPGRADE)
        CHECK_STATUS(FDX_OK, fdx_accept(host_->server, host_await(host_, FDX_EV_UPGRADE, 1).conn, NULL, NULL, 0));
    CHECK(client_read_head(&client_) == 101);
    client_say(&client_, "hello");
    host_await(host_, FDX_EV_MESSAGE, 1);
    client_leave(&client_);
    host_end(host_);
}

static void a_request_can_be_read_until_the_open_callback_has_returned_with_and_without_on_upgrade(void)
{
    a_request_can_be_read_until_the_open_callback_has_returned(ON_ALL);
    a_request_can_be_read_until_the_open_callback_has_returned(ON_USUAL);
}

/* -- routes -------------------------------------------------------------------------------------------- */

static void the_most_specific_route_wins_and_its_parameters_can_be_read(void)
{
    static const struct { const char *target; uint32_t route; } expected[] = {
        { "/chat", 1 }, { "/chat?x=1", 1 }, { "/room/42", 2 }, { "/files/", 3 }, { "/files/a/b.txt", 3 },
        { "/room/lobby", 4 }, { "/room/42/more", 5 }, { "/files", 6 },
    };
    static const char *const patterns[] = {
        "", "/chat", "/room/:id", "/files/" "*", "/room/lobby", "/room/:id/" "*", "/files",
    };
    fdx_config *config = new_config(NULL);
    fdx_error error = new_error();
    fdx_handlers handlers;
    fdx_server *server = NULL;
    unsigned i;

    h = host_new(NULL, NULL);
    for (i = 1; i <= 6; i++) {
        handlers = host_handlers(h, ON_ALL);
        handlers.drop = i == 1 ? host_dropped : NULL;
        CHECK_STATUS(FDX_OK, fdx_config_route(config, patterns[i], i, &handlers, &error));
    }
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    for (i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        seen upgrade;
        c = client_dial(h->port);
        client_ask(&c, expected[i].target, NULL);
        upgrade = host_await(h, FDX_EV_UPGRADE, i + 1);
        conn = upgrade.conn;
        CHECK(upgrade.route == expected[i].route);
        if (upgrade.route == 2)
            check_request_value("/id", "42");
        CHECK_STATUS(FDX_OK, fdx_accept(server, conn, NULL, NULL, 0));
        CHECK(client_read_head(&c) == 101);
        CHECK(host_await(h, FDX_EV_OPEN, i + 1).route == expected[i].route);
        client_leave(&c);
        CHECK(host_await(h, FDX_EV_CLOSE, i + 1).route == expected[i].route);
    }
    c = client_dial(h->port);
    CHECK(client_upgrade(&c, "/elsewhere", NULL) == 404);
    client_drop(&c);
    c = client_dial(h->port);
    CHECK(client_upgrade(&c, "/room", NULL) == 404);
    client_drop(&c);
    host_end(h);
}

static void a_page_at_the_root_and_a_route_for_everything_else_go_together(void)
{
    fdx_config *config = new_config(NULL);
    fdx_error error = new_error();
    fdx_handlers handlers;
    fdx_server *server = NULL;

    h = host_new(NULL, NULL);
    handlers = host_handlers(h, ON_USUAL);
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 1, &handlers, &error));
    handlers.drop = host_dropped;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 2, &handlers, &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    c = client_open(h->port);
    CHECK(host_await(h, FDX_EV_OPEN, 1).route == 1);
    client_leave(&c);
    c = client_dial(h->port);
    CHECK(client_upgrade(&c, "/x", NULL) == 101);
    CHECK(host_await(h, FDX_EV_OPEN, 2).route == 2);
    client_leave(&c);
    host_end(h);
}

static void a_refused_pattern_leaves_nothing_behind(void)
{
    static const char *const patterns[] = { "/room/:id", "/room/" "*", "/chat" };
    fdx_config *config = new_config(NULL);
    fdx_error error = new_error();
    fdx_stats stats = new_stats();
    fdx_server *server = NULL;
    fdx_status star = FDX_OK;
    uint32_t i;
    int status;

    h = host_new(NULL, NULL);
    for (i = 0; i < 3; i++) {
        fdx_handlers handlers = host_handlers(h, ON_USUAL);
        fdx_status added;
        handlers.drop = i == 0 ? host_dropped : NULL;
        added = CALL(fdx_config_route(config, patterns[i], i + 1, &handlers, &error));
        if (i == 1)
            star = added;                   /* beside a parameter it may be refused */
        else
            CHECK(added == FDX_OK);
    }
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    c = client_dial(h->port);
    status = client_upgrade(&c, "/room/", NULL);
    if (star == FDX_OK)
        CHECK(status == 101 && host_await(h, FDX_EV_OPEN, 1).route == 2);
    else
        CHECK(status == 404);
    client_drop(&c);
    CHECK_STATUS(FDX_OK, fdx_get_stats(server, &stats));
    CHECK(stats.faults == 0);
    host_end(h);
}

/* -- an old browser, as far as the ABI shows it --------------------------------------------------------- */

static void on_a_hixie_connection_binary_and_pings_are_unsupported(void)
{
    static const char request[] =
        "GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n\r\n";
    fdx_conn_info info = new_conn_info();
    char text[7];

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_dial(h->port);
    client_write(&c, request, strlen(request));
    CHECK(client_read_head(&c) == 101);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    CHECK(info.version == 75);
    CHECK_STATUS(FDX_E_UNSUPPORTED, fdx_send(h->server, conn, FDX_BINARY, "hello", 5, 0));
    CHECK_STATUS(FDX_E_UNSUPPORTED, fdx_ping(h->server, conn, "?", 1));
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "hello", 5, 0));
    CHECK(client_read_exactly(&c, text, 7) && memcmp(text, "\0hello\xff", 7) == 0);
    client_write(&c, "\0there\xff", 7);
    CHECK(strcmp(host_await(h, FDX_EV_MESSAGE, 1).data, "there") == 0);
    client_drop(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    host_end(h);
}

int main(void)
{
    PROVE(a_decision_may_come_later_from_another_thread);
    PROVE(what_the_client_sends_before_the_decision_is_delivered_after_the_opening);
    PROVE(other_connections_go_on_while_one_is_undecided);
    PROVE(an_accept_may_choose_a_subprotocol_and_add_headers);
    PROVE(an_accept_without_a_subprotocol_names_none);
    PROVE(a_rejection_has_its_status_its_headers_and_its_body);
    PROVE(a_rejection_without_headers_and_body_is_complete);
    PROVE(an_undecided_request_is_refused_after_timeout_handshake);
    PROVE(a_client_that_leaves_undecided_is_forgotten);
    PROVE(a_decision_is_made_once);
    PROVE(an_undecided_connection_cannot_be_sent_to);
    PROVE(headers_that_would_smuggle_something_in_are_refused_and_the_decision_stays_open);
    PROVE(headers_over_64_kib_are_too_big_and_the_decision_stays_open);
    PROVE(a_subprotocol_that_is_no_token_is_refused_and_the_decision_stays_open);
    PROVE(a_rejection_with_a_status_that_is_none_is_refused_and_the_decision_stays_open);
    PROVE(a_request_tells_its_method_path_query_cookies_and_headers);
    PROVE(a_value_with_an_encoded_nul_does_not_pass_for_the_part_before_it);
    PROVE(a_small_buffer_for_a_request_value_gets_nothing_past_its_end);
    PROVE(all_headers_of_a_request_can_be_read);
    PROVE(a_request_can_be_read_until_the_open_callback_has_returned_with_and_without_on_upgrade);
    PROVE(the_most_specific_route_wins_and_its_parameters_can_be_read);
    PROVE(a_page_at_the_root_and_a_route_for_everything_else_go_together);
    PROVE(a_refused_pattern_leaves_nothing_behind);
    PROVE(on_a_hixie_connection_binary_and_pings_are_unsupported);
    return 0;
}
