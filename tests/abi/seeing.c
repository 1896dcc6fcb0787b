/* Statistics, what is known of a connection, and the log. */
#include "check.h"

static void what_is_known_of_a_connection_is_true(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    seen open = host_await(h, FDX_EV_OPEN, 1);
    fdx_conn_info info = new_conn_info();
    struct sockaddr_in own;
    socklen_t len = sizeof own;

    CHECK(getsockname(c.fd, (struct sockaddr *)&own, &len) == 0);
    client_say(&c, "twelve bytes");
    client_say(&c, "and more");
    host_await(h, FDX_EV_MESSAGE, 2);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, open.conn, FDX_TEXT, "answer", 6, 0));
    CLIENT_EXPECT_TEXT(&c, "answer");
    CHECK_SOON(fdx_conn_get_info(h->server, open.conn, &info) == FDX_OK && info.msgs_out == 1 && info.queued_bytes == 0);
    CHECK(info.struct_size == sizeof info);
    CHECK(info.route == 7 && info.version == 13 && info.http == 11 && info.flags == 0);
    CHECK(info.msgs_in == 2 && info.bytes_in >= 20 && info.bytes_out >= 6 && info.dropped == 0);
    CHECK(info.local_port == h->port && info.remote_port == ntohs(own.sin_port));
    CHECK(strcmp(info.peer_addr, "127.0.0.1") == 0 && strcmp(info.remote_addr, "127.0.0.1") == 0);
    CHECK(info.subprotocol[0] == '\0');
    CHECK(info.opened_us > 0 && info.opened_us <= host_await(h, FDX_EV_MESSAGE, 1).time_us);
    client_leave(&c);
    host_end(h);
}

static void the_round_trip_is_measured_by_pings_of_the_library(void)
{
    host *h = host_start("ping.interval = 300ms\nping.timeout = 60s\n", ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;
    fdx_conn_info info = new_conn_info();

    CHECK(client_read(&c) == OP_PING);
    sleep_ms(20);
    client_send(&c, OP_PONG, c.payload, c.payload_len);
    CHECK_SOON(fdx_conn_get_info(h->server, conn, &info) == FDX_OK && info.rtt_us > 0);
    CHECK((info.rtt_us >= 15000 && info.rtt_us < 2000000) || runs_slowly());
    client_drop(&c);
    host_end(h);
}

static void reject_on_demand(host *h, const fdx_event *event)
{
    char token[8];
    size_t needed;

    if (event->type != FDX_EV_UPGRADE)
        return;
    if (fdx_request_get(h->server, event->conn, "?no", token, sizeof token, &needed) == FDX_OK)
        CHECK_STATUS(FDX_OK, fdx_reject(h->server, event->conn, 403, NULL, 0, NULL, 0));
    else
        CHECK_STATUS(FDX_OK, fdx_accept(h->server, event->conn, NULL, NULL, 0));
}

static void statistics_count_what_happened(void)
{
    host *h = host_start("threads = 2\n", ON_ALL, reject_on_demand, NULL);
    fdx_stats stats = new_stats();
    client clients[5], rejected, broken;
    unsigned i;

    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    CHECK(stats.threads == 2 && stats.connections == 0 && stats.accepted == 0 && stats.msgs_in == 0 && stats.bytes_in == 0);
    for (i = 0; i < 5; i++) {
        clients[i] = client_open(h->port);
        client_say(&clients[i], "hello");
    }
    host_await(h, FDX_EV_MESSAGE, 5);
    for (i = 0; i < 5; i++)
        CHECK_STATUS(FDX_OK, fdx_send(h->server, host_await(h, FDX_EV_OPEN, i + 1).conn, FDX_TEXT, "hi", 2, 0));
    for (i = 0; i < 5; i++)
        CHECK(client_read(&clients[i]) == OP_TEXT);
    client_leave(&clients[4]);
    host_await(h, FDX_EV_CLOSE, 1);

    rejected = client_dial(h->port);
    CHECK(client_upgrade(&rejected, "/?no=1", NULL) == 403);
    client_drop(&rejected);
    broken = client_dial(h->port);
    client_write(&broken, "NONSENSE\r\n\r\n", 12);
    CHECK(client_read_head(&broken) == 400);
    client_drop(&broken);

    CHECK_SOON(fdx_get_stats(h->server, &stats) == FDX_OK && stats.connections == 4 && stats.rejected >= 1 &&
               stats.handshake_errors == 1 && stats.closed >= 1);
    CHECK(stats.peak_connections >= 5 && stats.accepted >= 5);
    CHECK(stats.msgs_in == 5 && stats.msgs_out == 5);
    CHECK(stats.bytes_in >= 25 && stats.bytes_out >= 10);
    CHECK(stats.dropped_msgs == 0 && stats.slow_closed == 0 && stats.faults == 0 && stats.queued_bytes == 0);
    for (i = 0; i < 4; i++)
        client_leave(&clients[i]);
    CHECK_SOON(fdx_get_stats(h->server, &stats) == FDX_OK && stats.connections == 0);
    host_end(h);
}

/* -- the log ---------------------------------------------------------------------------------------- */

struct log { counter lines, of_a_connection, worst; };

static void keep_the_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    struct log *log = (struct log *)user_data;

    CHECK(level >= 1 && level <= 5);
    CHECK(target != NULL && text != NULL && len > 0);
    CHECK(memchr(text, '\n', len) == NULL);
    if (conn)
        counter_add(&log->of_a_connection);
    if ((unsigned)level > counter_get(&log->worst))
        __atomic_store_n(&log->worst.value, (unsigned)level, __ATOMIC_SEQ_CST);
    counter_add(&log->lines);
}

