/* What the process around the library may do: fork, unload it, be flooded with signals, run out of
 * descriptors, threads and memory. Each is an error or a pause, never the end of the host. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* RLIMIT_NPROC, setgroups */
#endif
#include "every_call.h"

#include <dlfcn.h>
#include <grp.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

typedef struct child {
    pid_t pid;
    counter *is_done;                   /* in memory that both share */
} child;

/* Runs a part of a test in a child. It ends without any exit: a checker of memory would count there what the
 * parent's other threads hold. */
static child begin_child(void (*part)(void))
{
    child c;

    c.is_done = (counter *)mmap(NULL, sizeof *c.is_done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)c.is_done != MAP_FAILED);
    fflush(NULL);
    c.pid = fork();
    CHECK(c.pid >= 0);
    if (c.pid == 0) {
        alarm(runs_slowly() ? 200 : 50);
        part();
        counter_add(c.is_done);
        kill(getpid(), SIGKILL);
    }
    return c;
}

static void await_child(child c)
{
    int status = 0;

    CHECK(waitpid(c.pid, &status, 0) == c.pid);
    if (counter_get(c.is_done) != 1 && WIFSIGNALED(status))
        fprintf(stderr, "the child was ended by signal %d\n", WTERMSIG(status));
    CHECK(counter_get(c.is_done) == 1);
    munmap(c.is_done, sizeof *c.is_done);
}

static void in_a_child(void (*part)(void))
{
    await_child(begin_child(part));
}

static void echo(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        CHECK_ANY2(FDX_OK, FDX_HIGH_WATER, fdx_send(h->server, event->conn, event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT,
                                                    event->data, event->len, 0));
}

static void check_it_serves(uint16_t port)
{
    client c = client_open(port);

    client_say(&c, "are you there?");
    CLIENT_EXPECT_TEXT(&c, "are you there?");
    client_leave(&c);
}

/* -- fork ------------------------------------------------------------------------------------------------ */

static host *parents;
static fdx_conn parents_conn;

static void make_every_call_on_the_parents_server(void)
{
    size_t i;

    for (i = 0; i < EVERY_CALLS; i++) {
        const call *c = &every_call[i];
        int needs_a_server = c->takes & (TAKES_SERVER | TAKES_CONN);
        int counts_only = c->make == make_fdx_server_ref || c->make == make_fdx_server_unref;

        check_status(__FILE__, __LINE__, c->name, needs_a_server && !counts_only ? FDX_E_FORKED : FDX_OK,
                     c->make(parents->server, parents_conn));
    }
    fdx_set_log(0, NULL, NULL, NULL);
}

static void serve_in_the_child(void)
{
    host *own = host_start("threads = 2\n", ON_USUAL, echo, NULL);

    check_it_serves(own->port);
    check_it_serves(own->port);
    host_end(own);
}

static void after_a_fork_each_call_on_the_parents_server_fails_and_a_new_server_works(void)
{
    client c;

    parents = host_start("threads = 2\n", ON_USUAL, echo, NULL);
    c = client_open(parents->port);
    parents_conn = host_await(parents, FDX_EV_OPEN, 1).conn;
    in_a_child(make_every_call_on_the_parents_server);
    in_a_child(serve_in_the_child);
    client_say(&c, "still here");
    CLIENT_EXPECT_TEXT(&c, "still here");
    check_it_serves(parents->port);
    client_leave(&c);
    host_end(parents);
}

static void let_go_of_the_parents_server(void)
{
    unsigned i;

    for (i = 0; i < 2; i++)
        make_every_call_on_the_parents_server();
    fdx_server_unref(parents->server);      /* what exit handlers of bindings do */
    serve_in_the_child();
}

static fdx_batch *parents_batch;
static counter words_released;

static void free_the_parents_batch(void)
{
    fdx_batch_free(parents_batch);
    CHECK(counter_get(&words_released) == 0);
}

