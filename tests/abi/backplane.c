/* A backplane of the embedder's own: servers of one process, joined by functions in C. */
#include "check.h"

#define MACHINES 2
#define NOTES 64

/* What one machine's backplane was asked for, in order. */
typedef struct machine {
    host *h;
    pthread_mutex_t lock;
    char notes[NOTES][40];
    size_t noted;
    char envelope[256];                 /* the last that was published */
    size_t envelope_len;
    counter dropped;
    int silent;                         /* nothing goes on to the others */
} machine;

static machine machines[MACHINES];

static void note(machine *m, const char *what, const char *channel, size_t len)
{
    pthread_mutex_lock(&m->lock);
    CHECK(m->noted < NOTES);
    snprintf(m->notes[m->noted++], sizeof m->notes[0], "%s %.*s", what, (int)len, channel);
    pthread_mutex_unlock(&m->lock);
}

static int has_noted(machine *m, size_t nth, const char *what)
{
    int is_so;

    pthread_mutex_lock(&m->lock);
    is_so = m->noted > nth && strcmp(m->notes[nth], what) == 0;
    pthread_mutex_unlock(&m->lock);
    return is_so;
}

static void on_publish(void *user_data, fdx_server *server, const char *channel, size_t len, const void *envelope, size_t envelope_len)
{
    machine *m = (machine *)user_data;
    size_t i;

    CHECK(library_depth == 0 && server == m->h->server);
    CHECK_STATUS(FDX_E_DEADLOCK, fdx_server_wait(server, 0));
    CHECK(envelope_len <= sizeof m->envelope);
    memcpy(m->envelope, envelope, envelope_len);
    m->envelope_len = envelope_len;
    /* To all, also to who published it, and twice: each takes it once, and its own never. */
    pthread_mutex_lock(&m->lock);
    for (i = 0; !m->silent && i < 2 * MACHINES; i++)
        CHECK_STATUS(FDX_OK, fdx_backplane_deliver(machines[i % MACHINES].h->server, channel, len, envelope, envelope_len));
    pthread_mutex_unlock(&m->lock);
    note(m, "publish", channel, len);
}

static void on_subscribe(void *user_data, fdx_server *server, const char *channel, size_t len)
{
    machine *m = (machine *)user_data;

    CHECK(library_depth == 0 && server == m->h->server);
    note(m, "subscribe", channel, len);
}

static void on_unsubscribe(void *user_data, fdx_server *server, const char *channel, size_t len)
{
    machine *m = (machine *)user_data;

    CHECK(library_depth == 0 && server == m->h->server);
    note(m, "unsubscribe", channel, len);
}

static void machine_dropped(void *user_data)
{
    counter_add(&((machine *)user_data)->dropped);
}

static fdx_backplane new_backplane(machine *m)
{
    fdx_backplane backplane;

    memset(&backplane, 0, sizeof backplane);
    backplane.struct_size = sizeof backplane;
    backplane.user_data = m;
    backplane.drop = machine_dropped;
    backplane.publish = on_publish;
    backplane.subscribe = on_subscribe;
    backplane.unsubscribe = on_unsubscribe;
    return backplane;
}

static void machine_start(machine *m, const char *settings)
{
    fdx_config *config = new_config(settings);
    fdx_backplane backplane = new_backplane(m);
    fdx_handlers handlers;
    fdx_error error = new_error();
    fdx_server *server = NULL;

    memset(m, 0, sizeof *m);
    CHECK(pthread_mutex_init(&m->lock, NULL) == 0);
    m->h = host_new(NULL, NULL);
    handlers = host_handlers(m->h, ON_USUAL);
    handlers.drop = host_dropped;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, &error));
    CHECK_STATUS(FDX_OK, fdx_config_backplane(config, &backplane, &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(m->h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &m->h->port));
}

static void start_all(const char *settings)
{
    size_t i;

    for (i = 0; i < MACHINES; i++)
        machine_start(&machines[i], settings);
}

