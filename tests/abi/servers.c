/* Servers as wholes: starting, stopping, several at once, and what they leave behind in their host. */
#include "check.h"

/* -- start and stop ---------------------------------------------------------------------------- */

static void calls_out_of_order_are_errors(void)
{
    fdx_config *config = new_config(NULL);
    fdx_server *server = new_server(config);
    fdx_error error = new_error();
    uint16_t port;

    fdx_config_free(config);
    CHECK_STATUS(FDX_E_STATE, fdx_server_stop(server, 1001, "", 0, 0, 0));
    CHECK(CALL(fdx_listener_port(server, 0, &port)) < 0);
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STATE, fdx_send(server, 1, FDX_TEXT, "hello", 5, 0));

    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_E_STATE, fdx_server_start(server, &error));
    CHECK(error.status == FDX_E_STATE && error.message[0] != '\0');
    CHECK_STATUS(FDX_E_TIMEOUT, fdx_server_wait(server, 0));
    CHECK_STATUS(FDX_E_TIMEOUT, fdx_server_wait(server, 20));

    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_ALREADY, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 10000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 0));
    CHECK_STATUS(FDX_ALREADY, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_ANY2(FDX_E_STOPPED, FDX_E_STATE, fdx_server_start(server, &error));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_send(server, 1, FDX_TEXT, "hello", 5, 0));
    fdx_server_unref(server);
}

static void after_the_stop_every_call_about_a_connection_fails_and_none_hangs(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn, list[4];
    fdx_conn_info info = new_conn_info();
    fdx_stats stats = new_stats();
    size_t needed = 0;
    uint16_t port;

    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 100));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_send(h->server, conn, FDX_TEXT, "hello", 5, 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_close(h->server, conn, 1000, "", 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_abort(h->server, conn));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_pause(h->server, conn));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_resume(h->server, conn));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_ping(h->server, conn, NULL, 0));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_conn_set_data(h->server, conn, NULL, NULL));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_conn_get_info(h->server, conn, &info));
    CHECK_ANY2(FDX_E_NO_CONN, FDX_E_STOPPED, fdx_accept(h->server, conn, NULL, NULL, 0));
    CHECK_ANY2(FDX_OK, FDX_E_STOPPED, fdx_conns(h->server, 7, list, 4, &needed));
    CHECK(needed == 0);
    CHECK_ANY2(FDX_OK, FDX_E_STOPPED, fdx_get_stats(h->server, &stats));
    CHECK(stats.connections == 0);
    CHECK_ANY2(FDX_OK, FDX_E_STOPPED, fdx_listener_port(h->server, 0, &port));
    client_drop(&c);
    host_end(h);
}

static void a_server_that_was_never_started_leaves_nothing(void)
{
    unsigned files = open_files(), threads = running_threads(), i;

    for (i = 0; i < 20; i++) {
        fdx_config *config = new_config(NULL);
        fdx_server *server = new_server(config);
        fdx_config_free(config);
        fdx_server_unref(server);
    }
    CHECK_SOON(open_files() == files && running_threads() == threads);
}

static void start_and_stop_with(const char *settings, unsigned rounds)
{
    unsigned files, threads, i;

    host_end(host_start(settings, ON_USUAL, NULL, NULL));   /* what is made once in a process is made now */
    files = open_files();
    threads = running_threads();
    for (i = 0; i < rounds; i++) {
        host *h = host_start(settings, ON_USUAL, NULL, NULL);
        client c = client_open(h->port);

        if (i % 2) {
            client_say(&c, "hello");
            client_leave(&c);
        } else {                            /* it never answers: the deadline cuts it */
            CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 5));
        }
        host_end(h);
        client_drop(&c);
    }
    CHECK_SOON(open_files() == files);
    CHECK_SOON(running_threads() == threads);
}

static void starting_and_stopping_200_times_leaves_no_descriptor_and_no_thread(void)
{
    start_and_stop_with("threads = 1\n", times(200, 20));
    start_and_stop_with("threads = 3\nlisten = 127.0.0.1:0\nlisten = 127.0.0.1:0\n", times(50, 5));
}

static void stopping_sends_each_peer_the_code_and_the_reason(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client clients[10];
    int64_t begun;
    unsigned i;

    for (i = 0; i < 10; i++)
        clients[i] = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 10);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1012, "back in a minute", FDX_NTS, 0, 20000));
    for (i = 0; i < 10; i++) {
        CLIENT_EXPECT_CLOSE(&clients[i], 1012, "back in a minute");
        client_send_close(&clients[i], 1012, "");
        CLIENT_EXPECT_END(&clients[i]);
        client_drop(&clients[i]);
    }
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    CHECK(now_ms() - begun < 5000 || runs_slowly());   /* all have answered: no need for the deadline */
    for (i = 1; i <= 10; i++)
        CHECK(host_await(h, FDX_EV_CLOSE, i).arg == FDX_CLOSED_BY_SHUTDOWN);
    host_end(h);
}