static void the_log_receives_lines_up_to_its_level(void)
{
    struct log all, some;
    host *h;
    client c;

    memset(&all, 0, sizeof all);
    memset(&some, 0, sizeof some);
    fdx_set_log(5, keep_the_log, &all, NULL);
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    client_try_frame(&c, 0x81, "unmasked", 8, 0);
    host_await(h, FDX_EV_CLOSE, 1);
    client_drop(&c);
    host_end(h);
    CHECK(counter_get(&all.lines) > 0);

    fdx_set_log(1, keep_the_log, &some, NULL);
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    client_leave(&c);
    host_end(h);
    CHECK(counter_get(&some.lines) == 0);   /* nothing went wrong */
    fdx_set_log(0, NULL, NULL, NULL);
}

/* One line to wait for. */
struct wanted { const char *target, *part; int32_t level; int of_the_server; counter found; };

static void find_in_the_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    struct wanted *wanted = (struct wanted *)user_data;
    char line[512];

    CHECK(len < sizeof line);
    memcpy(line, text, len);
    line[len] = '\0';
    if (level == wanted->level && (conn == 0) == wanted->of_the_server && strcmp(target, wanted->target) == 0 && strstr(line, wanted->part))
        counter_add(&wanted->found);
}

static void ask_wrongly(host *h, const char *request)
{
    client c = client_dial(h->port);

    client_write(&c, request, strlen(request));
    client_drop(&c);
}

static void say_wrongly(host *h, unsigned char first, const char *payload, size_t len, int masked)
{
    client c = client_open(h->port);

    client_try_frame(&c, first, payload, len, masked);
    client_drop(&c);
}