static void end_all(void)
{
    size_t i;

    for (i = 0; i < MACHINES; i++) {
        /* What it still has to say reaches nobody who is gone. */
        pthread_mutex_lock(&machines[i].lock);
        machines[i].silent = 1;
        pthread_mutex_unlock(&machines[i].lock);
    }
    for (i = 0; i < MACHINES; i++) {
        host_end(machines[i].h);
        CHECK(counter_get(&machines[i].dropped) == 1);
        pthread_mutex_destroy(&machines[i].lock);
    }
}

static client member(machine *m, const char *topic)
{
    client c = client_open(m->h->port);
    fdx_conn conn = host_await(m->h, FDX_EV_OPEN, 1).conn;

    CHECK_STATUS(FDX_OK, fdx_subscribe(m->h->server, conn, topic, FDX_NTS));
    return c;
}

static void publish(machine *m, const char *topic, const char *text)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, text, FDX_NTS);

    CHECK(message != NULL);
    CHECK_STATUS(FDX_OK, fdx_publish(m->h->server, topic, FDX_NTS, message, 0, 0, NULL));
    fdx_msg_unref(message);
}

static fdx_stats stats_of(machine *m)
{
    fdx_stats stats = new_stats();

    CHECK_STATUS(FDX_OK, fdx_get_stats(m->h->server, &stats));
    return stats;
}

static int is_news(machine *m, size_t nth, int32_t code)
{
    return host_await(m->h, FDX_EV_BACKPLANE, nth).code == code;
}

/* -- what it does ------------------------------------------------------------------------------------- */

static void what_is_published_on_one_server_reaches_the_subscribers_of_all_once(void)
{
    client one, two;

    start_all("threads = 2\nbackplane.prefix = app/\n");
    one = member(&machines[0], "tea");
    two = member(&machines[1], "tea");
    CHECK_SOON(has_noted(&machines[0], 0, "subscribe app/tea"));
    CHECK_SOON(has_noted(&machines[1], 0, "subscribe app/tea"));
    publish(&machines[0], "tea", "gr\xc3\xbc\xc3\x9f");
    CLIENT_EXPECT_TEXT(&one, "gr\xc3\xbc\xc3\x9f");
    CLIENT_EXPECT_TEXT(&two, "gr\xc3\xbc\xc3\x9f");
    publish(&machines[1], "tea", "back");
    CLIENT_EXPECT_TEXT(&one, "back");
    CLIENT_EXPECT_TEXT(&two, "back");
    CHECK(client_hears_nothing(&one, 100) && client_hears_nothing(&two, 0));
    CHECK_SOON(stats_of(&machines[0]).backplane_out == 1 && stats_of(&machines[0]).backplane_in == 1);
    client_leave(&one);
    CHECK_SOON(has_noted(&machines[0], 2, "unsubscribe app/tea"));
    client_leave(&two);
    end_all();
}

static void while_it_is_down_publishes_wait_and_then_all_is_subscribed_anew(void)
{
    client one;

    start_all("");
    one = member(&machines[0], "tea");
    CHECK_SOON(has_noted(&machines[0], 0, "subscribe fdx:tea"));
    CHECK_STATUS(FDX_ALREADY, fdx_backplane_state(machines[0].h->server, FDX_BP_UP));
    CHECK_STATUS(FDX_OK, fdx_backplane_state(machines[0].h->server, FDX_BP_DOWN));
    CHECK(is_news(&machines[0], 1, FDX_BP_DOWN));
    CHECK_STATUS(FDX_ALREADY, fdx_backplane_state(machines[0].h->server, FDX_BP_DOWN));
    publish(&machines[0], "tea", "here at once");
    CLIENT_EXPECT_TEXT(&one, "here at once");
    CHECK(stats_of(&machines[0]).backplane_out == 0);
    CHECK_STATUS(FDX_OK, fdx_backplane_state(machines[0].h->server, FDX_BP_UP));
    CHECK(is_news(&machines[0], 2, FDX_BP_UP) && is_news(&machines[0], 3, FDX_BP_GAP));
    CHECK_SOON(has_noted(&machines[0], 1, "subscribe fdx:tea"));
    CHECK_SOON(has_noted(&machines[0], 2, "publish fdx:tea"));
    CHECK_STATUS(FDX_OK, fdx_backplane_state(machines[0].h->server, FDX_BP_GAP));
    CHECK(is_news(&machines[0], 4, FDX_BP_GAP));
    client_leave(&one);
    end_all();
}

