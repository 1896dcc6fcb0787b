/* Decides who may come in, before a connection opens.
 *
 *   ws://127.0.0.1:9002/?token=letmein   opens: says "welcome" and sends every message back
 *   without the token                    401, and how to get in
 *   from a page of another site          403
 *
 * A client that offers chat.v2 gets it as the subprotocol, else chat.v1 if it offers that.
 */
#include "options.h"

/* Copies a value of the request: "" if it is not there, or none that we would take: too long, or
 * with a %00 in it, behind which a comparison would not look. */
static fdx_status ask(fdx_server *server, fdx_conn conn, const char *name, char *value, size_t cap)
{
    size_t needed;
    fdx_status status = fdx_request_get(server, conn, name, value, cap, &needed);

    if (status != FDX_OK || needed != strlen(value) + 1)
        value[0] = '\0';
    return status;
}

static void refuse(fdx_server *server, fdx_conn conn, uint16_t status, const char *headers, const char *body)
{
    fdx_reject(server, conn, status, headers, FDX_NTS, body, strlen(body));
}

static int starts_local(const char *origin, const char *local)
{
    size_t len = strlen(local);

    /* What follows the host must be its end, or http://localhost.evil.example would pass. */
    return strncmp(origin, local, len) == 0 && (origin[len] == '\0' || origin[len] == ':');
}

/* Browsers always tell the page they act for; a program that tells nothing is no browser. */
static int comes_from_here(fdx_server *server, fdx_conn conn)
{
    static const char *const names[] = { "Origin", "Sec-WebSocket-Origin" /* HyBi-07 and -08 */ };
    char origin[256];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (ask(server, conn, names[i], origin, sizeof origin) != FDX_E_NOT_FOUND &&
            !starts_local(origin, "http://localhost") && !starts_local(origin, "http://127.0.0.1"))
            return 0;
    return 1;
}

/* Is `name` in a list such as "chat.v1, chat.v2"? */
static int is_offered(const char *list, const char *name)
{
    while (*(list += strspn(list, ", \t")) != '\0') {
        size_t len = strcspn(list, ", \t");
        if (len == strlen(name) && strncmp(list, name, len) == 0)
            return 1;
        list += len;
    }
    return 0;
}

static void on_upgrade(void *user_data, fdx_server *server, const fdx_event *event)
{
    char token[64], offers[256];
    const char *subprotocol = NULL;

    (void)user_data;
    ask(server, event->conn, "?token", token, sizeof token);
    if (strcmp(token, "letmein") != 0) {
        refuse(server, event->conn, 401, "WWW-Authenticate: Bearer\r\nContent-Type: text/plain\r\n",
               "A token is needed: connect to /?token=letmein\n");
        return;
    }
    if (!comes_from_here(server, event->conn)) {
        refuse(server, event->conn, 403, "Content-Type: text/plain\r\n", "Only pages of this machine may come in.\n");
        return;
    }
    ask(server, event->conn, "Sec-WebSocket-Protocol", offers, sizeof offers);
    if (is_offered(offers, "chat.v2"))
        subprotocol = "chat.v2";
    else if (is_offered(offers, "chat.v1"))
        subprotocol = "chat.v1";
    fdx_accept(server, event->conn, subprotocol, "X-Gatekeeper: open\r\n", FDX_NTS);
}

static void on_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    static const char welcome[] = "welcome";

    (void)user_data;
    fdx_send(server, event->conn, FDX_TEXT, welcome, strlen(welcome), 0);
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    uint32_t kind = event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;

    (void)user_data;
    if (fdx_send(server, event->conn, kind, event->data, event->len, 0) == FDX_HIGH_WATER)
        fdx_pause(server, event->conn);   /* until it has read what waits for it */
}

static void on_drain(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    fdx_resume(server, event->conn);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "decides who may come in", .listen = { "127.0.0.1:9002" } };
    fdx_handlers handlers = {
        .struct_size = sizeof handlers,
        .on_upgrade = on_upgrade, .on_open = on_open, .on_message = on_message, .on_drain = on_drain,
    };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &handlers, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 ||
        fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);

    announce(&options, server);
    wait_for_stop_signal(&stop_signals);

    fdx_server_stop(server, 1001, "the server is stopping", FDX_NTS, 0, 2000);
    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    return 0;
}
