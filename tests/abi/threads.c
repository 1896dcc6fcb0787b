/* Sends from many threads to connections that die meanwhile. */
#include "check.h"

#define SENDERS 8
#define DYING 6

/* The connections that are open now, as the embedder's own list: entry 0 is the survivor. */
struct list {
    pthread_mutex_t lock;
    fdx_conn conns[1 + DYING];
    unsigned stop;                       /* for the dying ones' threads */
};

static void keep_the_list(host *h, const fdx_event *event)
{
    struct list *list = (struct list *)h->user;
    unsigned i;

    pthread_mutex_lock(&list->lock);
    if (event->type == FDX_EV_OPEN) {
        for (i = list->conns[0] ? 1 : 0; i < 1 + DYING; i++)
            if (list->conns[i] == 0) {
                list->conns[i] = event->conn;
                break;
            }
    } else if (event->type == FDX_EV_CLOSE) {
        for (i = 0; i < 1 + DYING; i++)
            if (list->conns[i] == event->conn)
                list->conns[i] = 0;
    }
    pthread_mutex_unlock(&list->lock);
}

struct sender {
    host *h;
    unsigned number, messages, queued;   /* queued: what the survivor must get from this thread */
};

static void *send_to_all(void *argument)
{
    struct sender *sender = (struct sender *)argument;
    struct list *list = (struct list *)sender->h->user;
    char text[64];
    unsigned i, k;

    for (i = 0; i < sender->messages; i++) {
        fdx_conn conns[1 + DYING];
        int len = snprintf(text, sizeof text, "%u %u .......................", sender->number, i);
        fdx_status status;

        pthread_mutex_lock(&list->lock);
        memcpy(conns, list->conns, sizeof conns);
        pthread_mutex_unlock(&list->lock);
        for (k = 1; k < 1 + DYING; k++) {
            if (conns[k] == 0)
                continue;
            status = CALL(fdx_send(sender->h->server, conns[k], FDX_TEXT, text, (size_t)len, 0));
            CHECK(status == FDX_OK || status == FDX_HIGH_WATER || status == FDX_E_NO_CONN || status == FDX_E_CLOSING ||
                  status == FDX_E_FULL);
            if (i % 97 == k && sender->number == k)
                CHECK(CALL(fdx_close(sender->h->server, conns[k], 1000, "", 0)) != FDX_E_INVALID_ARG);
            if (i % 89 == k && sender->number == k)
                CHECK(CALL(fdx_abort(sender->h->server, conns[k])) != FDX_E_INVALID_ARG);
        }
        status = CALL(fdx_send(sender->h->server, conns[0], FDX_TEXT, text, (size_t)len, 0));
        CHECK(status == FDX_OK || status == FDX_HIGH_WATER || status == FDX_E_FULL);
        if (status == FDX_E_FULL)
            sleep_ms(1);
        else
            sender->queued++;
    }
    return NULL;
}

struct dying { uint16_t port; struct list *list; unsigned seed; };

/* Comes, reads a little or nothing, dies in some way, comes again. */
static void *die_again_and_again(void *argument)
{
    struct dying *dying = (struct dying *)argument;
    unsigned seed = dying->seed;

    while (!__atomic_load_n(&dying->list->stop, __ATOMIC_SEQ_CST)) {
        client c = client_dial(dying->port);
        unsigned reads;

        client_ask(&c, "/", NULL);
        if (client_read_head(&c) != 101) {
            client_drop(&c);
            continue;
        }
        seed = seed * 1664525u + 1013904223u;
        for (reads = (seed >> 16) % 50; reads > 0; reads--) {
            struct pollfd wait;
            wait.fd = c.fd;
            wait.events = POLLIN;
            if (poll(&wait, 1, 20) == 0 || client_read(&c) == -1)
                break;
        }
        switch ((seed >> 8) % 3) {
        case 0: client_reset(&c); break;
        case 1: client_drop(&c); break;
        default:
            client_try_frame(&c, 0x80 | OP_CLOSE, "\x03\xe8", 2, 1);
            while (client_read(&c) != -1)
                continue;
            client_drop(&c);
        }
    }
    return NULL;
}

