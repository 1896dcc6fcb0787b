/* How connections end: who began, with which code, and what may still be called. */
#include "check.h"

static void nothing(host *h, const fdx_event *event)
{
    (void)h;
    (void)event;
}

/* One open connection on a fresh server. */
static host *h;
static client c;
static fdx_conn conn;

static void set_up(const char *settings, host_hook hook)
{
    h = host_start(settings, ON_USUAL, hook, NULL);
    c = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
}

static void ended(int32_t code, uint64_t closed_by, const char *reason)
{
    seen event = host_await(h, FDX_EV_CLOSE, 1);

    if (event.code != code || event.arg != closed_by || strcmp(event.data, reason) != 0) {
        fprintf(stderr, "in %s: expected CLOSE %d by %d \"%s\" but got %d by %d \"%s\"\n", current_test, (int)code,
                (int)closed_by, reason, (int)event.code, (int)event.arg, event.data);
        CHECK(0);
    }
    CHECK(event.conn == conn && event.len == strlen(reason));
    client_drop(&c);
    host_end(h);
}

/* -- the peer ends it --------------------------------------------------------------------- */

static void a_peer_that_closes_is_answered_and_its_code_and_reason_are_told(void)
{
    set_up(NULL, nothing);
    client_send_close(&c, 4321, "sch\xc3\xb6n war's");
    CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 4321);
    CLIENT_EXPECT_END(&c);
    ended(4321, FDX_CLOSED_BY_PEER, "sch\xc3\xb6n war's");
}

static void a_peer_that_closes_without_a_code_is_told_as_1005(void)
{
    set_up(NULL, nothing);
    client_send(&c, OP_CLOSE, "", 0);
    CHECK(client_read(&c) == OP_CLOSE && (client_close_code(&c) == 0 || client_close_code(&c) == 1000));
    CLIENT_EXPECT_END(&c);
    ended(1005, FDX_CLOSED_BY_PEER, "");
}

static void a_peer_that_hangs_up_without_a_close_is_told_as_1006(void)
{
    set_up(NULL, nothing);
    client_drop(&c);
    ended(1006, FDX_CLOSED_BY_NETWORK, "");
}

static void a_peer_that_resets_is_told_as_1006(void)
{
    set_up(NULL, nothing);
    client_reset(&c);
    ended(1006, FDX_CLOSED_BY_NETWORK, "");
}

static void a_peer_that_breaks_the_protocol_is_told_so(int first_byte, const char *data, size_t len, int masked, int code)
{
    set_up(NULL, nothing);
    CHECK(client_try_frame(&c, first_byte, data, len, masked));
    CHECK(client_read(&c) == OP_CLOSE);
    CHECK(client_close_code(&c) == code);
    CLIENT_EXPECT_END(&c);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == code);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_PROTOCOL);
    client_drop(&c);
    host_end(h);
}

static void a_broken_protocol_ends_with_1002_and_broken_text_with_1007(void)
{
    a_peer_that_breaks_the_protocol_is_told_so(0x81, "unmasked", 8, 0, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0xc1, "reserved bit", 12, 1, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0x83, "opcode", 6, 1, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0x80, "continues nothing", 17, 1, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0x09, "fragmented ping", 15, 1, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0x88, "\x03\xed", 2, 1, 1002);     /* 1005 may not be sent */
    a_peer_that_breaks_the_protocol_is_told_so(0x88, "\x03", 1, 1, 1002);
    a_peer_that_breaks_the_protocol_is_told_so(0x88, "\x03\xe8\xff", 3, 1, 1007);
    a_peer_that_breaks_the_protocol_is_told_so(0x81, "\xed\xa0\x80", 3, 1, 1007);
    a_peer_that_breaks_the_protocol_is_told_so(0x01, "\xff", 1, 1, 1007);         /* before the message ends */
}

