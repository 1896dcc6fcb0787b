/* Messages in pieces, both ways: what is told, what may be sent, and that a message of any
 * length passes through little memory. */
#include "check.h"

#define FIN 0x80

static host *h;
static client c;
static fdx_conn conn;

static void set_up(const char *settings, uint32_t route_flags, host_hook hook)
{
    h = host_start_with(settings, ON_USUAL, route_flags, hook, NULL);
    c = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
}

static void tear_down(void)
{
    client_leave(&c);
    host_end(h);
}

static void send_frame(int flags_and_opcode, const char *text)
{
    CHECK(client_try_frame(&c, flags_and_opcode, text, strlen(text), 1));
}

/* The nth piece (from 1) is this one. */
static void expect_piece(size_t nth, uint32_t flags, const char *data)
{
    seen piece = host_await(h, FDX_EV_FRAGMENT, nth);

    CHECK(piece.conn == conn && piece.route == 7);
    CHECK(piece.flags == flags);
    CHECK(piece.len == strlen(data) && memcmp(piece.data, data, piece.len) == 0);
}

/* Reads frames up to the end of a message, which is left in `text`. Gives its opcode. */
static int read_message(char *text, size_t room)
{
    int opcode = client_read(&c);
    size_t len = 0;

    CHECK(opcode == OP_TEXT || opcode == OP_BINARY);
    for (;;) {
        CHECK(len + c.payload_len < room);
        memcpy(text + len, c.payload, c.payload_len);
        len += c.payload_len;
        text[len] = '\0';
        if (c.fin)
            return opcode;
        CHECK(client_read(&c) == OP_CONTINUATION);
    }
}

static void expect_message(int opcode, const char *expected)
{
    char text[256];

    CHECK(read_message(text, sizeof text) == opcode);
    if (strcmp(text, expected) != 0)
        fprintf(stderr, "\"%s\" instead of \"%s\"\n", text, expected);
    CHECK(strcmp(text, expected) == 0);
}

/* -- what comes in ----------------------------------------------------------------------------- */

static void a_message_comes_in_pieces_and_the_last_says_so(void)
{
    fdx_conn_info info = new_conn_info();

    set_up(NULL, FDX_ROUTE_STREAM, NULL);
    send_frame(OP_BINARY, "one");
    expect_piece(1, FDX_EVF_BINARY, "one");         /* before the rest is there */
    send_frame(OP_CONTINUATION, "two");
    expect_piece(2, FDX_EVF_BINARY, "two");
    send_frame(FIN | OP_CONTINUATION, "three");
    expect_piece(3, FDX_EVF_BINARY | FDX_EVF_FIN, "three");
    send_frame(OP_TEXT, "four");
    send_frame(FIN | OP_CONTINUATION, "");
    expect_piece(4, 0, "four");
    expect_piece(5, FDX_EVF_FIN, "");
    send_frame(FIN | OP_TEXT, "a whole one");
    expect_piece(6, FDX_EVF_FIN, "a whole one");
    send_frame(FIN | OP_BINARY, "");
    expect_piece(7, FDX_EVF_BINARY | FDX_EVF_FIN, "");
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0);
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    CHECK(info.msgs_in == 4);
    tear_down();
}

static void a_ping_between_two_pieces_is_told_between_them(void)
{
    static const uint16_t expected[] = { FDX_EV_OPEN, FDX_EV_FRAGMENT, FDX_EV_PING, FDX_EV_FRAGMENT };
    size_t i, at = 0;

    set_up(NULL, FDX_ROUTE_STREAM, NULL);
    send_frame(OP_TEXT, "before");
    send_frame(FIN | OP_PING, "?");
    send_frame(FIN | OP_CONTINUATION, "after");
    CLIENT_EXPECT(&c, OP_PONG, "?", 1);
    expect_piece(2, FDX_EVF_FIN, "after");
    pthread_mutex_lock(&h->lock);
    for (i = 0; i < h->count; i++)
        if (h->events[i].conn == conn)
            CHECK(at < 4 && h->events[i].type == expected[at++]);
    pthread_mutex_unlock(&h->lock);
    CHECK(at == 4);
    tear_down();
}

