/* A server for tests of TLS. It tells who opens a connection what it knows of it, one "name=value"
 * a line; sends every message back; and prints "close CODE WHO" at every end. A message to
 * /certificate is three lines, a server name (empty: the default), a file with a certificate and a
 * file with its key, which it gives to fdx_set_certificate: the answer is "STATUS: message".
 */
#include "options.h"

#define FILE_BYTES_MAX 65536

static void append(char *text, size_t cap, const char *name, const char *value)
{
    size_t used = strlen(text);

    snprintf(text + used, cap - used, "%s=%s\n", name, value);
}

/* While the callback of OPEN runs, the request is still there. */
static void on_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    static const char *const parts[] = { ":tls_version", ":tls_subject" };
    fdx_conn_info info = { .struct_size = sizeof info };
    char text[4096] = "", value[1024];

    (void)user_data;
    fdx_conn_get_info(server, event->conn, &info);
    append(text, sizeof text, "tls", info.flags & FDX_CI_TLS ? "yes" : "no");
    append(text, sizeof text, "deflate", info.flags & FDX_CI_DEFLATE ? "yes" : "no");
    append(text, sizeof text, "address", info.remote_addr);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        fdx_status status = fdx_request_get(server, event->conn, parts[i], value, sizeof value, NULL);

        append(text, sizeof text, parts[i], status == FDX_OK ? value : fdx_status_name(status));
    }
    fdx_send(server, event->conn, FDX_TEXT, text, strlen(text), 0);
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    fdx_send(server, event->conn, event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT, event->data, event->len, 0);
}

static size_t contents(const char *path, char *bytes)
{
    FILE *file = fopen(path, "rb");
    size_t length;

    if (!file)
        give_up(path);
    length = fread(bytes, 1, FILE_BYTES_MAX, file);
    fclose(file);
    return length;
}

static void on_certificate(void *user_data, fdx_server *server, const fdx_event *event)
{
    static char line[4096], certificate[FILE_BYTES_MAX], key[FILE_BYTES_MAX];
    fdx_error error = { .struct_size = sizeof error };
    char *certificate_file, *key_file, answer[512];
    size_t certificate_length, key_length;
    fdx_status status;

    (void)user_data;
    snprintf(line, sizeof line, "%.*s", (int)event->len, (const char *)event->data);
    certificate_file = strchr(line, '\n');
    key_file = certificate_file ? strchr(certificate_file + 1, '\n') : NULL;
    if (!key_file)
        give_up("a message to /certificate has three lines");
    *certificate_file++ = *key_file++ = '\0';
    certificate_length = contents(certificate_file, certificate);
    key_length = contents(key_file, key);
    status = fdx_set_certificate(server, *line ? line : NULL, certificate, certificate_length, key, key_length, &error);
    snprintf(answer, sizeof answer, "%s: %s", fdx_status_name(status), error.message);
    fdx_send(server, event->conn, FDX_TEXT, answer, strlen(answer), 0);
}

static void on_close(void *user_data, fdx_server *server, const fdx_event *event)
{
    static const char *const who[] = { "", "peer", "host", "timeout", "limit", "protocol", "network", "shutdown" };

    (void)user_data, (void)server;
    printf("close %d %s\n", (int)event->code, event->arg < sizeof who / sizeof *who ? who[event->arg] : "?");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "a server for tests of TLS", .listen = { "127.0.0.1:9003" } };
    fdx_handlers echo = { .struct_size = sizeof echo, .on_open = on_open, .on_message = on_message, .on_close = on_close };
    fdx_handlers certificate = { .struct_size = sizeof certificate, .on_message = on_certificate };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &echo, &error) < 0 ||
        fdx_config_route(config, "/certificate", 0, &certificate, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 || fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);
    announce(&options, server);
    wait_for_stop_signal(&stop_signals);
    fdx_server_stop(server, 1001, "the server is stopping", FDX_NTS, 0, 2000);
    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    return 0;
}