static void stopping_returns_at_once_and_ends_at_its_deadline_with_peers_that_never_answer(void)
{
    host *h = host_start("timeout.close = 60s\n", ON_USUAL, NULL, NULL);
    client clients[10], undecided = client_dial(h->port);
    int64_t begun;
    unsigned i;

    client_write(&undecided, "GET / HTTP/1.1\r\n", 16);
    for (i = 0; i < 10; i++)
        clients[i] = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 10);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "bye", FDX_NTS, 0, 300));
    CHECK(now_ms() - begun < 100 || runs_slowly());
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    CHECK(now_ms() - begun >= 250);
    CHECK(now_ms() - begun < 3000 || runs_slowly());
    CHECK(host_count(h, FDX_EV_CLOSE) == 10);       /* when wait returns, all is told */
    for (i = 0; i < 10; i++) {
        CHECK(host_await(h, FDX_EV_CLOSE, i + 1).arg == FDX_CLOSED_BY_SHUTDOWN);
        CLIENT_EXPECT_CLOSE(&clients[i], 1001, "bye");
        client_drop(&clients[i]);
    }
    client_drop(&undecided);
    host_end(h);
}

static void stopping_with_a_spread_closes_all_before_it_is_over(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client clients[20];
    int64_t begun;
    unsigned i;

    for (i = 0; i < 20; i++)
        clients[i] = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 20);
    begun = now_ms();
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "bye", FDX_NTS, 300, 20000));
    for (i = 0; i < 20; i++) {
        CLIENT_EXPECT_CLOSE(&clients[i], 1001, "bye");
        client_send_close(&clients[i], 1001, "");
        client_drop(&clients[i]);
    }
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    CHECK(now_ms() - begun >= 100);         /* they did not all come at once */
    CHECK(now_ms() - begun < 5000 || runs_slowly());
    host_end(h);
}

static void a_stopping_server_takes_nobody_in(void)
{
    host *h = host_start("timeout.close = 60s\n", ON_ALL, NULL, NULL);
    client c = client_dial(h->port), late;
    fdx_conn undecided;

    client_ask(&c, "/", NULL);
    undecided = host_await(h, FDX_EV_UPGRADE, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "bye", FDX_NTS, 0, 500));
    sleep_ms(50);
    late = client_dial_with(h->port, 0);
    if (late.fd >= 0 && client_try_write(&late, "GET / HTTP/1.1\r\n", 16)) {
        char byte;
        CHECK(recv(late.fd, &byte, 1, 0) <= 0);
    }
    client_drop(&late);
    fdx_accept(h->server, undecided, NULL, NULL, 0);    /* whatever it says */
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    client_drop(&c);
    host_end(h);
}

static void letting_go_of_a_running_server_stops_it(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    unsigned threads = running_threads();
    client c = client_open(h->port);

    host_await(h, FDX_EV_OPEN, 1);
    CHECK(fdx_server_ref(h->server) == h->server);
    fdx_server_unref(h->server);
    client_say(&c, "there is one reference left");
    host_await(h, FDX_EV_MESSAGE, 1);
    fdx_server_unref(h->server);
    CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 1001);
    client_send_close(&c, 1001, "");
    CLIENT_EXPECT_END(&c);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    CHECK(host_await(h, FDX_EV_CLOSE, 1).arg == FDX_CLOSED_BY_SHUTDOWN);
    CHECK_SOON(running_threads() < threads);
    client_drop(&c);
    host_check_lives(h);
    host_free(h);
}

/* -- addresses ----------------------------------------------------------------------------------- */

