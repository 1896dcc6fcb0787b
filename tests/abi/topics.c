/* Topics: who is in them gets what is published there, from any thread and in any callback. */
#include "check.h"

#define FIN 0x80
#define MEMBERS 12
#define GROWTH_MAX (2 * 1024 * 1024)
/* Nothing is dropped however far a reader is behind. */
#define ROOMY "send.limit = 256m\nsend.high_water = 128m\n"

static host *h;

typedef struct member { client c; fdx_conn conn; } member;

/* A client that is open, the nth of this server. */
static member member_open(size_t nth)
{
    member m;

    m.c = client_open(h->port);
    m.conn = host_await(h, FDX_EV_OPEN, nth).conn;
    return m;
}

static member member_in(size_t nth, const char *topic)
{
    member m = member_open(nth);

    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, topic, FDX_NTS));
    return m;
}

static fdx_publish_result new_publish_result(void)
{
    fdx_publish_result result;

    memset(&result, 0, sizeof result);
    result.struct_size = sizeof result;
    return result;
}

static fdx_publish_result publish_bytes(const char *topic, uint32_t kind, const void *data, size_t len, uint32_t flags, fdx_conn sender)
{
    fdx_publish_result result = new_publish_result();
    fdx_msg *message = fdx_msg_new(kind, data, len);

    CHECK(message != NULL);
    CHECK_STATUS(FDX_OK, fdx_publish(h->server, topic, FDX_NTS, message, flags, sender, &result));
    CHECK(result.struct_size == sizeof result);
    fdx_msg_unref(message);
    return result;
}

static fdx_publish_result publish(const char *topic, const char *text)
{
    return publish_bytes(topic, FDX_TEXT, text, strlen(text), 0, 0);
}

#define CHECK_OUTCOME(is_queued, is_high, is_dropped, call) check_outcome(__LINE__, #call, (is_queued), (is_high), (is_dropped), (call))

static void check_outcome(int line, const char *call, uint64_t queued, uint64_t high_water, uint64_t dropped, fdx_publish_result got)
{
    if (got.queued == queued && got.high_water == high_water && got.dropped == dropped)
        return;
    fprintf(stderr, "%s:%d: in %s: %s gave %u queued, %u over the high water, %u dropped\n", __FILE__, line, current_test, call,
            (unsigned)got.queued, (unsigned)got.high_water, (unsigned)got.dropped);
    fflush(stderr);
    _exit(1);
}

static uint64_t subscribers_of(const char *topic)
{
    uint64_t count = 99;

    CHECK_STATUS(FDX_OK, fdx_topic_count(h->server, topic, FDX_NTS, &count));
    return count;
}

static int nobody_is_in_any_topic(void)
{
    fdx_stats stats = new_stats();

    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    return stats.topics == 0 && stats.subscriptions == 0;
}

/* -- who gets what ------------------------------------------------------------------------------------ */

static void who_is_in_a_topic_gets_what_is_published_there_and_nobody_else(void)
{
    member one, two, other;
    fdx_stats stats = new_stats();

    h = host_start("threads = 2\n", ON_USUAL, NULL, NULL);
    one = member_in(1, "tea");
    two = member_in(2, "tea");
    other = member_in(3, "coffee");
    CHECK(subscribers_of("tea") == 2 && subscribers_of("coffee") == 1 && subscribers_of("milk") == 0);
    CHECK_OUTCOME(2, 0, 0, publish("tea", "gr\xc3\xbc\xc3\x9f"));
    CHECK_OUTCOME(2, 0, 0, publish_bytes("tea", FDX_BINARY, "\0\xff", 2, 0, 0));
    CHECK_OUTCOME(2, 0, 0, publish("tea", ""));
    CHECK_OUTCOME(1, 0, 0, publish("coffee", "for me"));
    CHECK_OUTCOME(0, 0, 0, publish("milk", "for nobody"));
    CLIENT_EXPECT_TEXT(&one.c, "gr\xc3\xbc\xc3\x9f");
    CLIENT_EXPECT(&one.c, OP_BINARY, "\0\xff", 2);
    CLIENT_EXPECT_TEXT(&one.c, "");
    CLIENT_EXPECT_TEXT(&two.c, "gr\xc3\xbc\xc3\x9f");
    CLIENT_EXPECT(&two.c, OP_BINARY, "\0\xff", 2);
    CLIENT_EXPECT_TEXT(&two.c, "");
    CLIENT_EXPECT_TEXT(&other.c, "for me");
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    CHECK(stats.topics == 2 && stats.subscriptions == 3);
    client_leave(&one.c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK_OUTCOME(1, 0, 0, publish("tea", "alone"));
    CLIENT_EXPECT_TEXT(&two.c, "alone");
    client_leave(&two.c);
    client_leave(&other.c);
    host_await(h, FDX_EV_CLOSE, 3);
    CHECK(nobody_is_in_any_topic());
    host_end(h);
}

static void check_is_no_name(const char *name, size_t len)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "x", 1);
    uint64_t count;

    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_subscribe(h->server, 1, name, len));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_unsubscribe(h->server, 1, name, len));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, name, len, message, 0, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_topic_count(h->server, name, len, &count));
    fdx_msg_unref(message);
}

