/* Listening sockets that come and go while clients do: a restart refuses nobody. */
#include "check.h"

/* -- where to connect ------------------------------------------------------------------------ */

typedef struct place {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    } address;
    socklen_t len;
} place;

static place place_of(const char *listen, uint16_t port)
{
    place p;

    memset(&p, 0, sizeof p);
    if (strncmp(listen, "unix:", 5) == 0) {
        size_t path_len = strcspn(listen + 5, "?");
        CHECK(path_len < sizeof p.address.path.sun_path);
        p.address.path.sun_family = AF_UNIX;
        memcpy(p.address.path.sun_path, listen + 5, path_len);
        if (p.address.path.sun_path[0] == '@')
            p.address.path.sun_path[0] = '\0';
        p.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len);
    } else if (listen[0] == '[') {
        p.address.v6.sin6_family = AF_INET6;
        p.address.v6.sin6_port = htons(port);
        p.address.v6.sin6_addr = in6addr_loopback;
        p.len = sizeof p.address.v6;
    } else {
        p.address.v4.sin_family = AF_INET;
        p.address.v4.sin_port = htons(port);
        p.address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        p.len = sizeof p.address.v4;
    }
    return p;
}

static client dial(const place *p)
{
    return client_dial_at(&p->address.any, p->len, 0);
}

/* A path that nothing has, short enough for a socket. */
static const char *free_path(void)
{
    static char path[64];
    static unsigned number;

    snprintf(path, sizeof path, "/tmp/fdx-handover-%ld-%u", (long)getpid(), number++);
    return path;
}

/* -- the server: it answers every message with its own name -------------------------------------- */

static void say_name(void *user_data, fdx_server *server, const fdx_event *event)
{
    const char *name = (const char *)user_data;

    CHECK(event->type == FDX_EV_MESSAGE);
    fdx_send(server, event->conn, FDX_TEXT, name, strlen(name), 0);
}

static fdx_server *serve(const char *name, const char *settings)
{
    fdx_config *config = new_config(settings);
    fdx_error error = new_error();
    fdx_handlers handlers;
    fdx_server *server = NULL;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.user_data = (void *)name;
    handlers.on_message = say_name;
    if (fdx_config_route(config, "/" "*", 0, &handlers, &error) != FDX_OK ||
        fdx_server_new(config, &server, &error) != FDX_OK || fdx_server_start(server, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    fdx_config_free(config);
    return server;
}

static void stop(fdx_server *server, uint32_t spread_ms)
{
    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "restart", FDX_NTS, spread_ms, runs_slowly() ? 60000 : 10000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, runs_slowly() ? 90000 : 20000));
    fdx_server_unref(server);
}

/* -- the load: clients that come, say something and leave, one after the other -------------------- */

#define LOADS 3

struct load {
    const place *where;
    counter rounds, served_by_new, good_byes;
    unsigned must_be_new, ends;
    pthread_t thread;
};

/* Leaves when the server has said good-bye, which only a restart does. */
static void answer_good_bye(client *c)
{
    CHECK(c->opcode == OP_CLOSE && client_close_code(c) == 1001);
    client_try_frame(c, 0x80 | OP_CLOSE, "\x03\xe9", 2, 1);
    CLIENT_EXPECT_END(c);
}

/* Connects, shakes hands and is answered: 'n' by the new process, 'o' by the old one, or 'g' for a
 * good-bye instead. Anything else fails the test. */
static char come(client *c, const place *where)
{
    *c = dial(where);
    CHECK(c->fd >= 0);
    CHECK(client_upgrade(c, "/", NULL) == 101);
    client_say(c, "who are you?");
    if (client_read(c) != OP_TEXT) {
        answer_good_bye(c);
        client_drop(c);
        return 'g';
    }
    CHECK(strcmp((char *)c->payload, "new") == 0 || strcmp((char *)c->payload, "old") == 0);
    return (char)c->payload[0];
}

/* True if the server was not saying good-bye at the same moment. */
static int leave(client *c)
{
    int code;

    client_send_close(c, 1000, "");
    CHECK(client_read(c) == OP_CLOSE);
    code = client_close_code(c);
    CHECK(code == 1000 || code == 1001);
    CLIENT_EXPECT_END(c);
    client_drop(c);
    return code == 1000;
}

static void *come_and_go(void *argument)
{
    struct load *load = (struct load *)argument;
    client c;

    while (!__atomic_load_n(&load->ends, __ATOMIC_SEQ_CST)) {
        unsigned must_be_new = __atomic_load_n(&load->must_be_new, __ATOMIC_SEQ_CST);
        char by = come(&c, load->where);
        CHECK(by == 'n' || !must_be_new);
        if (by == 'n')
            counter_add(&load->served_by_new);
        if (by == 'g' || !leave(&c))
            counter_add(&load->good_byes);
        counter_add(&load->rounds);
    }
    return NULL;
}

static void loads_begin(struct load *loads, const place *where)
{
    unsigned i;

    memset(loads, 0, LOADS * sizeof *loads);
    for (i = 0; i < LOADS; i++) {
        loads[i].where = where;
        CHECK(pthread_create(&loads[i].thread, NULL, come_and_go, &loads[i]) == 0);
    }
}

