/* A peer that does not read: what a sender is told, and what becomes of the peer. */
#include "check.h"

#define MESSAGE_LEN 16384
#define LIMIT (256 * 1024)

static host *h;
static client slow;
static fdx_conn conn;

static void set_up_with(const char *settings, const char *header_lines)
{
    h = host_start(settings, ON_USUAL, NULL, NULL);
    slow = client_dial_with(h->port, 8192);
    CHECK(slow.fd >= 0 && client_upgrade(&slow, "/", header_lines) == 101);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
}

static void set_up(const char *settings)
{
    set_up_with(settings, NULL);
}

struct sent {
    unsigned queued, high_water, refused;
    /* Before the last refusal. */
    fdx_conn_info info;
    fdx_stats stats;
    size_t drains;
};

static struct sent new_sent(void)
{
    struct sent sent;

    memset(&sent, 0, sizeof sent);
    sent.info = new_conn_info();
    sent.stats = new_stats();
    return sent;
}

/* Sends numbered messages, as fast as it can, until one is not queued; adds up what happened. */
static fdx_status send_until_refused(struct sent *sent)
{
    static char message[MESSAGE_LEN];
    char number[16];
    fdx_status status;

    for (;;) {
        CHECK(sent->queued < 100000);           /* 1.6 GB later, nobody has told us to wait */
        memset(message, '.', 16);
        snprintf(number, sizeof number, "%u ", sent->queued);
        memcpy(message, number, strlen(number));
        memset(message + 16, '.', sizeof message - 16);
        status = CALL(fdx_send(h->server, conn, FDX_TEXT, message, sizeof message, 0));
        if (status != FDX_OK && status != FDX_HIGH_WATER)
            break;
        sent->queued++;
        sent->high_water += status == FDX_HIGH_WATER;
    }
    sent->refused++;
    return status;
}

/* Fills the outbox and the sockets of both sides: a sender can be quicker than the shard, so it
 * goes on until nothing has moved for a while. What the server says of the connection is asked
 * between two refusals with nothing queued between them: so the outbox was full. */
static struct sent fill(void)
{
    struct sent sent = new_sent();
    unsigned before;

    if (send_until_refused(&sent) != FDX_E_FULL)
        return sent;
    do {
        before = sent.queued;
        sleep_ms(50);
        CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &sent.info));
        CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &sent.stats));
        sent.drains = host_count(h, FDX_EV_DRAIN);
    } while (send_until_refused(&sent) == FDX_E_FULL && sent.queued != before);
    return sent;
}

static void read_numbered(unsigned count)
{
    unsigned i, number;

    for (i = 0; i < count; i++) {
        CHECK(client_read(&slow) == OP_TEXT && slow.payload_len == MESSAGE_LEN);
        CHECK(sscanf((const char *)slow.payload, "%u", &number) == 1 && number == i);
    }
}

static void a_slow_reader_is_told_by_high_water_then_full_and_a_drain_follows(void)
{
    fdx_conn_info info = new_conn_info();
    struct sent sent;
    seen drain;

    set_up("send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n");
    sent = fill();
    CHECK(sent.high_water > 0);             /* warned before it was refused */
    CHECK(sent.info.queued_bytes > LIMIT - MESSAGE_LEN && sent.info.queued_bytes <= LIMIT + 16);
    CHECK(sent.info.dropped == sent.refused - 1);
    CHECK(sent.stats.dropped_msgs == sent.info.dropped && sent.stats.queued_bytes == sent.info.queued_bytes);
    CHECK(sent.stats.slow_closed == 0);

    read_numbered(sent.queued);             /* nothing is lost but what was refused */
    drain = host_await(h, FDX_EV_DRAIN, sent.drains + 1);
    CHECK(drain.conn == conn && drain.arg <= 16 * 1024);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "now it goes", 11, 0));
    CLIENT_EXPECT_TEXT(&slow, "now it goes");
    CHECK_SOON(fdx_conn_get_info(h->server, conn, &info) == FDX_OK && info.queued_bytes == 0);
    CHECK(info.msgs_out == (uint64_t)sent.queued + 1);
    client_leave(&slow);
    host_end(h);
}