static void a_message_over_the_limit_ends_with_1009(void)
{
    char large[1025];

    memset(large, 'x', sizeof large);
    set_up("max.message = 1k\n", nothing);
    client_send(&c, OP_TEXT, large, 1024);
    CHECK(host_await(h, FDX_EV_MESSAGE, 1).len == 1024);
    client_send(&c, OP_TEXT, large, 1025);
    CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 1009);
    CLIENT_EXPECT_END(&c);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == 1009);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_LIMIT);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 1);
    client_drop(&c);
    host_end(h);
}

static void a_silent_peer_is_closed_when_its_pong_is_overdue(void)
{
    set_up("ping.interval = 100ms\nping.timeout = 150ms\ntimeout.close = 300ms\n", nothing);
    CHECK(client_read(&c) == OP_PING);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_TIMEOUT);
    client_drop(&c);
    host_end(h);
}

static void a_peer_that_answers_pings_stays(void)
{
    int i;

    set_up("ping.interval = 100ms\nping.timeout = 2s\n", nothing);
    for (i = 0; i < 4; i++) {
        CHECK(client_read(&c) == OP_PING);
        client_send(&c, OP_PONG, c.payload, c.payload_len);
    }
    CHECK(host_count(h, FDX_EV_CLOSE) == 0);
    client_leave(&c);
    ended(1000, FDX_CLOSED_BY_PEER, "");
}

static void an_idle_peer_is_closed_after_timeout_idle(void)
{
    set_up("timeout.idle = 200ms\ntimeout.close = 300ms\nping.interval = 0\n", nothing);
    CHECK(client_read(&c) == OP_CLOSE);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_TIMEOUT);
    client_drop(&c);
    host_end(h);
}

/* -- the host ends it ---------------------------------------------------------------------- */

static void every_code_that_may_be_sent_is_sent(void)
{
    static const uint16_t codes[] = { 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999 };
    size_t i;

    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        set_up(NULL, nothing);
        CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, codes[i], "bye", FDX_NTS));
        CLIENT_EXPECT_CLOSE(&c, codes[i], "bye");
        client_send_close(&c, codes[i], "");
        CLIENT_EXPECT_END(&c);
        CHECK(host_await(h, FDX_EV_CLOSE, 1).code == codes[i]);
        CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_HOST);
        client_drop(&c);
        host_end(h);
    }
}

static void code_zero_closes_without_a_code(void)
{
    set_up(NULL, nothing);
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 0, NULL, 0));
    CLIENT_EXPECT_CLOSE(&c, 0, "");
    client_send(&c, OP_CLOSE, "", 0);
    CLIENT_EXPECT_END(&c);
    ended(1005, FDX_CLOSED_BY_HOST, "");
}

static void queued_messages_go_before_the_close(void)
{
    set_up(NULL, nothing);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "first", 5, 0));
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "second", 6, 0));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "last", FDX_NTS));
    CLIENT_EXPECT_TEXT(&c, "first");
    CLIENT_EXPECT_TEXT(&c, "second");
    CLIENT_EXPECT_CLOSE(&c, 1000, "last");
    client_send_close(&c, 1000, "");
    CLIENT_EXPECT_END(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    client_drop(&c);
    host_end(h);
}