/* Until each of them has come so many times more. */
static void loads_go_on(struct load *loads, unsigned rounds)
{
    unsigned i, before[LOADS];

    for (i = 0; i < LOADS; i++)
        before[i] = counter_get(&loads[i].rounds);
    for (i = 0; i < LOADS; i++)
        CHECK_SOON(counter_get(&loads[i].rounds) >= before[i] + rounds);
}

static void loads_end(struct load *loads)
{
    unsigned i;

    for (i = 0; i < LOADS; i++)
        __atomic_store_n(&loads[i].ends, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < LOADS; i++)
        CHECK(pthread_join(loads[i].thread, NULL) == 0);
}

/* -- the processes: the test talks to each over a socket of its own; when the test ends, they do ---- */

static const char *own_program;

static void tell(int line, char word)
{
    CHECK(send(line, &word, 1, MSG_NOSIGNAL) == 1);
}

/* 0: the other end is gone. */
static char listen_for(int line)
{
    char word = 0;

    while (recv(line, &word, 1, 0) < 0 && errno == EINTR)
        continue;
    return word;
}

static int done(int line, char word)
{
    tell(line, word);
    return listen_for(line) == word;
}

/* "handover new LINE FD": serves at a listening socket that it was given, until it is told to stop. */
static int new_process(int line, int fd)
{
    char settings[64];
    fdx_server *server;

    snprintf(settings, sizeof settings, "threads = 2\nlisten = fd:%d\n", fd);
    server = serve("new", settings);
    tell(line, 'r');
    if (listen_for(line) != 's')
        _exit(1);
    stop(server, 0);
    tell(line, 's');
    return 0;
}

static void start_new_process(fdx_server *server, int new_line)
{
    char line_text[16], fd_text[16];
    ptrdiff_t fd = -1;
    pid_t child;

    CHECK_STATUS(FDX_OK, fdx_listener_fd(server, 0, &fd));
    snprintf(line_text, sizeof line_text, "%d", new_line);
    snprintf(fd_text, sizeof fd_text, "%d", (int)fd);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        fcntl((int)fd, F_SETFD, 0);
        execl(own_program, own_program, "new", line_text, fd_text, (char *)NULL);
        _exit(127);
    }
    close(new_line);
}

static void old_process(const char *settings, int line, int new_line)
{
    fdx_server *server = serve("old", settings);
    uint16_t port;

    fcntl(line, F_SETFD, FD_CLOEXEC);
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &port));
    CHECK(send(line, &port, sizeof port, MSG_NOSIGNAL) == sizeof port);
    for (;;) {
        char word = listen_for(line);
        switch (word) {
        case 'n':
            start_new_process(server, new_line);
            break;
        case 'u':
            CHECK_STATUS(FDX_OK, fdx_unlisten(server, 0));
            break;
        case 's':
            stop(server, 100);
            exit(0);
        default:
            _exit(1);
        }
        tell(line, word);
    }
}

/* -- the restart ----------------------------------------------------------------------------------- */

#define KEEPERS 12

/* Stays until it is told to go, then comes again until the new process answers. */
static void move_over(client *c, const place *where)
{
    char by;

    client_read(c);
    answer_good_bye(c);
    client_drop(c);
    while ((by = come(c, where)) != 'n')
        if (by == 'o')
            leave(c);
}

static void restart(const char *listen, unsigned threads, int unlistens)
{
    struct load loads[LOADS];
    client keepers[KEEPERS];
    char settings[128];
    int old_line[2], new_line[2], exit_status;
    unsigned i, rounds = times(30, 4);
    uint16_t port;
    pid_t old;
    place where;

    snprintf(settings, sizeof settings, "threads = %u\nlisten = %s\n", threads, listen);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, old_line) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, new_line) == 0);
    old = fork();
    CHECK(old >= 0);
    if (old == 0) {
        close(old_line[0]);
        close(new_line[0]);
        old_process(settings, old_line[1], new_line[1]);
    }
    close(old_line[1]);
    close(new_line[1]);
    CHECK(recv(old_line[0], &port, sizeof port, MSG_WAITALL) == sizeof port);
    where = place_of(listen, port);
    for (i = 0; i < KEEPERS; i++)
        CHECK(come(&keepers[i], &where) == 'o');
    loads_begin(loads, &where);
    loads_go_on(loads, rounds);

    CHECK(done(old_line[0], 'n'));
    CHECK(listen_for(new_line[0]) == 'r');
    loads_go_on(loads, rounds);
    if (unlistens) {
        CHECK(done(old_line[0], 'u'));
        loads_go_on(loads, rounds);
    }
    tell(old_line[0], 's');
    for (i = 0; i < KEEPERS; i++)
        move_over(&keepers[i], &where);
    CHECK(waitpid(old, &exit_status, 0) == old);
    CHECK(WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0);
    for (i = 0; i < LOADS; i++)
        __atomic_store_n(&loads[i].must_be_new, 1, __ATOMIC_SEQ_CST);
    loads_go_on(loads, rounds);
    loads_end(loads);

    for (i = 0; i < LOADS; i++) {
        CHECK(counter_get(&loads[i].served_by_new) >= rounds - 1);
        /* One process stops, once: a good-bye can't follow another but on the way to the new one. */
        CHECK(counter_get(&loads[i].good_byes) < counter_get(&loads[i].rounds) / 2);
    }
    for (i = 0; i < KEEPERS; i++)
        CHECK(leave(&keepers[i]));
    CHECK(done(new_line[0], 's'));
    close(old_line[0]);
    close(new_line[0]);
    if (where.address.any.sa_family == AF_UNIX)
        CHECK(unlink(where.address.path.sun_path) == 0);   /* handed over, it was nobody's to remove */
}