static void over_backplane_limit_publishes_are_lost_and_the_others_are_told(void)
{
    client two;
    unsigned i;

    start_all("backplane.limit = 4k\n");
    two = member(&machines[1], "tea");
    publish(&machines[0], "tea", "first");
    CLIENT_EXPECT_TEXT(&two, "first");
    CHECK_STATUS(FDX_OK, fdx_backplane_state(machines[0].h->server, FDX_BP_DOWN));
    for (i = 0; i < 100; i++)
        publish(&machines[0], "tea", "again");
    CHECK(stats_of(&machines[0]).backplane_lost > 50);
    CHECK_STATUS(FDX_OK, fdx_backplane_state(machines[0].h->server, FDX_BP_UP));
    CHECK(is_news(&machines[1], 1, FDX_BP_GAP));
    client_leave(&two);
    end_all();
}

static void what_was_published_before_a_stop_is_handed_over(void)
{
    client two;

    start_all("");
    two = member(&machines[1], "tea");
    publish(&machines[0], "tea", "the last word");
    CHECK_STATUS(FDX_OK, fdx_server_stop(machines[0].h->server, 1001, NULL, 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(machines[0].h->server, 30000));
    CHECK(stats_of(&machines[0]).backplane_out == 1);
    CLIENT_EXPECT_TEXT(&two, "the last word");
    CHECK_STATUS(FDX_E_STOPPED, fdx_backplane_state(machines[0].h->server, FDX_BP_DOWN));
    CHECK_STATUS(FDX_E_STOPPED,
        fdx_backplane_deliver(machines[0].h->server, "fdx:tea", FDX_NTS, machines[0].envelope, machines[0].envelope_len));
    client_leave(&two);
    end_all();
}

/* -- what it refuses ---------------------------------------------------------------------------------- */

static void what_is_no_envelope_or_for_another_application_is_said_to_who_brings_it(void)
{
    machine *m = &machines[0];
    char envelope[256];

    start_all("");
    publish(m, "tea", "hello");
    CHECK_SOON(has_noted(m, 0, "publish fdx:tea"));
    memcpy(envelope, m->envelope, m->envelope_len);
    CHECK_STATUS(FDX_OK, fdx_backplane_deliver(m->h->server, "fdx:tea", FDX_NTS, envelope, m->envelope_len));
    CHECK_STATUS(FDX_E_BACKPLANE, fdx_backplane_deliver(m->h->server, "app:tea", FDX_NTS, envelope, m->envelope_len));
    CHECK_STATUS(FDX_E_BACKPLANE, fdx_backplane_deliver(m->h->server, "fdx:", FDX_NTS, envelope, m->envelope_len));
    CHECK_STATUS(FDX_E_BACKPLANE, fdx_backplane_deliver(m->h->server, "fdx:tea", FDX_NTS, envelope, 12));
    CHECK_STATUS(FDX_E_BACKPLANE, fdx_backplane_deliver(m->h->server, "fdx:tea", FDX_NTS, "nonsense", 8));
    envelope[3]++;                      /* a version that is not known */
    CHECK_STATUS(FDX_E_BACKPLANE, fdx_backplane_deliver(m->h->server, "fdx:tea", FDX_NTS, envelope, m->envelope_len));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_backplane_state(m->h->server, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_backplane_state(m->h->server, 4));
    end_all();
}

static void there_is_one_backplane_and_it_has_all_its_functions(void)
{
    fdx_config *config = new_config(NULL);
    fdx_backplane backplane = new_backplane(&machines[0]);
    fdx_handlers handlers;
    fdx_error error = new_error();
    fdx_server *server = NULL;

    memset(&machines[0], 0, sizeof machines[0]);
    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, &error));
    backplane.unsubscribe = NULL;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_backplane(config, &backplane, &error));
    CHECK(strstr(error.message, "unsubscribe") && counter_get(&machines[0].dropped) == 0);
    backplane.unsubscribe = on_unsubscribe;
    CHECK_STATUS(FDX_OK, fdx_config_backplane(config, &backplane, &error));
    CHECK_STATUS(FDX_OK, fdx_config_backplane(config, &backplane, &error));
    CHECK(counter_get(&machines[0].dropped) == 1);
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "backplane", "redis://127.0.0.1:1", &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_new(config, &server, &error));
    CHECK(server == NULL && strstr(error.message, "choose one"));
    fdx_config_free(config);
    CHECK(counter_get(&machines[0].dropped) == 2);
}