static void a_frame_in_arrival_comes_as_its_bytes_do(void)
{
    static const char head[] = { (char)(FIN | OP_BINARY), (char)(0x80 | 9), 0, 0, 0, 0 };

    set_up(NULL, FDX_ROUTE_STREAM, NULL);
    client_write(&c, head, sizeof head);
    client_write(&c, "thr", 3);
    expect_piece(1, FDX_EVF_BINARY, "thr");
    client_write(&c, "ee-", 3);
    expect_piece(2, FDX_EVF_BINARY, "ee-");
    client_write(&c, "six", 3);
    expect_piece(3, FDX_EVF_BINARY | FDX_EVF_FIN, "six");
    tear_down();
}

static void a_character_may_be_split_between_pieces_but_not_be_missing(void)
{
    static const struct { const char *first, *last; } bad[] = {
        { "ok\xff", "" }, { "half \xe2\x82", "" }, { "half \xe2\x82", "x" }, { "\xed\xa0", "\x80" },
    };
    size_t i;

    set_up(NULL, FDX_ROUTE_STREAM, NULL);
    send_frame(OP_TEXT, "\xe2\x82");
    expect_piece(1, 0, "\xe2\x82");
    send_frame(FIN | OP_CONTINUATION, "\xac!");
    expect_piece(2, FDX_EVF_FIN, "\xac!");
    send_frame(FIN | OP_BINARY, "\xff");            /* which is no text */
    expect_piece(3, FDX_EVF_BINARY | FDX_EVF_FIN, "\xff");
    client_leave(&c);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t j;

        c = client_open(h->port);
        conn = host_await(h, FDX_EV_OPEN, i + 2).conn;
        send_frame(OP_TEXT, bad[i].first);
        send_frame(FIN | OP_CONTINUATION, bad[i].last);
        CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 1007);
        CHECK(host_await(h, FDX_EV_CLOSE, i + 2).code == 1007);
        CHECK(host_await(h, FDX_EV_CLOSE, i + 2).arg == FDX_CLOSED_BY_PROTOCOL);
        for (j = 0; j < h->count; j++)              /* nobody was told that it ended */
            CHECK(!(h->events[j].conn == conn && h->events[j].flags & FDX_EVF_FIN));
        client_drop(&c);
    }
    host_end(h);
}

static int last_event_ends_its_message(void)
{
    int ends;

    pthread_mutex_lock(&h->lock);
    ends = h->count > 1 && h->events[h->count - 1].flags & FDX_EVF_FIN;
    pthread_mutex_unlock(&h->lock);
    return ends;
}

static void limits_of_messages_are_none_of_streams(void)
{
    char kilobyte[1025];
    unsigned i;

    memset(kilobyte, 'x', 1024);
    kilobyte[1024] = '\0';
    set_up("max.message = 1k\nmax.fragments = 2\n", FDX_ROUTE_STREAM, NULL);
    send_frame(OP_TEXT, kilobyte);
    for (i = 0; i < 9; i++)
        send_frame(OP_CONTINUATION, kilobyte);
    send_frame(FIN | OP_CONTINUATION, "end");
    CHECK_SOON(last_event_ends_its_message());
    tear_down();
}

/* A client of 2010, whose frames are `00 text FF`. */
static void open_hixie(void)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
                                  "Origin: http://a.example\r\n\r\n";

    c = client_dial(h->port);
    client_write(&c, request, sizeof request - 1);
    CHECK(client_read_head(&c) == 101);
}

static void a_hixie_message_is_one_piece_and_is_sent_in_many(void)
{
    char heard[9];
    fdx_conn_info info = new_conn_info();
    uint64_t before;

    h = host_start_with(NULL, ON_USUAL, FDX_ROUTE_STREAM, NULL, NULL);
    open_hixie();
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    CHECK(info.version == 75);
    before = info.bytes_in;
    client_write(&c, "\0in two ", 8);
    CHECK_SOON(fdx_conn_get_info(h->server, conn, &info) == FDX_OK && info.bytes_in == before + 8);
    CHECK(host_count(h, FDX_EV_FRAGMENT) == 0);
    client_write(&c, "halves\xff", 7);
    expect_piece(1, FDX_EVF_FIN, "in two halves");
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "one", 3, FDX_F_MORE));
    CHECK_STATUS(FDX_E_UNSUPPORTED, fdx_send(h->server, conn, FDX_BINARY, "?", 1, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "-two", 4, 0));
    CHECK(client_read_exactly(&c, heard, 9) && memcmp(heard, "\0one-two\xff", 9) == 0);
    client_drop(&c);
    host_end(h);
}

/* -- what goes out ----------------------------------------------------------------------------- */