/* The shard compresses meanwhile, which takes it longest of all that it does with a message. */
static void no_more_than_the_limit_waits_whatever_the_shard_is_doing_with_it(void)
{
    static unsigned char noise[LIMIT / 4 * 3];
    fdx_conn_info info = new_conn_info();
    uint32_t random = 1;
    size_t i;

    for (i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)((random = random * 1664525 + 1013904223) >> 24);
    set_up_with("send.high_water = 64k\nsend.limit = 256k\nsend.full = drop\ndeflate = shared\n",
                "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    /* On a busy machine the kernel still takes one after the other when the forty are over. */
    for (i = 0; i < 40 || info.queued_bytes < sizeof noise; i++) {
        while (CALL(fdx_send(h->server, conn, FDX_BINARY, noise, sizeof noise, 0)) != FDX_E_FULL) {}
        sleep_ms(5);
        CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
        CHECK(info.queued_bytes <= LIMIT);
    }
    client_drop(&slow);
    host_end(h);
}

static void each_time_it_fills_and_empties_there_is_one_drain(void)
{
    unsigned round;

    set_up("send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n");
    for (round = 1; round <= 3; round++) {
        struct sent sent = fill();
        read_numbered(sent.queued);
        host_await(h, FDX_EV_DRAIN, sent.drains + 1);
        sleep_ms(20);
        CHECK(host_count(h, FDX_EV_DRAIN) == sent.drains + 1);
    }
    client_leave(&slow);
    host_end(h);
}

static void without_high_water_there_is_no_drain(void)
{
    int i;

    set_up("send.high_water = 64k\n");
    for (i = 0; i < 100; i++) {
        CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "a small one", 11, 0));
        CLIENT_EXPECT_TEXT(&slow, "a small one");
    }
    client_leave(&slow);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(host_count(h, FDX_EV_DRAIN) == 0);
    host_end(h);
}

static void with_send_full_close_the_slow_reader_is_closed(void)
{
    fdx_stats stats = new_stats();
    struct sent sent = new_sent();
    fdx_status status;

    set_up("send.high_water = 64k\nsend.limit = 256k\nsend.full = close\ntimeout.close = 500ms\n");
    status = send_until_refused(&sent);
    CHECK(status == FDX_E_FULL && sent.high_water > 0);
    while (status == FDX_E_FULL)            /* who goes on sending closes nobody twice */
        status = send_until_refused(&sent);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_LIMIT);
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    CHECK(stats.slow_closed == 1);
    CHECK_SOON(fdx_send(h->server, conn, FDX_TEXT, "too late", 8, 0) == FDX_E_NO_CONN);
    client_drop(&slow);
    host_end(h);
}

static void a_message_over_the_whole_limit_is_too_big_and_the_next_one_goes(void)
{
    char *large = (char *)calloc(1, LIMIT + 1);
    fdx_msg *message = fdx_msg_new(FDX_BINARY, large, LIMIT + 1);

    set_up("send.limit = 256k\nsend.full = close\n");
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_send(h->server, conn, FDX_BINARY, large, LIMIT + 1, 0));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_send_msg(h->server, &conn, 1, message, 0, NULL));
    fdx_msg_unref(message);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "small", 5, 0));
    CLIENT_EXPECT_TEXT(&slow, "small");
    free(large);
    client_leave(&slow);
    host_end(h);
}

static void a_peer_that_never_reads_is_given_up_after_timeout_write_stall(void)
{
    int64_t begun;

    set_up("send.limit = 256k\nsend.full = drop\ntimeout.write_stall = 1s\n");
    fill();
    begun = now_ms();
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_TIMEOUT);
    CHECK(now_ms() - begun < 4000 || runs_slowly());
    client_drop(&slow);
    host_end(h);
}

static void closing_a_peer_that_never_reads_ends_after_timeout_close(void)
{
    set_up("send.limit = 256k\nsend.full = drop\ntimeout.close = 300ms\n");
    fill();
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_HOST);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == 1006);
    client_drop(&slow);
    host_end(h);
}

static void one_slow_reader_does_not_keep_the_others_waiting(void)
{
    client quick;
    fdx_conn quick_conn;
    int i;

    set_up("send.high_water = 64k\nsend.limit = 256k\nsend.full = drop\n");
    CHECK(fill().refused > 0);
    quick = client_open(h->port);
    quick_conn = host_await(h, FDX_EV_OPEN, 2).conn;
    for (i = 0; i < 100; i++) {
        CHECK_STATUS(FDX_OK, fdx_send(h->server, quick_conn, FDX_TEXT, "for you", 7, 0));
        CLIENT_EXPECT_TEXT(&quick, "for you");
    }
    client_leave(&quick);
    client_drop(&slow);
    host_end(h);
}

/* -- the other direction -------------------------------------------------------------------------- */

/* It has heard of everything that this thread has asked for. */
static void await_the_shard(void)
{
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "and now", 7, 0));
    CLIENT_EXPECT_TEXT(&slow, "and now");
}