static void a_name_is_1_to_255_bytes_of_any_kind(void)
{
    static const struct { const char *bytes; size_t len; } good[] = {
        { "a", 1 }, { "a\0b", 3 }, { "a\0c", 3 }, { "\0", 1 }, { "\0\0", 2 }, { "\xff\xfe", 2 }, { "*", 1 },
    };
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "x", 1);
    char longest[257];
    uint64_t count;
    member m;
    size_t i;

    memset(longest, 'x', sizeof longest);
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    m = member_open(1);
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, good[i].bytes, good[i].len));
        CHECK_STATUS(FDX_OK, fdx_topic_count(h->server, good[i].bytes, good[i].len, &count));
        CHECK(count == 1);
    }
    CHECK_STATUS(FDX_ALREADY, fdx_subscribe(h->server, m.conn, "a", FDX_NTS));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, longest, 255));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, longest, 254));
    check_is_no_name("", 0);
    check_is_no_name(NULL, 0);
    check_is_no_name(NULL, 5);
    check_is_no_name("", FDX_NTS);
    check_is_no_name(longest, 256);
    longest[256] = '\0';
    check_is_no_name(longest, FDX_NTS);
    longest[255] = '\0';
    CHECK_STATUS(FDX_ALREADY, fdx_subscribe(h->server, m.conn, longest, FDX_NTS));
    CHECK_STATUS(FDX_OK, fdx_publish(h->server, "a\0b", 3, message, 0, 0, NULL));
    CLIENT_EXPECT_TEXT(&m.c, "x");      /* once: none of the others is meant */
    client_leave(&m.c);
    fdx_msg_unref(message);
    host_end(h);
}

static void joining_twice_and_leaving_twice_is_said(void)
{
    member m;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    m = member_open(1);
    CHECK_STATUS(FDX_ALREADY, fdx_unsubscribe(h->server, m.conn, "tea", 3));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "tea", 3));
    CHECK_STATUS(FDX_ALREADY, fdx_subscribe(h->server, m.conn, "tea", 3));
    CHECK_OUTCOME(1, 0, 0, publish("tea", "once"));
    CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, m.conn, "tea", 3));
    CHECK_STATUS(FDX_ALREADY, fdx_unsubscribe(h->server, m.conn, "tea", 3));
    CHECK_OUTCOME(0, 0, 0, publish("tea", "never"));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "tea", 3));
    CHECK_OUTCOME(1, 0, 0, publish("tea", "again"));
    CLIENT_EXPECT_TEXT(&m.c, "once");
    CLIENT_EXPECT_TEXT(&m.c, "again");
    client_leave(&m.c);
    host_end(h);
}

static void only_an_open_connection_joins(void)
{
    client undecided;
    fdx_conn conn;
    member m;

    h = host_start(NULL, ON_USUAL | ON_UPGRADE, NULL, NULL);
    undecided = client_dial(h->port);
    client_ask(&undecided, "/", NULL);
    conn = host_await(h, FDX_EV_UPGRADE, 1).conn;
    CHECK_STATUS(FDX_E_STATE, fdx_subscribe(h->server, conn, "tea", 3));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_subscribe(h->server, 0, "tea", 3));
    CHECK_STATUS(FDX_E_NO_CONN, fdx_unsubscribe(h->server, 12345, "tea", 3));
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK(client_read_head(&undecided) == 101);
    m.c = undecided;
    m.conn = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "tea", 3));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, m.conn, 1000, "", 0));
    CHECK_STATUS(FDX_E_CLOSING, fdx_subscribe(h->server, m.conn, "coffee", 6));
    CHECK_OUTCOME(0, 0, 0, publish("tea", "too late"));
    CLIENT_EXPECT_CLOSE(&m.c, 1000, "");
    client_send_close(&m.c, 1000, "");
    CLIENT_EXPECT_END(&m.c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK_SOON(fdx_subscribe(h->server, m.conn, "tea", 3) == FDX_E_NO_CONN);
    CHECK_STATUS(FDX_E_NO_CONN, fdx_unsubscribe(h->server, m.conn, "tea", 3));
    CHECK(nobody_is_in_any_topic());
    client_drop(&m.c);
    host_end(h);
}

static void over_max_topics_a_connection_joins_no_more(void)
{
    member one, two;

    h = host_start("max.topics = 2\n", ON_USUAL, NULL, NULL);
    one = member_in(1, "a");
    two = member_in(2, "a");
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, one.conn, "b", 1));
    CHECK_STATUS(FDX_E_LIMIT, fdx_subscribe(h->server, one.conn, "c", 1));
    CHECK_STATUS(FDX_ALREADY, fdx_subscribe(h->server, one.conn, "b", 1));
    CHECK(subscribers_of("c") == 0);
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, two.conn, "c", 1));
    CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, one.conn, "a", 1));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, one.conn, "c", 1));
    CHECK(subscribers_of("c") == 2);
    client_leave(&one.c);
    client_leave(&two.c);
    host_end(h);
}

static void who_publishes_can_be_left_out(void)
{
    member one, two;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    one = member_in(1, "tea");
    two = member_in(2, "tea");
    CHECK_OUTCOME(1, 0, 0, publish_bytes("tea", FDX_TEXT, "not for one", 11, FDX_F_SKIP_SENDER, one.conn));
    CHECK_OUTCOME(2, 0, 0, publish_bytes("tea", FDX_TEXT, "to both", 7, 0, one.conn));
    CHECK_OUTCOME(2, 0, 0, publish_bytes("tea", FDX_TEXT, "from nobody", 11, FDX_F_SKIP_SENDER, 0));
    CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, one.conn, "tea", 3));
    CHECK_OUTCOME(1, 0, 0, publish_bytes("tea", FDX_TEXT, "from outside", 12, FDX_F_SKIP_SENDER, one.conn));
    CLIENT_EXPECT_TEXT(&one.c, "to both");
    CLIENT_EXPECT_TEXT(&one.c, "from nobody");
    CLIENT_EXPECT_TEXT(&two.c, "not for one");
    CLIENT_EXPECT_TEXT(&two.c, "to both");
    CLIENT_EXPECT_TEXT(&two.c, "from nobody");
    CLIENT_EXPECT_TEXT(&two.c, "from outside");
    client_leave(&one.c);
    client_leave(&two.c);
    host_end(h);
}

