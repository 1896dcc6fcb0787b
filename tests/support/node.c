/* A server for tests of topics, alone or as one of several that a backplane joins.
 *
 *   /t/TOPIC      who opens it is in the topic, and hears "in TOPIC" first; what it says goes to all that are in it
 *   /from/TOPIC   what it says goes to all that are in the topic, and it is in none itself
 *   /echo         says everything back
 *   /commands     takes orders and answers each with a line, see `obey`
 *
 * What the backplane tells goes to stdout as "backplane up: why", the log to stderr.
 */
#include "options.h"

#include <inttypes.h>
#include <pthread.h>

enum { TOPIC_BYTES_MAX = 255 };

/* Main's until it has said where the server listens: news may come before. */
static pthread_mutex_t stdout_is_free = PTHREAD_MUTEX_INITIALIZER;

/* What `conn_data` of a connection to /t/ and /from/ is: the topic, ended by 0. */
static char *topic_of(fdx_server *server, const fdx_event *event)
{
    char topic[TOPIC_BYTES_MAX + 1];

    if (fdx_request_get(server, event->conn, "/topic", topic, sizeof topic, NULL) != FDX_OK)
        give_up("a connection without a topic");
    return strdup(topic);
}

static void on_sender_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    char *topic = topic_of(server, event);

    (void)user_data;
    if (fdx_conn_set_data(server, event->conn, topic, free) != FDX_OK)
        free(topic);
}

static void on_member_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    char *topic = topic_of(server, event), welcome[TOPIC_BYTES_MAX + 4];
    fdx_status status = fdx_subscribe(server, event->conn, topic, FDX_NTS);

    (void)user_data;
    snprintf(welcome, sizeof welcome, "in %s", status == FDX_OK ? topic : fdx_status_name(status));
    fdx_send(server, event->conn, FDX_TEXT, welcome, strlen(welcome), 0);
    if (fdx_conn_set_data(server, event->conn, topic, free) != FDX_OK)
        free(topic);
}

static uint32_t kind_of(const fdx_event *event)
{
    return event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;
}

static void on_said(void *user_data, fdx_server *server, const fdx_event *event)
{
    fdx_msg *message = fdx_msg_new(kind_of(event), event->data, event->len);
    fdx_status status = fdx_publish(server, event->conn_data, FDX_NTS, message, 0, 0, NULL);

    (void)user_data;
    fdx_msg_unref(message);
    if (status != FDX_OK && status != FDX_E_STOPPED)
        fprintf(stderr, "publishing: %s\n", fdx_status_name(status));
}

static void on_echo(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    fdx_send(server, event->conn, kind_of(event), event->data, event->len, 0);
}

/* Publishes `count` binary messages of `bytes` each: their number in four bytes, the highest first, and zeros. */
static void publish_many(fdx_server *server, const char *topic, uint32_t count, size_t bytes, fdx_publish_result *sum)
{
    uint8_t *payload = calloc(1, bytes);
    fdx_publish_result result = { .struct_size = sizeof result };

    if (bytes < 4 || !payload)
        give_up("a message has four bytes at least");
    for (uint32_t number = 0; number < count; number++) {
        fdx_msg *message;

        for (int i = 0; i < 4; i++)
            payload[i] = (uint8_t)(number >> (24 - 8 * i));
        message = fdx_msg_new(FDX_BINARY, payload, bytes);
        if (fdx_publish(server, topic, FDX_NTS, message, 0, 0, &result) != FDX_OK)
            give_up("fdx_publish");
        fdx_msg_unref(message);
        sum->queued += result.queued;
        sum->high_water += result.high_water;
        sum->dropped += result.dropped;
    }
    free(payload);
}

/*   subscribe TOPIC, unsubscribe TOPIC   this connection; the answer is the status
 *   count TOPIC                          how many of this process are in it
 *   publish TOPIC COUNT BYTES            within this callback; the answer is the sum of what came of it
 *   stats                                of topics and the backplane
 */