static void speak_in_pieces(host *own, const fdx_event *event)
{
    if (event->type != FDX_EV_MESSAGE)
        return;
    CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, "one ", 4, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, NULL, 0, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, event->data, event->len, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, " three", 6, 0));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_BINARY, "four", 4, 0));
}

static void pieces_sent_in_a_callback_become_one_message(void)
{
    set_up(NULL, 0, speak_in_pieces);
    client_say(&c, "two");
    expect_message(OP_TEXT, "one two three");
    CLIENT_EXPECT(&c, OP_BINARY, "four", 4);
    tear_down();
}

static void what_does_not_continue_the_message_is_refused_and_it_goes_on(host *own, fdx_conn to)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "whole", 5);
    fdx_status result = FDX_OK;

    CHECK_STATUS(FDX_OK, fdx_send(own->server, to, FDX_TEXT, "half \xe2\x82", 7, FDX_F_MORE));
    CHECK_STATUS(FDX_E_STATE, fdx_send(own->server, to, FDX_BINARY, "x", 1, 0));
    CHECK_STATUS(FDX_E_STATE, fdx_send(own->server, to, FDX_BINARY, "x", 1, FDX_F_MORE));
    CHECK_STATUS(FDX_E_STATE, fdx_send_msg(own->server, &to, 1, message, 0, &result));
    CHECK(result == FDX_E_STATE);
    CHECK_STATUS(FDX_E_UTF8, fdx_send(own->server, to, FDX_TEXT, "no continuation", 15, 0));
    CHECK_STATUS(FDX_E_UTF8, fdx_send(own->server, to, FDX_TEXT, "\xff", 1, FDX_F_MORE));
    CHECK_STATUS(FDX_E_UTF8, fdx_send(own->server, to, FDX_TEXT, "", 0, 0));    /* two thirds of a euro */
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(own->server, to, FDX_TEXT, "\xac", 1, FDX_F_MORE | 8));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(own->server, to, 0, "\xac", 1, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_ping(own->server, to, "?", 1));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, to, FDX_TEXT, "\xac", 1, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_send(own->server, to, FDX_TEXT, "", 0, 0));
    CHECK_STATUS(FDX_OK, fdx_send_msg(own->server, &to, 1, message, 0, &result));
    fdx_msg_unref(message);
}

static void expect_the_message_that_went_on(void)
{
    CHECK(client_read(&c) == OP_TEXT && !c.fin && strcmp((char *)c.payload, "half \xe2\x82") == 0);
    CLIENT_EXPECT(&c, OP_PING, "?", 1);
    CHECK(client_read(&c) == OP_CONTINUATION && !c.fin && strcmp((char *)c.payload, "\xac") == 0);
    CHECK(client_read(&c) == OP_CONTINUATION && c.fin && c.payload_len == 0);
    CLIENT_EXPECT_TEXT(&c, "whole");
}

static void refuse_in_the_callback(host *own, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        what_does_not_continue_the_message_is_refused_and_it_goes_on(own, event->conn);
}

static void in_a_callback_what_does_not_continue_is_refused(void)
{
    set_up(NULL, 0, refuse_in_the_callback);
    client_say(&c, "go");
    expect_the_message_that_went_on();
    tear_down();
}

static void from_another_thread_what_does_not_continue_is_refused(void)
{
    set_up(NULL, 0, NULL);
    what_does_not_continue_the_message_is_refused_and_it_goes_on(h, conn);
    expect_the_message_that_went_on();
    tear_down();
}

static void *end_the_message(void *unused)
{
    (void)unused;
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "\xac ends", 6, 0));
    return NULL;
}

static void begin_the_message(host *own, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_STATUS(FDX_OK, fdx_send(own->server, event->conn, FDX_TEXT, "begins \xe2\x82", 9, FDX_F_MORE));
}