static void a_publish_that_can_not_be_is_refused(void)
{
    struct { fdx_publish_result result; unsigned char later[16]; } larger;
    fdx_publish_result result = new_publish_result();
    fdx_config *config = new_config("send.limit = 64k\n");
    fdx_server *unstarted = new_server(config);
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "x", 1), *big;
    char *bytes = (char *)calloc(1, 65537);
    member m;

    CHECK_STATUS(FDX_E_STATE, fdx_publish(unstarted, "tea", 3, message, 0, 0, NULL));
    fdx_server_unref(unstarted);
    fdx_config_free(config);
    h = host_start("send.limit = 64k\n", ON_USUAL, NULL, NULL);
    m = member_in(1, "tea");
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(NULL, "tea", 3, message, 0, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "tea", 3, NULL, 0, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "tea", 3, message, FDX_F_MORE, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "tea", 3, message, FDX_F_COMPRESS | FDX_F_NO_COMPRESS, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "tea", 3, message, 0x80000000u, 0, NULL));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_topic_count(h->server, "tea", 3, NULL));
    result.struct_size = 4;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "tea", 3, message, 0, 0, &result));
    big = fdx_msg_new(FDX_BINARY, bytes, 65537);
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_publish(h->server, "tea", 3, big, 0, 0, NULL));
    fdx_msg_unref(big);
    free(bytes);
    memset(&larger, 0x5a, sizeof larger);
    larger.result.struct_size = sizeof larger;
    CHECK_STATUS(FDX_OK, fdx_publish(h->server, "tea", 3, message, FDX_F_COMPRESS, 0, &larger.result));
    CHECK(larger.result.struct_size == sizeof larger && larger.result.queued == 1 && larger.result.dropped == 0);
    CLIENT_EXPECT_TEXT(&m.c, "x");      /* what was refused was not sent */
    client_leave(&m.c);
    fdx_msg_unref(message);
    host_end(h);
}

/* -- what becomes of it ----------------------------------------------------------------------------------- */

#define MESSAGE_LEN 16384

/* Publishes numbered messages until nobody takes one; adds up. */
static void publish_until_dropped(unsigned *queued, unsigned *high_water, unsigned *dropped)
{
    static char message[MESSAGE_LEN];
    fdx_publish_result result;

    for (;;) {
        CHECK(*queued < 100000);
        memset(message, '.', sizeof message);
        message[snprintf(message, 16, "%u", *queued)] = ' ';
        result = publish_bytes("tea", FDX_TEXT, message, sizeof message, 0, 0);
        CHECK(result.queued + result.high_water + result.dropped == 1);
        *high_water += result.high_water == 1;
        if (result.dropped)
            break;
        ++*queued;
    }
    ++*dropped;
}

static member slow_member_in(size_t nth, const char *topic)
{
    member m;

    m.c = client_dial_with(h->port, 8192);
    CHECK(m.c.fd >= 0 && client_upgrade(&m.c, "/", NULL) == 101);
    m.conn = host_await(h, FDX_EV_OPEN, nth).conn;
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, topic, FDX_NTS));
    return m;
}

static void a_slow_subscriber_is_counted_by_high_water_then_dropped_and_a_drain_follows(void)
{
    static const char zeros[MESSAGE_LEN] = "";
    unsigned queued = 0, high_water = 0, dropped = 0, before, number, i;
    fdx_conn_info info = new_conn_info();
    member slow, quick;
    size_t drains;

    h = host_start("send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n", ON_USUAL, NULL, NULL);
    slow = slow_member_in(1, "tea");
    quick = member_open(2);
    do {                                /* until nothing has moved for a while, in which the shard did run */
        before = queued;
        publish_until_dropped(&queued, &high_water, &dropped);
        sleep_ms(50);
        CHECK_STATUS(FDX_OK, fdx_send(h->server, quick.conn, FDX_TEXT, "not yet", 7, 0));
        CLIENT_EXPECT_TEXT(&quick.c, "not yet");
        CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, slow.conn, &info));
    } while (queued != before || info.queued_bytes <= 256 * 1024 - MESSAGE_LEN);
    CHECK(high_water > 0);
    /* Some may have been dropped because the shard was behind, before its connection was. */
    CHECK(info.dropped > 0 && info.dropped <= dropped);
    CHECK(info.queued_bytes <= 256 * 1024 + 16);
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, quick.conn, "tea", FDX_NTS));
    CHECK_OUTCOME(1, 0, 1, publish_bytes("tea", FDX_BINARY, zeros, sizeof zeros, 0, 0));
    CLIENT_EXPECT(&quick.c, OP_BINARY, zeros, sizeof zeros);
    drains = host_count(h, FDX_EV_DRAIN);
    for (i = 0; i < queued; i++) {      /* nothing is lost but what was dropped */
        CHECK(client_read(&slow.c) == OP_TEXT && slow.c.payload_len == MESSAGE_LEN);
        CHECK(sscanf((const char *)slow.c.payload, "%u", &number) == 1 && number == i);
    }
    CHECK(host_await(h, FDX_EV_DRAIN, drains + 1).conn == slow.conn);
    CHECK_OUTCOME(2, 0, 0, publish("tea", "now it goes"));
    CLIENT_EXPECT_TEXT(&slow.c, "now it goes");
    client_leave(&slow.c);
    client_leave(&quick.c);
    host_end(h);
}

static void with_send_full_close_a_slow_subscriber_is_closed_and_the_others_go_on(void)
{
    static const char zeros[MESSAGE_LEN] = "";
    fdx_stats stats = new_stats();
    member slow, quick;
    seen end;

    h = host_start("send.high_water = 64k\nsend.limit = 256k\nsend.full = close\ntimeout.close = 500ms\n", ON_USUAL, NULL, NULL);
    slow = slow_member_in(1, "tea");
    while (host_count(h, FDX_EV_CLOSE) == 0)
        publish_bytes("tea", FDX_BINARY, zeros, sizeof zeros, 0, 0);
    quick = member_in(2, "tea");
    end = host_await(h, FDX_EV_CLOSE, 1);
    CHECK(end.conn == slow.conn && end.arg == FDX_CLOSED_BY_LIMIT);
    CHECK(subscribers_of("tea") == 1);
    CHECK_OUTCOME(1, 0, 0, publish("tea", "for the quick"));
    CLIENT_EXPECT_TEXT(&quick.c, "for the quick");
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats));
    CHECK(stats.slow_closed == 1);
    client_drop(&slow.c);
    client_leave(&quick.c);
    host_end(h);
}