static int bind_a_port(uint16_t *port, int listening)
{
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    if (listening)
        CHECK(listen(fd, 1) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void a_used_port_is_an_error_and_nothing_is_left_listening(const char *threads)
{
    uint16_t used, unused;
    int used_fd = bind_a_port(&used, 1);
    unsigned files, running;
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    fdx_error error = new_error();
    char address[32], used_text[32];
    client c;

    close(bind_a_port(&unused, 0));
    snprintf(address, sizeof address, "127.0.0.1:%u", unused);
    snprintf(used_text, sizeof used_text, "127.0.0.1:%u", used);
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "threads", threads, &error));
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "listen", address, &error));
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "listen", used_text, &error));
    files = open_files();
    running = running_threads();
    server = new_server(config);
    CHECK_STATUS(FDX_E_ADDR_IN_USE, fdx_server_start(server, &error));
    CHECK(error.status == FDX_E_ADDR_IN_USE && error.os_error == EADDRINUSE);
    CHECK(strstr(error.message, used_text) != NULL);        /* which one it was */
    c = client_dial_with(unused, 0);
    CHECK(c.fd == -1);
    fdx_server_unref(server);
    fdx_config_free(config);
    CHECK_SOON(open_files() == files);
    CHECK_SOON(running_threads() == running);
    close(used_fd);
}

static void a_used_port_is_an_error_and_all_listeners_start_or_none(void)
{
    a_used_port_is_an_error_and_nothing_is_left_listening("1");
    a_used_port_is_an_error_and_nothing_is_left_listening("2");
}

static void two_servers_do_not_share_one_port_by_accident(void)
{
    static const char *const threads[] = { "1", "2" };
    unsigned i, k;

    for (i = 0; i < 2; i++) {
        for (k = 0; k < 2; k++) {
            host *h = host_start(i ? "threads = 2\n" : "threads = 1\n", ON_USUAL, NULL, NULL);
            fdx_config *config = fdx_config_new();
            fdx_server *second = NULL;
            fdx_error error = new_error();
            char address[32];

            snprintf(address, sizeof address, "127.0.0.1:%u", h->port);
            CHECK_STATUS(FDX_OK, fdx_config_set(config, "listen", address, &error));
            CHECK_STATUS(FDX_OK, fdx_config_set(config, "threads", threads[k], &error));
            second = new_server(config);
            CHECK_STATUS(FDX_E_ADDR_IN_USE, fdx_server_start(second, &error));
            fdx_server_unref(second);
            fdx_config_free(config);
            host_end(h);
        }
    }
}

static void a_port_can_be_used_again_right_after_the_stop(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    uint16_t port = h->port;
    client c = client_open(port);
    char settings[64];

    host_await(h, FDX_EV_OPEN, 1);
    host_end(h);                            /* the server closed first: TIME_WAIT is on its side */
    client_drop(&c);
    snprintf(settings, sizeof settings, "listen = 127.0.0.1:%u\n", port);
    h = host_start(settings, ON_USUAL, NULL, NULL);
    CHECK(h->port == port);
    c = client_open(port);
    client_leave(&c);
    host_end(h);
}

static void ipv6_addresses_work_where_the_machine_has_them(void)
{
    struct sockaddr_in6 address;
    int probe = socket(AF_INET6, SOCK_STREAM, 0), there;
    host *h;
    client c;
    fdx_conn_info info = new_conn_info();

    memset(&address, 0, sizeof address);
    address.sin6_family = AF_INET6;
    address.sin6_addr.s6_addr[15] = 1;
    there = probe >= 0 && bind(probe, (struct sockaddr *)&address, sizeof address) == 0;
    if (probe >= 0)
        close(probe);
    if (!there) {
        fprintf(stderr, "this machine has no IPv6: not tested\n");
        return;
    }
    h = host_start("listen = [::1]:0\n", ON_USUAL, NULL, NULL);
    memset(&c, 0, sizeof c);
    c.fd = socket(AF_INET6, SOCK_STREAM, 0);
    address.sin6_port = htons(h->port);
    CHECK(connect(c.fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(client_upgrade(&c, "/", NULL) == 101);
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, host_await(h, FDX_EV_OPEN, 1).conn, &info));
    CHECK(strcmp(info.peer_addr, "::1") == 0);
    client_leave(&c);
    host_end(h);
}

static void two_servers_in_one_process_know_nothing_of_each_other(void)
{
    host *one = host_start("max.message = 10\n", ON_USUAL, NULL, NULL);
    host *two = host_start("threads = 2\n", ON_USUAL, NULL, NULL);
    client a = client_open(one->port), b = client_open(two->port);

    client_say(&a, "for one");
    client_say(&b, "a longer one for two");
    CHECK(strcmp(host_await(one, FDX_EV_MESSAGE, 1).data, "for one") == 0);
    CHECK(strcmp(host_await(two, FDX_EV_MESSAGE, 1).data, "a longer one for two") == 0);
    CHECK_STATUS(FDX_OK, fdx_server_stop(one->server, 1001, "", 0, 0, 100));
    CHECK_STATUS(FDX_OK, fdx_server_wait(one->server, 10000));
    client_say(&b, "still here");
    CHECK(strcmp(host_await(two, FDX_EV_MESSAGE, 2).data, "still here") == 0);
    client_leave(&b);
    client_drop(&a);
    host_end(one);
    host_end(two);
}

