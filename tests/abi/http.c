/* Plain HTTP requests on the port of the WebSockets. */
#include "check.h"

static host *h;
static client c;

static void ask(const char *method, const char *target)
{
    char request[256];
    int len = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", method, target);

    client_write(&c, request, (size_t)len);
}

static void set_up(const char *settings, host_hook hook, const char *target)
{
    h = host_start_with(settings, ON_USUAL, FDX_ROUTE_HTTP, hook, NULL);
    c = client_dial(h->port);
    ask("GET", target);
}

static void reply_with_what_was_asked(host *host_, const fdx_event *event)
{
    char path[64], name[64], body[160];
    size_t needed;

    if (event->type != FDX_EV_HTTP)
        return;
    CHECK(event->conn != 0 && event->route == 7);
    CHECK_STATUS(FDX_OK, fdx_request_get(host_->server, event->conn, ":path", path, sizeof path, &needed));
    CHECK_STATUS(FDX_OK, fdx_request_get(host_->server, event->conn, "?name", name, sizeof name, &needed));
    snprintf(body, sizeof body, "%s for %s", path, name);
    CHECK_STATUS(FDX_OK, fdx_http_reply(host_->server, event->conn, 200, "Content-Type: text/plain\r\nX-One: 1\r\n", FDX_NTS,
                                        body, strlen(body)));
}

static void a_request_is_answered_inside_its_callback(void)
{
    set_up(NULL, reply_with_what_was_asked, "/greeting?name=you");
    CHECK(client_read_head(&c) == 200);
    CHECK(strstr(c.head, "\r\nContent-Type: text/plain\r\n") && strstr(c.head, "\r\nX-One: 1\r\n"));
    client_read_body(&c);
    CHECK(strcmp((const char *)c.payload, "/greeting for you") == 0);
    CLIENT_EXPECT_END(&c);                  /* as it asked for with Connection: close */
    client_drop(&c);
    CHECK(host_count(h, FDX_EV_OPEN) == 0 && host_count(h, FDX_EV_CLOSE) == 0);
    host_end(h);
}

static void a_request_may_be_answered_later_from_another_thread_but_once(void)
{
    fdx_conn token;

    set_up(NULL, NULL, "/");
    token = host_await(h, FDX_EV_HTTP, 1).conn;
    CHECK(client_hears_nothing(&c, 50));
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, token, 404, NULL, 0, "nothing here", 12));
    CHECK_ANY3(FDX_E_NO_CONN, FDX_E_STATE, FDX_ALREADY, fdx_http_reply(h->server, token, 200, NULL, 0, "again", 5));
    CHECK(client_read_head(&c) == 404);
    client_read_body(&c);
    CHECK(strcmp((const char *)c.payload, "nothing here") == 0);
    client_drop(&c);
    host_end(h);
}

static void a_page_larger_than_any_socket_buffer_arrives_whole(void)
{
    size_t len = 12 * 1024 * 1024, i;
    char *page = (char *)malloc(len);

    CHECK(page != NULL);
    for (i = 0; i < len; i++)
        page[i] = (char)(i % 251);
    set_up(NULL, NULL, "/");
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, host_await(h, FDX_EV_HTTP, 1).conn, 200, NULL, 0, page, len));
    CHECK(client_read_head(&c) == 200);
    client_read_body(&c);
    CHECK(c.payload_len == len && memcmp(c.payload, page, len) == 0);
    CLIENT_EXPECT_END(&c);
    free(page);
    client_drop(&c);
    host_end(h);
}

static void a_head_request_gets_the_head_only(void)
{
    h = host_start_with(NULL, ON_USUAL, FDX_ROUTE_HTTP, reply_with_what_was_asked, NULL);
    c = client_dial(h->port);
    ask("HEAD", "/greeting?name=you");
    CHECK(client_read_head(&c) == 200);
    CLIENT_EXPECT_END(&c);
    client_drop(&c);
    host_end(h);
}

