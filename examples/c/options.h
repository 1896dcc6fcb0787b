/* What the example programs share: the command line, the lines that say where a
 * server listens, and the wait for Ctrl-C. Nothing here is needed to use the library. */
#ifndef EXAMPLE_OPTIONS_H
#define EXAMPLE_OPTIONS_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L   /* sigwait */
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fullduplex.h>

#define LISTENERS_MAX 32

struct options {
    const char *about;             /* the program in one line, for --help */
    const char *page;              /* --page FILE; NULL: this program has no page */
    const char *listen[LISTENERS_MAX + 1];  /* set the first to the default address */
    size_t listen_count;           /* how many the command line gave */
};

/* Says what is wrong and ends the program. */
static inline void give_up(const char *message)
{
    fprintf(stderr, "error: %s\n", message);
    exit(1);
}

static inline void print_help(const struct options *options, const char *program)
{
    printf("%s: %s\n\nusage: %s [--listen ADDR]... [--set KEY=VALUE]...%s\n\n"
           "  --listen ADDR     127.0.0.1:8080, :8080, [::1]:8080; port 0 picks a free one (default %s)\n"
           "  --set KEY=VALUE   any option of the library, such as max.message=1m or threads=2\n%s"
           "  --help            this text\n",
           program, options->about, program, options->page ? " [--page FILE]" : "", options->listen[0],
           options->page ? "  --page FILE       the page to serve\n" : "");
}

static inline void set_option(struct options *options, fdx_config *config, const char *key, const char *value)
{
    fdx_error error = { .struct_size = sizeof error };

    if (fdx_config_set(config, key, value, &error) < 0)
        give_up(error.message);
    if (strcmp(key, "listen") == 0) {
        if (options->listen_count == LISTENERS_MAX)
            give_up("too many addresses to listen on");
        options->listen[options->listen_count++] = value;
    }
}

/* Puts the command line into `config`, and the default address if it gave none. */
static inline void read_options(struct options *options, fdx_config *config, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = argv[i + 1];   /* argv ends with a NULL */
        char *equals;

        if (strcmp(name, "--help") == 0) {
            print_help(options, argv[0]);
            exit(0);
        }
        if (strcmp(name, "--listen") != 0 && strcmp(name, "--set") != 0 &&
            !(options->page && strcmp(name, "--page") == 0)) {
            fprintf(stderr, "error: unknown option %s, see %s --help\n", name, argv[0]);
            exit(1);
        }
        if (!value) {
            fprintf(stderr, "error: %s needs a value, see %s --help\n", name, argv[0]);
            exit(1);
        }
        i++;
        if (strcmp(name, "--listen") == 0) {
            set_option(options, config, "listen", value);
        } else if (strcmp(name, "--page") == 0) {
            options->page = value;
        } else if ((equals = strchr(argv[i], '=')) != NULL) {
            *equals = '\0';
            set_option(options, config, value, equals + 1);
        } else {
            give_up("--set needs KEY=VALUE, such as --set max.message=1m");
        }
    }
    if (options->listen_count == 0)
        set_option(options, config, "listen", options->listen[0]);
}

/* Prints "listening on ADDRESS" for each listener, with the port that `:0` became. */
static inline void announce(const struct options *options, fdx_server *server)
{
    for (size_t i = 0; i < options->listen_count; i++) {
        const char *address = options->listen[i];
        size_t length = strcspn(address, "?");
        uint16_t port = 0;

        if (strncmp(address, "fd:", 3) != 0 && length >= 2 && strncmp(address + length - 2, ":0", 2) == 0 &&
            fdx_listener_port(server, (uint32_t)i, &port) == FDX_OK && port != 0)
            printf("listening on %.*s%u\n", (int)length - 1, address, port);
        else
            printf("listening on %.*s\n", (int)length, address);
    }
    fflush(stdout);
}

/* SIGINT and SIGTERM must be blocked before they can arrive; the library's threads block all signals. */
static inline void block_stop_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
    sigprocmask(SIG_BLOCK, signals, NULL);
}

static inline void wait_for_stop_signal(const sigset_t *signals)
{
    int signal_number;

    while (sigwait(signals, &signal_number) != 0)
        continue;
}

#endif