static void each_refusal_and_violation_is_a_line_with_its_connection_and_reason(void)
{
    const char *upgrade = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    char request[512];
    struct { const char *headers, *part; } refusals[] = {
        { "Sec-WebSocket-Version: 99\r\n\r\n", "with 426: this version" },
        { "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n", "with 400: Sec-WebSocket-Key" },
        { "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://evil.example\r\n\r\n",
          "with 403: this origin" },
        { "bare: line feed\n\r\n\r\n", "with 400: lines must end" },
    };
    struct { unsigned char first; const char *payload; int masked; const char *part; } violations[] = {
        { 0x81, "unmasked", 0, "with 1002" },
        { 0x83, "an opcode nobody knows", 1, "with 1002" },
        { 0xC1, "reserved bits", 1, "with 1002" },
        { 0x81, "\xFF", 1, "with 1007" },
        { 0x82, "far too long a message for this server", 1, "with 1009" },
    };
    struct wanted wanted;
    host *h = host_start("origins = https://a.example\nmax.message = 32\n", ON_USUAL, NULL, NULL);
    size_t i;

    memset(&wanted, 0, sizeof wanted);
    wanted.level = 3;
    fdx_set_log(3, find_in_the_log, &wanted, NULL);
    wanted.target = "fullduplex::handshake";
    for (i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        wanted.part = refusals[i].part;
        snprintf(request, sizeof request, "%s%s", upgrade, refusals[i].headers);
        ask_wrongly(h, request);
        CHECK_SOON(counter_get(&wanted.found) == i + 1);
    }
    memset(&wanted.found, 0, sizeof wanted.found);
    wanted.target = "fullduplex::protocol";
    for (i = 0; i < sizeof violations / sizeof *violations; i++) {
        wanted.part = violations[i].part;
        say_wrongly(h, violations[i].first, violations[i].payload, strlen(violations[i].payload), violations[i].masked);
        CHECK_SOON(counter_get(&wanted.found) == i + 1);
    }
    host_end(h);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void dawdle(host *h, const fdx_event *event)
{
    (void)h;
    if (event->type == FDX_EV_MESSAGE)
        sleep_ms(150);
}

static void a_slow_callback_is_a_warning_by_the_name_of_its_event(void)
{
    struct wanted wanted;
    host *h;
    client c;

    memset(&wanted, 0, sizeof wanted);
    wanted.level = 2;
    wanted.target = "fullduplex::callback";
    wanted.part = "FDX_EV_MESSAGE took ";
    fdx_set_log(3, find_in_the_log, &wanted, NULL);
    h = host_start(NULL, ON_USUAL, dawdle, NULL);
    c = client_open(h->port);
    client_say(&c, "take your time");
    CHECK_SOON(counter_get(&wanted.found) == 1);
    client_leave(&c);
    host_end(h);
    CHECK(counter_get(&wanted.found) == 1);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void options_that_do_nothing_together_are_a_warning(void)
{
    struct wanted wanted;
    host *h;

    memset(&wanted, 0, sizeof wanted);
    wanted.level = 2;
    wanted.of_the_server = 1;
    wanted.target = "fullduplex::config";
    wanted.part = "proxy.trusted names nobody";
    fdx_set_log(3, find_in_the_log, &wanted, NULL);
    h = host_start("proxy.protocol = v2\n", ON_USUAL, NULL, NULL);
    CHECK_SOON(counter_get(&wanted.found) == 1);
    host_end(h);
    h = host_start("proxy.protocol = v2\nproxy.trusted = 192.0.2.1\n", ON_USUAL, NULL, NULL);
    host_end(h);
    CHECK(counter_get(&wanted.found) == 1);
    fdx_set_log(0, NULL, NULL, NULL);
}

static void without_a_log_the_library_writes_nothing_anywhere(void)
{
    int out[2], saved[2], i;
    char byte;
    host *h;
    client c;

    fflush(NULL);
    CHECK(pipe(out) == 0);
    for (i = 0; i < 2; i++) {
        saved[i] = dup(i + 1);
        CHECK(dup2(out[1], i + 1) == i + 1);
    }
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    client_try_frame(&c, 0x81, "unmasked", 8, 0);
    host_await(h, FDX_EV_CLOSE, 1);
    client_drop(&c);
    host_end(h);
    for (i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    close(out[1]);
    CHECK(read(out[0], &byte, 1) == 0);
    close(out[0]);
}

/* -- the server's own events -------------------------------------------------------------------------- */

static void events_of_the_server_itself_belong_to_no_connection(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    size_t i, stopped = 0;

    client_leave(&c);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    pthread_mutex_lock(&h->lock);
    for (i = 0; i < h->count; i++) {
        if (h->events[i].type >= FDX_EV_LISTENER)
            CHECK(h->events[i].conn == 0 && h->events[i].conn_data == NULL);
        if (h->events[i].type == FDX_EV_STOPPED)
            stopped++;
        else if (stopped)
            CHECK(h->events[i].type == FDX_EV_THREAD_STOP);     /* STOPPED is the server's last */
    }
    CHECK(stopped <= 1);
    pthread_mutex_unlock(&h->lock);
    host_end(h);
}

static void the_sums_are_told_as_text_for_as_long_as_the_buffer_is(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    size_t needed = 0;
    char *text;

    CHECK_STATUS(FDX_E_BUFFER, fdx_metrics_text(h->server, NULL, 0, &needed));
    CHECK(needed > 100);
    text = (char *)malloc(2 * needed);
    CHECK(text != NULL);
    CHECK_STATUS(FDX_OK, fdx_metrics_text(h->server, text, 2 * needed, &needed));
    CHECK(strlen(text) + 1 == needed);
    CHECK(strstr(text, "\nfullduplex_connections 0\n") && strstr(text, "# EOF\n"));
    CHECK_STATUS(FDX_E_BUFFER, fdx_metrics_text(h->server, text, 10, &needed));
    CHECK(strlen(text) == 9);
    free(text);
    host_end(h);
}

int main(void)
{
    PROVE(what_is_known_of_a_connection_is_true);
    PROVE(the_round_trip_is_measured_by_pings_of_the_library);
    PROVE(statistics_count_what_happened);
    PROVE(the_log_receives_lines_up_to_its_level);
    PROVE(each_refusal_and_violation_is_a_line_with_its_connection_and_reason);
    PROVE(a_slow_callback_is_a_warning_by_the_name_of_its_event);
    PROVE(options_that_do_nothing_together_are_a_warning);
    PROVE(without_a_log_the_library_writes_nothing_anywhere);
    PROVE(events_of_the_server_itself_belong_to_no_connection);
    PROVE(the_sums_are_told_as_text_for_as_long_as_the_buffer_is);
    return 0;
}