static void a_reply_token_is_no_websocket(void)
{
    fdx_conn token;

    set_up(NULL, NULL, "/");
    token = host_await(h, FDX_EV_HTTP, 1).conn;
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_send(h->server, token, FDX_TEXT, "hello", 5, 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_ping(h->server, token, "?", 1));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_accept(h->server, token, NULL, NULL, 0));
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, token, 204, NULL, 0, NULL, 0));
    CHECK(client_read_head(&c) == 204);
    client_drop(&c);
    host_end(h);
}

static void headers_that_would_smuggle_something_in_are_refused(void)
{
    static const char *const bad[] = {
        "X-One: 1\r\n\r\n<script>", "X-One: 1\nX-Two: 2\r\n", "no colon\r\n", ": no name\r\n", "X-One: 1\r\r\n", "X-One: 1",
        "X One: 1\r\n", " X-One: 1\r\n", "X-One: 1\r\n X-Two: 2\r\n", "X-One : 1\r\n", "X-One: \x01\r\n",
        "Content-Length: 0\r\n", "content-length: 400\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n",
    };
    fdx_conn token;
    size_t i;

    set_up(NULL, NULL, "/");
    token = host_await(h, FDX_EV_HTTP, 1).conn;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, token, 200, bad[i], FDX_NTS, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, token, 99, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, token, 1000, NULL, 0, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, token, 200, NULL, 5, NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, token, 200, NULL, 0, NULL, 5));
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, token, 200, NULL, 0, "fine", 4));
    CHECK(client_read_head(&c) == 200);
    client_drop(&c);
    host_end(h);
}

/* -- bodies -------------------------------------------------------------------------------------- */

static void send_body_back(host *host_, const fdx_event *event)
{
    char method[16], headers[64];
    size_t needed;

    if (event->type != FDX_EV_HTTP)
        return;
    CHECK_STATUS(FDX_OK, fdx_request_get(host_->server, event->conn, ":method", method, sizeof method, &needed));
    snprintf(headers, sizeof headers, "X-Method: %s\r\n", method);
    CHECK_STATUS(FDX_OK, fdx_http_reply(host_->server, event->conn, 200, headers, FDX_NTS, event->data, event->len));
}

static void open_pages(const char *settings, host_hook hook)
{
    h = host_start_with(settings, ON_USUAL, FDX_ROUTE_HTTP, hook, NULL);
    c = client_dial(h->port);
}

static void say(const char *bytes)
{
    client_write(&c, bytes, strlen(bytes));
}

static void expect_page(int status, const char *body)
{
    CHECK(client_read_head(&c) == status);
    client_read_body(&c);
    if (strcmp((const char *)c.payload, body) != 0)
        fprintf(stderr, "\"%.80s\" instead of \"%s\"\n", (const char *)c.payload, body);
    CHECK(c.payload_len == strlen(body) && memcmp(c.payload, body, c.payload_len) == 0);
}

#define HOST "Host: 127.0.0.1\r\n"