static void obey(fdx_server *server, fdx_conn conn, const char *order, char *answer, size_t room)
{
    char verb[16] = "", topic[TOPIC_BYTES_MAX + 1] = "";
    unsigned count = 0, bytes = 0;
    uint64_t members = 0;

    sscanf(order, "%15s %255s %u %u", verb, topic, &count, &bytes);
    if (strcmp(verb, "subscribe") == 0) {
        snprintf(answer, room, "%s", fdx_status_name(fdx_subscribe(server, conn, topic, FDX_NTS)));
    } else if (strcmp(verb, "unsubscribe") == 0) {
        snprintf(answer, room, "%s", fdx_status_name(fdx_unsubscribe(server, conn, topic, FDX_NTS)));
    } else if (strcmp(verb, "count") == 0 && fdx_topic_count(server, topic, FDX_NTS, &members) == FDX_OK) {
        snprintf(answer, room, "%" PRIu64, members);
    } else if (strcmp(verb, "publish") == 0) {
        fdx_publish_result sum = { .struct_size = sizeof sum };

        publish_many(server, topic, count, bytes, &sum);
        snprintf(answer, room, "queued %" PRIu64 " high_water %" PRIu64 " dropped %" PRIu64, sum.queued, sum.high_water,
                 sum.dropped);
    } else if (strcmp(verb, "stats") == 0) {
        fdx_stats stats = { .struct_size = sizeof stats };

        fdx_get_stats(server, &stats);
        snprintf(answer, room,
                 "topics %" PRIu64 " subscriptions %" PRIu64 " in %" PRIu64 " out %" PRIu64 " lost %" PRIu64,
                 stats.topics, stats.subscriptions, stats.backplane_in, stats.backplane_out, stats.backplane_lost);
    } else {
        snprintf(answer, room, "what is %s?", verb);
    }
}

static void on_order(void *user_data, fdx_server *server, const fdx_event *event)
{
    char order[512], answer[512];

    (void)user_data;
    snprintf(order, sizeof order, "%.*s", (int)event->len, (const char *)event->data);
    obey(server, event->conn, order, answer, sizeof answer);
    fdx_send(server, event->conn, FDX_TEXT, answer, strlen(answer), 0);
}

static void on_other(void *user_data, fdx_server *server, const fdx_event *event)
{
    static const char *const news[] = { "?", "up", "down", "gap" };

    (void)user_data;
    (void)server;
    if (event->type == FDX_EV_BACKPLANE) {
        pthread_mutex_lock(&stdout_is_free);
        printf("backplane %s: %.*s\n", news[event->code & 3], (int)event->len, (const char *)event->data);
        fflush(stdout);
        pthread_mutex_unlock(&stdout_is_free);
    }
}

static void write_log(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    static const char *const names[] = { "off", "error", "warning", "info", "debug", "trace" };

    (void)user_data;
    (void)conn;
    fprintf(stderr, "%s %s: %.*s\n", names[level], target, (int)len, text);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "topics, for tests", .listen = { "127.0.0.1:9002" } };
    fdx_handlers member = { .struct_size = sizeof member, .on_open = on_member_open, .on_message = on_said };
    fdx_handlers sender = { .struct_size = sizeof sender, .on_open = on_sender_open, .on_message = on_said };
    fdx_handlers echo = { .struct_size = sizeof echo, .on_message = on_echo };
    fdx_handlers commands = { .struct_size = sizeof commands, .on_message = on_order, .on_other = on_other };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    fdx_set_log(3, write_log, NULL, NULL);
    pthread_mutex_lock(&stdout_is_free);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/t/:topic", 0, &member, &error) < 0 ||
        fdx_config_route(config, "/from/:topic", 0, &sender, &error) < 0 ||
        fdx_config_route(config, "/echo", 0, &echo, &error) < 0 ||
        fdx_config_route(config, "/commands", 0, &commands, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 || fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);
    announce(&options, server);
    pthread_mutex_unlock(&stdout_is_free);
    wait_for_stop_signal(&stop_signals);
    fdx_server_stop(server, 1001, "the server is stopping", FDX_NTS, 0, 2000);
    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    return 0;
}