static void a_message_begun_in_a_callback_may_be_ended_by_another_thread(void)
{
    pthread_t thread;

    set_up(NULL, 0, begin_the_message);
    client_say(&c, "go");
    CHECK(client_read(&c) == OP_TEXT && !c.fin && c.payload_len == 9);
    CHECK(pthread_create(&thread, NULL, end_the_message, NULL) == 0);
    CHECK(client_read(&c) == OP_CONTINUATION && c.fin && strcmp((char *)c.payload, "\xac ends") == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    tear_down();
}

#define NUMBERS 2000

static void *send_numbers(void *unused)
{
    unsigned i;

    (void)unused;
    for (i = 0; i < NUMBERS; i++)
        CHECK_ANY2(FDX_OK, FDX_HIGH_WATER, fdx_send(h->server, conn, FDX_BINARY, &i, sizeof i, i + 1 < NUMBERS ? FDX_F_MORE : 0));
    return NULL;
}

static void pieces_of_another_thread_keep_their_order(void)
{
    pthread_t thread;
    unsigned i, number;

    set_up(NULL, 0, NULL);
    CHECK(pthread_create(&thread, NULL, send_numbers, NULL) == 0);
    for (i = 0; i < NUMBERS; i++) {
        if (i % 100 == 0)                       /* meanwhile the shard has things of its own to send */
            send_frame(FIN | OP_PING, "?");
        while (client_read(&c) == OP_PONG)
            CHECK(c.payload_len == 1);
        CHECK(c.opcode == (i ? OP_CONTINUATION : OP_BINARY) && c.fin == (i + 1 == NUMBERS));
        CHECK(c.payload_len == sizeof number);
        memcpy(&number, c.payload, sizeof number);
        CHECK(number == i);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    tear_down();
}

static void a_close_and_an_end_of_the_connection_may_come_inside_a_message(void)
{
    set_up(NULL, 0, NULL);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_TEXT, "begun", 5, FDX_F_MORE));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, conn, 4000, "enough", FDX_NTS));
    CHECK_ANY2(FDX_E_CLOSING, FDX_E_NO_CONN, fdx_send(h->server, conn, FDX_TEXT, "", 0, 0));
    CHECK(client_read(&c) == OP_TEXT && !c.fin);
    CLIENT_EXPECT_CLOSE(&c, 4000, "enough");
    client_drop(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    /* What one had begun is nothing to the next, perhaps in its place. */
    c = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 2).conn;
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_BINARY, "new", 3, 0));
    CLIENT_EXPECT(&c, OP_BINARY, "new", 3);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_BINARY, "begun", 5, FDX_F_MORE));
    client_reset(&c);
    host_await(h, FDX_EV_CLOSE, 2);
    host_end(h);
}

static void a_slow_reader_of_a_stream_is_told_by_high_water_and_drain_and_gets_it_whole(void)
{
    static unsigned char piece[16384], larger_than_the_limit[256 * 1024 + 1];
    uint32_t queued = 0, heard = 0;
    fdx_status status;
    size_t drains;

    h = host_start("send.high_water = 64k\nsend.low_water = 16k\nsend.limit = 256k\nsend.full = drop\n", ON_USUAL, NULL, NULL);
    c = client_dial_with(h->port, 8192);
    CHECK(client_upgrade(&c, "/", NULL) == 101);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    CHECK_STATUS(FDX_E_TOO_BIG,
                 fdx_send(h->server, conn, FDX_BINARY, larger_than_the_limit, sizeof larger_than_the_limit, FDX_F_MORE));
    do {
        memcpy(piece, &queued, sizeof queued);
        status = CALL(fdx_send(h->server, conn, FDX_BINARY, piece, sizeof piece, FDX_F_MORE));
        CHECK(status == FDX_OK || status == FDX_HIGH_WATER || status == FDX_E_FULL);
        queued += status != FDX_E_FULL;
        CHECK(queued < 10000);
    } while (status != FDX_E_FULL);
    drains = host_count(h, FDX_EV_DRAIN);
    for (; heard < queued; heard++) {               /* what was refused is not missed */
        CHECK(client_read(&c) == (heard ? OP_CONTINUATION : OP_BINARY) && !c.fin);
        CHECK(c.payload_len == sizeof piece && memcmp(c.payload, &heard, sizeof heard) == 0);
    }
    CHECK(host_await(h, FDX_EV_DRAIN, drains + 1).arg <= 16 * 1024);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, conn, FDX_BINARY, "end", 3, 0));
    CHECK(client_read(&c) == OP_CONTINUATION && c.fin && strcmp((char *)c.payload, "end") == 0);
    tear_down();
}

/* -- one message longer than any memory for it ---------------------------------------------------- */

#define MIB ((uint64_t)1 << 20)
/* What the process may take more at its peak, for a stream in and out at once. */
#define GROWTH_MAX (4 * MIB)
/* Of bytes that repeat after it: a multiple of the mask's length, and else of nothing. */
#define PERIOD (4 * 16381)
#define CHUNK 65536