static void who_is_in_the_middle_of_a_message_in_pieces_does_not_get_it(void)
{
    member m;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    m = member_in(1, "tea");
    CHECK_STATUS(FDX_OK, fdx_send(h->server, m.conn, FDX_TEXT, "one ", 4, FDX_F_MORE));
    CHECK_OUTCOME(0, 0, 1, publish("tea", "in between"));
    CHECK_STATUS(FDX_OK, fdx_send(h->server, m.conn, FDX_TEXT, "two", 3, 0));
    CHECK_OUTCOME(1, 0, 0, publish("tea", "behind it"));
    CHECK(client_read(&m.c) == OP_TEXT && !m.c.fin);
    CHECK(client_read(&m.c) == OP_CONTINUATION && m.c.fin);
    CLIENT_EXPECT_TEXT(&m.c, "behind it");
    client_leave(&m.c);
    host_end(h);
}

static void a_hixie_connection_gets_texts_alone(void)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
                                  "Origin: http://a.example\r\n\r\n";
    char heard[6];
    client c;
    fdx_conn conn;
    member today;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_dial(h->port);
    client_write(&c, request, sizeof request - 1);
    CHECK(client_read_head(&c) == 101);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, conn, "tea", 3));
    today = member_in(2, "tea");
    CHECK_OUTCOME(1, 0, 1, publish_bytes("tea", FDX_BINARY, "\0", 1, 0, 0));
    CHECK_OUTCOME(2, 0, 0, publish("tea", "text"));
    CHECK(client_read_exactly(&c, heard, 6) && memcmp(heard, "\0text\xff", 6) == 0);
    CLIENT_EXPECT(&today.c, OP_BINARY, "\0", 1);
    CLIENT_EXPECT_TEXT(&today.c, "text");
    client_leave(&today.c);
    client_drop(&c);
    host_end(h);
}

/* -- order -------------------------------------------------------------------------------------------------- */

/* Numbers from 0, by sends and publishes in turn, and a close behind them. */
static void send_and_publish_in_turn(fdx_conn conn, unsigned count)
{
    char text[16];
    unsigned i;

    for (i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%u", i);
        if (i % 3 == 0)
            CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, text, strlen(text), 0));
        else
            CHECK_OUTCOME(1, 0, 0, publish(i % 3 == 1 ? "tea" : "coffee", text));
    }
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 4000, "all said", FDX_NTS));
}

static void expect_in_turn(member *m, unsigned count)
{
    char text[16];
    unsigned i;

    for (i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%u", i);
        CLIENT_EXPECT_TEXT(&m->c, text);
    }
    CLIENT_EXPECT_CLOSE(&m->c, 4000, "all said");
    client_drop(&m->c);
}

static void what_one_thread_sends_publishes_and_closes_comes_in_its_order(void)
{
    member m;

    h = host_start(ROOMY, ON_USUAL, NULL, NULL);
    m = member_in(1, "tea");
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "coffee", 6));
    send_and_publish_in_turn(m.conn, 3000);
    expect_in_turn(&m, 3000);
    host_end(h);
}

static void speak_in_turn(host *own, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        send_and_publish_in_turn(__atomic_load_n((fdx_conn *)own->user, __ATOMIC_SEQ_CST), 500);
}

static void what_a_callback_sends_publishes_and_closes_comes_in_its_order(void)
{
    fdx_conn target = 0;
    unsigned across;

    for (across = 0; across < 2; across++) {    /* to its own connection, and to one of perhaps another shard */
        member m, other;

        h = host_start(ROOMY "threads = 2\n", ON_USUAL, speak_in_turn, &target);
        m = member_in(1, "tea");
        CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "coffee", 6));
        other = member_open(2);
        __atomic_store_n(&target, m.conn, __ATOMIC_SEQ_CST);
        client_say(across ? &other.c : &m.c, "speak");
        expect_in_turn(&m, 500);
        client_drop(&other.c);
        host_end(h);
    }
}

static void who_leaves_still_gets_what_was_published_before_and_nothing_later(void)
{
    char text[16];
    unsigned round, i, number = 0;
    member m;

    h = host_start(ROOMY, ON_USUAL, NULL, NULL);
    m = member_open(1);
    for (round = 0; round < times(50, 5); round++) {
        CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, "tea", 3));
        for (i = 0; i < 20; i++, number++) {
            snprintf(text, sizeof text, "%u", number);
            CHECK_OUTCOME(1, 0, 0, publish("tea", text));
        }
        CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, m.conn, "tea", 3));
        for (i = 0; i < 20; i++)
            CHECK_OUTCOME(0, 0, 0, publish("tea", "too late"));
    }
    for (i = 0; i < number; i++) {
        snprintf(text, sizeof text, "%u", i);
        CLIENT_EXPECT_TEXT(&m.c, text);
    }
    CHECK_STATUS(FDX_OK, fdx_send(h->server, m.conn, FDX_TEXT, "the end", 7, 0));
    CLIENT_EXPECT_TEXT(&m.c, "the end");
    client_leave(&m.c);
    host_end(h);
}

static void a_member_gets_each_message_once_on_every_shard(void)
{
    member members[MEMBERS];
    char text[16];
    unsigned i, k, messages = times(2000, 50);

    h = host_start(ROOMY "threads = 3\n", ON_USUAL, NULL, NULL);
    for (k = 0; k < MEMBERS; k++)
        members[k] = member_in(k + 1, "tea");
    for (i = 0; i < messages; i++) {
        snprintf(text, sizeof text, "%u", i);
        CHECK_OUTCOME(MEMBERS, 0, 0, publish("tea", text));
    }
    for (k = 0; k < MEMBERS; k++) {
        for (i = 0; i < messages; i++) {
            snprintf(text, sizeof text, "%u", i);
            CLIENT_EXPECT_TEXT(&members[k].c, text);
        }
        client_leave(&members[k].c);
    }
    host_end(h);
}