struct survivor { client *c; unsigned received[SENDERS]; };

/* Reads until the server closes, checking that each sender's numbers only grow. */
static void *read_all(void *argument)
{
    struct survivor *survivor = (struct survivor *)argument;
    unsigned next[SENDERS];
    unsigned sender, number;

    memset(next, 0, sizeof next);
    while (client_read(survivor->c) == OP_TEXT) {
        CHECK(sscanf((const char *)survivor->c->payload, "%u %u", &sender, &number) == 2 && sender < SENDERS);
        CHECK(number >= next[sender]);
        next[sender] = number + 1;
        survivor->received[sender]++;
    }
    CHECK(survivor->c->opcode == OP_CLOSE);
    return NULL;
}

static void eight_threads_send_with(const char *settings)
{
    struct list list;
    host *h;
    client c;
    struct survivor survivor;
    struct sender senders[SENDERS];
    struct dying dying[DYING];
    pthread_t sender_threads[SENDERS], dying_threads[DYING], survivor_thread;
    unsigned i;

    memset(&list, 0, sizeof list);
    pthread_mutex_init(&list.lock, NULL);
    memset(&survivor, 0, sizeof survivor);
    h = host_start(settings, ON_OPEN | ON_CLOSE, keep_the_list, &list);
    c = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 1);
    survivor.c = &c;
    CHECK(pthread_create(&survivor_thread, NULL, read_all, &survivor) == 0);
    for (i = 0; i < DYING; i++) {
        dying[i].port = h->port;
        dying[i].list = &list;
        dying[i].seed = i + 1;
        CHECK(pthread_create(&dying_threads[i], NULL, die_again_and_again, &dying[i]) == 0);
    }
    for (i = 0; i < SENDERS; i++) {
        senders[i].h = h;
        senders[i].number = i;
        senders[i].messages = times(5000, 300);
        senders[i].queued = 0;
        CHECK(pthread_create(&sender_threads[i], NULL, send_to_all, &senders[i]) == 0);
    }
    for (i = 0; i < SENDERS; i++)
        pthread_join(sender_threads[i], NULL);
    __atomic_store_n(&list.stop, 1u, __ATOMIC_SEQ_CST);
    for (i = 0; i < DYING; i++)
        pthread_join(dying_threads[i], NULL);
    CHECK_STATUS(FDX_OK, fdx_close(h->server, list.conns[0], 1000, "all sent", FDX_NTS));
    pthread_join(survivor_thread, NULL);
    for (i = 0; i < SENDERS; i++)
        CHECK(survivor.received[i] == senders[i].queued && senders[i].queued > 0);
    client_send_close(&c, 1000, "");
    CLIENT_EXPECT_END(&c);
    client_drop(&c);
    host_end(h);
    pthread_mutex_destroy(&list.lock);
}

static void eight_threads_send_in_their_order_while_connections_die(void)
{
    eight_threads_send_with("threads = 1\nsend.limit = 256k\nsend.full = drop\ntimeout.close = 500ms\n");
}

static void eight_threads_send_to_the_connections_of_four_threads(void)
{
    eight_threads_send_with("threads = 4\nsend.limit = 256k\nsend.full = drop\ntimeout.close = 500ms\n");
}

/* -- the same for messages framed once, and for everything else at once ----------------------------- */

struct meddler { host *h; unsigned number; };