static void a_body_is_the_data_of_its_event_however_it_is_sent(void)
{
    open_pages(NULL, send_body_back);
    say("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhel");
    CHECK(client_hears_nothing(&c, 20) && host_count(h, FDX_EV_HTTP) == 0);
    say("lo");
    expect_page(200, "hello");
    CHECK(strstr(c.head, "\r\nX-Method: POST\r\n"));
    say("PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nin \r\n6;x=y\r\nchunks\r\n0\r\nX: y\r\n\r\n");
    expect_page(200, "in chunks");
    CHECK(strstr(c.head, "\r\nX-Method: PUT\r\n"));
    say("DELETE / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
    expect_page(200, "");
    say("POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 6\r\n\r\n");
    CHECK(client_read_head(&c) == 100);
    say("waited");
    expect_page(200, "waited");
    say("POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nConnection: close\r\n\r\nend");
    expect_page(200, "end");
    CLIENT_EXPECT_END(&c);
    CHECK(host_await(h, FDX_EV_HTTP, 1).len == 5 && host_await(h, FDX_EV_HTTP, 3).len == 0);
    client_drop(&c);
    host_end(h);
}

static void a_large_body_comes_whole_and_goes_back_whole(void)
{
    size_t len = times(8, 2) * 1024 * 1024, i;
    char *body = (char *)malloc(len), head[160];

    CHECK(body != NULL);
    for (i = 0; i < len; i++)
        body[i] = (char)(i % 251);
    open_pages("max.body = 8m\n", send_body_back);
    snprintf(head, sizeof head, "POST / HTTP/1.1\r\n" HOST "Content-Length: %u\r\n\r\n", (unsigned)len);
    for (i = 0; i < 2; i++) {                   /* the second on the same connection */
        say(head);
        client_write(&c, body, len);
        CHECK(client_read_head(&c) == 200);
        client_read_body(&c);
        CHECK(c.payload_len == len && memcmp(c.payload, body, len) == 0);
    }
    free(body);
    client_drop(&c);
    host_end(h);
}

static void a_body_over_the_limit_is_refused_before_anyone_is_asked(void)
{
    open_pages("max.body = 1k\n", send_body_back);
    say("POST / HTTP/1.1\r\n" HOST "Content-Length: 1025\r\n\r\n");
    CHECK(client_read_head(&c) == 413);
    client_drop(&c);
    c = client_dial(h->port);
    say("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n401\r\n");
    CHECK(client_read_head(&c) == 413);
    client_drop(&c);
    CHECK(host_count(h, FDX_EV_HTTP) == 0);
    host_end(h);
}

/* -- many requests of one connection --------------------------------------------------------------- */

#define REQUESTS 100

static void a_hundred_requests_of_one_connection_have_each_a_number_and_an_answer(void)
{
    char text[256], expected[64];
    int i, j;

    open_pages(NULL, reply_with_what_was_asked);
    for (i = 0; i < REQUESTS; i++) {
        snprintf(text, sizeof text, "%s /greeting?name=%d HTTP/1.1\r\n" HOST "\r\n", i % 10 ? "GET" : "HEAD", i);
        say(text);
        snprintf(expected, sizeof expected, "/greeting for %d", i);
        if (i % 10) {
            expect_page(200, expected);
        } else {                                /* what came behind would be read as the next answer */
            CHECK(client_read_head(&c) == 200);
            CHECK(strstr(c.head, "\r\nContent-Length: ") && atoi(strstr(c.head, "Length: ") + 8) == (int)strlen(expected));
        }
        CHECK(!strstr(c.head, "\r\nConnection: close\r\n"));
    }
    CHECK(host_count(h, FDX_EV_HTTP) == REQUESTS);
    for (i = 0; i < (int)h->count; i++)
        for (j = 0; h->events[i].conn && j < i; j++)
            CHECK(h->events[j].conn != h->events[i].conn);
    client_drop(&c);
    host_end(h);
}

static void requests_sent_ahead_wait_for_their_turn(void)
{
    char text[64 * REQUESTS] = "", expected[64];
    int i;

    open_pages(NULL, NULL);
    for (i = 0; i < REQUESTS; i++)
        snprintf(text + strlen(text), 64, "GET /%d HTTP/1.1\r\n" HOST "\r\n", i);
    say(text);
    for (i = 0; i < REQUESTS; i++) {
        fdx_conn token = host_await(h, FDX_EV_HTTP, (size_t)i + 1).conn;
        char path[16];

        CHECK(host_count(h, FDX_EV_HTTP) == (size_t)i + 1);
        CHECK_STATUS(FDX_OK, fdx_request_get(h->server, token, ":path", path, sizeof path, NULL));
        snprintf(expected, sizeof expected, "answer to %s", path);
        CHECK(atoi(path + 1) == i);
        CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, token, 200, NULL, 0, expected, strlen(expected)));
        expect_page(200, expected);
    }
    client_drop(&c);
    host_end(h);
}

static void a_stale_token_answers_nothing_on_the_same_connection(void)
{
    fdx_conn first, second;
    char path[16];

    open_pages(NULL, NULL);
    say("GET /first HTTP/1.1\r\n" HOST "\r\n");
    first = host_await(h, FDX_EV_HTTP, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, first, 200, NULL, 0, "one", 3));
    expect_page(200, "one");
    say("GET /second HTTP/1.1\r\n" HOST "\r\n");
    second = host_await(h, FDX_EV_HTTP, 2).conn;
    CHECK(first != second);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_http_reply(h->server, first, 200, NULL, 0, "late", 4));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_request_get(h->server, first, ":path", path, sizeof path, NULL));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_conn_set_data(h->server, first, NULL, NULL));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, first, FDX_TEXT, "late", 4, 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_OK, fdx_abort(h->server, first));
    CHECK_STATUS(FDX_OK, fdx_request_get(h->server, second, ":path", path, sizeof path, NULL));
    CHECK(strcmp(path, "/second") == 0);
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, second, 200, NULL, 0, "two", 3));
    expect_page(200, "two");
    client_drop(&c);
    host_end(h);
}