static void a_server_without_one_takes_nothing(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);

    CHECK_STATUS(FDX_E_STATE, fdx_backplane_deliver(h->server, "fdx:tea", FDX_NTS, "x", 1));
    CHECK_STATUS(FDX_E_STATE, fdx_backplane_state(h->server, FDX_BP_DOWN));
    host_end(h);
}

/* -- Redis, as far as it goes without one --------------------------------------------------------------- */

static void a_bad_url_says_what_would_be_good_and_no_password_is_repeated(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();

    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "backplane", "http://ann:hunter2@host", &error));
    CHECK(strstr(error.message, "redis://") && !strstr(error.message, "hunter2"));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_load(config, "backplane = redis://ann:hunter2@host:none\n", FDX_NTS, &error));
    CHECK(strstr(error.message, "line 1") && strstr(error.message, "redis://") && !strstr(error.message, "hunter2"));
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "backplane", "rediss://ann:hunter2@host:7000/3, other:7001", &error));
    CHECK(fdx_has("redis") == 1);
    fdx_config_free(config);
}

static void without_the_redis_that_was_named_the_server_starts_delivers_and_stops(void)
{
    /* Nobody listens at port 1. */
    host *h = host_start("backplane = redis://127.0.0.1:1\n", ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    int64_t began;

    CHECK(host_await(h, FDX_EV_BACKPLANE, 1).code == FDX_BP_DOWN);
    CHECK_STATUS(FDX_OK, fdx_subscribe(h->server, host_await(h, FDX_EV_OPEN, 1).conn, "tea", FDX_NTS));
    CHECK_STATUS(FDX_OK, fdx_publish(h->server, "tea", FDX_NTS, message, 0, 0, NULL));
    CLIENT_EXPECT_TEXT(&c, "hello");
    fdx_msg_unref(message);
    client_leave(&c);
    host_await(h, FDX_EV_CLOSE, 1);
    began = now_ms();
    host_end(h);
    CHECK(now_ms() - began < 3000 || runs_slowly());
}

static void a_file_of_authorities_that_can_not_be_read_is_said_at_the_start_which_can_be_tried_again(void)
{
    fdx_config *config = new_config("backplane = rediss://127.0.0.1:1\nbackplane.ca = /nonexistent/ca.pem\n");
    fdx_server *server = new_server(config);
    fdx_error error = new_error();

    CHECK_STATUS(FDX_E_TLS, fdx_server_start(server, &error));
    CHECK(strstr(error.message, "backplane.ca = /nonexistent/ca.pem"));
    CHECK_STATUS(FDX_E_TLS, fdx_server_start(server, &error));
    fdx_server_unref(server);
    fdx_config_free(config);
}

int main(void)
{
    PROVE(what_is_published_on_one_server_reaches_the_subscribers_of_all_once);
    PROVE(while_it_is_down_publishes_wait_and_then_all_is_subscribed_anew);
    PROVE(over_backplane_limit_publishes_are_lost_and_the_others_are_told);
    PROVE(what_was_published_before_a_stop_is_handed_over);
    PROVE(what_is_no_envelope_or_for_another_application_is_said_to_who_brings_it);
    PROVE(there_is_one_backplane_and_it_has_all_its_functions);
    PROVE(a_server_without_one_takes_nothing);
    PROVE(a_bad_url_says_what_would_be_good_and_no_password_is_repeated);
    PROVE(without_the_redis_that_was_named_the_server_starts_delivers_and_stops);
    PROVE(a_file_of_authorities_that_can_not_be_read_is_said_at_the_start_which_can_be_tried_again);
    return 0;
}