static void a_batch_freed_in_a_forked_child_is_the_parents_all_the_same(void)
{
    host *h = host_start_with("dispatch = queue\n", 0, 0, NULL, NULL);
    client c = client_open(h->port);
    fdx_batch_view view;

    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    CHECK_STATUS(FDX_OK, fdx_poll(h->server, 0, 1, -1, &view));
    CHECK_STATUS(FDX_OK, fdx_conn_set_data(h->server, view.events->conn, &words_released, count_drop));
    fdx_batch_free(view.batch);
    client_leave(&c);
    CHECK_STATUS(FDX_OK, fdx_poll(h->server, 0, 1, -1, &view));
    CHECK(view.events->type == FDX_EV_CLOSE);
    sleep_ms(50);                           /* by now the word goes with the batch */
    parents_batch = view.batch;
    in_a_child(free_the_parents_batch);
    fdx_batch_free(parents_batch);
    CHECK_SOON(counter_get(&words_released) == 1);
    CHECK_STATUS(FDX_OK, fdx_server_stop(h->server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    host_free(h);
}

static void a_child_may_end_by_exit_and_the_parent_goes_on_serving(void)
{
    client c;
    unsigned way;

    parents = host_start(NULL, ON_USUAL, echo, NULL);
    c = client_open(parents->port);
    parents_conn = host_await(parents, FDX_EV_OPEN, 1).conn;
    for (way = 0; way < 2; way++) {
        int status = 0;
        pid_t pid;

        fflush(NULL);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(runs_slowly() ? 200 : 50);
            let_go_of_the_parents_server();
            if (way)
                exit(0);
            _exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        /* Checkers of memory give an exit() their own status: the child holds what threads of the parent use. */
        CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || runs_slowly()));
        client_say(&c, "still here");
        CLIENT_EXPECT_TEXT(&c, "still here");
        check_it_serves(parents->port);
    }
    client_leave(&c);
    host_end(parents);
}

/* The child's only thread is the copy of a thread of the library, in a callback of it. */
static void fork_in_the_callback(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE) {
        parents_conn = event->conn;
        in_a_child(make_every_call_on_the_parents_server);
        in_a_child(serve_in_the_child);
    }
    echo(h, event);
}

static void a_callback_may_fork(void)
{
    parents = host_start(NULL, ON_USUAL, fork_in_the_callback, NULL);
    check_it_serves(parents->port);
    host_end(parents);
}

static unsigned threads_shall_end;

static void *log_without_end(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&threads_shall_end, __ATOMIC_SEQ_CST)) {
        fdx_set_log(0, NULL, NULL, NULL);
        set_the_log();
    }
    return NULL;
}

static void *be_refused_without_end(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&threads_shall_end, __ATOMIC_SEQ_CST)) {
        client c = client_dial(parents->port);
        client_try_write(&c, "nonsense\r\n\r\n", 12);
        client_read_head(&c);
        client_drop(&c);
    }
    return NULL;
}

static void set_the_log_and_serve(void)
{
    client c;

    set_the_log();
    serve_in_the_child();
    parents = host_start(NULL, ON_USUAL, echo, NULL);
    c = client_dial(parents->port);
    client_write(&c, "nonsense\r\n\r\n", 12);
    CHECK(client_read_head(&c) >= 400);
    client_drop(&c);
    fdx_set_log(0, NULL, NULL, NULL);
    host_end(parents);
}

static void a_fork_in_the_middle_of_logging_leaves_a_child_that_can_log(void)
{
    pthread_t setter, refused;
    unsigned i;

    /* AddressSanitizer's own allocator leaves its locks held in a child forked while another thread allocates. */
    if (runs_slowly())
        return;
    __atomic_store_n(&threads_shall_end, 0, __ATOMIC_SEQ_CST);
    parents = host_start(NULL, ON_USUAL, NULL, NULL);
    CHECK(pthread_create(&setter, NULL, log_without_end, NULL) == 0);
    CHECK(pthread_create(&refused, NULL, be_refused_without_end, NULL) == 0);
    for (i = 0; i < 40; i++)
        in_a_child(set_the_log_and_serve);
    __atomic_store_n(&threads_shall_end, 1, __ATOMIC_SEQ_CST);
    pthread_join(setter, NULL);
    pthread_join(refused, NULL);
    fdx_set_log(0, NULL, NULL, NULL);
    host_end(parents);
}

/* -- loading and unloading ------------------------------------------------------------------------------------ */

/* The program is linked with the library, which therefore stays. A copy in another file is another library. */
static void copy_the_library(char *path, size_t room)
{
    char line[4096], bytes[65536], *from = NULL;
    FILE *maps = fopen("/proc/self/maps", "r"), *in;
    const char *folder = getenv("TMPDIR");
    int out;
    size_t len;

    CHECK(maps != NULL);
    while (!from && fgets(line, sizeof line, maps))
        if (strstr(line, "libfullduplex"))
            from = strchr(line, '/');
    fclose(maps);
    CHECK(from != NULL);
    from[strcspn(from, "\n")] = '\0';
    snprintf(path, room, "%s/fullduplex-copy-XXXXXX", folder ? folder : "/tmp");
    out = mkstemp(path);
    in = fopen(from, "rb");
    CHECK(out >= 0 && in != NULL);
    while ((len = fread(bytes, 1, sizeof bytes, in)) > 0)
        CHECK(write(out, bytes, len) == (ssize_t)len);
    fclose(in);
    close(out);
}