static void reply_twice(host *own, const fdx_event *event)
{
    if (event->type != FDX_EV_HTTP)
        return;
    CHECK_STATUS(FDX_OK, fdx_http_reply(own->server, event->conn, 200, NULL, 0, "first", 5));
    CHECK_ANY2(FDX_E_STATE, FDX_E_NO_CONN, fdx_http_reply(own->server, event->conn, 200, NULL, 0, "second", 6));
}

static void a_second_reply_in_the_callback_is_refused_and_not_sent(void)
{
    open_pages(NULL, reply_twice);
    say("GET / HTTP/1.1\r\n" HOST "\r\nGET / HTTP/1.1\r\n" HOST "\r\n");
    expect_page(200, "first");
    expect_page(200, "first");
    CHECK(client_hears_nothing(&c, 20));
    client_drop(&c);
    host_end(h);
}

#define RACERS 8

static fdx_conn raced;
static counter winners;

static void *reply_in_a_race(void *unused)
{
    fdx_status status = CALL(fdx_http_reply(h->server, raced, 200, NULL, 0, "won", 3));

    (void)unused;
    CHECK(status == FDX_OK || status == FDX_E_STATE || status == FDX_E_NO_CONN);
    if (status == FDX_OK)
        counter_add(&winners);
    return NULL;
}

static void of_many_threads_that_reply_at_once_one_does(void)
{
    pthread_t threads[RACERS];
    size_t round, i;

    open_pages(NULL, NULL);
    for (round = 1; round <= 20; round++) {
        say("GET / HTTP/1.1\r\n" HOST "\r\n");
        raced = host_await(h, FDX_EV_HTTP, round).conn;
        for (i = 0; i < RACERS; i++)
            CHECK(pthread_create(&threads[i], NULL, reply_in_a_race, NULL) == 0);
        expect_page(200, "won");
        for (i = 0; i < RACERS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(counter_get(&winners) == round);
    }
    client_drop(&c);
    host_end(h);
}

/* -- what is kept with a request -------------------------------------------------------------------- */

static void data_of_a_request_is_dropped_with_it_and_is_not_the_next_ones(void)
{
    counter dropped = { 0 };
    fdx_conn token;

    open_pages(runs_slowly() ? "timeout.handshake = 5s\n" : "timeout.handshake = 1s\n", NULL);
    say("GET / HTTP/1.1\r\n" HOST "\r\n");
    token = host_await(h, FDX_EV_HTTP, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, token, &dropped, count_drop));
    CHECK(client_hears_nothing(&c, 20) && counter_get(&dropped) == 0);
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, token, 204, NULL, 0, NULL, 0));
    CHECK(client_read_head(&c) == 204);
    CHECK_SOON(counter_get(&dropped) == 1);
    say("GET / HTTP/1.1\r\n" HOST "\r\n");
    CHECK(host_await(h, FDX_EV_HTTP, 2).conn_data == NULL);
    /* One that is never answered, and one whose client goes. */
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, host_await(h, FDX_EV_HTTP, 2).conn, &dropped, count_drop));
    CHECK(client_read_head(&c) >= 400);
    client_drop(&c);
    CHECK_SOON(counter_get(&dropped) == 2);
    c = client_dial(h->port);
    say("GET / HTTP/1.1\r\n" HOST "\r\n");
    token = host_await(h, FDX_EV_HTTP, 3).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, token, &dropped, count_drop));
    client_reset(&c);
    CHECK_SOON(counter_get(&dropped) == 3);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_http_reply(h->server, token, 200, NULL, 0, "late", 4));
    host_end(h);
    CHECK(counter_get(&dropped) == 3);
}