/* -- a good guest -------------------------------------------------------------------------------- */

static void send_much(host *h, const fdx_event *event)
{
    static const char bulk[16384] = "";
    int i;

    if (event->type == FDX_EV_MESSAGE)
        for (i = 0; i < 50; i++)
            fdx_send(h->server, event->conn, FDX_BINARY, bulk, sizeof bulk, 0);
}

static void peers_that_reset_do_not_kill_a_host_that_leaves_sigpipe_alone(void)
{
    host *h = host_start(NULL, ON_USUAL, send_much, NULL);
    struct sigaction action;
    unsigned i, k;

    CHECK(sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    for (i = 0; i < times(100, 10); i++) {
        client c = client_open(h->port);
        for (k = 0; k < 10; k++)
            client_say(&c, "send me much");
        if (i % 2)
            sleep_ms(1);
        client_reset(&c);
    }
    host_await(h, FDX_EV_CLOSE, times(100, 10));
    host_end(h);
}

static void a_server_changes_no_signal_handler_and_no_mask(void)
{
    struct sigaction before[32], after;
    sigset_t mask_before, mask_after;
    host *h;
    client c;
    int i;

    for (i = 1; i < 32; i++)
        CHECK(sigaction(i, NULL, &before[i]) == 0);
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
    h = host_start(NULL, ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    for (i = 1; i < 32; i++) {
        CHECK(sigaction(i, NULL, &after) == 0);
        CHECK(after.sa_handler == before[i].sa_handler && after.sa_flags == before[i].sa_flags);
        CHECK(sigismember(&mask_before, i) == sigismember(&mask_after, i));
    }
    client_leave(&c);
    host_end(h);
}

static counter threads_checked;

static void check_the_mask(host *h, const fdx_event *event)
{
    sigset_t mask;
    int i;

    (void)h;
    if (event->type != FDX_EV_MESSAGE)
        return;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (i = 1; i < 32; i++) {
        int is_fault = i == SIGSEGV || i == SIGBUS || i == SIGFPE || i == SIGILL || i == SIGTRAP || i == SIGSYS;
        CHECK(i == SIGKILL || i == SIGSTOP || sigismember(&mask, i) == !is_fault);
    }
    counter_add(&threads_checked);
}

static void the_threads_of_a_server_block_all_signals_but_faults_of_their_own(void)
{
    host *h = host_start(NULL, ON_USUAL, check_the_mask, NULL);
    client c = client_open(h->port);

    client_say(&c, "look");
    CHECK_SOON(counter_get(&threads_checked) == 1);
    client_leave(&c);
    host_end(h);
}

static void a_process_started_meanwhile_inherits_no_descriptor(void)
{
    host *h;
    client c;
    int fd, before[256];

    for (fd = 0; fd < 256; fd++)
        before[fd] = fcntl(fd, F_GETFD);
    h = host_start("threads = 2\n", ON_USUAL, NULL, NULL);
    c = client_open(h->port);
    host_await(h, FDX_EV_OPEN, 1);
    for (fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0 && before[fd] < 0 && fd != c.fd && !(flags & FD_CLOEXEC))
            fprintf(stderr, "descriptor %d would be inherited\n", fd);
        CHECK(flags < 0 || before[fd] >= 0 || fd == c.fd || flags & FD_CLOEXEC);
    }
    client_leave(&c);
    host_end(h);
}

static void after_a_fork_the_child_gets_an_error_from_every_call_and_the_parent_goes_on(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    fdx_conn conn = host_await(h, FDX_EV_OPEN, 1).conn;
    int answer[2];
    char worked = 'n';
    pid_t child;

    CHECK(pipe(answer) == 0);
    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        fdx_stats stats = new_stats();
        fdx_conn_info info = new_conn_info();

        alarm(20);
        if (fdx_send(h->server, conn, FDX_TEXT, "from the child", 14, 0) == FDX_E_FORKED &&
            fdx_close(h->server, conn, 1000, "", 0) == FDX_E_FORKED &&
            fdx_abort(h->server, conn) == FDX_E_FORKED &&
            fdx_conn_get_info(h->server, conn, &info) == FDX_E_FORKED &&
            fdx_get_stats(h->server, &stats) == FDX_E_FORKED &&
            fdx_server_stop(h->server, 1001, "", 0, 0, 0) == FDX_E_FORKED &&
            fdx_server_wait(h->server, 1000) == FDX_E_FORKED &&
            write(answer[1], "y", 1) < 0)
            abort();
        kill(getpid(), SIGKILL);            /* no exit, in which a checker would count what the parent holds */
    }
    close(answer[1]);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(read(answer[0], &worked, 1) == 1 && worked == 'y');
    close(answer[0]);
    client_say(&c, "hello, parent");
    host_await(h, FDX_EV_MESSAGE, 1);
    client_leave(&c);
    host_end(h);
}