/* Every call about every connection there is, and about those that are gone. */
static void *meddle(void *argument)
{
    struct meddler *meddler = (struct meddler *)argument;
    fdx_server *server = meddler->h->server;
    fdx_msg *message = fdx_msg_new(FDX_BINARY, "from a meddler", 14);
    fdx_conn conns[64];
    size_t i, k, count;

    for (i = 0; i < times(600, 40); i++) {
        fdx_stats stats = new_stats();
        fdx_conn_info info = new_conn_info();
        fdx_status status = CALL(fdx_conns(server, 7, conns, 64, &count));

        CHECK(status == FDX_OK || status == FDX_E_BUFFER);
        if (count > 64)
            count = 64;
        status = CALL(fdx_send_msg(server, conns, count, message, 0, NULL));
        CHECK(status == FDX_OK || status == FDX_HIGH_WATER || status == FDX_E_NO_CONN || status == FDX_E_CLOSING ||
              status == FDX_E_FULL);
        for (k = 0; k < count; k++) {
            switch ((i + k + meddler->number) % 8) {
            case 0:   /* this thread's two calls keep their order, so that nothing stays paused */
                status = CALL(fdx_pause(server, conns[k]));
                fdx_resume(server, conns[k]);
                break;
            case 1: status = CALL(fdx_resume(server, conns[k])); break;
            case 2: status = CALL(fdx_ping(server, conns[k], "?", 1)); break;
            case 3: status = CALL(fdx_conn_get_info(server, conns[k], &info)); break;
            case 4: status = CALL(fdx_conn_set_data(server, conns[k], meddler, NULL)); break;
            case 5: status = i % 50 == 0 ? CALL(fdx_abort(server, conns[k])) : FDX_OK; break;
            case 6: status = i % 50 == 0 ? CALL(fdx_close(server, conns[k], 1000, "", 0)) : FDX_OK; break;
            default: status = CALL(fdx_resume(server, conns[k]));
            }
            CHECK(status >= 0 || status == FDX_E_NO_CONN || status == FDX_E_CLOSING || status == FDX_E_FULL);
        }
        CHECK_STATUS(FDX_OK, fdx_get_stats(server, &stats));
    }
    fdx_msg_unref(message);
    return NULL;
}

static void many_threads_may_call_everything_at_once(void)
{
    struct list list;
    host *h;
    struct dying dying[DYING];
    struct meddler meddlers[4];
    pthread_t dying_threads[DYING], meddler_threads[4];
    unsigned i;

    memset(&list, 0, sizeof list);
    h = host_start("threads = 2\ntimeout.close = 500ms\n", ON_USUAL, NULL, NULL);
    for (i = 0; i < DYING; i++) {
        dying[i].port = h->port;
        dying[i].list = &list;
        dying[i].seed = i + 1;
        CHECK(pthread_create(&dying_threads[i], NULL, die_again_and_again, &dying[i]) == 0);
    }
    for (i = 0; i < 4; i++) {
        meddlers[i].h = h;
        meddlers[i].number = i;
        CHECK(pthread_create(&meddler_threads[i], NULL, meddle, &meddlers[i]) == 0);
    }
    for (i = 0; i < 4; i++)
        pthread_join(meddler_threads[i], NULL);
    __atomic_store_n(&list.stop, 1u, __ATOMIC_SEQ_CST);
    for (i = 0; i < DYING; i++)
        pthread_join(dying_threads[i], NULL);
    host_end(h);
}

/* -- a slot passes on --------------------------------------------------------------------------------- */

struct hammer { host *h; uint64_t target; unsigned pause, idle, stop; };

/* Sends to the target as fast as it can, long after it has died. */
static void *hammer_on(void *argument)
{
    struct hammer *hammer = (struct hammer *)argument;
    static const char bulk[2000] = "";

    while (!__atomic_load_n(&hammer->stop, __ATOMIC_SEQ_CST)) {
        if (__atomic_load_n(&hammer->pause, __ATOMIC_SEQ_CST)) {
            __atomic_add_fetch(&hammer->idle, 1u, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&hammer->pause, __ATOMIC_SEQ_CST))
                sleep_ms(1);
            __atomic_sub_fetch(&hammer->idle, 1u, __ATOMIC_SEQ_CST);
        }
        fdx_send(hammer->h->server, __atomic_load_n(&hammer->target, __ATOMIC_SEQ_CST), FDX_BINARY, bulk, sizeof bulk, 0);
    }
    return NULL;
}