/* -- in callbacks ----------------------------------------------------------------------------------------- */

static void join_publish_and_leave(host *own, const fdx_event *event)
{
    switch (event->type) {
    case FDX_EV_OPEN:
        CHECK_STATUS(FDX_OK, fdx_subscribe(own->server, event->conn, "tea", 3));
        CHECK_OUTCOME(1, 0, 0, publish("tea", "come in"));
        break;
    case FDX_EV_MESSAGE:
        CHECK_OUTCOME(1, 0, 0, publish("tea", "before"));
        CHECK_STATUS(FDX_OK, fdx_unsubscribe(own->server, event->conn, "tea", 3));
        CHECK_OUTCOME(0, 0, 0, publish("tea", "after"));
        CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, "out", 3, 0));
        CHECK_STATUS(FDX_OK, fdx_subscribe(own->server, event->conn, "tea", 3));
        CHECK_OUTCOME(0, 0, 0, publish_bytes("tea", FDX_TEXT, "not back", 8, FDX_F_SKIP_SENDER, event->conn));
        CHECK_OUTCOME(1, 0, 0, publish("tea", "in again"));
        break;
    case FDX_EV_CLOSE:
        CHECK(subscribers_of("tea") == 0);
        CHECK_ANY2(FDX_E_NO_CONN, FDX_E_CLOSING, fdx_subscribe(own->server, event->conn, "tea", 3));
        CHECK_ANY2(FDX_E_NO_CONN, FDX_ALREADY, fdx_unsubscribe(own->server, event->conn, "tea", 3));
        CHECK_OUTCOME(0, 0, 0, publish("tea", "to nobody"));
        break;
    default:
        break;
    }
}

static void every_callback_may_join_publish_and_leave_and_nobody_joins_in_close(void)
{
    member m;

    h = host_start(NULL, ON_USUAL, join_publish_and_leave, NULL);
    m = member_open(1);
    CLIENT_EXPECT_TEXT(&m.c, "come in");
    client_say(&m.c, "go on");
    CLIENT_EXPECT_TEXT(&m.c, "before");
    CLIENT_EXPECT_TEXT(&m.c, "out");
    CLIENT_EXPECT_TEXT(&m.c, "in again");
    client_leave(&m.c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(nobody_is_in_any_topic());
    host_end(h);
}

/* -- FDX_EV_TOPIC --------------------------------------------------------------------------------------------- */

static void check_change(size_t nth, fdx_conn conn, const char *topic, size_t len, int code, uint64_t subscribers)
{
    seen change = host_await(h, FDX_EV_TOPIC, nth);

    CHECK(change.conn == conn && change.route == 7 && change.code == code && change.arg == subscribers);
    CHECK(change.len == len && memcmp(change.data, topic, len) == 0);
}

/* Of one connection, TOPIC events stand between its OPEN and its CLOSE. */
static void check_topic_events_are_of_the_open_life(void)
{
    size_t i, k;

    pthread_mutex_lock(&h->lock);
    for (i = 0; i < h->count; i++) {
        if (h->events[i].type != FDX_EV_TOPIC)
            continue;
        for (k = 0; k < h->count; k++) {
            if (h->events[k].conn == h->events[i].conn && h->events[k].type == FDX_EV_OPEN)
                CHECK(k < i);
            if (h->events[k].conn == h->events[i].conn && h->events[k].type == FDX_EV_CLOSE)
                CHECK(i < k);
        }
    }
    pthread_mutex_unlock(&h->lock);
}

static void joining_and_leaving_is_told_to_who_asked_and_the_end_comes_before_the_close(void)
{
    member one, two;

    h = host_start_with(NULL, ON_USUAL, FDX_ROUTE_TOPIC, NULL, NULL);
    one = member_in(1, "tea");
    check_change(1, one.conn, "tea", 3, FDX_TOPIC_JOINED, 1);
    two = member_open(2);
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, two.conn, "a\0b", 3));
    check_change(2, two.conn, "a\0b", 3, FDX_TOPIC_JOINED, 1);
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, two.conn, "tea", 3));
    CHECK_STATUS(FDX_ALREADY, fdx_subscribe(h->server, two.conn, "tea", 3));
    check_change(3, two.conn, "tea", 3, FDX_TOPIC_JOINED, 2);
    CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, one.conn, "tea", 3));
    CHECK_STATUS(FDX_ALREADY, fdx_unsubscribe(h->server, one.conn, "tea", 3));
    check_change(4, one.conn, "tea", 3, FDX_TOPIC_LEFT, 1);
    client_leave(&one.c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(host_count(h, FDX_EV_TOPIC) == 4);
    client_reset(&two.c);
    host_await(h, FDX_EV_CLOSE, 2);
    CHECK(host_count(h, FDX_EV_TOPIC) == 6);
    CHECK(host_await(h, FDX_EV_TOPIC, 5).code == FDX_TOPIC_LEFT && host_await(h, FDX_EV_TOPIC, 6).code == FDX_TOPIC_LEFT);
    CHECK(host_await(h, FDX_EV_TOPIC, 5).arg == 0 && host_await(h, FDX_EV_TOPIC, 6).arg == 0);
    check_topic_events_are_of_the_open_life();
    host_end(h);
}

static void nobody_is_told_who_did_not_ask(void)
{
    member m;

    h = host_start(NULL, ON_USUAL, NULL, NULL);
    m = member_in(1, "tea");
    client_leave(&m.c);
    host_await(h, FDX_EV_CLOSE, 1);
    CHECK(host_count(h, FDX_EV_TOPIC) == 0);
    host_end(h);
}

