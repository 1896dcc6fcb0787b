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
    PROVE(a_request_that_nobody_answers_ends);
    PROVE(a_websocket_route_refuses_a_plain_request);
    PROVE(a_route_for_pages_still_opens_websockets);
    return 0;
}