/* A sender may be stopped by the scheduler between finding its connection and counting its bytes. Meanwhile
 * the connection dies and another gets its place: that one must not carry the bytes for the rest of its life,
 * or it would never see DRAIN. */
static void bytes_for_a_dead_connection_are_not_counted_for_the_one_that_took_its_place(void)
{
    struct hammer hammer;
    pthread_t threads[SENDERS];
    /* Valgrind lets one thread run at a time: with eight that never rest, a round takes 10 s. */
    unsigned i, round, rounds = times(150, 3), senders = times(SENDERS, 2);

    memset(&hammer, 0, sizeof hammer);
    hammer.h = host_start("threads = 1\nsend.full = drop\nsend.limit = 64k\n", ON_OPEN | ON_CLOSE, NULL, NULL);
    for (i = 0; i < senders; i++)
        CHECK(pthread_create(&threads[i], NULL, hammer_on, &hammer) == 0);
    for (round = 0; round < rounds; round++) {
        client dying = client_open(hammer.h->port), next;
        fdx_conn_info info = new_conn_info();
        fdx_conn conn;

        __atomic_store_n(&hammer.target, host_await(hammer.h, FDX_EV_OPEN, 2 * round + 1).conn, __ATOMIC_SEQ_CST);
        sleep_ms(1);
        client_reset(&dying);
        host_await(hammer.h, FDX_EV_CLOSE, 2 * round + 1);
        next = client_open(hammer.h->port);
        conn = host_await(hammer.h, FDX_EV_OPEN, 2 * round + 2).conn;
        __atomic_store_n(&hammer.pause, 1u, __ATOMIC_SEQ_CST);
        CHECK_SOON(__atomic_load_n(&hammer.idle, __ATOMIC_SEQ_CST) == senders);
        CHECK_SOON(fdx_conn_get_info(hammer.h->server, conn, &info) == FDX_OK && info.queued_bytes == 0);
        client_drop(&next);
        host_await(hammer.h, FDX_EV_CLOSE, 2 * round + 2);
        __atomic_store_n(&hammer.pause, 0u, __ATOMIC_SEQ_CST);
        CHECK_SOON(__atomic_load_n(&hammer.idle, __ATOMIC_SEQ_CST) == 0);
    }
    __atomic_store_n(&hammer.stop, 1u, __ATOMIC_SEQ_CST);
    for (i = 0; i < senders; i++)
        pthread_join(threads[i], NULL);
    host_end(hammer.h);
}

/* -- references ------------------------------------------------------------------------------------- */

static fdx_msg *shared;

static void *take_and_give_back(void *argument)
{
    fdx_server *server = (fdx_server *)argument;
    unsigned i;

    for (i = 0; i < times(20000, 500); i++) {
        fdx_msg_unref(fdx_msg_ref(shared));
        fdx_server_unref(fdx_server_ref(server));
    }
    return NULL;
}

static void references_may_be_taken_and_given_back_on_many_threads(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    pthread_t threads[4];
    unsigned i;

    shared = fdx_msg_new(FDX_TEXT, "shared", 6);
    for (i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, take_and_give_back, h->server) == 0);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    fdx_msg_unref(shared);
    host_end(h);
}

static void *wait_for_the_server(void *argument)
{
    CHECK_STATUS(FDX_OK, fdx_server_wait((fdx_server *)argument, -1));
    return NULL;
}

static void several_threads_may_wait_for_one_server(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    pthread_t threads[4];
    unsigned i;

    for (i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, wait_for_the_server, h->server) == 0);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    host_end(h);
}

int main(void)
{
    PROVE(eight_threads_send_in_their_order_while_connections_die);
    PROVE(eight_threads_send_to_the_connections_of_four_threads);
    PROVE(many_threads_may_call_everything_at_once);
    PROVE(bytes_for_a_dead_connection_are_not_counted_for_the_one_that_took_its_place);
    PROVE(references_may_be_taken_and_given_back_on_many_threads);
    PROVE(several_threads_may_wait_for_one_server);
    return 0;
}