static struct {
    uint32_t (*version)(void);
    fdx_config *(*config_new)(void);
    void (*config_free)(fdx_config *);
    fdx_status (*config_set)(fdx_config *, const char *, const char *, fdx_error *);
    fdx_status (*config_route)(fdx_config *, const char *, uint32_t, const fdx_handlers *, fdx_error *);
    fdx_status (*server_new)(const fdx_config *, fdx_server **, fdx_error *);
    fdx_status (*server_start)(fdx_server *, fdx_error *);
    fdx_status (*server_stop)(fdx_server *, uint16_t, const char *, size_t, uint32_t, uint32_t);
    fdx_status (*server_wait)(fdx_server *, int32_t);
    void (*server_unref)(fdx_server *);
    fdx_status (*listener_port)(fdx_server *, uint32_t, uint16_t *);
    fdx_status (*send)(fdx_server *, fdx_conn, uint32_t, const void *, size_t, uint32_t);
} loaded;

static void find(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);

    CHECK(found != NULL);
    memcpy(function, &found, sizeof found);
}

static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    find(library, "fdx_version", &loaded.version);
    find(library, "fdx_config_new", &loaded.config_new);
    find(library, "fdx_config_free", &loaded.config_free);
    find(library, "fdx_config_set", &loaded.config_set);
    find(library, "fdx_config_route", &loaded.config_route);
    find(library, "fdx_server_new", &loaded.server_new);
    find(library, "fdx_server_start", &loaded.server_start);
    find(library, "fdx_server_stop", &loaded.server_stop);
    find(library, "fdx_server_wait", &loaded.server_wait);
    find(library, "fdx_server_unref", &loaded.server_unref);
    find(library, "fdx_listener_port", &loaded.listener_port);
    find(library, "fdx_send", &loaded.send);
    CHECK(loaded.version() == FDX_VERSION);
    return library;
}

static void echo_by_the_copy(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    CHECK(loaded.send(server, event->conn, FDX_TEXT, event->data, event->len, 0) == FDX_OK);
}

static fdx_server *start_by_the_copy(uint16_t *port)
{
    fdx_config *config = loaded.config_new();
    fdx_server *server = NULL;
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.on_message = echo_by_the_copy;
    CHECK(loaded.config_set(config, "listen", "127.0.0.1:0", NULL) == FDX_OK);
    CHECK(loaded.config_route(config, "/", 0, &handlers, NULL) == FDX_OK);
    CHECK(loaded.server_new(config, &server, NULL) == FDX_OK);
    loaded.config_free(config);
    CHECK(loaded.server_start(server, NULL) == FDX_OK);
    CHECK(loaded.listener_port(server, 0, port) == FDX_OK);
    return server;
}

static void stop_by_the_copy(fdx_server *server)
{
    CHECK(loaded.server_stop(server, 1001, "", 0, 0, 1000) == FDX_OK);
    CHECK(loaded.server_wait(server, 30000) == FDX_OK);
    loaded.server_unref(server);
}

static void the_library_can_be_loaded_and_unloaded_a_hundred_times(void)
{
    unsigned threads = running_threads(), files = open_files(), i;
    char path[512];
    uint16_t port;

    copy_the_library(path, sizeof path);
    for (i = 0; i < times(100, 5); i++) {
        void *library = load(path);
        fdx_server *server = start_by_the_copy(&port);

        check_it_serves(port);
        stop_by_the_copy(server);
        CHECK(dlclose(library) == 0);
    }
    CHECK_SOON(running_threads() == threads);
    CHECK(open_files() == files);
    in_a_child(serve_in_the_child);         /* what the copies told fork() about themselves is still there */
    unlink(path);
}

static void a_server_of_a_library_that_is_unloaded_goes_on_serving(void)
{
    char path[512];
    uint16_t port;
    void *library;
    fdx_server *server;
    client c;

    copy_the_library(path, sizeof path);
    library = load(path);
    unlink(path);
    server = start_by_the_copy(&port);
    c = client_open(port);
    CHECK(dlclose(library) == 0);
    client_say(&c, "still here");
    CLIENT_EXPECT_TEXT(&c, "still here");
    check_it_serves(port);
    client_leave(&c);
    stop_by_the_copy(server);
}

/* -- signals ---------------------------------------------------------------------------------------------------- */

static __thread int is_of_the_library;
static counter signals_handled, signals_astray;

static void take_a_signal(int number)
{
    (void)number;
    counter_add(is_of_the_library ? &signals_astray : &signals_handled);
}

static void mark_and_echo(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_THREAD_START)
        is_of_the_library = 1;
    echo(h, event);
}

static void *send_signals_without_end(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&threads_shall_end, __ATOMIC_SEQ_CST)) {
        kill(getpid(), SIGUSR1);
        sleep_ms(0);
    }
    return NULL;
}