static void say_who_comes_and_goes(host *own, const fdx_event *event)
{
    char text[64];

    if (event->type != FDX_EV_TOPIC)
        return;
    snprintf(text, sizeof text, "%s %u", event->code == FDX_TOPIC_JOINED ? "joined" : "left", (unsigned)event->arg);
    publish("tea", text);
    if (event->arg == 3)                /* one too many */
        CHECK_STATUS(FDX_OK, fdx_unsubscribe(own->server, event->conn, "tea", 3));
}

static void a_change_may_be_published_and_undone_where_it_is_told(void)
{
    member one, two, three;

    h = host_start_with(NULL, ON_USUAL, FDX_ROUTE_TOPIC, say_who_comes_and_goes, NULL);
    one = member_in(1, "tea");
    CLIENT_EXPECT_TEXT(&one.c, "joined 1");
    two = member_in(2, "tea");
    CLIENT_EXPECT_TEXT(&one.c, "joined 2");
    three = member_in(3, "tea");
    CLIENT_EXPECT_TEXT(&one.c, "joined 3");
    CLIENT_EXPECT_TEXT(&one.c, "left 2");
    CLIENT_EXPECT_TEXT(&three.c, "joined 3");
    CHECK(client_hears_nothing(&three.c, 20));
    client_leave(&three.c);
    client_reset(&two.c);
    CLIENT_EXPECT_TEXT(&one.c, "left 1");
    client_leave(&one.c);
    host_await(h, FDX_EV_CLOSE, 3);
    check_topic_events_are_of_the_open_life();
    host_end(h);
}

/* Each coming is told, and then its going. */
static void check_comings_and_goings(fdx_conn conn)
{
    size_t i;
    int is_in = 0;

    pthread_mutex_lock(&h->lock);
    for (i = 0; i < h->count; i++) {
        if (h->events[i].type != FDX_EV_TOPIC || h->events[i].conn != conn)
            continue;
        CHECK(is_in == (h->events[i].code == FDX_TOPIC_LEFT));
        is_in = !is_in;
    }
    pthread_mutex_unlock(&h->lock);
    CHECK(!is_in);
}

static void each_coming_is_told_and_then_its_going_however_soon_the_end_comes(void)
{
    unsigned round;

    h = host_start_with("threads = 2\n", ON_USUAL, FDX_ROUTE_TOPIC, NULL, NULL);
    for (round = 1; round <= times(300, 20); round++) {
        member m = member_in(round, "tea");

        /* What is asked for now meets the end of the connection. */
        client_reset(&m.c);
        CHECK_ANY3(FDX_OK, FDX_ALREADY, FDX_E_NO_CONN, fdx_unsubscribe(h->server, m.conn, "tea", 3));
        if (round % 2)
            CHECK_ANY3(FDX_OK, FDX_E_NO_CONN, FDX_E_CLOSING, fdx_subscribe(h->server, m.conn, "coffee", 6));
        host_await(h, FDX_EV_CLOSE, round);
        check_comings_and_goings(m.conn);
    }
    CHECK(nobody_is_in_any_topic());
    check_topic_events_are_of_the_open_life();
    host_end_with(h, 0);
}

/* Takes events out of the queue until the nth of this type has come. */
static seen take_until(uint16_t type, size_t nth)
{
    while (host_count(h, type) < nth) {
        fdx_batch_view view;
        size_t i;

        memset(&view, 0, sizeof view);
        view.struct_size = sizeof view;
        CHECK_STATUS(FDX_OK, fdx_poll(h->server, 0, 0, runs_slowly() ? 60000 : 10000, &view));
        for (i = 0; i < view.count; i++)
            host_record(h, h->server, (const fdx_event *)((const char *)view.events + i * view.stride));
        fdx_batch_free(view.batch);
    }
    return host_await(h, type, nth);
}

static void a_queue_has_the_changes_of_topics_too(void)
{
    client c;
    fdx_conn conn;

    h = host_start_with("dispatch = queue\n", 0, FDX_ROUTE_TOPIC, NULL, NULL);
    c = client_open(h->port);
    conn = take_until(FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, conn, "a\0b", 3));
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, conn, "tea", 3));
    CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, conn, "a\0b", 3));
    take_until(FDX_EV_TOPIC, 3);
    check_change(1, conn, "a\0b", 3, FDX_TOPIC_JOINED, 1);
    check_change(2, conn, "tea", 3, FDX_TOPIC_JOINED, 1);
    check_change(3, conn, "a\0b", 3, FDX_TOPIC_LEFT, 0);
    CHECK_OUTCOME(1, 0, 0, publish("tea", "hello"));
    CLIENT_EXPECT_TEXT(&c, "hello");
    client_leave(&c);
    take_until(FDX_EV_CLOSE, 1);
    check_change(4, conn, "tea", 3, FDX_TOPIC_LEFT, 0);
    check_topic_events_are_of_the_open_life();
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    take_until(FDX_EV_STOPPED, 1);
    host_end(h);
}

/* -- everything at once ------------------------------------------------------------------------------------------ */

#define PUBLISHERS 4
#define VISITORS 3

static unsigned stop_visiting;

static void join_at_once(host *own, const fdx_event *event)
{
    if (event->type == FDX_EV_OPEN)
        CHECK_ANY2(FDX_OK, FDX_E_CLOSING, fdx_subscribe(own->server, event->conn, "tea", 3));
}

/* Comes, reads some, ends in one way or another, comes again. */
static void *visit_again_and_again(void *argument)
{
    unsigned seed = *(unsigned *)argument;

    while (!__atomic_load_n(&stop_visiting, __ATOMIC_SEQ_CST)) {
        client c = client_open(h->port);
        unsigned reads;

        seed = seed * 1664525u + 1013904223u;
        for (reads = (seed >> 16) % 50; reads > 0 && !client_hears_nothing(&c, 20); reads--)
            client_read(&c);
        switch ((seed >> 8) % 3) {
        case 0: client_reset(&c); break;
        case 1: client_drop(&c); break;
        default: client_leave(&c); break;
        }
    }
    return NULL;
}