static unsigned char plain[PERIOD + CHUNK], masked[PERIOD + CHUNK];

static struct { uint64_t total, piece; } stream;

static void fill_patterns(void)
{
    static const unsigned char mask[4] = { 0x12, 0x34, 0x56, 0x78 };
    uint32_t state = 1;
    size_t i;

    for (i = 0; i < sizeof plain; i++) {
        state = state * 1664525 + 1013904223;
        plain[i] = i < PERIOD ? (unsigned char)(state >> 24) : plain[i - PERIOD];
        masked[i] = plain[i] ^ mask[i % 4];
    }
}

/* One message of so many bytes, in frames of `piece`; each is masked as from its own beginning, so a
 * piece is a multiple of four. */
static void *send_stream(void *unused)
{
    uint64_t at = 0, left = 0;
    int i;

    (void)unused;
    while (at < stream.total) {
        size_t len;

        if (left == 0) {
            unsigned char head[14] = { 0, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78 };

            left = stream.piece;
            head[0] = (unsigned char)((at ? OP_CONTINUATION : OP_BINARY) | (at + left == stream.total ? FIN : 0));
            for (i = 0; i < 8; i++)
                head[2 + i] = (unsigned char)(left >> (56 - 8 * i));
            client_write(&c, head, sizeof head);
        }
        len = left < CHUNK ? (size_t)left : CHUNK;
        client_write(&c, masked + at % PERIOD, len);
        at += len;
        left -= len;
    }
    return NULL;
}

/* Every byte of the one message that comes back. */
static void receive_stream(void)
{
    unsigned char head[10], bytes[CHUNK];
    uint64_t at = 0, left = 0, len;
    int i, fin = 0;

    while (!fin || left) {
        ssize_t got;

        if (left == 0) {
            CHECK(client_read_exactly(&c, head, 2));
            CHECK((head[0] & 0x7f) == (at ? OP_CONTINUATION : OP_BINARY));
            fin = head[0] >> 7;
            len = head[1];
            if (len >= 126) {
                int extended = len == 126 ? 2 : 8;

                CHECK(client_read_exactly(&c, head + 2, (size_t)extended));
                for (len = 0, i = 0; i < extended; i++)
                    len = len << 8 | head[2 + i];
            }
            left = len;
            continue;
        }
        got = recv(c.fd, bytes, left < CHUNK ? (size_t)left : CHUNK, 0);
        CHECK(got > 0);
        CHECK(memcmp(bytes, plain + at % PERIOD, (size_t)got) == 0);
        at += (uint64_t)got;
        left -= (uint64_t)got;
    }
    CHECK(at == stream.total);
}

static counter pauses, resumes;

/* Sends each piece back. What the peer does not take yet is not read of it either. */
static void send_back(host *own, const fdx_event *event)
{
    fdx_status status;

    if (event->type == FDX_EV_DRAIN) {
        counter_add(&resumes);
        CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_resume(own->server, event->conn));
    }
    if (event->type != FDX_EV_FRAGMENT)
        return;
    status = CALL(fdx_send(own->server, event->conn, FDX_BINARY, event->data, event->len,
                           event->flags & FDX_EVF_FIN ? 0 : FDX_F_MORE));
    CHECK(status == FDX_OK || status == FDX_HIGH_WATER);
    if (status == FDX_HIGH_WATER) {
        counter_add(&pauses);
        CHECK_ANY2(FDX_OK, FDX_ALREADY, fdx_pause(own->server, event->conn));
    }
}

/* The host of check.h keeps every event, which is more memory than the stream takes. */
static void send_back_and_keep_nothing(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(library_depth == 0 && ((host *)user_data)->server == server);
    send_back((host *)user_data, event);
}

/* The most that was resident since the last call with `reset`, in bytes. */
static uint64_t peak_memory(int reset)
{
    char line[256];
    uint64_t kib = 0;
    FILE *file;

    if (reset) {
        file = fopen("/proc/self/clear_refs", "w");
        CHECK(file != NULL && fputs("5", file) >= 0 && fclose(file) == 0);
    }
    file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtoull(line + 6, NULL, 10);
    fclose(file);
    CHECK(kib > 0);
    return kib * 1024;
}