static void a_paused_connection_says_nothing_until_it_is_resumed(void)
{
    char text[16];
    unsigned i;

    set_up(NULL);
    CHECK_STATUS(FDX_OK, fdx_pause(h->server, conn));
    CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_pause(h->server, conn));
    await_the_shard();
    for (i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "%u", i);
        client_say(&slow, text);
    }
    sleep_ms(200);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "sending goes on", 15, 0));
    CLIENT_EXPECT_TEXT(&slow, "sending goes on");
    CHECK_STATUS(FDX_OK, fdx_resume(h->server, conn));
    CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_resume(h->server, conn));
    for (i = 0; i < 100; i++)
        CHECK((unsigned)atoi(host_await(h, FDX_EV_MESSAGE, i + 1).data) == i);
    client_leave(&slow);
    host_end(h);
}

static void pause_at_the_first_message(host *host_, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE && event->data[0] == '1')
        CHECK_STATUS(FDX_OK, fdx_pause(host_->server, event->conn));
}

static void a_pause_inside_a_message_holds_back_what_comes_later(void)
{
    unsigned i;
    char text[2] = "1";

    h = host_start(NULL, ON_USUAL, pause_at_the_first_message, NULL);
    slow = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    client_say(&slow, text);
    host_await(h, FDX_EV_MESSAGE, 1);
    sleep_ms(50);                           /* what was read together with it would still come */
    for (i = 2; i <= 9; i++) {
        text[0] = (char)('0' + i);
        client_say(&slow, text);
    }
    sleep_ms(100);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 1);
    CHECK_STATUS(FDX_OK, fdx_resume(h->server, conn));
    for (i = 1; i <= 9; i++)
        CHECK((unsigned)atoi(host_await(h, FDX_EV_MESSAGE, i).data) == i);
    client_leave(&slow);
    host_end(h);
}

static void a_paused_connection_can_be_closed_and_ends(void)
{
    set_up("timeout.close = 300ms\n");
    CHECK_STATUS(FDX_OK, fdx_pause(h->server, conn));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 1000, "bye", FDX_NTS));
    CLIENT_EXPECT_CLOSE(&slow, 1000, "bye");
    client_send_close(&slow, 1000, "");
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_HOST);
    client_drop(&slow);
    host_end(h);
}

static void a_peer_that_writes_into_a_pause_is_slowed_down_not_buffered(void)
{
    static char bulk[65536];
    struct timeval soon;
    unsigned i, written = 0;

    set_up(NULL);
    CHECK_STATUS(FDX_OK, fdx_pause(h->server, conn));
    await_the_shard();
    soon.tv_sec = 0;
    soon.tv_usec = 300000;
    setsockopt(slow.fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    for (i = 0; i < 1000; i++) {            /* 64 MiB, more than any socket buffer holds */
        if (!client_try_frame(&slow, 0x80 | OP_BINARY, bulk, sizeof bulk, 1))
            break;
        written++;
    }
    CHECK(written < 1000);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    client_drop(&slow);
    host_end(h);
}

static unsigned pings;

/* Within a callback nothing leaves, so every ping must find room in the outbox. */
static void ping_until_full(host *own, const fdx_event *event)
{
    static const char payload[125] = { 0 };

    if (event->type != FDX_EV_MESSAGE)
        return;
    while (fdx_ping(own->server, event->conn, payload, sizeof payload) == FDX_OK) {
        pings++;
        CHECK(pings < 10 * LIMIT / sizeof payload);
    }
}

static void pings_of_the_host_fill_the_outbox_and_no_more_than_that(void)
{
    client c;

    pings = 0;
    h = host_start("send.limit = 256k\n", ON_USUAL, ping_until_full, NULL);
    c = client_open(h->port);
    client_say(&c, "now");
    CHECK(client_read(&c) == OP_PING && c.payload_len == 125);
    CHECK(pings > LIMIT / 2 / 127 && pings <= LIMIT / 127 + 1);
    client_drop(&c);
    host_end(h);
}

int main(void)
{
    PROVE(a_slow_reader_is_told_by_high_water_then_full_and_a_drain_follows);
    PROVE(no_more_than_the_limit_waits_whatever_the_shard_is_doing_with_it);
    PROVE(each_time_it_fills_and_empties_there_is_one_drain);
    PROVE(without_high_water_there_is_no_drain);
    PROVE(with_send_full_close_the_slow_reader_is_closed);
    PROVE(a_message_over_the_whole_limit_is_too_big_and_the_next_one_goes);
    PROVE(a_peer_that_never_reads_is_given_up_after_timeout_write_stall);
    PROVE(closing_a_peer_that_never_reads_ends_after_timeout_close);
    PROVE(one_slow_reader_does_not_keep_the_others_waiting);
    PROVE(a_paused_connection_says_nothing_until_it_is_resumed);
    PROVE(a_pause_inside_a_message_holds_back_what_comes_later);
    PROVE(a_paused_connection_can_be_closed_and_ends);
    PROVE(a_peer_that_writes_into_a_pause_is_slowed_down_not_buffered);
    PROVE(pings_of_the_host_fill_the_outbox_and_no_more_than_that);
    return 0;
}