/* Which signals does the kernel say a thread of the library blocks? */
static unsigned check_the_masks_of_all_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    unsigned of_the_library = 0;

    CHECK(tasks != NULL);
    while ((task = readdir(tasks)) != NULL) {
        char path[300], line[256], name[64] = "";
        unsigned long long mask = 0;
        FILE *status;

        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        status = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!status)
            continue;
        while (fgets(line, sizeof line, status)) {
            sscanf(line, "Name: %60s", name);
            sscanf(line, "SigBlk: %llx", &mask);
        }
        fclose(status);
        if (strncmp(name, "fullduplex", 10) == 0) {
            /* SIGKILL and SIGSTOP can't be blocked; 32 and 33 are the C library's own. */
            unsigned long long all = ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) | 1ull << 31 | 1ull << 32);
            unsigned long long faults = 1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) |
                                        1ull << (SIGILL - 1) | 1ull << (SIGTRAP - 1) | 1ull << (SIGSYS - 1);
            CHECK((mask & all) == (all & ~faults));
            of_the_library++;
        }
    }
    closedir(tasks);
    return of_the_library;
}

static void a_storm_of_signals_reaches_no_thread_of_the_library(void)
{
    struct sigaction action, before;
    host *h = host_start("threads = 3\n", ON_USUAL, mark_and_echo, NULL);
    pthread_t sender;
    unsigned i;
    client c;

    /* SA_RESTART spares this test's own calls; the library's have nothing to restart. */
    memset(&action, 0, sizeof action);
    action.sa_handler = take_a_signal;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGUSR1, &action, &before) == 0);
    __atomic_store_n(&threads_shall_end, 0, __ATOMIC_SEQ_CST);
    CHECK(pthread_create(&sender, NULL, send_signals_without_end, NULL) == 0);
    c = client_open(h->port);
    for (i = 0; i < times(2000, 50); i++) {
        client_say(&c, "in the storm");
        CLIENT_EXPECT_TEXT(&c, "in the storm");
    }
    CHECK_SOON(counter_get(&signals_handled) > 100);
    /* valgrind keeps the masks of threads to itself, and gives the kernel its own. */
    if (!runs_slowly())
        CHECK(check_the_masks_of_all_threads() == 3);
    CHECK_STATUS(FDX_E_TIMEOUT, fdx_server_wait(h->server, 50));    /* which is interrupted and waits on */
    client_leave(&c);
    __atomic_store_n(&threads_shall_end, 1, __ATOMIC_SEQ_CST);
    pthread_join(sender, NULL);
    host_end(h);
    CHECK(counter_get(&signals_astray) == 0);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
}

static __thread sigjmp_buf behind_the_fault;
static counter faults_taken;

static void take_a_fault(int number)
{
    siglongjmp(behind_the_fault, number);
}

/* As a managed runtime does for a null reference; the jump stays inside the callback. */
static void fault_and_echo(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE) {
        if (sigsetjmp(behind_the_fault, 1) == 0)
            raise(SIGSEGV);    /* while it is blocked it would wait, where a faulty instruction ends the process */
        else
            counter_add(&faults_taken);
    }
    echo(h, event);
}

static void a_fault_in_a_callback_reaches_the_hosts_own_handler(void)
{
    struct sigaction action, before;
    host *h = host_start("", ON_USUAL, fault_and_echo, NULL);
    client c = client_open(h->port);

    memset(&action, 0, sizeof action);
    action.sa_handler = take_a_fault;
    CHECK(sigaction(SIGSEGV, &action, &before) == 0);
    client_say(&c, "after the fault");
    CLIENT_EXPECT_TEXT(&c, "after the fault");
    CHECK(counter_get(&faults_taken) == 1);
    CHECK(sigaction(SIGSEGV, &before, NULL) == 0);
    client_leave(&c);
    host_end(h);
}

/* -- no descriptors ------------------------------------------------------------------------------------------------ */

static void set_limit(int resource, rlim_t value)
{
    struct rlimit limit;

    CHECK(getrlimit((__rlimit_resource_t)resource, &limit) == 0);
    limit.rlim_cur = value;
    CHECK(setrlimit((__rlimit_resource_t)resource, &limit) == 0);
}

static void close_what_was_inherited(void)
{
    int fd;

    for (fd = 3; fd < 256; fd++)
        close(fd);
}

static counter troubles_told;

static void meet_trouble(host *h, const fdx_event *event)
{
    size_t i;

    if (event->type == FDX_EV_LISTENER) {
        CHECK(event->conn == 0 && event->len > 0);
        for (i = 0; i < EVERY_CALLS; i++)
            if (!(every_call[i].takes & ENDS))
                CHECK(CALL(every_call[i].make(h->server, event->conn)) != FDX_E_PANIC);
        counter_add(&troubles_told);
    }
    echo(h, event);
}