struct publisher { unsigned number, messages; };

static void *publish_numbers(void *argument)
{
    struct publisher *own = (struct publisher *)argument;
    char text[32];
    unsigned i;

    for (i = 0; i < own->messages; i++) {
        snprintf(text, sizeof text, "%u %u", own->number, i);
        CHECK(publish("tea", text).queued >= 1);
    }
    return NULL;
}

static void threads_publish_in_their_order_while_subscribers_come_and_die(void)
{
    struct publisher publishers[PUBLISHERS];
    pthread_t threads[PUBLISHERS], visitors[VISITORS];
    unsigned seeds[VISITORS], next[PUBLISHERS] = { 0, 0, 0, 0 }, i, messages = times(3000, 60);
    member survivor;

    h = host_start(ROOMY "threads = 2\n", ON_USUAL, join_at_once, NULL);
    stop_visiting = 0;
    survivor = member_open(1);
    CHECK_SOON(subscribers_of("tea") == 1);
    for (i = 0; i < VISITORS; i++) {
        seeds[i] = i;
        CHECK(pthread_create(&visitors[i], NULL, visit_again_and_again, &seeds[i]) == 0);
    }
    for (i = 0; i < PUBLISHERS; i++) {
        publishers[i].number = i;
        publishers[i].messages = messages;
        CHECK(pthread_create(&threads[i], NULL, publish_numbers, &publishers[i]) == 0);
    }
    for (i = 0; i < PUBLISHERS * messages; i++) {
        unsigned publisher, number;

        CHECK(client_read(&survivor.c) == OP_TEXT);
        CHECK(sscanf((const char *)survivor.c.payload, "%u %u", &publisher, &number) == 2);
        CHECK(publisher < PUBLISHERS && number == next[publisher]++);
    }
    for (i = 0; i < PUBLISHERS; i++)
        pthread_join(threads[i], NULL);
    __atomic_store_n(&stop_visiting, 1u, __ATOMIC_SEQ_CST);
    for (i = 0; i < VISITORS; i++)
        pthread_join(visitors[i], NULL);
    client_leave(&survivor.c);
    CHECK_SOON(nobody_is_in_any_topic());
    host_end_with(h, 0);
}

static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
#define NAMES (sizeof names / sizeof names[0])

struct busy { unsigned seed, rounds; fdx_conn *conns; unsigned *goes_on; };

/* Anything with any topic and any connection, for so many rounds, or for as long as it goes on. */
static void *do_anything(void *argument)
{
    struct busy *own = (struct busy *)argument;
    fdx_publish_result result = new_publish_result();
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "anything", 8);
    unsigned round, seed = own->seed;

    for (round = 0; own->goes_on ? __atomic_load_n(own->goes_on, __ATOMIC_SEQ_CST) : round < own->rounds; round++) {
        const char *topic;
        fdx_conn conn;
        fdx_status status;
        uint64_t count;

        seed = seed * 1664525u + 1013904223u;
        topic = names[(seed >> 16) % NAMES];
        conn = own->conns[(seed >> 20) % MEMBERS];
        switch ((seed >> 25) % 4) {
        case 0: status = CALL(fdx_subscribe(h->server, conn, topic, 1)); break;
        case 1: status = CALL(fdx_unsubscribe(h->server, conn, topic, 1)); break;
        case 2: status = CALL(fdx_topic_count(h->server, topic, 1, &count)); break;
        default: status = CALL(fdx_publish(h->server, topic, 1, message, seed & FDX_F_SKIP_SENDER, conn, &result)); break;
        }
        CHECK(status == FDX_OK || status == FDX_ALREADY ||
              (own->goes_on && (status == FDX_E_CLOSING || status == FDX_E_NO_CONN || status == FDX_E_STOPPED)));
        CHECK(result.queued + result.high_water + result.dropped <= MEMBERS);
    }
    fdx_msg_unref(message);
    return NULL;
}

static void every_thread_may_do_everything_at_once(void)
{
    member members[MEMBERS];
    fdx_conn conns[MEMBERS];
    struct busy busy[4];
    pthread_t threads[4];
    unsigned i, k;

    h = host_start_with("threads = 2\nsend.limit = 64k\nsend.high_water = 32k\nsend.full = drop\n", ON_USUAL, FDX_ROUTE_TOPIC, NULL, NULL);
    for (i = 0; i < MEMBERS; i++) {
        members[i] = member_open(i + 1);
        conns[i] = members[i].conn;
    }
    for (i = 0; i < 4; i++) {
        busy[i].seed = i;
        busy[i].rounds = times(20000, 300);
        busy[i].conns = conns;
        busy[i].goes_on = NULL;
        CHECK(pthread_create(&threads[i], NULL, do_anything, &busy[i]) == 0);
    }
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < MEMBERS; i++)
        for (k = 0; k < NAMES; k++)
            CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_unsubscribe(h->server, conns[i], names[k], 1));
    CHECK(nobody_is_in_any_topic());
    for (i = 0; i < MEMBERS; i++)
        client_reset(&members[i].c);
    host_await(h, FDX_EV_CLOSE, MEMBERS);
    check_topic_events_are_of_the_open_life();
    host_end(h);
}