static void a_websocket_may_follow_on_the_connection_of_a_page(void)
{
    fdx_conn page, socket_;

    open_pages(NULL, send_body_back);
    say("POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\npage");
    expect_page(200, "page");
    page = host_await(h, FDX_EV_HTTP, 1).conn;
    CHECK(client_upgrade(&c, "/", NULL) == 101);
    socket_ = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK(page != socket_);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_send(h->server, page, FDX_TEXT, "who?", 4, 0));
    CHECK_STATUS(FDX_OK, fdx_send(h->server, socket_, FDX_TEXT, "you", 3, 0));
    CLIENT_EXPECT_TEXT(&c, "you");
    client_leave(&c);
    host_end(h);
}

static void without_on_other_a_page_is_404(void)
{
    h = host_start_with(NULL, ON_USUAL & ~ON_OTHER, FDX_ROUTE_HTTP, NULL, NULL);
    c = client_dial(h->port);
    ask("GET", "/");
    CHECK(client_read_head(&c) == 404);
    client_drop(&c);
    c = client_dial(h->port);
    say("POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc");
    CHECK(client_read_head(&c) == 404);
    client_drop(&c);
    c = client_open(h->port);
    client_leave(&c);
    host_end(h);
}

static void a_request_may_be_cut_instead_of_answered(void)
{
    set_up(NULL, NULL, "/");
    CHECK_STATUS(FDX_OK, fdx_abort(h->server, host_await(h, FDX_EV_HTTP, 1).conn));
    CHECK(client_read_head(&c) == 0);
    client_drop(&c);
    host_end(h);
}

static void a_request_that_nobody_answers_ends(void)
{
    int status;

    set_up("timeout.handshake = 200ms\n", NULL, "/");
    host_await(h, FDX_EV_HTTP, 1);
    status = client_read_head(&c);
    CHECK(status == 0 || status >= 400);
    CHECK_SOON(fdx_http_reply(h->server, host_await(h, FDX_EV_HTTP, 1).conn, 200, NULL, 0, "late", 4) < 0);
    client_drop(&c);
    host_end(h);
}

static void a_websocket_route_refuses_a_plain_request(void)
{
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_dial(h->port);
    ask("GET", "/");
    CHECK(client_read_head(&c) == 426 || atoi(c.head + 9) == 400);
    client_drop(&c);
    CHECK(host_count(h, FDX_EV_HTTP) == 0);
    host_end(h);
}

static void a_route_for_pages_still_opens_websockets(void)
{
    h = host_start_with(NULL, ON_USUAL, FDX_ROUTE_HTTP, NULL, NULL);
    c = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 1);
    client_leave(&c);
    host_end(h);
}

int main(void)
{
    PROVE(a_request_is_answered_inside_its_callback);
    PROVE(a_request_may_be_answered_later_from_another_thread_but_once);
    PROVE(a_page_larger_than_any_socket_buffer_arrives_whole);
    PROVE(a_head_request_gets_the_head_only);
    PROVE(a_reply_token_is_no_websocket);
    PROVE(headers_that_would_smuggle_something_in_are_refused);
    PROVE(a_body_is_the_data_of_its_event_however_it_is_sent);
    PROVE(a_large_body_comes_whole_and_goes_back_whole);
    PROVE(a_body_over_the_limit_is_refused_before_anyone_is_asked);
    PROVE(a_hundred_requests_of_one_connection_have_each_a_number_and_an_answer);
    PROVE(requests_sent_ahead_wait_for_their_turn);
    PROVE(a_stale_token_answers_nothing_on_the_same_connection);
    PROVE(a_second_reply_in_the_callback_is_refused_and_not_sent);
    PROVE(of_many_threads_that_reply_at_once_one_does);
    PROVE(data_of_a_request_is_dropped_with_it_and_is_not_the_next_ones);
    PROVE(a_websocket_may_follow_on_the_connection_of_a_page);
    PROVE(without_on_other_a_page_is_404);
    PROVE(a_request_may_be_cut_instead_of_answered);
    PROVE(a_request_that_nobody_answers_ends);
    PROVE(a_websocket_route_refuses_a_plain_request);
    PROVE(a_route_for_pages_still_opens_websockets);
    return 0;
}
