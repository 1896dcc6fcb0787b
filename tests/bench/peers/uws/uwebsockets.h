/* What uws.c uses of uWebSockets' C interface, as it is in the library of PyPI's socketify 0.0.31, which brings no header of it:
 * these are the declarations of its native.py. `ssl` is 0 throughout. */
#ifndef FULLDUPLEX_BENCH_UWEBSOCKETS_H
#define FULLDUPLEX_BENCH_UWEBSOCKETS_H

#include <stdbool.h>
#include <stddef.h>

struct us_listen_socket_t;
typedef struct uws_app_s uws_app_t;
typedef struct uws_res_s uws_res_t;
typedef struct uws_req_s uws_req_t;
typedef struct uws_websocket_s uws_websocket_t;
typedef struct uws_socket_context_s uws_socket_context_t;

struct us_socket_context_options_t {
    const char *key_file_name;
    const char *cert_file_name;
    const char *passphrase;
    const char *dh_params_file_name;
    const char *ca_file_name;
    const char *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};

typedef enum { DISABLED = 0 } uws_compress_options_t;
typedef enum { TEXT = 1, BINARY = 2 } uws_opcode_t;
typedef enum { BACKPRESSURE, SUCCESS, DROPPED } uws_sendstatus_t;

typedef struct {
    uws_compress_options_t compression;
    unsigned int maxPayloadLength;
    unsigned short idleTimeout;
    unsigned int maxBackpressure;
    bool closeOnBackpressureLimit;
    bool resetIdleTimeoutOnSend;
    bool sendPingsAutomatically;
    unsigned short maxLifetime;
    void (*upgrade)(uws_res_t *response, uws_req_t *request, uws_socket_context_t *context, void *user_data);
    void (*open)(uws_websocket_t *ws, void *user_data);
    void (*message)(uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode, void *user_data);
    void (*drain)(uws_websocket_t *ws, void *user_data);
    void (*ping)(uws_websocket_t *ws, const char *message, size_t length, void *user_data);
    void (*pong)(uws_websocket_t *ws, const char *message, size_t length, void *user_data);
    void (*close)(uws_websocket_t *ws, int code, const char *message, size_t length, void *user_data);
    void (*subscription)(uws_websocket_t *ws, const char *topic, size_t topic_length, int subscribers, int subscribers_before,
                         void *user_data);
} uws_socket_behavior_t;

typedef struct {
    int port;
    const char *host;
    int options;
} uws_app_listen_config_t;

typedef void (*uws_listen_handler)(struct us_listen_socket_t *listener, uws_app_listen_config_t config, void *user_data);

uws_app_t *uws_create_app(int ssl, struct us_socket_context_options_t options);
void uws_ws(int ssl, uws_app_t *app, const char *pattern, uws_socket_behavior_t behavior, void *user_data);
void uws_app_listen_with_config(int ssl, uws_app_t *app, uws_app_listen_config_t config, uws_listen_handler handler,
                                void *user_data);
int us_socket_local_port(int ssl, struct us_listen_socket_t *listener);
void uws_app_run(int ssl, uws_app_t *app);
uws_sendstatus_t uws_ws_send(int ssl, uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode);
bool uws_ws_subscribe(int ssl, uws_websocket_t *ws, const char *topic, size_t length);
bool uws_publish(int ssl, uws_app_t *app, const char *topic, size_t topic_length, const char *message, size_t message_length,
                 uws_opcode_t opcode, bool compress);

#endif