static void after_a_close_every_call_knows_that_it_has_begun(void)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "late", 4);
    fdx_conn_info info = new_conn_info();

    set_up(NULL, nothing);
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CHECK_STATUS(FDX_ALREADY, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CHECK_STATUS(FDX_ALREADY, fdx_close(h->server, conn, 4000, "changed my mind", FDX_NTS));
    CHECK_STATUS(FDX_E_CLOSING, fdx_send(h->server, conn, FDX_TEXT, "late", 4, 0));
    CHECK_STATUS(FDX_E_CLOSING, fdx_send_msg(h->server, &conn, 1, message, 0, NULL));
    CHECK_STATUS(FDX_E_CLOSING, fdx_ping(h->server, conn, "?", 1));
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    CLIENT_EXPECT_CLOSE(&c, 1000, "bye");
    client_send_close(&c, 1000, "");
    CLIENT_EXPECT_END(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK_SOON(fdx_conn_get_info(h->server, conn, &info) == FDX_E_NO_CONN);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    fdx_msg_unref(message);
    client_drop(&c);
    host_end(h);
}

static void close_at_the_first_message(host *host_, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_STATUS(FDX_OK, fdx_close(host_->server, event->conn, 1000, "one is enough", FDX_NTS));
}

static void after_a_close_no_message_comes_any_more(void)
{
    char ten[10 * 11];
    int i;

    set_up(NULL, close_at_the_first_message);
    for (i = 0; i < 10; i++)   /* ten messages in one segment, so that they arrive in one turn */
        memcpy(ten + 11 * i, "\x81\x85\0\0\0\0again", 11);
    client_write(&c, ten, sizeof ten);
    CLIENT_EXPECT_CLOSE(&c, 1000, "one is enough");
    client_try_frame(&c, 0x80 | OP_TEXT, "and one more", 12, 1);
    client_send_close(&c, 1000, "");
    CLIENT_EXPECT_END(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 1);
    client_drop(&c);
    host_end(h);
}

static void a_peer_that_never_answers_a_close_is_given_up_after_timeout_close(void)
{
    int64_t begun;

    set_up("timeout.close = 300ms\n", nothing);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(now_ms() - begun >= 250);
    CHECK(now_ms() - begun < 3000 || runs_slowly());
    CLIENT_EXPECT_CLOSE(&c, 1000, "bye");
    ended(1006, FDX_CLOSED_BY_HOST, "");
}

static void a_peer_that_talks_on_does_not_put_off_timeout_close(void)
{
    int64_t begun;

    set_up("timeout.close = 300ms\n", nothing);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    while (host_count(h, FDX_EV_CLOSE) == 0 && now_ms() - begun < 5000) {
        client_try_frame(&c, 0x80 | OP_TEXT, "but I", 5, 1);
        sleep_ms(20);
    }
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    ended(1006, FDX_CLOSED_BY_HOST, "");
}

static void an_abort_ends_at_once_without_a_close_frame(void)
{
    set_up(NULL, nothing);
    CHECK_STATUS(FDX_OK, fdx_abort(h->server, conn));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_CLOSING, fdx_send(h->server, conn, FDX_TEXT, "late", 4, 0));
    CHECK_ANY3(FDX_OK, FDX_ALREADY, FDX_E_NO_CONN, fdx_abort(h->server, conn));
    CHECK_ANY3(FDX_ALREADY, FDX_E_NO_CONN, FDX_E_CLOSING, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CLIENT_EXPECT_END(&c);
    ended(1006, FDX_CLOSED_BY_HOST, "");
}

static void an_abort_cuts_a_close_short(void)
{
    set_up("timeout.close = 60s\n", nothing);
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CHECK_STATUS(FDX_OK, fdx_abort(h->server, conn));
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_HOST);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == 1006);
    client_drop(&c);
    host_end(h);
}

static void abort_at_the_first_message(host *host_, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_STATUS(FDX_OK, fdx_abort(host_->server, event->conn));
}

static void after_an_abort_nothing_comes_but_the_close(void)
{
    set_up(NULL, abort_at_the_first_message);
    client_write(&c, "\x81\x85\0\0\0\0again\x81\x85\0\0\0\0again\x89\x80\0\0\0\0", 28);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 1 && host_count(h, FDX_EV_PING) == 0);
    ended(1006, FDX_CLOSED_BY_HOST, "");
}

static void an_abort_that_meets_the_peers_close_gives_one_close_that_tells_either(void)
{
    set_up(NULL, abort_at_the_first_message);
    client_write(&c, "\x81\x85\0\0\0\0again\x81\x85\0\0\0\0again\x88\x80\0\0\0\0", 28);
    host_await(h, FDX_EV_CLOSE, 1);
    sleep_ms(50);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 1 && host_count(h, FDX_EV_CLOSE) == 1);
    client_drop(&c);
    host_end(h);
}