static void restart_at_every_kind_of_socket(int unlistens)
{
    char path[96];
    unsigned threads;

    for (threads = times(1, 2); threads <= 2; threads++) {
        restart("127.0.0.1:0", threads, unlistens);
        snprintf(path, sizeof path, "unix:%s?mode=600", free_path());
        restart(path, threads, unlistens);
    }
}

static void a_restart_that_hands_its_socket_over_refuses_no_client(void)
{
    restart_at_every_kind_of_socket(1);
}

static void a_stop_right_after_the_handover_refuses_no_client_either(void)
{
    restart_at_every_kind_of_socket(0);
}

/* -- listeners while the server runs ---------------------------------------------------------------- */

/* The first descriptor that systemd would pass; main() makes it a socket that listens. */
#define PASSED_FD 3

static int listening_socket(uint16_t *port)
{
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static int is_refused(const place *where)
{
    client c = dial(where);
    int refused = c.fd < 0;

    client_drop(&c);
    return refused;
}

/* `is_ours`: nobody else holds the socket, so that nobody listens when the server does not. */
static void come_and_go_at(fdx_server *server, const char *address, int is_ours)
{
    fdx_error error = new_error();
    uint32_t id = 0;
    uint16_t port = 0;
    ptrdiff_t fd;
    client staying, c;
    place where;

    if (CALL(fdx_listen(server, address, &id, &port, &error)) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    where = place_of(address, port);
    CHECK((port == 0) == (where.address.any.sa_family == AF_UNIX));
    CHECK(come(&staying, &where) == 'n' && come(&c, &where) == 'n' && leave(&c));

    CHECK_STATUS(FDX_OK, fdx_unlisten(server, id));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_unlisten(server, id));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_listener_fd(server, id, &fd));
    if (where.address.any.sa_family == AF_UNIX && where.address.path.sun_path[0])
        CHECK(access(where.address.path.sun_path, F_OK) != 0);
    if (is_ours)
        CHECK_SOON(is_refused(&where));
    client_say(&staying, "still there?");
    CLIENT_EXPECT_TEXT(&staying, "new");
    CHECK(leave(&staying));
}

static void listeners_of_every_kind_come_and_go_under_load(void)
{
    fdx_server *server;
    struct load loads[LOADS];
    char address[96], pid[16];
    uint16_t port;
    place where;
    unsigned threads, i, k;

    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    CHECK(setenv("LISTEN_PID", pid, 1) == 0 && setenv("LISTEN_FDS", "1", 1) == 0 &&
          setenv("LISTEN_FDNAMES", "chat", 1) == 0);
    for (threads = times(1, 2); threads <= 2; threads++) {
        snprintf(address, sizeof address, "threads = %u\nlisten = 127.0.0.1:0\n", threads);
        server = serve("new", address);
        CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &port));
        where = place_of("127.0.0.1", port);
        loads_begin(loads, &where);
        for (i = 0; i < times(10, 2); i++) {
            int fd = listening_socket(&port);

            come_and_go_at(server, "127.0.0.1:0", 1);
            come_and_go_at(server, "[::1]:0", 1);
            snprintf(address, sizeof address, "unix:%s?mode=600", free_path());
            come_and_go_at(server, address, 1);
            snprintf(address, sizeof address, "unix:@%s", free_path());
            come_and_go_at(server, address, 1);
            snprintf(address, sizeof address, "fd:%d", fd);
            come_and_go_at(server, address, 0);
            close(fd);
            come_and_go_at(server, "systemd", 0);
            come_and_go_at(server, "systemd:chat", 0);
        }
        loads_go_on(loads, 1);
        loads_end(loads);
        for (k = 0; k < LOADS; k++)
            CHECK(counter_get(&loads[k].good_byes) == 0);
        stop(server, 0);
    }
}

int main(int argc, char **argv)
{
    uint16_t port;
    int fd;

    own_program = argv[0];
    if (argc == 4 && strcmp(argv[1], "new") == 0)
        return new_process(atoi(argv[2]), atoi(argv[3]));
    fd = listening_socket(&port);
    if (fd != PASSED_FD) {
        CHECK(dup2(fd, PASSED_FD) == PASSED_FD);
        close(fd);
    }
    PROVE(a_restart_that_hands_its_socket_over_refuses_no_client);
    PROVE(a_stop_right_after_the_handover_refuses_no_client_either);
    PROVE(listeners_of_every_kind_come_and_go_under_load);
    return 0;
}