#define CROWD 24

/* More clients than the server has descriptors for: those in the queue come in when others leave. */
static int port_pipe[2];

static void come_as_a_crowd(void)
{
    client clients[CROWD];
    uint16_t port;
    unsigned i;

    CHECK(read(port_pipe[0], &port, sizeof port) == (ssize_t)sizeof port);
    for (i = 0; i < CROWD; i++) {
        clients[i] = client_dial(port);
        client_ask(&clients[i], "/", NULL);
    }
    for (i = 0; i < CROWD; i++) {
        CHECK(client_read_head(&clients[i]) == 101);
        client_say(&clients[i], "at last");
        CLIENT_EXPECT_TEXT(&clients[i], "at last");
        client_leave(&clients[i]);
    }
}

static void serve_a_crowd_with_ten_descriptors(void)
{
    child crowd;
    host *h;

    close_what_was_inherited();
    CHECK(pipe(port_pipe) == 0);
    crowd = begin_child(come_as_a_crowd);
    close(port_pipe[0]);                    /* 3 is free again: 0, 1, 2 and 4 are in use */
    set_limit(RLIMIT_NOFILE, 10);
    h = host_start("timeout.handshake = 60s\n", ON_USUAL, meet_trouble, NULL);
    CHECK(write(port_pipe[1], &h->port, sizeof h->port) == (ssize_t)sizeof h->port);
    await_child(crowd);
    CHECK(counter_get(&troubles_told) > 0);
    CHECK(host_count(h, FDX_EV_OPEN) == CROWD);
    host_end(h);
}

static void a_server_without_descriptors_says_so_and_goes_on_when_there_are_some(void)
{
    /* valgrind has a limit of its own make, which closes what the kernel has accepted. */
    if (!runs_slowly())
        in_a_child(serve_a_crowd_with_ten_descriptors);
}

static void start_with_ever_more_descriptors(void)
{
    rlim_t limit = 3;
    fdx_status status;
    unsigned failures = 0;

    close_what_was_inherited();
    do {
        fdx_config *config = new_config("threads = 3\n");
        fdx_server *server = new_server(config);
        fdx_error error = new_error();

        set_limit(RLIMIT_NOFILE, limit++);
        status = CALL(fdx_server_start(server, &error));
        if (status != FDX_OK) {
            CHECK(status == FDX_E_IO && error.os_error == EMFILE && error.status == FDX_E_IO);
            CHECK(strstr(error.message, "thread") == NULL);     /* it was none, and says so */
            CHECK_STATUS(FDX_E_STATE, fdx_server_stop(server, 1001, "", 0, 0, 0));
            failures++;
            set_limit(RLIMIT_NOFILE, 256);
            CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));     /* nothing began, so it can begin */
            CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 100));
            CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
        } else {
            CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 100));
            CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
        }
        fdx_server_unref(server);
        fdx_config_free(config);
    } while (status != FDX_OK);
    CHECK(failures >= 6);
}

static void a_start_without_enough_descriptors_is_an_error_and_leaves_nothing(void)
{
    in_a_child(start_with_ever_more_descriptors);
}

/* An address may name a descriptor of the host's. One that is no listening socket is refused, and stays as it was. */
static void a_descriptor_that_is_no_listening_socket_is_refused_and_left_as_it_was(void)
{
    host *h = host_start(NULL, ON_USUAL, echo, NULL);
    client connected = client_dial(h->port);
    int fds[6], ends[2];
    char address[300];
    fdx_error error;
    size_t i;

    CHECK(pipe(ends) == 0);
    fds[0] = ends[0];
    fds[1] = ends[1];
    fds[2] = socket(AF_INET, SOCK_DGRAM, 0);
    fds[3] = connected.fd;
    fds[4] = open("/dev/null", O_RDWR);
    fds[5] = open("/", O_RDONLY);
    for (i = 0; i < 6; i++) {
        int flags = fcntl(fds[i], F_GETFL), close_on_exec = fcntl(fds[i], F_GETFD);

        snprintf(address, sizeof address, "fd:%d", fds[i]);
        error = new_error();
        CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, address, NULL, NULL, &error));
        CHECK(error.message[0] != '\0');
        CHECK(fcntl(fds[i], F_GETFL) == flags && fcntl(fds[i], F_GETFD) == close_on_exec);
    }
    CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, "fd:98765", NULL, NULL, NULL));
    CHECK_STATUS(FDX_E_CONFIG, fdx_listen(h->server, "fd:-1", NULL, NULL, NULL));
    CHECK_STATUS(FDX_E_CONFIG, fdx_listen(h->server, "fd:99999999999", NULL, NULL, NULL));
    CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, "unix:/no/such/folder/name.sock", NULL, NULL, NULL));
    memset(address, 'x', sizeof address);
    memcpy(address, "unix:/", 6);
    address[sizeof address - 1] = '\0';
    CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, address, NULL, NULL, NULL));
    address[5] = '@';
    CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, address, NULL, NULL, NULL));
    CHECK_ANY2(FDX_E_IO, FDX_E_CONFIG, fdx_listen(h->server, "systemd", NULL, NULL, NULL));
    for (i = 0; i < 6; i++)
        if (i != 3)
            close(fds[i]);
    client_drop(&connected);
    check_it_serves(h->port);
    host_end(h);
}