static void look_back(host *host_, const fdx_event *event)
{
    fdx_conn_info info = new_conn_info();
    char path[16];
    size_t needed;

    if (event->type != FDX_EV_CLOSE)
        return;
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(host_->server, event->conn, &info));
    CHECK(info.msgs_in == 1 && info.route == 7);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_send(host_->server, event->conn, FDX_TEXT, "late", 4, 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_request_get(host_->server, event->conn, ":path", path, sizeof path, &needed));
}

static void in_the_close_callback_the_books_are_still_open_but_nothing_can_be_sent(void)
{
    set_up(NULL, look_back);
    client_say(&c, "one");
    client_leave(&c);
    ended(1000, FDX_CLOSED_BY_PEER, "");
}

/* -- ping and pong ---------------------------------------------------------------------------- */

static void a_ping_is_answered_by_itself_and_told(void)
{
    set_up(NULL, nothing);
    client_send(&c, OP_PING, "are you there?", 14);
    CLIENT_EXPECT(&c, OP_PONG, "are you there?", 14);
    CHECK(strcmp(host_await(h, FDX_EV_PING, 1).data, "are you there?") == 0);
    client_leave(&c);
    ended(1000, FDX_CLOSED_BY_PEER, "");
}

static void a_pong_to_our_ping_is_told(void)
{
    set_up(NULL, nothing);
    CHECK_STATUS(FDX_OK, fdx_ping(h->server, conn, "marco", 5));
    CLIENT_EXPECT(&c, OP_PING, "marco", 5);
    client_send(&c, OP_PONG, "marco", 5);
    CHECK(strcmp(host_await(h, FDX_EV_PONG, 1).data, "marco") == 0);
    client_leave(&c);
    ended(1000, FDX_CLOSED_BY_PEER, "");
}

static void a_pong_that_nobody_asked_for_is_harmless(void)
{
    set_up(NULL, nothing);
    client_send(&c, OP_PONG, "polo", 4);
    client_say(&c, "hello");
    host_await(h, FDX_EV_MESSAGE, 1);
    client_leave(&c);
    ended(1000, FDX_CLOSED_BY_PEER, "");
}

int main(void)
{
    PROVE(a_peer_that_closes_is_answered_and_its_code_and_reason_are_told);
    PROVE(a_peer_that_closes_without_a_code_is_told_as_1005);
    PROVE(a_peer_that_hangs_up_without_a_close_is_told_as_1006);
    PROVE(a_peer_that_resets_is_told_as_1006);
    PROVE(a_broken_protocol_ends_with_1002_and_broken_text_with_1007);
    PROVE(a_message_over_the_limit_ends_with_1009);
    PROVE(a_silent_peer_is_closed_when_its_pong_is_overdue);
    PROVE(a_peer_that_answers_pings_stays);
    PROVE(an_idle_peer_is_closed_after_timeout_idle);
    PROVE(every_code_that_may_be_sent_is_sent);
    PROVE(code_zero_closes_without_a_code);
    PROVE(queued_messages_go_before_the_close);
    PROVE(after_a_close_every_call_knows_that_it_has_begun);
    PROVE(after_a_close_no_message_comes_any_more);
    PROVE(a_peer_that_never_answers_a_close_is_given_up_after_timeout_close);
    PROVE(a_peer_that_talks_on_does_not_put_off_timeout_close);
    PROVE(an_abort_ends_at_once_without_a_close_frame);
    PROVE(an_abort_cuts_a_close_short);
    PROVE(after_an_abort_nothing_comes_but_the_close);
    PROVE(an_abort_that_meets_the_peers_close_gives_one_close_that_tells_either);
    PROVE(in_the_close_callback_the_books_are_still_open_but_nothing_can_be_sent);
    PROVE(a_ping_is_answered_by_itself_and_told);
    PROVE(a_pong_to_our_ping_is_told);
    PROVE(a_pong_that_nobody_asked_for_is_harmless);
    return 0;
}