static void a_server_may_stop_meanwhile(void)
{
    unsigned round;

    for (round = 0; round < times(20, 3); round++) {
        member members[MEMBERS];
        fdx_conn conns[MEMBERS];
        struct busy busy[3];
        pthread_t threads[3];
        unsigned i, goes_on = 1;
        uint64_t count = 99;

        h = host_start_with("threads = 2\nsend.limit = 64k\nsend.high_water = 32k\nsend.full = drop\n", ON_USUAL, FDX_ROUTE_TOPIC, NULL, NULL);
        for (i = 0; i < MEMBERS; i++) {
            members[i] = member_open(i + 1);
            conns[i] = members[i].conn;
        }
        for (i = 0; i < 3; i++) {
            busy[i].seed = 3 * round + i;
            busy[i].conns = conns;
            busy[i].goes_on = &goes_on;
            CHECK(pthread_create(&threads[i], NULL, do_anything, &busy[i]) == 0);
        }
        sleep_ms((long)(round % 3));
        CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, round % 2 ? 50 : 0));
        CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
        __atomic_store_n(&goes_on, 0u, __ATOMIC_SEQ_CST);
        for (i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        CHECK_ANY2(FDX_OK, FDX_E_STOPPED, fdx_topic_count(h->server, "a", 1, &count));
        CHECK(count == 0 || count == 99);
        check_topic_events_are_of_the_open_life();
        for (i = 0; i < MEMBERS; i++)
            client_drop(&members[i].c);
        host_end(h);
    }
}

/* -- memory ---------------------------------------------------------------------------------------------------------- */

static long resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0, resident = 0;

    CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

typedef struct reader { client *c; counter texts; } reader;

static void *read_to_the_end(void *argument)
{
    reader *r = (reader *)argument;

    while (client_read(r->c) == OP_TEXT)
        counter_add(&r->texts);
    return NULL;
}

/* What is published waits in memory until the shard comes to it, so the reader is waited for: a shard
 * that is not let run for 100 ms would be 2 MiB behind. */
static void join_and_leave(fdx_conn conn, unsigned from, unsigned count, const reader *r)
{
    char topic[32];
    unsigned i, published = counter_get(&r->texts);

    for (i = from; i < from + count; i++) {
        snprintf(topic, sizeof topic, "topic number %u", i);
        CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, conn, topic, FDX_NTS));
        if (i % 100 == 0) {
            CHECK_OUTCOME(1, 0, 0, publish(topic, "x"));
            published++;
        }
        CHECK_STATUS(FDX_OK, fdx_unsubscribe(h->server, conn, topic, FDX_NTS));
        if (i % 10000 == 0)
            CHECK_SOON(counter_get(&r->texts) == published);
    }
    CHECK_SOON(counter_get(&r->texts) == published);
}

static void millions_of_topics_come_and_go_and_leave_no_memory_behind(void)
{
    unsigned first = times(200000, 500), all = times(2000000, 5000), round, i;
    long before, grown;
    pthread_t thread;
    reader r;
    member m;

    h = host_start(ROOMY, ON_USUAL, NULL, NULL);
    m = member_open(1);
    r.c = &m.c;
    r.texts.value = 0;
    CHECK(pthread_create(&thread, NULL, read_to_the_end, &r) == 0);
    join_and_leave(m.conn, 0, first, &r);
    before = resident_bytes();
    join_and_leave(m.conn, first, all - first, &r);
    grown = resident_bytes() - before;
    CHECK(nobody_is_in_any_topic());
    CHECK(grown < GROWTH_MAX || runs_slowly());    /* a sanitizer keeps what was freed for a while */
    CHECK_STATUS(FDX_OK, fdx_abort(h->server, m.conn));
    pthread_join(thread, NULL);
    client_drop(&m.c);

    /* The same with connections that end in as many as they may have. */
    for (round = 0; round < 12; round++) {
        char topic[32];

        m = member_open(2 + round);
        for (i = 0; i < times(20000, 200); i++) {
            snprintf(topic, sizeof topic, "%u", i);
            CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, m.conn, topic, FDX_NTS));
        }
        client_reset(&m.c);
        host_await(h, FDX_EV_CLOSE, 2 + round);
        CHECK(nobody_is_in_any_topic());
        if (round == 3)
            before = resident_bytes();
    }
    grown = resident_bytes() - before;
    CHECK(grown < GROWTH_MAX || runs_slowly());
    host_end(h);
}

int main(void)
{
    PROVE(who_is_in_a_topic_gets_what_is_published_there_and_nobody_else);
    PROVE(a_name_is_1_to_255_bytes_of_any_kind);
    PROVE(joining_twice_and_leaving_twice_is_said);
    PROVE(only_an_open_connection_joins);
    PROVE(over_max_topics_a_connection_joins_no_more);
    PROVE(who_publishes_can_be_left_out);
    PROVE(a_publish_that_can_not_be_is_refused);
    PROVE(a_slow_subscriber_is_counted_by_high_water_then_dropped_and_a_drain_follows);
    PROVE(with_send_full_close_a_slow_subscriber_is_closed_and_the_others_go_on);
    PROVE(who_is_in_the_middle_of_a_message_in_pieces_does_not_get_it);
    PROVE(a_hixie_connection_gets_texts_alone);
    PROVE(what_one_thread_sends_publishes_and_closes_comes_in_its_order);
    PROVE(what_a_callback_sends_publishes_and_closes_comes_in_its_order);
    PROVE(who_leaves_still_gets_what_was_published_before_and_nothing_later);
    PROVE(a_member_gets_each_message_once_on_every_shard);
    PROVE(every_callback_may_join_publish_and_leave_and_nobody_joins_in_close);
    PROVE(joining_and_leaving_is_told_to_who_asked_and_the_end_comes_before_the_close);
    PROVE(nobody_is_told_who_did_not_ask);
    PROVE(a_change_may_be_published_and_undone_where_it_is_told);
    PROVE(each_coming_is_told_and_then_its_going_however_soon_the_end_comes);
    PROVE(a_queue_has_the_changes_of_topics_too);
    PROVE(threads_publish_in_their_order_while_subscribers_come_and_die);
    PROVE(every_thread_may_do_everything_at_once);
    PROVE(a_server_may_stop_meanwhile);
    PROVE(millions_of_topics_come_and_go_and_leave_no_memory_behind);
    return 0;
}