/* -- no threads ------------------------------------------------------------------------------------------------------ */

/* All threads of all processes of this user. */
static unsigned threads_of_this_user(void)
{
    DIR *processes = opendir("/proc");
    struct dirent *process;
    unsigned count = 0;

    CHECK(processes != NULL);
    while ((process = readdir(processes)) != NULL) {
        char path[300];
        struct stat info;
        DIR *tasks;

        snprintf(path, sizeof path, "/proc/%s/task", process->d_name);
        if (process->d_name[0] < '0' || process->d_name[0] > '9' || stat(path, &info) != 0 || info.st_uid != getuid())
            continue;
        tasks = opendir(path);
        while (tasks && (process = readdir(tasks)) != NULL)
            count += process->d_name[0] != '.';
        if (tasks)
            closedir(tasks);
    }
    closedir(processes);
    return count;
}

static void start_with_ever_more_threads(void)
{
    unsigned failures = 0, threads = running_threads(), limit, most;
    fdx_status status = FDX_E_IO;

    /* root has no limit; somebody whom nobody else is has one of his own. */
    if (getuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid(54321) == 0 && setuid((uid_t)(100000 + getpid())) == 0);
    limit = threads_of_this_user();
    most = limit + 200;                     /* others of this user may come and go */
    for (limit = limit > 2 ? limit - 2 : 1; status != FDX_OK && limit < most; limit++) {
        counter drops = { 0 };
        fdx_config *config = new_config("threads = 6\n");
        fdx_server *server = NULL;
        fdx_handlers handlers;
        fdx_error error = new_error();
        unsigned files = open_files();

        memset(&handlers, 0, sizeof handlers);
        handlers.struct_size = sizeof handlers;
        handlers.user_data = &drops;
        handlers.drop = count_drop;
        CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
        CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
        fdx_config_free(config);
        set_limit(RLIMIT_NPROC, limit);
        status = CALL(fdx_server_start(server, &error));
        if (status == FDX_OK) {
            CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 100));
        } else {
            CHECK(status == FDX_E_IO && error.os_error == EAGAIN && strstr(error.message, "thread"));
            CHECK_STATUS(FDX_ALREADY, fdx_server_stop(server, 1001, "", 0, 0, 100));
            CHECK_STATUS(FDX_E_STATE, fdx_server_start(server, NULL));
            failures++;
        }
        CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
        fdx_server_unref(server);
        CHECK_SOON(counter_get(&drops) == 1);
        CHECK_SOON(running_threads() <= threads && open_files() == files);
    }
    CHECK(status == FDX_OK && failures >= 2);
}

static void a_start_without_enough_threads_is_an_error_and_ends_those_that_had_begun(void)
{
    in_a_child(start_with_ever_more_threads);
}

/* -- no memory ------------------------------------------------------------------------------------------------------- */

#define BIG (200u << 20)

static char *big;