static void pass_a_stream(uint64_t total, uint64_t piece)
{
    fdx_config *config = new_config("send.limit = 4m\n");
    fdx_handlers handlers;
    fdx_error error = new_error();
    fdx_conn_info info = new_conn_info();
    fdx_server *server = NULL;
    pthread_t sender;
    uint64_t before, growth;

    h = host_new(NULL, NULL);
    handlers = host_handlers(h, ON_OPEN);
    handlers.flags = FDX_ROUTE_STREAM;
    handlers.on_message = handlers.on_drain = send_back_and_keep_nothing;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    c = client_dial_with(h->port, 1 << 20);         /* the kernel shall not take most of it by itself */
    CHECK(client_upgrade(&c, "/", NULL) == 101);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;

    pauses.value = resumes.value = 0;
    stream.total = total;
    stream.piece = piece;
    fill_patterns();
    before = peak_memory(1);
    CHECK(pthread_create(&sender, NULL, send_stream, NULL) == 0);
    CHECK_SOON(counter_get(&pauses) > 0);
    receive_stream();
    CHECK(pthread_join(sender, NULL) == 0);
    growth = peak_memory(0) - before;
    CHECK(counter_get(&resumes) > 0);
    printf("%u MiB each way, %u pauses, %u KiB more memory\n", (unsigned)(total / MIB), counter_get(&pauses),
           (unsigned)(growth / 1024));
    /* What valgrind and AddressSanitizer keep for themselves is not ours to bound. */
    CHECK(growth < GROWTH_MAX || runs_slowly());

    /* The client may have heard the end before the shard has counted it. */
    CHECK_SOON(fdx_conn_get_info(server, conn, &info) == FDX_OK && info.bytes_out > total);
    CHECK(info.msgs_in == 1 && info.msgs_out == 1 && info.bytes_in > total);
    client_leave(&c);
    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
    fdx_server_unref(server);
    host_free(h);
}

static void a_message_of_one_frame_of_a_gibibyte_passes_in_and_out_at_once_through_little_memory(void)
{
    pass_a_stream(times(1024, 16) * MIB, times(1024, 16) * MIB);
}

static void a_message_of_very_many_frames_passes_in_and_out_at_once_through_little_memory(void)
{
    pass_a_stream(times(1024, 16) * MIB, CHUNK);
}

static void a_peer_that_does_not_read_its_own_stream_is_not_read_either(void)
{
    struct timeval soon = { 0, 300000 };
    unsigned pauses_before = counter_get(&pauses), written = 0;
    fdx_conn_info info = new_conn_info();

    set_up("send.limit = 4m\nsend.high_water = 64k\nsend.low_water = 16k\n", FDX_ROUTE_STREAM, send_back);
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    while (client_try_frame(&c, written ? OP_CONTINUATION : OP_BINARY, plain, CHUNK, 1)) {
        written++;
        CHECK(written < 2000);                  /* 125 MiB, more than any socket buffer holds */
    }
    CHECK(counter_get(&pauses) > pauses_before);
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, conn, &info));
    /* The kernel has taken a part since the pause, but not so much that DRAIN came. */
    CHECK(info.queued_bytes > 16 * 1024 && info.queued_bytes < 2 * MIB && info.dropped == 0);
    client_drop(&c);
    host_end(h);
}

int main(void)
{
    PROVE(a_message_comes_in_pieces_and_the_last_says_so);
    PROVE(a_ping_between_two_pieces_is_told_between_them);
    PROVE(a_frame_in_arrival_comes_as_its_bytes_do);
    PROVE(a_character_may_be_split_between_pieces_but_not_be_missing);
    PROVE(limits_of_messages_are_none_of_streams);
    PROVE(a_hixie_message_is_one_piece_and_is_sent_in_many);
    PROVE(pieces_sent_in_a_callback_become_one_message);
    PROVE(in_a_callback_what_does_not_continue_is_refused);
    PROVE(from_another_thread_what_does_not_continue_is_refused);
    PROVE(a_message_begun_in_a_callback_may_be_ended_by_another_thread);
    PROVE(pieces_of_another_thread_keep_their_order);
    PROVE(a_close_and_an_end_of_the_connection_may_come_inside_a_message);
    PROVE(a_slow_reader_of_a_stream_is_told_by_high_water_and_drain_and_gets_it_whole);
    PROVE(a_message_of_one_frame_of_a_gibibyte_passes_in_and_out_at_once_through_little_memory);
    PROVE(a_message_of_very_many_frames_passes_in_and_out_at_once_through_little_memory);
    PROVE(a_peer_that_does_not_read_its_own_stream_is_not_read_either);
    return 0;
}