/* Shards learn of it by mail: for a moment they still accept. */
static int eventually_refused(uint16_t port)
{
    struct sockaddr_in address;
    int tries;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    for (tries = 0; tries < 500; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int connected = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
        close(fd);
        if (!connected)
            return 1;
        sleep_ms(10);
    }
    return 0;
}

static void a_running_server_listens_at_more_addresses_and_at_fewer(void)
{
    host *h = host_start("threads = 2\n", ON_USUAL, NULL, NULL);
    fdx_error error = new_error();
    client first, second, third;
    uint32_t id = 99, other = 99;
    uint16_t port = 0, other_port = 0;
    intptr_t fd = -1;

    CHECK_STATUS(FDX_OK, fdx_listen(h->server, "127.0.0.1:0", &id, &port, &error));
    CHECK(id > 0 && port != 0 && port != h->port);
    CHECK_STATUS(FDX_OK, fdx_listen(h->server, "127.0.0.1:0", NULL, NULL, NULL));
    first = client_open(h->port);
    second = client_open(port);

    CHECK_STATUS(FDX_OK, fdx_listener_fd(h->server, id, &fd));
    CHECK(fd > 2 && fcntl((int)fd, F_GETFD) == FD_CLOEXEC);
    CHECK_STATUS(FDX_OK, fdx_unlisten(h->server, id));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_unlisten(h->server, id));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_listener_fd(h->server, id, &fd));
    CHECK(eventually_refused(port));                /* and who came in that way goes on */
    client_leave(&second);
    third = client_open(h->port);
    client_leave(&third);

    CHECK_STATUS(FDX_OK, fdx_unlisten(h->server, 0));           /* the configured one, too */
    CHECK(eventually_refused(h->port));
    CHECK_STATUS(FDX_OK, fdx_listen(h->server, "127.0.0.1:0", &other, &other_port, &error));
    CHECK(other != id);
    third = client_open(other_port);
    client_leave(&third);

    CHECK_STATUS(FDX_E_CONFIG, fdx_listen(h->server, "nowhere", &id, &port, &error));
    CHECK(strstr(error.message, "nowhere") != NULL);
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listen(h->server, NULL, &id, &port, &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_listener_fd(h->server, other, NULL));
    client_leave(&first);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_E_STOPPED, fdx_listen(h->server, "127.0.0.1:0", &id, &port, &error));
    CHECK_STATUS(FDX_E_NOT_FOUND, fdx_unlisten(h->server, other));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 10000));
    CHECK(eventually_refused(other_port));
    host_end(h);
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL);
    PROVE(calls_out_of_order_are_errors);
    PROVE(after_the_stop_every_call_about_a_connection_fails_and_none_hangs);
    PROVE(a_server_that_was_never_started_leaves_nothing);
    PROVE(starting_and_stopping_200_times_leaves_no_descriptor_and_no_thread);
    PROVE(stopping_sends_each_peer_the_code_and_the_reason);
    PROVE(stopping_returns_at_once_and_ends_at_its_deadline_with_peers_that_never_answer);
    PROVE(stopping_with_a_spread_closes_all_before_it_is_over);
    PROVE(a_stopping_server_takes_nobody_in);
    PROVE(letting_go_of_a_running_server_stops_it);
    PROVE(a_used_port_is_an_error_and_all_listeners_start_or_none);
    PROVE(two_servers_do_not_share_one_port_by_accident);
    PROVE(a_port_can_be_used_again_right_after_the_stop);
    PROVE(ipv6_addresses_work_where_the_machine_has_them);
    PROVE(two_servers_in_one_process_know_nothing_of_each_other);
    PROVE(peers_that_reset_do_not_kill_a_host_that_leaves_sigpipe_alone);
    PROVE(a_server_changes_no_signal_handler_and_no_mask);
    PROVE(the_threads_of_a_server_block_all_signals_but_faults_of_their_own);
    PROVE(a_process_started_meanwhile_inherits_no_descriptor);
    PROVE(after_a_fork_the_child_gets_an_error_from_every_call_and_the_parent_goes_on);
    PROVE(a_running_server_listens_at_more_addresses_and_at_fewer);
    return 0;
}