static size_t memory_in_use(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* From now on there is memory for what is small, and none for what is BIG. */
static void leave_little_memory(size_t bytes)
{
    set_limit(RLIMIT_AS, memory_in_use() + bytes);
    CHECK(malloc(BIG) == NULL);
}

static void allocate_big(char byte)
{
    big = (char *)mmap(NULL, BIG + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(big != MAP_FAILED);
    memset(big, byte, BIG);                 /* and ended by NUL */
}

static void send_big(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE && event->len < 100) {
        CHECK_STATUS(FDX_E_NOMEM, fdx_send(h->server, event->conn, FDX_BINARY, big, BIG, 0));
        CHECK_STATUS(FDX_E_NOMEM, fdx_send(h->server, event->conn, FDX_TEXT, big, BIG, 0));
    }
    echo(h, event);
}

static void send_more_than_there_is(void)
{
    host *h;
    client c;
    fdx_conn conn;

    allocate_big('x');
    h = host_start("send.limit = 1g\nsend.high_water = 1g\nmax.message = 1g\n", ON_USUAL, send_big, NULL);
    c = client_open(h->port);
    conn = host_await(h, FDX_EV_OPEN, 1).conn;
    leave_little_memory(64 << 20);
    CHECK(fdx_msg_new(FDX_BINARY, big, BIG) == NULL);
    CHECK(fdx_msg_new(FDX_TEXT, big, BIG) == NULL);
    CHECK_STATUS(FDX_E_NOMEM, fdx_send(h->server, conn, FDX_BINARY, big, BIG, 0));
    CHECK_STATUS(FDX_E_NOMEM, fdx_send(h->server, conn, FDX_TEXT, big, BIG, 0));
    client_say(&c, "from inside");
    CLIENT_EXPECT_TEXT(&c, "from inside");
    check_it_serves(h->port);
    client_leave(&c);
    host_end(h);
}

static void a_message_that_memory_does_not_suffice_for_is_refused(void)
{
    if (!runs_slowly())                     /* checkers of memory need more address space than any limit leaves them */
        in_a_child(send_more_than_there_is);
}

static counter answers_refused;

static void answer_with_more_than_there_is(host *h, const fdx_event *event)
{
    size_t len;

    if (event->type == FDX_EV_UPGRADE || event->type == FDX_EV_HTTP) {
        fdx_status (*answer)(fdx_server *, fdx_conn, uint16_t, const char *, size_t, const void *, size_t) =
            event->type == FDX_EV_HTTP ? fdx_http_reply : fdx_reject;

        big[3] = ':';                       /* one line: "xxx:xxx…" CR LF */
        memcpy(big + BIG - 2, "\r\n", 2);
        CHECK_STATUS(FDX_E_NOMEM, answer(h->server, event->conn, 404, NULL, 0, big, BIG));
        CHECK_STATUS(FDX_E_TOO_BIG, answer(h->server, event->conn, 404, big, BIG, NULL, 0));
        if (event->type == FDX_EV_UPGRADE) {
            CHECK_STATUS(FDX_E_TOO_BIG, fdx_accept(h->server, event->conn, NULL, big, BIG));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, event->conn, big, NULL, 0));
        }
        CHECK(CALL(fdx_request_get(h->server, event->conn, big, NULL, 0, NULL)) == FDX_E_NOT_FOUND);
        counter_add(&answers_refused);
        /* What does not suffice for two copies, or for one and a half. */
        for (len = 48u << 20; CALL(answer(h->server, event->conn, 404, NULL, 0, big, len)) == FDX_E_NOMEM; len -= 1u << 20)
            CHECK(len > 1u << 20);
    }
    echo(h, event);
}

static void be_answered(uint16_t port, int is_upgrade)
{
    static const char page[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    client c = client_dial(port);
    char bytes[4096];
    int status;

    if (is_upgrade)
        client_ask(&c, "/", NULL);
    else
        client_write(&c, page, strlen(page));
    status = client_read_head(&c);
    CHECK(status == 404 || status == 0);    /* the answer, or the end if no memory was left for it */
    while (status && recv(c.fd, bytes, sizeof bytes, 0) > 0)
        continue;
    client_drop(&c);
}

static void answer_more_than_there_is(void)
{
    host *h;

    allocate_big('x');
    h = host_start_with(NULL, ON_ALL, FDX_ROUTE_HTTP, answer_with_more_than_there_is, NULL);
    leave_little_memory(64 << 20);
    be_answered(h->port, 0);
    be_answered(h->port, 1);
    be_answered(h->port, 0);
    CHECK(counter_get(&answers_refused) == 3);
    host_end(h);
}

static void an_answer_that_memory_does_not_suffice_for_is_refused(void)
{
    if (!runs_slowly())
        in_a_child(answer_more_than_there_is);
}

static void configure_more_than_there_is(void)
{
    fdx_config *config = new_config(NULL);
    fdx_handlers handlers;
    fdx_error error = new_error();
    host *h;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    allocate_big('x');
    h = host_start(NULL, ON_USUAL, echo, NULL);
    leave_little_memory(64 << 20);
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, big, "1", &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "max.message", big, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "protocols", big, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "origins", big, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "listen", big, &error));
    CHECK(error.message[0] != '\0');
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_get(config, big, NULL, 0, NULL));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_load(config, big, BIG, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_load(config, big, FDX_NTS, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_set(h->server, big, "1", &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_set(h->server, "protocols", big, &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_listen(h->server, big, NULL, NULL, &error));
    CHECK(fdx_has(big) == 0);
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_server_stop(h->server, 1001, big, FDX_NTS, 0, 0));
    big[0] = '/';
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_route(config, big, 0, &handlers, &error));
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/", 0, &handlers, &error));
    fdx_config_free(config);
    check_it_serves(h->port);
    host_end(h);
}

static void a_text_that_memory_does_not_suffice_for_is_refused(void)
{
    if (!runs_slowly())
        in_a_child(configure_more_than_there_is);
}

static void receive_more_than_there_is(void)
{
    host *h;
    client c, bystander;
    unsigned way;

    allocate_big('x');
    h = host_start("send.limit = 1g\nsend.high_water = 1g\nmax.message = 1g\ntimeout.close = 1s\n", ON_USUAL, echo, NULL);
    bystander = client_open(h->port);
    leave_little_memory(64 << 20);
    for (way = 0; way < 2; way++) {
        unsigned char head[14] = { 0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
        unsigned i;

        c = client_open(h->port);
        for (i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)((uint64_t)BIG >> (56 - 8 * i));
        if (way == 0) {                     /* one frame */
            CHECK(client_try_write(&c, head, sizeof head));
            CHECK(!client_try_write(&c, big, BIG));
        } else {                            /* many fragments; the mask is four zeros */
            for (i = 0; i < BIG >> 20; i++) {
                head[0] = i ? 0x00 : 0x02;
                memset(head + 2, 0, 8);
                head[7] = 0x10;
                if (!client_try_write(&c, head, sizeof head) || !client_try_write(&c, big, 1u << 20))
                    break;
            }
            CHECK(i < BIG >> 20);
        }
        CHECK(host_await(h, FDX_EV_CLOSE, way + 1).conn != 0);
        client_drop(&c);
    }
    client_say(&bystander, "still here");
    CLIENT_EXPECT_TEXT(&bystander, "still here");
    client_leave(&bystander);
    host_end(h);
}

static void a_peer_whose_message_memory_does_not_suffice_for_is_closed(void)
{
    if (!runs_slowly())
        in_a_child(receive_more_than_there_is);
}

static void queue_until_there_is_no_more(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE && event->data[0] == 'q') {
        fdx_status status;

        do
            status = CALL(fdx_send(h->server, event->conn, FDX_BINARY, big, 10000, 0));
        while (status == FDX_OK);
        CHECK(status == FDX_E_NOMEM);
        fdx_abort(h->server, event->conn);
    } else {
        echo(h, event);
    }
}

static void queue_more_than_there_is(void)
{
    host *h;
    client c, bystander;

    allocate_big('x');
    h = host_start("send.limit = 1g\nsend.high_water = 1g\n", ON_USUAL, queue_until_there_is_no_more, NULL);
    bystander = client_open(h->port);
    c = client_open(h->port);
    leave_little_memory(64 << 20);
    client_say(&c, "q");                    /* and does not read */
    CHECK(host_await(h, FDX_EV_CLOSE, 1).code == 1006);
    client_say(&bystander, "still here");
    CLIENT_EXPECT_TEXT(&bystander, "still here");
    client_leave(&bystander);
    client_drop(&c);
    host_end(h);
}

static void a_queue_that_memory_does_not_suffice_for_refuses_the_next_message(void)
{
    if (!runs_slowly())
        in_a_child(queue_more_than_there_is);
}

int main(void)
{
    PROVE(after_a_fork_each_call_on_the_parents_server_fails_and_a_new_server_works);
    PROVE(a_batch_freed_in_a_forked_child_is_the_parents_all_the_same);
    PROVE(a_child_may_end_by_exit_and_the_parent_goes_on_serving);
    PROVE(a_callback_may_fork);
    PROVE(a_fork_in_the_middle_of_logging_leaves_a_child_that_can_log);
    PROVE(a_storm_of_signals_reaches_no_thread_of_the_library);
    PROVE(a_fault_in_a_callback_reaches_the_hosts_own_handler);
    PROVE(a_server_without_descriptors_says_so_and_goes_on_when_there_are_some);
    PROVE(a_start_without_enough_descriptors_is_an_error_and_leaves_nothing);
    PROVE(a_descriptor_that_is_no_listening_socket_is_refused_and_left_as_it_was);
    PROVE(a_start_without_enough_threads_is_an_error_and_ends_those_that_had_begun);
    PROVE(a_message_that_memory_does_not_suffice_for_is_refused);
    PROVE(an_answer_that_memory_does_not_suffice_for_is_refused);
    PROVE(a_text_that_memory_does_not_suffice_for_is_refused);
    PROVE(a_peer_whose_message_memory_does_not_suffice_for_is_closed);
    PROVE(a_queue_that_memory_does_not_suffice_for_refuses_the_next_message);
    PROVE(the_library_can_be_loaded_and_unloaded_a_hundred_times);
    PROVE(a_server_of_a_library_that_is_unloaded_goes_on_serving);
    return 0;
}
